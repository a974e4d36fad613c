"""Shards are the same bytes however they are made, and every recording is in them or rejected."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import Forked

from clear_hug_hf import ClearHugFeatureExtractor
from clear_hug_hf.data import sharding
from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.prepared import load_prepared
from clear_hug_hf.data.records import Recording, RecordReference
from clear_hug_hf.data.sharding import prepare_shards
from clear_hug_hf.processing import InputError


MakeRecordings = Callable[..., list[Recording]]
LABELS = ["fast", "inverted"]
NUM_GOOD, NUM_BAD, SHARD_SIZE = 30, 4, 5


@dataclass
class ListSource:
    """A source of given records."""

    records: list[Any]
    kind: str = "synthetic"
    title: str | None = None
    license: str | None = "CC BY 4.0"
    citation: str | None = None
    label_names: list[str] | None = field(default_factory=lambda: list(LABELS))
    problem_type: str | None = "multi_label_classification"
    settings: dict[str, Any] = field(default_factory=dict)
    excluded: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Any:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)


@pytest.fixture(scope="module")
def source(
    make_recordings: MakeRecordings,
    write_record: Callable[[Path, Recording], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> ListSource:
    """WFDB records of two splits, some of which cannot be used."""
    folder, recordings = tmp_path_factory.mktemp("source"), make_recordings(NUM_GOOD, sampling_rate=250.0)
    splits = ("train", "train", "test")
    references = [
        RecordReference(
            write_record(folder / recording.record_id, recording),
            record_id=recording.record_id,
            patient_id=recording.patient_id,
            labels=recording.labels,
            split=splits[index % 3],
        )
        for index, recording in enumerate(recordings)
    ]
    flat = replace(recordings[0], waveform=np.zeros_like(recordings[0].waveform))
    header = write_record(folder / "flat", flat)
    truncated = write_record(folder / "truncated", recordings[1])
    truncated.with_suffix(".dat").write_bytes(b"abc")
    nonsense = folder / "nonsense.hea"
    nonsense.write_bytes(bytes(range(256)))
    for place, path in ((3, header), (9, truncated), (10, nonsense), (33, folder / "absent")):
        references.insert(place, RecordReference(path, path.stem, split="train"))
    return ListSource(references)


def _prepare(source: ListSource, folder: Path, **options: Any) -> sharding.PreparationResult:
    settings = {"feature_extractor": ClearHugFeatureExtractor(), "shard_size": SHARD_SIZE, **options}
    return prepare_shards(source, folder, progress=False, **settings)


@pytest.fixture(scope="module")
def prepared(source: ListSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "output"
    outcome = _prepare(source, folder)
    assert outcome.manifest is not None
    return folder


@pytest.fixture(scope="module")
def begun(source: ListSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of the same preparation."""
    folder = tmp_path_factory.mktemp("begun") / "output"
    job = {"shard_size": SHARD_SIZE, "shard_index": 6, "num_shards": 7}
    _prepare(source, folder, **job)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_when_a_source_is_prepared_then_the_folder_is_whole_and_the_counts_add_up(
    source: ListSource, prepared: Path
) -> None:
    names = [f"data/test-{index:05d}-of-00002.parquet" for index in range(2)]
    names += [f"data/train-{index:05d}-of-00005.parquet" for index in range(5)]
    others = ["README.md", "excluded.csv", "manifest.json", "preprocessor_config.json", "rejected.csv"]
    assert sorted(_files(prepared)) == sorted([*names, *others])
    manifest = json.loads((prepared / "manifest.json").read_text())
    for shard in manifest["shards"]:
        assert shard["sha256"] == hashlib.sha256((prepared / shard["file"]).read_bytes()).hexdigest()
    with (prepared / "rejected.csv").open(newline="") as file:
        rejected = {row["record_id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(rejected) == {"flat", "truncated", "nonsense", "absent"}
    assert "flat" in rejected["flat"]
    assert "does not exist" in rejected["absent"]
    datasets, _ = load_prepared(prepared)
    kept = [record_id for dataset in datasets.values() for record_id in dataset["record_id"]]
    assert sorted([*kept, *rejected]) == sorted(record.record_id for record in source)
    for split in ("train", "test"):
        counts = manifest["splits"][split]
        assert counts["records"] == counts["kept"] + counts["rejected"]
        assert counts["rows"] == len(datasets[split])
        for label in LABELS:
            assert counts["positive"][label] == sum(row[label] for row in datasets[split]["labels"])
    assert sum(counts["records"] for counts in manifest["splits"].values()) == len(source)


def test_when_two_processes_prepare_then_the_bytes_are_the_same(
    source: ListSource, prepared: Path, tmp_path: Path
) -> None:
    _prepare(source, tmp_path / "two", num_proc=2)
    assert _files(tmp_path / "two") == _files(prepared)


def test_when_jobs_share_the_work_then_the_last_one_finishes_and_the_bytes_are_the_same(
    source: ListSource, prepared: Path, tmp_path: Path
) -> None:
    finished = []
    for job in (2, 0, 1):
        outcome = _prepare(source, tmp_path / "jobs", shard_index=job, num_shards=3)
        finished.append(outcome.manifest is not None)
    assert finished == [False, False, True]
    assert _files(tmp_path / "jobs") == _files(prepared)


# A preparation whose reader waits at one record for as long as a file exists, and prints which process waits there.
_WAITING = """
import os, pickle, sys, time
from pathlib import Path
from clear_hug_hf.data.records import RecordReference
from clear_hug_hf.data.sharding import prepare_shards
from clear_hug_hf import ClearHugFeatureExtractor

class Waiting(RecordReference):
    def read(self):
        while self.record_id == "12-0" and gate.exists():
            gate.write_text(str(os.getpid()))
            time.sleep(0.02)
        return super().read()

class Source(list):
    pass

output, gate, wanted = map(Path, sys.argv[1:])
if __name__ == "__main__":
    attributes = pickle.loads(wanted.read_bytes())
    source = Source(Waiting(**vars(record)) for record in attributes.pop("records"))
    vars(source).update(attributes)
    prepare_shards(source, output, ClearHugFeatureExtractor(), num_proc=2, shard_size=3, progress=False)
"""


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see which processes are left")
def test_when_a_preparation_is_killed_then_the_next_one_completes_it_with_the_same_bytes(
    source: ListSource, tmp_path: Path
) -> None:
    script, gate, output, wanted = (tmp_path / name for name in ("waiting.py", "gate", "killed", "wanted"))
    script.write_text(_WAITING)
    gate.write_text("")
    same = replace(source, records=[replace(record, split="train") for record in source.records])
    wanted.write_bytes(pickle.dumps(vars(same)))
    with Forked(script, output, gate, wanted, printed=tmp_path / "printed") as running:
        # One process waits within a shard and the other one has done what it could.
        while not gate.read_text() or len(list(output.glob(".preparation/shards/[!.]*.json"))) < 9:
            assert running.poll() is None, running.printed.read_text()
            time.sleep(0.02)
        waiting = int(gate.read_text())
        os.kill(running.pid, signal.SIGKILL)  # and none of its processes
    while _is_running(waiting):
        time.sleep(0.02)
    assert list(output.glob("data/.*.partial*")), "it was killed while it wrote"
    assert not (output / "manifest.json").exists()
    # A shard is done once its summary is written, too.
    done = [output / "data" / f"{path.stem}.parquet" for path in output.glob(".preparation/shards/[!.]*.json")]
    times = [path.stat().st_mtime_ns for path in done]
    gate.unlink()

    for where in (output, tmp_path / "whole"):
        outcome = _prepare(same, where, shard_size=3)
        assert outcome.num_done == outcome.num_planned
        assert outcome.num_existing == (len(done) if where == output else 0)
    assert [path.stat().st_mtime_ns for path in done] == times, "what was done is not done again"
    assert _files(output) == _files(tmp_path / "whole")


def test_when_a_device_is_full_then_what_is_written_stays_and_the_same_call_resumes(
    source: ListSource, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, calls = os.fsync, iter(range(1000))

    def fsync(descriptor: int) -> None:
        if next(calls) == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    folder = tmp_path / "full"
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(
        InputError, match=r"the disk of .*full is full: free some space.* to resume; finished shards stay valid"
    ):
        _prepare(source, folder)
    assert not list(folder.rglob("*.partial*"))
    assert _files(folder / "data").items() < _files(prepared / "data").items()
    outcome = _prepare(source, folder)
    assert 0 < outcome.num_existing < outcome.num_planned == outcome.num_done
    assert _files(folder) == _files(prepared)


@dataclass(frozen=True)
class Fatal(RecordReference):
    """A record that a library crashes at."""

    def read(self) -> Recording:
        os._exit(3)


@dataclass(frozen=True)
class Failing(RecordReference):
    """A record at which a reader fails in its own way."""

    error: type[Exception] = RuntimeError

    def read(self) -> Recording:
        raise self.error("of the reader")


def test_when_a_process_dies_then_the_error_names_where_and_the_others_work_is_kept(
    source: ListSource, tmp_path: Path
) -> None:
    records = [record for record in source.records if record.split == "train"][:12]
    records[-1] = Fatal(Path("crash"), "crash", split="train")
    with pytest.raises(InputError, match=r"a process was killed, .* one of the records .* to crash.* to resume"):
        _prepare(ListSource(records), tmp_path / "dead", num_proc=2, shard_size=2)
    assert list((tmp_path / "dead" / "data").glob("*.parquet"))
    # What is known of the records is the same, so this is the same preparation.
    records[-1] = Failing(Path("crash"), "crash", split="train")
    outcome = _prepare(ListSource(records), tmp_path / "dead", shard_size=2)
    assert outcome.manifest is not None
    assert outcome.num_existing > 0


def test_when_a_reader_raises_anything_then_the_record_is_rejected_with_it(source: ListSource, tmp_path: Path) -> None:
    errors = (RuntimeError, MemoryError, IndexError, AssertionError, UnicodeError)
    records = [source.records[0]]
    records += [Failing(Path(error.__name__), error.__name__, split="train", error=error) for error in errors]
    _prepare(ListSource(records), tmp_path / "output")
    rejected = "".join(f"{error.__name__},{error.__name__}: of the reader\n" for error in errors)
    assert (tmp_path / "output" / "rejected.csv").read_text() == f"record_id,reason\n{rejected}"


def test_when_the_package_is_absent_then_datasets_reads_the_shards(
    prepared: Path, stranger: Callable[..., str]
) -> None:
    code = f"""
import datasets
datasets.disable_progress_bars()
files = {{"train": r"{prepared}/data/train-*.parquet", "test": r"{prepared}/data/test-*.parquet"}}
for loaded in (
    datasets.load_dataset("parquet", data_files=files, cache_dir="cache"),
    datasets.load_dataset(r"{prepared}", cache_dir="cache"),
):
    assert set(loaded) == {{"train", "test"}}, loaded
    assert len(loaded["train"]) + len(loaded["test"]) == {NUM_GOOD}
    features = loaded["train"].features
    assert list(features["labels"]) == {LABELS}, features
    assert features["signal"] == datasets.List(datasets.List(datasets.Value("int16")), length=12)
    row = loaded["test"][0]
    assert row["record_id"] == "2-0" and row["lead_names"][:3] == ["I", "II", "III"] and row["num_beats"] > 5
"""
    stranger(code)


def test_when_loaded_rows_are_collated_then_the_numbers_are_the_extractors_to_16_bits(
    source: ListSource, prepared: Path
) -> None:
    datasets, extractor = load_prepared(prepared)
    rows = list(datasets["train"])
    paths = {record.record_id: record.path for record in source.records}
    originals = [RecordReference(paths[row["record_id"]], row["record_id"]).read() for row in rows]
    expected = extractor(
        [recording.waveform for recording in originals], 250.0, originals[0].lead_names, "mV", return_tensors="pt"
    )
    batch = EcgCollator(extractor, trim=False)(rows)
    for name in ("attention_mask", "time_ids", "lead_mask"):
        assert (batch[name] == expected[name]).all()
    # Half of the last bit of each lead, and the rounding of the division by it.
    tolerance = np.array([row["signal_scale"] for row in rows])[:, :, None, None] * 0.505
    assert (np.abs(batch["input_values"].numpy() - expected["input_values"].numpy()) <= tolerance).all()
    truth = {record.record_id: record.labels for record in source.records}
    assert batch["labels"].tolist() == [[truth[row["record_id"]][name] for name in LABELS] for row in rows]


def test_when_a_preparation_is_finished_then_the_same_call_does_nothing(source: ListSource, prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    outcome = _prepare(source, prepared)
    assert outcome.num_existing == outcome.num_planned == 7
    assert outcome.manifest == json.loads((prepared / "manifest.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


@pytest.mark.parametrize("state", ["begun", "prepared"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor": {"do_rescale": True}}, "feature_extractor: do_rescale was False and is now True"),
        ({"shard_size": 6}, "shard_size was 5 and is now 6"),
        ({"records": 1}, "source: num_records: train was 24 and is now 23"),
        ({"labels": True}, "its records have other ids, patients, splits or labels"),
        ({"source": {"settings": {"label_set": "x"}}}, "source: settings: label_set was None and is now 'x'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_when_the_output_holds_another_preparation_then_it_is_refused_and_left(
    source: ListSource, request: pytest.FixtureRequest, change: dict[str, Any], message: str, state: str
) -> None:
    folder = request.getfixturevalue(state)
    before = _files(folder)
    records = source.records[change.get("records", 0) :]
    if "labels" in change:
        records = [replace(records[0], labels=None), *records[1:]]
    changed = replace(source, records=records, **change.get("source", {}))
    extractor = ClearHugFeatureExtractor(**change.get("extractor", {}))
    with pytest.raises(InputError, match="contains a different preparation") as raised:
        _prepare(changed, folder, feature_extractor=extractor, shard_size=change.get("shard_size", SHARD_SIZE))
    assert message in str(raised.value)
    assert _files(folder) == before


def test_when_a_preparation_was_begun_with_another_version_then_the_two_are_not_mixed(
    source: ListSource, prepared: Path, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "version", lambda package: "99")
    with pytest.raises(InputError, match=r"versions: clear-hug-hf was .* and is now '99'"):
        _prepare(source, begun)
    assert _prepare(source, prepared).manifest is not None


def test_when_the_output_is_not_for_us_then_it_is_refused(source: ListSource, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="contains other files: choose a new or empty output folder"):
        _prepare(source, tmp_path)
    with pytest.raises(InputError, match="not writable"):
        _prepare(source, tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_proc": 0}, "num_proc is 0"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"shard_index": 1}, "set both"),
        ({"num_shards": 2}, "set both"),
        ({"shard_index": 2, "num_shards": 2}, "from 0 to num_shards - 1"),
        ({"shard_index": 0, "num_shards": 0}, "from 0 to num_shards - 1"),
        ({"shard_index": -1, "num_shards": 2}, "from 0 to num_shards - 1"),
    ],
)
def test_when_a_number_makes_no_sense_then_nothing_is_written(
    source: ListSource, tmp_path: Path, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _prepare(source, tmp_path / "output", **settings)
    assert not (tmp_path / "output").exists()


def test_when_no_recording_can_be_used_then_the_first_reason_is_given_and_all_are_listed(
    source: ListSource, tmp_path: Path
) -> None:
    flat = source.records[3]
    with pytest.raises(
        InputError, match=r"none of the 1 recordings can be used: see .*rejected.csv; .* all leads are flat"
    ):
        _prepare(ListSource([flat]), tmp_path / "output")
    assert len((tmp_path / "output" / "rejected.csv").read_text().splitlines()) == 2
    assert not (tmp_path / "output" / "manifest.json").exists()


def test_when_a_whole_split_is_rejected_then_the_others_load(source: ListSource, tmp_path: Path) -> None:
    records = [source.records[0], replace(source.records[3], patient_id="other", split="test")]
    _prepare(ListSource(records), tmp_path / "output")
    datasets, _ = load_prepared(tmp_path / "output")
    assert {split: len(dataset) for split, dataset in datasets.items()} == {"train": 1}


def test_when_a_source_has_no_splits_then_patients_are_drawn_and_none_is_on_two_sides(
    make_recordings: MakeRecordings, tmp_path: Path
) -> None:
    records = [replace(record, split=None) for record in make_recordings(12, per_patient=2)]
    fractions = {"train": 0.5, "validation": 0.25, "test": 0.25}
    found = []
    for name, order, seed in (("a", records, 1), ("b", records[::-1], 1), ("c", records, 2)):
        _prepare(ListSource(order), tmp_path / name, split_fractions=fractions, seed=seed)
        datasets, _ = load_prepared(tmp_path / name)
        patients = {split: set(dataset["patient_id"]) for split, dataset in datasets.items()}
        assert {split: len(members) for split, members in patients.items()} == {"train": 6, "validation": 3, "test": 3}
        assert len(set.union(*patients.values())) == 12
        assert all(set(dataset["split"]) == {split} for split, dataset in datasets.items())
        found.append(patients)
    assert found[0] == found[1] != found[2]


def test_when_official_splits_share_a_patient_then_nothing_is_written(source: ListSource, tmp_path: Path) -> None:
    records = [source.records[0], replace(source.records[1], patient_id="p0", split="test")]
    with pytest.raises(InputError, match="patient p0 is in two splits"):
        _prepare(ListSource(records), tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_when_the_source_leaves_recordings_out_then_they_are_listed_with_the_reason(
    source: ListSource, tmp_path: Path
) -> None:
    shorter = replace(source, records=source.records[:2], excluded=[("A1", "it has none of the labels")])
    outcome = _prepare(shorter, tmp_path / "output")
    assert outcome.manifest is not None
    assert outcome.manifest["excluded"] == 1
    assert (tmp_path / "output" / "excluded.csv").read_text() == "record_id,reason\nA1,it has none of the labels\n"


def test_when_recordings_give_several_windows_then_each_is_a_row_and_the_choice_is_saved(
    make_recordings: MakeRecordings, tmp_path: Path
) -> None:
    recording = make_recordings(1)[0]
    long = replace(recording, waveform=np.tile(recording.waveform, (1, 3))[:, :2500])
    extractor = ClearHugFeatureExtractor(windows="all", stride_seconds=5.0)
    outcome = _prepare(ListSource([long]), tmp_path / "output", feature_extractor=extractor)
    assert outcome.manifest is not None
    counts = outcome.manifest["splits"]["train"]
    assert [counts[name] for name in ("records", "kept", "rejected", "rows")] == [1, 1, 0, 4]
    datasets, saved = load_prepared(tmp_path / "output")
    assert datasets["train"]["window_start"][:] == [0.0, 5.0, 10.0, 15.0]
    assert (saved.windows, saved.stride_seconds) == ("all", 5.0)
