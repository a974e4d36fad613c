"""Embeddings of recordings, as a Parquet table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import (
    StatedArguments,
    is_main_process,
    load_on_device,
    model_field,
    overwrite_field,
    records_field,
    resumable,
)


if TYPE_CHECKING:
    from ..data.records import Rejected


@dataclass(kw_only=True)
class EmbedArguments(StatedArguments):
    """Recordings to embed, the model, and the table to write."""

    records: list[Path] = records_field("Recordings, folders of them, or CSV tables with a column `path`.")
    model: Path = model_field("A model folder, the output of a run")
    output: Path = field(metadata={"help": "Parquet file to write.", "metavar": "FILE"})
    per_lead: bool = field(
        default=False,
        metadata={
            "help": "Write a vector for each of the model's leads instead of their mean, with NaN for missing leads."
        },
    )
    batch_size: int = field(
        default=1,
        metadata={
            "help": "Windows of a recording per batch; larger batches are faster on a GPU and change the last digits.",
            "gt": 0,
        },
    )
    overwrite: bool = overwrite_field("a table of other records, another model, or other settings")


@dataclass(frozen=True)
class EmbedResult:
    """Numbers of records and windows, the shape of an embedding, and the records that failed."""

    num_records: int
    num_rows: int
    shape: tuple[int, ...]
    rejected: list[Rejected]


def embed(arguments: EmbedArguments) -> EmbedResult:
    """
    Write an embedding for each window of each recording.

    Raises:
        InputError: If there is no record, or the table exists and is of other records, another model or settings.
    """
    from ..inference.embeddings import write_embeddings
    from ..inference.inputs import list_records
    from ..processing.errors import InputError
    from ..training.folders import load_encoder
    from ..utils.files import check_file

    # `write_embeddings` only replaces a table of the same records, model and settings.
    check_file(arguments.output, True, [*arguments.records, arguments.model], [".parquet"])
    model, extractor = load_on_device(load_encoder, arguments.model)
    references, rejected = list_records(arguments.records, arguments.stated)
    if not references:
        raise InputError(rejected[0].reason)
    with resumable("with the missing records"):
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
    leads = (len(model.config.lead_names),) if arguments.per_lead else ()
    shape = (*leads, int(model.config.hidden_size))
    return EmbedResult(len(references) - len(failed), num_rows, shape, [*rejected, *failed])
