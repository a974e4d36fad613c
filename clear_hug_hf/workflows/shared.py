"""Shared by several workflows: fields of their arguments, sources of recordings, pictures and messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..utils.arguments import Arguments


if TYPE_CHECKING:
    import datasets

    from ..data.records import Recording, RecordReference, Rejected


_MAX_LISTED = 20

LABELED_HELP = (
    "Output of `clear-hug prepare`, a CSV table of records and labels as `clear-hug prepare --help` explains, or a "
    "folder of PTB-XL, whose labels are the five diagnostic superclasses."
)


def records_field(help: str) -> Any:
    """Field of the recordings that a verb reads."""
    return field(metadata={"help": help, "positional": True, "metavar": "RECORD"})


@dataclass(kw_only=True)
class StatedArguments(Arguments):
    """What the user states about files of samples, such as CSV and NumPy files, that do not state it themselves."""

    sampling_rate: float | None = field(
        default=None,
        metadata={"help": "Sampling rate of files that do not state it.", "gt": 0, "metavar": "HZ"},
    )
    lead_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the leads of files that do not state them.", "metavar": "LEAD"}
    )
    unit: Literal["mV", "uV", "V", "NU"] | None = field(
        default=None, metadata={"help": "Unit of the samples of files that do not state it (NU: normalized)."}
    )

    @property
    def stated(self) -> dict[str, Any]:
        """What is stated, as arguments of [`~data.records.read_record`]."""
        return {"sampling_rate": self.sampling_rate, "lead_names": self.lead_names, "unit": self.unit}


def model_field(help: str) -> Any:
    """Field of the model that a verb loads."""
    return field(metadata={"help": f"{help}, the name of a shipped model, or hf://ORG/NAME.", "metavar": "FOLDER"})


def output_dir_field(default: str | None = None, help: str = "Folder of the run.") -> Any:
    """Field of the folder that a verb writes; required without a default."""
    metadata = {"help": help, "metavar": "DIR"}
    return field(metadata=metadata) if default is None else field(default=Path(default), metadata=metadata)


def max_samples_field() -> Any:
    """Field that limits the number of recordings."""
    help = "Use only the first N recordings of each split."
    return field(default=None, metadata={"help": help, "gt": 0, "metavar": "N"})


def seed_field(help: str) -> Any:
    """Field of a seed that NumPy and PyTorch accept."""
    return field(default=0, metadata={"help": help, "ge": 0, "lt": 2**32})


def overwrite_field(what: str) -> Any:
    """Field that allows a verb to replace existing files."""
    return field(default=False, metadata={"help": f"Replace {what}, but never an input."})


@dataclass(kw_only=True)
class CacheArguments(Arguments):
    """Cache of the features of frozen encoders."""

    feature_cache: Path | None = field(
        default=None,
        metadata={
            "help": "Folder that caches the features of frozen encoders (default: clear_hug_features in HF_HOME).",
            "metavar": "DIR",
        },
    )
    use_feature_cache: bool = field(default=True, metadata={"help": "Cache the features of frozen encoders."})

    @property
    def cache_dir(self) -> Path | None:
        """Folder of the cache, or `None` if it is not used."""
        from ..training.features import default_cache

        return (self.feature_cache or default_cache()) if self.use_feature_cache else None


@dataclass
class Sources:
    """
    Recordings by split, or prepared datasets with their folder (`prepared`) and feature extractor, and the names of
    their labels (`None` if there are none). `about` is the result of `describe_source`.
    """

    splits: dict[str, Any]
    label_names: list[str] | None
    about: dict[str, Any]
    prepared: Path | None = None
    extractor: Any = None
    is_table: bool = False

    @classmethod
    def by_split(
        cls,
        recordings: Sequence[Recording | RecordReference],
        limit: int | None,
        label_names: list[str] | None,
        about: dict[str, Any],
        is_table: bool = False,
    ) -> Sources:
        """Group recordings by their split, at most `limit` in each."""
        splits = {
            split: [recording for recording in recordings if recording.split == split][:limit]
            for split in ("train", "validation", "test")
        }
        return cls({split: group for split, group in splits.items() if group}, label_names, about, is_table=is_table)


def read_source(
    folder: Path,
    limit: int | None,
    streaming_splits: Sequence[str] = (),
    label_columns: Sequence[str] | None = None,
    allow_missing: bool = False,
    split_at_random: bool = False,
) -> Sources:
    """
    Read the source of `--data`: a prepared folder, PTB-XL with labels and folds, a CSV table, or any folder of
    recordings in any format, which have no labels.

    Args:
        folder (`Path`): The source.
        limit (`int`, *optional*): Maximum number of recordings of each split.
        streaming_splits (`Sequence[str]`, *optional*): Splits of a prepared folder to stream.
        label_columns (`Sequence[str]`, *optional*): Label columns of a CSV table.
        allow_missing (`bool`, *optional*, defaults to `False`): Whether the table may lack some of these columns.
        split_at_random (`bool`, *optional*, defaults to `False`): Whether to split a folder of recordings at random;
            otherwise all are in `train`.

    Raises:
        FileNotFoundError: If the source does not exist.
        InputError: If the table, its labels or the records are invalid.
    """
    from ..data.prepared import is_prepared, load_prepared
    from ..data.readers import open_source
    from ..data.readers.ptbxl import TABLE
    from ..data.records import RecordReference, find_records, read_patient, record_name
    from ..data.splits import random_splits
    from ..training.provenance import RANDOM_SPLITS, SOURCE_SPLITS, describe_source

    if not folder.exists():
        raise FileNotFoundError(f"the data folder {folder} does not exist: check the path")
    if folder.suffix.lower() == ".csv" and label_columns is not None:
        return _read_table(folder, limit, label_columns, allow_missing)
    if is_prepared(folder):
        quiet_libraries()
        sets, extractor = load_prepared(folder, streaming_splits)
        label_names = list((next(iter(sets.values())).features or {}).get("labels") or ()) or None
        limited = {
            split: rows if limit is None else rows.take(limit if split in streaming_splits else min(limit, len(rows)))
            for split, rows in sets.items()
        }
        return Sources(limited, label_names, describe_source(folder), folder, extractor)
    if (folder / TABLE).is_file():
        source = open_source("ptbxl", folder, label_set="ptbxl_super", keep_unlabeled=True)
        return Sources.by_split(source, limit, source.label_names, describe_source(folder, source, SOURCE_SPLITS))
    references = [
        RecordReference(path, record_name(path.relative_to(folder)), split="train") for path in find_records(folder)
    ]
    if split_at_random:
        references = [replace(reference, patient_id=read_patient(reference.path)) for reference in references]
        splits = random_splits(references)
        references = [replace(reference, split=splits[reference.record_id]) for reference in references]
    about = describe_source(folder, splits=RANDOM_SPLITS if split_at_random else None)
    return Sources.by_split(references, limit, None, about)


def _read_table(path: Path, limit: int | None, label_columns: Sequence[str], allow_missing: bool) -> Sources:
    from ..data.readers import CsvSource
    from ..data.splits import assign_splits
    from ..processing.errors import InputError
    from ..training.provenance import RANDOM_SPLITS, SOURCE_SPLITS, describe_source

    columns = CsvSource(path).free_columns
    listed = ", ".join(columns) or "none"
    if allow_missing and label_columns:
        existing = [name for name in label_columns if name in columns]
        if not existing:
            wanted = " or ".join(map(repr, label_columns))
            raise InputError(f"{path} has no column {wanted}: its columns for labels are {listed}")
        label_columns = existing
    if not label_columns:
        raise InputError(f"which columns of {path} are labels? Name them with --labels: {listed}")
    source = CsvSource(path, label_columns=label_columns)
    if source.problem_type != "multi_label_classification":
        raise InputError(
            f"the columns {', '.join(label_columns)} of {path} contain classes or numbers: add a column of 1 and 0 "
            "for each label"
        )
    records = list(source)
    splits = assign_splits(records)
    is_random = all(record.split is None for record in records)
    if is_random:
        say(
            f"{path} has no column `split`: 70 % of the patients are used for training, 10 % for validation and 20 % "
            "for testing, the same ones every time"
        )
    if all(record.patient_id is None for record in records):
        say(
            f"{path} has no column `patient_id`: each recording counts as a patient; if patients repeat, metrics are "
            "optimistic"
        )
    records = [replace(record, split=splits[record.record_id]) for record in records]
    about = describe_source(path, source, RANDOM_SPLITS if is_random else SOURCE_SPLITS)
    return Sources.by_split(records, limit, source.label_names, about, is_table=True)


def choose_labels(selected: Sequence[str] | None, available: Sequence[str] | None, source: str) -> list[str]:
    """The selected labels, or all; raises `InputError` if one is not available. `source` is their owner in errors."""
    from ..processing.errors import InputError

    if available is None:
        raise InputError(
            f"there are no labels in {source}: prepare them with labels, as `clear-hug prepare --help` explains"
        )
    if selected is None:
        return list(available)
    if unknown := [name for name in selected if name not in available]:
        raise InputError(f"there is no label {unknown[0]!r} in {source}: choose from {', '.join(available)}")
    return list(dict.fromkeys(selected))


def prepare_splits(
    sources: Sources, extractor: Any, label_names: list[str] | None
) -> tuple[dict[str, datasets.Dataset], list[Rejected]]:
    """Prepare the splits unless they are, with the labels of `label_names` only; also returns what failed."""
    from ..data.preparation import prepare
    from ..data.prepared import check_prepared_for, select_labels

    if sources.prepared is not None:
        check_prepared_for(sources.prepared, extractor)
        return {split: select_labels(dataset, label_names) for split, dataset in sources.splits.items()}, []
    sets: dict[str, datasets.Dataset] = {}
    rejected: list[Rejected] = []
    for split, records in sources.splits.items():
        if label_names is not None:
            records = [
                replace(record, labels=record.labels and {name: record.labels[name] for name in label_names})
                for record in records
            ]
        dataset, failed = prepare(records, extractor, label_names, progress=is_main_process())
        rejected += failed
        if len(dataset):
            sets[split] = dataset
    return sets, rejected


def require_splits(sets: Container[str | None], rejected: Sequence[Rejected], *splits: str) -> None:
    """Raise `InputError` if a split is missing, with the reason for the first recording that was rejected."""
    from ..processing.errors import InputError

    for split in splits:
        if split not in sets:
            example = f"; recording {rejected[0].record_id}: {rejected[0].reason}" if rejected else ""
            raise InputError(f"there are no usable {split} recordings: check the data and its splits{example}")


def _first_recording(dataset: datasets.Dataset) -> tuple[str, dict[str, Any]]:
    """Id of the first recording of a prepared dataset, and its signal as arguments of `plotting`."""
    from ..processing.recording_inputs import read_row

    row = dataset.with_format("numpy")[0]
    about = {"sampling_rate": float(row["sampling_rate"]), "unit": str(row["unit"])}
    return row["record_id"], read_row(row)._asdict() | about


def draw_recording(dataset: datasets.Dataset, path: Path) -> None:
    """Draw the first recording of a dataset with its beats."""
    from ..plotting import plot_recording, save_figure

    record, signal = _first_recording(dataset)
    title = f"Recording {short_name(record)}, cleaned, with its {len(signal['r_peaks'])} beats"
    save_figure(plot_recording(**signal, title=title), path)


def draw_views(dataset: datasets.Dataset, collator: Any, path: Path) -> None:
    """Draw the first recording of a dataset beside the two views that a [`ViewCollator`] makes of it in validation."""
    from ..plotting import plot_views, save_figure
    from ..processing.recording_inputs import StoredWindow

    record, signal = _first_recording(dataset)
    window = StoredWindow(*(signal[name] for name in StoredWindow._fields))
    drawn = {"recording": window}
    for view, number in enumerate(("first", "second")):
        names = " + ".join(collator.views[view]) or "unchanged"
        drawn[f"{number} view: {names}"] = collator.draw(window, collator.record_seed(record), view)
    figure = plot_views(drawn, signal["sampling_rate"], title=f"Recording {short_name(record)}")
    save_figure(figure, path)


def draw_prediction(
    model: Any, record: str, path: Path, *, thresholds: Sequence[float] | None = None, note: str = "", **settings: Any
) -> None:
    """
    Draw a window of a recording with its probabilities, at `thresholds` or the model's, and the contributing leads;
    `settings` are further arguments of `plot_prediction`.
    """
    from ..inference.classifier_outputs import group_names, model_label_names, model_thresholds
    from ..plotting import plot_prediction, save_figure

    figure = plot_prediction(
        label_names=model_label_names(model.config),
        thresholds=model_thresholds(model.config) if thresholds is None else thresholds,
        group_names=None if settings["contributions"] is None else group_names(model.config),
        title=f"Recording {short_name(record)}{note}",
        **settings,
    )
    save_figure(figure, path)


def draw_first_prediction(model: Any, dataset: datasets.Dataset, predictions: Any, path: Path) -> None:
    """Draw the first row of a prepared dataset, of which `predictions` has a row each, with [`draw_prediction`]."""
    record, signal = _first_recording(dataset)
    contributions = None if predictions.contributions is None else predictions.contributions[0]
    probabilities = predictions.probabilities[0]
    draw_prediction(model, record, path, probabilities=probabilities, contributions=contributions, **signal)


def draw_page_reconstruction(model: Any, dataset: datasets.Dataset, extractor: Any, path: Path) -> None:
    """Draw the first recording of a dataset as a page of true proportions, and its reconstruction."""
    import numpy as np
    import torch

    from ..plotting import plot_page, save_figure
    from ..processing import draw_page

    record, signal = _first_recording(dataset)
    page = (signal["signal"], extractor.sampling_rate, signal["lead_mask"])
    picture = draw_page(*page, layout=extractor.layout, pixels_per_mm=4).image
    model_input = draw_page(*page, layout=extractor.layout, image_size=extractor.image_size).image
    pixels = torch.from_numpy(extractor.image_processor.normalize_pages(model_input[None])).to(model.device)
    with torch.no_grad():
        reconstruction = model.reconstruct(pixels)[0].float().cpu().numpy()
    height, width = picture.shape[:2]
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    figure = plot_page(
        picture,
        corners,
        model_input,
        reconstruction=reconstruction,
        sampling_rate=float(model.config.sampling_rate),
        layout=extractor.layout,
        title=f"Recording {short_name(record)}",
    )
    save_figure(figure, path)


def draw_roc_curves(predictions: Any, thresholds: Sequence[float], title: str, path: Path) -> bool:
    """Draw ROC curves and confusion matrices at the thresholds; returns whether any label has a curve."""
    from ..plotting import plot_roc_curves, save_figure

    if not any({0.0, 1.0} <= {*column} for column in predictions.labels.T):
        say("\nno ROC curves: no label has both positive and negative recordings")
        return False
    figure = plot_roc_curves(
        predictions.labels, predictions.probabilities, predictions.label_names, thresholds=thresholds, title=title
    )
    save_figure(figure, path)
    return True


def draw_beat_reconstruction(model: Any, dataset: datasets.Dataset, extractor: Any, path: Path) -> None:
    """Draw the first recording of a dataset with masked beats, and their reconstruction."""
    import torch

    from ..data.collator import EcgCollator
    from ..plotting import plot_reconstruction, save_figure

    batch = EcgCollator(extractor, label_names=())([dataset.with_format("numpy")[0]])
    with torch.no_grad():
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
    masked = output.bool_masked_pos[0].cpu().numpy()
    record, signal = _first_recording(dataset)
    del signal["unit"]  # each lead is scaled to its row
    figure = plot_reconstruction(
        reconstruction=output.reconstruction[0].float().cpu().numpy(),
        bool_masked_pos=masked,
        eps=model.config.beat_norm_eps,
        title=f"Recording {short_name(record)}: {masked.sum()} masked beats, "
        f"mean squared error {output.loss.item():.2f}",
        **signal,
    )
    save_figure(figure, path)


def draw_patch_reconstruction(model: Any, dataset: datasets.Dataset, extractor: Any, path: Path) -> None:
    """Draw the first recording of a dataset, as the model reads it, with masked patches and their reconstruction."""
    import torch

    from ..data.collator import EcgCollator
    from ..plotting import plot_reconstruction, save_figure

    batch = EcgCollator(extractor, label_names=())([dataset.with_format("numpy")[0]])
    with torch.no_grad():
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
    length = int(batch["attention_mask"].sum()) * model.config.patch_size
    record, _ = _first_recording(dataset)
    figure = plot_reconstruction(
        batch["input_values"][0, :, :length].numpy(),
        None,
        output.prediction[0].float().cpu().numpy(),
        output.bool_masked_pos[0].cpu().numpy(),
        lead_mask=batch["lead_mask"][0].numpy(),
        sampling_rate=extractor.sampling_rate,
        title=f"Recording {short_name(record)}: {int(output.loss_weight)} masked patches, mean squared error "
        f"{output.loss.item():.2f}",
    )
    save_figure(figure, path)


def short_name(record: str) -> str:
    """A record id of at most 40 characters; of a longer path the end, which is specific to the record."""
    return record if len(record) <= 40 else f"...{record[-37:]}"


def system_options(system: str) -> str:
    """Options of `pretrain` for a system; empty for the default system."""
    from ..systems import DEFAULT_SYSTEM, SYSTEMS

    teachers = [f" --{name.replace('_', '-')} {name.upper()}" for name in SYSTEMS[system].teachers[:1]]
    return "".join(([] if system == DEFAULT_SYSTEM else [f" --system {system}"]) + teachers)


def interval(metric: dict[str, Any] | None, sign: bool = False) -> str:
    """Text of a metric with its 95 % interval."""
    if metric is None:
        return "undefined: no label has both positive and negative recordings"
    spec = "+.3f" if sign else ".3f"
    if metric["low"] is None:
        return f"{metric['value']:{spec}}"
    return f"{metric['value']:{spec}}  ({metric['low']:{spec}} to {metric['high']:{spec}})"


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print a table of metrics by label."""
    width = max(5, *(len(name) for name in metrics["per_label"]))
    say(f"\n  {'label':{width}s}  {'positive':>8s}  {'AUROC':24s}  {'avg. precision':24s}  F1 at threshold")
    for name, entry in metrics["per_label"].items():
        if entry["auroc"] is None:
            say(f"  {name:{width}s}  {entry['num_positive']:8d}  excluded: no positive or no negative recordings")
            continue
        values = f"{interval(entry['auroc']):24s}  {interval(entry['average_precision']):24s}"
        at_threshold = f"{entry['f1']['value']:.3f} at {entry['threshold']:.2f}"
        say(f"  {name:{width}s}  {entry['num_positive']:8d}  {values}  {at_threshold}")


def report_rejected(rejected: Sequence[Rejected]) -> int:
    """Print the recordings that failed, at most 20 of them; returns the exit status: 0 if none failed, 1 otherwise."""
    if not rejected or not is_main_process():
        return int(bool(rejected))
    print(f"clear-hug: {len(rejected)} recording(s) failed:", file=sys.stderr)
    for record, reason in rejected[:_MAX_LISTED]:
        print(f"  {record}: {reason}", file=sys.stderr)
    if len(rejected) > _MAX_LISTED:
        print(f"  and {len(rejected) - _MAX_LISTED} more", file=sys.stderr)
    return 1


def quiet_libraries() -> None:
    """Disable progress bars and messages of transformers and datasets, which would hide our own."""
    from transformers.utils import logging

    with suppress(ImportError):  # optional for predictions
        import datasets

        datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def is_main_process() -> bool:
    """Whether this is the only process, or the first of several launched ones."""
    return int(os.environ.get("RANK", "0")) == 0


def load_on_device(load: Callable[[Path], tuple[Any, Any]], folder: Path) -> tuple[Any, Any]:
    """Load a model with a function of [`training.folders`] onto the device of this process, and its extractor."""
    import torch

    quiet_libraries()
    model, extractor = load(folder)
    try:
        from accelerate import PartialState

        device = PartialState().device
    except ImportError:  # accelerate is optional for a single process
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return model.to(device), extractor


@contextmanager
def resumable(where: str, restarted: bool = False) -> Iterator[None]:
    """On an interrupt, print that the same command continues `where`; without --restart if it `restarted`."""
    try:
        yield
    except KeyboardInterrupt:
        option = " without --restart" if restarted else ""
        say(f"\nstopped: the same command{option} continues {where}")
        raise


def say_unused_devices(how: str) -> None:
    """Print that other devices are unused, if there are any; `how` as in [`unused_devices`]."""
    from ..training.processes import unused_devices

    if (text := unused_devices(how)) is not None:
        say(text)


def say(text: str) -> None:
    """Print to stdout in the main process."""
    if is_main_process():
        print(text, flush=True)
