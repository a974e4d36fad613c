"""Scripts started without the seconds of imports: forked from a process that has the libraries, not the package."""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


LIBRARIES = (
    "torch._dynamo",
    "torch.distributed.fsdp",
    "transformers.trainer",
    "datasets",
    "matplotlib.pyplot",
    "peft",
    "scipy.signal",
    "scipy.ndimage",
    "sklearn.metrics",
)


class Forked:
    """What `python *words` would start, printing into a file; at the end of a `with`, all of it is killed."""

    def __init__(self, *words: object, printed: Path, environment: Mapping[str, str] = os.environ) -> None:
        self.printed, self.status = printed, None
        self.pid = _ask(words=[str(word) for word in words], printed=str(printed), environment=dict(environment))

    def poll(self) -> int | None:
        """The exit status, or minus the signal that killed it; `None` as long as it runs."""
        if self.status is None:
            self.status = _ask(pid=self.pid)
        return self.status

    def wait(self, seconds: float = 600) -> int:
        """The exit status; processes that wait for each other forever are an error."""
        last = time.monotonic() + seconds
        while (status := self.poll()) is None:
            assert time.monotonic() < last, self.printed.read_text()[-3000:]
            time.sleep(0.01)
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait()


@functools.cache
def _server() -> Any:
    # Threads are counted at imports: a script's environment comes too late for them.
    environment, pipe = {**os.environ, "OMP_NUM_THREADS": "1"}, subprocess.PIPE
    return subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=environment)


def _ask(**request: Any) -> Any:
    print(json.dumps(request), file=_server().stdin, flush=True)
    return json.loads(_server().stdout.readline())


def _serve() -> dict[str, Any]:
    """Start and look after children until the tests end; in a child, what it is to run."""
    for request in map(json.loads, sys.stdin):
        if "pid" in request:
            ended, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif answer := os.fork():
            os.setpgid(answer, answer)
        else:
            return request
        print(json.dumps(answer), flush=True)
    sys.exit()


def _become(words: list[str], printed: str, environment: dict[str, str]) -> None:
    with open(os.devnull) as nothing, open(printed, "a") as file:
        for number, opened in enumerate((nothing, file, file)):
            os.dup2(opened.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    # Before this folder: what a launcher starts may import its modules, too.
    sys.path.insert(0, str(Path(words[0]).parent))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    _become(**_serve())
