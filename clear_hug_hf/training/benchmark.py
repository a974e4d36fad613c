"""
Benchmarks with the papers' protocol: task x fold x fraction x seed x model x protocol x head, with a file per finished
cell.

An interrupted benchmark continues with the missing cells; more tasks, models, fractions or seeds can be added to the
same folder.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeGuard

import datasets
import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedConfig, set_seed

from ..data.collator import EcgCollator
from ..data.model_files import load_config, load_feature_extractor
from ..data.prepared import (
    check_independent_labels,
    load_prepared,
    match_prepared,
    read_manifest,
    select_labels,
)
from ..data.splits import group_by_recording, patient_folds, patient_keys
from ..evaluation.metrics import (
    METRICS,
    bootstrap_interval,
    choose_thresholds,
    evaluate_predictions,
    macro_auroc,
)
from ..evaluation.predictions import mean_by_recording, predict
from ..evaluation.protocol import (
    mean_auroc_samples,
    nearest_neighbor_scores,
    protocol_table,
    published_for,
    random_subset,
    select_logistic,
    select_nearest_neighbors,
    select_ridge,
    stratified_subset,
)
from ..inference.digests import dataset_digest, settings_digest, weights_digest
from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from ..systems import system_of
from ..utils.files import RunFolder, atomic_file, check_writable, read_state, write_csv, write_json, write_text
from .arguments import BenchmarkArguments
from .cross_validation import fold_rows, hold_out
from .features import EncodedDataset, dataset_labels, encode, identity_collator, known_labels, linear_features
from .finetuning import (
    HeadOnly,
    absent_labels,
    adapted_modules,
    check_datasets,
    check_disjoint_patients,
    finetune,
    make_optimizer,
    recipe_settings,
    train_with_trainer,
)
from .folders import (
    check_heads,
    classifier_class,
    classifier_config,
    find_model_folder,
    load_for_finetuning,
)
from .pretraining import check_compatible
from .processes import refuse_launcher
from .reference import minirocket_features, predict_reference, signal_dataset, train_reference


DRAWS = {
    "plain": "sampled at random, as in the paper",
    "stratified": "sampled by patient such that each label keeps its prevalence",
}
"""Descriptions of how a fraction of the training recordings is sampled."""
RANDOM, RESNET, MINIROCKET = "random", "resnet", "minirocket"
"""
Names of controls, models without a folder: the encoder of each form randomly initialized, a supervised ResNet, and a
ridge regression of MiniRocket's features.
"""
FOLD = "{fold}"
"""What stands for the number of the fold in the path of a model that was pre-trained for each fold."""
SCRATCH = "scratch"
"""Name of the protocol that trains a whole model from random initialization."""
Model = Path | PreTrainedConfig | None
_HEADLESS = ("knn", "logistic")
# The states of all tokens of a task are kept in memory up to this size.
_TOKEN_BYTES = 4 * 1024**3
CELLS, CSV, TABLE, RUN = "cells", "results.csv", "table.md", "benchmark.json"


@dataclass
class Task:
    """
    A classification task: recordings with labels for training, validation and testing.

    Args:
        name (`str`): Name in tables.
        sets (`dict[str, datasets.Dataset]`): Prepared `train`, `validation` and `test` recordings, with the labels of
            the task only.
        label_names (`list[str]`): Labels to train and test.
        feature_extractor: Feature extractor that the recordings were prepared with.
        folder (`Path`, *optional*): Folder of the prepared recordings.
        notes (`list[str]`): Notes on the results, such as labels that were left out.
        published (*optional*): Published numbers on the same recordings.
        others (`list[Task]`): The same rows prepared for models of other systems.
        fold (`int`, *optional*): Number of the fold that is tested, in a cross-validation by patient.
    """

    name: str
    sets: dict[str, datasets.Dataset]
    label_names: list[str]
    feature_extractor: Any
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    published: Any = None
    others: list[Task] = field(default_factory=list)
    fold: int | None = None

    @property
    def key(self) -> tuple[str, int | None]:
        """`tuple[str, int | None]`: Name and fold."""
        return self.name, self.fold

    @property
    def title(self) -> str:
        """`str`: Name and fold in messages and files."""
        return self.name if self.fold is None else f"{self.name}, fold {self.fold}"

    def truth(self, split: str) -> np.ndarray:
        """Labels of each recording of a split, `(num_recordings, num_labels)`: 1, 0, or NaN if unknown."""
        labels = dataset_labels(self.sets[split], self.label_names).numpy().astype(np.float64)
        return labels[group_by_recording(self.sets[split]["record_id"])[0]]

    def patient_ids(self, split: str) -> list[str | None]:
        """Patient of each recording of a split, `None` if unknown."""
        patients = list(self.sets[split]["patient_id"])  # a column of datasets 4.0 takes no NumPy integer
        return [patients[row] for row in group_by_recording(self.sets[split]["record_id"])[0]]

    def patient_keys(self, split: str) -> list[str]:
        """Patient of each row of a split; a recording without one counts as a patient."""
        return patient_keys(self.sets[split]["record_id"], self.sets[split]["patient_id"])


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark."""

    task: str
    fraction: float
    seed: int
    model: str
    protocol: str
    head: str = ""
    fold: int | None = None

    @property
    def name(self) -> str:
        """`str`: Name of the files of the cell."""
        fold = "" if self.fold is None else f"fold{self.fold}"
        share = f"{100 * self.fraction:g}pc"
        parts = (self.task, fold, share, f"seed{self.seed}", self.model, self.protocol, self.head)
        # Other characters are escaped, so that names remain distinct.
        return "__".join(
            "".join(c if c.isalnum() or c in "-._" else f"~{ord(c):x}~" for c in part) for part in parts if part
        )

    @property
    def method(self) -> tuple[str, str, str]:
        """`tuple[str, str, str]`: Model, protocol and head, which all folds, fractions and seeds share."""
        return self.model, self.protocol, self.head


def load_task(
    name: str, folder: Path | Sequence[Path], label_names: Sequence[str] | None = None, min_positives: int = 1
) -> Task:
    """
    Load a task from a prepared folder, or from several folders of the same recordings prepared for different systems.

    Without test recordings, the validation recordings are tested. Without (other) validation recordings, a tenth of
    the training patients, sampled with seed 0, is used for validation. Test recordings are never used for validation.

    Args:
        name (`str`): Name in tables.
        folder (`Path` or `Sequence[Path]`): Output of `clear-hug prepare --labels`. Of several folders, the rows that
            all contain are used.
        label_names (`Sequence[str]`, *optional*): Labels to use (default: all).
        min_positives (`int`, *optional*, defaults to 1): Labels with fewer positive or negative training or test
            recordings are left out and noted.

    Raises:
        FileNotFoundError: If a folder does not exist.
        InputError: If a folder has no labels, no label remains, labels are mutually exclusive classes, or the folders
            differ in splits, patients or labels.
    """
    loaded = _load_folders(folder)
    folder, notes = loaded.folders[0], loaded.notes
    sets = loaded.sets[0]
    # Sizes of the source: published numbers also count recordings that cannot be used.
    sizes = {split: counts["records"] for split, counts in read_manifest(folder)["splits"].items()}
    usable = {split: len(set(dataset["record_id"])) for split, dataset in sets.items()}
    for split in ("train", "test"):
        if split not in sets and not (split == "test" and "validation" in sets):
            raise InputError(f"{folder} has no {split} recordings: prepare it with splits")
    if "test" not in sets:
        for folder_sets in loaded.sets:
            folder_sets["test"] = folder_sets.pop("validation")
        notes.append("there are no test recordings: the validation recordings are tested")
    if "validation" not in sets:
        train_rows, validation_rows = hold_out(sets["train"], loaded.label_names, seed=0)
        for folder_sets in loaded.sets:
            folder_sets["validation"], folder_sets["train"] = (
                folder_sets["train"].select(rows.tolist()) for rows in (validation_rows, train_rows)
            )
        count = len({*sets["validation"]["record_id"]})
        notes.append(f"the epoch is chosen on {count} training recordings of other patients")
    selected = _select_labels(loaded, label_names, min_positives, [(sets["train"], sets["test"])])
    if not any(patient is not None for dataset in sets.values() for patient in dataset["patient_id"]):
        notes.append(_UNKNOWN_PATIENTS)
    published = published_for(selected, sizes)
    if published is not None:
        notes.append(
            "the paper's numbers are of the same recordings by its published files; of their "
            + ", ".join(f"{sizes[split]} for {split} {usable[split]}" for split in ("train", "validation", "test"))
            + " could be used here"
        )
    return replace(loaded.task(name, loaded.sets, selected), notes=notes, published=published)


def load_folds(
    name: str,
    folder: Path | Sequence[Path],
    num_folds: int,
    label_names: Sequence[str] | None = None,
    min_positives: int = 1,
) -> list[Task]:
    """
    Load a task as a cross-validation by patient over all recordings, whatever their splits. Each fold is tested with
    models that are trained on the others, of which a tenth of the patients, sampled with the number of the fold as
    seed, is used for validation.

    Args:
        num_folds (`int`): Number of folds (see [`patient_folds`]).
        name, folder, label_names, min_positives: As in [`load_task`]; a label needs as many recordings in each fold.

    Returns:
        `list[Task]`: A task for each fold, with the same labels.

    Raises:
        FileNotFoundError, InputError: As in [`load_task`], or if there are fewer than two folds or patients than
            folds.
    """
    loaded = _load_folders(folder)
    order = [split for split in ("train", "validation", "test") if split in loaded.sets[0]]
    pooled = [datasets.concatenate_datasets([sets[split] for split in order]) for sets in loaded.sets]
    folds = patient_folds(pooled[0]["record_id"], pooled[0]["patient_id"], num_folds)
    rows_of = [fold_rows(pooled[0], folds, fold) for fold in range(num_folds)]
    tested = [(pooled[0].select(rows["train"]), pooled[0].select(rows["test"])) for rows in rows_of]
    selected = _select_labels(loaded, label_names, min_positives, tested)
    if not any(patient is not None for patient in pooled[0]["patient_id"]):
        loaded.notes.append(_UNKNOWN_PATIENTS)
    count = len({*pooled[0]["record_id"]})
    loaded.notes.append(f"cross-validated by patient in {num_folds} folds of {count} recordings")
    tasks = []
    for fold, rows in enumerate(rows_of):
        sets = [{split: dataset.select(indices) for split, indices in rows.items()} for dataset in pooled]
        tasks.append(replace(loaded.task(name, sets, selected, fold), notes=loaded.notes))
    return tasks


_UNKNOWN_PATIENTS = (
    "patients are unknown, so each recording counts as one: if patients repeat, the metrics are optimistic"
)


@dataclass
class _Loaded:
    """Prepared folders of the same recordings: their splits, with the same rows in the same order, and labels."""

    folders: list[Path]
    sets: list[dict[str, datasets.Dataset]]
    extractors: list[Any]
    label_names: list[str]
    notes: list[str]

    def task(
        self,
        name: str,
        all_sets: Sequence[Mapping[str, datasets.Dataset]],
        label_names: list[str],
        fold: int | None = None,
    ) -> Task:
        """The task of these `train`, `validation` and `test` rows of each folder."""
        first, *others = (
            Task(
                name,
                {split: select_labels(sets[split], label_names) for split in ("train", "validation", "test")},
                label_names,
                extractor,
                folder,
                fold=fold,
            )
            for folder, sets, extractor in zip(self.folders, all_sets, self.extractors, strict=True)
        )
        return replace(first, others=others)


def _load_folders(folder: Path | Sequence[Path]) -> _Loaded:
    """Load the prepared folders of a task; errors are those of [`load_task`]."""
    folders = [folder] if isinstance(folder, Path) else list(folder)
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"the data folder {folder} does not exist: check the path")
        check_independent_labels(folder)
    loaded = [load_prepared(folder) for folder in folders]
    all_sets = [sets for sets, _ in loaded]
    notes = _select_shared_rows(folders, all_sets)
    known = list((next(iter(all_sets[0].values())).features or {}).get("labels") or ())
    if not known:
        raise InputError(f"there are no labels in {folders[0]}: prepare it with `clear-hug prepare --labels`")
    return _Loaded(folders, all_sets, [extractor for _, extractor in loaded], known, notes)


def _select_labels(
    loaded: _Loaded,
    label_names: Sequence[str] | None,
    min_positives: int,
    tested: Sequence[tuple[datasets.Dataset, datasets.Dataset]],
) -> list[str]:
    """
    The labels with enough positive and negative recordings in each of these pairs of training and test recordings;
    the others are noted.
    """
    folder = loaded.folders[0]
    if unknown := [label for label in label_names or () if label not in loaded.label_names]:
        raise InputError(f"there is no label {unknown[0]!r} in {folder}: choose from {', '.join(loaded.label_names)}")
    min_positives = max(1, min_positives)
    selected: list[str] = []
    excluded: list[str] = []
    for label in label_names or loaded.label_names:
        count = min(_minority_count(dataset, label) for pair in tested for dataset in pair)
        (selected if count >= min_positives else excluded).append(label)
    where = "training or test recordings" + (" of a fold" if len(tested) > 1 else "")
    if excluded:
        listed = ", ".join(excluded)
        loaded.notes.append(f"left out, with fewer than {min_positives} {where} of a class: {listed}")
    if not selected:
        raise InputError(f"no label of {folder} has {min_positives} recordings of each class to train and test")
    return selected


def _select_shared_rows(folders: Sequence[Path], all_sets: Sequence[dict[str, datasets.Dataset]]) -> list[str]:
    """
    Keep the rows that the splits of all prepared folders contain, in the order of the first.

    Returns:
        `list[str]`: A note with the number of other rows, if there are any.

    Raises:
        InputError: If there are no such rows, or their splits, patients or labels differ.
    """
    if len(folders) == 1:
        return []
    all_positions = [
        {
            row: (split, index)
            for split, dataset in sets.items()
            for index, row in enumerate(zip(dataset["record_id"], dataset["window_start"], strict=True))
        }
        for sets in all_sets
    ]
    shared = [row for row in all_positions[0] if all(row in positions for positions in all_positions)]
    splits = list(dict.fromkeys(all_positions[0][row][0] for row in shared))
    num_dropped = max(map(len, all_positions)) - len(shared)
    for sets, positions in zip(all_sets, all_positions, strict=True):
        selected = {
            split: dataset.select([positions[row][1] for row in shared if positions[row][0] == split])
            for split, dataset in sets.items()
        }
        sets.clear()
        sets.update({split: dataset for split, dataset in selected.items() if len(dataset)})

    def describe(sets: dict[str, datasets.Dataset]) -> list[tuple[str, ...]]:
        columns = ("record_id", "patient_id", "labels")
        return [
            tuple(json.dumps(list(sets[split][name])) for name in columns if name in sets[split].column_names)
            for split in splits
            if split in sets
        ]

    for folder, sets in zip(folders[1:], all_sets[1:], strict=True):
        if not shared or describe(sets) != describe(all_sets[0]):
            problem = "differ in splits, patients or labels" if shared else "share no recording"
            raise InputError(
                f"{folders[0]} and {folder} {problem}: the folders of a task must contain the same recordings, "
                "prepared with the same labels and splits for different systems"
            )
    return [f"{num_dropped} rows that are not in all {len(folders)} folders were left out"] if num_dropped else []


def _minority_count(dataset: datasets.Dataset, label: str) -> int:
    """The smaller of the numbers of positive and negative recordings of a label."""
    values = dataset_labels(dataset, [label])[group_by_recording(dataset["record_id"])[0]]
    return int(min((values == 1).sum(), (values == 0).sum()))


def default_heads(folders: Iterable[Path | str]) -> list[str]:
    """`mean`, and the default heads of the models that all models support; errors as in [`run_benchmark`]."""
    systems = [system_of(load_config(find_model_folder(folder))) for folder in folders]
    heads = (next(iter(system.heads)) for system in systems)
    return list(dict.fromkeys(["mean", *(head for head in heads if all(head in system.heads for system in systems))]))


def run_benchmark(
    tasks: Sequence[Task],
    models: Mapping[str, Model],
    output_dir: str | Path,
    arguments: BenchmarkArguments | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """
    Run the cells that are missing in the folder, and write the table and CSV of all requested cells.

    Args:
        tasks (`Sequence[Task]`): Tasks from [`load_task`] or [`load_folds`].
        models (`Mapping[str, Path | PreTrainedConfig | None]`): Models by name: folders, where `{fold}` stands for the
            number of the fold; configs of encoders, which are trained from random initialization on the labels; and
            `None` for the controls [`RANDOM`], [`RESNET`] and [`MINIROCKET`]. The first of these becomes a control for
            each encoder form: `random` if there is one form, and otherwise `random (SYSTEM)`, with the number of
            parameters where two forms share a system, and a model where they also share the number.
        output_dir (`str` or `Path`): Folder for `results.csv`, `table.md`, `benchmark.json` (digests of tasks, models
            and recipes) and `cells/`, with a JSON file and the test probabilities of each finished cell.
        arguments ([`BenchmarkArguments`], *optional*): Cells and recipes.
        cache_dir (`str` or `Path`, *optional*): Cache of the features of frozen encoders (see [`encode`]).
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.
        say (`Callable`, *optional*): Called with messages, such as labels with recordings of one class only.

    Returns:
        `list[dict]`: Rows of the CSV.

    Raises:
        InputError: If a model does not match a task, or the folder contains cells of other recordings, weights or
            recipes under the same names.
    """
    refuse_launcher("a benchmark")
    arguments = BenchmarkArguments() if arguments is None else arguments
    output_dir = check_writable(output_dir)
    keys = [task.key for task in tasks]
    if duplicates := [key[0] for key in keys if keys.count(key) > 1]:
        raise InputError(f"two tasks are named {min(duplicates)!r}: rename one")
    if reserved := [name for name in (RANDOM, RESNET, MINIROCKET) if models.get(name) is not None]:
        raise InputError(f"the name {reserved[0]!r} is reserved for a control: rename the model")
    for task in tasks:
        check_datasets(task.sets["train"], task.sets["validation"], task.label_names, allow_absent_labels=True)
        for split in ("train", "validation"):
            check_disjoint_patients(task.sets[split], task.sets["test"], f"{task.title}: ", splits=f"{split} and test")
    if not arguments.heads:
        arguments = copy(arguments)
        arguments.heads = default_heads(
            _fold_path(path, tasks[0].fold) for path in models.values() if _is_folder(path)
        )
    runner = _Runner(tasks, models, arguments, cache_dir, output_dir)
    runner.check_identity()
    cells = list(_cells(tasks, runner.encoders, arguments))
    missing = [cell for cell in cells if runner.read(cell) is None]
    messages: set[str] = set()
    num_finished = len(cells) - len(missing)
    with tqdm(total=len(cells), initial=num_finished, desc="benchmark", unit="cell", disable=not progress) as bar:
        for cell in missing:
            bar.set_postfix_str(cell.name, refresh=True)
            result = runner.run(cell)
            message = f"{_describe(cell)}: training recordings of one class only for {', '.join(result['absent'])}"
            if result["absent"] and message not in messages:
                messages.add(message)
                bar.clear()
                say(message)
            bar.update(1)
    results = {cell: runner.read(cell) for cell in cells}
    rows = [_row(cell, result) for cell, result in results.items() if result is not None]
    write_csv(output_dir / CSV, rows)
    write_text(output_dir / TABLE, runner.tables(cells))
    return rows


def _cells(
    tasks: Sequence[Task], encoders: Mapping[str, _Encoder | None], arguments: BenchmarkArguments
) -> Iterator[Cell]:
    for task in tasks:
        # Cheap cells first, so that partial results are informative.
        for fraction in sorted(arguments.fractions):
            for model, encoder in encoders.items():
                for seed in arguments.seeds:
                    if encoder is None:
                        hows = [("supervised", "")]
                    elif encoder.is_supervised:
                        hows = [(SCRATCH, "mean")]
                    else:
                        hows = [
                            (protocol, head)
                            for protocol in arguments.protocols
                            for head in (("",) if protocol in _HEADLESS else arguments.heads)
                        ]
                    for protocol, head in hows:
                        yield Cell(task.name, fraction, seed, model, protocol, head, task.fold)


def draw(method: str, task: Task, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices of a fraction of a task's training rows with these labels, sampled by a method of [`DRAWS`]."""
    if method == "plain":
        return random_subset(task.sets["train"]["record_id"], fraction, seed)
    return stratified_subset(labels, task.patient_keys("train"), fraction, seed)


def _describe(cell: Cell) -> str:
    fold = "" if cell.fold is None else f", fold {cell.fold}"
    return f"{cell.task}{fold}, {100 * cell.fraction:g}%, seed {cell.seed}"


def supervised_name(form: str) -> str:
    """Name of a model that is trained from random initialization, such as `supervised (MODEL_TYPE)`."""
    return f"supervised ({form.replace(':', ' ')})"


def _is_folder(model: Model) -> TypeGuard[Path | str]:
    return isinstance(model, str | Path)


def _fold_path(path: Path | str, fold: int | None) -> str:
    """The path of a model for a fold."""
    text = str(path)
    if FOLD not in text:
        return text
    if fold is None:
        raise InputError(f"{text} is the folder of a fold: cross-validate with --folds, or name one folder")
    return text.replace(FOLD, str(fold))


def _prepared_for(task: Task, source: Path | PreTrainedConfig) -> Task:
    """
    The preparation of a task that matches the model in a folder, with the feature extractor of the model, or that
    matches an encoder with a config.

    Raises:
        InputError: If none matches, with the mismatch of the first.
    """
    errors: list[InputError] = []
    config = load_config(source) if isinstance(source, Path) else source
    for prepared in (task, *task.others):
        extractor = prepared.feature_extractor
        try:
            if isinstance(source, Path):
                if prepared.folder is not None:
                    # Settings that apply after the preparation are the model's.
                    extractor = match_prepared(prepared.folder, load_feature_extractor(source))
            elif type(prepared.feature_extractor) is not (system := system_of(config)).feature_extractor:
                raise InputError(
                    f"{prepared.title} is not prepared for {system.name}: prepare it with `clear-hug prepare --system "
                    f"{system.name}`"
                )
            check_compatible(config, prepared.feature_extractor, *prepared.sets.values())
            return replace(prepared, feature_extractor=extractor)
        except InputError as error:
            errors.append(error)
    if task.folder is None:
        raise errors[0]
    raise InputError(
        f"{errors[0]}; for models of several systems, list a folder for each: {task.name}=DIR {task.name}=DIR"
    ) from errors[0]


@dataclass(frozen=True)
class _Encoder:
    """
    Where the encoder of a model comes from.

    Args:
        sources (`dict[int | None, Path | PreTrainedConfig]`): The model folder of each fold, or the config of a
            randomly initialized encoder.
        is_random (`bool`): Whether the weights are not those of the folder, but random ones.
        is_supervised (`bool`): Whether the whole model is trained from random initialization, with a recipe of its
            own.
    """

    sources: Mapping[int | None, Path | PreTrainedConfig]
    is_random: bool = False
    is_supervised: bool = False

    def config(self, fold: int | None) -> PreTrainedConfig:
        """Config of the encoder of a fold."""
        source = self.sources[fold]
        return load_config(source) if isinstance(source, Path) else source

    @property
    def form(self) -> str:
        """`str`: Digest of what the encoder computes but for its weights, which is the same in every fold."""
        return settings_digest(self.config(next(iter(self.sources))))


def _encoders(models: Mapping[str, Model], folds: Sequence[int | None]) -> dict[str, _Encoder | None]:
    """The encoders of all models, with a random control for each form; `None` for models without an encoder."""
    encoders: dict[str, _Encoder | None] = {}
    for name, model in models.items():
        if _is_folder(model):
            encoders[name] = _Encoder({fold: find_model_folder(_fold_path(model, fold)) for fold in folds})
        elif model is not None:
            encoders[name] = _Encoder(dict.fromkeys(folds, model), is_random=True, is_supervised=True)
        else:
            encoders[name] = None
    if RANDOM not in models:
        return encoders
    forms: dict[str, _Encoder] = {}
    configs: dict[str, PreTrainedConfig] = {}
    for name, encoder in encoders.items():
        if encoder is not None and (form := encoder.form) not in forms:
            forms[form], configs[name] = _Encoder(encoder.sources, is_random=True), encoder.config(folds[0])
    if not forms:
        raise InputError(f"{RANDOM!r} randomly initializes the encoders of the models: add a model folder")
    controls = dict(zip(_control_names(configs), forms.values(), strict=True))
    if taken := controls.keys() & encoders.keys() - {RANDOM}:
        raise InputError(f"the name {min(taken)!r} is reserved for a control: rename the model")
    resolved: dict[str, _Encoder | None] = {}
    for name, encoder in encoders.items():
        resolved |= controls if name == RANDOM else {name: encoder}
    return resolved


def _control_names(configs: Mapping[str, PreTrainedConfig]) -> list[str]:
    """Names of the random controls of encoder forms, by the first model of each form."""
    if len(configs) == 1:
        return [RANDOM]
    systems = [system_of(config).name for config in configs.values()]
    names = list(systems)
    for index, config in enumerate(configs.values()):
        if systems.count(systems[index]) > 1:
            with torch.device("meta"):
                names[index] += f" {AutoModel.from_config(config).num_parameters():,}"
    # Forms of one size differ in how they compute.
    sizes = [
        name if names.count(name) == 1 else f"{name} as {model}" for name, model in zip(names, configs, strict=True)
    ]
    return [f"{RANDOM} ({name})" for name in sizes]


def random_controls(models: Mapping[str, Model], tasks: Iterable[Task]) -> dict[str, str]:
    """The name of the random control of each model that has one, as [`run_benchmark`] names it."""
    return _controls(_encoders(models, list(dict.fromkeys(task.fold for task in tasks))))


def _controls(encoders: Mapping[str, _Encoder | None]) -> dict[str, str]:
    """Name of the random control of the form of each encoder that is not supervised; itself for a control."""
    frozen = {name: encoder for name, encoder in encoders.items() if encoder is not None and not encoder.is_supervised}
    names = {encoder.form: name for name, encoder in frozen.items() if encoder.is_random}
    return {name: names[encoder.form] for name, encoder in frozen.items() if encoder.form in names}


class _Runner:
    """Runs the cells of a benchmark, and caches what several of them use."""

    def __init__(
        self,
        tasks: Sequence[Task],
        models: Mapping[str, Model],
        arguments: BenchmarkArguments,
        cache_dir: str | Path | None,
        output_dir: Path,
    ):
        self.tasks = {task.key: task for task in tasks}
        self.arguments, self.output_dir, self.cache_dir = arguments, output_dir, cache_dir
        self.encoders = _encoders(models, list(dict.fromkeys(task.fold for task in tasks)))
        # The preparation of each task that matches a model.
        self.prepared: dict[tuple[str, tuple[str, int | None]], Task] = {}
        for name, encoder in self.encoders.items():
            if encoder is None:
                continue
            try:
                for fold, source in encoder.sources.items():
                    if isinstance(source, Path) and any(protocol not in _HEADLESS for protocol in arguments.protocols):
                        check_heads(source, arguments.heads)
                    for task in tasks:
                        if task.fold == fold:
                            self.prepared[name, task.key] = _prepared_for(task, source)
            except InputError as error:
                raise InputError(f"model {name}: {error}") from error
        self._cache: dict[tuple[Any, ...], Any] = {}

    # ------------------------------------------------------------------------------------------------------- identity

    def check_identity(self) -> None:
        """Record digests of tasks, models and recipes; raise if the folder has others of the same names."""
        identity: dict[str, dict[str, Any]] = {
            "tasks": {task.title: self._task_identity(task) for task in self.tasks.values()},
            "models": self._encoder_identities(),
            "recipes": {
                name: recipe_settings(recipe)
                for name, recipe in self.arguments.recipes.items()
                if name in self.arguments.protocols
                or (name == "supervised" and RESNET in self.encoders)
                or (name == SCRATCH and any(encoder and encoder.is_supervised for encoder in self.encoders.values()))
            },
            "draws": {"of shares": self.arguments.draw},
            "predictions": {"of frozen encoders": "all beats"},
        }
        folder = RunFolder(self.output_dir, RUN, "benchmark", "choose another output folder, or another name")
        before = read_state(folder.mark, folder.remedy)
        if before is not None:
            # Earlier versions did not record these.
            before.setdefault("draws", {"of shares": "stratified"})
            before.setdefault("predictions", {"of frozen encoders": "as many beats as the encoder reads at once"})
            for kind, named in identity.items():
                recorded = before.get(kind, {})
                for name in (name for name in named if name in recorded):
                    folder.check_same(recorded[name], named[name], f"the {kind[:-1]} {name!r}")
                identity[kind] = {**recorded, **named}
        # Other processes may run other cells in the same folder, so nothing is removed.
        write_json(folder.mark, identity)

    def _encoder_identities(self) -> dict[str, str]:
        """
        Digests of the weights of encoders, after a check that the protocols can train them. Those of folds share an
        entry if they are the same.
        """
        identities: dict[str, str] = {}
        for name, encoder in self.encoders.items():
            if encoder is None:
                continue
            for fold, source in encoder.sources.items():
                title = name
                if fold is not None and not encoder.is_random and source != next(iter(encoder.sources.values())):
                    title = f"{name}, fold {fold}"
                if title not in identities:
                    identities[title] = self._encoder_identity(name, fold)
        return identities

    def _encoder_identity(self, name: str, fold: int | None) -> str:
        task = next(task for task in self.tasks.values() if task.fold == fold)
        model = self._load(name, task.key, "mean", 0)
        if "lora" in self.arguments.protocols:
            try:
                adapted_modules(model)
            except InputError as error:
                raise InputError(f"model {name}: {error}") from error
        return weights_digest(model.base_model)

    @staticmethod
    def _task_identity(task: Task) -> dict[str, Any]:
        digest = hashlib.sha256()
        for split in ("train", "validation", "test"):
            for prepared in (task, *task.others):
                digest.update(dataset_digest(prepared.sets[split]).encode())
            digest.update(dataset_labels(task.sets[split], task.label_names).numpy().tobytes())
        return {
            "labels": task.label_names,
            "recordings": {split: len(dataset) for split, dataset in task.sets.items()},
            "digest": digest.hexdigest(),
        }

    def _load(self, model: str, task: tuple[str, int | None], head: str, seed: int) -> Any:
        """A classifier with a new head, and for a random control a new encoder."""
        set_seed(seed)
        names, encoder = self.tasks[task].label_names, self.encoders[model]
        assert encoder is not None
        source = encoder.sources[task[1]]
        if isinstance(source, Path) and not encoder.is_random:
            return load_for_finetuning(source, names, head_type=head)[0]
        config = encoder.config(task[1])
        return classifier_class(config).from_config(classifier_config(config, names, head_type=head))

    def _preparation(self, cell: Cell) -> Task:
        """The task as prepared for the model: for a model without an encoder, the first folder."""
        task = self.tasks[cell.task, cell.fold]
        return self.prepared.get((cell.model, task.key), task)

    # -------------------------------------------------------------------------------------------------------- running

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train and test a cell, and write its result."""
        started = time.perf_counter()
        task = self.tasks[cell.task, cell.fold]
        labels = dataset_labels(task.sets["train"], task.label_names)
        rows = draw(self.arguments.draw, task, labels.numpy(), cell.fraction, cell.seed)
        absent = absent_labels(labels[rows], task.label_names)
        best, *row_probabilities = self._train(cell, self._preparation(cell), rows)
        validation_probabilities, test_probabilities = (
            mean_by_recording(probabilities, task.sets[split]["record_id"])
            for split, probabilities in zip(("validation", "test"), row_probabilities, strict=True)
        )
        thresholds = choose_thresholds(task.truth("validation"), validation_probabilities)
        validation_auroc = macro_auroc(task.truth("validation"), validation_probabilities)
        metrics = evaluate_predictions(
            task.truth("test"),
            test_probabilities,
            task.label_names,
            task.patient_ids("test"),
            num_samples=self.arguments.bootstrap_samples,
            thresholds=[0.5 if threshold is None else threshold for threshold in thresholds],
        )
        result = {
            **asdict(cell),
            "num_train": len({*task.sets["train"].select(rows.tolist())["record_id"]}),
            "num_validation": len(validation_probabilities),
            "num_test": len(test_probabilities),
            "absent": absent,
            "chosen": best,
            "validation_macro_auroc": None if np.isnan(validation_auroc) else validation_auroc,
            "seconds": round(time.perf_counter() - started, 2),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "versions": " ".join(f"{name}={version(name)}" for name in ("clear-hug-hf", "torch", "transformers")),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
            "metrics": metrics,
        }
        path = self.output_dir / CELLS / cell.name
        with atomic_file(path.with_name(path.name + ".npy")) as partial:
            np.save(partial, test_probabilities.astype(np.float32))
        # Written last: a cell with its JSON file is complete.
        write_json(path.with_name(path.name + ".json"), result)
        return result

    def _train(self, cell: Cell, task: Task, rows: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """
        The epoch, number of neighbors or strength of the penalty that was chosen on the validation split, and
        probabilities on validation and test.
        """
        if self.encoders[cell.model] is None:
            sets = {split: self._signals(task, split) for split in ("train", "validation", "test")}
            train = sets["train"].select(rows.tolist())
            if cell.model == MINIROCKET:
                features = minirocket_features(train, [sets["validation"], sets["test"]], cell.seed)
                labels = [known_labels(part) for part in (train, sets["validation"])]
                return select_ridge(features[0], labels[0], features[1], labels[1], features[2])
            recipe = replace(self.arguments.recipes["supervised"], seed=cell.seed)
            network, best, _ = train_reference(train, sets["validation"], recipe)
            return best, predict_reference(network, sets["validation"]), predict_reference(network, sets["test"])
        if cell.protocol in _HEADLESS:
            encoded = [self._features(cell, task, "train"), *self._predicted(cell, task)]
            features = [linear_features(split) for split in encoded]
            features[0] = features[0][rows]
            labels = [
                dataset_labels(task.sets[split], task.label_names).numpy().astype(np.float64)
                for split in ("train", "validation")
            ]
            choose = _logistic if cell.protocol == "logistic" else _nearest_neighbors
            return choose(features, labels[0][rows], labels[1])
        model = self._load(cell.model, task.key, cell.head, cell.seed)
        recipe = replace(self.arguments.recipes[cell.protocol], seed=cell.seed)
        if cell.protocol == "probe" and not (model.head.reads_tokens and self._too_many_tokens(model, task)):
            head, train = HeadOnly(model), self._features(cell, task, "train")
            best, _ = train_with_trainer(
                head,
                train.select(rows.tolist()),
                self._features(cell, task, "validation"),
                identity_collator,
                make_optimizer(model, recipe),
                recipe,
            )
            validation, test = (_probabilities(head, split) for split in self._predicted(cell, task))
            return best, validation, test
        train_rows = task.sets["train"].select(rows.tolist())
        tuned = finetune(model, train_rows, task.sets["validation"], task.feature_extractor, None, recipe)
        assert tuned.best_epoch is not None
        validation, test = (
            predict(model.eval(), task.sets[split], task.feature_extractor).probabilities
            for split in ("validation", "test")
        )
        return tuned.best_epoch, validation, test

    def _features(self, cell: Cell, task: Task, split: str, all_beats: bool = False) -> EncodedDataset:
        """
        States of leads, and of tokens if a head reads them and they fit into memory, of the beats that training reads,
        or of all.
        """
        encoder = self.encoders[cell.model]
        assert encoder is not None
        seed = cell.seed if encoder.is_random else 0
        all_beats &= type(task.feature_extractor).cut_all is not EcgFeatureExtractor.cut_all
        how = (cell.model, seed, task.key)
        if (*how, split, all_beats) not in self._cache:
            # Cells are ordered by task, so other tasks are finished.
            self._cache = {other: value for other, value in self._cache.items() if task.key in other}
            model = self._load(cell.model, task.key, "mean", seed).to(PartialState().device)
            tokens = self._keeps_tokens(cell.model, model, task)
            if tokens and sum(value.num_bytes for value in self._cache.values()) > _TOKEN_BYTES:
                self._cache = {other: value for other, value in self._cache.items() if other[:-2] == how}
            collator = EcgCollator(task.feature_extractor, label_names=task.label_names, all_beats=all_beats)
            encoded = encode(model, task.sets[split], collator, cache_dir=self.cache_dir, tokens=tokens)
            self._cache[*how, split, all_beats] = encoded
        return self._cache[*how, split, all_beats]

    def _predicted(self, cell: Cell, task: Task) -> list[EncodedDataset]:
        """Features of the validation and test recordings with all beats, which predictions read."""
        return [self._features(cell, task, split, all_beats=True) for split in ("validation", "test")]

    def _keeps_tokens(self, name: str, model: Any, task: Task) -> bool:
        """Whether a head reads the tokens of a frozen encoder, and they fit into memory."""
        if "probe" not in self.arguments.protocols or self._too_many_tokens(model, task):
            return False
        return any(self._load(name, task.key, head, 0).head.reads_tokens for head in self.arguments.heads)

    @torch.no_grad()
    def _too_many_tokens(self, model: Any, task: Task) -> bool:
        """Whether the states of all tokens do not fit into [`_TOKEN_BYTES`], so that each epoch computes them."""
        collator = EcgCollator(task.feature_extractor, (), trim=False)
        row = task.sets["train"].select([0]).select_columns(collator.columns).with_format("numpy")
        batch = {name: tensor.to(model.device) for name, tensor in collator(list(row)).items()}
        states = model.base_model.eval()(**batch).last_hidden_state
        return sum(map(len, task.sets.values())) * states.numel() * 4 > _TOKEN_BYTES

    def _signals(self, task: Task, split: str) -> EncodedDataset:
        key = ("signals", task.key, split)
        if key not in self._cache:
            self._cache = {other: value for other, value in self._cache.items() if task.key in other}
            num_samples = round(task.feature_extractor.window_seconds * task.feature_extractor.sampling_rate)
            self._cache[key] = signal_dataset(task.sets[split], task.label_names, num_samples)
        return self._cache[key]

    # -------------------------------------------------------------------------------------------------------- results

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """The result of a cell; `None` if it is missing or damaged."""
        path = self.output_dir / CELLS / cell.name
        try:
            result: Any = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
            probabilities = np.load(path.with_name(path.name + ".npy"))
        except (OSError, ValueError, EOFError):
            return None
        task = self.tasks[cell.task, cell.fold]
        is_valid = (
            isinstance(result, dict)
            and "metrics" in result
            and all(result.get(name) == value for name, value in asdict(cell).items())
            and probabilities.shape == task.truth("test").shape
        )
        return result if is_valid else None

    def tables(self, cells: Sequence[Cell]) -> str:
        """Markdown: the table in the paper's layout, differences from the controls, and notes."""
        samples = read_samples(self.tasks.values(), cells, self.output_dir, self.arguments.bootstrap_samples)
        columns = sorted(self.arguments.fractions)
        published = {name: task.published for (name, _), task in self.tasks.items() if task.published is not None}

        def table(control: Callable[[tuple[str, str, str]], tuple[str, str, str] | None] | None) -> str:
            rows = []
            for (method, task, fraction), values in samples.items():
                if control is not None:
                    control_method = control(method)
                    if control_method is None or (control_method, task, fraction) not in samples:
                        continue
                    values = values - samples[control_method, task, fraction]
                interval = bootstrap_interval(values)
                name = ", ".join(filter(None, method))
                rows.append({"method": name, "task": task, "fraction": fraction, "macro_auroc": interval})
            return protocol_table(rows, published if control is None else {}, columns) if rows else ""

        sections = [
            f"Macro AUROC [%], mean of {len(self.arguments.seeds)} seed(s), with 95 % bootstrap intervals over the "
            f"test patients, for fractions of the training recordings, {DRAWS[self.arguments.draw]}.",
            table(None),
        ]
        controls = _controls(self.encoders)
        with_random = table(
            lambda method: (
                (controls[method[0]], *method[1:]) if controls.get(method[0], method[0]) != method[0] else None
            )
        )
        if with_random:
            title = "Difference from the same encoder randomly initialized, paired (points of macro AUROC):"
            sections += [title, with_random]
        with_resnet = table(lambda method: None if method[0] == RESNET else (RESNET, "supervised", ""))
        if with_resnet:
            sections += ["Difference from the supervised ResNet, paired (points of macro AUROC):", with_resnet]
        notes: dict[str, list[str]] = {}
        for name, task in {name: task for (name, _), task in self.tasks.items()}.items():
            for note in task.notes:
                notes.setdefault(note, []).append(name)
            if name not in published:
                note = "the paper's numbers are omitted, since its recordings differ"
                notes.setdefault(note, []).append(name)
        lines = [f"- {', '.join(names)}: {note}." for note, names in notes.items()]
        absent: dict[str, list[str]] = {}
        for cell in cells:
            result = self.read(cell)
            if result is not None and result["absent"]:
                absent.setdefault(_describe(cell), result["absent"])
        lines += [
            f"- {description}: training recordings of one class only for {', '.join(labels)}."
            for description, labels in absent.items()
        ]
        return "\n\n".join([*sections, "\n".join(lines)]) + "\n"


def read_samples(
    tasks: Iterable[Task], cells: Iterable[Cell], output_dir: Path, num_samples: int
) -> dict[tuple[tuple[str, str, str], str, float], np.ndarray]:
    """
    Read the test probabilities of finished cells.

    Args:
        tasks (`Iterable[Task]`): Tasks of the cells.
        cells (`Iterable[Cell]`): Cells of one or several methods.
        output_dir (`Path`): Output folder of the benchmark.
        num_samples (`int`): Number of bootstrap samples of patients.

    Returns:
        `dict`: For each method (model, protocol and head), task and fraction the macro AUROC, mean over seeds and
        folds, followed by that of the bootstrap samples (see [`mean_auroc_samples`]). All methods have the same
        samples, so that differences are paired.
    """
    task_of = {task.key: task for task in tasks}
    runs: dict[tuple[tuple[str, str, str], str, float], dict[int | None, list[np.ndarray]]] = {}
    for cell in cells:
        probabilities = np.load(output_dir / CELLS / (cell.name + ".npy"))
        folds = runs.setdefault((cell.method, cell.task, cell.fraction), {})
        folds.setdefault(cell.fold, []).append(probabilities)
    samples = {}
    for (method, name, fraction), folds in runs.items():
        tested = [task_of[name, fold] for fold in folds]
        samples[method, name, fraction] = mean_auroc_samples(
            [task.truth("test") for task in tested],
            list(folds.values()),
            [task.patient_ids("test") for task in tested],
            num_samples,
            [fold or 0 for fold in folds],
        )
    return samples


def _nearest_neighbors(
    features: Sequence[np.ndarray], labels: np.ndarray, validation_labels: np.ndarray
) -> tuple[int, np.ndarray, np.ndarray]:
    """The number of neighbors, and the scores of the validation and test recordings."""
    train, validation, test = features
    best, test_scores = select_nearest_neighbors(train, labels, validation, validation_labels, test)
    return best, nearest_neighbor_scores(train, labels, validation, best), test_scores


def _logistic(
    features: Sequence[np.ndarray], labels: np.ndarray, validation_labels: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The strength of the penalty, and the probabilities of the validation and test recordings."""
    train, validation, test = features
    return select_logistic(train, labels, validation, validation_labels, test)


@torch.no_grad()
def _probabilities(head: HeadOnly, encoded: EncodedDataset) -> np.ndarray:
    """Probabilities of each row, `(num_rows, num_labels)`: means over its windows, as in [`predict`]."""
    head.eval()
    device = head.classifier.weight.device
    if not head.head.reads_tokens:
        states, present = (encoded.columns[name].to(device) for name in ("lead_states", "present"))
        return encoded.mean_by_row(head(states, present)["logits"].sigmoid().cpu()).numpy()
    columns = {name: column.split(64) for name, column in encoded.columns.items() if name not in ("labels", "rows")}
    batches = (dict(zip(columns, parts, strict=True)) for parts in zip(*columns.values(), strict=True))
    logits = [head(**{name: part.to(device) for name, part in batch.items()})["logits"] for batch in batches]
    return encoded.mean_by_row(torch.cat(logits).sigmoid().cpu()).numpy()


def _row(cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    metrics = result["metrics"]
    fold = "" if cell.fold is None else cell.fold
    row: dict[str, Any] = {**asdict(cell), "fraction": f"{cell.fraction:g}", "fold": fold}
    for name in ("num_train", "num_validation", "num_test", "chosen"):
        row[name] = result[name]
    for name in METRICS:
        metric = metrics[f"macro_{name}"] or {"value": None, "low": None, "high": None}
        for part in ("value", "low", "high"):
            column = f"macro_{name}" if part == "value" else f"macro_{name}_{part}"
            row[column] = "" if metric[part] is None else f"{metric[part]:.5f}"
    row["absent_in_training"] = " ".join(result["absent"])
    row["left_out"] = " ".join(metrics["excluded_labels"])
    return {**row, **{name: result[name] for name in ("seconds", "date", "versions", "machine")}}
