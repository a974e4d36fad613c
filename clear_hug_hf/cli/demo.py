"""`clear-hug demo`: the whole pipeline once, on simulated recordings or the user's own."""

from ..workflows.demo import DemoArguments, demo
from ..workflows.shared import report_rejected, say, system_options


ARGUMENTS = (DemoArguments,)
DESCRIPTION = """\
Simulate recordings with several rhythms (or read --data), pre-train a tiny encoder, fine-tune its usual
head, evaluate it on held-out patients beside a randomly initialized encoder, and draw pictures. With
--data, the shipped models first predict one of the recordings; they never predict a simulated one, which
differs from all recordings that they were trained on. Downloads nothing. Starts over each time: --overwrite
replaces an earlier demo.

Writes to the output folder: pretrained/ (as `clear-hug pretrain` does), model/, control/, metrics.json and
pictures/ (as `clear-hug finetune` does)."""
EXAMPLES = """\
  clear-hug demo
  clear-hug demo --data ptb-xl --output-dir runs/ptb-xl
  clear-hug demo --data ward/ --output-dir runs/ward
"""


def run(arguments: DemoArguments) -> int:
    """Run `demo` and return the exit status."""
    result = demo(arguments)
    output, data = arguments.output_dir, arguments.data
    if result.has_labels:
        steps = [
            f"look at {output / 'pictures'}",
            f"clear-hug predict YOUR_RECORD.hea --model {output}",
            f"clear-hug publish {output} YOUR_NAME/ecg-demo --dry-run staged",
            f"clear-hug demo{system_options(arguments.system)} --data FOLDER_OF_RECORDINGS --output-dir runs/demo",
        ]
    else:
        pictures = [folder / "pictures" for folder in (output, output / "pretrained")]
        steps = [
            f"look at {' and '.join(str(folder) for folder in pictures if folder.is_dir())}",
            f"clear-hug prepare {data} --labels LABELS --output-dir PREPARED   # if it has labels",
            f"clear-hug finetune --data PREPARED --model {output / 'pretrained'} --output-dir runs/labels",
        ]
        say(f"\n{data} has no labels, so nothing was fine-tuned.")
    status = report_rejected(result.rejected)
    say("\n".join(("\nNext:", *(f"  {step}" for step in steps))))
    return status
