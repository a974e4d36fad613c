"""The whole pipeline once, on simulated recordings or the user's own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..objectives import systems_with_default_objective
from ..systems import DEFAULT_SYSTEM, SYSTEMS
from ..training.arguments import FinetuningArguments
from ..utils.arguments import Arguments
from .finetune import FinetuneArguments, drop_rare_labels, finetune_and_report
from .pretrain import pretrain_and_draw
from .shared import (
    Sources,
    draw_first_prediction,
    max_samples_field,
    output_dir_field,
    overwrite_field,
    prepare_splits,
    quiet_libraries,
    read_source,
    require_splits,
    say,
    seed_field,
)


if TYPE_CHECKING:
    import datasets

    from ..data.records import Rejected


@dataclass(kw_only=True)
class DemoArguments(Arguments):
    """Recordings and length of the demo."""

    data: Path | None = field(
        default=None,
        metadata={
            "help": "Real recordings: output of `clear-hug prepare`; a folder of PTB-XL (ptbxl_database.csv, "
            "scp_statements.csv and records100 or records500) with folds 1-8 for training, 9 for validation, 10 for "
            "testing and the five diagnostic superclasses as labels; or any folder of recordings, which are only "
            "used for pre-training, since they have no labels.",
            "metavar": "DIR",
        },
    )
    output_dir: Path = output_dir_field("demo")
    num_patients: int = field(
        default=80, metadata={"help": "Number of simulated patients, with three recordings each.", "gt": 0}
    )
    num_train_epochs: int = field(default=25, metadata={"help": "Epochs of pre-training.", "gt": 0})
    system: str = field(
        default=DEFAULT_SYSTEM,
        metadata={
            "help": "Family of models.",
            "choices": tuple(name for name in systems_with_default_objective() if not SYSTEMS[name].teachers),
        },
    )
    max_samples: int | None = max_samples_field()
    seed: int = seed_field("Seed of all random numbers.")
    overwrite: bool = overwrite_field("an earlier demo")


@dataclass(frozen=True)
class DemoResult:
    """Whether the recordings have labels, so that a classifier was trained, and the recordings that failed."""

    has_labels: bool
    rejected: list[Rejected]


def demo(arguments: DemoArguments) -> DemoResult:
    """
    Pre-train a tiny encoder and, if there are labels, fine-tune it, evaluate it and draw pictures.

    Raises:
        InputError: If the recordings cannot be used, or the output folder is not empty.
    """
    from ..utils.files import check_writable

    output = check_writable(arguments.output_dir, ["pretrained"] if arguments.overwrite else (), [arguments.data])

    from ..data.simulation import SIMULATED_LABELS, simulate_recordings
    from ..training.provenance import count_sets, describe_source

    if arguments.data is not None:
        sources = read_source(arguments.data, arguments.max_samples, split_at_random=True)
    else:
        say(f"simulating recordings of {arguments.num_patients} patients")
        num_workers = min(os.cpu_count() or 1, 8)
        recordings = simulate_recordings(arguments.num_patients, seed=arguments.seed, num_workers=num_workers)
        sources = Sources.by_split(recordings, arguments.max_samples, list(SIMULATED_LABELS), describe_source(None))
    quiet_libraries()
    from ..training.recipes import read_recipe

    recipe = read_recipe(system=arguments.system, num_train_epochs=arguments.num_train_epochs, seed=arguments.seed)
    if arguments.data is None:
        # With larger batches, a few hundred recordings would be too few steps per epoch.
        recipe.training.train_batch_size = 8

    extractor = recipe.make_feature_extractor(sources.extractor)
    sets, rejected = prepare_splits(sources, extractor, sources.label_names)
    require_splits(sets, rejected, "train", "validation")
    recipe.training.train_batch_size = min(recipe.training.train_batch_size, len(sets["train"]))
    about = {**sources.about, "sets": count_sets(sets)}
    if arguments.data is not None:
        _predict_with_shipped(sets, extractor, output / "pictures")
    else:
        say("the shipped models only predict real recordings: clear-hug demo --data FOLDER_OF_RECORDINGS")
    pretrain_and_draw(recipe, extractor, sets, [about], output / "pretrained", restart=True)
    if sources.label_names is not None:
        sets, label_names, _ = drop_rare_labels(sets, sources.label_names)
        finetune = FinetuneArguments(
            data=arguments.data or output,
            model=output / "pretrained",
            output_dir=output,
            use_feature_cache=False,
            restart=True,
        )
        training = FinetuningArguments(seed=arguments.seed)
        folder = output / "pretrained" / "model"
        finetune_and_report(finetune, training, folder, extractor, sets, label_names, about)
    return DemoResult(sources.label_names is not None, rejected)


def _predict_with_shipped(sets: dict[str, datasets.Dataset], extractor: Any, pictures: Path) -> None:
    """Predict a held-out recording with the shipped classifiers whose preprocessing is that of `extractor`."""
    from ..data.model_files import extractor_settings
    from ..data.prepared import select_labels
    from ..evaluation.predictions import predict
    from ..inference.classifier_outputs import model_thresholds
    from ..training.folders import load_model, shipped_models

    split = "test" if "test" in sets else "validation"
    recording = select_labels(sets[split], None).select([0])
    num_predicted = 0
    for name, folder in shipped_models().items():
        model, own_extractor, auto_class = load_model(folder)
        if auto_class != "AutoModelForSequenceClassification" or type(own_extractor) is not type(extractor):
            continue
        if extractor_settings(own_extractor) != extractor_settings(extractor):
            continue
        num_predicted += 1
        predictions = predict(model, recording, own_extractor)
        labels = zip(
            predictions.label_names, predictions.probabilities[0], model_thresholds(model.config), strict=True
        )
        most_probable = sorted(labels, key=lambda label: -label[1])[:3]
        text = ", ".join(
            f"{label} {probability:.0%}{'*' if probability >= threshold else ''}"
            for label, probability, threshold in most_probable
        )
        say(f"{name} on {split} recording {predictions.record_ids[0]}: {text}")
        draw_first_prediction(model, recording, predictions, pictures / f"{name}.png")
    if not num_predicted:
        say("no shipped model shares this preprocessing: clear-hug predict RECORD --model NAME")
