"""What several workflows use: fields of their arguments, sources of recordings, pictures and messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.arguments import Arguments


if TYPE_CHECKING:
    import datasets

    from ..data.records import Recording, RecordReference, Rejected


_MOST_NAMED = 20

LABELED_HELP = (
    "Output of `clear-hug prepare`; or a CSV table of records and labels, as `clear-hug prepare --help` explains; or "
    "a folder of PTB-XL, where labels are the five diagnostic superclasses."
)


def records_field(help: str) -> Any:
    """The field of the recordings that a verb reads."""
    return field(metadata={"help": help, "positional": True, "metavar": "RECORD"})


def model_field(help: str) -> Any:
    """The field of the model that a verb loads."""
    return field(metadata={"help": f"{help}, the name of a shipped model, or hf://ORG/NAME.", "metavar": "FOLDER"})


def output_dir_field(default: str | None = None, help: str = "Folder of the run.") -> Any:
    """The field of the folder that a verb writes; required without a default."""
    metadata = {"help": help, "metavar": "DIR"}
    return field(metadata=metadata) if default is None else field(default=Path(default), metadata=metadata)


def max_samples_field() -> Any:
    """The field that limits how many recordings are used."""
    help = "Use only the first recordings of each split."
    return field(default=None, metadata={"help": help, "gt": 0, "metavar": "N"})


def seed_field(help: str) -> Any:
    """The field of a seed that NumPy and PyTorch accept."""
    return field(default=0, metadata={"help": help, "ge": 0, "lt": 2**32})


def overwrite_field(what: str) -> Any:
    """The field without which no existing file is replaced."""
    return field(default=False, metadata={"help": f"Replace {what} if it exists; never an input."})


@dataclass(kw_only=True)
class CacheArguments(Arguments):
    """Where the features of frozen encoders are cached."""

    feature_cache: Path | None = field(
        default=None,
        metadata={
            "help": "Cache of the features of frozen encoders (default: clear_hug_features in the cache of Hugging "
            "Face).",
            "metavar": "DIR",
        },
    )
    use_feature_cache: bool = field(default=True, metadata={"help": "Keep the features of frozen encoders on disk."})

    @property
    def cache_dir(self) -> Path | None:
        """The cache, or `None` for none."""
        from ..training.features import default_cache

        return (self.feature_cache or default_cache()) if self.use_feature_cache else None


@dataclass
class Sources:
    """
    Recordings by split, and the labels that they may have; or prepared datasets, their folder, and the feature
    extractor that they were prepared with. `about` says where they are from, as `describe_source` does.
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
        """The first recordings of each split, as many as the limit allows."""
        of = {split: [one for one in recordings if one.split == split] for split in ("train", "validation", "test")}
        splits = {split: members[:limit] for split, members in of.items() if members}
        return cls(splits, label_names, about, is_table=is_table)


def read_source(
    folder: Path,
    limit: int | None,
    streamed: Sequence[str] = (),
    label_columns: Sequence[str] | None = None,
    known_only: bool = False,
    divided: bool = False,
) -> Sources:
    """
    What `--data` names: a prepared folder, PTB-XL with labels and folds, a CSV table (with `label_columns`, of which
    with `known_only` the table may lack some), or any WFDB records, without labels. These are all for training unless
    they are to be `divided` at random.
    """
    from ..data.prepared import is_prepared, load_prepared
    from ..data.readers import open_source
    from ..data.readers.ptbxl import TABLE
    from ..data.records import RecordReference, find_records
    from ..data.splits import random_splits
    from ..training.provenance import RANDOM_SPLITS, SOURCE_SPLITS, describe_source

    if not folder.exists():
        raise FileNotFoundError(f"the data folder {folder} does not exist: check the path")
    if folder.suffix.lower() == ".csv" and label_columns is not None:
        return _read_table(folder, limit, label_columns, known_only)
    if is_prepared(folder):
        quiet_libraries()
        sets, extractor = load_prepared(folder, streamed)
        label_names = list((next(iter(sets.values())).features or {}).get("labels") or ()) or None
        limited = {
            split: rows if limit is None else rows.take(min(limit, len(rows)) if split not in streamed else limit)
            for split, rows in sets.items()
        }
        return Sources(limited, label_names, describe_source(folder), folder, extractor)
    if (folder / TABLE).is_file():
        source = open_source("ptbxl", folder, label_set="ptbxl_super", keep_unlabeled=True)
        return Sources.by_split(source, limit, source.label_names, describe_source(folder, source, SOURCE_SPLITS))
    references = [
        RecordReference(path, str(path.relative_to(folder).with_suffix("")), split="train")
        for path in find_records(folder)
    ]
    if divided:
        splits = random_splits(references)
        references = [replace(one, split=splits[one.record_id]) for one in references]
    about = describe_source(folder, splits=RANDOM_SPLITS if divided else None)
    return Sources.by_split(references, limit, None, about)


def _read_table(path: Path, limit: int | None, label_columns: Sequence[str], known_only: bool) -> Sources:
    from ..data.readers import CsvSource
    from ..data.splits import assign_splits
    from ..processing.errors import InputError
    from ..training.provenance import RANDOM_SPLITS, SOURCE_SPLITS, describe_source

    free = CsvSource(path).free_columns
    if known_only and label_columns:
        there = [name for name in label_columns if name in free]
        if not there:
            wanted = " or ".join(map(repr, label_columns))
            raise InputError(f"{path} has no column {wanted}: it has {', '.join(free) or 'no others'}")
        label_columns = there
    if not label_columns:
        raise InputError(
            f"which columns of {path} are labels? Name them with --labels; it has {', '.join(free) or 'no others'}"
        )
    source = CsvSource(path, label_columns=label_columns)
    if source.problem_type != "multi_label_classification":
        raise InputError(
            f"the columns {', '.join(label_columns)} of {path} hold classes or numbers: make a column of 1 and 0 for "
            "each label"
        )
    records = list(source)
    splits = assign_splits(records)
    drawn = all(record.split is None for record in records)
    if drawn:
        say(
            f"{path} has no column `split`: 70 % of the patients are for training, 10 % for validation, 20 % for "
            "testing, always the same for this table"
        )
    if all(record.patient_id is None for record in records):
        say(
            f"{path} has no column `patient_id`: each recording counts as a patient of its own; if patients repeat, "
            "the numbers are too good"
        )
    records = [replace(record, split=splits[record.record_id]) for record in records]
    about = describe_source(path, source, RANDOM_SPLITS if drawn else SOURCE_SPLITS)
    return Sources.by_split(records, limit, source.label_names, about, is_table=True)


def choose_labels(asked: Sequence[str] | None, known: Sequence[str] | None, whose: str) -> list[str]:
    """The labels asked for, or all that are known; `whose` says in errors what should have them."""
    from ..processing.errors import InputError

    if known is None:
        raise InputError(
            f"there are no labels in {whose}: prepare them with labels, as `clear-hug prepare --help` says"
        )
    if asked is None:
        return list(known)
    if unknown := [name for name in asked if name not in known]:
        raise InputError(f"there is no label {unknown[0]!r} in {whose}: the labels are {', '.join(known)}")
    return list(dict.fromkeys(asked))


def prepare_splits(
    sources: Sources, extractor: Any, label_names: list[str] | None
) -> tuple[dict[str, datasets.Dataset], list[Rejected]]:
    """Prepare each split that is not prepared; labels that were not chosen are left out of the recordings."""
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


def require(sets: Container[str | None], rejected: Sequence[Rejected], *splits: str) -> None:
    """Refuse recordings of which a split is missing, with the reason for the first that was rejected."""
    from ..processing.errors import InputError

    for split in splits:
        if split not in sets:
            why = f"; recording {rejected[0].record_id}: {rejected[0].reason}" if rejected else ""
            raise InputError(f"there are no usable {split} recordings: check the data folder and its folds{why}")


def _first_recording(dataset: datasets.Dataset) -> tuple[str, dict[str, Any]]:
    """Id of the first recording of a prepared dataset, and its signal as the functions of `plotting` take it."""
    from ..processing.recording_inputs import read_row

    row = dataset.with_format("numpy")[0]
    about = {"sampling_rate": float(row["sampling_rate"]), "unit": str(row["unit"])}
    return row["record_id"], read_row(row)._asdict() | about


def draw_recording(dataset: datasets.Dataset, path: Path) -> None:
    """The first recording of a dataset with its beats."""
    from ..plotting import plot_recording, save_figure

    record, shown = _first_recording(dataset)
    title = f"Recording {short_name(record)}, cleaned, with its {len(shown['r_peaks'])} beats"
    save_figure(plot_recording(**shown, title=title), path)


def draw_prediction(
    model: Any, record: str, path: Path, *, thresholds: Sequence[float] | None = None, note: str = "", **shown: Any
) -> None:
    """
    A window of a recording with its probabilities, at `thresholds` or the model's, and the leads behind them; `shown`
    is what else `plot_prediction` takes.
    """
    from ..inference.classifier_outputs import group_names, model_label_names, model_thresholds
    from ..plotting import plot_prediction, save_figure

    figure = plot_prediction(
        label_names=model_label_names(model.config),
        thresholds=model_thresholds(model.config) if thresholds is None else thresholds,
        group_names=None if shown["contributions"] is None else group_names(model.config),
        title=f"Recording {short_name(record)}{note}",
        **shown,
    )
    save_figure(figure, path)


def draw_first_prediction(model: Any, dataset: datasets.Dataset, found: Any, path: Path) -> None:
    """The first row of a prepared dataset, predicted row by row, as [`draw_prediction`] draws it."""
    record, shown = _first_recording(dataset)
    added = None if found.contributions is None else found.contributions[0]
    draw_prediction(model, record, path, probabilities=found.probabilities[0], contributions=added, **shown)


def draw_page_reconstruction(model: Any, dataset: datasets.Dataset, extractor: Any, path: Path) -> None:
    """The first recording of a dataset as a page of true proportions, and what a model rebuilds of it."""
    import numpy as np
    import torch

    from ..plotting import plot_page, save_figure
    from ..processing import draw_page

    record, shown = _first_recording(dataset)
    page = (shown["signal"], extractor.sampling_rate, shown["lead_mask"])
    picture = draw_page(*page, layout=extractor.layout, pixels_per_mm=4).image
    seen = draw_page(*page, layout=extractor.layout, image_size=extractor.image_size).image
    pixels = torch.from_numpy(extractor.image_processor.normalize_pages(seen[None])).to(model.device)
    with torch.no_grad():
        rebuilt = model.reconstruct(pixels)[0].float().cpu().numpy()
    height, width = picture.shape[:2]
    edges = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    figure = plot_page(
        picture,
        edges,
        seen,
        reconstruction=rebuilt,
        sampling_rate=float(model.config.sampling_rate),
        layout=extractor.layout,
        title=f"Recording {short_name(record)}",
    )
    save_figure(figure, path)


def draw_roc_sheet(found: Any, thresholds: Sequence[float], title: str, path: Path) -> bool:
    """ROC curves of predictions with labels, and what is found from the thresholds on; whether there are any."""
    from ..plotting import plot_roc_curves, save_figure

    if not any({0.0, 1.0} <= {*column} for column in found.labels.T):
        say("\nno ROC curves: no label has both classes")
        return False
    figure = plot_roc_curves(found.labels, found.probabilities, found.label_names, thresholds=thresholds, title=title)
    save_figure(figure, path)
    return True


def draw_beat_reconstruction(model: Any, dataset: datasets.Dataset, extractor: Any, path: Path) -> None:
    """The first recording of a dataset with hidden beats, and what a model makes of them."""
    import torch

    from ..data.collator import EcgCollator
    from ..plotting import plot_reconstruction, save_figure

    batch = EcgCollator(extractor, label_names=())([dataset.with_format("numpy")[0]])
    with torch.no_grad():
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
    hidden = output.bool_masked_pos[0].cpu().numpy()
    record, shown = _first_recording(dataset)
    del shown["unit"]  # Each lead is scaled to its row.
    figure = plot_reconstruction(
        reconstruction=output.reconstruction[0].float().cpu().numpy(),
        bool_masked_pos=hidden,
        eps=model.config.beat_norm_eps,
        title=f"Recording {short_name(record)}: {hidden.sum()} beats hidden, "
        f"mean squared error {output.loss.item():.2f}",
        **shown,
    )
    save_figure(figure, path)


def short_name(record: str) -> str:
    """The end of a record's id, which tells records apart when it is a long path."""
    return record if len(record) <= 40 else f"...{record[-37:]}"


def system_options(name: str) -> str:
    """What says `pretrain` to train a system: nothing more of the default one."""
    from ..systems import DEFAULT_SYSTEM, SYSTEMS

    teachers = [f" --{one.replace('_', '-')} {one.upper()}" for one in SYSTEMS[name].objective.teachers[:1]]
    return "".join(([] if name == DEFAULT_SYSTEM else [f" --system {name}"]) + teachers)


def interval(metric: dict[str, Any] | None, sign: bool = False) -> str:
    """A metric with its 95 % interval, as text."""
    if metric is None:
        return "not defined: no label has both classes"
    form = "+.3f" if sign else ".3f"
    if metric["low"] is None:
        return f"{metric['value']:{form}}"
    return f"{metric['value']:{form}}  ({metric['low']:{form}} to {metric['high']:{form}})"


def print_metrics(metrics: dict[str, Any]) -> None:
    """A table of metrics by label."""
    width = max(5, *(len(name) for name in metrics["per_label"]))
    say(f"\n  {'label':{width}s}  {'positive':>8s}  {'AUROC':24s}  {'avg. precision':24s}  F1 at threshold")
    for name, entry in metrics["per_label"].items():
        if entry["auroc"] is None:
            say(f"  {name:{width}s}  {entry['num_positive']:8d}  left out: only one class is present")
            continue
        values = f"{interval(entry['auroc']):24s}  {interval(entry['average_precision']):24s}"
        at_threshold = f"{entry['f1']['value']:.3f} at {entry['threshold']:.2f}"
        say(f"  {name:{width}s}  {entry['num_positive']:8d}  {values}  {at_threshold}")


def report_rejected(rejected: Sequence[Rejected]) -> int:
    """Name the recordings that could not be used, the first ones if they are many; returns the exit status 0 or 1."""
    if not rejected or not is_main_process():
        return int(bool(rejected))
    print(f"clear-hug: {len(rejected)} recording(s) could not be used:", file=sys.stderr)
    for record, reason in rejected[:_MOST_NAMED]:
        print(f"  {record}: {reason}", file=sys.stderr)
    if len(rejected) > _MOST_NAMED:
        print(f"  and {len(rejected) - _MOST_NAMED} more", file=sys.stderr)
    return 1


def quiet_libraries() -> None:
    """Progress bars and notices of the libraries below would hide our own."""
    from transformers.utils import logging

    with suppress(ImportError):  # predictions do without
        import datasets

        datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def is_main_process() -> bool:
    """Whether this is the only process or the first of those that `accelerate launch` started."""
    return int(os.environ.get("RANK", "0")) == 0


def load_on_device(load: Callable[[Path], tuple[Any, Any]], folder: Path) -> tuple[Any, Any]:
    """A model on the device of this process, and its feature extractor, by a function of [`training.folders`]."""
    import torch

    quiet_libraries()
    model, extractor = load(folder)
    try:
        from accelerate import PartialState

        device = PartialState().device
    except ImportError:  # one process, which does without
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return model.to(device), extractor


@contextmanager
def resumable(where: str, restarted: bool = False) -> Iterator[None]:
    """Where the user stops the block, say how it goes on: `where`, and without the option of a start anew."""
    try:
        yield
    except KeyboardInterrupt:
        option = " without --restart" if restarted else ""
        say(f"\nstopped: the same command{option} goes on {where}")
        raise


def say_unused_devices(how: str) -> None:
    """Say that one process uses one device, where there are others; `how` as in [`unused_devices`]."""
    from ..training.processes import unused_devices

    if (text := unused_devices(how)) is not None:
        say(text)


def say(text: str) -> None:
    """Print on stdout, in the main process only."""
    if is_main_process():
        print(text, flush=True)
