"""`clear-hug convert`: convert released checkpoints to model folders."""

from ..workflows.convert import CONVERTERS, ConvertArguments, convert
from ..workflows.shared import say


_WIDTH = max(map(len, CONVERTERS))
_READS = "\n".join(f"  {system:{_WIDTH}s}  {converter.reads}" for system, converter in CONVERTERS.items())
_CALLS = "".join(f"  clear-hug convert {system} {converter.example}\n" for system, converter in CONVERTERS.items())

ARGUMENTS = (ConvertArguments,)
DESCRIPTION = f"""\
Convert a checkpoint that a paper's authors released into a folder for from_pretrained, finetune, predict
and publish. Writes the model, preprocessing as close to the authors' as possible, and a model card. Reads
the architecture from the tensors, and names every tensor that it does not use. Runs no code of a file: other
objects than tensors and plain values are refused, or skipped if the released files are known to hold them.

{_READS}"""
EXAMPLES = f"{_CALLS}  clear-hug finetune --data ptb-xl --model converted/NAME --output-dir runs/superclasses\n"


def run(arguments: ConvertArguments) -> int:
    """Run `convert` and return the exit status."""
    result = convert(arguments)
    facts = result.facts
    size = f", {facts['size']} size" if facts["size"] else ""
    parameters = f"{facts['num_parameters'] / 1e6:.1f} M parameters"
    say(f"{facts['kind']}{size}: {parameters}, {result.tensors}")
    if facts["labels_known"] is False:
        say("the checkpoint has no label names, so they are LABEL_0, LABEL_1 ...: set them with --labels")
    say(f"written: {arguments.folder}")
    return 0
