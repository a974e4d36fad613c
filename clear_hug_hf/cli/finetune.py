"""`clear-hug finetune`: train a classifier on labeled recordings."""

from ..training.arguments import FinetuningArguments
from ..workflows.finetune import FinetuneArguments, finetune
from ..workflows.shared import report_rejected, say


ARGUMENTS = (FinetuneArguments, FinetuningArguments)
DESCRIPTION = """\
Put a new head on a pre-trained encoder and train it. Keeps the epoch with the best validation macro AUROC
and, for each label, the threshold with the best validation F1, after calibrating the probabilities. Then
trains the same model from a randomly initialized encoder, which shows what pre-training contributes.

With --folds N, the training and validation recordings are divided into N folds by patient: each is predicted
by a model that was trained and chosen on the others, the metrics are those of these predictions, and model/
is trained on all of them for as many epochs as the folds chose.

If interrupted or killed, the same command continues from the last epoch. Features of a frozen encoder are
cached, so that the next head on it trains in seconds.

Writes to the output folder: model/, control/ (from the randomly initialized encoder), finetuning_log.csv,
metrics.json (metrics of both with 95 % intervals over patients), and pictures/ (a recording with its
prediction, ROC curves with confusion matrices, a reconstruction if the model has a decoder, and the
contribution of each group of leads to each label)."""
EXAMPLES = """\
  clear-hug finetune --data ward.csv --labels stemi lbbb --model runs/pretrained --output-dir runs/ward
  clear-hug finetune --data ptb-xl --model runs/pretrained --output-dir runs/superclasses
  clear-hug finetune --data ptb-xl --model runs/pretrained --output-dir runs/full --method full \\
      --num-train-epochs 20
  clear-hug finetune --data ptb-xl --model runs/pretrained --output-dir runs/crossed --folds 5
  clear-hug finetune --data ptb-xl --labels NORM MI --model runs/pretrained --head-type mean \\
      --output-dir runs/mi
"""


def run(arguments: FinetuneArguments, training: FinetuningArguments) -> int:
    """Run `finetune` and return the exit status."""
    result = finetune(arguments, training)
    status = report_rejected(result.rejected)
    output = arguments.output_dir
    evaluate = f"  clear-hug evaluate --data {arguments.data} --model {output} --pictures evaluation\n"
    if arguments.folds is not None and "test" not in result.metrics["pretrained"]:
        evaluate = ""  # no recording is left that the model was not trained on
    say(
        "\nnext:\n"
        f"  clear-hug predict RECORD... --model {output}\n"
        f"{evaluate}"
        f"  clear-hug publish {output} YOUR_NAME/{output.name} --dry-run staged"
    )
    return status
