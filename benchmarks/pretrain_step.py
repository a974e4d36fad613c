"""
What a pre-training step of CLEAR costs: the plain form, each improvement alone, and all of them together.

    python benchmarks/pretrain_step.py                          # base, 32 recordings a step, on this machine
    python benchmarks/pretrain_step.py --size tiny --rounds 3
    python benchmarks/pretrain_step.py --data prepared/ptb-xl   # real recordings instead of made-up ones
    python benchmarks/pretrain_step.py --batch-size 256 --micro-batch-size 256 --workers 8   # a GPU, if there is one

The plain form is how the released code does it: eager attention under dense masks that are added to the scores, all 15
beats of all leads, torch's dropout, float32. Every form runs in a process of its own, for its memory, and the forms
take turns over several rounds, so that a machine whose speed drifts is unfair to none. Times are medians over steps.
`model_gflops` counts what the model needs for the beats that exist, forward and backward, whatever a form computes
beside that; its rate is compared with the rate of one large matrix product in the same process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import REPOSITORY, describe_machine, write_csv


PLAIN: dict[str, Any] = {
    "attention": "eager",
    "masks": "additive",
    "decoder": "dense",
    "dropout": "torch",
    "parts": False,
    "optimizer": "foreach",
    "precision": "no",
    "compile": False,
}
TOGETHER: dict[str, Any] = {
    **PLAIN,
    "attention": "sdpa",
    "masks": "boolean",
    "decoder": "auto",
    "dropout": "own",
    "parts": True,
    "optimizer": "fused",
}
FORMS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "boolean masks": {**PLAIN, "masks": "boolean"},
    "SDPA": {**PLAIN, "masks": "boolean", "attention": "sdpa always"},
    "decoder attends in pieces": {**PLAIN, "masks": "boolean", "decoder": "sparse"},
    "dropout from 16 bits": {**PLAIN, "dropout": "own"},
    "parts of like length": {**PLAIN, "parts": True},
    "fused AdamW": {**PLAIN, "optimizer": "fused"},
    "bf16": {**PLAIN, "precision": "bf16"},
    "compiled layers": {**PLAIN, "masks": "boolean", "compile": True},
    "all, fp32": TOGETHER,
    "all, bf16": {**TOGETHER, "precision": "bf16"},
    "all, bf16, compiled": {**TOGETHER, "precision": "bf16", "compile": True},
}
# Dense rates of bf16 matrix products [TFLOP/s], from the makers' data sheets.
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}


def main() -> None:
    """Measure every form, print a line each, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", help="preset of the model (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="recordings of a step (default: %(default)s)")
    parser.add_argument("--micro-batch-size", type=int, default=16, help="of a part (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="folder of `clear-hug prepare` (default: recordings made up)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of every form (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1], help="of the loader (default: %(default)s)")
    parser.add_argument(
        "--forms", nargs="+", choices=FORMS, default=list(FORMS), metavar="NAME", help="some forms only"
    )
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/pretrain_step_DEVICE_SIZE.csv")
    parser.add_argument("--form", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form is not None:
        print(json.dumps(_measure(arguments)))
        return

    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in [*arguments.forms, *_loaders(arguments)]}
    for number in range(arguments.rounds):
        for name, results in turns.items():
            results.append(_in_process(name))
            print(
                f"round {number + 1}  {name:28s} {results[-1]['recordings_per_second']:8.1f} recordings/s", flush=True
            )

    rows = [_row(name, results, arguments) for name, results in turns.items()]
    rates = {row["form"]: row["recordings_per_second"] for row in rows}
    machine = describe_machine("torch", "transformers", "accelerate")
    for row in rows:
        row["times_plain"] = round(row["recordings_per_second"] / rates["plain"], 2) if "plain" in rates else ""
        row |= machine
    output = arguments.output or (
        REPOSITORY / "benchmarks" / "results" / f"pretrain_step_{rows[0]['device'].split()[0]}_{arguments.size}.csv"
    )
    write_csv(output, rows)
    print(f"written: {output}")


def _loaders(arguments: argparse.Namespace) -> list[str]:
    return [f"loader, {count} workers" for count in arguments.workers]


def _in_process(form: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--form", form]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{form} failed:\n{done.stderr[-3000:]}")
    measurement: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measurement


def _row(name: str, turns: list[dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    row: dict[str, Any] = {
        "form": name,
        "size": arguments.size,
        "batch_size": arguments.batch_size,
        "device": turns[0]["device"],
        "recordings": "made up" if arguments.data is None else "prepared folder",
    }
    for part in ("load", "forward", "backward", "optimizer"):
        times = [time for turn in turns for time in turn.get(part, [])]
        row[f"{part}_s"] = round(statistics.median(times), 4) if times else ""
    rates = [rate for turn in turns for rate in turn["rates"]]
    row["recordings_per_second"] = round(statistics.median(rates), 2)
    row["slowest"], row["fastest"] = round(min(rates), 2), round(max(rates), 2)
    row["times_plain"] = ""
    row["peak_memory_mib"] = max((turn["memory_mib"] for turn in turns if "memory_mib" in turn), default="")
    if "model_gflops" in turns[0]:
        rate = row["recordings_per_second"] * turns[0]["model_gflops"] / 1000
        matmul = statistics.median(turn["matmul_tflops"] for turn in turns)
        row["model_gflops"] = round(turns[0]["model_gflops"], 2)
        row["model_tflops_per_second"] = round(rate, 3)
        row["matmul_tflops_per_second"] = round(matmul, 3)
        row["fraction_of_matmul"] = round(rate / matmul, 3)
        peak = next((peak for chip, peak in PEAK_TFLOPS.items() if chip in turns[0]["device"]), None)
        row["share_of_bf16_peak"] = "" if peak is None else round(rate / peak, 3)
    else:
        row |= dict.fromkeys(
            [
                "model_gflops",
                "model_tflops_per_second",
                "matmul_tflops_per_second",
                "fraction_of_matmul",
                "share_of_bf16_peak",
            ],
            "",
        )
    return row


# ------------------------------------------------------------------------------------------------------ one process


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from clear_hug_hf.data.collator import EcgCollator
    from clear_hug_hf.training.batches import StepCollator, StepPlan, step_loader
    from clear_hug_hf.training.pretraining import without_duck_shapes

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"cuda {torch.cuda.get_device_name()}" if device.type == "cuda" else "cpu"
    dataset, extractor = _recordings(arguments)
    form = FORMS.get(arguments.form, TOGETHER)
    most = arguments.micro_batch_size if form["parts"] else arguments.batch_size
    collate = StepCollator(EcgCollator(extractor, (), trim=form["parts"]), most, seed=0, with_seeds=True)
    plan = StepPlan(len(dataset), arguments.batch_size, 1000, seed=0)
    if arguments.form not in FORMS:
        workers = int(arguments.form.split()[1])
        return {"device": name, **_measure_loader(step_loader(dataset, plan, collate, 0, workers), arguments)}
    with without_duck_shapes():
        measurement = _measure_steps(form, iter(step_loader(dataset, plan, collate)), device, arguments)
    return {"device": name, **measurement}


def _recordings(arguments: argparse.Namespace) -> tuple[Any, Any]:
    import datasets
    import numpy as np

    from clear_hug_hf import ClearHugFeatureExtractor
    from clear_hug_hf.data.prepared import load_prepared

    columns = ["record_id", "sampling_rate", "signal", "signal_scale", "lead_mask", "r_peaks"]
    if arguments.data is not None:
        sets, extractor = load_prepared(arguments.data)
        return sets["train"].select_columns(columns), extractor
    generator = np.random.default_rng(0)
    rows = []
    for index in range(max(256, 2 * arguments.batch_size)):
        # Beats of 10 s as PTB-XL has them: 12 on average, 9 to 17 in nine of ten recordings.
        count = int(np.clip(round(generator.normal(12.0, 2.5)), 5, 20))
        rows.append(
            {
                "record_id": str(index),
                "sampling_rate": np.float32(100.0),
                "signal": generator.integers(-20000, 20000, (12, 1000), dtype=np.int16),
                "signal_scale": np.full(12, 1e-4, dtype=np.float32),
                "lead_mask": np.ones(12, dtype=bool),
                "r_peaks": np.linspace(20, 980, count).astype(np.int32),
            }
        )
    features = datasets.Features(
        {
            "record_id": datasets.Value("string"),
            "sampling_rate": datasets.Value("float32"),
            "signal": datasets.List(datasets.List(datasets.Value("int16")), length=12),
            "signal_scale": datasets.List(datasets.Value("float32"), length=12),
            "lead_mask": datasets.List(datasets.Value("bool"), length=12),
            "r_peaks": datasets.List(datasets.Value("int32")),
        }
    )
    return datasets.Dataset.from_list(rows, features=features), ClearHugFeatureExtractor()


def _measure_loader(loader: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    batches = iter(loader)
    for _ in range(4):  # workers start, and fill their queues
        next(batches)
    rates = []
    for _ in range(10 * arguments.steps):
        started = time.perf_counter()
        for _ in range(4):
            next(batches)
        rates.append(4 * arguments.batch_size / (time.perf_counter() - started))
    return {"rates": rates, "recordings_per_second": statistics.median(rates)}


def _measure_steps(form: dict[str, Any], steps: Any, device: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from clear_hug_hf import ClearHugConfig, ClearHugForPreTraining
    from clear_hug_hf.training.pretraining import compile_layers, decay_groups, scale_and_clip

    config = ClearHugConfig.preset(arguments.size, attention_form=form["decoder"])
    _apply(form)
    model = ClearHugForPreTraining(config).to(device).train()
    model.set_attn_implementation(form["attention"].split()[0])
    if form["compile"]:
        compile_layers(model)
    fused = {"fused": True} if form["optimizer"] == "fused" else {"foreach": True}
    optimizer = torch.optim.AdamW(decay_groups(model, 0.05), lr=1e-5, betas=(0.9, 0.98), **fused)

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    times: dict[str, list[float]] = {part: [] for part in ("load", "forward", "backward", "optimizer")}
    rates, flops = [], []
    warm_up = 2 if form["compile"] else 1
    for number in range(warm_up + arguments.steps):
        spent = dict.fromkeys(times, 0.0)
        before = clock()
        step = next(steps)
        spent["load"] = clock() - before
        weight = torch.zeros((), device=device)
        for batch in step.batches:
            flops.append(_model_flops(config, batch["attention_mask"].sum(dim=1).tolist()))
            before = clock()
            batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=form["precision"] == "bf16"):
                output = model(**batch)
            after = clock()
            (output.loss * output.loss_weight).backward()
            weight += output.loss_weight
            spent["forward"] += after - before
            spent["backward"] += clock() - after
        before = clock()
        scale_and_clip(model, 1 / weight, 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        spent["optimizer"] = clock() - before
        if number >= warm_up:
            rates.append(arguments.batch_size / sum(spent.values()))
            for part, seconds in spent.items():
                times[part].append(seconds)
    recordings = (warm_up + arguments.steps) * arguments.batch_size
    return {
        **times,
        "rates": rates,
        "recordings_per_second": statistics.median(rates),
        "memory_mib": _peak_memory(device),
        "model_gflops": sum(flops) / recordings / 1e9,
        "matmul_tflops": _matmul_tflops(device, torch.bfloat16 if form["precision"] == "bf16" else torch.float32),
    }


def _apply(form: dict[str, Any]) -> None:
    """Take back what the model does by itself, where a form is to be without it."""
    import torch
    from torch.nn import functional as F

    from clear_hug_hf.modeling import modeling_clear_hug, modeling_ecg

    if form["masks"] == "additive":
        for name in ("encoder_attention_mask", "decoder_attention_mask"):
            boolean = getattr(modeling_clear_hug, name)

            def additive(*args: Any, boolean: Any = boolean) -> torch.Tensor:
                allowed = boolean(*args)
                return torch.zeros((), device=allowed.device).masked_fill(~allowed, torch.finfo(torch.float32).min)

            setattr(modeling_clear_hug, name, additive)
    if form["dropout"] == "torch":
        modeling_ecg.fast_dropout = F.dropout  # type: ignore[assignment]
    if form["attention"] == "sdpa always":
        # On a CPU the model takes eager attention where there is dropout.
        modeling_ecg.eager_attention_forward = modeling_ecg.ALL_ATTENTION_FUNCTIONS["sdpa"]


def _model_flops(config: Any, counts: list[int]) -> float:
    """Floating-point operations of a step for recordings with these numbers of beats in each lead."""
    from clear_hug_hf.modeling.modeling_clear_hug import count_visible

    leads, total = config.num_leads, 0.0
    for count in counts:
        beats = leads * count
        visible = max(count_visible(beats, config.mask_ratio), 1)
        seen, hidden = leads + visible, beats - visible

        def layers(number: int, tokens: int, pairs: int, width: int, inner: int) -> float:
            return number * (2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * pairs * width)

        encoder_pairs = leads + visible + visible * seen
        total += layers(config.num_hidden_layers, seen, encoder_pairs, config.hidden_size, config.intermediate_size)
        seen_by_visible = visible if config.decoder_visible_attention == "all" else count
        decoder_pairs = leads + beats + hidden * (leads + 1) + visible * (seen_by_visible + 1)
        total += layers(
            config.decoder_num_hidden_layers,
            leads + beats,
            decoder_pairs,
            config.decoder_hidden_size,
            config.decoder_intermediate_size,
        )
        total += 2 * (visible * config.beat_length * config.hidden_size)
        total += 2 * (seen * config.hidden_size * config.decoder_hidden_size)
        total += 2 * (hidden * config.decoder_hidden_size * config.beat_length)
    return 3 * total  # the backward pass is two products for each of the forward pass


def _matmul_tflops(device: Any, dtype: Any) -> float:
    """Rate of one large matrix product: what a step could reach."""
    import torch

    size = 8192 if device.type == "cuda" else 2048
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(8):
        if device.type == "cuda":
            torch.cuda.synchronize()
        before = time.perf_counter()
        torch.matmul(first, second)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - before)
    return 2 * size**3 / statistics.median(times) / 1e12


def _peak_memory(device: Any) -> int:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() // 2**20
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return 0


if __name__ == "__main__":
    main()
