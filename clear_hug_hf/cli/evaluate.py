"""`clear-hug evaluate`: metrics of a classifier on labeled recordings."""

from ..workflows.evaluate import EvaluateArguments, describe_recordings, evaluate
from ..workflows.shared import interval, print_metrics, report_rejected, say


ARGUMENTS = (EvaluateArguments,)
DESCRIPTION = """\
Macro and per-label AUROC, average precision, F1 at the model's thresholds and calibration error, with 95 % intervals
over patients. Windows of one recording count once, with their mean probability. Labels of which only one class is
present are named and left out.

Recordings of another source may have other names for their labels: --map says which label of the data is which of
the model, or which several. With --compare-with, the same labels are evaluated on recordings of the model's own
source, and the loss of AUROC is reported."""
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
    result = evaluate(arguments)
    metrics, recordings = result.metrics, describe_recordings(result.predictions)
    say(f"{recordings} of {metrics['num_patients']} patients")
    if metrics["split"] != "test":
        say("(metrics are too good on recordings that the model was trained or chosen on)")
    for name, title in _METRIC_NAMES.items():
        say(f"macro {title:18s} {interval(metrics[f'macro_{name}'])}")
    print_metrics(metrics)
    if result.reference is not None:
        loss = metrics["loss"]
        say(f"\nof the labels {', '.join(loss['labels'])}, macro AUROC")
        say(f"  on {describe_recordings(result.reference)} of {arguments.compare_with}: {interval(loss['own'])}")
        say(f"  on {recordings} of {arguments.data}: {interval(loss['other'])}")
        say(f"  lost: {interval(loss['lost'], sign=True)}")
    for path in result.written:
        say(f"\nwritten: {path}")
    return report_rejected(result.rejected)
