"""`clear-hug embed`: a vector for each recording, as a Parquet table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import (
    add_count_option,
    add_model_option,
    add_overwrite_option,
    add_records_option,
    add_verb,
    is_main_process,
    load_on_device,
    report_rejected,
    resumable,
    say,
)


def add(verbs: Any) -> None:
    """Add `embed` to the verbs of the command line."""
    parser = add_verb(
        verbs,
        run,
        "recordings to vectors, for search or another library's classifier",
        "Read recordings with the encoder of any model and write a Parquet table: record_id, patient_id, start and\n"
        "end [s], and embedding, the mean over the leads that are there. A recording longer than the model's\n"
        "window gives a row per window. Killed or interrupted, the same command goes on with the records that are\n"
        "missing.\n\n"
        "examples:\n"
        "  clear-hug embed ward3/ --model runs/pretrained --output embeddings.parquet\n"
        "  clear-hug embed ward.csv --model hf://ORG/NAME --output embeddings.parquet\n\n"
        "in Python:\n"
        "  table = pyarrow.parquet.read_table('embeddings.parquet')\n"
        "  matrix = numpy.array(table['embedding'].to_pylist())   # windows x numbers, or windows x leads x numbers",
    )
    add_records_option(parser, "records, folders of records, or CSV tables with a column `path`")
    add_model_option(parser, "a model folder, the output of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the table, a .parquet file")
    parser.add_argument(
        "--per-lead",
        action="store_true",
        help="a vector for each of the model's leads instead of their mean; NaN for leads that are not there",
    )
    counted = "windows of a recording at a time: more are faster on a GPU and change the last digits"
    add_count_option(parser, "--batch-size", 1, counted)
    add_overwrite_option(parser, "a table of other records, another model or other settings")


def run(arguments: argparse.Namespace) -> int:
    """Run `embed` and return the exit status."""
    from ..inference.embeddings import write_embeddings
    from ..inference.inputs import list_records
    from ..processing import InputError
    from ..training.folders import load_encoder
    from ..utils.files import check_file

    # A table of the same records, model and settings is made anew; `write_embeddings` looks for that.
    check_file(arguments.output, True, [*arguments.records, arguments.model], [".parquet"])
    model, extractor = load_on_device(load_encoder, arguments.model)
    references, rejected = list_records(arguments.records)
    if not references:
        raise InputError(rejected[0].reason)
    with resumable("with the records that are missing"):
        num_rows, failed = write_embeddings(
            model,
            extractor,
            references,
            arguments.output,
            per_lead=arguments.per_lead,
            overwrite=arguments.overwrite,
            batch_size=arguments.batch_size,
            progress=is_main_process(),
        )
    rejected += failed
    size = model.config.hidden_size
    what = f"{len(model.config.lead_names)} x {size}" if arguments.per_lead else str(size)
    say(f"{len(references) - len(failed)} record(s), {num_rows} window(s) of {what} numbers: {arguments.output}")
    return report_rejected(rejected)
