"""Settings of pre-training, fine-tuning and benchmarks, named as in `transformers.TrainingArguments`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any, Literal

from ..processing.errors import InputError, missing_library
from ..systems import head_types
from ..utils.arguments import Arguments


_SEED = {"ge": 0, "lt": 2**32}


def augmentation_field(strength: str, of_views: str = "") -> Any:
    """
    Field of the strength of augmentation, which `strength` names in the help; `None` is the default of the system or
    the objective, of which `of_views` tells that of views.
    """
    help = (
        f"{strength} of the augmentation, from 0 (none) to 2; signals vary in window, baseline, breathing and leads "
        f"(default: 0{of_views}), pages are bent, shaded and blurred like photographs (default: 1)."
    )
    return field(default=None, metadata={"help": help, "ge": 0, "le": 2})


@dataclass
class PretrainingArguments(Arguments):
    """
    Settings of pre-training. The defaults suit tiny models on a few thousand recordings and two CPU cores; settings
    that do not depend on the size follow Pan et al. (2026, appendix).

    Raises:
        InputError: If a value is outside its bounds.
    """

    _group = "training"

    num_train_epochs: int = field(default=25, metadata={"help": "Passes over the training recordings.", "gt": 0})
    train_batch_size: int = field(
        default=32,
        metadata={
            "help": "Recordings per optimizer step over all processes, so that a run is the same on one or several "
            "devices.",
            "gt": 0,
        },
    )
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of recordings per forward pass; gradients accumulate over a step (default: all of "
            "the process on a GPU; 16 on a CPU, where small batches of similar length need less padding).",
            "gt": 0,
        },
    )
    learning_rate: float = field(
        default=1e-3, metadata={"help": "Peak learning rate, at the end of the warmup.", "gt": 0}
    )
    min_learning_rate: float = field(
        default=1e-5, metadata={"help": "Learning rate at the end of the cosine schedule.", "ge": 0}
    )
    warmup_epochs: float = field(
        default=5.0, metadata={"help": "Epochs of linear warmup, at most a tenth of the run.", "ge": 0}
    )
    weight_decay: float = field(
        default=0.05, metadata={"help": "Weight decay of linear and convolution weights; others have none.", "ge": 0}
    )
    adam_beta1: float = field(default=0.9, metadata={"help": "First moment decay of AdamW.", "ge": 0, "lt": 1})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second moment decay of AdamW.", "ge": 0, "lt": 1})
    max_grad_norm: float = field(default=3.0, metadata={"help": "Norm to which gradients are clipped.", "gt": 0})
    mixed_precision: Literal["auto", "no", "bf16"] = field(
        default="auto",
        metadata={"help": "Precision of autocast; auto is bf16 if the GPU supports it or the launcher requests it."},
    )
    torch_compile: bool = field(default=False, metadata={"help": "Compile each layer with torch.compile."})
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"help": "Recompute activations in the backward pass: less memory, more time."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the order, the masks and dropout.", **_SEED})
    dataloader_num_workers: int = field(
        default=0,
        metadata={"help": "Worker processes that load batches; 0 loads them in the training process.", "ge": 0},
    )
    shuffle_buffer_size: int = field(
        default=10_000,
        metadata={"help": "With --streaming: size of the shuffle buffer in recordings.", "gt": 0},
    )
    recordings_per_epoch: int | None = field(
        default=None,
        metadata={"help": "With --streaming: recordings per epoch (default: all of the prepared folders).", "gt": 0},
    )
    save_steps: int | None = field(
        default=None, metadata={"help": "Steps between checkpoints (default: one at the end of every epoch).", "gt": 0}
    )
    save_total_limit: int = field(default=2, metadata={"help": "Number of checkpoints to keep.", "gt": 0})
    logging_steps: int = field(
        default=10,
        metadata={"help": "Steps between readings of the loss, each of which waits for the device.", "gt": 0},
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio", "none"]] = field(
        default_factory=list, metadata={"help": "Trackers that also receive the losses (default: none)."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.report_to = [tracker for tracker in self.report_to if tracker != "none"]


@dataclass
class FinetuningArguments(Arguments):
    """
    Settings of fine-tuning. With a frozen encoder, the recipe is that of Pan et al. (2026, appendix) except for the
    number of epochs and the batch size.

    Raises:
        InputError: If a value is outside its bounds or contradicts the method.
    """

    _group = "training"

    method: Literal["frozen", "full", "lora", "logistic"] = field(
        default="frozen",
        metadata={
            "help": "frozen trains the head on a frozen encoder; full trains all weights, with lower learning rates "
            "for lower layers; lora trains the head and low-rank updates of the encoder's attention, or of all linear "
            "maps if it has none (Hu et al., 2021), and merges them at the end; logistic solves a logistic regression "
            "with an L2 penalty for the mean head on a frozen encoder, without epochs and rates."
        },
    )
    num_train_epochs: int = field(
        default=60, metadata={"help": "Maximum number of passes over the training recordings.", "gt": 0}
    )
    per_device_train_batch_size: int = field(
        default=64, metadata={"help": "Recordings per step on each device.", "gt": 0}
    )
    early_stopping_patience: int = field(
        default=10, metadata={"help": "Stop after this many epochs without a better validation macro AUROC.", "gt": 0}
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate of the head (default: 0.005, the paper's; 0.001 if the encoder is trained).",
            "gt": 0,
        },
    )
    encoder_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate of the encoder's last layer or of LoRA's updates (default: 0.0005; 0.002 for "
            "LoRA).",
            "ge": 0,
        },
    )
    min_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the head at the end of the cosine schedule; those of the encoder end at the "
            "same fraction of their peaks (default: 0; the paper's: 1e-5).",
            "ge": 0,
        },
    )
    warmup_ratio: float = field(
        default=0.1,
        metadata={"help": "Fraction of the steps over which the learning rate rises linearly.", "ge": 0, "le": 1},
    )
    weight_decay: float = field(
        default=0.05, metadata={"help": "Weight decay of linear and convolution weights; others have none.", "ge": 0}
    )
    layer_decay: float = field(
        default=0.75,
        metadata={
            "help": "With --method full: learning rate of a layer relative to the layer above it; 1 is the same rate "
            "for all.",
            "gt": 0,
            "le": 1,
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the LoRA updates, whose scale is 2.", "gt": 0})
    augmentation: float | None = augmentation_field("With --method full or lora: strength")
    class_weights: Literal["none", "balanced"] = field(
        default="none",
        metadata={
            "help": "balanced weights the positives of a label by the ratio of negatives to positives, at most 100, "
            "which makes the probabilities of rare labels too high."
        },
    )
    allow_absent_labels: bool = field(
        default=False,
        metadata={"help": "Train even if a label has no positive or no negative training recording."},
    )
    precompute: bool = field(
        default=True,
        metadata={"help": "With --method frozen: compute the encoder's features once instead of in every epoch."},
    )
    bf16: bool = field(
        default=False,
        metadata={"help": "Use bfloat16 mixed precision, which is faster where the hardware supports it."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the head, the order and dropout.", **_SEED})
    dataloader_num_workers: int = field(
        default=0,
        metadata={"help": "Worker processes that load batches; 0 loads them in the training process.", "ge": 0},
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "Disable the progress bar."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_learning_rate is None:
            self.head_learning_rate = 5e-3 if self.freezes_encoder else 1e-3
        if self.encoder_learning_rate is None:
            self.encoder_learning_rate = {"full": 5e-4, "lora": 2e-3}.get(self.method, 0.0)
        if self.augmentation and self.freezes_encoder:
            raise InputError(
                "a frozen encoder reads each recording once, so there is nothing to augment: choose --method full or "
                "lora, or leave out --augmentation"
            )
        if self.method == "logistic" and self.class_weights != "none":
            raise InputError(
                "a logistic regression has no class weights: leave out --class-weights, or choose another method"
            )
        if not self.freezes_encoder and not self.encoder_learning_rate:
            raise InputError("encoder_learning_rate is 0: it must be greater than 0, or choose --method frozen")
        if (self.min_learning_rate or 0.0) >= self.head_learning_rate:
            raise InputError(
                f"min_learning_rate is {self.min_learning_rate}: it must be below head_learning_rate, "
                f"{self.head_learning_rate:g}"
            )
        if self.method == "lora" and importlib.util.find_spec("peft") is None:
            raise InputError(missing_library("peft", "LoRA"))

    @property
    def freezes_encoder(self) -> bool:
        """`bool`: Whether the encoder keeps its weights."""
        return self.method in ("frozen", "logistic")


REFERENCE: dict[str, Any] = {
    "num_train_epochs": 30,
    "per_device_train_batch_size": 32,
    "head_learning_rate": 3e-3,
    "weight_decay": 0.01,
}
"""Recipe of the supervised ResNet, tuned once on the superclasses of PTB-XL and used for all tasks."""


@dataclass
class BenchmarkArguments(Arguments):
    """
    Which cells a benchmark has, and how each is trained. `recipes` holds the [`FinetuningArguments`] of each protocol
    that trains, of the `supervised` ResNet, and of encoders from `scratch`; no recipe stops early, so that all cells
    train for equally many epochs.

    Raises:
        InputError: If a value is outside its bounds.
    """

    _group = "cells"

    protocols: list[Literal["knn", "logistic", "probe", "finetune", "lora"]] = field(
        default_factory=lambda: ["probe"],
        metadata={
            "help": "knn is k nearest neighbors and logistic a logistic regression on the mean feature, whose number "
            "of neighbors and penalty are chosen on the validation recordings; probe is a head on the frozen encoder, "
            "finetune full fine-tuning."
        },
    )
    heads: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Heads of all protocols except knn and logistic; mean with probe is the linear probe (default: "
            "mean and the models' usual heads that all models support).",
            "choices": head_types(),
        },
    )
    fractions: list[float] = field(
        default_factory=lambda: [0.01, 0.1, 1.0],
        metadata={"help": "Fractions of the training recordings.", "gt": 0, "le": 1},
    )
    draw: Literal["plain", "stratified"] = field(
        default="plain",
        metadata={
            "help": "How the fractions are sampled: plain is at random, as in the paper; stratified samples patients "
            "and preserves the prevalence of each label, which includes more recordings with rare labels."
        },
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Seeds; each samples other recordings and another initial head.", **_SEED},
    )
    probe_epochs: int = field(default=100, metadata={"help": "Epochs of a probe, as in the paper.", "gt": 0})
    probe_batch_size: int = field(default=256, metadata={"help": "Batch size of a probe, as in the paper.", "gt": 0})
    probe_min_learning_rate: float | None = field(
        default=1e-5, metadata={"help": "Final learning rate of a probe, as in the paper.", "ge": 0}
    )
    finetune_epochs: int = field(default=20, metadata={"help": "Epochs of full fine-tuning and LoRA.", "gt": 0})
    reference_epochs: int = field(default=10, metadata={"help": "Epochs of the supervised ResNet.", "gt": 0})
    scratch_epochs: int = field(
        default=30, metadata={"help": "Epochs of encoders trained from random initialization (--supervised).", "gt": 0}
    )
    bootstrap_samples: int = field(
        default=1000, metadata={"help": "Bootstrap samples of patients for the intervals.", "ge": 0}
    )
    recipes: dict[str, FinetuningArguments] = field(init=False)

    def __post_init__(self) -> None:
        if any(fraction > 1 for fraction in self.fractions):
            raise InputError(f"fractions is {max(self.fractions):g}: give fractions, not percentages (0.1 is 10 %)")
        super().__post_init__()
        for name in ("protocols", "heads", "fractions", "seeds"):
            setattr(self, name, list(dict.fromkeys(getattr(self, name))))

        def recipe(epochs: int, **settings: Any) -> FinetuningArguments:
            return FinetuningArguments(
                num_train_epochs=epochs,
                early_stopping_patience=epochs,
                allow_absent_labels=True,
                disable_tqdm=True,
                **settings,
            )

        reference = {name: value for name, value in REFERENCE.items() if name != "num_train_epochs"}
        self.recipes = {
            "probe": recipe(
                self.probe_epochs,
                per_device_train_batch_size=self.probe_batch_size,
                min_learning_rate=self.probe_min_learning_rate,
            ),
            "finetune": recipe(self.finetune_epochs, method="full", per_device_train_batch_size=32),
            "supervised": recipe(self.reference_epochs, **reference),
            # Without pre-training, no layer has learned more than another.
            "scratch": recipe(
                self.scratch_epochs,
                method="full",
                per_device_train_batch_size=32,
                encoder_learning_rate=1e-3,
                layer_decay=1.0,
            ),
        }
        if "lora" in self.protocols:
            self.recipes["lora"] = recipe(self.finetune_epochs, method="lora", per_device_train_batch_size=32)
