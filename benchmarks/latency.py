"""
What a prediction costs: from a recording to its logits one by one, and from 64 prepared at once, in every form.

    python benchmarks/latency.py --models model_cards/*            # threads: all cores; pip install '.[export]'
    python benchmarks/latency.py --models runs/superclasses --record path/to/record

Forms: float32 as it is loaded, bfloat16, compiled (`torch.compile`), and ONNX with the same weights and with 8-bit
matrix products. Of each the largest difference of its logits from those in float32 is measured on 64 recordings. The
last rows are CLEAR-HUG at the released base size with the released attention and embedding, untrained: the same work.

    python benchmarks/latency.py --released --forms float32 --results benchmarks/results/encoder_latency.csv

measures all systems with released weights in place of the models: their base size, randomly initialized.

Writes `benchmarks/results/latency.csv`: medians of runs that take turns, with the fastest and the slowest.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import REPOSITORY, describe_machine, write_csv
from transformers import set_seed
from transformers.utils import logging

from clear_hug_hf import ClearHugConfig, ClearHugFeatureExtractor, ClearHugForSequenceClassification
from clear_hug_hf.data.records import read_record
from clear_hug_hf.data.simulation import simulate_recordings
from clear_hug_hf.hub.export import INT8_MODEL, MODEL, export_onnx
from clear_hug_hf.hub.model_card import RECORDING_CLASSIFIERS
from clear_hug_hf.systems import SYSTEMS
from clear_hug_hf.training.folders import load_model, save_model_folder


BATCH = 64
Form = Callable[[dict[str, Any]], np.ndarray]
ONNX, ONNX_INT8 = "ONNX", "ONNX, 8 bits"
FORMS = ("float32", "bfloat16", "compiled", ONNX, ONNX_INT8)


def make_forms(folder: Path, exported: Path, names: list[str]) -> tuple[Any, int, dict[str, Form]]:
    """Feature extractor, parameters, and how each form computes logits of what the extractor gives."""
    import onnxruntime

    model, extractor, _ = load_model(folder)
    if {ONNX, ONNX_INT8} & {*names}:
        export_onnx(folder, exported, int8=ONNX_INT8 in names)

    def by_torch(classifier: Any, dtype: torch.dtype = torch.float32) -> Form:
        def run(inputs: dict[str, Any]) -> np.ndarray:
            tensors = {name: torch.as_tensor(value) for name, value in inputs.items()}
            tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
            with torch.no_grad():
                return classifier(**tensors).logits.float().numpy()

        return run

    def by_onnx(name: str) -> Form:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Else its threads keep waiting at full speed, on the cores of the form whose turn is next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(str(exported / name), options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["logits"], {k: np.asarray(v) for k, v in inputs.items()})[0]

    makers: dict[str, Callable[[], Form]] = {
        "float32": lambda: by_torch(model),
        "bfloat16": lambda: by_torch(load_model(folder)[0].to(torch.bfloat16), torch.bfloat16),
        "compiled": lambda: by_torch(torch.compile(load_model(folder)[0], dynamic=True)),
        ONNX: lambda: by_onnx(MODEL),
        ONNX_INT8: lambda: by_onnx(INT8_MODEL),
    }
    return extractor, model.num_parameters(), {name: makers[name]() for name in names}


def measure(
    name: str, folder: Path, recordings: list[Any], repeats: int, batch_repeats: int, forms: list[str]
) -> list[dict[str, Any]]:
    """A row per form of a model."""
    with tempfile.TemporaryDirectory() as place:
        extractor, parameters, forms_by_name = make_forms(folder, Path(place) / "exported", forms)

        def prepare(some: list[Any]) -> dict[str, Any]:
            return dict(
                extractor(
                    [recording.waveform for recording in some],
                    sampling_rate=[recording.sampling_rate for recording in some],
                    lead_names=[list(recording.lead_names) for recording in some],
                    unit=[recording.unit for recording in some],
                    return_tensors="np",
                )
            )

        batch = prepare(recordings)
        expected = forms_by_name[forms[0]](batch)
        apart = {form: float(np.abs(forms_by_name[form](batch) - expected).max()) for form in forms[1:]}
        singles: dict[str, list[float]] = {form: [] for form in forms_by_name}
        batches: dict[str, list[float]] = {form: [] for form in forms_by_name}
        preparing: list[float] = []
        for run in forms_by_name.values():  # Warm up: compilation, caches.
            run(prepare(recordings[:1]))
        for repeat in range(repeats):
            single = [recordings[repeat % len(recordings)]]
            for form, run in forms_by_name.items():
                started = time.perf_counter()
                inputs = prepare(single)
                prepared = time.perf_counter()
                run(inputs)
                singles[form].append(time.perf_counter() - started)
                preparing.append(prepared - started)
                if repeat < batch_repeats:
                    started = time.perf_counter()
                    run(batch)
                    batches[form].append(time.perf_counter() - started)
    return [
        {
            "model": name,
            "form": form,
            "parameters": parameters,
            "ms_one": f"{1e3 * np.median(singles[form]):.2f}",
            "ms_one_fastest": f"{1e3 * min(singles[form]):.2f}",
            "ms_one_slowest": f"{1e3 * max(singles[form]):.2f}",
            "ms_preparing": f"{1e3 * np.median(preparing):.2f}",
            "recordings_per_s": f"{len(recordings) / np.median(batches[form]):.1f}",
            "largest_difference": f"{apart.get(form, 0.0):.2g}",
            "threads": torch.get_num_threads(),
        }
        for form in forms_by_name
    ]


def released_base(folder: Path) -> Path:
    """CLEAR-HUG at the released size, with the released attention and embedding, untrained."""
    set_seed(0)
    config = ClearHugConfig.preset("base", cls_attention="reference_bias", beat_embedding="conv", num_labels=5)
    save_model_folder(folder, ClearHugForSequenceClassification(config), ClearHugFeatureExtractor())
    return folder


def released_encoders(folder: Path) -> Iterator[Path]:
    """Each system with released weights at their size, randomly initialized, with a classifier of five labels."""
    for name, system in SYSTEMS.items():
        if system.converter is not None:
            set_seed(0)
            model = system.model("AutoModelForSequenceClassification")(system.config.preset("base", num_labels=5))
            save_model_folder(folder / name, model, system.feature_extractor())
            yield folder / name


def main() -> int:
    """Measure every model, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", type=Path, default=[], metavar="DIR", help="others than classifiers are passed over"
    )
    parser.add_argument("--released", action="store_true", help="measure all systems with released weights instead")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="%(default)s; the first is compared")
    parser.add_argument("--record", type=Path, metavar="FILE", help="a WFDB record; simulated ones by default")
    parser.add_argument("--repeats", type=int, default=50, metavar="N", help="%(default)s")
    parser.add_argument("--batch-repeats", type=int, default=5, metavar="N", help="for 64 recordings; %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch and ONNX")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks" / "results" / "latency.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    if arguments.record is not None:
        recordings = [read_record(arguments.record)] * BATCH
    else:
        recordings = simulate_recordings(8, seed=0)
        recordings = (recordings * BATCH)[:BATCH]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        base = Path(place) / "released base design, untrained"
        models = released_encoders(Path(place)) if arguments.released else [*arguments.models, released_base(base)]
        for folder in models:
            if not (folder / "config.json").is_file() or load_model(folder)[2] not in RECORDING_CLASSIFIERS:
                continue
            rows += measure(
                folder.name, folder, recordings, arguments.repeats, arguments.batch_repeats, [*arguments.forms]
            )
            for row in rows[-len(arguments.forms) :]:
                print(
                    {name: row[name] for name in ("model", "form", "ms_one", "recordings_per_s", "largest_difference")}
                )
    write_csv(arguments.results, [{**row, **describe_machine("torch", "onnxruntime", "transformers")} for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
