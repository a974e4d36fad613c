"""A script for a process in which only the core dependencies are installed: it does what inference does, and more."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any


BLOCKED: set[str] = set()


class CoreFinder(PathFinder):
    """What finds modules in an environment without the optional libraries."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        return None if fullname.partition(".")[0] in BLOCKED else super().find_spec(fullname, path, target)


def _outcome(run: Any) -> dict[str, Any]:
    """What a call returns or raises, and prints."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            value = run()
        except SystemExit as error:
            value = error.code
        except Exception as error:
            value = f"{type(error).__name__}: {error}"
    return {"value": value, "out": out.getvalue(), "err": err.getvalue()}


def main(request: Path) -> None:
    """Answer a request of libraries to block, verbs and statements to run; the answer goes beside it."""
    asked = json.loads(request.read_text())
    BLOCKED.update(asked["blocked"])
    sys.meta_path[sys.meta_path.index(PathFinder)] = CoreFinder
    command_line = importlib.import_module("clear_hug_hf.cli")
    answer: dict[str, Any] = {}
    for name, words in asked["verbs"].items():
        answer[name] = _outcome(lambda words=words: command_line.main(words))
    for name, code in asked["python"].items():
        scope: dict[str, Any] = {}
        answer[name] = _outcome(lambda code=code, scope=scope: exec(code, scope))
        answer[name]["result"] = scope.get("result")
    answer["imported"] = sorted(BLOCKED & {module.partition(".")[0] for module in sys.modules})
    request.with_suffix(".answer").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
