"""`clear-hug evaluate`: metrics of a classifier on labeled recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..workflows.evaluate import EvaluateArguments, describe_recordings, evaluate
from ..workflows.shared import interval, print_metrics, report_rejected, say


if TYPE_CHECKING:
    from ..workflows.evaluate import LabeledPredictions


ARGUMENTS = (EvaluateArguments,)
DESCRIPTION = """\
Compute macro and per-label AUROC, average precision, F1 at the model's thresholds and calibration error,
with 95 % bootstrap intervals over patients. The windows of a recording count once, with their mean
probability. Labels without positive or without negative recordings are listed and excluded. Prints the
metrics; writes them with --output, and ROC curves with --pictures.

Recordings of another source may name their labels differently: --map maps each label of the data to one or
several of the model. --compare-with also evaluates these labels on recordings of the model's own source,
and reports by how much the AUROC drops."""
EXAMPLES = """\
  clear-hug evaluate --data ptb-xl --model runs/superclasses
  clear-hug evaluate --data ward.csv --model runs/ward --output ward_metrics.json --pictures pictures
  clear-hug evaluate --data ward.csv --model runs/superclasses --map infarct=MI block=CD
  clear-hug evaluate --data cpsc2018 --model runs/ptb-xl --map ptbxl-cpsc9 --compare-with ptb-xl
"""
_METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
    "calibration_error": "calibration error",
}


def run(arguments: EvaluateArguments) -> int:
    """Run `evaluate` and return the exit status."""
    result = evaluate(arguments, _print)
    if result.reference is not None:
        loss = result.metrics["loss"]
        say(f"\nof the labels {', '.join(loss['labels'])}, macro AUROC")
        say(f"  on {describe_recordings(result.reference)} of {arguments.compare_with}: {interval(loss['own'])}")
        say(f"  on {describe_recordings(result.predictions)} of {arguments.data}: {interval(loss['other'])}")
        say(f"  lost: {interval(loss['lost'], sign=True)}")
    for path in result.written:
        say(f"\nwritten: {path}")
    return report_rejected(result.rejected)


def _print(metrics: dict[str, Any], predictions: LabeledPredictions) -> None:
    say(f"{describe_recordings(predictions)} of {metrics['num_patients']} patients")
    if metrics["split"] != "test":
        say("(metrics are optimistic on recordings that the model was trained or selected on)")
    for name, title in _METRIC_NAMES.items():
        say(f"macro {title:18s} {interval(metrics[f'macro_{name}'])}")
    print_metrics(metrics)
