"""
The paper's protocol run: task x fraction x seed x model x protocol x head, one file per finished cell.

A benchmark can be stopped at any time and goes on with the cells that are missing; more tasks, models, fractions or
seeds can be added to the same folder.
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
from .features import EncodedDataset, as_it_is, dataset_labels, encode
from .finetuning import (
    HeadOnly,
    absent_labels,
    check_apart,
    check_datasets,
    check_fits,
    finetune,
    make_optimizer,
    settings,
    train_with_trainer,
)
from .folders import (
    check_heads,
    classifier_class,
    classifier_config,
    find_model_folder,
    load_for_finetuning,
)
from .processes import refuse_launcher
from .reference import predict_reference, signals_of, train_reference


DRAWS = {
    "plain": "drawn plainly at random, as in the paper",
    "stratified": "drawn by patient such that each label keeps its share",
}
"""How a share of the training recordings is drawn."""
RANDOM, RESNET = "random", "resnet"
"""Models that need no folder: the encoder of the first model without its weights, and a supervised ResNet."""
CELLS, CSV, TABLE, RUN = "cells", "results.csv", "table.md", "benchmark.json"


@dataclass
class Task:
    """
    Recordings with labels, and who is trained, chosen and tested on them.

    Args:
        name (`str`): In tables.
        sets (`dict[str, datasets.Dataset]`): Prepared `train`, `validation` and `test` recordings, with the labels of
            the task only.
        label_names (`list[str]`): Labels that are trained and tested.
        feature_extractor: The one that they were prepared with.
        folder (`Path`, *optional*): Where they were prepared.
        notes (`list[str]`): What a reader of the results must know: labels left out, splits that were made.
        published (*optional*): What the paper says about the same recordings.
        others (`list[Task]`): The same rows, prepared for models of other systems.
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
        """Labels of each recording of a split, `(num_recordings, num_labels)`: 1, 0, or NaN where unknown."""
        labels = dataset_labels(self.sets[split], self.label_names).numpy().astype(np.float64)
        return labels[group_by_recording(self.sets[split]["record_id"])[0]]

    def patient_ids(self, split: str) -> list[str | None]:
        """Patient of each recording of a split, where known."""
        patients = self.sets[split]["patient_id"]
        return [patients[row] for row in group_by_recording(self.sets[split]["record_id"])[0]]

    def patient_keys(self, split: str) -> list[str]:
        """Patient of each row of a split; all rows of a recording without one have the same."""
        return patient_keys(self.sets[split]["record_id"], self.sets[split]["patient_id"])


@dataclass(frozen=True)
class Cell:
    """One run: what is trained how on what, and tested."""

    task: str
    fraction: float
    seed: int
    model: str
    protocol: str
    head: str = ""

    @property
    def name(self) -> str:
        """`str`: Name of the cell's files."""
        parts = (self.task, f"{100 * self.fraction:g}pc", f"seed{self.seed}", self.model, self.protocol, self.head)
        # Other signs by number, so that no two names become one.
        return "__".join(
            "".join(c if c.isalnum() or c in "-._" else f"~{ord(c):x}~" for c in part) for part in parts if part
        )

    @property
    def method(self) -> str:
        """`str`: What is the same for all fractions and seeds."""
        return ", ".join(filter(None, (self.model, self.protocol, self.head)))


def load_task(
    name: str, folder: Path | Sequence[Path], label_names: Sequence[str] | None = None, min_positives: int = 1
) -> Task:
    """
    A task of a prepared folder, or of several that were prepared from the same recordings for different systems.

    Where there are no test recordings the validation recordings are tested, and where there are then none to choose
    by, a tenth of the training patients is, drawn with seed 0: nothing is ever chosen on what is tested.

    Args:
        name (`str`): In tables.
        folder (`Path` or `Sequence[Path]`): What `clear-hug prepare --labels` wrote. Of several folders, rows that all
            have are used.
        label_names (`Sequence[str]`, *optional*): Only these labels; all by default.
        min_positives (`int`, *optional*, defaults to 1): A label with fewer recordings that have it, or that do not,
            among the training or the test recordings is left out and named.

    Raises:
        InputError: If the folder has no labels, or no label is left, or the labels are classes of which a recording
            has one, or several folders differ in splits, patients or labels.
    """
    folders = [folder] if isinstance(folder, Path) else list(folder)
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"the data folder {folder} does not exist: check the path")
        check_independent_labels(folder)
    loaded = [load_prepared(one) for one in folders]
    folder = folders[0]
    notes = _keep_shared_rows(folders, [sets for sets, _ in loaded])
    sets = loaded[0][0]
    known = list((next(iter(sets.values())).features or {}).get("labels") or ())
    if not known:
        raise InputError(f"there are no labels in {folder}: prepare it with `clear-hug prepare --labels`")
    if unknown := [one for one in label_names or () if one not in known]:
        raise InputError(f"there is no label {unknown[0]!r} in {folder}: the labels are {', '.join(known)}")
    # Of the source: what was published counts recordings that cannot be used, too.
    sizes = {split: found["records"] for split, found in read_manifest(folder)["splits"].items()}
    usable = {split: len(set(dataset["record_id"])) for split, dataset in sets.items()}
    for split in ("train", "test"):
        if split not in sets and not (split == "test" and "validation" in sets):
            raise InputError(f"{folder} has no {split} recordings: prepare it with splits")
    if "test" not in sets:
        for its_sets, _ in loaded:
            its_sets["test"] = its_sets.pop("validation")
        notes.append("there are no test recordings: the validation recordings are tested")
    if "validation" not in sets:
        labels = dataset_labels(sets["train"], known).numpy()
        patients = patient_keys(sets["train"]["record_id"], sets["train"]["patient_id"])
        first, second = holdout_split(labels, patients, 0.1, seed=0)
        for its_sets, _ in loaded:
            its_sets["validation"], its_sets["train"] = (
                its_sets["train"].select(rows.tolist()) for rows in (second, first)
            )
        count = len({*sets["validation"]["record_id"]})
        notes.append(f"the epoch is chosen on {count} training recordings of other patients")
    least = max(1, min_positives)
    chosen: list[str] = []
    left_out: list[str] = []
    for one in label_names or known:
        fewest = min(_fewest(sets[split], one) for split in ("train", "test"))
        (chosen if fewest >= least else left_out).append(one)
    if left_out:
        named = ", ".join(left_out)
        notes.append(f"left out, with fewer than {least} training or test recordings of a class: {named}")
    if not chosen:
        raise InputError(f"no label of {folder} has {least} recordings of each class to train and test")
    if not any(patient is not None for dataset in sets.values() for patient in dataset["patient_id"]):
        notes.append(
            "no patients are known, so that each recording counts as one: if patients repeat, the numbers are too good"
        )
    published = published_for(chosen, sizes)
    if published is not None:
        notes.append(
            "the paper's numbers are of the same recordings by its published files; of their "
            + ", ".join(f"{sizes[split]} for {split} {usable[split]}" for split in ("train", "validation", "test"))
            + " could be used here"
        )
    tasks = [
        Task(
            name,
            {split: select_labels(its_sets[split], chosen) for split in ("train", "validation", "test")},
            chosen,
            its_extractor,
            its_folder,
        )
        for its_folder, (its_sets, its_extractor) in zip(folders, loaded, strict=True)
    ]
    return replace(tasks[0], notes=notes, published=published, others=tasks[1:])


def _keep_shared_rows(folders: Sequence[Path], all_sets: Sequence[dict[str, datasets.Dataset]]) -> list[str]:
    """
    Leave of the splits of several prepared folders what all have, in the order of the first, and say what that was.

    Raises:
        InputError: If they share nothing, or splits, patients or labels of what they share differ.
    """
    if len(folders) == 1:
        return []
    places = [
        {
            row: (split, number)
            for split, dataset in sets.items()
            for number, row in enumerate(zip(dataset["record_id"], dataset["window_start"], strict=True))
        }
        for sets in all_sets
    ]
    shared = [row for row in places[0] if all(row in one for one in places)]
    splits = list(dict.fromkeys(places[0][row][0] for row in shared))
    left_out = max(map(len, places)) - len(shared)
    for sets, of_sets in zip(all_sets, places, strict=True):
        kept = {
            split: dataset.select([of_sets[row][1] for row in shared if of_sets[row][0] == split])
            for split, dataset in sets.items()
        }
        sets.clear()
        sets.update({split: dataset for split, dataset in kept.items() if len(dataset)})

    def described(sets: dict[str, datasets.Dataset]) -> list[tuple[str, ...]]:
        columns = ("record_id", "patient_id", "labels")
        return [
            tuple(json.dumps(list(sets[split][name])) for name in columns if name in sets[split].column_names)
            for split in splits
            if split in sets
        ]

    for folder, sets in zip(folders[1:], all_sets[1:], strict=True):
        if not shared or described(sets) != described(all_sets[0]):
            what = "differ in splits, patients or labels" if shared else "share no recording"
            raise InputError(
                f"{folders[0]} and {folder} {what}: one task is the same recordings, prepared with the same labels "
                "and splits for different systems"
            )
    return [f"{left_out} rows were left out that one of {len(folders)} preparations lacks"] if left_out else []


def _fewest(dataset: datasets.Dataset, label: str) -> int:
    values = dataset_labels(dataset, [label])[group_by_recording(dataset["record_id"])[0]]
    return int(min((values == 1).sum(), (values == 0).sum()))


def usual_heads(folders: Iterable[Path]) -> list[str]:
    """`mean`, and of the usual heads of the models those that all can have; errors as in [`run_benchmark`]."""
    systems = [system_of(load_config(find_model_folder(folder))) for folder in folders]
    own = (next(iter(system.heads)) for system in systems)
    return list(dict.fromkeys(["mean", *(head for head in own if all(head in one.heads for one in systems))]))


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
    Run every cell that is not in the folder yet, and write table and CSV of all that are asked for.

    Args:
        tasks (`Sequence[Task]`): See [`load_task`].
        models (`Mapping[str, Path | None]`): Model folders by name; `None` for [`RANDOM`] and [`RESNET`].
        output_dir (`str` or `Path`): Gets `results.csv`, `table.md`, `benchmark.json` (what was run on what) and
            `cells/`, a JSON file and the test probabilities of each finished cell.
        arguments ([`BenchmarkArguments`], *optional*): Which cells.
        cache_dir (`str` or `Path`, *optional*): Where features of frozen encoders are kept (see [`encode`]).
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.
        say (`Callable`, *optional*): Takes what is worth knowing while it runs, such as classes that a fraction has
            no recording of.

    Returns:
        `list[dict]`: The rows of the CSV.

    Raises:
        InputError: If a model does not fit a task, or the folder holds cells of other recordings, weights or recipes
            under the same names.
    """
    refuse_launcher("a benchmark")
    arguments = BenchmarkArguments() if arguments is None else arguments
    output_dir = check_writable(output_dir)
    names = [task.name for task in tasks]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two tasks are called {double[0]!r}: give them names of their own")
    if taken := [name for name in (RANDOM, RESNET) if models.get(name) is not None]:
        raise InputError(f"the name {taken[0]!r} is taken by a control: give the model another")
    for task in tasks:
        check_datasets(task.sets["train"], task.sets["validation"], task.label_names, allow_absent_labels=True)
        for split in ("train", "validation"):
            where = f"in the {split} and in the test recordings"
            check_apart(task.sets[split], task.sets["test"], where, of=f"{task.name}: ")
    if not arguments.heads:
        arguments = copy(arguments)
        arguments.heads = usual_heads(folder for folder in models.values() if folder is not None)
    runner = _Runner(tasks, models, arguments, cache_dir, output_dir)
    runner.check_identity()
    cells = list(_cells(tasks, models, arguments))
    missing = [cell for cell in cells if runner.read(cell) is None]
    said: set[str] = set()
    done = len(cells) - len(missing)
    with tqdm(total=len(cells), initial=done, desc="benchmark", unit="cell", disable=not progress) as bar:
        for cell in missing:
            bar.set_postfix_str(cell.name, refresh=True)
            result = runner.run(cell)
            text = f"{_where(cell)}: training recordings of one class only for {', '.join(result['absent'])}"
            if result["absent"] and text not in said:
                said.add(text)
                bar.clear()
                say(text)
            bar.update(1)
    results = {cell: runner.read(cell) for cell in cells}
    rows = [_row(cell, result) for cell, result in results.items() if result is not None]
    write_csv(output_dir / CSV, rows)
    write_text(output_dir / TABLE, runner.tables(cells))
    return rows


def _cells(tasks: Sequence[Task], models: Mapping[str, Path | None], arguments: BenchmarkArguments) -> Iterator[Cell]:
    for task in tasks:
        # Cheap cells first: a stopped benchmark already says something.
        for fraction in sorted(arguments.fractions):
            for model in models:
                for seed in arguments.seeds:
                    if model == RESNET:
                        yield Cell(task.name, fraction, seed, model, "supervised")
                        continue
                    for protocol in arguments.protocols:
                        for head in ("",) if protocol == "knn" else arguments.heads:
                            yield Cell(task.name, fraction, seed, model, protocol, head)


def draw(how: str, task: Task, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions of a share of a task's training rows, whose labels these are, drawn as [`DRAWS`] says."""
    if how == "plain":
        return random_subset(task.sets["train"]["record_id"], fraction, seed)
    return stratified_subset(labels, task.patient_keys("train"), fraction, seed)


def _where(cell: Cell) -> str:
    return f"{cell.task}, {100 * cell.fraction:g}%, seed {cell.seed}"


def _prepared_for(task: Task, folder: Path) -> Task:
    """
    Which of the preparations of a task is for the model in a folder.

    Raises:
        InputError: If there is none: what is wrong with the first, and how to mix systems where it is the system.
    """
    errors: list[InputError] = []
    for one in (task, *task.others):
        try:
            if one.folder is not None:
                match_prepared(one.folder, load_feature_extractor(folder))
            check_fits(load_config(folder), one.feature_extractor, *one.sets.values())
            return one
        except InputError as error:
            errors.append(error)
    if task.folder is None:
        raise errors[0]
    raise InputError(
        f"{errors[0]}; a task for models of several systems names a folder for each, {task.name}=DIR {task.name}=DIR"
    ) from errors[0]


class _Runner:
    """Runs cells of a benchmark, and keeps what several of them need."""

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
            raise InputError(f"{RANDOM!r} is the first model without its weights: name a model folder, too")
        # Of each model and task the preparation that is for the model.
        self.prepared: dict[tuple[str, str], Task] = {}
        for name, folder in self.folders.items():
            try:
                if any(protocol != "knn" for protocol in arguments.protocols):
                    check_heads(folder, arguments.heads)
                for task in tasks:
                    self.prepared[name, task.name] = _prepared_for(task, folder)
            except InputError as error:
                raise InputError(f"model {name}: {error}") from error
        self._held: dict[tuple[Any, ...], Any] = {}

    # ---------------------------------------------------------------------------------------------------- what is run

    def check_identity(self) -> None:
        """Refuse a folder with cells of other data, weights or recipes of the same names; write down what is run."""
        identity: dict[str, dict[str, Any]] = {
            "tasks": {name: self._task_identity(task) for name, task in self.tasks.items()},
            "models": {
                name: weights_digest(self._load(name, next(iter(self.tasks)), "mean", 0).base_model)
                for name in self.models
                if name != RESNET
            },
            "recipes": {
                name: settings(one)
                for name, one in self.arguments.recipes.items()
                if name in self.arguments.protocols or (name == "supervised" and RESNET in self.models)
            },
            "draws": {"of shares": self.arguments.draw},
        }
        folder = RunFolder(self.output_dir, RUN, "benchmark", "choose another output folder, or another name")
        before = read_state(folder.mark, folder.remedy)
        if before is not None:
            # Before there was a choice.
            before.setdefault("draws", {"of shares": "stratified"})
            for kind, named in identity.items():
                there = before.get(kind, {})
                for name in (name for name in named if name in there):
                    folder.check_same(there[name], named[name], f"the {kind[:-1]} {name!r}")
                identity[kind] = {**there, **named}
        # Other processes may fill other cells of the same folder: nothing is removed.
        write_json(folder.mark, identity)

    @staticmethod
    def _task_identity(task: Task) -> dict[str, Any]:
        digest = hashlib.sha256()
        for split in ("train", "validation", "test"):
            for one in (task, *task.others):
                digest.update(dataset_digest(one.sets[split]).encode())
            digest.update(dataset_labels(task.sets[split], task.label_names).numpy().tobytes())
        return {
            "labels": task.label_names,
            "recordings": {split: len(dataset) for split, dataset in task.sets.items()},
            "digest": digest.hexdigest(),
        }

    def _encoder_of(self, model: str | None) -> str:
        """Digest of what makes an encoder before it has weights; a control is fair to models that share it."""
        return settings_digest(load_config(self.folders[model])) if model is not None else ""

    def _load(self, model: str, task: str, head: str, seed: int) -> Any:
        """A classifier with a new head; the encoder of [`RANDOM`] is new, too."""
        set_seed(seed)
        names = self.tasks[task].label_names
        if model == RANDOM:
            config = load_config(next(iter(self.folders.values())))
            return classifier_class(config).from_config(classifier_config(config, names, head_type=head))
        return load_for_finetuning(self.folders[model], names, head_type=head)[0]

    def _preparation(self, cell: Cell) -> Task:
        """The cell's task as its model reads it: [`RANDOM`] as the first model, [`RESNET`] as the first folder is."""
        if cell.model == RESNET:
            return self.tasks[cell.task]
        return self.prepared[next(iter(self.folders)) if cell.model == RANDOM else cell.model, cell.task]

    # -------------------------------------------------------------------------------------------------------- running

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train and test a cell, and write it down."""
        started = time.perf_counter()
        task = self.tasks[cell.task]
        labels = dataset_labels(task.sets["train"], task.label_names)
        rows = draw(self.arguments.draw, task, labels.numpy(), cell.fraction, cell.seed)
        absent = absent_labels(labels[rows], task.label_names)
        best, *by_row = self._train(cell, self._preparation(cell), rows)
        on_validation, on_test = (
            mean_by_recording(found, task.sets[split]["record_id"])
            for split, found in zip(("validation", "test"), by_row, strict=True)
        )
        chosen = choose_thresholds(task.truth("validation"), on_validation)
        thresholds = [0.5 if one is None else one for one in chosen]
        metrics = evaluate_predictions(
            task.truth("test"),
            on_test,
            task.label_names,
            task.patient_ids("test"),
            num_samples=self.arguments.bootstrap_samples,
            thresholds=thresholds,
        )
        result = {
            **asdict(cell),
            "num_train": len({*task.sets["train"].select(rows.tolist())["record_id"]}),
            "num_validation": len(on_validation),
            "num_test": len(on_test),
            "absent": absent,
            "chosen": best,
            "seconds": round(time.perf_counter() - started, 2),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "versions": " ".join(f"{one}={version(one)}" for one in ("clear-hug-hf", "torch", "transformers")),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
            "metrics": metrics,
        }
        path = self.output_dir / CELLS / cell.name
        with atomic_file(path.with_name(path.name + ".npy")) as partial:
            np.save(partial, on_test.astype(np.float32))
        # Last: a cell whose JSON is there is whole.
        write_json(path.with_name(path.name + ".json"), result)
        return result

    def _train(self, cell: Cell, task: Task, rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """What was chosen on the validation recordings (epoch or neighbours), and probabilities there and of test."""
        if cell.protocol == "supervised":
            sets = {split: self._signals(task, split) for split in ("train", "validation", "test")}
            recipe = replace(self.arguments.recipes["supervised"], seed=cell.seed)
            network, best, _ = train_reference(sets["train"].select(rows.tolist()), sets["validation"], recipe)
            return best, predict_reference(network, sets["validation"]), predict_reference(network, sets["test"])
        if cell.protocol in ("knn", "probe"):
            encoded = {split: self._features(cell, task, split) for split in ("train", "validation", "test")}
            train = encoded["train"].select(rows.tolist())
            if cell.protocol == "knn":
                return _neighbours(train, encoded["validation"], encoded["test"])
            model = self._load(cell.model, cell.task, cell.head, cell.seed)
            recipe = replace(self.arguments.recipes["probe"], seed=cell.seed)
            head = HeadOnly(model)
            best, _ = train_with_trainer(
                head, train, encoded["validation"], as_it_is, make_optimizer(model, recipe), recipe
            )
            return best, _probabilities(head, encoded["validation"]), _probabilities(head, encoded["test"])
        model = self._load(cell.model, cell.task, cell.head, cell.seed)
        recipe = replace(self.arguments.recipes[cell.protocol], seed=cell.seed)
        train_rows = task.sets["train"].select(rows.tolist())
        done = finetune(model, train_rows, task.sets["validation"], task.feature_extractor, None, recipe)
        found = [
            predict(done.model, task.sets[split], task.feature_extractor).probabilities
            for split in ("validation", "test")
        ]
        return done.best_epoch, found[0], found[1]

    def _features(self, cell: Cell, task: Task, split: str) -> EncodedDataset:
        seed = cell.seed if cell.model == RANDOM else 0
        key = ("features", cell.model, seed, cell.task, split)
        if key not in self._held:
            # Those of other tasks are not needed again: cells come task by task.
            self._held = {one: held for one, held in self._held.items() if cell.task in one}
            model = self._load(cell.model, cell.task, "mean", seed).to(PartialState().device)
            collator = EcgCollator(task.feature_extractor, label_names=task.label_names)
            self._held[key] = encode(model, task.sets[split], collator, cache_dir=self.cache_dir)
        return self._held[key]

    def _signals(self, task: Task, split: str) -> EncodedDataset:
        key = ("signals", task.name, split)
        if key not in self._held:
            self._held = {one: held for one, held in self._held.items() if task.name in one}
            samples = round(task.feature_extractor.window_seconds * task.feature_extractor.sampling_rate)
            self._held[key] = signals_of(task.sets[split], task.label_names, samples)
        return self._held[key]

    # -------------------------------------------------------------------------------------------------------- results

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell; `None` for one that is missing or damaged, which is then run again."""
        path = self.output_dir / CELLS / cell.name
        try:
            result: Any = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
            found = np.load(path.with_name(path.name + ".npy"))
        except (OSError, ValueError, EOFError):
            return None
        task = self.tasks[cell.task]
        whole = (
            isinstance(result, dict)
            and "metrics" in result
            and all(result.get(name) == value for name, value in asdict(cell).items())
            and found.shape == task.truth("test").shape
        )
        return result if whole else None

    def tables(self, cells: Sequence[Cell]) -> str:
        """The table of the paper's form, the differences to the controls, and what a reader must know, as Markdown."""
        runs: dict[tuple[str, str, float], list[np.ndarray]] = {}
        for cell in cells:
            found = np.load(self.output_dir / CELLS / (cell.name + ".npy"))
            runs.setdefault((cell.method, cell.task, cell.fraction), []).append(found)
        columns = sorted(self.arguments.fractions)
        published = {name: task.published for name, task in self.tasks.items() if task.published is not None}

        def table(control: Callable[[str], str | None] | None) -> str:
            rows = []
            for (method, task, fraction), found in runs.items():
                others: list[np.ndarray] = []
                if control is not None:
                    other = control(method)
                    if other is None or (other, task, fraction) not in runs:
                        continue
                    others = runs[other, task, fraction]
                interval = macro_auroc_interval(
                    self.tasks[task].truth("test"),
                    found,
                    others,
                    self.tasks[task].patient_ids("test"),
                    self.arguments.bootstrap_samples,
                )
                rows.append({"method": method, "task": task, "fraction": fraction, "macro_auroc": interval})
            return protocol_table(rows, published if control is None else {}, columns) if rows else ""

        first = [
            f"Macro AUROC [%], mean of {len(self.arguments.seeds)} seed(s), with 95 % bootstrap intervals over the "
            f"patients tested, for shares of the training recordings, {DRAWS[self.arguments.draw]}.",
            table(None),
        ]
        first_model = next(iter(self.folders), None)
        unlike = [name for name in self.folders if self._encoder_of(name) != self._encoder_of(first_model)]
        with_random = table(lambda method: None if method.partition(", ")[0] in unlike else _instead(method, RANDOM))
        if with_random:
            first += ["Ahead of the same encoder without its weights, paired (points of macro AUROC):", with_random]
        with_resnet = table(lambda method: None if method.startswith(RESNET) else f"{RESNET}, supervised")
        if with_resnet:
            first += ["Ahead of the supervised ResNet, paired (points of macro AUROC):", with_resnet]
        notes: dict[str, list[str]] = {}
        for name, task in self.tasks.items():
            for note in task.notes:
                notes.setdefault(note, []).append(name)
            if name not in published:
                note = "the paper's numbers are not beside ours, since these are not its recordings"
                notes.setdefault(note, []).append(name)
        lines = [f"- {', '.join(names)}: {note}." for note, names in notes.items()]
        lines += [
            f"- {name}: no control, since its encoder is of another form than {first_model}'s, which {RANDOM} has."
            for name in unlike
        ]
        empty: dict[str, list[str]] = {}
        for cell in cells:
            result = self.read(cell)
            if result is not None and result["absent"]:
                empty.setdefault(_where(cell), result["absent"])
        lines += [
            f"- {where}: training recordings of one class only for {', '.join(labels)}."
            for where, labels in empty.items()
        ]
        return "\n\n".join([*first, "\n".join(lines)]) + "\n"


def _instead(method: str, model: str) -> str | None:
    """The same method with another model; `None` for that model itself and for what has no such control."""
    own, _, rest = method.partition(", ")
    return None if own in (model, RESNET) else f"{model}, {rest}"


def _neighbours(
    train: EncodedDataset, validation: EncodedDataset, test: EncodedDataset
) -> tuple[int, np.ndarray, np.ndarray]:
    features = [_mean_feature(one) for one in (train, validation, test)]
    labels = [one.columns["labels"].numpy().astype(np.float64) for one in (train, validation)]
    best, on_test = select_nearest_neighbors(features[0], labels[0], features[1], labels[1], features[2])
    return best, nearest_neighbor_scores(features[0], labels[0], features[1], best), on_test


def _mean_feature(encoded: EncodedDataset) -> np.ndarray:
    """Mean of the states of the leads that a recording has, `(num_recordings, hidden_size)`."""
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
