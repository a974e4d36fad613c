"""
Prepare a source of recordings as a folder of Parquet shards: in parallel, on one or several machines, resumable.

The recordings of each split are divided into shards of `shard_size`, in the order of the source. A shard is written
atomically, followed by a small summary file that marks it as finished. The bytes of the shards therefore do not depend
on the order, the number of processes or interruptions. When all shards are finished, the manifest and the dataset card
are written.

```
README.md                          dataset card
manifest.json                      source, settings, versions, counts, checksums; written last
preprocessor_config.json           the feature extractor
rejected.csv                       recordings that could not be used, with reasons
excluded.csv                       recordings that the label set or the options exclude, with reasons
data/train-00000-of-00003.parquet  rows, see `dataset_features`
.preparation/                      temporary files of an unfinished preparation
```
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow.compute as pc
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm
from transformers.utils import logging

from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from ..utils.files import (
    RunFolder,
    atomic_file,
    file_digest,
    read_state,
    remove_leftovers,
    write_csv,
    write_json,
    write_text,
)
from .model_files import EXTRACTOR, extractor_settings
from .preparation import dataset_features, prepare_tables
from .readers.base import RecordSource
from .records import RecordReference, Rejected
from .splits import DEFAULT_FRACTIONS, assign_splits


SHARD_SIZE = 1000
MANIFEST = "manifest.json"
_FORMAT = 1
_CARD, _REJECTED, _DATA = "README.md", "rejected.csv", "data"
_EXCLUDED = "excluded.csv"
WORK, _PLAN, _SUMMARIES = ".preparation", "plan.json", "shards"
_SPLITS = ("train", "validation", "test")
# Packages that determine the bytes of the shards: a resumed preparation must not mix versions.
_VERSIONS = ("clear-hug-hf", "numpy", "scipy", "pyarrow")
_REMEDY = "choose another output folder, or delete it"
# License names on the Hub.
_HUB_LICENSES = {"CC BY 4.0": "cc-by-4.0", "ODC-By 1.0": "odc-by", "ODbL 1.0": "odbl"}
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
# Neighboring samples differ little, so delta encoding leaves almost nothing to compress.
_PARQUET: dict[str, Any] = {
    "version": "2.6",
    "use_dictionary": False,
    "column_encoding": {"signal.list.element.list.element": "DELTA_BINARY_PACKED"},
    "compression": "snappy",
    "store_schema": True,
}


class PreparationResult(NamedTuple):
    """
    Result of [`prepare_shards`].

    Args:
        folder (`Path`): The output folder.
        num_done, num_planned (`int`): Number of finished shards, and of all shards.
        num_existing (`int`): Number of shards that earlier calls finished.
        manifest (`dict`, *optional*): The manifest, once all shards are finished.
    """

    folder: Path
    num_done: int
    num_planned: int
    num_existing: int
    manifest: dict[str, Any] | None


class _Shard(NamedTuple):
    """A planned shard."""

    split: str
    number: int
    total: int
    position: int
    records: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}-of-{self.total:05d}"

    @property
    def file(self) -> str:
        return f"{_DATA}/{self.name}.parquet"

    @property
    def summary(self) -> str:
        return f"{WORK}/{_SUMMARIES}/{self.name}.json"


def prepare_shards(
    source: RecordSource,
    output: str | Path,
    feature_extractor: EcgFeatureExtractor,
    *,
    num_proc: int = 1,
    shard_size: int = SHARD_SIZE,
    split_fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    shard_index: int | None = None,
    num_shards: int | None = None,
    progress: bool = True,
) -> PreparationResult:
    """
    Prepare all recordings of a source, or one job's part of them, as Parquet shards. An interrupted preparation
    resumes when it is called again.

    Processes are not forked, so scripts that use `num_proc` above 1 need the usual `if __name__ == "__main__":`.

    Args:
        source ([`RecordSource`]): The recordings, as `open_source` returns them.
        output (`str` or `Path`): Output folder: new, empty, or of the same preparation.
        feature_extractor ([`EcgFeatureExtractor`]): Cleans recordings, detects beats and selects windows; saved beside
            the shards.
        num_proc (`int`, *optional*, defaults to 1): Number of processes. The result does not depend on it.
        shard_size (`int`, *optional*, defaults to 1000): Recordings per shard, about 24 kB each.
        split_fractions (`Mapping[str, float]`, *optional*), seed (`int`, *optional*, defaults to 0): Random splits, as
            in [`assign_splits`].
        shard_index, num_shards (`int`, *optional*): Prepare only every `num_shards`-th shard, starting at
            `shard_index`, so that jobs on several machines share the work and the output folder. The last job writes
            the manifest.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on stderr.

    Returns:
        [`PreparationResult`]: State of the preparation. If it was already finished, nothing is done.

    Raises:
        InputError: If a patient is in two splits, no recording can be used, the folder contains other files or is not
            writable, the disk is full, or a process is killed. Finished shards stay valid, and the same call resumes.
    """
    if num_proc < 1 or shard_size < 1:
        raise InputError(f"num_proc is {num_proc} and shard_size is {shard_size}: both must be at least 1")
    if (shard_index is None) != (num_shards is None) or (
        num_shards is not None and not 0 <= (shard_index or 0) < num_shards
    ):
        raise InputError(
            f"shard_index is {shard_index} and num_shards is {num_shards}: set both, with shard_index from 0 to "
            "num_shards - 1"
        )
    folder = Path(output)
    split_of = assign_splits(source, split_fractions, seed)
    official = split_fractions is None and source[0].split is not None
    splits = None if official else {"fractions": dict(split_fractions or DEFAULT_FRACTIONS), "seed": seed}
    plan = _make_plan(source, split_of, feature_extractor, shard_size, splits)
    shards = _plan_shards(plan["source"]["num_records"], shard_size)
    with _disk_errors(folder):
        if (manifest := _begin(folder, plan)) is not None:
            return PreparationResult(folder, len(shards), len(shards), len(shards), manifest)
        existing = {shard for shard in shards if _read_summary(folder, shard) is not None}
        if progress and existing:
            tqdm.write(f"{folder}: resuming, {len(existing)} of {len(shards)} shards are finished", file=sys.stderr)
        job, num_jobs = shard_index or 0, num_shards or 1
        remaining = [shard for shard in shards if shard not in existing and shard.position % num_jobs == job]
        total = sum(shard.records for shard in remaining)
        with tqdm(desc="prepare", unit="rec", total=total, disable=not progress) as bar:
            work = _gather(source, split_of, remaining, shard_size)
            _write_shards(work, folder, source.label_names, feature_extractor, num_proc, bar)

        summaries = [summary for shard in shards if (summary := _read_summary(folder, shard)) is not None]
        # Another job may meanwhile have written the manifest and removed the summaries.
        manifest = read_state(folder / MANIFEST, _REMEDY)
        if manifest is None and len(summaries) == len(shards):
            manifest = _finish(folder, plan, summaries, feature_extractor, source.excluded)
    return PreparationResult(
        folder, len(summaries) if manifest is None else len(shards), len(shards), len(existing), manifest
    )


# ------------------------------------------------------------------------------------------------------------- plan


def _make_plan(
    source: RecordSource,
    split_of: Mapping[str, str],
    extractor: EcgFeatureExtractor,
    shard_size: int,
    splits: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The settings in which two calls must agree to be the same preparation."""
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    for record in source:
        split = split_of[record.record_id]
        counts[split] += 1
        identity = [record.record_id, record.patient_id, split, record.labels]
        digest.update(json.dumps(identity, default=dict).encode())
    order = sorted(counts, key=lambda split: (_SPLITS.index(split) if split in _SPLITS else len(_SPLITS), split))
    plan = {
        "format": _FORMAT,
        "source": {
            "title": source.title or source.kind,
            "license": source.license,
            "citation": source.citation,
            "settings": source.settings,
            "label_names": source.label_names or [],
            "problem_type": source.problem_type,
            "num_records": {split: counts[split] for split in order},
            "records_sha256": digest.hexdigest(),
        },
        "random_splits": splits,
        "feature_extractor": extractor_settings(extractor),
        "shard_size": shard_size,
        "versions": {package: version(package) for package in _VERSIONS},
    }
    return json.loads(json.dumps(plan, default=str))  # as it will be read back


def _plan_shards(counts: Mapping[str, int], shard_size: int) -> list[_Shard]:
    shards: list[_Shard] = []
    for split, count in counts.items():
        num_shards = -(-count // shard_size)
        for number in range(num_shards):
            shards.append(_Shard(split, number, num_shards, len(shards), min(shard_size, count - number * shard_size)))
    return shards


def _begin(folder: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Claim a new output folder for a plan, or check that it has the same plan; its manifest if it is finished."""
    # In this order, so that a job that starts or finishes at this moment is handled.
    entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    started = read_state(folder / WORK / _PLAN, _REMEDY)
    manifest = read_state(folder / MANIFEST, _REMEDY)
    saved = manifest or started
    if saved is None and entries - {WORK}:
        raise InputError(f"{folder} contains other files: choose a new or empty output folder")
    if saved is not None:
        # Versions matter only while shards are being written.
        compared = {name: part for name, part in plan.items() if not (manifest and name == "versions")}
        words = {"source: records_sha256": "its records have other ids, patients, splits or labels"}
        run_folder = RunFolder(folder, MANIFEST, "preparation", _REMEDY, words=words)
        run_folder.check_same({name: saved.get(name) for name in compared}, compared)
    if manifest is None:
        (folder / WORK / _SUMMARIES).mkdir(parents=True, exist_ok=True)
        if started is None:
            write_json(folder / WORK / _PLAN, plan)
        (folder / _DATA).mkdir(exist_ok=True)
    return manifest


# ------------------------------------------------------------------------------------------------------------- work


def _gather(
    source: RecordSource, split_of: Mapping[str, str], shards: list[_Shard], shard_size: int
) -> Iterator[tuple[_Shard, list[RecordReference]]]:
    """Shards with their recordings, each as soon as the source has returned its last recording."""
    planned = {(shard.split, shard.number): shard for shard in shards}
    counts: Counter[str] = Counter()
    records: dict[tuple[str, int], list[RecordReference]] = {}
    for record in source if planned else ():
        split = split_of[record.record_id]
        key = (split, counts[split] // shard_size)
        counts[split] += 1
        if key in planned:
            records.setdefault(key, []).append(replace(record, split=split))
            if len(records[key]) == planned[key].records:
                yield planned[key], records.pop(key)


def _write_shards(
    work: Iterator[tuple[_Shard, list[RecordReference]]],
    folder: Path,
    label_names: list[str] | None,
    extractor: EcgFeatureExtractor,
    num_proc: int,
    bar: tqdm,
) -> None:
    rejected = 0

    def count(summary: Mapping[str, Any]) -> None:
        nonlocal rejected
        rejected += len(summary["rejected"])
        bar.set_postfix(rejected=rejected, refresh=False)
        bar.update(summary["records"])

    if num_proc == 1:
        for shard, records in work:
            count(_write_shard(folder, shard, records, extractor, label_names))
        return

    # A fork would inherit locks that threads of this process hold. The fork server imports dependencies only once.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])
    running: dict[Future[dict[str, Any]], str] = {}
    with ProcessPoolExecutor(num_proc, context, initializer=_start_process) as pool:
        try:
            for shard, records in work:
                job = pool.submit(_write_shard, folder, shard, records, extractor, label_names)
                running[job] = f"{records[0].record_id} to {records[-1].record_id}"
                if len(running) > num_proc:
                    for finished in wait(running, return_when=FIRST_COMPLETED).done:
                        count(finished.result())
                        del running[finished]
            for finished in as_completed(running):
                count(finished.result())
        except BrokenProcessPool:
            raise InputError(
                "a process was killed, as memory ran out or a library crashed, while preparing one of the records "
                f"{'; '.join(running.values())}: run the same preparation again to resume, with fewer processes if "
                "memory is short"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, too, and shuts this process down
    logging.set_verbosity_error()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """Exit when the parent process is killed; otherwise this process would wait for work forever."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _write_shard(
    folder: Path,
    shard: _Shard,
    records: list[RecordReference],
    extractor: EcgFeatureExtractor,
    label_names: list[str] | None,
) -> dict[str, Any]:
    """Prepare and write one shard; returns its entry of the manifest, with the rejected recordings."""
    rejected: list[Rejected] = []
    ids: set[str] = set()
    positive: Counter[str] = Counter()
    rows = num_bytes = 0
    # A single thread: work is parallel over processes, and rounding must not depend on the number of threads.
    with (
        atomic_file(folder / shard.file) as partial,
        pq.ParquetWriter(partial, dataset_features(label_names).arrow_schema, **_PARQUET) as writer,
        threadpool_limits(limits=1),
    ):
        for table in prepare_tables(records, extractor, label_names, rejected):
            writer.write_table(table)
            rows += table.num_rows
            num_bytes += table.nbytes
            ids.update(table["record_id"].to_pylist())
            for name in label_names or ():
                positive[name] += pc.sum(pc.equal(pc.struct_field(table["labels"], [name]), 1.0)).as_py() or 0
    summary = {
        "file": shard.file,
        "split": shard.split,
        "records": len(records),
        "kept": len(ids),
        "rows": rows,
        "positive": dict(positive),
        "num_bytes": num_bytes,
        "size": (folder / shard.file).stat().st_size,
        "sha256": file_digest(folder / shard.file),
        "rejected": [list(entry) for entry in rejected],
    }
    if len(ids) + len(rejected) != len(records):
        raise RuntimeError(
            f"{shard.file}: {len(records)} records gave {len(ids)} prepared and {len(rejected)} rejected"
        )
    write_json(folder / shard.summary, summary)
    return summary


def _read_summary(folder: Path, shard: _Shard) -> dict[str, Any] | None:
    """The summary of a shard if it is finished."""
    summary = read_state(folder / shard.summary, _REMEDY)
    path = folder / shard.file
    if summary is None or not path.is_file() or path.stat().st_size != summary["size"]:
        return None
    return summary


# ----------------------------------------------------------------------------------------------------------- finish


def _finish(
    folder: Path,
    plan: dict[str, Any],
    summaries: list[dict[str, Any]],
    extractor: EcgFeatureExtractor,
    excluded: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    rejected = [entry for summary in summaries for entry in summary.pop("rejected")]
    for name, rows in ((_REJECTED, rejected), (_EXCLUDED, excluded)):
        write_csv(folder / name, [dict(zip(Rejected._fields, row, strict=True)) for row in rows], Rejected._fields)
    if len(rejected) == sum(summary["records"] for summary in summaries):
        raise InputError(
            f"none of the {len(rejected)} recordings can be used: see {folder / _REJECTED}; the first is "
            f"{rejected[0][0]}: {rejected[0][1]}"
        )
    splits: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        empty: dict[str, Any] = {"records": 0, "kept": 0, "rejected": 0, "rows": 0, "positive": {}}
        split = splits.setdefault(summary["split"], empty)
        for name in ("records", "kept", "rows"):
            split[name] += summary[name]
        split["rejected"] = split["records"] - split["kept"]
        positive = summary.pop("positive")
        for label, number in {} if plan["source"]["problem_type"] == "regression" else positive.items():
            split["positive"][label] = split["positive"].get(label, 0) + number
    manifest = {**plan, "splits": splits, "excluded": len(excluded), "shards": summaries}
    write_text(folder / EXTRACTOR, extractor.to_json_string())
    write_text(folder / _CARD, _card(manifest))
    write_json(folder / MANIFEST, manifest)
    for written in (folder, folder / "data"):
        remove_leftovers(written)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return manifest


def _card(manifest: Mapping[str, Any]) -> str:
    """The dataset card, with the metadata that the Hub and `datasets.load_dataset` read."""
    source, splits = manifest["source"], manifest["splits"]
    features = dataset_features(source["label_names"])
    filled = [split for split in splits if splits[split]["rows"]]
    sizes = {
        split: {
            field: sum(shard[field] for shard in manifest["shards"] if shard["split"] == split)
            for field in ("num_bytes", "size")
        }
        for split in filled
    }
    info = datasets.DatasetInfo(
        features=features,
        splits={
            split: {"name": split, "num_bytes": size["num_bytes"], "num_examples": splits[split]["rows"]}
            for split, size in sizes.items()
        },
        download_size=sum(size["size"] for size in sizes.values()),
        dataset_size=sum(size["num_bytes"] for size in sizes.values()),
    )
    header = DatasetCardData(
        pretty_name=f"{source['title']}, prepared",
        license=_HUB_LICENSES.get(source["license"], "other"),
        tags=["ecg", "electrocardiogram", "12-lead-ecg", "clear-hug-hf"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{_DATA}/{split}-*.parquet"} for split in filled],
            }
        ],
    )
    datasets.info.DatasetInfosDict({"default": info}).to_dataset_card_data(header)
    counts = "\n".join(
        f"| {split} | {count['records']} | {count['kept']} | {count['rejected']} | {count['rows']} |"
        for split, count in splits.items()
    )
    labels = ""
    if source["label_names"] and source["problem_type"] != "regression":
        lines = (
            f"| {name} | " + " | ".join(str(splits[split]["positive"].get(name, 0)) for split in splits) + " |"
            for name in source["label_names"]
        )
        labels = (
            f"\n## Labels\n\nPositive rows.\n\n| label | {' | '.join(splits)} |\n|---|{'---|' * len(splits)}\n"
            + "\n".join(lines)
            + "\n"
        )
    extractor = manifest["feature_extractor"]
    return f"""---
{header}
---

# {source["title"]}, prepared

12-lead ECG recordings at {extractor["sampling_rate"]:g} Hz with annotated heartbeats, prepared by `clear-hug prepare`
(clear-hug-hf {manifest["versions"]["clear-hug-hf"]}). License of the recordings:
{source["license"] or "see their source"}. {source["citation"] or ""}

| split | records | prepared | rejected | rows |
|---|---|---|---|---|
{counts}

`{_REJECTED}` lists rejected recordings with reasons, and `{_EXCLUDED}` the {manifest["excluded"]} that the label set
or the options exclude. `{MANIFEST}` contains the settings and the checksum of every file. The splits are {
        "official" if manifest["random_splits"] is None else "random by patient"
    }: no patient is in more than one. {labels} ## Use

```python
import numpy as np
from datasets import load_dataset

row = load_dataset("PATH OR HUB NAME OF THIS FOLDER", split="{filled[0]}")[0]
signal = np.array(row["signal"]) * np.array(row["signal_scale"])[:, None]  # 12 leads x samples, in row["unit"]
```

```
clear-hug pretrain --data THIS_FOLDER --output-dir runs/pretrained
```

## Columns

| column | content |
|---|---|
{_COLUMNS}
"""


_COLUMNS = """\
| `record_id`, `patient_id`, `split` | as in the source; null if unknown |
| `window_start` | start of the row in its recording [s] |
| `sampling_rate` | sampling rate of the signal [Hz] |
| `unit` | unit of the signal times its scale: mV, or NU for normalized recordings |
| `lead_names` | names of the leads, in order |
| `signal`, `signal_scale` | cleaned samples as 16-bit integers, and the scale of each lead |
| `lead_mask` | whether each lead is present; missing leads are zeros |
| `r_peaks`, `num_beats` | R peaks of all beats [samples from the start of the row], and their number |
| `flat_leads`, `nan_share`, `clipped_share` | quality of the original recording: constant leads, fraction of NaN, \
fraction of clipped samples |
| `report` | text report of the recording; null if there is none |
| `labels` | one number per label: 1 or 0, or a regression target; NaN if unknown |"""


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise InputError(
                f"the disk of {folder} is full: free some space and run the same preparation again to resume; "
                "finished shards stay valid"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise InputError(f"{folder} is not writable ({error.strerror}): choose another output folder") from error
        raise
