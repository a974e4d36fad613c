"""`clear-hug pretrain`: an encoder from recordings without labels."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    add_verb,
    draw_reconstruction,
    draw_recording,
    is_main_process,
    prepare_splits,
    quiet_libraries,
    read_source,
    report_rejected,
    require,
    say,
    say_unused_devices,
)


if TYPE_CHECKING:
    from ..data.preparation import Rejected


def add(verbs: Any) -> None:
    """Add `pretrain` to the verbs of the command line."""
    from ..training.recipes import add_recipe_options

    parser = add_verb(
        verbs,
        "pretrain",
        run,
        "pre-train an encoder on recordings without labels",
        "Pre-train CLEAR: hide most beats of each recording and rebuild them from the same beat in the other leads\n"
        "and from the summary of their own lead. Or, with --system ecg_jepa, ECG-JEPA: hide the same times in all\n"
        "leads and predict what a teacher makes of them. Or, with --system ecg_scan, ECG-Scan: align drawn pages\n"
        "with what a pre-trained encoder of signals (--signal-encoder) and a text encoder make of the same\n"
        "recordings. Without --config, the recipe for tiny size on a CPU.\n\n"
        "Killed or interrupted, the same command goes on from the last checkpoint, to the same weights.\n\n"
        "Writes to the output folder: model/ and best/ (from_pretrained folders: after the last epoch, and of the\n"
        "lowest validation loss), pretraining_log.csv, pretraining_steps.csv, pretraining.json (data, recipe, result\n"
        "and versions, for the model card), tracking/, checkpoints/, and pictures/ (the loss, a recording with its\n"
        "beats, for CLEAR a reconstruction).\n\n"
        "examples:\n"
        "  clear-hug pretrain --data ptb-xl --output runs/pretrained\n"
        "  clear-hug pretrain --system ecg_jepa --data ptb-xl-jepa --output runs/jepa\n"
        "  clear-hug pretrain --system ecg_scan --data ptb-xl-pages --signal-encoder runs/pretrained\n"
        "  clear-hug pretrain --data ptb-xl cinc2011 --epochs 100 --model-option mask_ratio=0.75\n"
        "  clear-hug pretrain --config scripts/recipes/clear_base_mimic.yaml --learning-rate 3e-4\n"
        "  accelerate launch scripts/pretrain.py --config scripts/recipes/clear_base_mimic.yaml",
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
    try:
        pretrain_and_draw(recipe, extractor, sets, data, Path(recipe.output), arguments.restart)
    except KeyboardInterrupt:
        command = "the same command without --restart" if arguments.restart else "the same command"
        say(f"\nstopped: {command} goes on from the last checkpoint")
        raise
    report_rejected(rejected)
    say(f"\nnext: clear-hug finetune --data {folders[0]} --model {recipe.output} --output runs/finetuned")
    # A launcher would stop the other processes of a run for the exit status of one.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return EXIT_SOME_FAILED if rejected and alone else EXIT_OK


def _read_for_pretraining(
    recipe: Any, folders: Sequence[Path]
) -> tuple[Any, dict[str, Any], list[dict[str, Any]], list[Rejected]]:
    """The feature extractor, the recordings of all folders by split, what they are, and those that cannot be used."""
    import datasets

    from ..data.prepared import count_prepared
    from ..data.texts import with_texts
    from ..processing import InputError
    from ..training.provenance import count_sets
    from ..training.recipes import SYSTEMS

    aligned = SYSTEMS[recipe.system].aligned
    if aligned and recipe.streaming:
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
    for sources in all_sources:
        sets, failed = prepare_splits(sources, extractor, sources.label_names if aligned else None)
        rejected += failed
        if aligned:
            sets = {split: with_texts(dataset) for split, dataset in sets.items()}
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
    of_pages = hasattr(extractor, "image_processor")
    rebuilds = hasattr(result.model, "decoder") and not of_pages
    what = ("loss of hidden beats", " (1 is a flat line)") if rebuilds else ("loss", "")
    say(f"{what[0]}: {last['train_loss']:.3f} in training{held_out}{what[1]}")
    if not is_main_process():
        return
    chosen = {"size": recipe.size, "options": recipe.model, "augmentation": recipe.augmentation}
    chosen |= {"signal_teacher": recipe.signal_encoder and find_model_folder(recipe.signal_encoder)}
    facts = describe_pretraining(result.model, result.history, settings(arguments), data, **chosen)
    write_json(output / PRETRAINING, facts)
    pictures = output / "pictures"
    meaning = "mean squared error of hidden beats" if rebuilds else "of what was hidden, in the teacher's states"
    if of_pages:
        meaning = "sum of the weighted terms"
    save_figure(plot_losses(result.history, "Pre-training", f"loss ({meaning})"), pictures / "pretraining_loss.png")
    shown = sets.get("validation") or (None if recipe.streaming else sets["train"])
    if shown is not None:
        draw_recording(shown, pictures / "recording.png")
        if rebuilds or of_pages:
            draw_reconstruction(result.model, shown, extractor, pictures / "reconstruction.png")
