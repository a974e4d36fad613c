"""
Files that are damaged or malicious give one sentence of this package: nothing else comes out, hangs, or takes memory.

The mutations are drawn from seeds, so that a failure can be repeated.
"""

from __future__ import annotations

import copy
import hashlib
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import StrictDataclassError

from clear_hug_hf import ClearHugFeatureExtractor, EcgScanConfig, Recording
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.model_files import load_config, load_feature_extractor
from clear_hug_hf.data.prepared import check_prepared_for, load_prepared, read_manifest
from clear_hug_hf.data.readers import WfdbFolderSource
from clear_hug_hf.data.sharding import prepare_shards
from clear_hug_hf.processing import InputError
from clear_hug_hf.systems import SYSTEMS


NUM_MUTATIONS = 120
# More than any of these files needs, and far less than the values that are put into them ask for.
_MEMORY, _SECONDS = 2 * 2**30, 10
_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\x00", "9" * 1000, [], {}, [[]], [None], {"": None}, ["II"] * 3, {"a": [1, {}]}),
    *(0, -1, 1, 2, 7, 2**31, 2**63, -(2**70), 10**30, 0.5, -0.5, 1e-30, 1e9, 1e300, float("nan"), float("inf")),
    *(
        -float("inf"),
        [0] * 4,
        [2**31] * 2,
        [1e9, "1"],
        {"model_type": "bert", "hidden_size": 2**31},
        {"num_labels": 9},
    ),
)
_NEW_FIELDS = ("num_labels", "dtype", "torch_dtype", "id2label", "to_dict", "cut", "num_leads", "auto_map", "validate")


@contextmanager
def _bounds() -> Iterator[None]:
    """Raise `MemoryError` where a block asks for gigabytes, and `TimeoutError` where it hangs."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {_SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def _mutate(settings: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A copy with one to three entries that are other than they were, gone, or new, at any depth."""
    mutated = copy.deepcopy(settings)
    for _ in range(rng.integers(1, 4)):
        place: Any = mutated
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = keys[rng.integers(len(keys))]
            if not (isinstance(place[key], dict | list) and place[key]) or rng.random() < 0.5:
                break
            place = place[key]
        kind = rng.random()
        value = copy.deepcopy(_VALUES[rng.integers(len(_VALUES))])
        if kind < 0.7:
            place[key] = value
        elif kind < 0.8:
            del place[key]
        else:
            mutated[_NEW_FIELDS[rng.integers(len(_NEW_FIELDS))]] = value
        if not mutated or not (place or place is mutated):
            break
    return mutated


def _damage(content: bytes, rng: np.random.Generator) -> bytes:
    """The same bytes with some that are other, or cut off."""
    if rng.random() < 0.3:
        return content[: rng.integers(len(content))]
    damaged = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 4)):
        damaged[place] = rng.integers(256)
    return bytes(damaged)


def _check_one_sentence(error: InputError, path: Path | None = None) -> None:
    text = str(error)
    assert path is None or str(path) in text, text
    assert "\n" not in text, text
    assert len(text) < 1500, text


@pytest.fixture(params=SYSTEMS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """`config.json` and `preprocessor_config.json` of a system."""
    system = SYSTEMS[request.param]
    config = system.config.preset("tiny", num_labels=2, architectures=["x"], label_thresholds={"LABEL_0": 0.5})
    config.save_pretrained(tmp_path)
    system.feature_extractor().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_when_a_file_of_a_model_is_mutated_then_only_one_sentence_comes_out(folder: Path, name: str) -> None:
    path = folder / name
    load: Callable[[Path], Any] = load_config if name == "config.json" else load_feature_extractor
    content = path.read_bytes()
    waveform = np.random.default_rng(0).normal(size=(12, 3000)).astype(np.float32)
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    refused = 0
    for seed in range(NUM_MUTATIONS):
        rng = np.random.default_rng(seed)
        if seed % 4:
            path.write_text(json.dumps(_mutate(json.loads(content), rng)))
        else:
            path.write_bytes(_damage(content, rng))
        try:
            with _bounds():
                loaded = load(folder)
                if name == "preprocessor_config.json":
                    loaded(waveform, sampling_rate=500.0, lead_names=leads, unit="mV", on_no_beats="mask")
        except InputError as error:
            refused += 1
            if "recording" not in str(error) and "s long, got" not in str(error):
                _check_one_sentence(error, path)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {path.read_text(errors='replace')}") from error
    assert NUM_MUTATIONS / 4 < refused < NUM_MUTATIONS


def test_when_settings_are_mutated_then_the_classes_themselves_refuse_them(folder: Path) -> None:
    settings = {name: json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json")}
    config_class = type(load_config(folder))
    extractor_class = type(load_feature_extractor(folder))
    for seed in range(NUM_MUTATIONS):
        with _bounds():
            with suppress(ValueError, StrictDataclassError):
                config_class.from_dict(_mutate(settings["config.json"], np.random.default_rng(seed)))
            with suppress(InputError):
                extractor_class(**_mutate(settings["preprocessor_config.json"], np.random.default_rng(seed)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_seconds": 1e9}, "window_seconds must be a number between .*, got 1000000000.0"),
        ({"sampling_rate": 1e8}, "sampling_rate must be a number between 50 and 10000, got 100000000.0"),
        ({"sampling_rate": "250"}, "sampling_rate must be a number between .*, got '250'"),
        ({"bandpass_order": 2**31}, "bandpass_order must be an integer between 1 and 20, got 2147483648"),
        (
            {"bandpass_low": 30.0, "bandpass_high": 20.0, "do_bandpass": True},
            "bandpass_low must be below bandpass_high",
        ),
        ({"min_seconds": float("nan")}, "min_seconds must be a number between 0 and 1000000, got nan"),
        ({"max_non_finite": None}, "max_non_finite must be a number between 0 and 1, got None"),
        ({"do_repair": "no"}, "do_repair must be true or false, got 'no'"),
        ({"detector": ["xqrs"]}, r"detector must be one of .*, got \['xqrs'\]"),
        ({"clean": "yes"}, "clean is not a setting of"),
    ],
)
@pytest.mark.parametrize("system", SYSTEMS)
def test_when_a_setting_cannot_be_then_the_feature_extractor_explains_what_can(
    system: str, settings: dict, message: str
) -> None:
    with _bounds(), pytest.raises(InputError, match=message):
        SYSTEMS[system].feature_extractor(**settings)


@pytest.mark.parametrize(
    ("system", "fields", "message"),
    [
        ("clear_hug", {"hidden_size": 2**20}, "about 5.3e\\+13 parameters, but at most 2e\\+09"),
        ("ecg_jepa", {"predictor_num_hidden_layers": 10**9}, "predictor_num_hidden_layers must be at most 1000"),
        ("ecg_scan", {"num_samples": 10**9}, "num_samples must be at most 1000000"),
        ("ecg_scan", {"vision_config": {"model_type": "vit", "hidden_size": 2**31}}, "vision_config.hidden_size must"),
        ("ecg_scan", {"vision_config": {"model_type": "vit", "hidden_size": 2**20}}, "parameters, but at most"),
        ("ecg_scan", {"vision_config": [1]}, "vision_config must be a config or a dictionary with a model_type"),
        *(
            (system, fields, message)
            for system in SYSTEMS
            for fields, message in (
                ({"num_labels": 2**31}, "num_labels must be an integer between 0 and 100000"),
                ({"sampling_rate": 10**8}, "sampling_rate must be at most 10000"),
                ({"dtype": "load"}, "dtype must be one of float16, bfloat16"),
                ({"id2label": {"0": "a", "5": "b"}}, "id2label must map consecutive indices"),
                ({"id2label": {"0": "a", "1": "a"}}, "id2label must not contain duplicate"),
                ({"label2id": 5}, "label2id must be the inverse of id2label"),
                ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}}, "label2id must be the inverse"),
                ({"architectures": 7}, "architectures must be a list"),
                ({"architectures": [7]}, "architectures must be a list"),
                ({"layer_norm_eps": float("inf")}, "must be positive and finite"),
                ({"to_dict": 1}, "to_dict is not a field of"),
            )
        ),
    ],
)
def test_when_a_config_asks_for_what_cannot_be_then_it_is_refused_before_it_takes_memory(
    system: str, fields: dict, message: str
) -> None:
    with _bounds(), pytest.raises(ValueError, match=message):
        SYSTEMS[system].config(**fields)


@pytest.mark.parametrize("system", SYSTEMS)
def test_when_only_the_names_of_labels_are_set_then_a_saved_config_has_their_numbers(
    system: str, tmp_path: Path
) -> None:
    config_class = SYSTEMS[system].config
    config = config_class.preset("tiny", id2label={0: "NORM", 1: "MI"})
    assert config.label2id == {"NORM": 0, "MI": 1}
    config.id2label = {0: "AFIB", 1: "SR", 2: "PVC"}
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).label2id == {"AFIB": 0, "SR": 1, "PVC": 2}
    by_default = config_class.preset("tiny", num_labels=3).label2id
    assert config_class.preset("tiny", id2label=config.id2label, label2id=by_default).label2id == config.label2id


def test_when_positions_are_rotary_then_they_do_not_count_as_parameters() -> None:
    tower = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 2, "max_position_embeddings": 2**20}
    assert EcgScanConfig.preset("tiny", text_config=tower).text_config.max_position_embeddings == 2**20
    with pytest.raises(ValueError, match="parameters, but at most"):
        EcgScanConfig.preset("tiny", text_config={**tower, "model_type": "bert", "rope_theta": 1.0})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "[" * 100_000, "it is nested too deeply"),
        ("config.json", "[]", "it contains a list, not a JSON object"),
        ("config.json", '{"model_type": "bert", "hidden_size": 1}', "model_type is 'bert', but this package supports"),
        # Transformers would ask on the terminal whether the code may run, and wait.
        ("config.json", '{"model_type": "x", "auto_map": {"AutoConfig": "a.B"}}', "model_type is 'x', but this"),
        ("preprocessor_config.json", '{"auto_map": {"AutoFeatureExtractor": "a.B"}}', "feature_extractor_type is"),
    ],
)
def test_when_a_file_is_not_of_this_package_then_it_is_refused_without_a_question(
    folder: Path, name: str, text: str, message: str
) -> None:
    (folder / name).write_text(text)
    load: Callable[[Path], Any] = load_config if name == "config.json" else load_feature_extractor
    with _bounds(), pytest.raises(InputError, match=message) as caught:
        load(folder)
    _check_one_sentence(caught.value, folder / name)


@pytest.fixture(scope="module")
def prepared(
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    records, folder = tmp_path_factory.mktemp("records"), tmp_path_factory.mktemp("prepared")
    for recording in make_recordings(6):
        write_record(records / recording.record_id, recording)
    prepare_shards(WfdbFolderSource(records), folder, ClearHugFeatureExtractor(), shard_size=6, progress=False)
    return folder


def _read_prepared(folder: Path) -> None:
    """Everything that training does with a prepared folder before the model sees it."""
    splits = {shard["split"] for shard in read_manifest(folder)["shards"]}
    sets, extractor = load_prepared(folder, splits)
    check_prepared_for(folder, ClearHugFeatureExtractor())
    for dataset in sets.values():
        EcgCollator(extractor)(list(dataset.with_format("numpy")))


@pytest.mark.parametrize("name", ["manifest.json", "preprocessor_config.json", "data/train-00000-of-00001.parquet"])
def test_when_a_file_of_a_prepared_folder_is_mutated_then_only_one_sentence_comes_out(
    prepared: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "copied"))
    content = (folder / name).read_bytes()
    for seed in range(NUM_MUTATIONS // 4):
        rng = np.random.default_rng(seed)
        if seed % 4 == 0 or name.endswith("parquet"):
            (folder / name).write_bytes(_damage(content, rng))
        else:
            (folder / name).write_text(json.dumps(_mutate(json.loads(content), rng)))
        try:
            with _bounds():
                _read_prepared(folder)
        except InputError as error:
            _check_one_sentence(error, folder)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {(folder / name).read_text(errors='replace')}") from error


def test_when_values_of_a_prepared_folder_are_mutated_then_only_one_sentence_comes_out(
    prepared: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "copied"))
    manifest = json.loads((folder / "manifest.json").read_text())
    shard = manifest["shards"][0]
    path = folder / shard["file"]
    rows = pq.read_table(path)
    refused = 0
    for seed in range(NUM_MUTATIONS // 4):
        rng = np.random.default_rng(seed)
        name = str(rng.choice(["signal", "signal_scale", "r_peaks", "lead_mask", "sampling_rate"]))
        values = _mutate({"rows": rows[name].to_pylist()}, rng).get("rows")
        try:
            column = pa.array(values, type=rows.schema.field(name).type if seed % 2 else None)
            table = rows.set_column(rows.schema.get_field_index(name), name, column)
        except (pa.ArrowException, OverflowError, TypeError):
            table = rows.drop_columns([name])
        pq.write_table(table, path)
        # The manifest reports no damage.
        shard |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        try:
            with _bounds():
                _read_prepared(folder)
        except InputError as error:
            refused += 1
            _check_one_sentence(error)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {name}") from error
    assert refused > NUM_MUTATIONS / 8
