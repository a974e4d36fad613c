"""`clear-hug benchmark`: the papers' evaluation protocol."""

from ..training.arguments import BenchmarkArguments
from ..workflows.benchmark import RunArguments, benchmark
from ..workflows.shared import say


ARGUMENTS = (RunArguments, BenchmarkArguments)
DESCRIPTION = """\
Train and test models on 1, 10 and 100 % of the training recordings of each task, with several seeds.
Compares them with the encoder of each form randomly initialized (named random, or random (SYSTEM) where
models have several forms) and, if asked, with supervised networks and MiniRocket.
Chooses the epoch on the validation recordings and uses the test recordings once per cell (one model, task,
fraction, seed, protocol and head). If a task has no test recordings, it tests on the validation recordings
and chooses the epoch on a tenth of the training patients. With --folds N, it tests each N-th of the
patients once, with models trained on the others, and averages the folds.

If interrupted or killed, the same command continues with the missing cells. To add tasks, models, fractions
or seeds, repeat the command with them added: table and CSV contain what the command names.

Writes to the output folder: results.csv (a row per cell, with intervals), table.md (in the layout of Table
1 of Pan et al., 2026, with their numbers where the recordings are the same, and differences from the
controls), benchmark.json and cells/."""
EXAMPLES = """\
  clear-hug benchmark --tasks prepared/super prepared/rhythm --models mine=runs/pretrained
  clear-hug benchmark --tasks super=prepared/first super=prepared/second \\
      --models first=runs/first second=runs/second
  clear-hug benchmark --tasks prepared/super --models mine=runs/pretrained --protocols knn probe \\
      --heads mean weighted --fractions 0.1 1 --seeds 0 1 2 --resnet --output-dir runs/benchmark
  clear-hug benchmark --tasks prepared/super --models mine=runs/pretrained-{fold} --folds 3 \\
      --protocols logistic probe --heads mean attention --resnet --minirocket
"""


def run(arguments: RunArguments, cells: BenchmarkArguments) -> int:
    """Run `benchmark` and return the exit status."""
    result = benchmark(arguments, cells)
    say(f"\n{result.table.read_text(encoding='utf-8')}\nwritten: {result.results}, {result.table}")
    return 0
