"""
Benchmarks with the papers' protocol: task x fraction x seed x model x protocol x head, with a file per finished cell.

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
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import set_seed

from ..data.collator import EcgCollator
from ..data.model_files import load_config, load_feature_extractor
from ..data.prepared import (
    check_independent_labels,
    load_prepared,
    match_prepared,
    read_manifest,
    select_labels,
)
from ..data.splits import group_by_recording, patient_keys
from ..evaluation.metrics import (
    METRICS,
    choose_thresholds,
    evaluate_predictions,
    macro_auroc_interval,
)
from ..evaluation.predictions import mean_by_recording, predict
from ..evaluation.protocol import (
    holdout_split,
    nearest_neighbor_scores,
    protocol_table,
    published_for,
    random_subset,
    select_nearest_neighbors,
    stratified_subset,
)
from ..inference.digests import dataset_digest, settings_digest, weights_digest
from ..modeling.modeling_ecg import masked_mean
from ..processing.errors import InputError
from ..systems import system_of
from ..utils.files import RunFolder, atomic_file, check_writable, read_state, write_csv, write_json, write_text
from .arguments import BenchmarkArguments
from .features import EncodedDataset, dataset_labels, encode, identity_collator
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
from .reference import predict_reference, signal_dataset, train_reference


DRAWS = {
    "plain": "sampled at random, as in the paper",
    "stratified": "sampled by patient such that each label keeps its prevalence",
}
"""Descriptions of how a fraction of the training recordings is sampled."""
RANDOM, RESNET = "random", "resnet"
"""Names of controls, models without a folder: the first model's encoder randomly initialized, and a ResNet."""
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
    """

    name: str
    sets: dict[str, datasets.Dataset]
    label_names: list[str]
    feature_extractor: Any
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    published: Any = None
    others: list[Task] = field(default_factory=list)

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

    @property
    def name(self) -> str:
        """`str`: Name of the files of the cell."""
        parts = (self.task, f"{100 * self.fraction:g}pc", f"seed{self.seed}", self.model, self.protocol, self.head)
        # Other characters are escaped, so that names remain distinct.
        return "__".join(
            "".join(c if c.isalnum() or c in "-._" else f"~{ord(c):x}~" for c in part) for part in parts if part
        )

    @property
    def method(self) -> str:
        """`str`: Model, protocol and head, which all fractions and seeds share."""
        return ", ".join(filter(None, (self.model, self.protocol, self.head)))


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
    folders = [folder] if isinstance(folder, Path) else list(folder)
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"the data folder {folder} does not exist: check the path")
        check_independent_labels(folder)
    loaded = [load_prepared(folder) for folder in folders]
    folder = folders[0]
    notes = _select_shared_rows(folders, [sets for sets, _ in loaded])
    sets = loaded[0][0]
    known = list((next(iter(sets.values())).features or {}).get("labels") or ())
    if not known:
        raise InputError(f"there are no labels in {folder}: prepare it with `clear-hug prepare --labels`")
    if unknown := [label for label in label_names or () if label not in known]:
        raise InputError(f"there is no label {unknown[0]!r} in {folder}: choose from {', '.join(known)}")
    # Sizes of the source: published numbers also count recordings that cannot be used.
    sizes = {split: counts["records"] for split, counts in read_manifest(folder)["splits"].items()}
    usable = {split: len(set(dataset["record_id"])) for split, dataset in sets.items()}
    for split in ("train", "test"):
        if split not in sets and not (split == "test" and "validation" in sets):
            raise InputError(f"{folder} has no {split} recordings: prepare it with splits")
    if "test" not in sets:
        for folder_sets, _ in loaded:
            folder_sets["test"] = folder_sets.pop("validation")
        notes.append("there are no test recordings: the validation recordings are tested")
    if "validation" not in sets:
        labels = dataset_labels(sets["train"], known).numpy()
        patients = patient_keys(sets["train"]["record_id"], sets["train"]["patient_id"])
        train_rows, validation_rows = holdout_split(labels, patients, 0.1, seed=0)
        for folder_sets, _ in loaded:
            folder_sets["validation"], folder_sets["train"] = (
                folder_sets["train"].select(rows.tolist()) for rows in (validation_rows, train_rows)
            )
        count = len({*sets["validation"]["record_id"]})
        notes.append(f"the epoch is chosen on {count} training recordings of other patients")
    min_positives = max(1, min_positives)
    selected: list[str] = []
    excluded: list[str] = []
    for label in label_names or known:
        count = min(_minority_count(sets[split], label) for split in ("train", "test"))
        (selected if count >= min_positives else excluded).append(label)
    if excluded:
        listed = ", ".join(excluded)
        notes.append(f"left out, with fewer than {min_positives} training or test recordings of a class: {listed}")
    if not selected:
        raise InputError(f"no label of {folder} has {min_positives} recordings of each class to train and test")
    if not any(patient is not None for dataset in sets.values() for patient in dataset["patient_id"]):
        notes.append(
            "patients are unknown, so each recording counts as one: if patients repeat, the metrics are optimistic"
        )
    published = published_for(selected, sizes)
    if published is not None:
        notes.append(
            "the paper's numbers are of the same recordings by its published files; of their "
            + ", ".join(f"{sizes[split]} for {split} {usable[split]}" for split in ("train", "validation", "test"))
            + " could be used here"
        )
    tasks = [
        Task(
            name,
            {split: select_labels(folder_sets[split], selected) for split in ("train", "validation", "test")},
            selected,
            extractor,
            folder,
        )
        for folder, (folder_sets, extractor) in zip(folders, loaded, strict=True)
    ]
    return replace(tasks[0], notes=notes, published=published, others=tasks[1:])


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


def default_heads(folders: Iterable[Path]) -> list[str]:
    """`mean`, and the default heads of the models that all models support; errors as in [`run_benchmark`]."""
    systems = [system_of(load_config(find_model_folder(folder))) for folder in folders]
    heads = (next(iter(system.heads)) for system in systems)
    return list(dict.fromkeys(["mean", *(head for head in heads if all(head in system.heads for system in systems))]))


def run_benchmark(
    tasks: Sequence[Task],
    models: Mapping[str, Path | None],
    output_dir: str | Path,
    arguments: BenchmarkArguments | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """
    Run the cells that are missing in the folder, and write the table and CSV of all requested cells.

    Args:
        tasks (`Sequence[Task]`): Tasks from [`load_task`].
        models (`Mapping[str, Path | None]`): Model folders by name; `None` for [`RANDOM`] and [`RESNET`].
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
    names = [task.name for task in tasks]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two tasks are named {duplicates[0]!r}: rename one")
    if reserved := [name for name in (RANDOM, RESNET) if models.get(name) is not None]:
        raise InputError(f"the name {reserved[0]!r} is reserved for a control: rename the model")
    for task in tasks:
        check_datasets(task.sets["train"], task.sets["validation"], task.label_names, allow_absent_labels=True)
        for split in ("train", "validation"):
            check_disjoint_patients(task.sets[split], task.sets["test"], f"{task.name}: ", splits=f"{split} and test")
    if not arguments.heads:
        arguments = copy(arguments)
        arguments.heads = default_heads(folder for folder in models.values() if folder is not None)
    runner = _Runner(tasks, models, arguments, cache_dir, output_dir)
    runner.check_identity()
    cells = list(_cells(tasks, models, arguments))
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


def _cells(tasks: Sequence[Task], models: Mapping[str, Path | None], arguments: BenchmarkArguments) -> Iterator[Cell]:
    for task in tasks:
        # Cheap cells first, so that partial results are informative.
        for fraction in sorted(arguments.fractions):
            for model in models:
                for seed in arguments.seeds:
                    if model == RESNET:
                        yield Cell(task.name, fraction, seed, model, "supervised")
                        continue
                    for protocol in arguments.protocols:
                        for head in ("",) if protocol == "knn" else arguments.heads:
                            yield Cell(task.name, fraction, seed, model, protocol, head)


def draw(method: str, task: Task, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices of a fraction of a task's training rows with these labels, sampled by a method of [`DRAWS`]."""
    if method == "plain":
        return random_subset(task.sets["train"]["record_id"], fraction, seed)
    return stratified_subset(labels, task.patient_keys("train"), fraction, seed)


def _describe(cell: Cell) -> str:
    return f"{cell.task}, {100 * cell.fraction:g}%, seed {cell.seed}"


def _prepared_for(task: Task, folder: Path) -> Task:
    """
    The preparation of a task that matches the model in a folder.

    Raises:
        InputError: If none matches, with the mismatch of the first.
    """
    errors: list[InputError] = []
    for prepared in (task, *task.others):
        try:
            if prepared.folder is not None:
                match_prepared(prepared.folder, load_feature_extractor(folder))
            check_compatible(load_config(folder), prepared.feature_extractor, *prepared.sets.values())
            return prepared
        except InputError as error:
            errors.append(error)
    if task.folder is None:
        raise errors[0]
    raise InputError(
        f"{errors[0]}; for models of several systems, list a folder for each: {task.name}=DIR {task.name}=DIR"
    ) from errors[0]


class _Runner:
    """Runs the cells of a benchmark, and caches what several of them use."""

    def __init__(
        self,
        tasks: Sequence[Task],
        models: Mapping[str, Path | None],
        arguments: BenchmarkArguments,
        cache_dir: str | Path | None,
        output_dir: Path,
    ):
        self.tasks = {task.name: task for task in tasks}
        self.models, self.arguments, self.output_dir = dict(models), arguments, output_dir
        self.cache_dir = cache_dir
        self.folders = {name: find_model_folder(folder) for name, folder in models.items() if folder is not None}
        if RANDOM in models and not self.folders:
            raise InputError(f"{RANDOM!r} randomly initializes the encoder of the first model: add a model folder")
        # The preparation of each task that matches a model.
        self.prepared: dict[tuple[str, str], Task] = {}
        for name, folder in self.folders.items():
            try:
                if any(protocol != "knn" for protocol in arguments.protocols):
                    check_heads(folder, arguments.heads)
                for task in tasks:
                    self.prepared[name, task.name] = _prepared_for(task, folder)
            except InputError as error:
                raise InputError(f"model {name}: {error}") from error
        self._cache: dict[tuple[Any, ...], Any] = {}

    # ------------------------------------------------------------------------------------------------------- identity

    def check_identity(self) -> None:
        """Record digests of tasks, models and recipes; raise if the folder has others of the same names."""
        identity: dict[str, dict[str, Any]] = {
            "tasks": {name: self._task_identity(task) for name, task in self.tasks.items()},
            "models": {name: self._encoder_identity(name) for name in self.models if name != RESNET},
            "recipes": {
                name: recipe_settings(recipe)
                for name, recipe in self.arguments.recipes.items()
                if name in self.arguments.protocols or (name == "supervised" and RESNET in self.models)
            },
            "draws": {"of shares": self.arguments.draw},
        }
        folder = RunFolder(self.output_dir, RUN, "benchmark", "choose another output folder, or another name")
        before = read_state(folder.mark, folder.remedy)
        if before is not None:
            # Earlier versions did not record the method.
            before.setdefault("draws", {"of shares": "stratified"})
            for kind, named in identity.items():
                recorded = before.get(kind, {})
                for name in (name for name in named if name in recorded):
                    folder.check_same(recorded[name], named[name], f"the {kind[:-1]} {name!r}")
                identity[kind] = {**recorded, **named}
        # Other processes may run other cells in the same folder, so nothing is removed.
        write_json(folder.mark, identity)

    def _encoder_identity(self, name: str) -> str:
        """Digest of the weights of an encoder, after a check that the protocols can train it."""
        model = self._load(name, next(iter(self.tasks)), "mean", 0)
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

    def _encoder_of(self, model: str | None) -> str:
        """Digest of the config of an encoder; the random control applies to models with an equal one."""
        return settings_digest(load_config(self.folders[model])) if model is not None else ""

    def _load(self, model: str, task: str, head: str, seed: int) -> Any:
        """A classifier with a new head, and for [`RANDOM`] a new encoder."""
        set_seed(seed)
        names = self.tasks[task].label_names
        if model == RANDOM:
            config = load_config(next(iter(self.folders.values())))
            return classifier_class(config).from_config(classifier_config(config, names, head_type=head))
        return load_for_finetuning(self.folders[model], names, head_type=head)[0]

    def _preparation(self, cell: Cell) -> Task:
        """The task as prepared for the model: for [`RANDOM`] the first model, for [`RESNET`] the first folder."""
        if cell.model == RESNET:
            return self.tasks[cell.task]
        return self.prepared[next(iter(self.folders)) if cell.model == RANDOM else cell.model, cell.task]

    # -------------------------------------------------------------------------------------------------------- running

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train and test a cell, and write its result."""
        started = time.perf_counter()
        task = self.tasks[cell.task]
        labels = dataset_labels(task.sets["train"], task.label_names)
        rows = draw(self.arguments.draw, task, labels.numpy(), cell.fraction, cell.seed)
        absent = absent_labels(labels[rows], task.label_names)
        best, *row_probabilities = self._train(cell, self._preparation(cell), rows)
        validation_probabilities, test_probabilities = (
            mean_by_recording(probabilities, task.sets[split]["record_id"])
            for split, probabilities in zip(("validation", "test"), row_probabilities, strict=True)
        )
        thresholds = choose_thresholds(task.truth("validation"), validation_probabilities)
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

    def _train(self, cell: Cell, task: Task, rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Epoch or number of neighbors chosen on the validation split, and probabilities on validation and test."""
        if cell.protocol == "supervised":
            sets = {split: self._signals(task, split) for split in ("train", "validation", "test")}
            recipe = replace(self.arguments.recipes["supervised"], seed=cell.seed)
            network, best, _ = train_reference(sets["train"].select(rows.tolist()), sets["validation"], recipe)
            return best, predict_reference(network, sets["validation"]), predict_reference(network, sets["test"])
        model = None if cell.protocol == "knn" else self._load(cell.model, cell.task, cell.head, cell.seed)
        if model is None or (cell.protocol == "probe" and not model.head.reads_tokens):
            encoded = {split: self._features(cell, task, split) for split in ("train", "validation", "test")}
            train = encoded["train"].select(rows.tolist())
            if model is None:
                return _nearest_neighbors(train, encoded["validation"], encoded["test"])
            recipe = replace(self.arguments.recipes["probe"], seed=cell.seed)
            head = HeadOnly(model)
            best, _ = train_with_trainer(
                head, train, encoded["validation"], identity_collator, make_optimizer(model, recipe), recipe
            )
            return best, _probabilities(head, encoded["validation"]), _probabilities(head, encoded["test"])
        recipe = replace(self.arguments.recipes[cell.protocol], seed=cell.seed)
        train_rows = task.sets["train"].select(rows.tolist())
        result = finetune(model, train_rows, task.sets["validation"], task.feature_extractor, None, recipe)
        validation, test = (
            predict(result.model, task.sets[split], task.feature_extractor).probabilities
            for split in ("validation", "test")
        )
        return result.best_epoch, validation, test

    def _features(self, cell: Cell, task: Task, split: str) -> EncodedDataset:
        seed = cell.seed if cell.model == RANDOM else 0
        key = ("features", cell.model, seed, cell.task, split)
        if key not in self._cache:
            # Cells are ordered by task, so other tasks are finished.
            self._cache = {other: value for other, value in self._cache.items() if cell.task in other}
            model = self._load(cell.model, cell.task, "mean", seed).to(PartialState().device)
            collator = EcgCollator(task.feature_extractor, label_names=task.label_names)
            self._cache[key] = encode(model, task.sets[split], collator, cache_dir=self.cache_dir)
        return self._cache[key]

    def _signals(self, task: Task, split: str) -> EncodedDataset:
        key = ("signals", task.name, split)
        if key not in self._cache:
            self._cache = {other: value for other, value in self._cache.items() if task.name in other}
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
        task = self.tasks[cell.task]
        is_valid = (
            isinstance(result, dict)
            and "metrics" in result
            and all(result.get(name) == value for name, value in asdict(cell).items())
            and probabilities.shape == task.truth("test").shape
        )
        return result if is_valid else None

    def tables(self, cells: Sequence[Cell]) -> str:
        """Markdown: the table in the paper's layout, differences from the controls, and notes."""
        runs: dict[tuple[str, str, float], list[np.ndarray]] = {}
        for cell in cells:
            probabilities = np.load(self.output_dir / CELLS / (cell.name + ".npy"))
            runs.setdefault((cell.method, cell.task, cell.fraction), []).append(probabilities)
        columns = sorted(self.arguments.fractions)
        published = {name: task.published for name, task in self.tasks.items() if task.published is not None}

        def table(control: Callable[[str], str | None] | None) -> str:
            rows = []
            for (method, task, fraction), probabilities in runs.items():
                control_probabilities: list[np.ndarray] = []
                if control is not None:
                    control_method = control(method)
                    if control_method is None or (control_method, task, fraction) not in runs:
                        continue
                    control_probabilities = runs[control_method, task, fraction]
                interval = macro_auroc_interval(
                    self.tasks[task].truth("test"),
                    probabilities,
                    control_probabilities,
                    self.tasks[task].patient_ids("test"),
                    self.arguments.bootstrap_samples,
                )
                rows.append({"method": method, "task": task, "fraction": fraction, "macro_auroc": interval})
            return protocol_table(rows, published if control is None else {}, columns) if rows else ""

        sections = [
            f"Macro AUROC [%], mean of {len(self.arguments.seeds)} seed(s), with 95 % bootstrap intervals over the "
            f"test patients, for fractions of the training recordings, {DRAWS[self.arguments.draw]}.",
            table(None),
        ]
        first_model = next(iter(self.folders), None)
        different = [name for name in self.folders if self._encoder_of(name) != self._encoder_of(first_model)]
        with_random = table(
            lambda method: None if method.partition(", ")[0] in different else _with_model(method, RANDOM)
        )
        if with_random:
            title = "Difference from the same encoder randomly initialized, paired (points of macro AUROC):"
            sections += [title, with_random]
        with_resnet = table(lambda method: None if method.startswith(RESNET) else f"{RESNET}, supervised")
        if with_resnet:
            sections += ["Difference from the supervised ResNet, paired (points of macro AUROC):", with_resnet]
        notes: dict[str, list[str]] = {}
        for name, task in self.tasks.items():
            for note in task.notes:
                notes.setdefault(note, []).append(name)
            if name not in published:
                note = "the paper's numbers are omitted, since its recordings differ"
                notes.setdefault(note, []).append(name)
        lines = [f"- {', '.join(names)}: {note}." for note, names in notes.items()]
        lines += [
            f"- {name}: no control, since {RANDOM} has the encoder config of {first_model}, which differs."
            for name in different
        ]
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


def _with_model(method: str, model: str) -> str | None:
    """The method with another model; `None` for that model itself and for the ResNet."""
    method_model, _, rest = method.partition(", ")
    return None if method_model in (model, RESNET) else f"{model}, {rest}"


def _nearest_neighbors(
    train: EncodedDataset, validation: EncodedDataset, test: EncodedDataset
) -> tuple[int, np.ndarray, np.ndarray]:
    features = [_mean_feature(split) for split in (train, validation, test)]
    labels = [split.columns["labels"].numpy().astype(np.float64) for split in (train, validation)]
    best, test_scores = select_nearest_neighbors(features[0], labels[0], features[1], labels[1], features[2])
    return best, nearest_neighbor_scores(features[0], labels[0], features[1], best), test_scores


def _mean_feature(encoded: EncodedDataset) -> np.ndarray:
    """Mean of the states of present leads, `(num_recordings, hidden_size)`."""
    return masked_mean(encoded.columns["lead_states"], encoded.columns["present"]).numpy()


@torch.no_grad()
def _probabilities(head: HeadOnly, encoded: EncodedDataset) -> np.ndarray:
    head.eval()
    device = head.classifier.weight.device
    states, present = (encoded.columns[name].to(device) for name in ("lead_states", "present"))
    return head(states, present)["logits"].sigmoid().cpu().numpy()


def _row(cell: Cell, result: Mapping[str, Any]) -> dict[str, Any]:
    metrics = result["metrics"]
    row: dict[str, Any] = {**asdict(cell), "fraction": f"{cell.fraction:g}"}
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
