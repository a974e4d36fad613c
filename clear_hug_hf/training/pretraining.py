"""
The pre-training loop of all models, on Accelerate.

The loop trains a model whose `forward` returns an output with a `loss`. Optionally, the model:

- returns `loss_weight`, the number of terms in the mean of its loss, by which batches of a step are weighted, in one
  or several processes, so that they add up to the exact loss of the step (default: the number of recordings);
- takes `seeds`, one per recording, for random numbers that do not depend on devices and processes;
- takes `seed`, an integer, for random numbers that all recordings of a step share;
- defines `after_optimizer_step(progress)`, called with the fraction of finished steps, such as to update a teacher;
- lists in `monitors` further scalar fields of its output to log, such as `pooled_std`, which [`has_collapsed`] reads;
- has `published`, the encoder alone, which is saved in its place;
- sets `ranks_by_loss = False` if a lower loss does not mean a better encoder, so that no epoch is the best;
- sets `needs_full_batch = True` if its loss compares recordings, so that the batch of a process is not divided.

Order and masked beats depend only on the seed and the step, and dropout also on the process, so that a resumed run
equals an uninterrupted one.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import inspect
import math
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    AutocastKwargs,
    DistributedType,
    gather_object,
    parse_flag_from_env,
    send_to_device,
    set_seed,
)
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.fx.experimental import _config as symbolic_shapes
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..data.collator import EcgCollator
from ..modeling.modeling_ecg import RhythmClassifier
from ..processing.errors import InputError, missing_library
from ..utils.files import check_writable, remove_leftovers, write_csv
from .arguments import PretrainingArguments
from .batches import Collator, StepBatches, StepCollator, StepPlan, recording_seeds, step_loader, validation_loader
from .checkpoints import Checkpoints
from .folders import save_model_folder
from .processes import average_batch_statistics, check_connected, launched_on_cpus


EPOCH_LOG, STEP_LOG = "pretraining_log.csv", "pretraining_steps.csv"
MODEL_FOLDER, BEST_FOLDER, TRACKING_FOLDER = "model", "best", "tracking"
FINETUNING_RUN = "finetuning.json"  # marks the folder of a fine-tuning run
MIN_POOLED_STD = 0.01
"""Smallest `pooled_std` of an encoder that has not collapsed, see [`has_collapsed`]."""
_STEP_COLUMNS = ("step", "epoch", "loss", "gradient_norm", "learning_rate")


# Settings that may change when a run resumes: they change at most rounding and dropout.
_NOT_IN_IDENTITY = (
    "per_device_train_batch_size",
    "torch_compile",
    "gradient_checkpointing",
    "dataloader_num_workers",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "report_to",
    "disable_tqdm",
)


@dataclass
class PretrainingResult:
    """
    Result of a pre-training run.

    Args:
        model ([`PreTrainedModel`]): The trained model, in evaluation mode.
        history (`list[dict]`): One row per epoch, as in the log: `epoch`, `step`, `train_loss`, `validation_loss`
            (`None` without validation recordings), `learning_rate`, `seconds`, `recordings_per_second`.
        steps (`list[dict]`): One row per step: `step`, `epoch`, `loss`, `gradient_norm` (before it is clipped),
            `learning_rate`.
        resumed_from (`int`, *optional*): Step of the checkpoint from which the run resumed.
    """

    model: PreTrainedModel
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    resumed_from: int | None = None


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """
    Parameter groups for AdamW. Weight decay applies to weights of linear and convolution layers, not to biases, norms,
    embeddings, positions and learned tokens.

    Args:
        model (`nn.Module`): Model, of which parameters without gradients are skipped.
        weight_decay (`float`): Weight decay of the first group; that of the second is 0.
    """
    decaying = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | RhythmClassifier)
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]


def compile_layers(model: nn.Module) -> None:
    """
    Compile the layers of a model, or a model without layers, with `torch.compile`.

    Shapes are dynamic, since the length of batches varies and static compilation would soon reach torch's limit of
    recompilations. Compilation happens with the first batches: train under [`without_duck_shapes`].
    """
    # Equal layers share one compilation.
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in layers or [model]:
        module.compile(dynamic=True)


def without_duck_shapes() -> AbstractContextManager[None]:
    """Keep torch from compiling two sizes as one that are only equal in the first batch, such as leads and beats."""
    context: AbstractContextManager[None] = symbolic_shapes.patch(use_duck_shape=False)  # type: ignore[attr-defined]
    return context


def learning_rate_at(step: int, num_steps: int, warmup_steps: int, peak: float, lowest: float) -> float:
    """
    Learning rate of a step: linear warmup from nearly zero to `peak`, then half a cosine to `lowest`.

    Args:
        step (`int`): Step, from 0.
        num_steps (`int`): Number of steps of the run.
        warmup_steps (`int`): Number of warmup steps.
        peak (`float`): Learning rate at the end of the warmup.
        lowest (`float`): Learning rate of the last step.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
    return lowest + 0.5 * (peak - lowest) * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def has_collapsed(monitors: Mapping[str, Any]) -> bool:
    """
    Whether an encoder maps all recordings to nearly the same vector, which objectives without negatives may end in, at
    their lowest loss: whether `pooled_std`, the standard deviation of its output over a batch in units of that output,
    is below [`MIN_POOLED_STD`].

    Random and trained encoders of this package are far above it. At 0.01 the cosine similarity of two recordings is
    0.9999, so that no head can tell them apart. The number of dimensions of the variation indicates no collapse: it is
    close to 1 for random encoders, whose outputs mostly differ by heart rate, and in a batch of two recordings.

    Args:
        monitors (`Mapping[str, float]`): What a model lists in `monitors`, by name, for batches of several recordings.
    """
    return bool(monitors.get("pooled_std", math.inf) < MIN_POOLED_STD)


def pretrain(
    model: PreTrainedModel,
    train_dataset: datasets.Dataset | datasets.IterableDataset,
    feature_extractor: Any,
    output_dir: str | Path | None = None,
    validation_dataset: datasets.Dataset | None = None,
    arguments: PretrainingArguments | None = None,
    *,
    collator: Collator | None = None,
    teacher_digest: str | None = None,
    restart: bool = False,
) -> PretrainingResult:
    """
    Pre-train a model on a prepared dataset, or resume an interrupted run.

    Args:
        model ([`PreTrainedModel`]): Model whose `forward` returns a `loss`; the docstring of this module lists what
            else it may do.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`): Prepared recordings.
        feature_extractor: Feature extractor that the dataset was prepared with, saved with the weights.
        output_dir (`str` or `Path`, *optional*): Folder for `model/`, updated after every epoch, `best/`, the model
            with the lowest validation loss if that ranks models, `pretraining_log.csv`, `pretraining_steps.csv`,
            `tracking/` and `checkpoints/`, from which the same run resumes. By default, nothing is written.
        validation_dataset ([`datasets.Dataset`], *optional*): Recordings whose loss is computed after every epoch.
        arguments ([`PretrainingArguments`], *optional*): The recipe.
        collator (`Callable`, *optional*): Collates rows into one batch (default: an [`EcgCollator`]).
        teacher_digest (`str`, *optional*): Digest of the pre-trained weights that the model learns from, with which
            only the same run resumes.
        restart (`bool`, *optional*, defaults to `False`): Whether to start over if there are checkpoints.

    Returns:
        [`PretrainingResult`]

    Raises:
        InputError: If there are no recordings, or fewer than a batch; processes do not divide the batch; rate, leads
            or lengths differ from the model's; the folder cannot be written or holds another run; or a loss is not
            finite, which leaves existing checkpoints and model folders unchanged.
    """
    arguments = PretrainingArguments() if arguments is None else arguments
    if output_dir is not None:
        output_dir = check_writable(output_dir)
        if (output_dir / FINETUNING_RUN).exists():
            raise InputError(
                f"{output_dir} holds a fine-tuning run, which would be overwritten: choose another folder"
            )
    collator = EcgCollator(feature_extractor, label_names=()) if collator is None else collator
    check_compatible(model.config, feature_extractor, train_dataset)
    accelerator = _make_accelerator(arguments, output_dir)
    plan = _make_plan(train_dataset, arguments, accelerator)
    loop = _Loop(model, train_dataset, validation_dataset, feature_extractor, collator, arguments, plan, accelerator)
    if teacher_digest is not None:
        loop.identity["the recipe"]["teacher (sha256)"] = teacher_digest
    return loop.run(output_dir, restart)


def recipe_settings(arguments: PretrainingArguments) -> dict[str, Any]:
    """Settings that change results, as recorded with them."""
    return {name: value for name, value in asdict(arguments).items() if name not in _NOT_IN_IDENTITY}


# ------------------------------------------------------------------------------------------------------------- setup


def _make_accelerator(arguments: PretrainingArguments, output_dir: Path | None) -> Accelerator:
    for name in arguments.report_to:
        if importlib.util.find_spec(name) is None:
            missing = f"the tracker {name} is not installed: `pip install {name}`, or choose another"
            raise InputError(missing_library(name, f"tracking with {name}") or missing)
    # Without a GPU, Accelerate only connects processes with `cpu=True`.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or launched_on_cpus()
    precision = arguments.mixed_precision
    if precision == "auto":
        has_bf16 = torch.cuda.is_available() and not on_cpu and torch.cuda.is_bf16_supported(including_emulation=False)
        requested = os.environ.get("ACCELERATE_MIXED_PRECISION")
        precision = "bf16" if requested == "bf16" or has_bf16 else "no"
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
    # Otherwise Accelerate reuses precision and sharding of the first accelerator in this process.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        log_with=list(arguments.report_to) if arguments.report_to and output_dir is not None else None,
        project_dir=None if output_dir is None else str(output_dir / TRACKING_FOLDER),
        kwargs_handlers=[
            # Buffers are constants, or statistics that are averaged before they are read.
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            # FSDP frees gathered weights after each layer; a cache would keep their bfloat16 copies.
            AutocastKwargs(cache_enabled=not sharded),
        ],
    )
    check_connected(accelerator.num_processes)
    if sharded and on_cpu and accelerator.num_processes > 1:
        # Accelerate only shards on GPUs, and would silently train without FSDP; torch also shards on CPUs.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (accelerator.state, PartialState()):
            state.distributed_type = DistributedType.FSDP
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        if plugin.fsdp_version != 2:
            raise InputError("FSDP 1 is not supported: set `fsdp_version: 2`, as scripts/launch/fsdp.yaml does")
        # Weights are gathered in float32 and autocast chooses the precision of each operation, so that the loss equals
        # that of one process.
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
    return accelerator


def check_compatible(config: Any, feature_extractor: Any, *sets: Any) -> None:
    """
    Check that a feature extractor and prepared datasets match a model.

    Args:
        config ([`PreTrainedConfig`]): Config of the model, or of an objective that contains that of its encoder.
        feature_extractor: Feature extractor of the same system; settings that only one of them has are not compared.
        sets (`datasets.Dataset` or `datasets.IterableDataset`): Prepared recordings.

    Raises:
        InputError: If sampling rates, leads or the lengths of beats, patches or windows differ, or the extractor
            returns more beats than the model reads.
    """
    config = getattr(config, "backbone_config", config)
    for name, extractor_name in (
        ("sampling_rate", "sampling_rate"),
        ("beat_length", "beat_length"),
        ("num_beats", "num_beats"),
        ("patch_size", "patch_size"),
        ("num_samples", "window_samples"),
        ("image_size", "image_size"),
        ("rhythm_features", "rhythm_features"),
    ):
        expected, actual = getattr(config, name, None), getattr(feature_extractor, extractor_name, None)
        if expected is None or actual is None or actual == expected or (name == "num_beats" and actual < expected):
            continue
        raise InputError(
            f"the feature extractor has {name} {actual} and the model {expected}: use the feature extractor saved "
            f"with the model, or set the model's {name}"
        )
    extractor_leads, model_leads = list(feature_extractor.lead_names), list(config.lead_names)
    if extractor_leads != model_leads:
        raise InputError(
            f"the feature extractor returns {len(extractor_leads)} leads ({', '.join(extractor_leads)}), but the "
            f"model reads {len(model_leads)} ({', '.join(model_leads)}): use that of the saved model"
        )
    model_rate = getattr(config, "sampling_rate", None)
    for dataset in sets:
        first_row: dict[str, Any] = next(iter(dataset.take(1)), {})
        rate = first_row.get("sampling_rate")
        if rate is not None and model_rate is not None and float(rate) != float(model_rate):
            raise InputError(
                f"the recordings were prepared at {float(rate):g} Hz, but the model reads {float(model_rate):g} Hz: "
                "prepare them with the model's feature extractor"
            )


def _make_plan(dataset: Any, arguments: PretrainingArguments, accelerator: Accelerator) -> StepPlan:
    if isinstance(dataset, datasets.IterableDataset):
        count = arguments.recordings_per_epoch
        if count is None:
            raise InputError("the number of recordings in a stream is unknown: set recordings_per_epoch")
    else:
        count = len(dataset)
    batch_size, num_processes = arguments.train_batch_size, accelerator.num_processes
    if not count:
        raise InputError("there are no recordings to pre-train on")
    if batch_size > count:
        raise InputError(
            f"train_batch_size is {batch_size}, but there are {count} recordings to train on: choose at most {count}"
        )
    if batch_size % num_processes:
        raise InputError(
            f"train_batch_size is {batch_size}, but there are {num_processes} processes: choose a multiple of "
            f"{num_processes}"
        )
    epochs, process = arguments.num_train_epochs, accelerator.process_index
    return StepPlan(count, batch_size, epochs, arguments.seed, process, num_processes)


def _identity(
    model: PreTrainedModel,
    dataset: Any,
    feature_extractor: Any,
    collator: Collator,
    arguments: PretrainingArguments,
    precision: str,
) -> dict[str, Any]:
    """Facts that must be equal for a run to resume; messages contain the keys."""

    # Versions, loading and fields with `changes_numbers=False` do not change results.
    ignored = {"transformers_version", "dtype", "auto_map", "architectures", "custom_pipelines"}
    for config in (model.config, getattr(model.config, "backbone_config", model.config)):
        ignored |= {field.name for field in fields(config) if not field.metadata.get("changes_numbers", True)}

    def select(settings: dict[str, Any]) -> dict[str, Any]:
        return {
            name: select(value) if isinstance(value, dict) and "model_type" in value else value  # a part's config
            for name, value in settings.items()
            if name not in ignored and not name.startswith("_")
        }

    digest = hashlib.sha256()
    if isinstance(dataset, datasets.IterableDataset):
        ids: Any = (row["record_id"] for row in islice(dataset.select_columns(["record_id"]), 100))
        count = arguments.recordings_per_epoch
    else:
        ids, count = dataset["record_id"], len(dataset)
    for record in ids:
        digest.update(f"{record}\n".encode())
    return {
        "the model": {"class": type(model).__name__, **select(model.config.to_dict())},
        "the feature extractor": select(feature_extractor.to_dict()),
        "the dataset": {"recordings": count, "record ids (sha256)": digest.hexdigest()},
        "the recipe": {
            **recipe_settings(arguments),
            "mixed_precision": precision,
            "augmentation": float(getattr(collator, "augmentation", 0.0)),
            **({"views": collator.views} if hasattr(collator, "views") else {}),
        },
    }


def sharded_layers(model: PreTrainedModel) -> list[str]:
    """
    Names of the layer classes that FSDP shards one by one: those in `_no_split_modules` of the model and its towers
    that the model contains, except those that contain the input embedding, which Accelerate shards itself.
    """
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    embedding = model.get_input_embeddings()
    excluded = {type(layer).__name__ for layer in layers if any(part is embedding for part in layer.modules())}
    return sorted({type(layer).__name__ for layer in layers} - excluded)


# -------------------------------------------------------------------------------------------------------------- loop


class _PendingStep(NamedTuple):
    """
    Results of a step that are still on the device.

    Args:
        learning_rate (`float`): Learning rate of the step.
        values (`torch.Tensor` of shape `(2 + number of monitors,)`): Loss and gradient norm of the step, and the
            monitors of the model, averaged over this process's batches.
        losses (`list[torch.Tensor]`): Loss of each batch of this process.
        record_ids (`list[list[str]]`): Recordings of each batch of this process.
    """

    learning_rate: float
    values: torch.Tensor
    losses: list[torch.Tensor]
    record_ids: list[list[str]]

    def suspects(self) -> list[str]:
        """Recordings of the batches whose loss is not finite, or of all batches if all losses are finite."""
        bad = [ids for ids, loss in zip(self.record_ids, self.losses, strict=True) if not math.isfinite(loss.item())]
        return [record for ids in (bad or self.record_ids) for record in ids]


class _Loop:
    """A run and its state."""

    def __init__(
        self,
        model: PreTrainedModel,
        train_dataset: Any,
        validation_dataset: datasets.Dataset | None,
        feature_extractor: Any,
        collator: Collator,
        arguments: PretrainingArguments,
        plan: StepPlan,
        accelerator: Accelerator,
    ):
        self.arguments, self.plan, self.accelerator = arguments, plan, accelerator
        self.model_class = type(model)  # FSDP changes it
        self.feature_extractor, self.collator = feature_extractor, collator
        self.identity = _identity(
            model, train_dataset, feature_extractor, collator, arguments, accelerator.mixed_precision
        )
        self.train_dataset = _select_columns(train_dataset, collator)
        self.validation_dataset = None
        if validation_dataset is not None and len(validation_dataset):
            self.validation_dataset = _select_columns(validation_dataset, collator)
        process_batch_size = plan.batch_size // plan.num_processes
        needs_full_batch = getattr(model, "needs_full_batch", False)
        default = 16 if accelerator.device.type == "cpu" and not needs_full_batch else process_batch_size
        self.micro_batch_size = min(arguments.per_device_train_batch_size or default, process_batch_size)
        if needs_full_batch and process_batch_size < 2:
            raise InputError(
                f"train_batch_size is {plan.batch_size} on {plan.num_processes} processes, but the loss compares the "
                "recordings of a process with each other: set at least two for each process"
            )
        if needs_full_batch and self.micro_batch_size < process_batch_size:
            raise InputError(
                f"per_device_train_batch_size is {self.micro_batch_size}, but the loss compares all "
                f"{process_batch_size} recordings of a process with each other: leave it out, or choose a smaller "
                "train_batch_size or more processes"
            )
        self.monitors: tuple[str, ...] = tuple(getattr(model, "monitors", ()))
        self.ranks_by_loss = getattr(model, "ranks_by_loss", True)
        parameters = inspect.signature(model.forward).parameters
        self.with_seeds, self.with_seed = "seeds" in parameters, "seed" in parameters

        if arguments.gradient_checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()
        if arguments.torch_compile:
            compile_layers(model)
        optimizer = torch.optim.AdamW(
            decay_groups(model, arguments.weight_decay),
            lr=arguments.learning_rate,
            betas=(arguments.adam_beta1, arguments.adam_beta2),
            fused=accelerator.device.type in ("cpu", "cuda"),
        )
        plugin = getattr(accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.transformer_cls_names_to_wrap is None:
            plugin.transformer_cls_names_to_wrap = sharded_layers(model)
        with warnings.catch_warnings():
            # Newer versions of torch rename the option `broadcast_buffers`, which older versions require.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.after_step = getattr(model, "after_optimizer_step", None)

        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        self.best_loss = math.inf
        self._pending: list[_PendingStep] = []

    def run(self, output_dir: Path | None, restart: bool) -> PretrainingResult:
        """Train to the end, from the newest checkpoint if there is one."""
        arguments, plan, accelerator = self.arguments, self.plan, self.accelerator
        set_seed(arguments.seed)
        checkpoints, resumed_from = None, None
        if output_dir is not None:
            checkpoints = Checkpoints(output_dir, accelerator, self.identity, arguments.save_total_limit)
            if accelerator.is_main_process:
                checkpoints.clean(restart)
                self._clean(output_dir, restart)
            accelerator.wait_for_everyone()
            resumed_from = self._resume(output_dir, checkpoints)
        if self.step == plan.num_steps:
            return self._result(resumed_from)

        loader = step_loader(
            self.train_dataset,
            plan,
            StepCollator(self.collator, self.micro_batch_size, arguments.seed, self.with_seeds),
            self.step,
            arguments.dataloader_num_workers,
            arguments.shuffle_buffer_size,
        )
        if accelerator.log_with and output_dir is not None:
            accelerator.init_trackers("pretraining", config=_flatten(self.identity))
        self._started = self._epoch_started = time.perf_counter()
        self._epoch_first = self.step
        disable = arguments.disable_tqdm or not accelerator.is_main_process
        bar = tqdm(total=plan.num_steps, initial=self.step, desc="pre-train", unit="step", disable=disable)
        self.model.train()
        with bar, ExitStack() as at_exit, without_duck_shapes() if arguments.torch_compile else nullcontext():
            for tracker in accelerator.trackers:
                at_exit.callback(tracker.finish)  # flushes the tracker however the run ends
            for batches in _unwrap_worker_errors(loader):
                self._train_step(batches)
                bar.update(1)
                is_epoch_end = self.step % plan.steps_per_epoch == 0
                should_save = checkpoints is not None and (
                    is_epoch_end or (arguments.save_steps and self.step % arguments.save_steps == 0)
                )
                if len(self._pending) >= arguments.logging_steps or is_epoch_end or should_save:
                    self._read_losses(bar)
                if is_epoch_end or should_save:
                    average_batch_statistics(self.model)
                if is_epoch_end:
                    self._end_epoch(output_dir)
                if should_save and checkpoints is not None and output_dir is not None:
                    self._write_logs(output_dir)
                    checkpoints.save(self.step, self._state())
        accelerator.wait_for_everyone()
        return self._result(resumed_from)

    def _train_step(self, step: StepBatches) -> None:
        arguments, plan, accelerator = self.arguments, self.plan, self.accelerator
        warmup = round(min(arguments.warmup_epochs, arguments.num_train_epochs / 10) * plan.steps_per_epoch)
        rate = learning_rate_at(
            self.step, plan.num_steps, warmup, arguments.learning_rate, arguments.min_learning_rate
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout depends on the step, so that checkpoints need no generator state.
        torch.manual_seed(int(recording_seeds(arguments.seed, [(self.step, plan.process)])[0]))
        # An integer, since reading a tensor would wait for the device.
        shared = {"seed": int(recording_seeds(arguments.seed, [(self.step, 0)])[0])} if self.with_seed else {}

        sums = torch.zeros(2, device=accelerator.device)
        losses, monitors = [], torch.zeros(len(self.monitors), device=accelerator.device)
        for number, batch in enumerate(step.batches, start=1):
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            sync_context = nullcontext() if number == len(step.batches) else accelerator.no_sync(self.model)
            with sync_context, accelerator.autocast():
                try:
                    output = self.model(**batch, **shared)
                except ValueError as error:  # such as settings of the objective that do not fit the recordings
                    raise InputError(" ".join(str(error).split())) from error
                loss, weight = _loss_and_weight(output, batch)
                weighted = loss * weight
                accelerator.backward(weighted)
            sums += torch.stack((weighted.detach(), weight))
            losses.append(loss.detach())
            for index, name in enumerate(self.monitors):
                monitors[index] += getattr(output, name).detach().float() / len(step.batches)
        sums = accelerator.reduce(sums, "sum")
        weight = sums[1].clamp(min=1)
        # Gradients are sums over a process's terms, averaged over processes; rescale them to means over all terms.
        norm = scale_and_clip(self.model, plan.num_processes / weight, arguments.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.after_step is not None:
            self.after_step(self.step / plan.num_steps)
        values = torch.cat((torch.stack((sums[0] / weight, norm)), monitors))
        self._pending.append(_PendingStep(rate, values, losses, step.record_ids))

    def _read_losses(self, bar: Any) -> None:
        """Read and log the pending steps; raise `InputError` if a loss or gradient is not finite."""
        pending, self._pending = self._pending, []
        values = torch.stack([step.values for step in pending]).tolist()
        first = self.step - len(pending) + 1
        for number, (step, (loss, norm, *monitors)) in enumerate(zip(pending, values, strict=True), start=first):
            rate = step.learning_rate
            if not (math.isfinite(loss) and math.isfinite(norm)):
                record_ids = sorted(set(gather_object(step.suspects())))
                problem = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {norm}"
                raise InputError(
                    f"{problem} at step {number} with learning rate {rate:.2e}, in the batch of recordings "
                    f"{_join_names(record_ids)}: lower the learning rate, or check these recordings. Nothing was "
                    "saved since the last checkpoint"
                )
            epoch = (number - 1) // self.plan.steps_per_epoch + 1
            columns = (*_STEP_COLUMNS, *self.monitors)
            row = dict(zip(columns, (number, epoch, loss, norm, rate, *monitors), strict=True))
            self.steps.append(row)
            self.accelerator.log({f"train/{name}": row[name] for name in columns[2:]}, step=number)
        num_recordings = (self.step - self._epoch_first) * self.plan.batch_size
        speed = num_recordings / (time.perf_counter() - self._epoch_started)
        bar.set_postfix(loss=f"{loss:.4f}", lr=f"{rate:.1e}", recordings=f"{speed:.0f}/s", refresh=False)

    def _end_epoch(self, output_dir: Path | None) -> None:
        accelerator, plan = self.accelerator, self.plan
        now = time.perf_counter()
        epoch = self.step // plan.steps_per_epoch
        steps = [step for step in self.steps if step["epoch"] == epoch]
        validation_loss = self._validation_loss()
        if validation_loss is not None and not math.isfinite(validation_loss):
            raise InputError(
                f"the validation loss is {validation_loss} after epoch {epoch}, and the last training loss "
                f"{steps[-1]['loss']:.4f}: check the validation recordings. Nothing was saved since the last "
                "checkpoint"
            )
        row = {
            "epoch": epoch,
            "step": self.step,
            "train_loss": float(np.mean([step["loss"] for step in steps])),
            "validation_loss": validation_loss,
            "learning_rate": steps[-1]["learning_rate"],
            "seconds": round(self.seconds_before + now - self._started, 3),
            "recordings_per_second": round(
                (self.step - self._epoch_first) * plan.batch_size / (now - self._epoch_started), 1
            ),
            **{name: float(np.mean([step[name] for step in steps])) for name in self.monitors},
        }
        self._note_collapse(row)
        self.history.append(row)
        if validation_loss is not None:
            accelerator.log({"validation/loss": validation_loss}, step=self.step)
        if output_dir is not None:
            self._save_model(output_dir / MODEL_FOLDER)
            if self.ranks_by_loss and validation_loss is not None and validation_loss < self.best_loss:
                self.best_loss = validation_loss
                self._save_model(output_dir / BEST_FOLDER)
        self._epoch_started, self._epoch_first = time.perf_counter(), self.step

    def _note_collapse(self, row: dict[str, Any]) -> None:
        """Add the column `collapsed` to the row of an epoch if the model monitors it, and warn once."""
        if "pooled_std" not in self.monitors:
            return
        # Batches of a single recording have no deviation.
        row["collapsed"] = has_collapsed(row) and self.micro_batch_size > 1
        is_first = not any(earlier["collapsed"] for earlier in self.history)
        if row["collapsed"] and is_first and self.accelerator.is_main_process:
            warnings.warn(
                f"the encoder has collapsed: in epoch {row['epoch']} it maps all recordings to nearly the same vector "
                f"(pooled_std {row['pooled_std']:.1g}, below {MIN_POOLED_STD:g}). Its features are of no use, however "
                "low the loss is: lower the learning rate, or choose larger batches or another objective",
                stacklevel=2,
            )

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        if self.validation_dataset is None:
            return None
        accelerator = self.accelerator
        self.model.eval()
        sums = torch.zeros(2, device=accelerator.device)
        loader = validation_loader(
            self.validation_dataset,
            self.collator,
            self.micro_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            # Processes of a sharded model need equally many batches.
            drop_last=accelerator.distributed_type == DistributedType.FSDP,
            num_workers=self.arguments.dataloader_num_workers,
        )
        for batch in loader:
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            with accelerator.autocast():
                loss, weight = _loss_and_weight(self.model(**batch), batch)
            sums += torch.stack((loss * weight, weight))
        self.model.train()
        total, weight = accelerator.reduce(sums, "sum").tolist()
        return total / weight if weight else None

    # ------------------------------------------------------------------------------------------------------- folders

    def _resume(self, output_dir: Path, checkpoints: Checkpoints) -> int | None:
        checkpoint = checkpoints.newest()
        if checkpoint is None:
            return None
        path, state = checkpoint
        checkpoints.load(path)
        self.step, self.history = state["step"], state["history"]
        for row in self.history if "pooled_std" in self.monitors else ():
            row.setdefault("collapsed", False)  # earlier versions did not log it
        self.seconds_before = state["seconds"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.steps = [row for row in _read_steps(output_dir / STEP_LOG) if row["step"] <= self.step]
        if not self.arguments.disable_tqdm and self.accelerator.is_main_process:
            tqdm.write(f"{output_dir}: resuming after step {self.step} of {self.plan.num_steps}")
        return self.step

    def _state(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best_loss": None if math.isinf(self.best_loss) else self.best_loss,
            "seconds": round(self.seconds_before + time.perf_counter() - self._started, 3),
        }

    def _write_logs(self, output_dir: Path) -> None:
        if self.accelerator.is_main_process:
            write_csv(output_dir / STEP_LOG, self.steps)
            if self.history:
                write_csv(output_dir / EPOCH_LOG, self.history)

    def _save_model(self, folder: Path) -> None:
        model = self._unwrapped_model()
        if self.accelerator.is_main_process:
            # A collator of texts has the tokenizer of the model.
            save_model_folder(
                folder,
                getattr(model, "published", model),
                self.feature_extractor,
                getattr(self.collator, "tokenizer", None),
            )
        self.accelerator.wait_for_everyone()

    def _unwrapped_model(self) -> PreTrainedModel:
        """The model without wrappers; of a sharded model, the main process gets a full copy."""
        model: PreTrainedModel = self.accelerator.unwrap_model(self.model)
        if self.accelerator.distributed_type != DistributedType.FSDP:
            return model
        weights = self.accelerator.get_state_dict(self.model)  # collective: called by all processes
        if not self.accelerator.is_main_process:
            return model
        full_model = self.model_class(model.config)
        full_model.load_state_dict(weights)
        return full_model

    @staticmethod
    def _clean(output_dir: Path, restart: bool) -> None:
        """Remove partial files of killed runs, and with `restart` all files of an earlier run."""
        remove_leftovers(output_dir)
        if restart:
            for name in (MODEL_FOLDER, BEST_FOLDER, TRACKING_FOLDER):
                shutil.rmtree(output_dir / name, ignore_errors=True)
            for name in (EPOCH_LOG, STEP_LOG):
                (output_dir / name).unlink(missing_ok=True)

    def _result(self, resumed_from: int | None) -> PretrainingResult:
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return PretrainingResult(self._unwrapped_model().eval(), self.history, self.steps, resumed_from)


def _unwrap_worker_errors(loader: Iterable[StepBatches]) -> Iterator[StepBatches]:
    """Iterate over a loader; strip the traceback that torch adds to messages of worker errors."""
    try:
        yield from loader
    except InputError as error:
        raise InputError(str(error).strip().splitlines()[-1].rpartition("InputError: ")[2]) from None


def _select_columns(dataset: Any, collator: Collator) -> Any:
    """Select the columns that the collator reads, if it lists them."""
    columns = getattr(collator, "columns", None)
    return dataset if columns is None else dataset.select_columns([*columns, "record_id"])


def _loss_and_weight(output: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    weight = getattr(output, "loss_weight", None)
    if weight is None:
        weight = torch.full_like(output.loss, len(next(iter(batch.values()))))
    return output.loss, weight.detach()


@torch.no_grad()
def scale_and_clip(model: nn.Module, scale: torch.Tensor, max_norm: float) -> torch.Tensor:
    """
    Scale and clip gradients in one pass.

    Args:
        model (`nn.Module`): Model with gradients.
        scale (`torch.Tensor` of shape `()`): Factor of the gradients.
        max_norm (`float`): Maximum norm after scaling.

    Returns:
        `torch.Tensor` of shape `()`: Norm after scaling, before clipping.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    norm = getattr(norm, "full_tensor", lambda: norm)() * scale  # the norm of sharded gradients is sharded
    torch._foreach_mul_(gradients, scale * (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _join_names(names: Sequence[str], limit: int = 64) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _flatten(identity: dict[str, Any]) -> dict[str, Any]:
    """Settings for trackers, which only take scalars and strings."""
    merged = {**identity["the model"], **identity["the dataset"], **identity["the recipe"]}
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in merged.items()
    }


def _read_steps(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {name: int(value) if name in ("step", "epoch") else float(value) for name, value in row.items()}
