"""Models go to a Hub and come from it over a real connection, by the unmodified client `huggingface_hub`."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub_server import HubServer, running_hub
from huggingface_hub import HfApi
from published import published_files
from released import founder_tensors
from strangers import ABSENT, run_script

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForSequenceClassification,
    EcgFounderConfig,
    Recording,
)
from clear_hug_hf.hub import publishing
from clear_hug_hf.training import folders


LABELS = ("NORM", "MI", "STTC")
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CODE = published_files("modeling/modeling_clear_hug.py", "processing/feature_extraction_clear_hug.py")
MODEL = {"config.json", "model.safetensors", "preprocessor_config.json"}

# What came of a script's steps goes back in `results`.
PRELUDE = """
import json
import os

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, pipeline

torch.set_num_threads(1)
results = {"folder": os.getcwd()}
samples, record, old, new, reader_token = sys.argv[2:]
recording = np.load(samples)


def logits_of(name, **options):
    extractor = AutoFeatureExtractor.from_pretrained(name, **options)
    model = AutoModelForSequenceClassification.from_pretrained(name, **options).eval()
    about = {"sampling_rate": 100.0, "lead_names": recording["lead_names"].tolist(), "unit": "mV"}
    with torch.no_grad():
        return model(**extractor(recording["waveform"], **about, return_tensors="pt")).logits.tolist()


"""
EPILOGUE = """
with open(sys.argv[1], "w") as file:
    json.dump(results, file)
"""
OWNER = """
import contextlib
import io

from clear_hug_hf.cli import main

model = AutoModelForSequenceClassification.from_pretrained(old)
extractor = AutoFeatureExtractor.from_pretrained(old)


model.push_to_hub("org/pushed")
extractor.push_to_hub("org/pushed")
module = type(AutoModel.from_pretrained("org/pushed")).__module__
results["pushed"] = {"module": module, "logits": logits_of("org/pushed")}

model.push_to_hub("org/shards", max_shard_size="60KB")
loaded = AutoModelForSequenceClassification.from_pretrained("org/shards")
results["shards"] = all(tensor.equal(model.state_dict()[name]) for name, tensor in loaded.state_dict().items())

commands = {
    "published": ["publish", old, "org/new", "--license", "cc-by-4.0", "--private"],
    "dry": ["publish", old, "org/new", "--license", "cc-by-4.0", "--dry-run", "dry"],
    "to_branch": ["publish", new, "org/new", "--license", "mit", "--revision", "second", "--message", "Another"],
    "as_pull_request": ["publish", old, "org/new", "--license", "other", "--license-name", "mine", "--create-pr"],
    "predicted": ["predict", record, "--model", "hf://org/new", "--json"],
    "predicted_locally": ["predict", record, "--model", old, "--json"],
    "of_a_branch": ["predict", record, "--model", "hf://org/new@second", "--json"],
    "of_a_branch_locally": ["predict", record, "--model", new, "--json"],
    "of_no_repository": ["predict", record, "--model", "hf://org/none"],
    "of_no_name": ["predict", record, "--model", "hf://no/such/name"],
    "without_rights": ["publish", old, "org/new", "--license", "cc-by-4.0"],
}
for name, words in commands.items():
    if name == "without_rights":
        os.environ["HF_TOKEN"] = reader_token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(words)
    results[name] = [status, out.getvalue(), err.getvalue().strip()]
"""
READING = """
trust = {"trust_remote_code": True}
results["main_branch"] = logits_of("org/pushed", **trust)
results["another_branch"] = logits_of("org/pushed", revision="draft", **trust)
"""
STRANGER = (
    READING
    + """
results["about"] = {
    "labels": AutoConfig.from_pretrained("org/pushed", **trust).num_labels,
    "module": type(AutoModel.from_pretrained("org/pushed", **trust)).__module__.split(".")[0],
    "package": "clear_hug_hf" in sys.modules,
}
results["scores"] = {one["label"]: one["score"] for one in pipeline(model="org/new", **trust)(record)}
"""
)
ALONE = (
    READING
    + """
try:
    logits_of("org/shards", **trust)
except OSError as error:
    results["never_seen"] = str(error)
"""
)

Results = dict[str, Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two classifiers of the same form with other weights."""
    found = {}
    for seed, name in enumerate(("old", "new")):
        torch.manual_seed(seed)
        config = ClearHugConfig.preset("tiny", id2label=dict(enumerate(LABELS)), **SMALL)
        found[name] = tmp_path_factory.mktemp("models") / "model"
        folders.save_model_folder(found[name], ClearHugForSequenceClassification(config), ClearHugFeatureExtractor())
    return found


@pytest.fixture(scope="module")
def recording(make_recordings: Callable[..., list[Recording]]) -> Recording:
    return make_recordings(1)[0]


@pytest.fixture(scope="module")
def logits(models: dict[str, Path], recording: Recording) -> dict[str, list[list[float]]]:
    """What the local folders give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    about = {"sampling_rate": 100.0, "lead_names": recording.lead_names, "unit": "mV"}
    inputs = ClearHugFeatureExtractor()(recording.waveform, **about, return_tensors="pt")
    with torch.no_grad():
        found = {
            name: ClearHugForSequenceClassification.from_pretrained(path).eval()(**inputs).logits.tolist()
            for name, path in models.items()
        }
    torch.set_num_threads(threads)
    assert found["old"] != found["new"]
    return found


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with running_hub() as server:
        yield server


@pytest.fixture(scope="module")
def run(
    hub: HubServer,
    models: dict[str, Path],
    recording: Recording,
    write_record: Callable[[Path, Recording], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Results]:
    """`run(home, script, **environment)`: what the steps of a script gave in a process that speaks with the hub."""
    inputs = tmp_path_factory.mktemp("inputs")
    np.savez(inputs / "samples.npz", waveform=recording.waveform, lead_names=np.array(recording.lead_names))
    arguments = [inputs / "samples.npz", write_record(inputs / "one", recording), *models.values(), hub.reader_token]
    # Of this process's own, nothing comes along that would lead to another hub, user, cache or proxy.
    foreign = ("HF_", "HUGGING", "HUB_", "TRANSFORMERS_", "PYTORCH_TRANSFORMERS_")
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.upper().startswith(foreign) and not key.upper().endswith("_PROXY")
    }
    kept |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(home: Path, script: str, **environment: str) -> Results:
        folder = tmp_path_factory.mktemp("client")
        own = {**kept, "HF_HOME": str(home), **environment}
        run_script(folder, script + EPILOGUE, "results.json", *arguments, environment=own)
        return json.loads((folder / "results.json").read_text())

    return run


@pytest.fixture(scope="module")
def owner(run: Callable[..., Results], tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A process of someone who has the package and may write."""
    return run(tmp_path_factory.mktemp("home"), PRELUDE + OWNER)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME of the stranger, who does not have the package."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def stranger(
    hub: HubServer, run: Callable[..., Results], home: Path, owner: Results, models: dict[str, Path]
) -> Results:
    """The stranger's process, after the owner's; a branch of what that pushed has the new weights."""
    hub.add_commit("org/pushed", {"model.safetensors": (models["new"] / "model.safetensors").read_bytes()}, "draft")
    hub.sent.clear()
    return run(home, ABSENT + PRELUDE + STRANGER)


def _done(results: Results, name: str) -> str:
    status, printed, error = results[name]
    assert status == 0, error
    return printed


def test_when_model_and_preprocessing_are_pushed_then_whoever_has_the_package_needs_no_trust(
    hub: HubServer, owner: Results, logits: dict[str, Any]
) -> None:
    assert {*hub.files("org/pushed")} == {*CODE, *MODEL, "README.md", ".gitattributes"}
    found = owner["pushed"]
    assert found["logits"] == logits["old"]
    assert found["module"].split(".")[0] == "clear_hug_hf"


def test_when_a_model_is_pushed_in_shards_then_its_weights_come_back(hub: HubServer, owner: Results) -> None:
    # Weights, not logits: the last bit of these follows where in memory a tensor begins, and that a shard's header.
    assert owner["shards"]
    assert len([path for path in hub.files("org/shards") if path.endswith(".safetensors")]) > 1


def test_when_a_model_is_downloaded_without_the_package_then_it_gives_the_same_logits(
    hub: HubServer, stranger: Results, logits: dict[str, Any]
) -> None:
    assert stranger["about"] == {"labels": 3, "module": "transformers_modules", "package": False}
    assert stranger["main_branch"] == logits["old"]
    assert stranger["another_branch"] == logits["new"]
    # Every file comes once, but for the weights of the branch.
    sent = sorted(path for repo_id, path in hub.sent if repo_id == "org/pushed")
    assert sent == sorted([*CODE, *MODEL, "model.safetensors"])


def test_when_a_stranger_pulls_the_pipeline_then_it_gives_the_same_scores(owner: Results, stranger: Results) -> None:
    locally = json.loads(_done(owner, "predicted_locally"))["probabilities"]
    assert stranger["scores"] == pytest.approx(locally, abs=1e-6)


def test_when_the_hub_is_gone_then_the_cache_serves_offline(
    stranger: Results, run: Callable[..., Results], home: Path, logits: dict[str, Any]
) -> None:
    alone = run(home, ABSENT + PRELUDE + ALONE, HF_HUB_OFFLINE="1")
    assert alone["main_branch"] == logits["old"]
    assert alone["another_branch"] == logits["new"]
    assert "org/shards" in alone["never_seen"]


def test_when_a_model_is_published_then_the_repository_holds_what_was_staged_in_one_commit(
    hub: HubServer, owner: Results
) -> None:
    assert f"published: {hub.url}/org/new" in _done(owner, "published")
    dry = Path(owner["folder"]) / "dry"
    staged = {str(path.relative_to(dry)): path.read_bytes() for path in dry.rglob("*") if path.is_file()}
    assert hub.files("org/new") == {".gitattributes": b"", **staged}
    assert b"license: cc-by-4.0" in staged["README.md"]
    assert "org/new" in hub.private
    assert len(hub.commits["org/new", "main"]) == 2  # the first one made the repository


def test_when_a_branch_or_pull_request_is_asked_for_then_main_stays(hub: HubServer, owner: Results) -> None:
    for step in ("to_branch", "as_pull_request"):
        assert "published: " in _done(owner, step)
    licenses = {"main": b"cc-by-4.0", "second": b"mit", "refs/pr/1": b"other"}
    for ref, name in licenses.items():
        assert b"license: " + name in hub.files("org/new", ref)["README.md"]
    assert hub.commits["org/new", "second"][-1].title == "Another"


def test_when_a_model_is_named_by_its_place_on_the_hub_then_it_predicts_as_the_local_one(owner: Results) -> None:
    for step in ("predicted", "of_a_branch"):
        assert _done(owner, step) == _done(owner, f"{step}_locally")
    assert _done(owner, "predicted") != _done(owner, "of_a_branch")


@pytest.mark.parametrize(
    ("step", "messages"),
    [
        ("of_no_repository", ["hf://org/none cannot be downloaded: check the name and the connection"]),
        ("of_no_name", ["is not a valid model name: use hf://ORG/NAME"]),
        ("without_rights", ["the Hub refuses the token", "the repository is staged in published/org/new"]),
    ],
)
def test_when_the_hub_does_not_do_it_then_one_sentence_explains_why(
    owner: Results, step: str, messages: list[str]
) -> None:
    status, _, error = owner[step]
    assert status == 2
    assert all(message in error for message in messages)
    assert "\n" not in error


def test_when_the_hub_is_out_of_reach_then_one_sentence_reports_it_and_the_folder_stays(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    with running_hub() as gone:
        pass
    monkeypatch.setattr(publishing, "HfApi", partial(HfApi, endpoint=gone.url))
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    kept = tmp_path / "kept"
    error = refused("publish", models["old"], "org/new", "--license", "cc-by-4.0", "--staged", kept)
    assert f"the Hub at {gone.url} cannot be reached" in error
    assert f"the repository is staged in {kept}" in error
    assert {"README.md", *MODEL} <= {path.name for path in kept.iterdir()}


CONVERSION = """
import contextlib
import io

from clear_hug_hf.cli import main

for name, source in {
    "default": "hf://org/founder",
    "named": "hf://org/founder/fine_tuned/weights.pth",
    "missing": "hf://org/pushed",
    "missing file": "hf://org/founder/weights.pth",
    "missing repository": "hf://org/none",
    "invalid": "hf://founder",
}.items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["convert", "ecg-founder", source, name])
    results[name] = [status, out.getvalue(), err.getvalue().strip()]
results["written"] = sorted(path for path in os.listdir() if os.path.isdir(path))
"""


def test_when_a_checkpoint_is_on_the_hub_then_only_it_is_downloaded_and_converted(
    hub: HubServer, run: Callable[..., Results], owner: Results, home: Path
) -> None:
    files = {}
    for name, labels in (("12_lead_ECGFounder.pth", 150), ("fine_tuned/weights.pth", 3)):
        file = io.BytesIO()
        torch.save({"state_dict": founder_tensors(EcgFounderConfig.preset("tiny"), labels)}, file)
        files[name] = file.getvalue()
    hub.add_commit("org/founder", {**files, "1_lead_ECGFounder.pth": b"unused", "code.py": b"raise SystemExit"})
    hub.sent.clear()
    results = run(home, PRELUDE + CONVERSION)
    assert "ECGFounder classifier: " in _done(results, "default")
    assert "so they are LABEL_0, LABEL_1" in _done(results, "named")
    assert {name for repository, name in hub.sent if repository == "org/founder"} == set(files)
    assert results["written"] == ["default", "named"]
    for name, message in (
        ("missing", "it has no file 12_lead_ECGFounder.pth or 1_lead_ECGFounder.pth: use hf://org/pushed/FILE"),
        ("missing file", "it has no file weights.pth: use hf://org/founder/FILE"),
        ("missing repository", "hf://org/none cannot be downloaded: check the name and the connection"),
        ("invalid", "is not a checkpoint on the Hub: use hf://ORG/NAME or hf://ORG/NAME/FILE"),
    ):
        status, _, error = results[name]
        assert (status, len(error.splitlines())) == (2, 1), error
        assert message in error
