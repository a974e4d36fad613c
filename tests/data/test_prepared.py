"""A prepared folder is used with the model it fits, or refused with the setting that differs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clear_hug_hf.data.prepared import check_prepared_for, is_prepared, load_prepared
from clear_hug_hf.data.readers import WfdbFolderSource
from clear_hug_hf.data.records import Recording
from clear_hug_hf.data.sharding import prepare_shards
from clear_hug_hf.processing import ClearHugFeatureExtractor, InputError


SETTINGS = {"do_rescale": True, "bandpass_low": 0.5}


@pytest.fixture(scope="module")
def source(
    make_recordings: Callable[..., list[Recording]],
    write_record: Callable[[Path, Recording], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> WfdbFolderSource:
    folder = tmp_path_factory.mktemp("source")
    for recording in make_recordings(6):
        write_record(folder / recording.record_id, replace(recording, labels=None))
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
        ({"do_rescale": False}, "was prepared with do_rescale=True and the model needs do_rescale=False"),
        ({"bandpass_low": 0.67}, "bandpass_low=0.5 and the model needs bandpass_low=0.67"),
        ({"detector": "xqrs"}, "detector='multilead' and the model needs detector='xqrs'"),
    ],
)
def test_when_a_model_needs_other_signals_then_the_setting_is_named(prepared: Path, other: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_prepared_for(prepared, ClearHugFeatureExtractor(**{**SETTINGS, **other}))


def test_when_a_preparation_is_not_finished_then_it_says_how_to_go_on(
    source: WfdbFolderSource, tmp_path: Path
) -> None:
    prepare_shards(
        source, tmp_path, ClearHugFeatureExtractor(), shard_size=2, shard_index=0, num_shards=2, progress=False
    )
    assert is_prepared(tmp_path)
    with pytest.raises(InputError, match="is not prepared to the end: start the same `clear-hug prepare` again"):
        load_prepared(tmp_path)


def test_when_a_shard_is_damaged_or_missing_then_it_is_named(copied: Path) -> None:
    shard = copied / "data" / "train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"train-00001-of-00002\.parquet is missing or damaged"):
        load_prepared(copied)
    shard.unlink()
    with pytest.raises(InputError, match=r"train-00001-of-00002\.parquet is missing or damaged"):
        load_prepared(copied)


@pytest.mark.parametrize(("text", "message"), [("{", "is damaged"), ("{}", "is not a manifest of")])
def test_when_the_manifest_cannot_be_used_then_it_says_so(copied: Path, text: str, message: str) -> None:
    (copied / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_prepared(copied)
