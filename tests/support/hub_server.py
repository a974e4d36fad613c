"""
A small Hugging Face Hub on loopback, so that tests speak with the unmodified `huggingface_hub` over a real connection.

It answers what that client asks about model repositories: reading (repository, HEAD and GET of files), creating,
branches, commits and pull requests. Files are bytes in commits; nothing is written to disk. All files are small ones:
large files, ranges and broken connections are the client's own business.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@dataclass(frozen=True)
class Commit:
    """A commit: its 40-hex `sha`, the `files` it holds and its `title`."""

    sha: str
    files: dict[str, bytes]
    title: str


class HubServer:
    """
    A hub that runs from its making until `close()`.

    `url` is what HF_ENDPOINT must be; `token` belongs to a user who may do everything, `reader_token` to one who may
    read. `commits` holds a list by repository and ref (`main`, another branch, `refs/pr/1`), `private` names of
    repositories, `sent` the repository and name of every file that went out, and `failures` tracebacks of the
    server's own faults.
    """

    token, reader_token = "hf_the-owners-token", "hf_a-readers-token"

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], list[Commit]] = {}
        self.private: set[str] = set()
        self.sent: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.lock = threading.Lock()
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._listener.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown()
        self._listener.server_close()

    def add_commit(
        self, repo_id: str, files: Mapping[str, bytes], ref: str = "main", title: str = "Add files"
    ) -> Commit:
        """Add files to those of a ref, which starts from the main branch, and is made with its repository."""
        before = self.commits.get((repo_id, ref)) or self.commits.get((repo_id, "main"))
        merged = {**(before[-1].files if before else {}), **files}
        sha = _sha1(f"{repo_id} {ref} {title} {len(before or [])}".encode())
        self.commits.setdefault((repo_id, ref), []).append(Commit(sha, merged, title))
        return self.commits[repo_id, ref][-1]

    def files(self, repo_id: str, ref: str = "main") -> dict[str, bytes]:
        """Files of a ref by path; KeyError where it is not there."""
        return self.commits[repo_id, ref][-1].files


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A server that is closed afterwards, and must not have failed."""
    hub = HubServer()
    try:
        yield hub
    finally:
        hub.close()
    assert not hub.failures, "\n".join(hub.failures)


class _RefusalError(Exception):
    """An answer that is an error: HTTP status, message, and the X-Error-Code that makes the client's exception."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


_API = r"/api/models/(?P<repo_id>[^/]+/[^/]+)"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes; without this the second would wait for the client's acknowledgment.
    disable_nagle_algorithm = True
    hub: HubServer
    query: dict[str, list[str]]
    body: bytes

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        # Read in any case, or the rest of a refused upload would be taken for the next request.
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            for pattern, function in _ROUTES.items():
                if found := re.fullmatch(pattern, address.path):
                    with self.hub.lock:
                        function(self, **{name: unquote(part) for name, part in found.groupdict().items()})
                    return
            raise _RefusalError(404, f"no such address: {self.command} {address.path}")
        except _RefusalError as refusal:
            headers = {"X-Error-Message": refusal.message, "X-Error-Code": refusal.code}
            self.answer({"error": refusal.message}, refusal.status, headers)
        except ConnectionError:
            self.close_connection = True  # the client went away
        except Exception:
            self.hub.failures.append(traceback.format_exc())
            self.answer({"error": "the test's hub failed"}, 500)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def answer(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def check_owner(self) -> None:
        if not self.is_owner():
            raise _RefusalError(403, "you have no rights to write here")

    def find(self, repo_id: str, revision: str = "main") -> Commit:
        """The newest commit of a ref, or one by its sha, that the user may know of."""
        refs = {ref: commits for (repository, ref), commits in self.hub.commits.items() if repository == repo_id}
        if not refs or (repo_id in self.hub.private and not self.is_owner()):
            raise _RefusalError(404, "Repository not found", "RepoNotFound")
        if revision in refs:
            return refs[revision][-1]
        for commit in (one for commits in refs.values() for one in commits):
            if commit.sha == revision:
                return commit
        raise _RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    # Reading

    def info(self, repo_id: str, revision: str = "main") -> None:
        commit = self.find(repo_id, revision)
        siblings = [{"rfilename": path, "size": len(content)} for path, content in commit.files.items()]
        self.answer({"id": repo_id, "sha": commit.sha, "tags": [], "siblings": siblings})

    def tree(self, repo_id: str, revision: str) -> None:
        self.answer(
            [
                {"type": "file", "path": path, "size": len(content), "oid": _sha1(content)}
                for path, content in self.find(repo_id, revision).files.items()
            ]
        )

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        commit = self.find(repo_id, revision)
        if path not in commit.files:
            # With the commit's name the client may remember that the file is not there.
            headers = {"X-Repo-Commit": commit.sha, "X-Error-Code": "EntryNotFound"}
            return self.answer({"error": "Entry not found"}, 404, headers)
        if self.command == "GET":
            self.hub.sent.append((repo_id, path))
        content = commit.files[path]
        return self.answer(content, headers={"X-Repo-Commit": commit.sha, "ETag": f'"{_sha1(content)}"'})

    # Uploading

    def whoami(self) -> None:
        self.answer({"type": "user", "name": "owner", "orgs": []})

    def create(self) -> None:
        self.check_owner()
        asked = json.loads(self.body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        about = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if (repo_id, "main") in self.hub.commits:
            return self.answer({"error": "You already created this model repo", **about}, 409)
        if asked.get("visibility") == "private" or asked.get("private"):
            self.hub.private.add(repo_id)
        self.hub.add_commit(repo_id, {".gitattributes": b""}, title="initial commit")
        return self.answer(about)

    def validate(self) -> None:
        self.answer({"errors": [], "warnings": []})

    def branch(self, repo_id: str, branch: str) -> None:
        self.check_owner()
        self.hub.commits[repo_id, branch] = [self.find(repo_id)]
        self.answer({})

    def preupload(self, repo_id: str, revision: str) -> None:
        self.check_owner()
        commit = self.find(repo_id, revision)
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            for file in json.loads(self.body)["files"]
        ]
        self.answer({"files": files, "commitOid": commit.sha})

    def commit(self, repo_id: str, revision: str) -> None:
        self.check_owner()
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        (title,) = (line["value"]["summary"] for line in lines if line["key"] == "header")
        assert len(lines) == 1 + len(files)
        ref = "refs/pr/1" if "create_pr" in self.query else revision
        commit = self.hub.add_commit(repo_id, files, ref, title)
        answer = {"commitOid": commit.sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{commit.sha}"}
        if ref.startswith("refs/pr/"):
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo_id}/discussions/1"
        self.answer(answer)


_ROUTES: dict[str, Any] = {
    _API: _Handler.info,
    rf"{_API}/revision/(?P<revision>[^/]+)": _Handler.info,
    rf"{_API}/tree/(?P<revision>[^/]+)": _Handler.tree,
    r"/(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": _Handler.resolve,
    "/api/whoami-v2": _Handler.whoami,
    "/api/repos/create": _Handler.create,
    "/api/validate-yaml": _Handler.validate,
    rf"{_API}/branch/(?P<branch>[^/]+)": _Handler.branch,
    rf"{_API}/preupload/(?P<revision>[^/]+)": _Handler.preupload,
    rf"{_API}/commit/(?P<revision>[^/]+)": _Handler.commit,
}
