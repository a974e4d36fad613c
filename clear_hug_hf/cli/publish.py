"""`clear-hug publish`: upload a model folder to the Hub, with a card generated from the files of its run."""

from __future__ import annotations

import shlex

from ..workflows.publish import PublishArguments, publish
from ..workflows.shared import say


ARGUMENTS = (PublishArguments,)
DESCRIPTION = """\
Stage a repository on disk and upload it in one commit: the weights as safetensors, the config with its Auto
classes and label names, the preprocessing, the code of both, the pipeline of a classifier, and a model card
generated from the files of the run (data, splits, recipe, metrics with intervals, versions, licenses,
citations). Includes the files behind the card's numbers, and lists what is missing.

Needs a token with write access: `hf auth login`, or HF_TOKEN. If the upload fails, the staged folder
remains."""
EXAMPLES = """\
  clear-hug publish runs/superclasses you/ecg-superclasses --dry-run staged
  clear-hug publish runs/superclasses you/ecg-superclasses --license cc-by-4.0 --private
  clear-hug publish runs/superclasses you/ecg-superclasses --license cc-by-4.0 --dataset you/ptb-xl-super
  clear-hug publish runs/pretrained/best you/ecg-encoder --license cc-by-4.0 --create-pr
"""


def run(arguments: PublishArguments) -> int:
    """Run `publish` and return the exit status."""
    result = publish(arguments)
    if result.address is None:
        say(f"\nnothing was uploaded; to publish:\n  {_command(arguments, result.license)}")
    else:
        say(f"\npublished: {result.address}")
    return 0


def _command(arguments: PublishArguments, license: str | None) -> str:
    """The command that uploads the result of a dry run."""
    words = ["clear-hug", "publish", str(arguments.folder), arguments.repo_id, "--license", license or "LICENSE"]
    for name in ("license_name", "dataset", "card", "revision", "message"):
        if (value := getattr(arguments, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if arguments.dtype != "float32":
        words += ["--dtype", arguments.dtype]
    words += [f"--{name.replace('_', '-')}" for name in ("private", "create_pr") if getattr(arguments, name)]
    return shlex.join(words)
