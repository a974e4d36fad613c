"""
One pre-training loop on Accelerate for every model of this package.

A model trains here if its `forward` returns an output with a `loss`, and then may:

- return `loss_weight`, of how many terms its loss is the mean: the parts of a step, on one process or several, then
  add up to exactly the loss of the whole step. Without it, recordings count alike;
- take `seeds`, one per recording, and draw from them what it draws: the same on any device and number of processes;
- take `seed`, a whole number, and draw from it what is the same for all recordings of a step, in all of its parts;
- define `after_optimizer_step(progress)`, called with the share of the steps done, to lead a teacher network along;
- name in `monitors` further fields of its output, numbers that are logged beside the loss: signs of a collapse, say.

Order and hidden beats follow from the seed and the step alone, dropout from these and the process, so a run goes on
from a checkpoint as if it had never stopped.
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
from collections.abc import Iterable, Iterator, Sequence
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
from ..processing.errors import InputError, missing_library
from ..utils.files import check_writable, remove_leftovers, write_csv
from .arguments import PretrainingArguments
from .batches import Collator, StepBatches, StepCollator, StepPlan, recording_seeds, share_loader, step_loader
from .checkpoints import Checkpoints
from .folders import save_model_folder
from .processes import average_batch_statistics, check_connected, on_connected_cpus


EPOCH_LOG, STEP_LOG = "pretraining_log.csv", "pretraining_steps.csv"
MODEL_FOLDER, BEST_FOLDER, TRACKING_FOLDER = "model", "best", "tracking"
FINETUNING_RUN = "finetuning.json"  # a fine-tuning run's own mark
_STEP_COLUMNS = ("step", "epoch", "loss", "gradient_norm", "learning_rate")


# Settings that may change when a run goes on: at most they round otherwise, or draw dropout otherwise.
_FREE = (
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
    What a pre-training run gives.

    Args:
        model ([`PreTrainedModel`]): The trained model, in evaluation mode.
        history (`list[dict]`): One row per epoch, as in the log: `epoch`, `step`, `train_loss`, `validation_loss`
            (`None` without validation recordings), `learning_rate`, `seconds`, `recordings_per_second`.
        steps (`list[dict]`): One row per step: `step`, `epoch`, `loss`, `gradient_norm` (before it is clipped),
            `learning_rate`.
        resumed_from (`int`, *optional*): Step of the checkpoint from which the run went on.
    """

    model: PreTrainedModel
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    resumed_from: int | None = None


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


def compile_layers(model: nn.Module) -> None:
    """
    Compile the layers of a model, or all of a model without layers, with `torch.compile`.

    Any shape is compiled for from the first batch on: a batch is as long as its longest recording, and compiling for
    each length in turn soon reaches the limit from which torch compiles no more. Torch compiles when batches come:
    train under [`sizes_kept_apart`].
    """
    # Layers are alike, so that compiling one compiles all of them.
    layers: list[nn.Module] = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    for module in layers or [model]:
        module.compile(dynamic=True)


def sizes_kept_apart() -> AbstractContextManager[None]:
    """Has torch compile two sizes that are equal in the first batch by chance, such as leads and beats, as two."""
    kept: AbstractContextManager[None] = symbolic_shapes.patch(use_duck_shape=False)  # type: ignore[attr-defined]
    return kept


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
    train_dataset: datasets.Dataset | datasets.IterableDataset,
    feature_extractor: Any,
    output_dir: str | Path | None = None,
    validation_dataset: datasets.Dataset | None = None,
    arguments: PretrainingArguments | None = None,
    *,
    collator: Collator | None = None,
    restart: bool = False,
) -> PretrainingResult:
    """
    Pre-train a model on a prepared dataset, or go on where a killed run stopped.

    Args:
        model ([`PreTrainedModel`]): Its `forward` returns a `loss`, and may do what stands at the top of this file.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`): As `prepare` makes it.
        feature_extractor: The one that the dataset was prepared with; saved beside the weights.
        output_dir (`str` or `Path`, *optional*): Gets `model/`, renewed after every epoch, `best/`, the model with the
            lowest validation loss, `pretraining_log.csv` and `pretraining_steps.csv`, `tracking/`, and `checkpoints/`.
            If the same run left checkpoints there, it goes on from the newest. Nothing is written without it.
        validation_dataset ([`datasets.Dataset`], *optional*): Its loss is computed after every epoch.
        arguments ([`PretrainingArguments`], *optional*): The recipe.
        collator (`Callable`, *optional*): Makes a batch of rows; a [`EcgCollator`] by default.
        restart (`bool`, *optional*, defaults to `False`): Whether to start anew where there are checkpoints.

    Returns:
        [`PretrainingResult`]

    Raises:
        InputError: If there is nothing to train on, the batch does not fit, rate, leads or lengths are not the
            model's, the folder cannot be written or holds another run, or a loss is not finite; that leaves every
            checkpoint and model folder as it was.
    """
    arguments = PretrainingArguments() if arguments is None else arguments
    if output_dir is not None:
        output_dir = check_writable(output_dir)
        if (output_dir / FINETUNING_RUN).exists():
            raise InputError(f"{output_dir} holds a fine-tuning run, which would be lost: choose another folder")
    collator = EcgCollator(feature_extractor, label_names=()) if collator is None else collator
    _check_rate(model, train_dataset, feature_extractor)
    check_cut(model.config, feature_extractor)
    accelerator = _accelerator(arguments, output_dir)
    plan = _plan(train_dataset, arguments, accelerator)
    loop = _Loop(model, train_dataset, validation_dataset, feature_extractor, collator, arguments, plan, accelerator)
    return loop.run(output_dir, restart)


def settings(arguments: PretrainingArguments) -> dict[str, Any]:
    """The recipe as it is written beside results: what changes what is trained."""
    return {name: value for name, value in asdict(arguments).items() if name not in _FREE}


# ------------------------------------------------------------------------------------------------------------ before


def _accelerator(arguments: PretrainingArguments, output_dir: Path | None) -> Accelerator:
    for name in arguments.report_to:
        if importlib.util.find_spec(name) is None:
            missing = f"the tracker {name} is not installed: `pip install {name}`, or choose another"
            raise InputError(missing_library(name, f"tracking with {name}") or missing)
    # Without a GPU, Accelerate connects processes only if it is told that they are to use the CPU.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or on_connected_cpus()
    precision = arguments.mixed_precision
    if precision == "auto":
        has_bf16 = torch.cuda.is_available() and not on_cpu and torch.cuda.is_bf16_supported(including_emulation=False)
        asked = os.environ.get("ACCELERATE_MIXED_PRECISION")
        precision = "bf16" if asked == "bf16" or has_bf16 else "no"
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
    # Accelerate keeps precision and sharding of the first accelerator of a process; each run here has its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision=precision,
        log_with=list(arguments.report_to) if arguments.report_to and output_dir is not None else None,
        project_dir=None if output_dir is None else str(output_dir / TRACKING_FOLDER),
        kwargs_handlers=[
            # Buffers are constants, or statistics that are averaged where they are read.
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            # A weight that FSDP gathers is let go after its layer; rounded copies must be, too.
            AutocastKwargs(cache_enabled=not sharded),
        ],
    )
    check_connected(accelerator.num_processes)
    if sharded and on_cpu and accelerator.num_processes > 1:
        # Accelerate shards over GPUs only, and would train without FSDP in silence; torch can.
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        for state in (accelerator.state, PartialState()):
            state.distributed_type = DistributedType.FSDP
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        if plugin.fsdp_version != 2:
            raise InputError("FSDP 1 is not supported: set `fsdp_version: 2`, as scripts/launch/fsdp.yaml does")
        # Weights are gathered as they are, and autocast rounds what each operation can bear: the loss is that of one
        # process. Weights, targets and norms in bfloat16 would not be.
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
    return accelerator


def _check_rate(model: PreTrainedModel, dataset: Any, feature_extractor: Any) -> None:
    wanted = getattr(model.config, "sampling_rate", None)
    first: dict[str, Any] = next(iter(dataset.take(1)), {})
    rates = {
        "the feature extractor works at": getattr(feature_extractor, "sampling_rate", None),
        "the dataset was prepared at": first.get("sampling_rate"),
    }
    for what, rate in rates.items():
        if wanted is not None and rate is not None and float(rate) != float(wanted):
            raise InputError(
                f"{what} {float(rate):g} Hz and the model at {float(wanted):g} Hz: prepare the recordings for this "
                "model, or set the model's sampling_rate"
            )


def check_cut(config: Any, feature_extractor: Any) -> None:
    """
    Refuse a feature extractor that makes of a recording what a model does not read.

    Args:
        config ([`PreTrainedConfig`]): The model's.
        feature_extractor: Of the same system; what either does not have is not compared.

    Raises:
        InputError: If leads, or lengths of beats, patches or windows differ, or there are more beats.
    """
    found_leads, wanted_leads = list(feature_extractor.lead_names), list(config.lead_names)
    if found_leads != wanted_leads:
        raise InputError(
            f"the feature extractor gives {len(found_leads)} leads ({', '.join(found_leads)}) and the model reads "
            f"{len(wanted_leads)} ({', '.join(wanted_leads)}): use the one that is saved beside the model"
        )
    for name, of_extractor in (
        ("beat_length", "beat_length"),
        ("num_beats", "num_beats"),
        ("patch_size", "patch_size"),
        ("num_samples", "window_samples"),
        ("image_size", "image_size"),
    ):
        wanted, found = getattr(config, name, None), getattr(feature_extractor, of_extractor, None)
        if wanted is None or found is None or found == wanted or (name == "num_beats" and found < wanted):
            continue
        raise InputError(
            f"the feature extractor has {name} {found} and the model {wanted}: use the one that is saved beside the "
            f"model, or set the model's {name}"
        )


def _plan(dataset: Any, arguments: PretrainingArguments, accelerator: Accelerator) -> StepPlan:
    if isinstance(dataset, datasets.IterableDataset):
        found = arguments.recordings_per_epoch
        if found is None:
            raise InputError("a stream does not say how many recordings it holds: set recordings_per_epoch")
    else:
        found = len(dataset)
    batch, processes = arguments.train_batch_size, accelerator.num_processes
    if not found:
        raise InputError("there are no recordings to pre-train on")
    if batch > found:
        raise InputError(
            f"train_batch_size is {batch} and there are {found} recordings to train on: choose at most {found}"
        )
    if batch % processes:
        raise InputError(
            f"train_batch_size is {batch} and there are {processes} processes: choose a multiple of {processes}"
        )
    return StepPlan(found, batch, arguments.num_train_epochs, arguments.seed, accelerator.process_index, processes)


def _identity(
    model: PreTrainedModel,
    dataset: Any,
    feature_extractor: Any,
    collator: Collator,
    arguments: PretrainingArguments,
    precision: str,
) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""

    def plain(settings: dict[str, Any]) -> dict[str, Any]:
        # Versions and how to load say nothing about the numbers, nor do fields that say so.
        apart = {"transformers_version", "dtype", "auto_map", "architectures", "custom_pipelines"}
        apart |= {one.name for one in fields(model.config) if not one.metadata.get("changes_numbers", True)}
        return {k: v for k, v in settings.items() if k not in apart and not k.startswith("_")}

    digest = hashlib.sha256()
    if isinstance(dataset, datasets.IterableDataset):
        ids: Any = (row["record_id"] for row in islice(dataset.select_columns(["record_id"]), 100))
        count = arguments.recordings_per_epoch
    else:
        ids, count = dataset["record_id"], len(dataset)
    for record in ids:
        digest.update(f"{record}\n".encode())
    return {
        "the model": {"class": type(model).__name__, **plain(model.config.to_dict())},
        "the feature extractor": plain(feature_extractor.to_dict()),
        "the dataset": {"recordings": count, "record ids (sha256)": digest.hexdigest()},
        "the recipe": {
            **settings(arguments),
            "mixed_precision": precision,
            "augmentation": float(getattr(collator, "augmentation", 0.0)),
        },
    }


def sharded_layers(model: PreTrainedModel) -> list[str]:
    """
    Names of the classes of layers whose weights FSDP gathers one at a time: those that the model and its towers name
    in `_no_split_modules`, as far as it has them, and without those that hold what Accelerate shards by itself.
    """
    names = set(model._no_split_modules or ())
    layers = [one for one in model.modules() if type(one).__name__ in names]
    embedding = model.get_input_embeddings()
    around = {type(one).__name__ for one in layers if any(part is embedding for part in one.modules())}
    return sorted({type(one).__name__ for one in layers} - around)


# -------------------------------------------------------------------------------------------------------------- loop


class _Unread(NamedTuple):
    """
    What a step gave, still on the device.

    Args:
        learning_rate (`float`): Of the step.
        values (`torch.Tensor` of shape `(2 + number of monitors,)`): Loss of the whole step, norm of its gradient, and
            what the model wants watched, as the mean over this process's batches.
        losses (`list[torch.Tensor]`): Of each batch of this process.
        record_ids (`list[list[str]]`): Recordings of each batch of this process.
    """

    learning_rate: float
    values: torch.Tensor
    losses: list[torch.Tensor]
    record_ids: list[list[str]]

    def suspects(self) -> list[str]:
        """The recordings of those batches whose loss is not finite; of all if none is."""
        bad = [ids for ids, loss in zip(self.record_ids, self.losses, strict=True) if not math.isfinite(loss.item())]
        return [record for ids in (bad or self.record_ids) for record in ids]


class _Loop:
    """One run: what it works with, and where it stands."""

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
        self.train_dataset = _only(train_dataset, collator)
        self.validation_dataset = None
        if validation_dataset is not None and len(validation_dataset):
            self.validation_dataset = _only(validation_dataset, collator)
        share = plan.batch_size // plan.num_processes
        most = arguments.per_device_train_batch_size or (16 if accelerator.device.type == "cpu" else share)
        self.micro_batch_size = min(most, share)
        self.monitors: tuple[str, ...] = tuple(getattr(model, "monitors", ()))
        takes = inspect.signature(model.forward).parameters
        self.with_seeds, self.with_seed = "seeds" in takes, "seed" in takes

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
            # Newer releases of torch call the option of `_accelerator` by another name, which older ones do not know.
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.after_step = getattr(model, "after_optimizer_step", None)

        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.seconds_before = 0.0
        self.best_loss = math.inf
        self._unread: list[_Unread] = []

    def run(self, output_dir: Path | None, restart: bool) -> PretrainingResult:
        """Train from the newest checkpoint, or from the start, to the end."""
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
            accelerator.init_trackers("pretraining", config=_flat(self.identity))
        self._started = self._epoch_started = time.perf_counter()
        self._epoch_first = self.step
        shown = not arguments.disable_tqdm and accelerator.is_main_process
        bar = tqdm(total=plan.num_steps, initial=self.step, desc="pre-train", unit="step", disable=not shown)
        self.model.train()
        with bar, ExitStack() as at_exit, sizes_kept_apart() if arguments.torch_compile else nullcontext():
            for tracker in accelerator.trackers:
                at_exit.callback(tracker.finish)  # has it write down what it has, however the run ends
            for batches in _explained(loader):
                self._train_step(batches)
                bar.update(1)
                at_end = self.step % plan.steps_per_epoch == 0
                due = checkpoints is not None and (
                    at_end or (arguments.save_steps and self.step % arguments.save_steps == 0)
                )
                if len(self._unread) >= arguments.logging_steps or at_end or due:
                    self._read_losses(bar)
                if at_end or due:
                    average_batch_statistics(self.model)
                if at_end:
                    self._end_epoch(output_dir)
                if due and checkpoints is not None and output_dir is not None:
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
        # Dropout, too, follows from the step, so that no generator needs to be saved.
        torch.manual_seed(int(recording_seeds(arguments.seed, [(self.step, plan.process)])[0]))
        # A number and no tensor: to read one, the processor would wait for the device.
        shared = {"seed": int(recording_seeds(arguments.seed, [(self.step, 0)])[0])} if self.with_seed else {}

        sums = torch.zeros(2, device=accelerator.device)
        losses, watched = [], torch.zeros(len(self.monitors), device=accelerator.device)
        for number, batch in enumerate(step.batches, start=1):
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            synchronised = nullcontext() if number == len(step.batches) else accelerator.no_sync(self.model)
            with synchronised, accelerator.autocast():
                output = self.model(**batch, **shared)
                loss, weight = _loss_and_weight(output, batch)
                weighted = loss * weight
                accelerator.backward(weighted)
            sums += torch.stack((weighted.detach(), weight))
            losses.append(loss.detach())
            for place, name in enumerate(self.monitors):
                watched[place] += getattr(output, name).detach().float() / len(step.batches)
        sums = accelerator.reduce(sums, "sum")
        weight = sums[1].clamp(min=1)
        # Gradients are sums over this process's terms, averaged over processes: they become means over all terms.
        norm = scale_and_clip(self.model, plan.num_processes / weight, arguments.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.after_step is not None:
            self.after_step(self.step / plan.num_steps)
        values = torch.cat((torch.stack((sums[0] / weight, norm)), watched))
        self._unread.append(_Unread(rate, values, losses, step.record_ids))

    def _read_losses(self, bar: Any) -> None:
        """Read what the device has computed since, write it down, and stop if something is not finite."""
        unread, self._unread = self._unread, []
        values = torch.stack([one.values for one in unread]).tolist()
        first = self.step - len(unread) + 1
        for number, (one, (loss, norm, *watched)) in enumerate(zip(unread, values, strict=True), start=first):
            rate = one.learning_rate
            if not (math.isfinite(loss) and math.isfinite(norm)):
                named = sorted(set(gather_object(one.suspects())))
                what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
                raise InputError(
                    f"{what} at step {number} with learning rate {rate:.2e}, in the batch of recordings "
                    f"{_listed(named)}: lower the learning rate, or look at these recordings. Nothing was saved since "
                    "the last checkpoint"
                )
            epoch = (number - 1) // self.plan.steps_per_epoch + 1
            columns = (*_STEP_COLUMNS, *self.monitors)
            row = dict(zip(columns, (number, epoch, loss, norm, rate, *watched), strict=True))
            self.steps.append(row)
            self.accelerator.log({f"train/{name}": row[name] for name in columns[2:]}, step=number)
        done = (self.step - self._epoch_first) * self.plan.batch_size
        speed = done / (time.perf_counter() - self._epoch_started)
        bar.set_postfix(loss=f"{loss:.4f}", lr=f"{rate:.1e}", recordings=f"{speed:.0f}/s", refresh=False)

    def _end_epoch(self, output_dir: Path | None) -> None:
        accelerator, plan = self.accelerator, self.plan
        now = time.perf_counter()
        epoch = self.step // plan.steps_per_epoch
        steps = [step for step in self.steps if step["epoch"] == epoch]
        validation_loss = self._validation_loss()
        if validation_loss is not None and not math.isfinite(validation_loss):
            raise InputError(
                f"the validation loss is {validation_loss} after epoch {epoch} and the last step's "
                f"{steps[-1]['loss']:.4f}: look for broken validation recordings. Nothing was saved since the last "
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
        self.history.append(row)
        if validation_loss is not None:
            accelerator.log({"validation/loss": validation_loss}, step=self.step)
        if output_dir is not None:
            self._save_model(output_dir / MODEL_FOLDER)
            if validation_loss is not None and validation_loss < self.best_loss:
                self.best_loss = validation_loss
                self._save_model(output_dir / BEST_FOLDER)
        self._epoch_started, self._epoch_first = time.perf_counter(), self.step

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        if self.validation_dataset is None:
            return None
        accelerator = self.accelerator
        self.model.eval()
        sums = torch.zeros(2, device=accelerator.device)
        loader = share_loader(
            self.validation_dataset,
            self.collator,
            self.micro_batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            # Sharded models compute together: no process may have a batch more than another.
            equal=accelerator.distributed_type == DistributedType.FSDP,
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
        found = checkpoints.newest()
        if found is None:
            return None
        path, state = found
        checkpoints.load(path)
        self.step, self.history = state["step"], state["history"]
        self.seconds_before = state["seconds"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.steps = [row for row in _read_steps(output_dir / STEP_LOG) if row["step"] <= self.step]
        if not self.arguments.disable_tqdm and self.accelerator.is_main_process:
            tqdm.write(f"{output_dir}: going on after step {self.step} of {self.plan.num_steps}")
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
        model = self._whole_model()
        if self.accelerator.is_main_process:
            # A collator that reads texts has their tokenizer, which belongs to the model.
            save_model_folder(folder, model, self.feature_extractor, getattr(self.collator, "tokenizer", None))
        self.accelerator.wait_for_everyone()

    def _whole_model(self) -> PreTrainedModel:
        """The model without wrappers; where processes hold shards, the first one gets a whole model."""
        model: PreTrainedModel = self.accelerator.unwrap_model(self.model)
        if self.accelerator.distributed_type != DistributedType.FSDP:
            return model
        weights = self.accelerator.get_state_dict(self.model)  # all processes take part
        if not self.accelerator.is_main_process:
            return model
        whole = self.model_class(model.config)
        whole.load_state_dict(weights)
        return whole

    @staticmethod
    def _clean(output_dir: Path, restart: bool) -> None:
        """Remove what killed runs left half written, or all of a former run with `restart`."""
        remove_leftovers(output_dir)
        if restart:
            for name in (MODEL_FOLDER, BEST_FOLDER, TRACKING_FOLDER):
                shutil.rmtree(output_dir / name, ignore_errors=True)
            for name in (EPOCH_LOG, STEP_LOG):
                (output_dir / name).unlink(missing_ok=True)

    def _result(self, resumed_from: int | None) -> PretrainingResult:
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        return PretrainingResult(self._whole_model().eval(), self.history, self.steps, resumed_from)


def _explained(loader: Iterable[StepBatches]) -> Iterator[StepBatches]:
    """The batches of a loader; the errors of its worker processes without the traceback that torch adds as text."""
    try:
        yield from loader
    except InputError as error:
        raise InputError(str(error).strip().splitlines()[-1].rpartition("InputError: ")[2]) from None


def _only(dataset: Any, collator: Collator) -> Any:
    """The columns that the collator reads, if it says so: reading the others takes time."""
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
    Multiply gradients and clip them in one pass.

    Args:
        model (`nn.Module`): Holds the gradients.
        scale (`torch.Tensor` of shape `()`): Multiplies them.
        max_norm (`float`): Largest norm that they may have then.

    Returns:
        `torch.Tensor` of shape `()`: Their norm after scaling, before clipping.
    """
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    norm = getattr(norm, "full_tensor", lambda: norm)() * scale  # of sharded gradients the norm is sharded, too
    torch._foreach_mul_(gradients, scale * (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _listed(names: Sequence[str], most: int = 64) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Settings as trackers take them: plain values only."""
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
