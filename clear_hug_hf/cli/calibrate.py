"""`clear-hug calibrate`: calibrated probabilities for a finished classifier."""

from ..workflows.calibrate import CalibrateArguments, calibrate, describe_calibration
from ..workflows.shared import report_rejected, say


ARGUMENTS = (CalibrateArguments,)
DESCRIPTION = """\
Fit a calibration of a classifier's probabilities and its thresholds on recordings that it was not trained
on, as `clear-hug finetune` does at its end. Chooses between none, one scale of all logits, and a scale and
an offset for each label, by log loss in a cross-validation by patient. Writes a copy of the model folder,
whose config.json has the result; the weights and the logits do not change."""
EXAMPLES = """\
  clear-hug calibrate --model runs/ward --data ward.csv --output-dir runs/ward-calibrated
"""


def run(arguments: CalibrateArguments) -> int:
    """Run `calibrate` and return the exit status."""
    result = calibrate(arguments)
    say(f"{describe_calibration(result.fit)}, on {result.fit.num_recordings} recordings")
    say(f"\nwritten: {arguments.output_dir}")
    return report_rejected(result.rejected)
