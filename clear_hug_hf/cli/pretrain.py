"""`clear-hug pretrain`: pre-train an encoder on recordings without labels."""

import os
import textwrap
from dataclasses import dataclass, field, replace

from ..objectives import shared_objectives, systems_with_default_objective
from ..systems import DEFAULT_SYSTEM, SYSTEMS, Objective
from ..training.arguments import PretrainingArguments
from ..training.recipes import Recipe
from ..utils.arguments import Arguments
from ..workflows.pretrain import pretrain
from ..workflows.shared import report_rejected, say, system_options


@dataclass
class RunArguments(Arguments):
    """Settings of a run that are not part of its recipe."""

    restart: bool = field(default=False, metadata={"help": "Start over if the output folder holds checkpoints."})


def _describe(objective: Objective, system: str) -> str:
    text = f"{objective.name:10s}  {objective.summary} (--backbone {system})"
    return textwrap.fill(text, 108, initial_indent="  ", subsequent_indent=" " * 14)


_OWN = "\n".join(_describe(objective, name) for name, system in SYSTEMS.items() for objective in system.objectives)
_SHARED = "\n".join(_describe(objective, objective.backbone) for objective in shared_objectives().values())
ARGUMENTS = (RunArguments, Recipe, PretrainingArguments)
DESCRIPTION = f"""\
Pre-train an encoder. The defaults suit tiny models on a CPU; scripts/recipes/ contains the papers' recipes.

Objectives of one family of encoders:
{_OWN}

Objectives for any encoder of recordings, with the one for which they are meant; they save the encoder alone:
{_SHARED or "  none"}

If interrupted or killed, the same command continues from the last checkpoint and ends with the same
weights.

Writes to the output folder: model/ and best/ (folders for from_pretrained, of the last epoch and of the
lowest validation loss), pretraining_log.csv, pretraining_steps.csv, pretraining.json (data, recipe, result
and versions for the model card), checkpoints/, tracking/ (with --report-to), and pictures/ (the losses, a
recording, its reconstruction or its views)."""
_SYSTEM_EXAMPLES = "".join(
    f"  clear-hug pretrain{system_options(name)} \\\n      --data prepared/{name} --output-dir runs/{name}\n"
    for name in systems_with_default_objective()
    if name != DEFAULT_SYSTEM
)
EXAMPLES = f"""\
  clear-hug pretrain --data ptb-xl --output-dir runs/pretrained
{_SYSTEM_EXAMPLES}\
  clear-hug pretrain --data ptb-xl cinc2011 --num-train-epochs 100 --config-overrides mask_ratio=0.75
  clear-hug pretrain --config recipe.yaml --learning-rate 3e-4
  accelerate launch scripts/pretrain.py --config recipe.yaml
"""


def run(arguments: RunArguments, recipe: Recipe, training: PretrainingArguments) -> int:
    """Run `pretrain` and return the exit status."""
    recipe = replace(recipe, training=training)
    status = report_rejected(pretrain(recipe, arguments.restart).rejected)
    say(f"\nnext: clear-hug {_next_step(recipe)}")
    # With several processes, a launcher would take status 1 for a crash and stop the others.
    return status if int(os.environ.get("WORLD_SIZE", "1")) == 1 else 0


def _next_step(recipe: Recipe) -> str:
    """The command for which a model was trained: fine-tuning, or the objective that learns from it."""
    for objective in recipe.backbone.objectives:
        if objective.teacher_objective == recipe.objective:
            option = objective.teachers[0].replace("_", "-")
            return (
                f"pretrain --objective {objective.name} --{option} {recipe.output_dir} --data {recipe.data[0]} "
                "--output-dir runs/pretrained"
            )
    return f"finetune --data {recipe.data[0]} --model {recipe.output_dir} --output-dir runs/finetuned"
