"""
Fine-tuning: a new head on a frozen encoder, full fine-tuning or LoRA with transformers' Trainer, or a logistic
regression.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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
from ..evaluation.metrics import macro_auroc
from ..evaluation.predictions import label_thresholds, predict
from ..evaluation.protocol import STRENGTHS, fit_logistic, logistic_scores
from ..inference.classifier_outputs import model_label_names
from ..inference.digests import dataset_digest, weights_digest
from ..modeling.modeling_ecg import EcgModelOutput, add_rhythm, masked_binary_cross_entropy
from ..processing.errors import InputError
from ..utils.files import RunFolder, check_writable, remove_leftovers, write_csv, write_json
from .arguments import FinetuningArguments
from .checkpoints import check_sums, write_sums
from .familiarity import remove_familiarity
from .features import EncodedDataset, dataset_labels, encode, identity_collator, known_labels, linear_features
from .folders import load_classifier, save_model_folder
from .pretraining import EPOCH_LOG, FINETUNING_RUN, MODEL_FOLDER, check_compatible, decay_groups
from .processes import average_batch_statistics, connect_processes


LOG, CHECKPOINTS = "finetuning_log.csv", "checkpoints"
# Limit of class weights, so that very rare labels do not dominate the loss.
_MAX_CLASS_WEIGHT = 100.0
# Settings of a logistic regression.
_OF_LOGISTIC = ("method", "seed", "allow_absent_labels")
# Settings that do not change results.
_NOT_IN_IDENTITY = ("precompute", "dataloader_num_workers", "disable_tqdm")


@dataclass(frozen=True)
class Choice:
    """
    What a cross-validation chose for the run on all recordings, which has none left to choose by.

    Args:
        thresholds (`dict[str, float]`): Threshold of each label, without those that have only one class.
        epoch (`int`, *optional*): The epoch whose weights are kept; training ends with it.
        strength (`float`, *optional*): Inverse strength of the penalty of a logistic regression.
    """

    thresholds: dict[str, float]
    epoch: int | None = None
    strength: float | None = None


@dataclass
class FinetuningResult:
    """
    Result of a fine-tuning run.

    Args:
        model ([`PreTrainedModel`]): The model of the best epoch, in evaluation mode.
        best_epoch (`int`, *optional*): The epoch with the highest validation macro AUROC, from 1, or that of a
            [`Choice`]; `None` for a logistic regression.
        history (`list[dict]`): One row per epoch: `epoch`, `train_loss`, and with validation recordings
            `validation_loss`, `validation_macro_auroc`, and `choice`, the macro AUROC minus a millionth of the log
            loss, by which the epoch was chosen. Of a logistic regression, one row per `strength`.
        finished_before (`bool`): Whether the folder already contained this run, so that nothing was trained.
        strength (`float`, *optional*): Inverse strength of the penalty of a logistic regression, which is chosen in
            the same way.
    """

    model: PreTrainedModel
    best_epoch: int | None
    history: list[dict[str, Any]] = field(default_factory=list)
    finished_before: bool = False
    strength: float | None = None


def finetune(
    model: PreTrainedModel,
    train_dataset: datasets.Dataset,
    validation_dataset: datasets.Dataset | None,
    feature_extractor: Any,
    output_dir: str | Path | None = None,
    arguments: FinetuningArguments | None = None,
    *,
    cache_dir: str | Path | None = None,
    restart: bool = False,
    choice: Choice | None = None,
    encoded: Sequence[EncodedDataset] | None = None,
) -> FinetuningResult:
    """
    Train a classifier, or resume an interrupted run. Keeps the epoch with the best validation macro AUROC, and among
    equal ones that with the lowest loss. For each label, saves the threshold with the best validation F1 in the
    config. Without validation recordings, both are those of `choice`, and the learning rates of each epoch are the
    same as in a longer run. Calibration and familiarity of an earlier training are removed.

    Args:
        model ([`PreTrainedModel`]): A multi-label classifier, trained in place.
        train_dataset ([`datasets.Dataset`]): Prepared recordings with the model's labels.
        validation_dataset ([`datasets.Dataset`], *optional*): Prepared recordings of other patients with the same
            labels. `None` only with a `choice`.
        feature_extractor: Feature extractor that the datasets were prepared with, saved with the weights.
        output_dir (`str` or `Path`, *optional*): Folder for `model/`, `finetuning_log.csv` and, during training,
            `checkpoints/`, from which the same run resumes. By default, nothing is written.
        arguments ([`FinetuningArguments`], *optional*): The recipe.
        cache_dir (`str` or `Path`, *optional*): Cache of the features of frozen encoders (see [`encode`]).
        restart (`bool`, *optional*, defaults to `False`): Whether to start over if the folder holds a run.
        choice ([`Choice`], *optional*): Epoch and thresholds of a run without validation recordings.
        encoded (`Sequence[EncodedDataset]`, *optional*): Features of the datasets, if the encoder is frozen and they
            are known already.

    Returns:
        [`FinetuningResult`]

    Raises:
        InputError: If a dataset is empty; training and validation share patients; labels differ from the model's, have
            values other than 1, 0 and unknown, or lack positive or negative recordings; leads, beats or rate differ
            from the model's; LoRA finds no linear maps; the folder holds another run; or the model's outputs are not
            finite.
    """
    arguments = FinetuningArguments() if arguments is None else arguments
    assert (validation_dataset is None) == (choice is not None), "either validation recordings or a choice"
    connect_processes()
    label_names = model_label_names(model.config)
    if output_dir is not None:
        output_dir = check_writable(output_dir)
    if model.config.problem_type not in (None, "multi_label_classification"):
        raise InputError(
            f"the model's problem_type is {model.config.problem_type!r}: this recipe trains multi-label classifiers"
        )
    if arguments.method == "lora":
        adapted_modules(model)
    if arguments.method == "logistic" and model.config.head_type != "mean":
        raise InputError(
            f"a logistic regression is solved for the head mean, but the model's is {model.config.head_type}"
        )
    check_datasets(train_dataset, validation_dataset, label_names, arguments.allow_absent_labels)
    datasets_read = [dataset for dataset in (train_dataset, validation_dataset) if dataset is not None]
    check_compatible(model.config, feature_extractor, *datasets_read)
    model.config.problem_type = "multi_label_classification"
    # They describe the weights and the recordings of an earlier training.
    model.config.label_calibration = None
    remove_familiarity(model)

    model.to(PartialState().device)
    identity = None
    if output_dir is not None:
        identity = run_identity(model, train_dataset, validation_dataset, label_names, arguments)
        if choice is not None:
            chosen = {name: value for name, value in asdict(choice).items() if value is not None}
            identity |= {"the choice of the folds": chosen}
        finished = _open_run(output_dir, identity, restart)
        if finished is not None:
            try:
                trained_model, _ = load_classifier(output_dir / MODEL_FOLDER)
            except (FileNotFoundError, InputError) as error:
                raise InputError(
                    f"{output_dir} already holds this run, but its model is missing or damaged: start over with "
                    "--restart"
                ) from error
            trained_model.to(PartialState().device)
            return FinetuningResult(trained_model, **finished, finished_before=True)

    collator = EcgCollator(feature_extractor, label_names=label_names)
    train_labels = dataset_labels(train_dataset, label_names)
    sets: list[Any] = list(datasets_read)
    collate: Any = collator
    train_collate: Any = collator
    if is_precomputed(model, arguments):
        # The encoder does not change, so it encodes each recording once instead of in every epoch.
        if encoded is None:
            encoded = [
                encode(model, dataset, collator, progress=not arguments.disable_tqdm, cache_dir=cache_dir)
                for dataset in sets
            ]
        sets = list(encoded)
        collate = train_collate = identity_collator
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
        sets = [dataset.select_columns(collator.columns).with_format("numpy") for dataset in sets]
    if arguments.method == "logistic":
        strength, history = solve_head(model, sets[0], sets[1] if choice is None else choice.strength)
        finished = {"best_epoch": None, "strength": strength, "history": history}
    else:
        with _trainable_module(model, arguments) as trained, _class_weights(model, trained, train_labels, arguments):
            best_epoch, history = train_with_trainer(
                trained,
                sets[0],
                sets[1] if choice is None else None,
                collate,
                make_optimizer(model, arguments),
                arguments,
                output_dir,
                train_collate,
                None if choice is None else choice.epoch,
            )
        finished = {"best_epoch": best_epoch, "history": history}
    model.eval()

    if validation_dataset is not None:
        predictions = predict(model, validation_dataset, feature_extractor).by_recording()
        model.config.label_thresholds = label_thresholds(predictions)
    else:
        assert choice is not None
        model.config.label_thresholds = dict(choice.thresholds)
    if output_dir is not None and PartialState().is_main_process:
        save_model_folder(output_dir / MODEL_FOLDER, model, feature_extractor)
        write_csv(output_dir / LOG, history)
        # Written last, so that it marks a complete run.
        write_json(output_dir / FINETUNING_RUN, {**(identity or {}), "finished": finished})
        shutil.rmtree(output_dir / CHECKPOINTS, ignore_errors=True)
    PartialState().wait_for_everyone()
    return FinetuningResult(model, **finished)


@torch.no_grad()
def solve_head(
    model: Any, train_set: EncodedDataset, validated: EncodedDataset | float | None
) -> tuple[float, list[dict[str, Any]]]:
    """
    Set the linear maps of a model with a mean head, of the rhythm too, to the logistic regressions of
    [`fit_logistic`], which include the standardization of the features.

    Args:
        model ([`PreTrainedModel`]): The classifier.
        train_set ([`EncodedDataset`]): Features of the training recordings.
        validated ([`EncodedDataset`] or `float`): Features of the validation recordings, which choose the inverse
            strength of the penalty as in [`select_logistic`], or the strength.

    Returns:
        `tuple[float, list[dict]]`: The strength, and a row for each that was compared.
    """
    features, labels = linear_features(train_set), known_labels(train_set)
    if isinstance(validated, EncodedDataset):
        scores, others = logistic_scores(features, labels, linear_features(validated)), known_labels(validated)
        history = [
            {"strength": strength, "validation_macro_auroc": macro_auroc(others, scores(strength)[0])}
            for strength in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmax([row["validation_macro_auroc"] for row in history]))]
    else:
        assert validated is not None, "a logistic regression needs validation recordings or a strength"
        strength, history = validated, [{"strength": validated}]
    weights, biases = map(torch.from_numpy, fit_logistic(features, labels, strength))
    width = model.classifier.in_features
    model.classifier.weight.copy_(weights[:, :width])
    model.classifier.bias.copy_(biases)
    if model.rhythm_classifier is not None:
        model.rhythm_classifier.weight.copy_(weights[:, width:])
    return strength, history


def train_with_trainer(
    module: nn.Module,
    train_set: Any,
    validation_set: Any,
    collate: Any,
    optimizer: torch.optim.Optimizer,
    arguments: FinetuningArguments,
    output_dir: Path | None = None,
    train_collate: Any = None,
    last_epoch: int | None = None,
) -> tuple[int, list[dict[str, Any]]]:
    """
    Train a module that returns `loss` and `logits`, and load the weights of its best epoch.

    Args:
        module (`nn.Module`): Module to train in place, from the newest checkpoint in `output_dir` if there is one.
        train_set, validation_set: Datasets for `DataLoader`. Without a validation set, the weights of the last epoch
            are the best.
        collate (`Callable`): Collates batches.
        optimizer (`torch.optim.Optimizer`): Optimizer of the parameters to train.
        arguments ([`FinetuningArguments`]): The recipe.
        output_dir (`Path`, *optional*): Folder for `checkpoints/`, which keeps those of the best and the last epoch.
        train_collate (`Callable`, *optional*): Collates training batches (default: `collate`).
        last_epoch (`int`, *optional*): Epoch after which training ends, on the schedule of the learning rate of all
            epochs of the recipe.

    Returns:
        `tuple[int, list[dict]]`: The best epoch, and a row per epoch as in [`FinetuningResult`].
    """
    if output_dir is None:
        checkpoint_dir: Any = tempfile.TemporaryDirectory(prefix="finetuning-")
    else:
        checkpoint_dir = nullcontext(str(output_dir / CHECKPOINTS))
    validates = validation_set is not None
    with checkpoint_dir as folder, _config_preserved(getattr(module, "config", None)):
        checkpoints = Path(folder)
        early_stopping = _EarlyStopping(arguments.early_stopping_patience, not arguments.disable_tqdm)
        trainer = FinetuningTrainer(
            model=module,
            args=TrainingArguments(
                output_dir=str(checkpoints),
                num_train_epochs=last_epoch or arguments.num_train_epochs,
                per_device_train_batch_size=arguments.per_device_train_batch_size,
                per_device_eval_batch_size=arguments.per_device_train_batch_size,
                lr_scheduler_type="cosine_with_min_lr",
                lr_scheduler_kwargs={
                    "min_lr_rate": (arguments.min_learning_rate or 0.0) / float(arguments.head_learning_rate or 1.0)
                },
                warmup_steps=_warmup_steps(len(train_set), arguments),
                bf16=arguments.bf16,
                # Without it, Trainer on CPUs neither connects processes nor accepts bfloat16.
                use_cpu=not torch.accelerator.is_available(),
                eval_strategy="epoch" if validates else "no",
                save_strategy="epoch",
                save_total_limit=1,
                load_best_model_at_end=validates,
                metric_for_best_model="choice" if validates else None,
                greater_is_better=True,
                logging_strategy="epoch",
                remove_unused_columns=False,
                label_names=["labels"],
                dataloader_num_workers=0 if collate is identity_collator else arguments.dataloader_num_workers,
                dataloader_pin_memory=torch.cuda.is_available(),
                seed=arguments.seed,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=train_set,
            eval_dataset=validation_set,
            data_collator=collate,
            train_collator=collate if train_collate is None else train_collate,
            schedule_epochs=arguments.num_train_epochs,
            compute_metrics=_validation_metrics,
            preprocess_logits_for_metrics=_first_output,
            optimizers=(optimizer, None),
            callbacks=[early_stopping],
        )
        trainer.remove_callback(PrinterCallback)
        newest = _newest_checkpoint(checkpoints)
        if newest is not None:
            # Other checkpoints may be partially deleted, but are not read.
            check_sums(newest, "start over with --restart")
            check_sums(_best_checkpoint(newest), "start over with --restart")
        PartialState().wait_for_everyone()
        if newest is not None and PartialState().is_main_process:
            _relocate_best_checkpoint(newest)
            if not arguments.disable_tqdm:
                tqdm.write(f"{output_dir}: resuming from {newest.name}")
        PartialState().wait_for_everyone()
        with _progress_bars_disabled():
            trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        history = _history(trainer.state)
    return _best(history) if validates else len(history), history


class FinetuningTrainer(Trainer):
    """
    Trainer on one device per process, with a separate collator for training batches, and a schedule of the learning
    rate that may be longer than the training.
    """

    def __init__(self, *, args: TrainingArguments, train_collator: Any, schedule_epochs: int, **kwargs: Any):
        # With several devices, Trainer would multiply the batch size.
        args._n_gpu = min(args.n_gpu, 1)
        super().__init__(args=args, **kwargs)
        self._train_collator, self._schedule_epochs = train_collator, schedule_epochs

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """As `Trainer.create_scheduler`, for the epochs of the schedule."""
        per_epoch = num_training_steps // round(self.args.num_train_epochs)
        return super().create_scheduler(per_epoch * self._schedule_epochs, optimizer)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As `Trainer.evaluate`, after averaging batch statistics over processes, as checkpoints store them."""
        assert isinstance(self.model, nn.Module)
        average_batch_statistics(self.model)
        return super().evaluate(*args, **kwargs)

    def get_train_dataloader(self) -> Any:
        data_collator, self.data_collator = self.data_collator, self._train_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = data_collator


@contextmanager
def _config_preserved(config: Any) -> Iterator[None]:
    """Restore a config afterwards, since Trainer writes settings such as `use_cache` to it."""
    fields = {} if config is None else vars(config)
    original = dict(fields)
    try:
        yield
    finally:
        fields.clear()
        fields.update(original)


@contextmanager
def _progress_bars_disabled() -> Iterator[None]:
    """Disable the progress bars of transformers, which it shows for each checkpoint."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _warmup_steps(num_recordings: int, arguments: FinetuningArguments) -> int:
    """Number of warmup steps, rounded down: otherwise the only step of a run would have rate 0."""
    per_epoch = math.ceil(num_recordings / (arguments.per_device_train_batch_size * PartialState().num_processes))
    return math.floor(arguments.warmup_ratio * per_epoch * arguments.num_train_epochs + 1e-9)


def _newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; Trainer writes its state last."""
    paths = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(paths, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _best_checkpoint(checkpoint: Path) -> Path:
    """The best checkpoint so far, in the folder of this one."""
    best = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).best_model_checkpoint
    return checkpoint if best is None else checkpoint.parent / Path(best).name


def _relocate_best_checkpoint(checkpoint: Path) -> None:
    """
    Update the path of the best checkpoint in Trainer's state. If the folder of the run was moved, Trainer would not
    find it and silently keep the last weights.
    """
    path = checkpoint / "trainer_state.json"
    state = TrainerState.load_from_json(str(path))
    best = str(_best_checkpoint(checkpoint))
    if state.best_model_checkpoint not in (None, best):
        state.best_model_checkpoint = best
        state.save_to_json(str(path))
        write_sums(checkpoint)


def _history(state: TrainerState) -> list[dict[str, Any]]:
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    rows = [{"epoch": number, "train_loss": loss} for number, loss in enumerate(losses, start=1)]
    if not evaluations:
        return rows
    return [
        {
            **row,
            "validation_loss": entry["eval_loss"],
            "validation_macro_auroc": entry["eval_macro_auroc"],
            "choice": entry["eval_choice"],
        }
        for row, entry in zip(rows, evaluations, strict=False)
    ]


def _best(history: list[dict[str, Any]]) -> int:
    return 1 + int(np.argmax([row["choice"] for row in history]))


class HeadOnly(nn.Module):
    """
    Head and classifier of a model as a module that reads an [`EncodedDataset`]. It shares the weights of the model.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.config = model.config
        self.head, self.dropout, self.classifier = model.head, model.dropout, model.classifier
        self.rhythm_classifier = model.rhythm_classifier
        self.loss_function = model.loss_function

    def forward(
        self,
        lead_states: torch.Tensor,
        present: torch.Tensor,
        labels: torch.Tensor | None = None,
        last_hidden_state: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Logits `(batch_size, num_labels)` of states and rhythm features, and the loss if there are labels."""
        outputs = EcgModelOutput(
            last_hidden_state=last_hidden_state, lead_states=lead_states, present_leads=present, token_mask=token_mask
        )
        return self.classify(outputs, labels, rhythm)

    def classify(
        self, outputs: EcgModelOutput, labels: torch.Tensor | None, rhythm: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As `forward`, for any output of an encoder."""
        feature, _ = self.head(outputs)
        logits = add_rhythm(self.classifier(self.dropout(feature)), self.rhythm_classifier, rhythm)
        if labels is None:
            return {"logits": logits}
        return {"loss": self.loss_function(labels, logits, self.config), "logits": logits}


class FrozenEncoder(HeadOnly):
    """As [`HeadOnly`], but encodes recordings in every batch, with the encoder always in evaluation mode."""

    def __init__(self, model: Any):
        super().__init__(model)
        # In a list it is not a submodule, so that its mode and weights do not change.
        self._encoder = [model.base_model.eval()]

    def forward(  # type: ignore[override]
        self, labels: torch.Tensor | None = None, rhythm: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """As in [`HeadOnly`], for a collated batch."""
        with torch.no_grad():
            encoded = self._encoder[0](**inputs)
        return self.classify(encoded, labels, rhythm)


def is_precomputed(model: Any, arguments: FinetuningArguments) -> bool:
    """Whether the encoder reads each recording once. The states of all tokens would be too many to keep."""
    if arguments.method == "logistic":
        return True
    return arguments.method == "frozen" and arguments.precompute and not model.head.reads_tokens


@contextmanager
def _trainable_module(model: PreTrainedModel, arguments: FinetuningArguments) -> Iterator[nn.Module]:
    """The module to train; on exit, the model has its weights."""
    if arguments.method == "frozen":
        yield HeadOnly(model) if is_precomputed(model, arguments) else FrozenEncoder(model)
        return
    if arguments.method == "full":
        yield model
        return
    from peft import LoraConfig, LoraModel

    config = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=2 * arguments.lora_rank,
        target_modules="|".join(map(re.escape, adapted_modules(model))),
    )
    tuner = LoraModel(model, {"default": config}, "default")
    for part in (model.head, model.classifier, model.rhythm_classifier):
        if part is not None:
            part.requires_grad_(True)
    try:
        yield tuner
    finally:
        tuner.merge_and_unload()
        model.requires_grad_(True)


def adapted_modules(model: PreTrainedModel) -> list[str]:
    """
    Names of the linear maps of the encoder that LoRA updates: the projections of attention, or all maps in an encoder
    without attention.

    Raises:
        InputError: If the encoder has no linear maps.
    """
    modules = model.base_model.named_modules(prefix=model.base_model_prefix)
    linear = [name for name, module in modules if isinstance(module, nn.Linear)]
    if not linear:
        raise InputError(
            f"LoRA updates linear maps, but the encoder of {type(model).__name__} has none: use the method "
            '"frozen" or "full"'
        )
    return [name for name in linear if name.endswith(("q_proj", "k_proj", "v_proj", "o_proj"))] or linear


@contextmanager
def _class_weights(
    model: PreTrainedModel, trained: nn.Module, labels: torch.Tensor, arguments: FinetuningArguments
) -> Iterator[None]:
    """Train with class weights, if `arguments` set them; on exit, the model has its original loss."""
    if arguments.class_weights == "none":
        yield
        return
    weights = positive_weights(labels)
    original_loss = model.loss_function

    def balanced(labels: torch.Tensor, logits: torch.Tensor, config: Any, **_: Any) -> torch.Tensor:
        logits = logits.float()
        return masked_binary_cross_entropy(logits, labels.to(logits), weights.to(logits))

    for module in (model, trained):
        if hasattr(module, "loss_function"):
            module.loss_function = balanced  # type: ignore[assignment]
    try:
        yield
    finally:
        model.loss_function = original_loss


def positive_weights(labels: torch.Tensor) -> torch.Tensor:
    """
    Ratio of negatives to positives of each label, from 1/100 to 100.

    Args:
        labels (`torch.Tensor` of shape `(num_recordings, num_labels)`): 1, 0, or NaN if unknown.

    Returns:
        `torch.Tensor` of shape `(num_labels,)`: 1 for labels without positives or without negatives.
    """
    positives, negatives = (labels == 1).sum(dim=0), (labels == 0).sum(dim=0)
    weights = (negatives / positives.clamp(min=1)).clamp(1 / _MAX_CLASS_WEIGHT, _MAX_CLASS_WEIGHT)
    return torch.where((positives > 0) & (negatives > 0), weights, torch.ones_like(weights))


def recipe_settings(arguments: FinetuningArguments) -> dict[str, Any]:
    """Settings that change results, as recorded with them; `None` (the default of the system) is omitted."""
    settings = {
        name: value for name, value in asdict(arguments).items() if name not in _NOT_IN_IDENTITY and value is not None
    }
    return {name: settings[name] for name in _OF_LOGISTIC} if arguments.method == "logistic" else settings


def run_identity(
    model: PreTrainedModel,
    train_dataset: datasets.Dataset,
    validation_dataset: datasets.Dataset | None,
    label_names: list[str],
    arguments: FinetuningArguments,
) -> dict[str, Any]:
    """Facts that must be equal for a run to resume; messages contain the keys."""

    def digest(dataset: datasets.Dataset) -> str:
        labels = dataset_labels(dataset, label_names).numpy().tobytes()
        return hashlib.sha256(dataset_digest(dataset).encode() + labels).hexdigest()

    return {
        "the recipe": {**recipe_settings(arguments), "processes": PartialState().num_processes},
        "the model": {
            "encoder": weights_digest(model.base_model),
            "head": model.config.head_type,
            **({} if (count := model.config.num_pooling_heads) is None else {"pooling heads": count}),
            **({"rhythm features": names} if (names := model.config.rhythm_features) else {}),
            "labels": label_names,
        },
        "the training recordings": digest(train_dataset),
        "the validation recordings": None if validation_dataset is None else digest(validation_dataset),
    }


def _open_run(output_dir: Path, identity: dict[str, Any], restart: bool) -> dict[str, Any] | None:
    """
    Claim the folder for the run, or with `restart` for a new one.

    Returns:
        `dict`, *optional*: The result of the same run, if it is finished.

    Raises:
        InputError: If the folder holds another run.
    """
    remedy = "choose another folder, or start over with --restart"
    other_files = ("config.json", MODEL_FOLDER, CHECKPOINTS, EPOCH_LOG)
    folder = RunFolder(output_dir, FINETUNING_RUN, "fine-tuning run", remedy, other_files)
    recorded = folder.open(identity, restart)
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        if recorded is None:
            shutil.rmtree(output_dir / CHECKPOINTS, ignore_errors=True)
            folder.claim(identity)
        else:
            remove_leftovers(output_dir)
        # Partial checkpoints of a killed run.
        for checkpoint in (output_dir / CHECKPOINTS).glob("checkpoint-*"):
            if not (checkpoint / "trainer_state.json").is_file():
                shutil.rmtree(checkpoint, ignore_errors=True)
    PartialState().wait_for_everyone()
    return None if recorded is None else recorded.get("finished")


def check_datasets(
    train_dataset: datasets.Dataset,
    validation_dataset: datasets.Dataset | None,
    label_names: list[str],
    allow_absent_labels: bool = False,
) -> None:
    """
    Check that a classifier can be trained and validated on datasets.

    Args:
        train_dataset, validation_dataset ([`datasets.Dataset`]): Prepared recordings; the latter may be `None`.
        label_names (`list[str]`): Labels of the model.
        allow_absent_labels (`bool`, *optional*, defaults to `False`): As in [`FinetuningArguments`].

    Raises:
        InputError: If a dataset is empty; the datasets share patients; labels differ from the model's, have values
            other than 1, 0 and unknown, or lack positive or negative recordings.
    """
    for name, dataset in (("training", train_dataset), ("validation", validation_dataset)):
        if dataset is None:
            continue
        if not len(dataset):
            raise InputError(f"there are no {name} recordings")
        dataset_names = list(dataset.features.get("labels") or ())
        if unknown := sorted(set(dataset_names).difference(label_names)):
            raise InputError(f"the {name} recordings have the label {unknown[0]!r}, but the model does not")
        if missing := [label for label in label_names if label not in dataset_names]:
            raise InputError(f"the model has the label {missing[0]!r}, but the {name} recordings do not")
        for row in dataset["labels"]:
            for label in label_names:
                # None and NaN are unknown; NaN is not equal to itself.
                if row[label] not in (0.0, 1.0, None) and row[label] == row[label]:
                    raise InputError(
                        f"the {name} recordings have the value {row[label]:g} for the label {label!r}: labels must be "
                        '1 or 0; for regression, use your own Trainer with problem_type="regression"'
                    )
    if validation_dataset is not None:
        check_disjoint_patients(train_dataset, validation_dataset, splits="training and validation")
    if (absent := absent_labels(dataset_labels(train_dataset, label_names), label_names)) and not allow_absent_labels:
        others = [name for name in label_names if name not in absent]
        raise InputError(
            f"the label(s) {', '.join(absent)} cannot be learned, since they have no positive or no negative training "
            f"recording: leave them out with `--labels {' '.join(others)}`, or add such recordings"
        )
    if validation_dataset is None:
        return
    truth = dataset_labels(validation_dataset, label_names).numpy()
    if not any(0 < np.nansum(column) < np.isfinite(column).sum() for column in truth.T):
        raise InputError(
            "no label has both positive and negative validation recordings, so the epoch cannot be chosen"
        )


def check_disjoint_patients(
    first: datasets.Dataset, second: datasets.Dataset, prefix: str = "", *, splits: str
) -> None:
    """Raise `InputError` if two datasets share patients; `splits` names them, and `prefix` begins the message."""
    first_patients, second_patients = (
        {*patient_keys(dataset["record_id"], dataset["patient_id"])} for dataset in (first, second)
    )
    if shared := first_patients & second_patients:
        example = min(shared).removeprefix("patient ")
        raise InputError(
            f"{prefix}{len(shared)} patient(s) are in both the {splits} recordings, such as "
            f"{example}: split by patient"
        )


def absent_labels(labels: torch.Tensor, label_names: Iterable[str], min_count: int = 1) -> list[str]:
    """Names of labels `(num_recordings, num_labels)` with fewer than `min_count` positives or negatives."""
    present = ((labels == 1).sum(dim=0) >= min_count) & ((labels == 0).sum(dim=0) >= min_count)
    return [name for name, is_present in zip(label_names, present.tolist(), strict=True) if not is_present]


def make_optimizer(model: PreTrainedModel, arguments: FinetuningArguments) -> torch.optim.Optimizer:
    """AdamW with one rate for the head, and rates for the layers of the encoder that decrease toward the input."""
    encoder = {id(parameter): name for name, parameter in model.base_model.named_parameters()}
    depths = parameter_depths(model.base_model)
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
                    rate *= arguments.layer_decay ** depths[name]
            groups.setdefault((number, rate), {**group, "params": [], "lr": rate})["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()))


def parameter_depths(encoder: Any) -> dict[str, int]:
    """Number of `depth_groups` above that of each parameter of an encoder, by name: 0 for the last group."""
    groups = encoder.depth_groups()
    group_of = {name: index for index, group in enumerate(groups) for name in group}
    depths = {}
    for name, _ in encoder.named_parameters():
        parts = name.split(".")
        owners = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        index = next((group_of[owner] for owner in owners if owner in group_of), 0)
        depths[name] = len(groups) - 1 - index
    return depths


def _first_output(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """The logits only, so that Trainer does not gather group states."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Macro AUROC, and `choice`, which also prefers the lower log loss among equal AUROCs."""
    labels, logits = np.asarray(prediction.label_ids, dtype=np.float64), np.asarray(prediction.predictions, np.float64)
    if not np.isfinite(logits).all():
        raise InputError("the model's outputs are NaN or infinite: lower the learning rate, or check the recordings")
    score = macro_auroc(labels, logits)
    losses = np.logaddexp(0.0, np.where(labels > 0.5, -logits, logits))[~np.isnan(labels)]
    # For easy labels, many epochs rank all recordings correctly.
    return {"macro_auroc": score, "choice": score - 1e-6 * float(np.minimum(losses, 100.0).mean())}


class _EarlyStopping(TrainerCallback):
    """Early stopping with a progress bar; its state is that of Trainer, so that runs resume."""

    def __init__(self, patience: int, progress: bool):
        self.patience = patience
        self.progress = progress
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        disable = not (self.progress and state.is_world_process_zero)
        total, num_finished = round(args.num_train_epochs), len(_history(state))
        self._bar = tqdm(total=total, initial=num_finished, desc="fine-tune", unit="epoch", disable=disable)

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

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if args.eval_strategy == "no":
            # The checkpoint of an epoch without an evaluation, which does it otherwise.
            average_batch_statistics(model)
            self._bar.update(1)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            write_sums(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.close()
