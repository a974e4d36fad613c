"""Fine-tuning on transformers' Trainer: a frozen encoder under a new head, or the whole model."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import (
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from ..data.collator import BeatCollator
from ..evaluation.metrics import macro_auroc
from ..evaluation.predictions import model_label_names
from ..modeling.modeling_clear_hug import ClearHugForSequenceClassification, find_real_beats
from ..processing.errors import InputError
from .folders import check_writable, save_model_folder
from .pretraining import MODEL_FOLDER, decay_groups


@dataclass
class FinetuningArguments:
    """
    How a classifier is trained; the defaults are the paper's recipe except for its length and batch.

    Args:
        epochs (`int`, *optional*, defaults to 40): Most passes over the training recordings.
        batch_size (`int`, *optional*, defaults to 64): Recordings per step and device.
        freeze_encoder (`bool`, *optional*, defaults to `True`): Whether only the head is trained.
        head_learning_rate (`float`, *optional*, defaults to 5e-3 with a frozen encoder, else 1e-3):
            Highest rate of head and classifier.
        encoder_learning_rate (`float`, *optional*, defaults to 5e-4): Highest rate of the encoder where it is trained.
        warmup_share (`float`, *optional*, defaults to 0.1): Share of the steps over which the rates rise.
        weight_decay (`float`, *optional*, defaults to 0.05): For the weights of linear and convolution layers only.
        patience (`int`, *optional*, defaults to 10): Epochs without a better validation macro AUROC before it stops.
        bf16 (`bool`, *optional*, defaults to `False`): Whether to compute in bfloat16 where that is safe.
        seed (`int`, *optional*, defaults to 0): Of the order and dropout.
        num_workers (`int`, *optional*, defaults to 0): Processes that make batches.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on stderr.
    """

    epochs: int = 40
    batch_size: int = 64
    freeze_encoder: bool = True
    head_learning_rate: float | None = None
    encoder_learning_rate: float = 5e-4
    warmup_share: float = 0.1
    weight_decay: float = 0.05
    patience: int = 10
    bf16: bool = False
    seed: int = 0
    num_workers: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.head_learning_rate is None:
            self.head_learning_rate = 5e-3 if self.freeze_encoder else 1e-3
        for name in ("epochs", "batch_size", "head_learning_rate", "encoder_learning_rate", "patience"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}: it must be positive")


@dataclass
class FinetuningResult:
    """
    What a fine-tuning run gives.

    Args:
        model ([`ClearHugForSequenceClassification`]): The model of the best epoch, in evaluation mode.
        best_epoch (`int`): The epoch with the highest validation macro AUROC, from 1.
        history (`list[dict]`): One row per epoch: `epoch`, `train_loss`, `validation_loss`, `validation_macro_auroc`.
    """

    model: ClearHugForSequenceClassification
    best_epoch: int
    history: list[dict[str, Any]] = field(default_factory=list)


def finetune(
    model: ClearHugForSequenceClassification,
    train_dataset: datasets.Dataset,
    validation_dataset: datasets.Dataset,
    feature_extractor: Any,
    output_dir: str | Path | None = None,
    arguments: FinetuningArguments | None = None,
) -> FinetuningResult:
    """
    Train a classifier and keep the epoch with the best validation macro AUROC, of equal ones that of the lowest loss.

    Args:
        model ([`ClearHugForSequenceClassification`]): A multi-label classifier; trained in place.
        train_dataset ([`datasets.Dataset`]): As `prepare` makes it, with the model's labels.
        validation_dataset ([`datasets.Dataset`]): Recordings of other patients, with the same labels.
        feature_extractor: The one that the datasets were prepared with; saved beside the weights.
        output_dir (`str` or `Path`, *optional*): Gets `model/` at the end. Nothing is written without it.
        arguments ([`FinetuningArguments`], *optional*): The recipe.

    Returns:
        [`FinetuningResult`]

    Raises:
        InputError: If a set is empty, patients are on both sides, a label is not among the model's or has values other
            than 1 and 0, or no label has both classes in the validation recordings.
    """
    arguments = FinetuningArguments() if arguments is None else arguments
    label_names = model_label_names(model.config)
    if output_dir is not None:
        output_dir = check_writable(output_dir)
    if model.config.problem_type != "multi_label_classification":
        raise InputError(
            f"the model's problem_type is {model.config.problem_type!r}: this recipe trains multi-label classifiers"
        )
    _check_datasets(train_dataset, validation_dataset, label_names)

    model.to(PartialState().device)
    collator = BeatCollator(feature_extractor, label_names=label_names)
    trained: nn.Module = model
    sets: list[Any] = [dataset.with_format("numpy") for dataset in (train_dataset, validation_dataset)]
    collate: Any = collator
    if arguments.freeze_encoder:
        # Nothing changes before the head, so that the encoder reads every recording once instead of once per epoch.
        encoded = [encode(model, dataset, collator, progress=arguments.progress) for dataset in sets]
        trained, sets, collate = HeadOnly(model), encoded, None

    best = _BestEpoch(trained, arguments.patience, arguments.progress)
    with tempfile.TemporaryDirectory(prefix="finetuning-") as checkpoints:
        trainer = Trainer(
            model=trained,
            args=TrainingArguments(
                output_dir=checkpoints,
                num_train_epochs=arguments.epochs,
                per_device_train_batch_size=arguments.batch_size,
                per_device_eval_batch_size=arguments.batch_size,
                lr_scheduler_type="cosine",
                warmup_steps=arguments.warmup_share,
                bf16=arguments.bf16,
                eval_strategy="epoch",
                save_strategy="no",
                logging_strategy="epoch",
                remove_unused_columns=False,
                label_names=["labels"],
                dataloader_num_workers=0 if arguments.freeze_encoder else arguments.num_workers,
                dataloader_pin_memory=torch.cuda.is_available(),
                seed=arguments.seed,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=sets[0],
            eval_dataset=sets[1],
            data_collator=collate,
            compute_metrics=_validation_metrics,
            preprocess_logits_for_metrics=_first_output,
            optimizers=(_optimizer(model, arguments), None),
            callbacks=[best],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    best.restore()
    model.eval()
    if output_dir is not None and trainer.is_world_process_zero():
        save_model_folder(output_dir / MODEL_FOLDER, model, feature_extractor)
    return FinetuningResult(model=model, best_epoch=best.epoch, history=best.history)


class EncodedDataset(Dataset):
    """
    What a frozen encoder makes of recordings: items with `lead_states` `(num_leads, hidden_size)`, `present`
    `(num_leads,)` and `labels` `(num_labels,)`.
    """

    def __init__(self, columns: dict[str, torch.Tensor]):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


@torch.no_grad()
def encode(
    model: ClearHugForSequenceClassification,
    dataset: datasets.Dataset,
    collator: BeatCollator,
    batch_size: int = 64,
    progress: bool = False,
) -> EncodedDataset:
    """
    Read every recording once with the encoder, without dropout.

    Args:
        model ([`ClearHugForSequenceClassification`]): Its encoder is used, on the device that it is on.
        dataset ([`datasets.Dataset`]): As `prepare` makes it.
        collator ([`BeatCollator`]): Makes the batches and labels.
        batch_size (`int`, *optional*, defaults to `64`): Recordings at a time.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.
    """
    model.eval()
    parts: dict[str, list[torch.Tensor]] = {"lead_states": [], "present": [], "labels": []}
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=collator)
    for batch in tqdm(loader, desc="encode", unit="batch", disable=not progress):
        parts["labels"].append(batch.pop("labels"))
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        parts["lead_states"].append(model.base_model(**batch).lead_states.cpu())
        real_beats = find_real_beats(batch["input_values"], batch["beat_mask"], batch["lead_mask"])
        parts["present"].append(real_beats.any(dim=2).cpu())
    return EncodedDataset({name: torch.cat(part) for name, part in parts.items()})


class HeadOnly(nn.Module):
    """
    Head and classifier of a model as a model of their own, which reads an [`EncodedDataset`]. The weights are the
    model's: training this trains it.
    """

    def __init__(self, model: ClearHugForSequenceClassification):
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


def settings(arguments: FinetuningArguments) -> dict[str, Any]:
    """The recipe as it is written beside results."""
    return {name: value for name, value in asdict(arguments).items() if name != "progress"}


def _check_datasets(
    train_dataset: datasets.Dataset, validation_dataset: datasets.Dataset, label_names: list[str]
) -> None:
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
    shared = {*train_dataset["patient_id"]} & {*validation_dataset["patient_id"]} - {None}
    if shared:
        raise InputError(
            f"{len(shared)} patient(s) are in the training and in the validation recordings, such as {min(shared)}: "
            "split by patient"
        )
    truth = np.array([[float(row[label]) for label in label_names] for row in validation_dataset["labels"]])
    if not any(0 < np.nansum(column) < np.isfinite(column).sum() for column in truth.T):
        raise InputError(
            "no label is both present and absent among the validation recordings: there is nothing to choose by"
        )


def _optimizer(model: ClearHugForSequenceClassification, arguments: FinetuningArguments) -> torch.optim.Optimizer:
    encoder = {id(parameter) for parameter in model.base_model.parameters()}
    parts = [(False, arguments.head_learning_rate)]
    if not arguments.freeze_encoder:
        parts.append((True, arguments.encoder_learning_rate))
    groups = []
    for group in decay_groups(model, arguments.weight_decay):
        for inside, rate in parts:
            parameters = [parameter for parameter in group["params"] if (id(parameter) in encoder) == inside]
            if parameters:
                groups.append({**group, "params": parameters, "lr": rate})
    return torch.optim.AdamW(groups)


def _first_output(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """The logits alone: group states of all recordings need not be kept."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    return {"macro_auroc": macro_auroc(np.asarray(prediction.label_ids), np.asarray(prediction.predictions))}


class _BestEpoch(TrainerCallback):
    """Keeps the trained weights of the best epoch in memory, stops when it is long past, and shows how it goes."""

    def __init__(self, model: nn.Module, patience: int, progress: bool):
        self.model = model
        self.patience = patience
        self.progress = progress
        self.epoch = 0
        self.score, self.loss = -np.inf, np.inf
        self.history: list[dict[str, Any]] = []
        self._weights: dict[str, torch.Tensor] = {}
        self._bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        shown = self.progress and state.is_world_process_zero
        self._bar = tqdm(total=round(args.num_train_epochs), desc="fine-tune", unit="epoch", disable=not shown)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        metrics = kwargs["metrics"]
        epoch, score = len(self.history) + 1, metrics["eval_macro_auroc"]
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        self.history.append(
            {
                "epoch": epoch,
                "train_loss": losses[-1],
                "validation_loss": metrics["eval_loss"],
                "validation_macro_auroc": score,
            }
        )
        # Where labels are easy to tell apart many epochs rank all recordings rightly: then better probabilities win.
        if (score, -metrics["eval_loss"]) > (self.score, -self.loss):
            self.epoch, self.score, self.loss = epoch, score, metrics["eval_loss"]
            self._weights = {
                name: parameter.detach().clone()
                for name, parameter in self.model.named_parameters()
                if parameter.requires_grad
            }
        self._bar.set_postfix(loss=f"{losses[-1]:.3f}", auroc=f"{score:.4f}", best=f"{self.score:.4f}", refresh=False)
        self._bar.update(1)
        control.should_training_stop = control.should_training_stop or epoch - self.epoch >= self.patience

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.close()

    def restore(self) -> None:
        """Put the weights of the best epoch back."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in self._weights:
                    parameter.copy_(self._weights[name])
