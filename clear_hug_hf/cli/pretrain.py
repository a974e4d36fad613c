"""`clear-hug pretrain`: an encoder from recordings without labels."""

import os
import textwrap
from dataclasses import dataclass, field, replace

from ..systems import DEFAULT_SYSTEM, SYSTEMS
from ..training.arguments import PretrainingArguments
from ..training.recipes import Recipe
from ..utils.arguments import Arguments
from ..workflows.pretrain import pretrain
from ..workflows.shared import report_rejected, say, system_options


@dataclass
class RunArguments(Arguments):
    """What belongs to a run and not to its recipe."""

    restart: bool = field(default=False, metadata={"help": "Start over if the output folder holds checkpoints."})


_SYSTEMS = "\n".join(
    textwrap.fill(f"{name:10s}  {system.objective.summary}", 110, initial_indent="  ", subsequent_indent=" " * 14)
    for name, system in SYSTEMS.items()
)
ARGUMENTS = (RunArguments, Recipe, PretrainingArguments)
DESCRIPTION = f"""\
Pre-train an encoder. The defaults suit tiny models on a CPU; scripts/recipes/ has the papers' recipes.

{_SYSTEMS}

If interrupted or killed, the same command continues from the last checkpoint, to the same weights.

Writes to the output folder: model/ and best/ (from_pretrained folders: after the last epoch, and of the lowest
validation loss), pretraining_log.csv, pretraining_steps.csv, pretraining.json (data, recipe, result and versions,
for the model card), tracking/, checkpoints/, and pictures/ (the loss, a recording, and its reconstruction)."""
EXAMPLES = f"""\
  clear-hug pretrain --data ptb-xl --output-dir runs/pretrained
{
    "".join(
        f"  clear-hug pretrain{system_options(name)} --data prepared/{name} --output-dir runs/{name}{chr(10)}"
        for name in SYSTEMS
        if name != DEFAULT_SYSTEM
    )
}\
  clear-hug pretrain --data ptb-xl cinc2011 --num-train-epochs 100 --config-overrides mask_ratio=0.75
  clear-hug pretrain --config recipe.yaml --learning-rate 3e-4
  accelerate launch scripts/pretrain.py --config recipe.yaml
"""


def run(arguments: RunArguments, recipe: Recipe, training: PretrainingArguments) -> int:
    """Run `pretrain` and return the exit status."""
    recipe = replace(recipe, training=training)
    status = report_rejected(pretrain(recipe, arguments.restart).rejected)
    say(f"\nnext: clear-hug finetune --data {recipe.data[0]} --model {recipe.output_dir} --output-dir runs/finetuned")
    # A launcher would stop the other processes of a run for the exit status of one.
    return status if int(os.environ.get("WORLD_SIZE", "1")) == 1 else 0
