"""`clear-hug predict`: predict the labels of recordings, with probabilities."""

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

    json: bool = field(default=False, metadata={"help": "Print a JSON object per record, one on each line."})


ARGUMENTS = (PredictArguments, PrintArguments)
DESCRIPTION = """\
Predict the labels of recordings: WFDB records (.hea with .dat or .mat), MUSE and other XML, DICOM, SCP-ECG,
ISHNE, MFER, EDF, and samples in CSV or NumPy files, at any rate from 50 Hz, with leads in any order. Reads a
recording window by window if it is longer than the model's window or has more beats than the model takes,
and averages the probabilities (--aggregate). Predicts a label positive if its probability reaches the
threshold that fine-tuning chose. Prints each record, or writes a table with --output. Exits with status 1
if some records failed; they are listed at the end.

A model of pages also reads photographs and scans (PNG, JPEG, TIFF, WebP, PDF). It locates and straightens the
page; it does not detect a page that is upside down."""
EXAMPLES = """\
  clear-hug predict patient7.hea --model runs/superclasses --pictures pictures
  clear-hug predict ward3/ extra/A0001 --model runs/superclasses --top-k 2
  clear-hug predict ward.csv --model runs/ward --output predictions.csv
  clear-hug predict samples.npy --sampling-rate 500 --unit mV --lead-names I II V1 --model runs/superclasses
  clear-hug predict page.jpg --model runs/pages --pictures pictures
  clear-hug predict ward3/ --model runs/superclasses --json > ward3.jsonl
"""


def run(arguments: PredictArguments, printing: PrintArguments) -> int:
    """Run `predict` and return the exit status."""

    def show(record: LabeledRecord) -> None:
        if record.rotation:
            rotated = f"{record.record_id} was rotated clockwise by {record.rotation} degrees"
            print(f"{rotated}: check that it is upright, which is only estimated", file=sys.stderr)
        if arguments.output is None:
            say(json.dumps(record.to_dict()) if printing.json else record.to_text())

    result = predict(arguments, show)
    if not result.num_records:
        for record_id, reason in result.rejected:
            # Messages about files name the file; those about signals do not.
            print(f"clear-hug: error: {'' if record_id in reason else f'{record_id}: '}{reason}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if arguments.output is not None:
        say(f"{arguments.output}: {result.num_records} record(s), {result.num_rows} row(s)")
    if arguments.pictures is not None:
        print(f"pictures: {arguments.pictures}", file=sys.stderr)
    return report_rejected(result.rejected)
