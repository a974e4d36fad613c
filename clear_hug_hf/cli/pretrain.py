"""`clear-hug pretrain`: an encoder from recordings without labels."""

from __future__ import annotations

import argparse
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import (
    EXIT_OK,
    add_verb,
    draw_recording,
    is_main_process,
    prepare_splits,
    quiet_libraries,
    read_source,
    report_rejected,
    require,
    resumable,
    say,
    say_unused_devices,
    system_options,
)


if TYPE_CHECKING:
    from ..data.records import Rejected


def add(verbs: Any) -> None:
    """Add `pretrain` to the verbs of the command line."""
    from ..systems import DEFAULT_SYSTEM, SYSTEMS
    from ..training.recipes import add_recipe_options

    indents: Any = {"initial_indent": "  ", "subsequent_indent": "      ", "break_on_hyphens": False}
    systems = "\n".join(
        textwrap.fill(f"{name}  {one.objective.summary}", 104, **indents) for name, one in SYSTEMS.items()
    )
    examples = "".join(
        f"  clear-hug pretrain{system_options(name)} --data prepared/{name} --output runs/{name}\n"
        for name in SYSTEMS
        if name != DEFAULT_SYSTEM
    )
    parser = add_verb(
        verbs,
        run,
        "pre-train an encoder on recordings without labels",
        "Pre-train an encoder as --system says; without --config, by the recipe for tiny size on a CPU.\n\n"
        f"{systems}\n\n"
        "Killed or interrupted, the same command goes on from the last checkpoint, to the same weights.\n\n"
        "Writes to the output folder: model/ and best/ (from_pretrained folders: after the last epoch, and of the\n"
        "lowest validation loss), pretraining_log.csv, pretraining_steps.csv, pretraining.json (data, recipe, result\n"
        "and versions, for the model card), tracking/, checkpoints/, and pictures/ (the loss, a recording with its\n"
        "beats, and what the model makes of one where it rebuilds them).\n\n"
        "examples:\n"
        "  clear-hug pretrain --data ptb-xl --output runs/pretrained\n"
        f"{examples}"
        "  clear-hug pretrain --data ptb-xl cinc2011 --epochs 100 --model-option mask_ratio=0.75\n"
        "  clear-hug pretrain --config recipe.yaml --learning-rate 3e-4\n"
        "  accelerate launch scripts/pretrain.py --config recipe.yaml",
    )
    parser.add_argument("--restart", action="store_true", help="start anew where the output folder has checkpoints")
    add_recipe_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run `pretrain` and return the exit status."""
    from ..processing import InputError
    from ..training import checkpoints, pretraining
    from ..training.recipes import recipe_from_options
    from ..utils.files import check_writable

    recipe = recipe_from_options(arguments)
    if not recipe.data:
        raise InputError("no recordings to pre-train on: name their folders with --data, or as `data` in the recipe")
    recipe.make_config()
    own = [checkpoints.FOLDER, *([pretraining.EPOCH_LOG] if arguments.restart else [])]
    check_writable(recipe.output, own, [*recipe.data, recipe.signal_encoder])
    quiet_libraries()
    say_unused_devices("`accelerate launch --num_processes {count} -m clear_hug_hf.cli pretrain ...` uses all")
    folders = [Path(folder) for folder in recipe.data]
    extractor, sets, data, rejected = _read_for_pretraining(recipe, folders)
    require(sets, rejected, "train")
    with resumable("from the last checkpoint", arguments.restart):
        pretrain_and_draw(recipe, extractor, sets, data, Path(recipe.output), arguments.restart)
    status = report_rejected(rejected)
    say(f"\nnext: clear-hug finetune --data {folders[0]} --model {recipe.output} --output runs/finetuned")
    # A launcher would stop the other processes of a run for the exit status of one.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return status if alone else EXIT_OK


def _read_for_pretraining(
    recipe: Any, folders: Sequence[Path]
) -> tuple[Any, dict[str, Any], list[dict[str, Any]], list[Rejected]]:
    """The feature extractor, the recordings of all folders by split, what they are, and those that cannot be used."""
    import datasets

    from ..data.prepared import count_prepared
    from ..data.texts import add_text_column
    from ..processing import InputError
    from ..training.provenance import count_sets

    if recipe.objective.teachers and recipe.streaming:
        raise InputError(f"{recipe.system} cannot be trained from a stream: teachers read all recordings before")
    streamed = ("train",) if recipe.streaming else ()
    all_sources = [read_source(folder, recipe.limit, streamed) for folder in folders]
    for folder, sources in zip(folders, all_sources, strict=True):
        if recipe.streaming and sources.prepared is None:
            raise InputError(f"{folder} is not prepared, so it cannot be streamed: `clear-hug prepare` it first")
    extractor = recipe.make_feature_extractor(next((one.extractor for one in all_sources if one.extractor), None))
    parts: dict[str, list[Any]] = {}
    data: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    texts = recipe.objective.reads_texts
    for sources in all_sources:
        sets, failed = prepare_splits(sources, extractor, sources.label_names if texts else None)
        rejected += failed
        if texts:
            sets = {split: add_text_column(dataset) for split, dataset in sets.items()}
        data.append({**sources.about, "sets": count_sets(sets)})
        for split, dataset in sets.items():
            parts.setdefault(split, []).append(dataset)
    if recipe.streaming and recipe.training.recordings_per_epoch is None:
        counts = [count_prepared(folder).get("train", 0) for folder in folders]
        recipe.training.recordings_per_epoch = sum(min(count, recipe.limit or count) for count in counts)
    return extractor, {split: datasets.concatenate_datasets(some) for split, some in parts.items()}, data, rejected


def pretrain_and_draw(
    recipe: Any, extractor: Any, sets: dict[str, Any], data: list[dict[str, Any]], output: Path, restart: bool
) -> None:
    """Pre-train on the sets, write down what was done with which `data`, and draw how it went; also for `demo`."""
    from transformers import set_seed

    from ..plotting import plot_losses, save_figure
    from ..systems import load
    from ..training.folders import PRETRAINING, find_model_folder
    from ..training.pretraining import pretrain, settings
    from ..training.provenance import describe_pretraining
    from ..utils.files import write_json

    arguments = recipe.training
    set_seed(arguments.seed)
    model = recipe.make_model()
    count = arguments.recordings_per_epoch if recipe.streaming else len(sets["train"])
    say(
        f"pre-training {recipe.system} {recipe.size} ({model.num_parameters() / 1e6:.1f} M parameters) on "
        f"{count} recordings, {arguments.epochs} epochs"
    )
    sets = recipe.add_teachers(model, sets)
    collator = recipe.make_collator(model, extractor)
    result = pretrain(
        model,
        sets["train"],
        extractor,
        output,
        sets.get("validation"),
        arguments,
        collator=collator,
        restart=restart,
    )
    if result.resumed_from == result.history[-1]["step"]:
        say(f"{output} holds this run, finished: nothing was trained (--restart trains it anew)")
    last = result.history[-1]
    held_out = f", {last['validation_loss']:.3f} held out" if last["validation_loss"] is not None else ""
    before, after = recipe.objective.loss_report
    say(f"{before}: {last['train_loss']:.3f} in training{held_out}{after}")
    if not is_main_process():
        return
    chosen = {"size": recipe.size, "options": recipe.model, "augmentation": recipe.augmentation}
    chosen |= {"signal_teacher": recipe.signal_encoder and find_model_folder(recipe.signal_encoder)}
    facts = describe_pretraining(result.model, result.history, settings(arguments), data, **chosen)
    write_json(output / PRETRAINING, facts)
    pictures = output / "pictures"
    losses = plot_losses(result.history, "Pre-training", f"loss ({recipe.objective.loss})")
    save_figure(losses, pictures / "pretraining_loss.png")
    shown = sets.get("validation") or (None if recipe.streaming else sets["train"])
    if shown is not None:
        draw_recording(shown, pictures / "recording.png")
        if recipe.objective.picture is not None:
            draw = load(recipe.objective.picture)
            draw(result.model, shown, extractor, pictures / "reconstruction.png")
