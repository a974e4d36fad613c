"""`clear-hug prepare`: turn recordings into a dataset for training."""

from textwrap import indent
from typing import Any

from ..data.readers import CSV_CONTRACT
from ..objectives import systems_with_default_objective
from ..workflows.prepare import PrepareArguments, prepare
from ..workflows.shared import say, system_options


ARGUMENTS = (PrepareArguments,)
DESCRIPTION = """\
Read recordings, clean them and detect their beats once, and store them as Parquet shards for --data of the
other verbs and for `datasets.load_dataset`. If interrupted, killed or out of disk space, the same command
resumes. The files are identical for any number of processes.

Writes to the output folder: data/*.parquet, README.md (the dataset card), manifest.json (settings, counts
and checksums), preprocessor_config.json, rejected.csv (recordings that cannot be used, with the reason) and
excluded.csv (recordings that the labels or options exclude)."""
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
            "the last shard completes the dataset, and so does the same command without --shard-index"
        )
        return 0
    if not result.is_new:
        say(f"{arguments.output_dir} was already prepared with these settings: no recording was read")
    any_rejected = _print_counts(result.manifest)
    if result.system in systems_with_default_objective():
        command, output = f"pretrain{system_options(result.system)}", "runs/pretrained"
    else:
        command, output = "finetune --model FOLDER_OF_CONVERTED_WEIGHTS", "runs/finetuned"
    say(f"\nnext: clear-hug {command} --data {arguments.output_dir} --output-dir {output}")
    return int(any_rejected)


def _print_counts(manifest: dict[str, Any]) -> bool:
    """Print a table of counts by split; returns whether any recording was rejected."""
    columns = ("records", "kept", "rejected", "rows")
    say(f"  {'split':12s}" + "".join(f"{column:>10s}" for column in columns))
    for name, split in manifest["splits"].items():
        say(f"  {name:12s}" + "".join(f"{split[column]:10d}" for column in columns))
    if manifest["excluded"]:
        say(f"  excluded by labels or options: {manifest['excluded']} recordings, listed in excluded.csv")
    any_rejected = any(split["rejected"] for split in manifest["splits"].values())
    if any_rejected:
        say("  rejected.csv lists the rejected recordings and why")
    return any_rejected
