"""`clear-hug publish` over a real connection: what arrives is what was staged, and what a stranger pulls predicts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from clear_hug_hf import ClearHugConfig, ClearHugFeatureExtractor, ClearHugForSequenceClassification
from clear_hug_hf.data.records import Recording
from clear_hug_hf.training import folders


LABELS = ("NORM", "MI", "STTC")
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}

PUBLISHING = """
import contextlib
import io
import json
import os

from clear_hug_hf.cli import main

model, record, reader_token = sys.argv[2:5]


def call(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    return [status, out.getvalue(), err.getvalue().strip()]


@step
def published():
    return call("publish", model, "org/new", "--license", "cc-by-4.0", "--private")


@step
def dry():
    call("publish", model, "org/new", "--license", "cc-by-4.0", "--dry-run", "dry")
    return {
        os.path.relpath(os.path.join(folder, name), "dry"): open(os.path.join(folder, name), "rb").read().hex()
        for folder, _, names in os.walk("dry")
        for name in names
    }


@step
def to_branch():
    return call("publish", model, "org/new", "--license", "mit", "--revision", "second", "--message", "Another")


@step
def as_pull_request():
    return call("publish", model, "org/new", "--license", "other", "--license-name", "mine", "--create-pr")


@step
def predicted():
    return call("predict", record, "--model", "hf://org/new", "--json")


@step
def predicted_locally():
    return call("predict", record, "--model", model, "--json")


@step
def of_a_branch():
    return call("publish", "hf://org/new@second", "org/new", "--license", "mit", "--dry-run", "branch")


@step
def of_no_repository():
    return call("predict", record, "--model", "hf://org/none")


@step
def of_no_name():
    return call("predict", record, "--model", "hf://no/such/name")


@step
def without_rights():
    os.environ["HF_TOKEN"] = reader_token
    return call("publish", model, "org/new", "--license", "cc-by-4.0")
"""

STRANGER = """
import importlib.abc


class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clear_hug_hf":
            raise ImportError("clear_hug_hf is not installed here")


sys.meta_path.insert(0, Refuse())

from transformers import pipeline


@step
def scores():
    found = pipeline(model="org/new", trust_remote_code=True)(sys.argv[2])
    return {one["label"]: one["score"] for one in found}
"""

UNREACHABLE = """
import contextlib
import io

from clear_hug_hf.cli import main


@step
def unreachable():
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        status = main(["publish", sys.argv[2], "org/new", "--license", "cc-by-4.0", "--staged", "kept"])
    import os

    return [status, err.getvalue().strip(), sorted(os.listdir("kept"))]
"""


@pytest.fixture(scope="module")
def hub(start_hub_server: Callable[[], AbstractContextManager[Any]]) -> Any:
    with start_hub_server() as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ClearHugConfig.preset("tiny", id2label=dict(enumerate(LABELS)), **SMALL)
    folder = tmp_path_factory.mktemp("classifier") / "model"
    folders.save_model_folder(folder, ClearHugForSequenceClassification(config), ClearHugFeatureExtractor())
    return folder


@pytest.fixture(scope="module")
def record(
    tmp_path_factory: pytest.TempPathFactory,
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
) -> Path:
    return write_record(tmp_path_factory.mktemp("records") / "one", make_recordings(1)[0])


@pytest.fixture(scope="module")
def results(
    hub: Any, model: Path, record: Path, run_client: Callable[..., dict[str, Any]], tmp_path_factory: Any
) -> dict[str, Any]:
    # The client takes Xet for large uploads without asking the server, which has none.
    environment = {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": hub.token}
    home = tmp_path_factory.mktemp("home")
    return run_client(hub, home, PUBLISHING, model, record, hub.reader_token, **environment)


def _value(results: dict[str, Any], name: str) -> Any:
    assert "value" in results[name], results[name]
    return results[name]["value"]


def test_when_a_model_is_published_then_the_repository_holds_what_was_staged(
    hub: Any, results: dict[str, Any]
) -> None:
    status, printed, error = _value(results, "published")
    assert status == 0, error
    assert f"published: {hub.url}/org/new" in printed
    staged = {name: bytes.fromhex(content) for name, content in _value(results, "dry").items()}
    there = hub.files("org/new")
    assert {name for name in there if name != ".gitattributes"} == set(staged)
    for name, content in staged.items():
        assert there[name] == content, name
    assert b"license: cc-by-4.0" in there["README.md"]
    assert "org/new" in hub.private


def test_when_a_branch_or_pull_request_is_asked_for_then_main_stays(hub: Any, results: dict[str, Any]) -> None:
    for step in ("to_branch", "as_pull_request"):
        status, printed, error = _value(results, step)
        assert status == 0, error
        assert "published: " in printed
    assert b"license: cc-by-4.0" in hub.files("org/new")["README.md"]
    assert b"license: mit" in hub.files("org/new", "second")["README.md"]
    assert hub.commit("org/new", "second").title == "Another"
    assert b"license: other" in hub.files("org/new", "refs/pr/1")["README.md"]


def test_when_a_model_is_named_by_its_place_on_the_hub_then_it_predicts_as_the_local_one(
    results: dict[str, Any],
) -> None:
    assert _value(results, "predicted")[0] == 0, results["predicted"]
    assert _value(results, "predicted") == _value(results, "predicted_locally")
    assert _value(results, "of_a_branch")[0] == 0


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("of_no_repository", "hf://org/none cannot be downloaded: check name and connection"),
        ("of_no_name", "is no model on the Hub: give hf://ORG/NAME"),
        ("without_rights", "the Hub refuses the token"),
    ],
)
def test_when_the_hub_does_not_do_it_then_one_sentence_says_why(
    results: dict[str, Any], step: str, message: str
) -> None:
    status, _, error = _value(results, step)
    assert status == 2
    assert message in error
    assert "\n" not in error
    if step == "without_rights":
        assert "the repository is staged in published/org/new" in error


def test_when_a_stranger_pulls_the_pipeline_then_it_gives_the_same_scores(
    hub: Any,
    results: dict[str, Any],
    record: Path,
    model: Path,
    run_client: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    import json

    found = _value(run_client(hub, tmp_path / "home", STRANGER, record, HF_TOKEN=hub.token), "scores")
    locally = json.loads(_value(results, "predicted_locally")[1])["probabilities"]
    assert found == pytest.approx(locally, abs=1e-6)


def test_when_the_hub_is_out_of_reach_then_one_sentence_says_so_and_the_folder_stays(
    start_hub_server: Callable[[], AbstractContextManager[Any]],
    model: Path,
    run_client: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    with start_hub_server() as server:
        pass
    found = run_client(server, tmp_path / "home", UNREACHABLE, model, HF_TOKEN="hf_something", HF_HUB_DISABLE_XET="1")
    status, error, files = _value(found, "unreachable")
    assert status == 2
    assert f"the Hub at {server.url} cannot be reached" in error
    assert "the repository is staged in kept" in error
    assert "\n" not in error
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
