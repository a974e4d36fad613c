"""Fine-tuning on transformers' Trainer: a new head on a frozen encoder, the whole model, or LoRA."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from ..data.augmentation import AugmentingCollator
from ..data.collator import EcgCollator
from ..data.pages import PageCollator
from ..data.splits import patient_keys
from ..evaluation.metrics import choose_thresholds, macro_auroc
from ..evaluation.predictions import predict
from ..inference.classifier_outputs import model_label_names
from ..inference.digests import dataset_digest, weights_digest
from ..modeling.modeling_ecg import masked_binary_cross_entropy
from ..processing.errors import InputError
from ..utils.files import RunFolder, check_writable, remove_leftovers, write_csv, write_json
from .arguments import FinetuningArguments
from .checkpoints import check_sums, write_sums
from .features import as_it_is, dataset_labels, encode
from .folders import load_classifier, save_model_folder
from .pretraining import EPOCH_LOG, FINETUNING_RUN, MODEL_FOLDER, check_cut, decay_groups
from .processes import average_batch_statistics, connect_processes


LOG, CHECKPOINTS = "finetuning_log.csv", "checkpoints"
# A label with fewer positives than one in a hundred would drown the others.
_MOST_WEIGHT = 100.0
# Settings that change no number.
_FREE = ("precompute", "dataloader_num_workers", "disable_tqdm")


@dataclass
class FinetuningResult:
    """
    What a fine-tuning run gives.

    Args:
        model ([`PreTrainedModel`]): The model of the best epoch, in evaluation mode.
        best_epoch (`int`): The epoch with the highest validation macro AUROC, from 1.
        history (`list[dict]`): One row per epoch: `epoch`, `train_loss`, `validation_loss`, `validation_macro_auroc`,
            and `choice`, the macro AUROC less a millionth of the log loss, by which the epoch was chosen.
        finished_before (`bool`): Whether the folder held this run, finished, so that nothing was trained.
    """

    model: PreTrainedModel
    best_epoch: int
    history: list[dict[str, Any]] = field(default_factory=list)
    finished_before: bool = False


def finetune(
    model: PreTrainedModel,
    train_dataset: datasets.Dataset,
    validation_dataset: datasets.Dataset,
    feature_extractor: Any,
    output_dir: str | Path | None = None,
    arguments: FinetuningArguments | None = None,
    *,
    cache_dir: str | Path | None = None,
    restart: bool = False,
) -> FinetuningResult:
    """
    Train a classifier and keep the epoch with the best validation macro AUROC, of equal ones that of the lowest loss;
    or go on where a killed run stopped.

    For each label the threshold with the best F1 on the validation recordings is saved in the model's config.

    Args:
        model ([`PreTrainedModel`]): A multi-label classifier; trained in place.
        train_dataset ([`datasets.Dataset`]): As `prepare` makes it, with the model's labels.
        validation_dataset ([`datasets.Dataset`]): Recordings of other patients, with the same labels.
        feature_extractor: The one that the datasets were prepared with; saved beside the weights.
        output_dir (`str` or `Path`, *optional*): Gets `model/` at the end and `finetuning_log.csv`; `checkpoints/`
            while it runs, from which the same run goes on. Nothing is written without it.
        arguments ([`FinetuningArguments`], *optional*): The recipe.
        cache_dir (`str` or `Path`, *optional*): Where features of a frozen encoder are kept for later runs (see
            [`encode`]). Without it they are computed once for this run.
        restart (`bool`, *optional*, defaults to `False`): Whether to start anew where the folder holds a run.

    Returns:
        [`FinetuningResult`]

    Raises:
        InputError: If a set is empty, patients are on both sides, a label is not among the model's, has values other
            than 1 and 0 or none to learn from, no label has both classes in the validation recordings, leads, beats or
            rate are not the model's, the folder holds another run, or the loss is not finite.
    """
    arguments = FinetuningArguments() if arguments is None else arguments
    connect_processes()
    label_names = model_label_names(model.config)
    if output_dir is not None:
        output_dir = check_writable(output_dir)
    if model.config.problem_type not in (None, "multi_label_classification"):
        raise InputError(
            f"the model's problem_type is {model.config.problem_type!r}: this recipe trains multi-label classifiers"
        )
    check_datasets(train_dataset, validation_dataset, label_names, arguments.allow_absent_labels)
    check_fits(model.config, feature_extractor, train_dataset, validation_dataset)
    model.config.problem_type = "multi_label_classification"

    model.to(PartialState().device)
    identity = None
    if output_dir is not None:
        identity = _identity(model, train_dataset, validation_dataset, label_names, arguments)
        finished = _finished(output_dir, identity, restart)
        if finished is not None:
            try:
                done, _ = load_classifier(output_dir / MODEL_FOLDER)
            except (FileNotFoundError, InputError) as error:
                raise InputError(
                    f"{output_dir} holds this run, finished, but its model is gone or damaged: start anew with "
                    "--restart"
                ) from error
            done.to(PartialState().device)
            return FinetuningResult(done, finished["best_epoch"], finished["history"], finished_before=True)

    collator = EcgCollator(feature_extractor, label_names=label_names)
    train_labels = dataset_labels(train_dataset, label_names)
    sets: list[Any] = [train_dataset, validation_dataset]
    collate: Any = collator
    train_collate: Any = collator
    if arguments.method == "frozen" and arguments.precompute:
        # Nothing changes before the head, so that the encoder reads every recording once instead of once per epoch.
        sets = [encode(model, one, collator, progress=not arguments.disable_tqdm, cache_dir=cache_dir) for one in sets]
        collate = train_collate = as_it_is
    else:
        if hasattr(feature_extractor, "image_processor") and arguments.method != "frozen":
            train_collate = PageCollator(
                feature_extractor,
                label_names,
                augmentation=1.0 if arguments.augmentation is None else arguments.augmentation,
                random=True,
            )
        elif arguments.augmentation:
            train_collate = AugmentingCollator(
                feature_extractor, label_names, augmentation=arguments.augmentation, random=True
            )
        sets = [one.select_columns(collator.columns).with_format("numpy") for one in sets]
    with _adapted(model, arguments) as trained, _loss(model, trained, train_labels, arguments):
        best_epoch, history = train_with_trainer(
            trained, sets[0], sets[1], collate, make_optimizer(model, arguments), arguments, output_dir, train_collate
        )
    model.eval()

    found = predict(model, validation_dataset, feature_extractor).by_recording()
    assert found.labels is not None
    chosen = choose_thresholds(found.labels, found.probabilities)
    model.config.label_thresholds = {
        name: one for name, one in zip(label_names, chosen, strict=True) if one is not None
    }
    if output_dir is not None and PartialState().is_main_process:
        save_model_folder(output_dir / MODEL_FOLDER, model, feature_extractor)
        write_csv(output_dir / LOG, history)
        # Written last: what is here is whole.
        finished = {"best_epoch": best_epoch, "history": history}
        write_json(output_dir / FINETUNING_RUN, {**(identity or {}), "finished": finished})
        shutil.rmtree(output_dir / CHECKPOINTS, ignore_errors=True)
    PartialState().wait_for_everyone()
    return FinetuningResult(model=model, best_epoch=best_epoch, history=history)


def train_with_trainer(
    module: nn.Module,
    train_set: Any,
    validation_set: Any,
    collate: Any,
    optimizer: torch.optim.Optimizer,
    arguments: FinetuningArguments,
    output_dir: Path | None = None,
    train_collate: Any = None,
) -> tuple[int, list[dict[str, Any]]]:
    """
    Train a module that gives `loss` and `logits`, and leave it with the weights of its best epoch.

    Args:
        module (`nn.Module`): Trained in place, from the newest checkpoint in `output_dir` where there is one.
        train_set, validation_set: What a loader reads.
        collate (`Callable`): Makes batches of it.
        optimizer (`torch.optim.Optimizer`): Holds the parameters to train.
        arguments ([`FinetuningArguments`]): Length, batch, patience, seed.
        output_dir (`Path`, *optional*): Gets `checkpoints/`, one per epoch, of which the best and the last are kept.
        train_collate (`Callable`, *optional*): Makes the batches that are trained on, where they differ.

    Returns:
        `tuple[int, list[dict]]`: The best epoch, and a row per epoch as in [`FinetuningResult`].
    """
    kept = None if output_dir is None else output_dir / CHECKPOINTS
    temporary = nullcontext(str(kept)) if kept else tempfile.TemporaryDirectory(prefix="finetuning-")
    with temporary as folder, _config_kept(getattr(module, "config", None)):
        checkpoints = Path(folder)
        course = _Course(arguments.early_stopping_patience, not arguments.disable_tqdm)
        trainer = FinetuningTrainer(
            model=module,
            args=TrainingArguments(
                output_dir=str(checkpoints),
                num_train_epochs=arguments.num_train_epochs,
                per_device_train_batch_size=arguments.per_device_train_batch_size,
                per_device_eval_batch_size=arguments.per_device_train_batch_size,
                lr_scheduler_type="cosine_with_min_lr",
                lr_scheduler_kwargs={
                    "min_lr_rate": (arguments.min_learning_rate or 0.0) / float(arguments.head_learning_rate or 1.0)
                },
                warmup_steps=_warmup_steps(len(train_set), arguments),
                bf16=arguments.bf16,
                # Where there are CPUs alone it must be said: else several processes are not connected, and bfloat16
                # is refused.
                use_cpu=not torch.accelerator.is_available(),
                eval_strategy="epoch",
                save_strategy="epoch",
                save_total_limit=1,
                load_best_model_at_end=True,
                metric_for_best_model="choice",
                greater_is_better=True,
                logging_strategy="epoch",
                remove_unused_columns=False,
                label_names=["labels"],
                dataloader_num_workers=0 if collate is as_it_is else arguments.dataloader_num_workers,
                dataloader_pin_memory=torch.cuda.is_available(),
                seed=arguments.seed,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=train_set,
            eval_dataset=validation_set,
            data_collator=collate,
            train_collator=collate if train_collate is None else train_collate,
            compute_metrics=_validation_metrics,
            preprocess_logits_for_metrics=_first_output,
            optimizers=(optimizer, None),
            callbacks=[course],
        )
        trainer.remove_callback(PrinterCallback)
        newest = _newest_checkpoint(checkpoints)
        if newest is not None:
            # Others may be half deleted: they are not read.
            check_sums(newest, "start anew with --restart")
            check_sums(_best_checkpoint(newest), "start anew with --restart")
        PartialState().wait_for_everyone()
        if newest is not None and PartialState().is_main_process:
            _find_best_here(newest)
            if not arguments.disable_tqdm:
                tqdm.write(f"{output_dir}: going on after {newest.name}")
        PartialState().wait_for_everyone()
        with _without_bars():
            trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        history = _history(trainer.state)
    return _best(history), history


class FinetuningTrainer(Trainer):
    """Trainer on one device of each process, with a collator of its own for the training batches."""

    def __init__(self, *, args: TrainingArguments, train_collator: Any, **kwargs: Any):
        # Of several it would make the batch of each step as many times as large.
        args._n_gpu = min(args.n_gpu, 1)
        super().__init__(args=args, **kwargs)
        self._train_collator = train_collator

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As usual, with the batch statistics that are then saved in every process."""
        assert isinstance(self.model, nn.Module)
        average_batch_statistics(self.model)
        return super().evaluate(*args, **kwargs)

    def get_train_dataloader(self) -> Any:
        usual, self.data_collator = self.data_collator, self._train_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = usual


@contextmanager
def _config_kept(config: Any) -> Iterator[None]:
    """Trainer writes settings of its own, such as `use_cache`, into the config of what it trains."""
    fields = {} if config is None else vars(config)
    before = dict(fields)
    try:
        yield
    finally:
        fields.clear()
        fields.update(before)


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bar for each checkpoint that transformers writes: ours shows the epochs."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _warmup_steps(num_recordings: int, arguments: FinetuningArguments) -> int:
    """Whole steps of the warm-up, rounded down: the only step of a run would else be at rate 0."""
    per_epoch = math.ceil(num_recordings / (arguments.per_device_train_batch_size * PartialState().num_processes))
    return math.floor(arguments.warmup_ratio * per_epoch * arguments.num_train_epochs + 1e-9)


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint: Trainer writes its state last."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _best_checkpoint(checkpoint: Path) -> Path:
    """The best checkpoint so far, where the run's folder is now."""
    best = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).best_model_checkpoint
    return checkpoint if best is None else checkpoint.parent / Path(best).name


def _find_best_here(checkpoint: Path) -> None:
    """
    Trainer remembers the best checkpoint by its path. Where the run's folder was moved, or is called from elsewhere,
    it would not find it and silently keep the last weights.
    """
    path = checkpoint / "trainer_state.json"
    state = TrainerState.load_from_json(str(path))
    here = str(_best_checkpoint(checkpoint))
    if state.best_model_checkpoint not in (None, here):
        state.best_model_checkpoint = here
        state.save_to_json(str(path))
        write_sums(checkpoint)


def _history(state: TrainerState) -> list[dict[str, Any]]:
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    return [
        {
            "epoch": number,
            "train_loss": loss,
            "validation_loss": entry["eval_loss"],
            "validation_macro_auroc": entry["eval_macro_auroc"],
            "choice": entry["eval_choice"],
        }
        for number, (loss, entry) in enumerate(zip(losses, evaluations, strict=False), start=1)
    ]


def _best(history: list[dict[str, Any]]) -> int:
    return 1 + int(np.argmax([row["choice"] for row in history]))


class HeadOnly(nn.Module):
    """
    Head and classifier of a model as a model of their own, which reads an [`EncodedDataset`]. The weights are the
    model's: training this trains it.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.config = model.config
        self.head, self.dropout, self.classifier = model.head, model.dropout, model.classifier
        self.loss_function = model.loss_function

    def forward(
        self, lead_states: torch.Tensor, present: torch.Tensor, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Logits `(batch_size, num_labels)` of lead states, and the loss where there are labels."""
        feature, _ = self.head(lead_states, present)
        logits = self.classifier(self.dropout(feature))
        if labels is None:
            return {"logits": logits}
        return {"loss": self.loss_function(labels, logits, self.config), "logits": logits}


class FrozenEncoder(HeadOnly):
    """As [`HeadOnly`], but reads recordings: the encoder computes every batch anew, always in evaluation mode."""

    def __init__(self, model: Any):
        super().__init__(model)
        # In a list it is no part of this module: neither its mode nor its weights change.
        self._encoder = [model.base_model.eval()]

    def forward(  # type: ignore[override]
        self, labels: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """As in [`HeadOnly`], of a batch as the collator makes it."""
        with torch.no_grad():
            encoded = self._encoder[0](**inputs)
        return super().forward(encoded.lead_states, encoded.present_leads, labels)


@contextmanager
def _adapted(model: PreTrainedModel, arguments: FinetuningArguments) -> Iterator[nn.Module]:
    """The module to train; afterwards the model has what it learnt."""
    if arguments.method == "frozen":
        yield HeadOnly(model) if arguments.precompute else FrozenEncoder(model)
        return
    if arguments.method == "full":
        yield model
        return
    from peft import LoraConfig, LoraModel

    prefix = re.escape(model.base_model_prefix)
    projections = rf"{prefix}\..*\.(q_proj|k_proj|v_proj|o_proj)"
    if not any(re.fullmatch(projections, name) for name, _ in model.named_modules()):
        raise InputError(
            f"LoRA acts on the attention's projections, and the encoder of {type(model).__name__} has none: train the "
            'head or the whole model, method "frozen" or "full"'
        )
    config = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=2 * arguments.lora_rank,
        target_modules=projections,
    )
    tuner = LoraModel(model, {"default": config}, "default")
    for part in (model.head, model.classifier):
        part.requires_grad_(True)
    try:
        yield tuner
    finally:
        tuner.merge_and_unload()
        model.requires_grad_(True)


@contextmanager
def _loss(
    model: PreTrainedModel, trained: nn.Module, labels: torch.Tensor, arguments: FinetuningArguments
) -> Iterator[None]:
    """Trains with class weights, if asked for; afterwards the model has its own loss."""
    if arguments.class_weights == "none":
        yield
        return
    weights = positive_weights(labels)
    own = model.loss_function

    def balanced(labels: torch.Tensor, logits: torch.Tensor, config: Any, **_: Any) -> torch.Tensor:
        logits = logits.float()
        return masked_binary_cross_entropy(logits, labels.to(logits), weights.to(logits))

    for owner in {id(one): one for one in (model, trained)}.values():
        if hasattr(owner, "loss_function"):
            owner.loss_function = balanced  # type: ignore[assignment]
    try:
        yield
    finally:
        model.loss_function = own


def positive_weights(labels: torch.Tensor) -> torch.Tensor:
    """
    How many more recordings there are without each label than with it, from 1/100 to 100.

    Args:
        labels (`torch.Tensor` of shape `(num_recordings, num_labels)`): 1, 0, or NaN where unknown.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`: 1 for a label of which only one class is present.
    """
    with_label, without = (labels == 1).sum(dim=0), (labels == 0).sum(dim=0)
    weights = (without / with_label.clamp(min=1)).clamp(1 / _MOST_WEIGHT, _MOST_WEIGHT)
    return torch.where((with_label > 0) & (without > 0), weights, torch.ones_like(weights))


def settings(arguments: FinetuningArguments) -> dict[str, Any]:
    """The recipe as it is written beside results: what changes what is trained."""
    # What is not set is the system's own: its augmentation.
    return {name: value for name, value in asdict(arguments).items() if name not in _FREE and value is not None}


def _identity(
    model: PreTrainedModel,
    train_dataset: datasets.Dataset,
    validation_dataset: datasets.Dataset,
    label_names: list[str],
    arguments: FinetuningArguments,
) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""

    def digest(dataset: datasets.Dataset) -> str:
        labels = dataset_labels(dataset, label_names).numpy().tobytes()
        return hashlib.sha256(dataset_digest(dataset).encode() + labels).hexdigest()

    return {
        "the recipe": {**settings(arguments), "processes": PartialState().num_processes},
        "the model": {
            "encoder": weights_digest(model.base_model),
            "head": model.config.head_type,
            "labels": label_names,
        },
        "the training recordings": digest(train_dataset),
        "the validation recordings": digest(validation_dataset),
    }


def _finished(output_dir: Path, identity: dict[str, Any], restart: bool) -> dict[str, Any] | None:
    """
    Result of the same run in the folder, if it finished. Refuses the folder of another run, unless it is to be started
    anew; writes down whose folder it is.
    """
    remedy = "choose another folder, or start anew with --restart"
    foreign = ("config.json", MODEL_FOLDER, CHECKPOINTS, EPOCH_LOG)
    folder = RunFolder(output_dir, FINETUNING_RUN, "fine-tuning run", remedy, foreign)
    before = folder.open(identity, restart)
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        if before is None:
            shutil.rmtree(output_dir / CHECKPOINTS, ignore_errors=True)
            folder.claim(identity)
        else:
            remove_leftovers(output_dir)
        # What a kill left half written.
        for checkpoint in (output_dir / CHECKPOINTS).glob("checkpoint-*"):
            if not (checkpoint / "trainer_state.json").is_file():
                shutil.rmtree(checkpoint, ignore_errors=True)
    PartialState().wait_for_everyone()
    return None if before is None else before.get("finished")


def check_datasets(
    train_dataset: datasets.Dataset,
    validation_dataset: datasets.Dataset,
    label_names: list[str],
    allow_absent_labels: bool = False,
) -> None:
    """
    Refuse recordings that a classifier cannot be trained and chosen on; errors as in [`finetune`].

    Args:
        train_dataset, validation_dataset ([`datasets.Dataset`]): As `prepare` makes them.
        label_names (`list[str]`): Labels of the model.
        allow_absent_labels (`bool`, *optional*, defaults to `False`): As in [`FinetuningArguments`].
    """
    for name, dataset in (("training", train_dataset), ("validation", validation_dataset)):
        if not len(dataset):
            raise InputError(f"there are no {name} recordings")
        has = list(dataset.features.get("labels") or ())
        if unknown := sorted(set(has).difference(label_names)):
            raise InputError(f"the {name} recordings have the label {unknown[0]!r} and the model does not")
        if missing := [label for label in label_names if label not in has]:
            raise InputError(f"the model has the label {missing[0]!r} and the {name} recordings do not")
        for row in dataset["labels"]:
            for label in label_names:
                # None and NaN are unknown, and unequal to every number.
                if row[label] not in (0.0, 1.0, None) and row[label] == row[label]:
                    raise InputError(
                        f"the {name} recordings have the value {row[label]:g} for the label {label!r}: this recipe "
                        "trains labels that are 1 or 0; numbers to be predicted need a Trainer of your own with "
                        'problem_type="regression"'
                    )
    check_apart(train_dataset, validation_dataset, "in the training and in the validation recordings")
    if (absent := absent_labels(dataset_labels(train_dataset, label_names), label_names)) and not allow_absent_labels:
        kept = [name for name in label_names if name not in absent]
        raise InputError(
            f"nothing can be learnt about the label(s) {', '.join(absent)}: no training recording has them, or all "
            f"have. Leave them out with `--labels {' '.join(kept)}`, or move recordings with them into training"
        )
    truth = dataset_labels(validation_dataset, label_names).numpy()
    if not any(0 < np.nansum(column) < np.isfinite(column).sum() for column in truth.T):
        raise InputError(
            "no label is both present and absent among the validation recordings: there is nothing to choose by"
        )


def check_apart(first: datasets.Dataset, second: datasets.Dataset, where: str, of: str = "") -> None:
    """Refuse two sets of recordings with patients in common: `where` names both, and `of` begins the message."""
    patients = [{*patient_keys(one["record_id"], one["patient_id"])} for one in (first, second)]
    if shared := patients[0] & patients[1]:
        raise InputError(
            f"{of}{len(shared)} patient(s) are {where}, such as {min(shared).removeprefix('patient ')}: "
            "split by patient"
        )


def absent_labels(labels: torch.Tensor, label_names: Iterable[str], fewest: int = 1) -> list[str]:
    """Names of the labels `(num_recordings, num_labels)` that fewer than `fewest` have, or have not."""
    some = ((labels == 1).sum(dim=0) >= fewest) & ((labels == 0).sum(dim=0) >= fewest)
    return [name for name, both in zip(label_names, some.tolist(), strict=True) if not both]


def check_fits(config: Any, feature_extractor: Any, *sets: datasets.Dataset) -> None:
    """
    Refuse a feature extractor or prepared datasets that are not for a model.

    Raises:
        InputError: If the rate differs, or as in [`check_cut`].
    """
    wanted, found = float(config.sampling_rate), float(feature_extractor.sampling_rate)
    if wanted != found:
        raise InputError(
            f"the feature extractor has sampling_rate {found:g} Hz and the model {wanted:g} Hz: use the one that is "
            "saved beside the model"
        )
    check_cut(config, feature_extractor)
    for dataset in sets:
        first = dataset[0]
        if float(first["sampling_rate"]) != float(config.sampling_rate):
            raise InputError(
                f"the recordings were prepared at {float(first['sampling_rate']):g} Hz and the model works at "
                f"{config.sampling_rate:g} Hz: prepare them with the model's feature extractor"
            )


def make_optimizer(model: PreTrainedModel, arguments: FinetuningArguments) -> torch.optim.Optimizer:
    """AdamW over what is trained: head at one rate, the encoder's layers at rates that fall towards the input."""
    encoder = {id(parameter): name for name, parameter in model.base_model.named_parameters()}
    layers = model.config.num_hidden_layers
    groups: dict[tuple[int, float], dict[str, Any]] = {}
    for number, group in enumerate(decay_groups(model, arguments.weight_decay)):
        for parameter in group["params"]:
            name = encoder.get(id(parameter))
            rate = float(arguments.head_learning_rate or 0.0)
            if name is not None:
                if arguments.method == "frozen":
                    continue
                rate = float(arguments.encoder_learning_rate or 0.0)
                if arguments.method == "full":
                    rate *= arguments.layer_decay ** (layers - layer_number(name, layers))
            chosen = groups.setdefault((number, rate), {**group, "params": [], "lr": rate})
            chosen["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()))


def layer_number(name: str, num_layers: int) -> int:
    """How high a parameter of an encoder is: 0 for embeddings and tokens, `num_layers` for last layer and norm."""
    # Stages of convolutional towers hold layers of their own.
    found = re.search(r"(?:^|\.)stages\.(\d+)\.", name) or re.search(r"(?:^|\.)layers?\.(\d+)\.", name)
    if found:
        return int(found.group(1)) + 1
    return num_layers if re.search(r"(?:^|\.)(?:final_|layer_?|post_?layer)?norm\.\w+$", name) else 0


def _first_output(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """The logits alone: group states of all recordings need not be kept."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Macro AUROC, and what epochs are chosen by: of equally good ones the one with better probabilities."""
    labels, logits = np.asarray(prediction.label_ids, dtype=np.float64), np.asarray(prediction.predictions, np.float64)
    if not np.isfinite(logits).all():
        raise InputError("the model's outputs are NaN or infinite: lower the learning rate, or look at the recordings")
    score = macro_auroc(labels, logits)
    losses = np.logaddexp(0.0, np.where(labels > 0.5, -logits, logits))[~np.isnan(labels)]
    # Where labels are easy to tell apart many epochs rank all recordings rightly.
    return {"macro_auroc": score, "choice": score - 1e-6 * float(np.minimum(losses, 100.0).mean())}


class _Course(TrainerCallback):
    """Stops when the best epoch is long past, and shows how it goes; what it knows it reads from Trainer's state."""

    def __init__(self, patience: int, progress: bool):
        self.patience = patience
        self.progress = progress
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        shown = self.progress and state.is_world_process_zero
        total, done = round(args.num_train_epochs), len(_history(state))
        self._bar = tqdm(total=total, initial=done, desc="fine-tune", unit="epoch", disable=not shown)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        history = _history(state)
        last, best = history[-1], _best(history)
        highest = history[best - 1]["validation_macro_auroc"]
        self._bar.set_postfix(
            loss=f"{last['train_loss']:.3f}",
            auroc=f"{last['validation_macro_auroc']:.4f}",
            best=f"{highest:.4f}",
            refresh=False,
        )
        self._bar.update(1)
        control.should_training_stop = control.should_training_stop or len(history) - best >= self.patience

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            write_sums(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.close()
