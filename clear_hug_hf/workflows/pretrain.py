"""Pre-training of a recipe on recordings without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..processing.errors import InputError
from ..training.recipes import Recipe
from .shared import (
    draw_recording,
    draw_views,
    is_main_process,
    prepare_splits,
    quiet_libraries,
    read_source,
    require_splits,
    resumable,
    say,
    say_unused_devices,
)


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.records import Rejected
    from ..training.pretraining import PretrainingResult


@dataclass(frozen=True)
class PretrainResult:
    """The trained model, the rows of its log, and the recordings that failed."""

    model: PreTrainedModel
    history: list[dict[str, Any]]
    rejected: list[Rejected]


def pretrain(recipe: Recipe, restart: bool = False) -> PretrainResult:
    """
    Pre-train a model on the recordings of a recipe, and write it with its logs, facts and pictures.

    Args:
        recipe ([`Recipe`]): The recipe.
        restart (`bool`, *optional*, defaults to `False`): Whether to start over if the folder holds a run.

    Raises:
        InputError: If the recipe does not match the recordings, or the folder holds another run.
    """
    from ..training import checkpoints, pretraining
    from ..utils.files import check_writable

    if not recipe.data:
        raise InputError("there are no recordings to pre-train on: set --data, or `data` in the recipe")
    recipe.check_model()
    recipe.check_teachers()
    replaceable = [checkpoints.FOLDER, *([pretraining.EPOCH_LOG] if restart else [])]
    check_writable(recipe.output_dir, replaceable, [*recipe.data, recipe.signal_encoder, recipe.tokenizer])
    quiet_libraries()
    say_unused_devices("use all with `accelerate launch --num_processes {count} -m clear_hug_hf.cli pretrain ...`")
    extractor, sets, data, rejected = _read_for_pretraining(recipe, [Path(folder) for folder in recipe.data])
    require_splits(sets, rejected, "train")
    with resumable("from the last checkpoint", restart):
        result = pretrain_and_draw(recipe, extractor, sets, data, Path(recipe.output_dir), restart)
    return PretrainResult(result.model, result.history, rejected)


def _read_for_pretraining(
    recipe: Recipe, folders: Sequence[Path]
) -> tuple[Any, dict[str, Any], list[dict[str, Any]], list[Rejected]]:
    """The feature extractor, the recordings of all folders by split, their description, and those that failed."""
    import datasets

    from ..data.prepared import count_prepared
    from ..data.texts import add_text_column
    from ..training.provenance import count_sets

    if "signal_encoder" in recipe.pretraining_objective.teachers and recipe.streaming:
        raise InputError(f"{recipe.system} cannot be streamed: its teachers read all recordings before training")
    streaming_splits = ("train",) if recipe.streaming else ()
    all_sources = [read_source(folder, recipe.max_samples, streaming_splits) for folder in folders]
    for folder, sources in zip(folders, all_sources, strict=True):
        if recipe.streaming and sources.prepared is None:
            raise InputError(f"{folder} is not prepared, so it cannot be streamed: run `clear-hug prepare` first")
    extractor = recipe.make_feature_extractor(
        next((sources.extractor for sources in all_sources if sources.extractor), None)
    )
    parts: dict[str, list[Any]] = {}
    data: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    reads_texts = recipe.pretraining_objective.reads_texts
    for sources in all_sources:
        sets, failed = prepare_splits(sources, extractor, sources.label_names if reads_texts else None)
        rejected += failed
        if reads_texts:
            sets = {split: add_text_column(dataset) for split, dataset in sets.items()}
        data.append({**sources.about, "sets": count_sets(sets)})
        for split, dataset in sets.items():
            parts.setdefault(split, []).append(dataset)
    if recipe.streaming and recipe.training.recordings_per_epoch is None:
        counts = [count_prepared(folder).get("train", 0) for folder in folders]
        recipe.training.recordings_per_epoch = sum(min(count, recipe.max_samples or count) for count in counts)
    return extractor, {split: datasets.concatenate_datasets(sets) for split, sets in parts.items()}, data, rejected


def pretrain_and_draw(
    recipe: Recipe, extractor: Any, sets: dict[str, Any], data: list[dict[str, Any]], output: Path, restart: bool
) -> PretrainingResult:
    """Pre-train on the sets, which `data` describes, and write the facts and pictures of the run."""
    from transformers import set_seed

    from ..training import pretraining
    from ..training.folders import PRETRAINING
    from ..training.provenance import describe_pretraining
    from ..utils.files import write_json

    arguments = recipe.training
    set_seed(arguments.seed)
    model = recipe.make_model()
    count = arguments.recordings_per_epoch if recipe.streaming else len(sets["train"])
    say(
        f"pre-training {recipe.system} {recipe.size} by {recipe.objective} ({model.num_parameters() / 1e6:.1f} M "
        f"parameters) on {count} recordings, {arguments.num_train_epochs} epochs"
    )
    if recipe.tokenizer is not None and (names := recipe.settings_unlike_teacher(extractor)):
        say(
            f"note: the recordings were prepared with other settings than those of the tokenizer "
            f"({', '.join(names)}): `clear-hug prepare --model {recipe.tokenizer}` uses the same"
        )
    sets = recipe.add_teachers(model, sets)
    collator = recipe.make_collator(model, extractor)
    result = pretraining.pretrain(
        model,
        sets["train"],
        extractor,
        output,
        sets.get("validation"),
        arguments,
        collator=collator,
        teacher_digest=recipe.teacher_digest,
        restart=restart,
    )
    last = result.history[-1]
    if result.resumed_from == last["step"]:
        say(f"{output} already holds this run: nothing was trained (--restart trains again)")
    validation = f", {last['validation_loss']:.3f} in validation" if last["validation_loss"] is not None else ""
    prefix, suffix = recipe.pretraining_objective.loss_report
    say(f"{prefix}: {last['train_loss']:.3f} in training{validation}{suffix}")
    if not is_main_process():
        return result
    facts = describe_pretraining(
        result.model,
        result.history,
        pretraining.recipe_settings(arguments),
        data,
        objective=recipe.objective,
        size=recipe.size,
        options=recipe.config_overrides,
        objective_options=recipe.objective_overrides,
        augmentation=recipe.augmentation,
        views=getattr(collator, "views", None),
        signal_teacher=recipe.teacher_folder if recipe.signal_encoder else None,
        tokenizer=recipe.teacher_folder if recipe.tokenizer else None,
    )
    write_json(output / PRETRAINING, facts)
    _draw_pictures(recipe, result, sets, extractor, collator, output / "pictures")
    return result


def _draw_pictures(
    recipe: Recipe, result: PretrainingResult, sets: dict[str, Any], extractor: Any, collator: Any, pictures: Path
) -> None:
    """Draw the losses of a run, and a recording with its views and its reconstruction."""
    from ..plotting import plot_losses, save_figure
    from ..systems import load

    losses = plot_losses(result.history, "Pre-training", f"loss ({recipe.pretraining_objective.loss})")
    save_figure(losses, pictures / "pretraining_loss.png")
    dataset = sets.get("validation") or (None if recipe.streaming else sets["train"])
    if dataset is not None:
        draw_recording(dataset, pictures / "recording.png")
        if hasattr(collator, "views"):
            draw_views(dataset, collator, pictures / "views.png")
        if recipe.pretraining_objective.picture is not None:
            load(recipe.pretraining_objective.picture)(
                result.model, dataset, extractor, pictures / "reconstruction.png"
            )
