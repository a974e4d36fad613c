"""
One pre-training loop on Accelerate for every model of this package.

A model trains here if its `forward` returns an output with a `loss`. One that has to follow its own training, such as
a teacher network, may define `after_optimizer_step(progress)`, which is called with the share of the steps done.
"""

from __future__ import annotations

import csv
import io
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.collator import BeatCollator
from ..processing.errors import InputError
from .folders import check_writable, save_model_folder, write_text


LOG_NAME = "pretraining_log.csv"
MODEL_FOLDER = "model"


@dataclass
class PretrainingArguments:
    """
    How a model is pre-trained; the defaults are the paper's recipe except for its length and batch.

    Args:
        epochs (`int`, *optional*, defaults to 100): Passes over the training recordings.
        batch_size (`int`, *optional*, defaults to 64): Recordings per step and process.
        learning_rate (`float`, *optional*, defaults to 5e-4): Highest rate, at the end of the warm-up.
        min_learning_rate (`float`, *optional*, defaults to 1e-5): Rate at the end of the cosine.
        warmup_epochs (`float`, *optional*, defaults to 5.0): Length of the linear warm-up; at most a tenth of the run.
        weight_decay (`float`, *optional*, defaults to 0.05): For the weights of linear and convolution layers only.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.98)`): Of AdamW.
        max_grad_norm (`float`, *optional*, defaults to 3.0): Gradients are clipped to this norm.
        mixed_precision (`str`, *optional*, defaults to `"no"`): `"no"` or `"bf16"`.
        seed (`int`, *optional*, defaults to 0): Of the order, the hidden beats and dropout.
        num_workers (`int`, *optional*, defaults to 0): Processes that make batches.
        refresh_every (`int`, *optional*, defaults to 10):
            Steps between two readings of the loss for the progress bar; each waits for the device.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar on stderr.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 5e-4
    min_learning_rate: float = 1e-5
    warmup_epochs: float = 5.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 3.0
    mixed_precision: str = "no"
    seed: int = 0
    num_workers: int = 0
    refresh_every: int = 10
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "max_grad_norm", "refresh_every"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}: it must be positive")
        for name in ("min_learning_rate", "warmup_epochs", "weight_decay", "num_workers"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}: it must not be negative")
        if self.mixed_precision not in ("no", "bf16"):
            raise InputError(f"mixed_precision is {self.mixed_precision!r}: choose 'no' or 'bf16'")


@dataclass
class PretrainingResult:
    """
    What a pre-training run gives.

    Args:
        model ([`PreTrainedModel`]): The trained model, in evaluation mode.
        history (`list[dict]`): One row per epoch, as in the log: `epoch`, `step`, `train_loss`, `validation_loss`
            (`None` without validation recordings), `learning_rate`, `seconds`, `recordings_per_second`.
    """

    model: PreTrainedModel
    history: list[dict[str, Any]] = field(default_factory=list)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """
    Parameter groups for AdamW: only the weights of linear and convolution layers decay, not biases, norms, embeddings,
    positions and learned tokens.

    Args:
        model (`nn.Module`): Parameters that need no gradient are left out.
        weight_decay (`float`): Of the first group.
    """
    decaying = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]


def learning_rate_at(step: int, num_steps: int, warmup_steps: int, peak: float, lowest: float) -> float:
    """
    Rate of a step: linear from nearly zero to `peak` over the warm-up, then half a cosine to `lowest`.

    Args:
        step (`int`): From 0.
        num_steps (`int`): Steps of the run.
        warmup_steps (`int`): Steps of the warm-up.
        peak (`float`): Highest rate.
        lowest (`float`): Last rate.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
    return lowest + 0.5 * (peak - lowest) * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def pretrain(
    model: PreTrainedModel,
    train_dataset: datasets.Dataset,
    feature_extractor: Any,
    output_dir: str | Path | None = None,
    validation_dataset: datasets.Dataset | None = None,
    arguments: PretrainingArguments | None = None,
) -> PretrainingResult:
    """
    Pre-train a model on a prepared dataset.

    Args:
        model ([`PreTrainedModel`]): Its `forward` returns a `loss`.
        train_dataset ([`datasets.Dataset`]): As `prepare` makes it.
        feature_extractor: The one that the dataset was prepared with; saved beside the weights.
        output_dir (`str` or `Path`, *optional*): Gets `model/`, renewed after every epoch, and
            `pretraining_log.csv`. Nothing is written without it.
        validation_dataset ([`datasets.Dataset`], *optional*): Its loss is computed after every epoch.
        arguments ([`PretrainingArguments`], *optional*): The recipe.

    Returns:
        [`PretrainingResult`]

    Raises:
        InputError: If there is nothing to train on, the folder cannot be written, or the loss is not finite; a loss
            that is not finite leaves the folder as the epoch before left it.
    """
    arguments = PretrainingArguments() if arguments is None else arguments
    if not len(train_dataset):
        raise InputError("there are no recordings to pre-train on")
    if output_dir is not None:
        output_dir = check_writable(output_dir)
    # Accelerate keeps the precision of the first accelerator of a process; each run here has its own.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    set_seed(arguments.seed)

    collator = BeatCollator(feature_extractor, label_names=())
    loader = _loader(train_dataset, collator, arguments, shuffle=True)
    optimizer = torch.optim.AdamW(
        decay_groups(model, arguments.weight_decay), lr=arguments.learning_rate, betas=arguments.betas
    )
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    validation_loader = None
    if validation_dataset is not None and len(validation_dataset):
        validation_loader = accelerator.prepare(_loader(validation_dataset, collator, arguments, shuffle=False))

    num_steps = arguments.epochs * len(loader)
    warmup_steps = round(min(arguments.warmup_epochs, arguments.epochs / 10) * len(loader))
    after_step = getattr(model, "after_optimizer_step", None)
    history: list[dict[str, Any]] = []
    step = 0
    started = time.perf_counter()
    shown = arguments.progress and accelerator.is_main_process
    bar = tqdm(total=num_steps, desc="pre-train", unit="step", disable=not shown)
    with bar:
        for epoch in range(1, arguments.epochs + 1):
            prepared.train()
            total = torch.zeros((), device=accelerator.device)
            seen, epoch_started = 0, time.perf_counter()
            for batch in loader:
                rate = learning_rate_at(
                    step, num_steps, warmup_steps, arguments.learning_rate, arguments.min_learning_rate
                )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = prepared(**batch).loss
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(prepared.parameters(), arguments.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                if after_step is not None:
                    after_step(step / num_steps)
                size = len(batch["input_values"])
                total += loss.detach() * size
                seen += size
                if step % arguments.refresh_every == 0:
                    bar.set_postfix(loss=f"{_finite(loss.item(), step, rate):.4f}", lr=f"{rate:.1e}", refresh=False)
                bar.update(1)
            row = {
                "epoch": epoch,
                "step": step,
                "train_loss": _finite(_mean_over_processes(accelerator, total, seen), step, rate),
                "validation_loss": _validation_loss(accelerator, prepared, validation_loader),
                "learning_rate": rate,
                "seconds": round(time.perf_counter() - started, 3),
                "recordings_per_second": round(
                    seen * accelerator.num_processes / (time.perf_counter() - epoch_started), 1
                ),
            }
            history.append(row)
            if output_dir is not None and accelerator.is_main_process:
                save_model_folder(output_dir / MODEL_FOLDER, accelerator.unwrap_model(prepared), feature_extractor)
                write_text(output_dir / LOG_NAME, _as_csv(history))
    accelerator.wait_for_everyone()
    trained = accelerator.unwrap_model(prepared).eval()
    return PretrainingResult(model=trained, history=history)


def settings(arguments: PretrainingArguments) -> dict[str, Any]:
    """The recipe as it is written beside results."""
    return {name: value for name, value in asdict(arguments).items() if name not in ("progress", "refresh_every")}


def _loader(
    dataset: datasets.Dataset, collator: BeatCollator, arguments: PretrainingArguments, shuffle: bool
) -> DataLoader:
    generator = torch.Generator().manual_seed(arguments.seed)
    return DataLoader(
        dataset.with_format("numpy"),
        batch_size=arguments.batch_size,
        shuffle=shuffle,
        generator=generator if shuffle else None,
        # A last batch of a few recordings would weigh as much as a whole one.
        drop_last=shuffle and len(dataset) >= arguments.batch_size,
        collate_fn=collator,
        num_workers=arguments.num_workers,
        persistent_workers=arguments.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


@torch.no_grad()
def _validation_loss(accelerator: Accelerator, model: nn.Module, loader: Any) -> float | None:
    if loader is None:
        return None
    model.eval()
    total, seen = torch.zeros((), device=accelerator.device), 0
    for batch in loader:
        size = len(batch["input_values"])
        total += model(**batch).loss * size
        seen += size
    return _mean_over_processes(accelerator, total, seen)


def _mean_over_processes(accelerator: Accelerator, total: torch.Tensor, seen: int) -> float:
    sums = accelerator.reduce(torch.stack([total.float(), torch.tensor(float(seen), device=total.device)]), "sum")
    return float(sums[0] / sums[1])


def _finite(loss: float, step: int, rate: float) -> float:
    if not math.isfinite(loss):
        raise InputError(
            f"the loss is {loss} at step {step} with learning rate {rate:.2e}: lower the learning rate, or look for "
            "broken recordings"
        )
    return loss


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
