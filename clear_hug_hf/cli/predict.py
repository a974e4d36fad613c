"""`clear-hug predict`: labels of recordings, with probabilities."""

import json
import sys
from dataclasses import dataclass, field

from ..utils.arguments import Arguments
from ..workflows.predict import PredictArguments, predict
from ..workflows.predict_records import LabeledRecord
from ..workflows.shared import report_rejected, say
from . import EXIT_BAD_INPUT


@dataclass(kw_only=True)
class PrintArguments(Arguments):
    """How predictions are printed."""

    json: bool = field(default=False, metadata={"help": "Print one JSON object per record and line."})


ARGUMENTS = (PredictArguments, PrintArguments)
DESCRIPTION = """\
Predict WFDB records (.hea with .dat or .mat; any rate from 50 Hz, any order of leads). A recording that is longer
than the model's window, or has more beats than the model holds, is read window by window, and its probabilities are
the mean over them (--aggregate). A label is predicted positive from the threshold on that fine-tuning chose for it.
Exit status 1 if some records could not be used; they are named at the end.

A model that reads pages accepts photographs and scans, too (PNG, JPEG, TIFF, WebP). The page is located and
straightened; an upside-down page is not noticed."""
EXAMPLES = """\
  clear-hug predict patient7.hea --model runs/superclasses --pictures pictures
  clear-hug predict ward3/ extra/A0001 --model runs/superclasses --top-k 2
  clear-hug predict ward.csv --model runs/ward --output predictions.csv
  clear-hug predict page.jpg --model runs/pages --pictures pictures
  clear-hug predict ward3/ --model runs/superclasses --json > ward3.jsonl
"""


def run(arguments: PredictArguments, printing: PrintArguments) -> int:
    """Run `predict` and return the exit status."""

    def show(record: LabeledRecord) -> None:
        if record.rotation:
            turned = f"{record.record_id} was turned clockwise by {record.rotation} degrees"
            print(f"{turned}, which way up is a guess: check it", file=sys.stderr)
        if arguments.output is None:
            say(json.dumps(record.to_dict()) if printing.json else record.to_text())

    result = predict(arguments, show)
    if not result.num_records:
        for record_id, reason in result.rejected:
            # Messages about files name them; those about signals do not.
            print(f"clear-hug: error: {'' if record_id in reason else f'{record_id}: '}{reason}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if arguments.output is not None:
        say(f"{result.num_records} record(s), {result.num_rows} row(s): {arguments.output}")
    if arguments.pictures is not None:
        print(f"pictures: {arguments.pictures}", file=sys.stderr)
    return report_rejected(result.rejected)
