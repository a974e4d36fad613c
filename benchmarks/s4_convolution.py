"""
What the causal convolution of ECG-CPC's state space layers costs, and what a direct form by Fourier transforms does.

    python benchmarks/s4_convolution.py           # released size, one thread, minutes
    python benchmarks/s4_convolution.py --quick   # tiny size, seconds: does it run?

The direct form transforms kernels and states of twice their length, multiplies, and transforms back, in every call,
for kernels that are given. The layer keeps the transformed kernels in evaluation, takes a length that is fast to
transform, and convolves a few recordings at a time, which fit into the processor's caches. Before anything is timed,
both must give the same numbers. The kernels themselves, computed in float64 in each step of training and once in
evaluation, are a case of their own, beside the recurrence token by token from which they follow.

The forms take turns. Times are medians, with the fastest and the slowest, of the processor's time that the one thread
used: where others want the same cores, waiting for them is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import REPOSITORY, describe_machine, write_csv
from transformers import set_seed

from clear_hug_hf.modeling.configuration_ecg_cpc import EcgCpcConfig
from clear_hug_hf.modeling.modeling_ecg_cpc import EcgCpcModel
from clear_hug_hf.modeling.modeling_ecg_s4 import EcgS4StateSpace, NplrKernel


RESULTS = REPOSITORY / "benchmarks" / "results" / "s4_convolution.csv"
CASES = ((1, 300), (64, 300), (1, 1200), (16, 1200), (1, 4800))
"""Recordings and tokens: crops of 2.5 s, recordings of 10 s, and one of 40 s."""
TOLERANCE = 1e-4
"""How far the numbers of two forms may be apart, as a share of the largest of them."""
Forms = dict[str, Callable[[], torch.Tensor]]


def direct_convolution(states: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Causal convolution of states `(B, S, D)` with kernels `(D, S)` by transforms of length `2 S`."""
    num_tokens = states.shape[1]
    transformed = torch.fft.rfft(states.transpose(1, 2), n=2 * num_tokens)
    product = transformed * torch.fft.rfft(kernel, n=2 * num_tokens)
    return torch.fft.irfft(product, n=2 * num_tokens)[..., :num_tokens].transpose(1, 2)


def recurrence(kernel: NplrKernel, num_tokens: int) -> torch.Tensor:
    """Kernels `(D, num_tokens)` by stepping through the linear systems."""
    eigenvalues, left, right, inputs, outputs = (
        torch.cat((values, values.conj()), dim=1)
        for values in map(kernel._complex, ("eigenvalues", "left", "right", "input_weights", "output_weights"))
    )
    half = kernel.log_step.double().exp()[:, None, None] / 2
    matrix = torch.diag_embed(eigenvalues) - left[:, :, None] * right[:, None]
    identity = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    state_matrix = torch.linalg.solve(identity - half * matrix, identity + half * matrix)
    states = torch.linalg.solve(identity - half * matrix, 2 * half * inputs[..., None])
    outputs = outputs[:, None] @ torch.linalg.inv(identity - torch.linalg.matrix_power(state_matrix, kernel.length))
    values = []
    for _ in range(num_tokens):
        values.append((outputs @ states)[:, 0, 0].real)
        states = state_matrix @ states
    return torch.stack(values, dim=1)


def make_cases(layer: EcgS4StateSpace, quick: bool) -> dict[tuple[str, int, int], Forms]:
    """Forms by what is timed, number of recordings and number of tokens; the first form of each is the direct one."""
    layer_kernel: Any = layer.kernel
    width = layer_kernel.output_weights.shape[0]
    cases: dict[tuple[str, int, int], Forms] = {}
    for batch_size, num_tokens in CASES[:1] if quick else CASES:
        states = torch.randn(batch_size, num_tokens, width)
        kernel = layer_kernel(num_tokens).float()

        def run_direct(states: torch.Tensor = states, kernel: torch.Tensor = kernel) -> torch.Tensor:
            return direct_convolution(states, kernel)

        def run_layer(states: torch.Tensor = states) -> torch.Tensor:
            return layer.convolve(states)

        cases["convolution", batch_size, num_tokens] = {"direct": run_direct, "layer": run_layer}
    for num_tokens in dict.fromkeys(tokens for _, tokens in (CASES[:1] if quick else CASES)):

        def step(num_tokens: int = num_tokens) -> torch.Tensor:
            return recurrence(layer_kernel, num_tokens)

        def transform(num_tokens: int = num_tokens) -> torch.Tensor:
            return layer_kernel(num_tokens)

        cases["kernel", 1, num_tokens] = {"recurrence": step, "layer": transform}
    return cases


@torch.no_grad()
def main() -> None:
    """Check and time every form, print a line each, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds over all cases (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny size, one round")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.relative_to(REPOSITORY)}, none with --quick")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(0)
    model: Any = EcgCpcModel(EcgCpcConfig.preset("tiny" if arguments.quick else "base")).eval()
    cases = make_cases(model.layers[0].s4, arguments.quick)
    for (what, _, num_tokens), forms in cases.items():
        expected, *others = [run() for run in forms.values()]
        for other in others:
            difference = float((other - expected).abs().max() / expected.abs().max())
            assert difference < TOLERANCE, f"{what} of {num_tokens} tokens: the numbers are {difference:.1e} apart"
    print("all forms agree", flush=True)

    seconds: dict[tuple[Any, ...], list[float]] = {
        (*case, form): [] for case, forms in cases.items() for form in forms
    }
    for number in range(1 if arguments.quick else arguments.rounds):
        for case, forms in cases.items():
            for form in [*forms] if number % 2 else [*forms][::-1]:
                before = time.process_time()
                forms[form]()
                seconds[*case, form].append(time.process_time() - before)

    machine, rows = describe_machine("torch", "transformers"), []
    for (what, batch_size, num_tokens), forms in cases.items():
        first = statistics.median(seconds[what, batch_size, num_tokens, next(iter(forms))])
        for form in forms:
            times = seconds[what, batch_size, num_tokens, form]
            middle = statistics.median(times)
            row = {
                "what": what,
                "form": form,
                "batch_size": batch_size,
                "tokens": num_tokens,
                "seconds": f"{middle:.3g}",
                "fastest": f"{min(times):.3g}",
                "slowest": f"{max(times):.3g}",
                "repetitions": len(times),
                "times_first_form": f"{first / middle:.2f}",
                "threads": torch.get_num_threads(),
            }
            rows.append({**row, **machine})
            print("  ".join(f"{value:>11}" for value in row.values()))
    output = arguments.output or (None if arguments.quick else RESULTS)
    if output is not None:
        write_csv(output, rows)
        print(f"written: {output}")


if __name__ == "__main__":
    main()
