"""Export classifiers to ONNX, for environments without this package and torch."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..inference.digests import weights_digest
from ..processing import STANDARD_LEADS
from ..processing.errors import InputError, import_library
from ..training.folders import load_model
from ..training.provenance import describe_environment
from ..utils.files import RunFolder, atomic_folder, check_writable, write_json
from .model_card import RECORDING_CLASSIFIERS


MODEL, INT8_MODEL, FACTS = "model.onnx", "model_int8.onnx", "export.json"
_OF_EXPORT = re.compile(r"model(_int8)?\.onnx(\.data)?|(export|config|preprocessor_config)\.json|\w+\.py|\..*")
_MAX_DIFFERENCE = 1e-3  # Largest difference of logits; another order of float32 arithmetic gives 1e-5.


class Exported(NamedTuple):
    """
    Result of an export.

    Args:
        folder (`Path`): The output folder.
        files (`dict[str, dict]`): For each ONNX file its size [bytes] and the `largest_difference` of its logits from
            those of the model in float32, on synthetic recordings.
    """

    folder: Path
    files: dict[str, dict[str, float]]


class _Logits(nn.Module):
    """A classifier with positional inputs that returns only logits."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True).logits


def export_onnx(path: str | Path, output: str | Path, *, int8: bool = False) -> Exported:
    """
    Export a classifier to ONNX, with its config and preprocessing, and compare its logits with those of the model.

    The exported model supports any batch size. Its inputs are named like the outputs of the feature extractor. Weights
    are float32. With `int8`, a second file has 8-bit matrix products (dynamic quantization), which is smaller and, on
    some machines, faster.

    Args:
        path (`str` or `Path`): A model folder, or the output folder of a run.
        output (`str` or `Path`): Output folder; replaced if it contains an earlier export of the same model.
        int8 (`bool`, *optional*, defaults to `False`): Whether to write the 8-bit file, too.

    Returns:
        [`Exported`]

    Raises:
        FileNotFoundError: If the model does not exist.
        ImportError: If `onnx`, `onnxscript` or `onnxruntime` is not installed.
        InputError: If the model is not a classifier, the output folder contains other files, or the exported model
            computes different logits.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        import_library(name, "exporting to ONNX")
    model, extractor, auto_class = load_model(path)
    if auto_class not in RECORDING_CLASSIFIERS:
        raise InputError(f"{path} is not a classifier of recordings: fine-tune the model first")
    folder = check_writable(output, [FACTS], [path])
    exported = weights_digest(model)
    remedy = "choose another folder, or delete it"
    RunFolder(folder, FACTS, "export", remedy, written=_OF_EXPORT).open({"model": exported})

    inputs = _inputs(extractor, 5)
    with atomic_folder(folder) as partial:
        _export(model, {name: tensor[:2] for name, tensor in inputs.items()}, partial / MODEL)
        if int8:
            _quantize(partial / MODEL, partial / INT8_MODEL)
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        files: dict[str, dict[str, float]] = {}
        for name in (MODEL, INT8_MODEL) if int8 else (MODEL,):
            apart = max(
                float(np.abs(run_onnx(partial / name, {k: v[part].numpy() for k, v in inputs.items()}) - logits).max())
                for part, logits in ((slice(0, 1), expected[:1]), (slice(None), expected))
            )
            files[name] = {"bytes": (partial / name).stat().st_size, "largest_difference": apart}
        if not files[MODEL]["largest_difference"] < _MAX_DIFFERENCE:
            raise InputError(
                f"the logits of the exported model differ by {files[MODEL]['largest_difference']:.2g}: nothing was "
                "written; please report this with the versions of torch and onnxruntime"
            )
        model.config.save_pretrained(partial)
        extractor.save_pretrained(partial)
        facts = {"model": exported, "inputs": list(inputs), "outputs": ["logits"], "files": files}
        write_json(partial / FACTS, {**facts, "environment": describe_environment()})
    return Exported(folder, files)


def run_onnx(path: Path, inputs: dict[str, np.ndarray], num_threads: int = 1) -> np.ndarray:
    """Logits `(batch_size, num_labels)` of an exported model for outputs of the feature extractor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], inputs)[0]


def _inputs(extractor: Any, count: int) -> dict[str, torch.Tensor]:
    """Model inputs of synthetic recordings with several heart rates, one of them without two leads if it may."""
    rng = np.random.default_rng(0)
    rate = 500
    waveforms = []
    for index in range(count):
        waveform = rng.normal(0, 0.02, (12, 10 * rate))
        for place in range(rate // 2, waveform.shape[1] - rate, round(rate * (0.6 + 0.15 * index))):
            waveform[:, place : place + rate // 20] += rng.uniform(0.3, 1, (12, 1)) * np.hanning(rate // 20)
        if index == count - 1 and extractor.missing_leads != "refused":
            waveform[7:9] = 0
        waveforms.append(waveform)
    features = extractor(waveforms, sampling_rate=rate, lead_names=STANDARD_LEADS, unit="mV", return_tensors="pt")
    names = [*extractor.model_input_names, *(["rhythm"] if extractor.rhythm_features else [])]
    return {name: torch.as_tensor(features[name]) for name in names}


def _export(model: nn.Module, inputs: dict[str, torch.Tensor], path: Path) -> None:
    names = list(inputs)
    batch = torch.export.Dim("batch_size", min=1, max=65536)
    # Silence progress messages and deprecation warnings of the exporter.
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            # Strict: traced otherwise, some vision backbones keep the batch size of the example.
            graph = torch.export.export(
                _Logits(model, names),
                tuple(inputs.values()),
                dynamic_shapes={"inputs": tuple({0: batch} for _ in names)},
                strict=True,
            )
            program = torch.onnx.export(graph, input_names=names, output_names=["logits"], dynamo=True, verbose=False)
            assert program is not None
            program.save(str(path))
    finally:
        quiet.setLevel(level)


def _quantize(path: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    # The quantizer infers shapes again, and refuses those that the exporter of torch 2.11 states wrongly.
    del model.graph.value_info[:]
    root = logging.getLogger()
    level = root.level
    try:
        root.setLevel(logging.ERROR)  # It recommends a preparation that changes nothing here.
        quantize_dynamic(model, str(target), weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)
