"""A Hub on loopback and clients that speak with it; `hub_server.py` tells how tests use them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest


if TYPE_CHECKING:
    from hub_server import HubServer


def _load_hub_server() -> Any:
    # The tests' folders are no packages and not on the path, so that a neighbour is loaded by its place.
    spec = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hub_server"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def start_hub_server() -> Callable[[], AbstractContextManager[HubServer]]:
    """Context manager of a server, for fixtures of a wider scope than a test: `with start_hub_server() as server`."""
    module = _load_hub_server()

    @contextmanager
    def start() -> Iterator[HubServer]:
        server = module.HubServer()
        try:
            yield server
        finally:
            server.close()
        assert not server.failures, "\n".join(server.failures)

    return start


@pytest.fixture
def hub_server(start_hub_server: Callable[[], AbstractContextManager[HubServer]]) -> Iterator[HubServer]:
    """A started server with no repositories."""
    with start_hub_server() as server:
        yield server


# Steps of a script run on where one fails, and what each gave or raised comes back.
PRELUDE = """
import json
import sys

results = {}


def step(function):
    name = function.__name__
    try:
        results[name] = {"value": function()}
    except Exception as error:
        results[name] = {"errors": [kind.__name__ for kind in type(error).__mro__], "message": str(error)}
    return function


"""
EPILOGUE = """

with open(sys.argv[1], "w") as file:
    json.dump(results, file)
"""


@pytest.fixture(scope="session")
def run_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """
    Run a script in a process of its own as a client of a server:
    `run_client(server, home, script, *arguments, **environment)`. `home` is its HF_HOME. The script finds its
    arguments in `sys.argv[2:]` and marks functions as steps: `@step` calls one at once. What comes back holds, by the
    function's name, `{"value": what it returned}` or `{"errors": [names of its exception's classes], "message": its
    text}`.
    """

    def run(server: HubServer, home: Path, script: str, *arguments: object, **environment: str) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("client")
        (folder / "client.py").write_text(PRELUDE + script + EPILOGUE)
        finished = subprocess.run(
            [sys.executable, "client.py", "results.json", *map(str, arguments)],
            env=server.environment(home, **environment),
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads((folder / "results.json").read_text())

    return run
