"""A prepared folder is used with the model it fits, or refused with the setting that differs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clear_hug_hf import ClearHugFeatureExtractor, EcgJepaFeatureExtractor, HeartLangFeatureExtractor
from clear_hug_hf.data import shard_checks
from clear_hug_hf.data.prepared import check_prepared_for, is_prepared, load_prepared, match_prepared
from clear_hug_hf.data.readers import WfdbFolderSource
from clear_hug_hf.data.records import Recording
from clear_hug_hf.data.sharding import prepare_shards
from clear_hug_hf.processing import InputError


SETTINGS = {"do_rescale": True, "bandpass_low": 0.5}


@pytest.fixture(scope="module")
def source(
    write_records: Callable[..., list[Recording]], tmp_path_factory: pytest.TempPathFactory
) -> WfdbFolderSource:
    folder = tmp_path_factory.mktemp("source")
    write_records(folder, "a", "b", "c", "d", "e", "f")
    return WfdbFolderSource(folder)


@pytest.fixture(scope="module")
def prepared(source: WfdbFolderSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare_shards(source, folder, ClearHugFeatureExtractor(**SETTINGS), shard_size=2, progress=False)
    return folder


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "copied"))


def test_when_a_prepared_folder_is_loaded_then_rows_and_extractor_come_back(prepared: Path) -> None:
    assert is_prepared(prepared)
    datasets, extractor = load_prepared(prepared)
    assert {split: len(dataset) for split, dataset in datasets.items()} == {"train": 4, "validation": 1, "test": 1}
    assert datasets["train"].cache_files, "the rows are on disk"
    assert extractor.to_dict() == ClearHugFeatureExtractor(**SETTINGS).to_dict()


def test_when_a_folder_holds_records_then_it_is_not_taken_for_prepared(source: WfdbFolderSource) -> None:
    assert not is_prepared(source.path)
    assert not is_prepared(source.path / "absent")


@pytest.mark.parametrize("later", [{"num_beats": 12}, {"windows": "all", "stride_seconds": 5.0}])
def test_when_a_model_differs_in_what_is_not_stored_then_the_folder_fits(prepared: Path, later: dict) -> None:
    check_prepared_for(prepared, ClearHugFeatureExtractor(**SETTINGS, **later))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"do_rescale": False}, "was prepared with do_rescale=True, but the model requires do_rescale=False"),
        ({"bandpass_low": 0.67}, "bandpass_low=0.5, but the model requires bandpass_low=0.67"),
        ({"detector": "xqrs"}, "detector='multilead', but the model requires detector='xqrs'"),
    ],
)
def test_when_a_model_needs_other_signals_then_the_setting_is_named(prepared: Path, other: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_prepared_for(prepared, ClearHugFeatureExtractor(**{**SETTINGS, **other}))


def test_when_a_classifier_is_to_be_trained_then_scale_and_shorter_windows_of_the_recordings_are_taken_over(
    source: WfdbFolderSource, tmp_path: Path
) -> None:
    scaled = {"do_rescale": True, "rescale_limit": 2.0}
    for extractor in (ClearHugFeatureExtractor, EcgJepaFeatureExtractor):
        folder = tmp_path / extractor.__name__
        prepare_shards(source, folder, extractor(**scaled), progress=False)
        adopted = match_prepared(folder, extractor())
        assert adopted.to_dict() == extractor(**scaled).to_dict()
    short = {"window_seconds": 5.0}
    prepare_shards(source, tmp_path / "short", ClearHugFeatureExtractor(**short), progress=False)
    assert match_prepared(tmp_path / "short", ClearHugFeatureExtractor()).window_seconds == 5.0
    # Beats beyond what the model was made for, and patches of another window, are other inputs.
    prepare_shards(source, tmp_path / "patches", EcgJepaFeatureExtractor(**short), progress=False)
    for folder, extractor in (
        ("ClearHugFeatureExtractor", ClearHugFeatureExtractor(window_seconds=8.0)),
        ("patches", EcgJepaFeatureExtractor()),
        ("short", ClearHugFeatureExtractor(detector="xqrs")),
    ):
        with pytest.raises(InputError, match="prepare the recordings again"):
            match_prepared(tmp_path / folder, extractor)


@pytest.mark.parametrize("scaled", [{"scaling": "standard", "signal_std": 0.2}, {"scaling": "min_max"}])
def test_when_recordings_were_scaled_in_another_way_then_a_classifier_adopts_it(
    source: WfdbFolderSource, tmp_path: Path, scaled: dict[str, Any]
) -> None:
    beats = {"detector": "multilead"}
    prepare_shards(source, tmp_path, HeartLangFeatureExtractor(**beats, **scaled), progress=False)
    datasets, _ = load_prepared(tmp_path)
    assert set(datasets["train"]["unit"]) == {"NU"}
    adopted = match_prepared(tmp_path, HeartLangFeatureExtractor(**beats, on_lost_beats="ignore"))
    assert adopted.to_dict() == HeartLangFeatureExtractor(**beats, **scaled, on_lost_beats="ignore").to_dict()


def test_when_a_preparation_is_not_finished_then_it_explains_how_to_go_on(
    source: WfdbFolderSource, tmp_path: Path
) -> None:
    prepare_shards(
        source, tmp_path, ClearHugFeatureExtractor(), shard_size=2, shard_index=0, num_shards=2, progress=False
    )
    assert is_prepared(tmp_path)
    with pytest.raises(InputError, match="is not fully prepared: run the same `clear-hug prepare` again"):
        load_prepared(tmp_path)


SHARD, SHARDS = "data/train-00001-of-00002.parquet", r"train-00001-of-00002\.parquet"


def _with_entry(field: str, value: Any) -> Callable[[bytes], bytes]:
    """Changes the entry of a manifest for its first shard."""

    def changed(content: bytes) -> bytes:
        manifest = json.loads(content)
        manifest["shards"][0][field] = value
        return json.dumps(manifest).encode()

    return changed


@pytest.mark.parametrize("streamed", [(), ("train",)])
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (SHARD, lambda content: content[:-1], f"{SHARDS} is missing or damaged"),
        (SHARD, lambda content: None, f"{SHARDS} is missing or damaged"),
        (
            SHARD,
            lambda content: content[:999] + bytes([content[999] ^ 1]) + content[1000:],
            f"{SHARDS} is damaged: its SHA-256 is not that",
        ),
        (
            "preprocessor_config.json",
            lambda content: content.replace(b'"bandpass_low": 0.5', b'"bandpass_low": 0.4'),
            r"is damaged: bandpass_low is 0.4, but the signals were prepared with 0.5",
        ),
        ("manifest.json", lambda content: b"{", "is damaged"),
        ("manifest.json", lambda content: b"{}", "is not a manifest of"),
        ("manifest.json", _with_entry("file", "../elsewhere.parquet"), r"manifest\.json is damaged"),
        ("manifest.json", _with_entry("file", 3), r"manifest\.json is damaged"),
        ("manifest.json", _with_entry("rows", -1), r"manifest\.json is damaged"),
        ("manifest.json", _with_entry("size", None), r"manifest\.json is damaged"),
        ("manifest.json", _with_entry("sha256", []), r"manifest\.json is damaged"),
    ],
)
def test_when_a_file_is_missing_or_damaged_then_it_is_named(
    copied: Path, streamed: tuple[str, ...], file: str, change: Callable[[bytes], bytes | None], message: str
) -> None:
    changed = change((copied / file).read_bytes())
    (copied / file).unlink()
    if changed is not None:
        (copied / file).write_bytes(changed)
    with pytest.raises(InputError, match=message):
        load_prepared(copied, streamed)


def test_when_a_shard_was_checked_then_it_is_not_read_again_until_it_changes(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_prepared(copied)
    read: list[Path] = []
    monkeypatch.setattr(shard_checks, "_check_shard", lambda path, *_: read.append(path))
    load_prepared(copied)
    assert not read
    os.utime(copied / "data" / "train-00000-of-00002.parquet", ns=(1, 1))
    load_prepared(copied)
    assert [path.name for path in read] == ["train-00000-of-00002.parquet"]


def _forge(folder: Path, change: Callable[[pa.Table], pa.Table], shard: int = 0, **source: Any) -> None:
    """Another shard, with its entry in the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["shards"][shard]
    path = folder / entry["file"]
    pq.write_table(change(pq.read_table(path)), path)
    entry |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest["source"] |= source
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _with(name: str, change: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        values = pa.array([change(value) for value in table[name].to_pylist()], type=table.schema.field(name).type)
        return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["r_peaks"]), "it has no column r_peaks"),
        (lambda table: table.slice(1), "it has 1 rows instead of 2"),
        (
            lambda table: table.set_column(8, "signal_scale", pa.array([1.0, 2.0])),
            "the column signal_scale has the type double",
        ),
        (_with("lead_mask", lambda _: None), "values of lead_mask are missing"),
        (_with("r_peaks", lambda peaks: [None, *peaks[1:]]), "values of r_peaks are missing"),
        (_with("signal_scale", lambda scales: [float("nan"), *scales[1:]]), "signal_scale is not positive"),
        (_with("signal_scale", lambda scales: [*scales[1:], -1.0]), "signal_scale is not positive"),
        (_with("r_peaks", lambda peaks: peaks[::-1]), "r_peaks are negative or not ascending"),
        (_with("r_peaks", lambda peaks: [-5, *peaks]), "r_peaks are negative or not ascending"),
        (_with("sampling_rate", lambda _: 250.0), "sampling_rate is not 100 Hz"),
    ],
)
def test_when_a_shard_holds_what_no_preparation_writes_then_it_is_reported(
    copied: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    _forge(copied, change)
    # Some versions of pyarrow cannot even read a list that is missing.
    refusal = rf"was not written by .*: {message}|is not a complete Parquet file \(Expected all lists"
    with pytest.raises(InputError, match=rf"train-00000-of-00002\.parquet ({refusal})"):
        load_prepared(copied)


@pytest.mark.parametrize(
    ("label", "problem_type", "message"),
    [
        (7.0, "multi_label_classification", "a label is 7"),
        (float("inf"), "regression", "a label is inf"),
        (float("nan"), "multi_label_classification", None),
        (7.0, "regression", None),
    ],
)
def test_when_a_label_is_neither_1_nor_0_then_it_is_refused_unless_it_is_to_be_regressed(
    copied: Path, label: float, problem_type: str, message: str | None
) -> None:
    for shard in range(len(json.loads((copied / "manifest.json").read_text())["shards"])):

        def labeled(table: pa.Table) -> pa.Table:
            names = pa.struct([("a", pa.float32())])
            return table.append_column("labels", pa.array([{"a": label}] * len(table), type=names))

        _forge(copied, labeled, shard=shard, label_names=["a"], problem_type=problem_type)
    if message is None:
        load_prepared(copied)
    else:
        with pytest.raises(InputError, match=message):
            load_prepared(copied)
