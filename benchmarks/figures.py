"""
The paper's Figures 4 and 5, a ROC sheet and a page with predictions, from real recordings.

    python benchmarks/figures.py --data prepared/ptb-xl --ablations runs/paper_ablations --model runs/superclasses

`--ablations` is the output of `benchmarks/paper_ablations.py` (its pre-training part is enough) and `--model` that of
`clear-hug finetune` on the same data. Figure 4 shows a recording of the fold that none of its encoders saw;
the others show the validation recordings. Writes PNG files to `docs/pictures`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import datasets
import numpy as np
import torch
from machine import REPOSITORY
from paper_ablations import all_recordings
from transformers.utils import logging

from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.prepared import load_prepared, select_labels
from clear_hug_hf.evaluation.predictions import contributions_by_label, predict
from clear_hug_hf.inference.classifier_outputs import group_names, model_label_names, model_thresholds
from clear_hug_hf.plotting import (
    plot_group_activations,
    plot_prediction,
    plot_reconstructions,
    plot_roc_curves,
    save_figure,
)
from clear_hug_hf.processing.recording_inputs import read_row
from clear_hug_hf.training.folders import load_classifier, load_pretrained


VARIANTS = {
    "CLEAR": "clear",
    "without view guidance": "no_view",
    "without conduction guidance": "no_conduction",
    "without both": "neither",
}


@torch.no_grad()
def reconstructions(data: Path, ablations: Path, record: str | None, output: Path) -> Path:
    """Figure 4: the same hidden beats of one recording, rebuilt by CLEAR and its ablations."""
    everything, extractor, folds = all_recordings(data)
    unseen = everything.select(np.flatnonzero(folds == 0))
    names = unseen["record_id"]
    index = 0 if record is None else names.index(record)
    row = unseen.with_format("numpy")[index]
    batch = EcgCollator(extractor, label_names=())([row])
    rebuilt, hidden = {}, None
    for title, variant in VARIANTS.items():
        model, _ = load_pretrained(ablations / "pretrained" / f"{variant}-0")
        outputs = model(**batch, seeds=torch.tensor([0]))
        rebuilt[title] = outputs.reconstruction[0].float().numpy()
        hidden = outputs.bool_masked_pos[0].numpy()
    assert hidden is not None
    signal, r_peaks, lead_mask = read_row(row)
    figure = plot_reconstructions(
        signal,
        r_peaks,
        rebuilt,
        hidden,
        lead_mask=lead_mask,
        sampling_rate=float(row["sampling_rate"]),
        title=f"Recording {row['record_id']}, never trained on: {hidden.sum()} hidden beats rebuilt",
    )
    return save_figure(figure, output / "reconstructions.png")


def predictions(data: Path, folder: Path, record: str | None, output: Path) -> list[Path]:
    """Figure 5, the ROC sheet and the page with predictions, of the validation recordings."""
    model, extractor = load_classifier(folder)
    names = model_label_names(model.config)
    sets, _ = load_prepared(data)
    shown = select_labels(sets["validation"], names)
    predictions = predict(model, shown, extractor)
    assert predictions.labels is not None
    thresholds = model_thresholds(model.config)
    of_groups = plot_group_activations(
        contributions_by_label(predictions),
        names,
        group_names(model.config),
        f"Contribution of each lead group ({len(shown)} recordings, mean with the label minus mean without)",
    )
    sheet = plot_roc_curves(
        predictions.labels,
        predictions.probabilities,
        names,
        thresholds,
        f"{len(shown)} validation recordings, thresholds as saved",
    )
    index = 0 if record is None else predictions.record_ids.index(record)
    row = shown.with_format("numpy")[index]
    truth = [name for name, value in zip(names, predictions.labels[index], strict=True) if value == 1]
    signal, r_peaks, lead_mask = read_row(row)
    page = plot_prediction(
        signal,
        r_peaks,
        names,
        predictions.probabilities[index],
        thresholds,
        None if predictions.contributions is None else predictions.contributions[index],
        group_names(model.config),
        lead_mask,
        float(row["sampling_rate"]),
        str(row["unit"]),
        f"Recording {row['record_id']}, labeled {', '.join(truth) or 'with none of these'}",
    )
    pictures = {"group_activations.png": of_groups, "roc.png": sheet, "prediction.png": page}
    return [save_figure(figure, output / name) for name, figure in pictures.items()]


def main() -> int:
    """Draw what the given folders allow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="output of `clear-hug prepare`")
    parser.add_argument("--ablations", type=Path, metavar="DIR", help="output of benchmarks/paper_ablations.py")
    parser.add_argument("--model", type=Path, metavar="DIR", help="output of `clear-hug finetune`")
    parser.add_argument("--rebuilt-record", metavar="ID", help="recording of Figure 4 (default: the first)")
    parser.add_argument("--predicted-record", metavar="ID", help="recording of the page (default: the first)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "docs" / "pictures", metavar="DIR")
    arguments = parser.parse_args()
    if arguments.ablations is None and arguments.model is None:
        parser.error("name a folder with --ablations or --model")
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    written: list[Path] = []
    if arguments.ablations is not None:
        written.append(
            reconstructions(arguments.data, arguments.ablations, arguments.rebuilt_record, arguments.output)
        )
    if arguments.model is not None:
        written += predictions(arguments.data, arguments.model, arguments.predicted_record, arguments.output)
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
