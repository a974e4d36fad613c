"""A classifier to ONNX."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..utils.arguments import Arguments
from .shared import output_dir_field, quiet_libraries


@dataclass(kw_only=True)
class ExportArguments(Arguments):
    """Which classifier is exported, and where it goes."""

    model: Path = field(
        metadata={
            "help": "A model folder, the output of a run, a shipped model, or hf://ORG/NAME.",
            "positional": True,
            "metavar": "FOLDER",
        }
    )
    output_dir: Path = output_dir_field(help="Folder to write.")
    int8: bool = field(
        default=False,
        metadata={
            "help": "Also write model_int8.onnx, with matrix products in 8 bits (dynamic quantization): a quarter of "
            "the size; how far its logits differ is printed."
        },
    )


@dataclass(frozen=True)
class ExportResult:
    """For each ONNX file its size in `bytes` and `largest_difference` of its logits from those of the model."""

    files: dict[str, dict[str, float]]


def export(arguments: ExportArguments) -> ExportResult:
    """
    Write a classifier as ONNX, with its config and preprocessing beside it.

    Raises:
        FileNotFoundError: If there is no such model.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        InputError: If the model is no classifier, or the folder holds something else.
    """
    from ..hub.export import export_onnx

    quiet_libraries()
    return ExportResult(export_onnx(arguments.model, arguments.output_dir, int8=arguments.int8).files)
