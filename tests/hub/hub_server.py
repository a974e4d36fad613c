"""
A small Hugging Face Hub on loopback, so that tests speak with the unmodified `huggingface_hub` over a real connection.

It answers what that client asks about model repositories: reading (repository, tree, refs, HEAD and GET of files) and
uploading (create, branch, preupload, Git LFS, commit, pull request). Files are bytes in commits; nothing is
written to disk. As at the real Hub, weights (`*.safetensors` and the like) are large files: `resolve` answers 302 to
an address on another port, the CDN, which knows no tokens and honours `Range`. It never offers Xet storage.

In a test, with the fixtures of `conftest.py` (`hub_server` is a started server that is closed afterwards, `run_client`
runs a script in a process of its own, because `huggingface_hub` reads its environment when it is imported):

    def test_when_...(hub_server, run_client, tmp_path):
        sha = hub_server.add_commit("org/name", {"config.json": b"{}"})        # makes the repository, too
        hub_server.add_commit("org/name", {"README.md": b"# Hi"}, "draft")     # a branch from main
        hub_server.add_tag("org/name", "v1", sha)
        hub_server.gated.add("org/name")                                       # or .private
        results = run_client(hub_server, tmp_path / "home", SCRIPT, "argument", HF_HUB_DISABLE_XET="1")
        assert hub_server.files("org/name", "refs/pr/1")["config.json"] == b"{}"

- `url` is what HF_ENDPOINT must be, `token` belongs to a user who may do everything, `reader_token` to one who may
  read public repositories and open pull requests, but is not on the list of gated ones and has no rights to write.
  `environment(home)` is the environment of a client process.
- `add_commit(repo_id, files, revision="main")` adds to the files of the revision and returns the new sha; a value of
  None deletes. A repository that a client creates has `.gitattributes` in a first commit, as at the real Hub.
- `files(repo_id, revision="main")` is what a revision holds, `commit(repo_id, revision)` its sha, title and parent,
  `repositories` what is there, each with its `refs`: shas by full name (`refs/heads/main`, `refs/tags/v1`).
- `requests` holds every request in order, those that sent bytes of a file with their number in `sent`.
- `cut_after(n)` ends the next transfer from the CDN after n bytes, with the socket closed in the middle of the body,
  or with `reset=True` torn down (RST). Each call cuts one transfer.
- `failures` holds tracebacks of the server's own faults; the fixture fails the test that left one.

Uploads of large files need HF_HUB_DISABLE_XET=1 in the client's environment: huggingface_hub 2 takes Xet for them
whenever hf_xet is installed and asks no server first (1.x lets the LFS answer decide, which here says "basic").
Downloads take Xet only where a header offers it, so they need nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import re
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit


LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt", ".npz")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()


@dataclasses.dataclass
class Request:
    """
    One request as the server saw it: `path` is unquoted and without the query, `range` the header or None,
    `token_sent` whether an Authorization header came, `cdn` whether it reached the CDN's port, `repo_id` the
    repository it is about (None where there is none), `status` the answer's, `sent` the bytes of a file's body that
    went out.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    range: str | None
    token_sent: bool
    cdn: bool
    repo_id: str | None = None
    status: int = 0
    sent: int = 0


@dataclasses.dataclass(frozen=True)
class Commit:
    """A commit: its 40-hex `sha`, the `files` it holds, `title`, `description` and `parent` (None for the first)."""

    sha: str
    files: Mapping[str, bytes]
    title: str
    description: str
    parent: str | None


class RefusalError(Exception):
    """An answer that is an error: HTTP status, message, and the X-Error-Code that makes the client's exception."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def sha256(content: bytes) -> str:
    """SHA-256 as hex: the name of a large file's content."""
    return hashlib.sha256(content).hexdigest()


def is_large(path: str) -> bool:
    """Whether a file goes through Git LFS and the CDN."""
    return path.endswith(LARGE_SUFFIXES)


def blob_id(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer_blob_id(content: bytes) -> str:
    """Git's name of the pointer that stands for a large file."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(content)}\nsize {len(content)}\n"
    return blob_id(pointer.encode())


class Repository:
    """Commits, the refs that point at them, and large files by SHA-256: those uploaded, and those asked to come."""

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.objects: dict[str, bytes] = {}
        self.awaited: set[str] = set()

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a full name of a ref, or a sha of at least seven digits."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        found = [sha for sha in self.commits if sha.startswith(revision)] if len(revision) >= 7 else []
        if len(found) != 1:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found[0]]

    def commit(
        self, ref: str, parent: Commit | None, changes: Mapping[str, bytes | None], title: str, description: str = ""
    ) -> Commit:
        """Put a commit with the parent's files and the changes (None deletes) on a ref."""
        merged = {**(parent.files if parent else {}), **changes}
        files = {path: content for path, content in sorted(merged.items()) if content is not None}
        names = [(path, blob_id(content)) for path, content in files.items()]
        sha = hashlib.sha1(json.dumps([self.repo_id, len(self.commits), ref, title, names]).encode()).hexdigest()
        self.commits[sha] = Commit(sha, files, title, description, parent.sha if parent else None)
        self.refs[ref] = sha
        self.objects |= {sha256(content): content for path, content in files.items() if is_large(path)}
        return self.commits[sha]


class _Listener(ThreadingHTTPServer):
    """One port of the hub; closing it also ends the connections that clients hold open."""

    daemon_threads = True

    def __init__(self, hub: HubServer, cdn: bool) -> None:
        self.hub, self.cdn = hub, cdn
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away in the middle is no fault of the server's.
        if not isinstance(sys.exception(), ConnectionError):
            self.hub.failures.append(traceback.format_exc())

    def close(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster


class HubServer:
    """A hub that runs from its making until `close()`; the module's docstring tells how tests use it."""

    token = "hf_the-owners-token"
    reader_token = "hf_a-readers-token"
    owner, reader = "owner", "reader"

    def __init__(self) -> None:
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.requests: list[Request] = []
        self.failures: list[str] = []
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.cuts: list[tuple[int, bool]] = []
        self.listeners = [_Listener(self, cdn=False), _Listener(self, cdn=True)]
        self.url, self.cdn_url = (listener.url for listener in self.listeners)

    def close(self) -> None:
        """Stop listening and end every connection; a second call does nothing."""
        while self.listeners:
            self.listeners.pop().close()

    def environment(self, home: Path | str, **more: str) -> dict[str, str]:
        """
        Environment of a client process with `home` as its HF_HOME and `more` on top. Of this process's own, nothing
        comes along that would lead to another hub, user, cache or proxy, and no PYTHONPATH.
        """
        ours = ("HF_", "HUGGING", "HUB_", "TRANSFORMERS_", "PYTORCH_TRANSFORMERS_", "PYTHONPATH")
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.upper().startswith(ours) and not key.upper().endswith("_PROXY")
        }
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            **more,
        }

    def add_commit(
        self, repo_id: str, files: Mapping[str, bytes | None], revision: str = "main", title: str = "Add files"
    ) -> str:
        """Commit files to a branch or a `refs/pr/N`, made with its repository where there is none. Gives the sha."""
        with self.lock:
            repository = self.repositories.setdefault(repo_id, Repository(repo_id))
            ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
            start = repository.refs.get(ref) or repository.refs.get("refs/heads/main")
            return repository.commit(ref, repository.commits[start] if start else None, files, title).sha

    def add_tag(self, repo_id: str, tag: str, revision: str = "main") -> None:
        """Tag a revision."""
        with self.lock:
            repository = self.repositories[repo_id]
            repository.refs[f"refs/tags/{tag}"] = repository.find(revision).sha

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Files of a revision by path; KeyError where the repository is not there."""
        return dict(self.commit(repo_id, revision).files)

    def commit(self, repo_id: str, revision: str = "main") -> Commit:
        """Commit of a revision; KeyError where the repository is not there."""
        with self.lock:
            return self.repositories[repo_id].find(revision)

    def cut_after(self, num_bytes: int, reset: bool = False) -> None:
        """Close (or tear) the connection of the next transfer from the CDN that is longer than `num_bytes` there."""
        with self.lock:
            self.cuts.append((num_bytes, reset))

    def _next_cut(self, length: int) -> tuple[int, bool] | None:
        with self.lock:
            for index, (num_bytes, _) in enumerate(self.cuts):
                if num_bytes < length:
                    return self.cuts.pop(index)
        return None


# What a handler of a route gets: the handler itself and the parts of the path that its pattern names.
_Route = Callable[..., None]
_ROUTES: list[tuple[str, re.Pattern[str], _Route]] = []
_REPO = r"(?P<repo_id>[^/]+/[^/]+)"
_API = rf"/api/models/{_REPO}"


def _route(methods: str, pattern: str) -> Callable[[_Route], _Route]:
    """Let a function answer requests whose quoted path matches; the named parts come unquoted."""

    def register(function: _Route) -> _Route:
        _ROUTES.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return register


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes; without this the second would wait for the client's acknowledgement.
    disable_nagle_algorithm = True
    server: _Listener
    entry: Request
    body: bytes

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: `HubServer.requests` is the log."""

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.entry = Request(
            method=self.command,
            path=unquote(address.path),
            query=parse_qs(address.query),
            range=self.headers.get("Range"),
            token_sent="Authorization" in self.headers,
            cdn=self.server.cdn,
        )
        with self.hub.lock:
            self.hub.requests.append(self.entry)
        # Read in any case, or the rest of a refused upload would be taken for the next request.
        self.body = self._read_body()
        try:
            function, parts = self._find_route(address.path)
            self.entry.repo_id = parts.get("repo_id")
            function(self, **parts)
        except RefusalError as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send_json({"error": refusal.message}, refusal.status, headers)
        except ConnectionError:
            raise
        except Exception:
            self.hub.failures.append(traceback.format_exc())
            self.send_json({"error": "the test's hub failed"}, 500)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return body

    def _find_route(self, path: str) -> tuple[_Route, dict[str, str]]:
        for method, pattern, function in _ROUTES:
            if method == self.command and (found := pattern.fullmatch(path)):
                return function, {name: unquote(part) for name, part in found.groupdict().items()}
        raise RefusalError(404, f"no such address: {self.command} {path}")

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def send_json(self, answer: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(answer).encode()
        self.send_head(status, {"Content-Type": "application/json", "Content-Length": len(content), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_head(self, status: int, headers: Mapping[str, object]) -> None:
        self.entry.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value).encode("ascii", "replace").decode().replace("\n", " "))
        self.end_headers()

    def send_file(self, content: bytes, headers: Mapping[str, object]) -> None:
        """A file's body, or the part of it that a Range header asks for; cut where the test wants it."""
        start, stop, status = 0, len(content), 200
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        if self.entry.range is not None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.entry.range)
            if asked is None or int(asked[1]) >= len(content):
                raise RefusalError(416, f"the range {self.entry.range} is not in a file of {len(content)} bytes")
            start, stop, status = int(asked[1]), min(int(asked[2] or stop - 1) + 1, stop), 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        part = memoryview(content)[start:stop]
        cut = self.hub._next_cut(len(part)) if self.server.cdn and self.command == "GET" else None
        if self.command == "GET":
            self.entry.sent = len(part) if cut is None else cut[0]
        self.send_head(status, {"Content-Length": len(part), **headers})
        if self.command == "GET":
            self.wfile.write(part[: self.entry.sent])
        if cut is not None:
            self._cut_connection(reset=cut[1])

    def _cut_connection(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # With no time to linger, closing throws away what is not sent yet and sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
            raise ConnectionAbortedError("torn, as the test asked")

    def user(self) -> str | None:
        """Name of the user whose token came, None without one."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        users = {f"Bearer {self.hub.token}": self.hub.owner, f"Bearer {self.hub.reader_token}": self.hub.reader}
        if header not in users:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return users[header]

    def writer(self) -> None:
        """Let only the owner pass."""
        if (user := self.user()) is None:
            raise RefusalError(401, "Invalid username or password.")
        if user != self.hub.owner:
            raise RefusalError(403, f"{user} has no rights to write here")

    def contributor(self) -> None:
        """Let everyone with a token pass where a pull request is asked for, else only the owner."""
        if "create_pr" not in self.entry.query or self.user() is None:
            self.writer()

    def repository(self, repo_id: str) -> Repository:
        """A repository that the user may know of: to strangers a private one is as missing as none."""
        user = self.user()
        found = self.hub.repositories.get(repo_id)
        if found is None or (repo_id in self.hub.private and user != self.hub.owner):
            raise RefusalError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return found

    def readable(self, repo_id: str) -> Repository:
        """A repository whose files the user may have."""
        repository = self.repository(repo_id)
        if repo_id in self.hub.gated and (user := self.user()) != self.hub.owner:
            if user is None:
                why = "You must have access to it and be authenticated to access it. Please log in."
                raise RefusalError(401, f"Access to model {repo_id} is restricted. {why}", "GatedRepo")
            why = "you are not in the authorized list"
            raise RefusalError(403, f"Access to model {repo_id} is restricted and {why}.", "GatedRepo")
        return repository


# Reading


@_route("GET", _API)
def _info(handler: _Handler, repo_id: str) -> None:
    _revision_info(handler, repo_id, "main")


@_route("GET", rf"{_API}/revision/(?P<revision>[^/]+)")
def _revision_info(handler: _Handler, repo_id: str, revision: str) -> None:
    # The description of a gated repository is open to all, as at the real Hub.
    commit = handler.repository(repo_id).find(revision)
    siblings: list[dict[str, Any]] = []
    for path, content in commit.files.items():
        siblings.append({"rfilename": path})
        if "blobs" in handler.entry.query:
            entry = _tree_file(path, content)
            siblings[-1] |= {"size": entry["size"], "blobId": entry["oid"]}
            if is_large(path):
                lfs = {"sha256": sha256(content), "size": len(content), "pointerSize": entry["lfs"]["pointerSize"]}
                siblings[-1]["lfs"] = lfs
    handler.send_json(
        {
            "_id": blob_id(repo_id.encode())[:24],
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.split("/")[0],
            "sha": commit.sha,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": repo_id in handler.hub.private,
            "gated": "manual" if repo_id in handler.hub.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": ["transformers"],
            "siblings": siblings,
        }
    )


def _tree_file(path: str, content: bytes) -> dict[str, Any]:
    if not is_large(path):
        return {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
    lfs = {"oid": sha256(content), "size": len(content), "pointerSize": 120 + len(str(len(content)))}
    return {"type": "file", "path": path, "size": len(content), "oid": pointer_blob_id(content), "lfs": lfs}


@_route("GET", rf"{_API}/tree/(?P<revision>[^/]+)")
def _tree(handler: _Handler, repo_id: str, revision: str) -> None:
    _subtree(handler, repo_id, revision, "")


@_route("GET", rf"{_API}/tree/(?P<revision>[^/]+)/(?P<path>.+)")
def _subtree(handler: _Handler, repo_id: str, revision: str, path: str) -> None:
    recursive = handler.entry.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    commit = handler.readable(repo_id).find(revision)
    prefix = f"{path.strip('/')}/" if path else ""
    entries, folders = [], set()
    for name, content in commit.files.items():
        if not name.startswith(prefix):
            continue
        below = name[len(prefix) :].split("/")
        folders |= {prefix + "/".join(below[: depth + 1]) for depth in range(len(below) - 1 if recursive else 1)}
        if recursive or len(below) == 1:
            entries.append(_tree_file(name, content))
    folders -= set(commit.files)
    if prefix and not entries and not folders:
        raise RefusalError(404, f"{path} does not exist on {revision}", "EntryNotFound")
    entries += [{"type": "directory", "path": name, "size": 0, "oid": blob_id(name.encode())} for name in folders]
    handler.send_json(sorted(entries, key=lambda entry: entry["path"]))


@_route("GET", rf"{_API}/refs")
def _refs(handler: _Handler, repo_id: str) -> None:
    answer: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "pullRequests": [], "converts": []}
    kinds = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
    for ref, sha in handler.readable(repo_id).refs.items():
        for prefix, kind in kinds.items():
            if ref.startswith(prefix):
                answer[kind].append({"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha})
    handler.send_json(answer)


@_route("GET HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def _resolve(handler: _Handler, repo_id: str, revision: str, path: str) -> None:
    commit = handler.readable(repo_id).find(revision)
    content = commit.files.get(path)
    if content is None:
        # With the commit's name the client may remember that the file is not there.
        headers = {"X-Repo-Commit": commit.sha, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        handler.send_json({"error": "Entry not found"}, 404, headers)
    elif is_large(path):
        # Another port is another origin: at the same one, huggingface_hub 2 would follow and read the CDN's headers.
        location = f"{handler.hub.cdn_url}/cdn/{quote(repo_id)}/{sha256(content)}/{quote(path)}"
        headers = {
            "X-Repo-Commit": commit.sha,
            "X-Linked-Etag": f'"{sha256(content)}"',
            "X-Linked-Size": str(len(content)),
            "ETag": f'"{pointer_blob_id(content)}"',
            "Location": location,
        }
        handler.send_json({"location": location}, 302, headers)
    else:
        handler.send_file(content, {"X-Repo-Commit": commit.sha, "ETag": f'"{blob_id(content)}"'})


@_route("GET HEAD", rf"/cdn/{_REPO}/(?P<oid>[0-9a-f]{{64}})/(?P<path>.+)")
def _cdn(handler: _Handler, repo_id: str, oid: str, path: str) -> None:
    found = handler.hub.repositories.get(repo_id)
    if not handler.server.cdn or found is None or oid not in found.objects:
        raise RefusalError(404, "no such object")
    handler.send_file(found.objects[oid], {"ETag": f'"{oid}"'})


# Uploading


@_route("GET", "/api/whoami-v2")
def _whoami(handler: _Handler) -> None:
    if (user := handler.user()) is None:
        raise RefusalError(401, "Invalid username or password.")
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    handler.send_json({"type": "user", "id": "1", "name": user, "fullname": user, "orgs": [], "auth": auth})


@_route("POST", "/api/repos/create")
def _create(handler: _Handler) -> None:
    handler.writer()
    asked = handler.json()
    if asked.get("type", "model") != "model":
        raise RefusalError(400, "this hub has models only")
    repo_id = f"{asked.get('organization') or handler.user()}/{asked['name']}"
    handler.entry.repo_id = repo_id
    url = f"{handler.hub.url}/{repo_id}"
    with handler.hub.lock:
        if repo_id in handler.hub.repositories:
            # The client reads the address from this answer, too, where the caller said exist_ok.
            message = "You already created this model repo"
            handler.send_json({"error": message, "url": url, "name": repo_id}, 409, {"X-Error-Message": message})
            return
        if asked.get("visibility") == "private" or asked.get("private"):
            handler.hub.private.add(repo_id)
        handler.hub.add_commit(repo_id, {".gitattributes": GIT_ATTRIBUTES}, title="initial commit")
    handler.send_json({"url": url, "name": repo_id})


@_route("POST", "/api/validate-yaml")
def _validate_yaml(handler: _Handler) -> None:
    """Only the fences are looked at: what stands between them is the test's business."""
    content = handler.json()["content"]
    fenced = re.match(r"---\r?\n", content)
    if fenced and not re.match(r"---\r?\n.*?^---\s*$", content, re.DOTALL | re.MULTILINE):
        errors = [{"message": "the metadata has no end"}]
        handler.send_json({"errors": errors, "warnings": []}, 400)
        return
    warnings = [] if fenced else [{"message": "empty or missing yaml metadata in repo card"}]
    handler.send_json({"errors": [], "warnings": warnings})


@_route("POST", rf"{_API}/branch/(?P<branch>[^/]+)")
def _branch(handler: _Handler, repo_id: str, branch: str) -> None:
    handler.writer()
    repository, ref = handler.repository(repo_id), f"refs/heads/{branch}"
    with handler.hub.lock:
        if ref in repository.refs:
            raise RefusalError(409, f"Reference already exists: {ref}")
        repository.refs[ref] = repository.find(handler.json().get("startingPoint", "main")).sha
    handler.send_json({})


@_route("POST", rf"{_API}/preupload/(?P<revision>[^/]+)")
def _preupload(handler: _Handler, repo_id: str, revision: str) -> None:
    handler.repository(repo_id)
    handler.contributor()
    commit = handler.readable(repo_id).find(revision)
    asked = handler.json()
    patterns = asked.get("gitIgnore", commit.files.get(".gitignore", b"").decode()).split()
    answers = []
    for file in asked["files"]:
        path = file["path"]
        answer = {
            "path": path,
            "uploadMode": "lfs" if is_large(path) else "regular",
            "shouldIgnore": any(fnmatch(part, pattern) for part in (path, *path.split("/")) for pattern in patterns),
        }
        if (content := commit.files.get(path)) is not None:
            answer["oid"] = sha256(content) if is_large(path) else blob_id(content)
        answers.append(answer)
    handler.send_json({"files": answers, "commitOid": commit.sha})


@_route("POST", rf"/{_REPO}\.git/info/lfs/objects/batch")
def _lfs_batch(handler: _Handler, repo_id: str) -> None:
    # Without a ref it is for a pull request, which everyone with a token may open.
    asked = handler.json()
    if "ref" in asked or handler.user() is None:
        handler.writer()
    repository = handler.readable(repo_id)
    objects = []
    for item in asked["objects"]:
        answer: dict[str, Any] = {"oid": item["oid"], "size": item["size"], "authenticated": True}
        if item["oid"] not in repository.objects:
            repository.awaited.add(item["oid"])
            answer["actions"] = {
                "upload": {"href": f"{handler.hub.cdn_url}/upload/{quote(repo_id)}/{item['oid']}"},
                "verify": {"href": f"{handler.hub.url}/{quote(repo_id)}.git/info/lfs/objects/verify"},
            }
        objects.append(answer)
    handler.send_json(
        {"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"}
    )


@_route("PUT", rf"/upload/{_REPO}/(?P<oid>[0-9a-f]{{64}})")
def _upload(handler: _Handler, repo_id: str, oid: str) -> None:
    # The address is the right to upload, so that no token is asked for.
    found = handler.hub.repositories.get(repo_id)
    if not handler.server.cdn or found is None or oid not in found.awaited:
        raise RefusalError(404, "no such address")
    if sha256(handler.body) != oid:
        raise RefusalError(400, f"the content is not that of {oid}")
    found.objects[oid] = handler.body
    handler.send_json({})


@_route("POST", rf"/{_REPO}\.git/info/lfs/objects/verify")
def _lfs_verify(handler: _Handler, repo_id: str) -> None:
    asked = handler.json()
    if handler.user() is None:
        raise RefusalError(401, "Invalid username or password.")
    if len(handler.repository(repo_id).objects.get(asked["oid"], b"")) != asked["size"]:
        raise RefusalError(404, f"{asked['oid']} was not uploaded")
    handler.send_json({})


@_route("POST", rf"{_API}/commit/(?P<revision>[^/]+)")
def _commit(handler: _Handler, repo_id: str, revision: str) -> None:
    hub = handler.hub
    handler.repository(repo_id)
    handler.contributor()
    lines = [json.loads(line) for line in handler.body.splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    with hub.lock:
        repository = handler.readable(repo_id)
        parent = repository.find(revision)
        if header.get("parentCommit", parent.sha) != parent.sha:
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        changes: dict[str, bytes | None] = {}
        for line in lines:
            if line["key"] != "header":
                changes |= _changes(repository, parent, line["key"], line["value"])
        if "create_pr" in handler.entry.query:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
            ref, pull_request = f"refs/pr/{number}", f"{hub.url}/{repo_id}/discussions/{number}"
        else:
            ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
            pull_request = None
            if ref not in repository.refs:
                raise RefusalError(400, f"{revision} is not a branch")
        commit = repository.commit(ref, parent, changes, header["summary"], header.get("description", ""))
    answer = {"success": True, "commitOid": commit.sha, "commitUrl": f"{hub.url}/{repo_id}/commit/{commit.sha}"}
    handler.send_json(answer | ({"pullRequestUrl": pull_request} if pull_request else {}))


def _changes(repository: Repository, parent: Commit, key: str, value: dict[str, Any]) -> dict[str, bytes | None]:
    """What one line of a commit does to the files."""
    path = value["path"]
    if key == "file":
        if is_large(path) and value["content"]:
            raise RefusalError(400, f"{path} must be uploaded by LFS")
        return {path: base64.b64decode(value["content"], validate=True)}
    if key == "lfsFile":
        if value["oid"] not in repository.objects:
            raise RefusalError(400, f"the LFS object of {path} was not uploaded")
        return {path: repository.objects[value["oid"]]}
    if key == "deletedFile":
        doomed = [path] if path in parent.files else []
    elif key == "deletedFolder":
        doomed = [name for name in parent.files if name.startswith(path.rstrip("/") + "/")]
    else:
        raise RefusalError(400, f"unknown operation {key}")
    if not doomed:
        raise RefusalError(404, "A file with this name doesn't exist", "EntryNotFound")
    return dict.fromkeys(doomed)
