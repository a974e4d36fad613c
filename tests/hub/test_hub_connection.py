"""Models come from and go to a Hub over a real connection, by the unmodified client `huggingface_hub`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from published import published_files

from clear_hug_hf import ClearHugConfig, ClearHugFeatureExtractor, ClearHugForSequenceClassification, Recording


if TYPE_CHECKING:
    from hub_server import HubServer


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
# Eighteen MB, of which the client keeps whole pieces of 10 MiB where a connection breaks.
LARGE = {"hidden_size": 256, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 1024}
CUT = 12 * 2**20
CODE = published_files("modeling/modeling_clear_hug.py", "processing/feature_extraction_clear_hug.py")
MODEL = {"config.json", "model.safetensors", "preprocessor_config.json"}

# What the scripts share. Each costs seconds of imports, so that a process takes many steps.
INSTALLED = """
import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

torch.set_num_threads(1)
recording = np.load(sys.argv[2])


def logits_of(name, **options):
    extractor = AutoFeatureExtractor.from_pretrained(name, **options)
    model = AutoModelForSequenceClassification.from_pretrained(name, **options).eval()
    inputs = extractor(
        recording["waveform"],
        sampling_rate=100.0,
        lead_names=recording["lead_names"].tolist(),
        unit="mV",
        return_tensors="pt",
    )
    with torch.no_grad():
        return model(**inputs).logits.tolist()


"""
STRANGER = (
    """
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "clear_hug_hf":
            raise ImportError("clear_hug_hf is not installed here")


sys.meta_path.insert(0, Refuse())
trust = {"trust_remote_code": True}
"""
    + INSTALLED
)
READING = """
import hashlib
from pathlib import Path

from huggingface_hub import hf_hub_download

token, reader_token, sha = sys.argv[3:]


def digest_of_weights(name):
    return hashlib.sha256(Path(hf_hub_download(name, "model.safetensors")).read_bytes()).hexdigest()


@step
def first():
    config = AutoConfig.from_pretrained("org/name", **trust)
    encoder = AutoModel.from_pretrained("org/name", **trust)
    return {
        "labels": config.num_labels,
        "module": type(encoder).__module__.split(".")[0],
        "package": "clear_hug_hf" in sys.modules,
        "logits": logits_of("org/name", **trust),
    }


@step
def moving():
    return logits_of("org/moving", **trust)


@step
def tag():
    return logits_of("org/name", revision="v1", **trust)


@step
def commit():
    return logits_of("org/name", revision=sha, **trust)


@step
def unknown_revision():
    logits_of("org/name", revision="v9", **trust)


@step
def missing():
    logits_of("org/missing", **trust)


@step
def private():
    logits_of("org/private", **trust)


@step
def private_with_token():
    return logits_of("org/private", token=token, **trust)


@step
def weightless():
    logits_of("org/weightless", **trust)


@step
def gated_file():
    hf_hub_download("org/gated", "config.json")


@step
def gated():
    logits_of("org/gated", **trust)


@step
def gated_to_the_reader():
    logits_of("org/gated", token=reader_token, **trust)


@step
def gated_with_token():
    return logits_of("org/gated", token=token, **trust)


@step
def cut():
    return digest_of_weights("org/large")


@step
def after_cut():
    return digest_of_weights("org/large")


@step
def torn():
    return digest_of_weights("org/torn")


@step
def after_torn():
    return digest_of_weights("org/torn")
"""
UPLOADING = """
import clear_hug_hf
from huggingface_hub import HfApi

old, new, token, reader_token = sys.argv[3:]
model = AutoModelForSequenceClassification.from_pretrained(old)
extractor = AutoFeatureExtractor.from_pretrained(old)
api = HfApi(token=token)


@step
def installed():
    module = type(AutoModel.from_pretrained("org/name")).__module__
    return {"module": module.split(".")[0], "logits": logits_of("org/name")}


@step
def push():
    model.push_to_hub("org/pushed", token=token)
    return extractor.push_to_hub("org/pushed", token=token, commit_message="Add the preprocessing").oid


@step
def pushed():
    return logits_of("org/pushed")


@step
def push_again():
    return extractor.push_to_hub("org/pushed", token=token).oid


@step
def shards():
    model.push_to_hub("org/shards", token=token, private=True, max_shard_size="60KB")
    loaded = AutoModelForSequenceClassification.from_pretrained("org/shards", token=token)
    return all(tensor.equal(model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


@step
def branch():
    api.create_branch("org/pushed", branch="draft")
    return api.upload_folder(repo_id="org/pushed", folder_path=new, revision="draft", commit_message="Draft").oid


@step
def pull_request():
    info = HfApi(token=reader_token).upload_folder(repo_id="org/pushed", folder_path=new, create_pr=True)
    return [info.pr_url, info.pr_revision, info.oid]


@step
def push_without_token():
    model.push_to_hub("org/never")


@step
def push_by_the_reader():
    model.push_to_hub("org/pushed", token=reader_token)


@step
def upload_without_token():
    HfApi().upload_folder(repo_id="org/name", folder_path=old)


@step
def upload_by_the_reader():
    HfApi(token=reader_token).upload_folder(repo_id="org/name", folder_path=old)
"""
READING_AGAIN = """
@step
def again():
    return logits_of("org/name", **trust)


@step
def moved():
    return logits_of("org/moving", **trust)


@step
def pushed():
    return logits_of("org/pushed", **trust)


@step
def branch():
    return logits_of("org/pushed", revision="draft", **trust)


@step
def pull_request():
    return logits_of("org/pushed", revision="refs/pr/1", **trust)
"""
READING_ALONE = """
@step
def name():
    return logits_of("org/name", **trust)


@step
def tag():
    return logits_of("org/name", revision="v1", **trust)


@step
def never_seen():
    logits_of("org/unknown", **trust)
"""


def _save(folder: Path, seed: int, **sizes: int) -> Path:
    torch.manual_seed(seed)
    config = ClearHugConfig.preset("tiny", num_labels=3, **{**SMALL, **sizes})
    ClearHugForSequenceClassification(config).save_pretrained(folder)
    ClearHugFeatureExtractor().save_pretrained(folder)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _sent(results: dict[str, Any], repo_id: str) -> list[str]:
    """Names of the files of a repository that went to a process, in order."""
    ours = [request for request in results["requests"] if request.repo_id == repo_id and request.sent]
    return [request.path.rsplit("/", 1)[1] for request in ours]


@pytest.fixture(scope="module")
def recording(make_recordings: Callable[..., list[Recording]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_recordings(1)[0]
    path = tmp_path_factory.mktemp("recording") / "recording.npz"
    np.savez(path, waveform=made.waveform, lead_names=np.array(made.lead_names))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with the same code and preprocessing: `old` and `new` weights of one size, `large` ones."""
    root = tmp_path_factory.mktemp("models")
    return {
        "old": _save(root / "old", seed=0),
        "new": _save(root / "new", seed=1),
        "large": _save(root / "large", seed=2, **LARGE),
    }


@pytest.fixture(scope="module")
def logits(folders: dict[str, Path], recording: Path) -> dict[str, list[list[float]]]:
    """What the local folders give."""
    read = np.load(recording)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {}
        for name in ("old", "new"):
            inputs = ClearHugFeatureExtractor.from_pretrained(folders[name])(
                read["waveform"],
                sampling_rate=100.0,
                lead_names=read["lead_names"].tolist(),
                unit="mV",
                return_tensors="pt",
            )
            with torch.no_grad():
                model = ClearHugForSequenceClassification.from_pretrained(folders[name]).eval()
                found[name] = model(**inputs).logits.tolist()
    finally:
        torch.set_num_threads(threads)
    assert found["old"] != found["new"]
    return found


@pytest.fixture(scope="module")
def hub(
    start_hub_server: Callable[[], AbstractContextManager[HubServer]], folders: dict[str, Path]
) -> Iterator[HubServer]:
    old = _files(folders["old"])
    with start_hub_server() as server:
        server.add_commit("org/name", old)
        server.add_tag("org/name", "v1")
        server.add_commit("org/name", _files(folders["new"]))
        for name in ("org/moving", "org/private", "org/gated"):
            server.add_commit(name, old)
        server.private.add("org/private")
        server.gated.add("org/gated")
        server.add_commit("org/weightless", {**old, "model.safetensors": None})
        for name in ("org/large", "org/torn"):
            server.add_commit(name, _files(folders["large"]))
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME of the stranger, who does not have the package."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(hub: HubServer, run_client: Callable[..., dict[str, Any]], recording: Path) -> Callable[..., dict[str, Any]]:
    """`run(home, script, *arguments)`: what the steps gave, and the requests of the process as `requests`."""

    def run(home: Path, script: str, *arguments: object, **environment: str) -> dict[str, Any]:
        before = len(hub.requests)
        results = run_client(hub, home, script, recording, *arguments, **environment)
        return {**results, "requests": hub.requests[before:]}

    return run


@pytest.fixture(scope="module")
def read(hub: HubServer, run: Callable[..., dict[str, Any]], home: Path) -> dict[str, Any]:
    """The stranger's first process."""
    hub.cut_after(CUT)
    hub.cut_after(CUT, reset=True)
    return run(home, STRANGER + READING, hub.token, hub.reader_token, hub.commit("org/name", "v1").sha)


@pytest.fixture(scope="module")
def uploaded(
    hub: HubServer,
    run: Callable[..., dict[str, Any]],
    folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """A process of someone who has the package, with a home of its own."""
    arguments = (folders["old"], folders["new"], hub.token, hub.reader_token)
    # huggingface_hub 2 uploads by Xet wherever hf_xet is installed, without asking whether the server knows it.
    return run(tmp_path_factory.mktemp("home"), INSTALLED + UPLOADING, *arguments, HF_HUB_DISABLE_XET="1")


@pytest.fixture(scope="module")
def read_again(
    hub: HubServer,
    run: Callable[..., dict[str, Any]],
    home: Path,
    folders: dict[str, Path],
    read: dict[str, Any],
    uploaded: dict[str, Any],
) -> dict[str, Any]:
    """The stranger's second process."""
    hub.add_commit("org/moving", _files(folders["new"]))
    return run(home, STRANGER + READING_AGAIN)


def test_when_a_model_is_downloaded_without_the_package_then_it_gives_the_same_logits(read, logits) -> None:
    expected = {"labels": 3, "module": "transformers_modules", "package": False, "logits": logits["new"]}
    assert read["first"] == {"value": expected}
    # Every file comes once, and the weights by plain HTTP though hf_xet is there.
    assert sorted(_sent(read, "org/moving")) == sorted({*CODE, *MODEL})


def test_when_it_is_loaded_again_then_nothing_is_transferred_again(read_again, logits) -> None:
    assert read_again["again"] == {"value": logits["new"]}
    assert "org/name" in {request.repo_id for request in read_again["requests"]}
    assert _sent(read_again, "org/name") == []


def test_when_a_new_commit_comes_then_only_what_changed_is_transferred(read, read_again, logits) -> None:
    assert read["moving"] == {"value": logits["old"]}
    assert read_again["moved"] == {"value": logits["new"]}
    assert _sent(read_again, "org/moving") == ["model.safetensors"]


@pytest.mark.parametrize("revision", ["tag", "commit"])
def test_when_a_revision_is_named_then_its_weights_come(read, logits, revision: str) -> None:
    assert read[revision] == {"value": logits["old"]}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("unknown_revision", "v9 is not a valid git identifier"),
        ("missing", "org/missing is not a local folder and is not a valid model identifier"),
        ("private", "org/private is not a local folder and is not a valid model identifier"),
        ("weightless", "org/weightless does not appear to have a file named .*model.safetensors"),
        ("gated", "You are trying to access a gated repo"),
        ("gated_to_the_reader", "org/gated is restricted and you are not in the authorized list"),
    ],
)
def test_when_a_model_is_not_to_be_had_then_the_error_says_why(read, step: str, message: str) -> None:
    assert "OSError" in read[step]["errors"]
    assert re.search(message, read[step]["message"])


def test_when_a_token_opens_a_repository_then_it_loads_and_the_cdn_never_sees_the_token(read, logits) -> None:
    assert read["gated_file"]["errors"][0] == "GatedRepoError"
    for name in ("gated", "private"):
        assert read[f"{name}_with_token"] == {"value": logits["old"]}
        ours = [request for request in read["requests"] if request.repo_id == f"org/{name}" and request.sent]
        assert {(request.cdn, request.token_sent) for request in ours} == {(False, True), (True, False)}


def test_when_the_connection_is_cut_then_the_rest_is_asked_for_from_there(read, folders) -> None:
    weights = (folders["large"] / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    # huggingface_hub 2.4 goes on by itself, 1.10 gives up and goes on when it is called again.
    assert read["cut"].get("value", digest) == digest
    assert read["after_cut"] == {"value": digest}
    first, second = [request for request in read["requests"] if request.repo_id == "org/large" and request.cdn]
    assert (first.range, first.status, first.sent) == (None, 200, CUT)
    start = len(weights) - second.sent
    assert (second.range, second.status) == (f"bytes={start}-", 206)
    assert 0 < start <= CUT


def test_when_the_connection_is_torn_then_no_broken_file_stays_and_another_call_gets_it(read, folders, home) -> None:
    digest = hashlib.sha256((folders["large"] / "model.safetensors").read_bytes()).hexdigest()
    # Both give up after a reset; called again, 2.4 starts anew and 1.10 goes on.
    assert read["torn"].get("value", digest) == digest
    assert read["after_torn"] == {"value": digest}
    assert not list(home.rglob("*.incomplete"))


def test_when_the_hub_is_gone_then_the_cache_serves_offline(
    read, logits, start_hub_server, run_client, home, recording
) -> None:
    with start_hub_server() as gone:
        gone.close()
        alone = run_client(gone, home, STRANGER + READING_ALONE, recording, HF_HUB_OFFLINE="1")
    assert alone["name"] == {"value": logits["new"]}
    assert alone["tag"] == {"value": logits["old"]}
    assert "OSError" in alone["never_seen"]["errors"]


def test_when_the_package_is_imported_then_no_trust_is_needed(uploaded, logits) -> None:
    assert uploaded["installed"] == {"value": {"module": "clear_hug_hf", "logits": logits["new"]}}
    assert not {*_sent(uploaded, "org/name")} & CODE


def test_when_model_and_preprocessing_are_pushed_then_they_load_and_give_the_same_logits(
    hub, uploaded, read_again, logits
) -> None:
    assert uploaded["push"] == {"value": hub.commit("org/pushed").sha}
    assert hub.commit("org/pushed").title == "Add the preprocessing"
    assert {*hub.files("org/pushed")} == {*CODE, *MODEL, "README.md", ".gitattributes"}
    assert uploaded["pushed"] == {"value": logits["old"]}
    assert read_again["pushed"] == {"value": logits["old"]}
    # What is there already is not uploaded, and makes no commit.
    assert uploaded["push_again"] == uploaded["push"]


def test_when_a_model_is_pushed_privately_in_shards_then_its_weights_come_back(hub, uploaded) -> None:
    # Weights, not logits: the last bit of these follows where in memory a tensor begins, and that a shard's header.
    assert uploaded["shards"] == {"value": True}
    assert "org/shards" in hub.private
    shards = [path for path in hub.files("org/shards") if path.endswith(".safetensors")]
    assert len(shards) > 1
    assert "model.safetensors.index.json" in hub.files("org/shards")


def test_when_a_folder_is_uploaded_to_a_branch_then_main_stays(hub, uploaded, read_again, logits, folders) -> None:
    assert uploaded["branch"] == {"value": hub.commit("org/pushed", "draft").sha}
    assert hub.files("org/pushed", "draft").items() >= _files(folders["new"]).items()
    assert read_again["branch"] == {"value": logits["new"]}
    assert hub.commit("org/pushed").sha == uploaded["push"]["value"]


def test_when_a_reader_opens_a_pull_request_then_it_can_be_loaded_and_main_stays(
    hub, uploaded, read_again, logits, folders
) -> None:
    commit = hub.commit("org/pushed", "refs/pr/1")
    assert uploaded["pull_request"] == {"value": [f"{hub.url}/org/pushed/discussions/1", "refs/pr/1", commit.sha]}
    assert commit.parent == uploaded["push"]["value"]
    assert commit.files.items() >= _files(folders["new"]).items()
    assert read_again["pull_request"] == {"value": logits["new"]}
    assert hub.commit("org/pushed").sha == uploaded["push"]["value"]


@pytest.mark.parametrize(
    ("step", "status"),
    [
        ("push_without_token", "401"),
        ("upload_without_token", "401"),
        ("push_by_the_reader", "403"),
        ("upload_by_the_reader", "403"),
    ],
)
def test_when_someone_without_rights_uploads_then_it_is_refused(
    hub, uploaded, folders, step: str, status: str
) -> None:
    assert uploaded[step]["errors"][0] == "HfHubHTTPError"
    assert status in uploaded[step]["message"]
    assert "org/never" not in hub.repositories
    assert hub.files("org/name") == _files(folders["new"])
