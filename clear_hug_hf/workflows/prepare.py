"""Preparation of recordings as a dataset for training, in Parquet shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data.label_sets import LABEL_SETS
from ..data.readers import READERS
from ..processing.errors import InputError
from ..systems import DEFAULT_SYSTEM, SYSTEMS
from ..utils.arguments import Arguments
from .shared import output_dir_field, quiet_libraries, seed_field


_SPLITS = ("train", "validation", "test")


@dataclass(kw_only=True)
class PrepareArguments(Arguments):
    """
    Recordings to prepare, their preprocessing, and the output folder.

    Raises:
        InputError: If values are out of bounds or contradict each other.
    """

    source: Path = field(
        metadata={"help": "Folder of recordings, one record, or a CSV table.", "positional": True, "metavar": "SOURCE"}
    )
    output_dir: Path = output_dir_field(help="Folder to write: a new one, or one to resume.")
    kind: str | None = field(
        default=None,
        metadata={"help": "Layout of the source (default: detected from its files).", "choices": tuple(READERS)},
    )
    labels: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"Label set ({', '.join(LABEL_SETS)}), or label columns of a CSV table (default: no labels)."
        },
    )
    reader_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "Options of the reader, such as sampling_rate=500 for ptbxl; an unknown option raises an error "
            "that lists all."
        },
    )
    model: Path | None = field(
        default=None,
        metadata={
            "help": "Model to preprocess for: a folder, the name of a shipped model, or hf://ORG/NAME (default: a new "
            "model).",
            "metavar": "FOLDER",
        },
    )
    system: str | None = field(
        default=None,
        metadata={
            "help": f"Without --model: system of the new models to preprocess for (default: {DEFAULT_SYSTEM}).",
            "choices": tuple(SYSTEMS),
        },
    )
    extractor_settings: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "Settings of the feature extractor, such as millivolts_per_unit=0.1 for pages of normalized "
            "recordings."
        },
    )
    windows: Literal["first", "center", "all"] | None = field(
        default=None,
        metadata={"help": "Windows to read of a longer recording (default: the model's setting, usually first)."},
    )
    stride_seconds: float | None = field(
        default=None,
        metadata={
            "help": "With --windows all: seconds between the starts of windows (default: the length of a window).",
            "metavar": "S",
        },
    )
    split_fractions: list[float] | None = field(
        default=None,
        metadata={
            "help": "Fractions of patients for random splits (default: the official splits, otherwise 0.7 0.1 0.2).",
            "nargs": len(_SPLITS),
            "metavar": tuple(name.upper() for name in _SPLITS),
            "ge": 0,
            "le": 1,
        },
    )
    seed: int = seed_field("Seed of random splits.")
    num_proc: int = field(default=1, metadata={"help": "Number of processes.", "gt": 0})
    shard_size: int = field(
        default=1000,
        metadata={
            "help": "Recordings per file; after a kill, each process repeats at most this many.",
            "gt": 0,
        },
    )
    shard_index: int | None = field(
        default=None, metadata={"help": "In a job array: index of this job, starting at 0.", "metavar": "I"}
    )
    num_shards: int | None = field(default=None, metadata={"help": "In a job array: number of jobs.", "gt": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None and self.system is not None:
            raise InputError("--model and --system both determine the preprocessing: leave out one of them")
        if self.split_fractions is not None and len(self.split_fractions) != len(_SPLITS):
            raise InputError(f"split_fractions has {len(self.split_fractions)} values: it must have {len(_SPLITS)}")


@dataclass(frozen=True)
class PrepareResult:
    """
    The state of a prepared folder.

    Args:
        num_done, num_planned (`int`): Numbers of shards in the folder and of the complete dataset.
        is_new (`bool`): Whether this call wrote a shard.
        manifest (`dict`, *optional*): The manifest, if the dataset is complete.
        system (`str`): The system that the dataset was prepared for.
    """

    num_done: int
    num_planned: int
    is_new: bool
    manifest: dict[str, Any] | None
    system: str


def prepare(arguments: PrepareArguments) -> PrepareResult:
    """
    Read recordings, clean them and detect their beats, and store them as Parquet shards. Resumes a folder with the
    same settings.

    Raises:
        FileNotFoundError: If the source or the model does not exist.
        InputError: If the source, a label or an option is invalid, or the folder contains something else.
    """
    from ..data.sharding import prepare_shards

    source = _open_source(arguments)
    quiet_libraries()
    system, extractor = _feature_extractor(arguments)
    fractions = arguments.split_fractions
    outcome = prepare_shards(
        source,
        arguments.output_dir,
        extractor,
        num_proc=arguments.num_proc,
        shard_size=arguments.shard_size,
        split_fractions=None if fractions is None else dict(zip(_SPLITS, fractions, strict=True)),
        seed=arguments.seed,
        shard_index=arguments.shard_index,
        num_shards=arguments.num_shards,
    )
    return PrepareResult(
        outcome.num_done,
        outcome.num_planned,
        outcome.num_existing < outcome.num_planned,
        outcome.manifest,
        system,
    )


def _open_source(arguments: PrepareArguments) -> Any:
    from ..data.readers import guess_kind, open_source

    options = dict(arguments.reader_options)
    kind = arguments.kind or guess_kind(arguments.source)
    if arguments.labels and kind == "csv":
        options["label_columns"] = arguments.labels
    elif arguments.labels:
        if len(arguments.labels) > 1:
            raise InputError(
                f"{len(arguments.labels)} label sets for {kind}: choose one; only CSV tables take columns"
            )
        options["label_set"] = arguments.labels[0]
    source = open_source(kind, arguments.source, **options)
    if source.problem_type == "single_label_classification" and options.get("problem_type") != source.problem_type:
        raise InputError(
            f"the column {source.settings['label_columns'][0]!r} of {arguments.source} contains classes, and training "
            "on mutually exclusive classes is not supported yet: add a column of 1 and 0 for each class (or prepare "
            "it for your own Trainer with --reader-options problem_type=single_label_classification)"
        )
    return source


def _feature_extractor(arguments: PrepareArguments) -> tuple[str, Any]:
    """The system to prepare for, and its feature extractor, which it may share with others."""
    from ..data.model_files import extractor_settings, load_config, load_feature_extractor

    if arguments.model is None:
        system = arguments.system or DEFAULT_SYSTEM
        extractor: Any = SYSTEMS[system].feature_extractor()
    else:
        from ..training.folders import find_model_folder

        folder = find_model_folder(arguments.model)
        system, extractor = load_config(folder).model_type, load_feature_extractor(folder)
    defaults = extractor_settings(extractor)
    if unknown := [name for name in arguments.extractor_settings if name not in defaults]:
        raise InputError(
            f"{type(extractor).__name__} has no setting {unknown[0]!r}: choose from {', '.join(sorted(defaults))}"
        )
    options = {"windows": arguments.windows, "stride_seconds": arguments.stride_seconds}
    options = {name: value for name, value in options.items() if value is not None}
    extractor = type(extractor)(**{**defaults, **arguments.extractor_settings, **options})
    if arguments.stride_seconds is not None and extractor.windows != "all":
        raise InputError("--stride-seconds needs --windows all")
    return system, extractor
