"""Export of a classifier to ONNX."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..utils.arguments import Arguments
from .shared import output_dir_field, quiet_libraries


@dataclass(kw_only=True)
class ExportArguments(Arguments):
    """Classifier to export, and the output folder."""

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
            "help": "Also write model_int8.onnx with dynamic 8-bit quantization of matrix products, a quarter of the "
            "size, and print by how much its logits differ."
        },
    )


@dataclass(frozen=True)
class ExportResult:
    """Size (`bytes`) of each ONNX file, and the `largest_difference` of its logits from the model's."""

    files: dict[str, dict[str, float]]


def export(arguments: ExportArguments) -> ExportResult:
    """
    Export a classifier to ONNX, with its config and preprocessing.

    Raises:
        FileNotFoundError: If the model does not exist.
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        InputError: If the model is not a classifier, or the folder contains other files.
    """
    from ..hub.export import export_onnx

    quiet_libraries()
    return ExportResult(export_onnx(arguments.model, arguments.output_dir, int8=arguments.int8).files)
