"""`clear-hug prepare`: recordings in, a dataset for training out."""

from textwrap import indent
from typing import Any

from ..data.readers import CSV_CONTRACT
from ..workflows.prepare import PrepareArguments, prepare
from ..workflows.shared import say, system_options


ARGUMENTS = (PrepareArguments,)
DESCRIPTION = """\
Read, clean and search recordings once, and store them as Parquet shards that `datasets.load_dataset` reads and
--data of the other verbs takes. If interrupted, killed or out of space, the same command resumes; the result is the
same bytes for any number of processes.

Writes to the output folder: data/*.parquet, README.md (the dataset card), manifest.json (settings, counts,
checksums), preprocessor_config.json, rejected.csv (recordings that cannot be used, with the reason) and excluded.csv
(recordings that the labels or options exclude)."""
EXAMPLES = f"""\
  clear-hug prepare downloads/ptb-xl --labels ptbxl_super --output-dir ptb-xl --num-proc 8
  clear-hug prepare downloads/challenge --labels cpsc9 --output-dir cpsc --split-fractions 0.7 0.1 0.2
  clear-hug prepare ward.csv --labels afib lvh --output-dir ward --model runs/pretrained
  clear-hug prepare downloads/mimic --output-dir mimic --split-fractions 1 0 0 --shard-index 3 --num-shards 16

your own recordings and labels:
{indent(CSV_CONTRACT, "  ")}"""


def run(arguments: PrepareArguments) -> int:
    """Run `prepare` and return the exit status."""
    result = prepare(arguments)
    if result.manifest is None:
        say(
            f"{arguments.output_dir}: {result.num_done} of {result.num_planned} shards are done; the job that writes "
            "the last one finishes the dataset, and so does the same command without --shard-index"
        )
        return 0
    if not result.is_new:
        say(f"{arguments.output_dir} was prepared before with the same settings: no recording was read")
    any_rejected = _print_counts(result.manifest)
    system = system_options(result.system)
    say(f"\nnext: clear-hug pretrain{system} --data {arguments.output_dir} --output-dir runs/pretrained")
    return int(any_rejected)


def _print_counts(manifest: dict[str, Any]) -> bool:
    """Print a table of counts by split; returns whether any recording was rejected."""
    columns = ("records", "kept", "rejected", "rows")
    say(f"  {'split':12s}" + "".join(f"{column:>10s}" for column in columns))
    for name, split in manifest["splits"].items():
        say(f"  {name:12s}" + "".join(f"{split[column]:10d}" for column in columns))
    if manifest["excluded"]:
        say(f"  the labels or options exclude {manifest['excluded']} recordings: excluded.csv lists them")
    any_rejected = any(split["rejected"] for split in manifest["splits"].values())
    if any_rejected:
        say("  rejected.csv says why recordings were rejected")
    return any_rejected
