"""`clear-hug demo`: everything once, on simulated recordings or the user's own."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .finetune import finetune_and_report, finetuning_defaults, leave_out_rare
from .pretrain import pretrain_and_draw
from .shared import (
    Sources,
    add_count_option,
    add_overwrite_option,
    add_verb,
    draw_first_prediction,
    positive,
    prepare_splits,
    quiet_libraries,
    read_source,
    report_rejected,
    require,
    say,
    seed,
    system_options,
)


if TYPE_CHECKING:
    import datasets

SHIPPED = Path(__file__).resolve().parents[2] / "model_cards"
"""Where a checkout has the shipped weights; an installed package comes without."""
_DATA_HELP = (
    "real recordings: the output of `clear-hug prepare`; a folder of PTB-XL (ptbxl_database.csv, scp_statements.csv "
    "and records100 or records500), where folds 1-8 train, 9 validates, 10 tests, and labels are the five diagnostic "
    "superclasses; or any folder of WFDB records, which has no labels: nothing is fine-tuned then"
)


def add(verbs: Any) -> None:
    """Add `demo` to the verbs of the command line."""
    from ..systems import DEFAULT_SYSTEM, SYSTEMS

    parser = add_verb(
        verbs,
        run,
        "everything once, on simulated recordings or your own",
        "Simulate recordings with several rhythms (or read --data), pre-train a tiny encoder and fine-tune its usual\n"
        "head, evaluate it on patients that it never saw beside an untrained encoder, and draw pictures. In a\n"
        "checkout, the shipped weights predict one of the real recordings of --data first, never a simulated one,\n"
        "which is like none that they know. It downloads nothing.\n\n"
        "examples:\n"
        "  clear-hug demo\n"
        "  clear-hug demo --data ptb-xl --output runs/ptb-xl\n"
        "  clear-hug demo --data ward/ --output runs/ward",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help=_DATA_HELP)
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--patients",
        type=positive,
        default=80,
        help="simulated patients, three recordings each (default: %(default)s)",
    )
    add_count_option(parser, "--epochs", 25, "of pre-training", dest="pretraining_epochs")
    parser.add_argument(
        "--system",
        choices=[name for name, one in SYSTEMS.items() if not one.objective.teachers],
        default=DEFAULT_SYSTEM,
        help="default: %(default)s",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N recordings of each split")
    parser.add_argument("--seed", type=seed, default=0, help="default: %(default)s")
    add_overwrite_option(parser, "an earlier demo")
    parser.set_defaults(**{**finetuning_defaults(), "no_feature_cache": True, "restart": True})


def run(arguments: argparse.Namespace) -> int:
    """Run `demo` and return the exit status."""
    from ..utils.files import check_writable

    output = check_writable(arguments.output, ["pretrained"] if arguments.overwrite else (), [arguments.data])

    from ..data.simulation import SIMULATED_LABELS, simulate_recordings
    from ..training.provenance import count_sets, describe_source

    if arguments.data is not None:
        sources = read_source(arguments.data, arguments.limit, divided=True)
    else:
        say(f"simulating recordings of {arguments.patients} patients")
        num_workers = min(os.cpu_count() or 1, 8)
        recordings = simulate_recordings(arguments.patients, seed=arguments.seed, num_workers=num_workers)
        sources = Sources.by_split(recordings, arguments.limit, list(SIMULATED_LABELS), describe_source(None))
    quiet_libraries()
    from ..training.recipes import read_recipe

    chosen = {
        "system": arguments.system,
        "epochs": arguments.pretraining_epochs,
        "seed": arguments.seed,
        "trackers": [],
    }
    recipe = read_recipe(None, chosen)
    if arguments.data is None:
        # A few hundred recordings make too few steps per epoch for larger batches.
        recipe.training.batch_size = 8

    extractor = recipe.make_feature_extractor(sources.extractor)
    sets, rejected = prepare_splits(sources, extractor, sources.label_names)
    require(sets, rejected, "train", "validation")
    recipe.training.batch_size = min(recipe.training.batch_size, len(sets["train"]))
    about = {**sources.about, "sets": count_sets(sets)}
    if arguments.data is not None:
        _predict_with_shipped(sets, extractor, output / "pictures")
    elif SHIPPED.is_dir():
        say(
            "what the shipped weights say is shown of real recordings only: clear-hug demo --data FOLDER_OF_RECORDINGS"
        )
    pretrain_and_draw(recipe, extractor, sets, [about], output / "pretrained", restart=True)
    option = system_options(arguments.system)
    if sources.label_names is None:
        pictures = " and ".join(str(one / "pictures") for one in (output, output / "pretrained") if one.is_dir())
        steps = [
            f"look at {pictures}",
            f"clear-hug prepare {arguments.data} --labels LABELS --output PREPARED   # with labels, if it has any",
            f"clear-hug finetune --data PREPARED --model {output / 'pretrained'} --output runs/labels",
        ]
        say(f"\n{arguments.data} has no labels, so that nothing was fine-tuned.")
    else:
        sets, label_names, _ = leave_out_rare(sets, sources.label_names)
        finetune_and_report(arguments, output / "pretrained" / "model", extractor, sets, label_names, about, output)
        steps = [
            f"look at {output / 'pictures'}",
            f"clear-hug predict YOUR_RECORD.hea --model {output}",
            f"clear-hug publish {output} YOUR_NAME/ecg-demo --dry-run staged",
            f"clear-hug demo{option} --data FOLDER_OF_RECORDINGS --output runs/demo",
        ]
    status = report_rejected(rejected)
    say("\n".join(("\nNext:", *(f"  {step}" for step in steps))))
    return status


def _predict_with_shipped(sets: dict[str, datasets.Dataset], extractor: Any, pictures: Path) -> None:
    """What the shipped classifiers that read recordings as `extractor` does say about a held-out real one."""
    from ..data.model_files import extractor_settings
    from ..data.prepared import select_labels
    from ..evaluation.predictions import predict
    from ..inference.classifier_outputs import model_thresholds
    from ..training.folders import load_model

    shown = "test" if "test" in sets else "validation"
    one = select_labels(sets[shown], None).select([0])
    folders = sorted(path.parent for path in SHIPPED.glob("*/config.json"))
    asked = 0
    for folder in folders:
        model, reads, auto_class = load_model(folder)
        if auto_class != "AutoModelForSequenceClassification" or type(reads) is not type(extractor):
            continue
        if extractor_settings(reads) != extractor_settings(extractor):
            continue  # The recordings were prepared in another way.
        asked += 1
        found = predict(model, one, reads)
        thresholds = model_thresholds(model.config)
        rows = zip(found.label_names, found.probabilities[0], thresholds, strict=True)
        best = sorted(rows, key=lambda row: -row[1])[:3]
        told = ", ".join(f"{name} {share:.0%}{'*' if share >= least else ''}" for name, share, least in best)
        say(f"{folder.name} on {shown} recording {found.record_ids[0]}: {told}")
        draw_first_prediction(model, one, found, pictures / f"{folder.name}.png")
    if folders and not asked:
        say(
            "the shipped weights read recordings that are prepared in another way: clear-hug predict RECORD "
            f"--model {SHIPPED.name}/NAME"
        )
