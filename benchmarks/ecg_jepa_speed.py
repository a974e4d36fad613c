"""
What ECG-JEPA's attention, encoder and pre-training step cost in the released design, and here.

    python benchmarks/ecg_jepa_speed.py           # base size, one thread, twelve minutes at most
    python benchmarks/ecg_jepa_speed.py --quick   # tiny size, seconds: does it run?

The plain form does what the released design does: every pair of patches is scored, the pairs that cross-pattern
attention leaves out are filled under a mask of floats, which every forward pass writes anew, and a softmax runs over
all. In a pre-training step it also embeds all patches before it takes the visible ones, predicts at all times before
it takes the hidden ones, and moves the teacher tensor by tensor. It is written here for the same modules, so that
weights, recordings and mask are the same; so is what is not compared, such as AdamW and the products that make
queries, keys and values. Before anything is timed, all forms must give the same numbers, and the same gradients; the
encoder and the step are asked with one recording, for the time it takes.

The forms take turns, in another order every time, and all cases are spread over several rounds, so that a machine
whose speed drifts is unfair to none. Times are medians, with the fastest and the slowest, of the processor's time that
the one thread used: where others want the same cores, waiting for them is not counted. `wall_seconds` is the median by
the clock, with the waiting. `saved_mib` is what a forward pass keeps for its backward pass, beside the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import REPOSITORY, describe_machine, write_csv
from torch.nn import functional as F
from transformers import AttentionInterface, set_seed
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from clear_hug_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
from clear_hug_hf.modeling.fast_ops import CrossPattern
from clear_hug_hf.modeling.modeling_ecg import eager_attention_forward
from clear_hug_hf.modeling.modeling_ecg_jepa import (
    TARGET_NORM_EPS,
    EcgJepaForPreTraining,
    EcgJepaModel,
    EcgJepaPredictor,
    cross_pattern,
    draw_time_mask,
    num_mask_draws,
    run_layers,
    seeded_uniforms,
)
from clear_hug_hf.training.pretraining import decay_groups


RESULTS = REPOSITORY / "benchmarks" / "results" / "ecg_jepa_speed.csv"
HIDDEN_TIMES = 27
"""Times that a mask of four blocks hides on average, of 50."""
ATTENTION_FORMS = {"factorised": "sparse"}
"""What the models call the forms that the results name."""
TOLERANCE = 1e-5
"""How far the numbers of two forms may be apart, as a share of the largest of them."""


# ---------------------------------------------------------------------------------------------------- the plain form


def written_mask(num_leads: int, num_times: int) -> torch.Tensor:
    """Cross-pattern attention as floats `(L * P, L * P)`, 1 where it is allowed, written slice by slice."""
    mask = torch.zeros(num_leads * num_times, num_leads * num_times)
    for lead in range(num_leads):
        own = slice(lead * num_times, (lead + 1) * num_times)
        mask[own, own] = 1.0
    for time_step in range(num_times):
        mask[time_step::num_times, time_step::num_times] = 1.0
    return mask


def plain_attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention over all pairs under a mask of floats: an attention function of transformers, named `"plain"`."""
    scores = (query @ key.transpose(-2, -1)) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(attention_mask == 0, float("-inf"))
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


AttentionInterface.register("plain", plain_attention_forward)


def plain_encoder(
    encoder: EcgJepaModel, input_values: torch.Tensor, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Last states of whole recordings in the plain form, for an encoder whose attention is set to `"plain"`.

    Args:
        encoder (`EcgJepaModel`):
            Its weights.
        input_values (`torch.Tensor` of shape `(B, L, T)`):
            Recordings with all leads and times.
        visible (`torch.BoolTensor` of shape `(P,)`, *optional*):
            Times to keep; by default all.

    Returns:
        `torch.Tensor` of shape `(B, L * P, D)`, or `(B, L * V, D)` of the visible times.
    """
    config = encoder.config
    patches = input_values.unflatten(2, (-1, config.patch_size)).flatten(1, 2)
    states = encoder.embeddings.patch_projection(patches)
    positions = encoder.embeddings.positions.flatten(0, 1)
    mask = written_mask(config.num_leads, config.num_patches)
    if visible is not None:
        kept = visible.repeat(config.num_leads)
        states, positions, mask = states[:, kept], positions[kept], mask[kept][:, kept]
    return encoder.norm(run_layers(encoder.layers, states, positions[None], mask, config))


def plain_predictor(predictor: EcgJepaPredictor, states: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """
    Predictions `(B, L * M, D)` from a student's states `(B, L * V, D)`, for the hidden times of `(P,)`; the head also
    runs at the visible ones.
    """
    batch_size, num_visible = len(states), int((~hidden).sum())
    tokens = predictor.embed(states).unflatten(1, (-1, num_visible)).flatten(0, 1)
    mask_tokens = predictor.mask_token.expand(len(tokens), int(hidden.sum()), -1)
    tokens = torch.cat((tokens, mask_tokens), dim=1)
    positions = torch.cat((predictor.positions[~hidden], predictor.positions[hidden]))
    tokens = run_layers(predictor.layers, tokens, positions[None], None, predictor.config)
    prediction = predictor.prediction(predictor.norm(tokens))[:, num_visible:]
    return prediction.reshape(batch_size, -1, prediction.shape[-1])


def plain_loss(model: EcgJepaForPreTraining, input_values: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """
    The loss of pre-training in the plain form, for a model whose attention is set to `"plain"`.

    Args:
        model (`EcgJepaForPreTraining`):
            Its weights; with the `smooth_l1` loss.
        input_values (`torch.Tensor` of shape `(B, L, T)`):
            Recordings with all leads and times.
        hidden (`torch.BoolTensor` of shape `(P,)`):
            True for times that are hidden.
    """
    with torch.no_grad():
        target = plain_encoder(model.teacher, input_values)
        target = F.layer_norm(target, target.shape[-1:], eps=TARGET_NORM_EPS)
        target = target[:, hidden.repeat(model.config.num_leads)]
    states = plain_encoder(model.ecg_jepa, input_values, ~hidden)
    return F.smooth_l1_loss(plain_predictor(model.predictor, states, hidden), target)


@torch.no_grad()
def plain_follow(teacher: EcgJepaModel, student: EcgJepaModel, kept: float) -> None:
    """The teacher's moving average, tensor by tensor: it keeps this share of itself."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.mul_(kept).add_((1.0 - kept) * new)


# -------------------------------------------------------------------------------------------------------- the cases


@dataclass
class Form:
    """One way to compute something: what is timed, the attention of the model meanwhile, and what must be equal."""

    run: Callable[[], Any]
    attention: str = "sdpa"
    check: Callable[[], tuple[torch.Tensor, ...]] | None = None
    seconds: list[float] = field(default_factory=list)
    wall_seconds: list[float] = field(default_factory=list)
    saved_mib: float | str = ""


@dataclass
class Case:
    """What is timed, in several forms of which the first is the plain one."""

    what: str
    batch_size: int
    repeats: int
    forms: dict[str, Form]


def attention_case(model: EcgJepaModel, what: str, batch_size: int, num_times: int, repeats: int) -> Case:
    """Attention alone, from queries, keys and values on, with its backward pass if `what` says so."""
    layer: Any = model.layers[0].attention
    config = model.config
    num_leads, num_tokens = config.num_leads, config.num_leads * num_times
    # As the layers make them: heads beside each other, seen from each head.
    shape = (batch_size, num_tokens, config.num_attention_heads, layer.head_dim)
    query, key, value = (torch.randn(shape).transpose(1, 2) for _ in range(3))
    upstream = torch.randn(shape)
    floats = written_mask(num_leads, num_times)
    allowed = cross_pattern(num_leads, num_times).reshape(1, 1, num_tokens, num_tokens)
    sdpa: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS["sdpa"]
    projections = (query, key, value)
    forms: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: plain_attention_forward(layer, *projections, floats, layer.scaling)[0],
        "eager": lambda: eager_attention_forward(layer, *projections, allowed, layer.scaling)[0],
        "SDPA": lambda: sdpa(layer, *projections, allowed, scaling=layer.scaling)[0],
        "factorised": lambda: CrossPattern(num_leads).attend(layer, *projections),
    }
    backward = "backward" in what

    def run(attend: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        for tensor in projections:
            tensor.requires_grad_(backward).grad = None
        output = attend()
        if not backward:
            return (output,)
        output.backward(upstream)
        return (output, *(tensor.grad for tensor in projections if tensor.grad is not None))

    return Case(what, batch_size, repeats, {name: Form(partial(run, attend)) for name, attend in forms.items()})


def mask_case(model: EcgJepaModel, repeats: int) -> Case:
    """What a forward pass does to know who attends to whom."""
    leads, times = model.config.num_leads, model.config.num_patches

    def kept() -> tuple[torch.Tensor, ...]:
        mask = model._attention_mask(leads, times, None, "dense")
        assert isinstance(mask, torch.Tensor)
        return (mask[0, 0],)

    forms = {"plain": Form(lambda: (written_mask(leads, times) == 1,)), "kept": Form(kept)}
    return Case("mask of all pairs", 1, repeats, forms)


def encoder_case(model: EcgJepaModel, input_values: torch.Tensor, repeats: int) -> Case:
    """The whole encoder without gradients, to the representation of the recordings."""

    @torch.no_grad()
    def run(form: str, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if form == "plain":
            states = plain_encoder(model, inputs)
            return states, states.mean(dim=1)
        output = model(inputs, attention_form=ATTENTION_FORMS.get(form, "dense"))
        return output.last_hidden_state, output.pooler_output

    attentions = {"plain": "plain", "eager": "eager", "SDPA": "sdpa", "factorised": "sdpa"}
    forms = {
        name: Form(partial(run, name, input_values), attention, partial(run, name, input_values[:1]))
        for name, attention in attentions.items()
    }
    return Case("encoder, forward", len(input_values), repeats, forms)


def step_case(model: EcgJepaForPreTraining, input_values: torch.Tensor, hidden: torch.Tensor) -> Case:
    """A whole step of pre-training. Every form goes on with the weights that the one before it left."""
    optimizer = torch.optim.AdamW(decay_groups(model, 0.05), lr=1e-6, fused=True)
    kept = (model.config.ema_start + model.config.ema_end) / 2

    # The first step makes AdamW's averages, which is not to be timed: one that goes nowhere.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()

    def differentiate(form: str, inputs: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor
        if form == "plain":
            loss = plain_loss(model, inputs, hidden)
        else:
            loss = model(inputs, bool_masked_pos=hidden, attention_form=ATTENTION_FORMS.get(form, form)).loss
        loss.backward()
        return loss.detach()

    def check(form: str) -> tuple[torch.Tensor, ...]:
        loss = differentiate(form, input_values[:1])
        return (loss, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None))

    def run(form: str) -> None:
        differentiate(form, input_values)
        optimizer.step()
        if form == "plain":
            plain_follow(model.teacher, model.ecg_jepa, kept)
        else:
            model.after_optimizer_step(0.5)

    forms = {
        name: Form(partial(run, name), "plain" if name == "plain" else "sdpa", partial(check, name))
        for name in ("plain", "factorised", "auto")
    }
    return Case("pre-training step", len(input_values), 1, forms)


def follow_case(model: EcgJepaForPreTraining, repeats: int) -> Case:
    """The teacher's moving average alone."""
    weights = list(model.teacher.parameters())
    kept = (model.config.ema_start + model.config.ema_end) / 2

    @torch.no_grad()
    def check(follow: Callable[[], None]) -> tuple[torch.Tensor, ...]:
        before = [weight.clone() for weight in weights]
        for weight in weights:
            weight.add_(0.5)  # a new teacher is the student
        follow()
        updated = tuple(weight.clone() for weight in weights)
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
        return updated

    ways: dict[str, Callable[[], None]] = {
        "plain": partial(plain_follow, model.teacher, model.ecg_jepa, kept),
        "together": partial(model.after_optimizer_step, 0.5),
    }
    forms = {name: Form(follow, check=partial(check, follow)) for name, follow in ways.items()}
    return Case("moving average", 1, repeats, forms)


def make_cases(model: EcgJepaForPreTraining, batch_size: int) -> list[Case]:
    """All that is timed, for a model in training mode."""
    config, encoder = model.config, model.ecg_jepa
    times = config.num_patches
    hidden = mean_mask(config)
    visible = int((~hidden).sum())
    input_values = 0.3 * torch.randn(batch_size, config.num_leads, config.num_samples)
    both = "forward and backward"
    return [
        attention_case(encoder, "attention, forward", batch_size, times, 4),
        attention_case(encoder, "attention, forward", 1, times, 8),
        attention_case(encoder, f"attention, {both}", batch_size, times, 3),
        attention_case(encoder, f"attention of the student, {both}", batch_size, visible, 4),
        mask_case(encoder, 8),
        encoder_case(encoder, input_values[:1], 2),
        encoder_case(encoder, input_values, 1),
        follow_case(model, 2),
        step_case(model, input_values, hidden),
    ]


def mean_mask(config: EcgJepaConfig) -> torch.Tensor:
    """The first mask, by seed, that hides as many times as masks do on average: `(P,)`, True where one is hidden."""
    for seed in range(10_000):
        uniforms = seeded_uniforms(seed, num_mask_draws(config, config.num_patches))
        mask = draw_time_mask(config, config.num_patches, uniforms)
        if sum(mask) == HIDDEN_TIMES:
            return torch.tensor(mask)
    raise ValueError(f"no mask of this config hides {HIDDEN_TIMES} times")


# ------------------------------------------------------------------------------------------------------- measuring


def check_forms(case: Case, model: EcgJepaForPreTraining) -> None:
    """Compute every form once, which is also the warm-up: all must give the numbers of the first."""
    expected: tuple[torch.Tensor, ...] | None = None
    for name, form in case.forms.items():
        model.set_attn_implementation(form.attention)
        results = tuple(result.detach() for result in (form.check or form.run)())
        if expected is None:
            expected = tuple(result.clone() for result in results)
        assert len(results) == len(expected)
        for result, other in zip(results, expected, strict=True):
            assert result.shape == other.shape
            difference = float((result.float() - other.float()).abs().max() / other.float().abs().max())
            assert difference < TOLERANCE, f"{case.what}, {name}: the numbers are {difference:.1e} apart"


@contextmanager
def noting_saved(form: Form, model: EcgJepaForPreTraining) -> Iterator[None]:
    """Note what a form keeps for its backward pass."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield
    if kept:
        form.saved_mib = round(sum(kept.values()) / 2**20, 1)


def time_forms(
    cases: list[Case], model: EcgJepaForPreTraining, rounds: int, quick: bool = False, until: float = float("inf")
) -> None:
    """Time all forms of all cases in turns, over and over, with no round that would end after `until`."""
    lasted = 0.0
    for number in range(rounds):
        started = time.perf_counter()
        if number and started + lasted > until:
            print("no time for more rounds", flush=True)
            break
        for case in cases:
            for repeat in range(1 if quick else case.repeats):
                names = list(case.forms)
                first = (number + repeat) % len(names)
                for name in [*names[first:], *names[:first]]:
                    form = case.forms[name]
                    model.set_attn_implementation(form.attention)
                    # Noting takes some microseconds for every tensor, once.
                    with nullcontext() if form.seconds else noting_saved(form, model):
                        before, before_wall = time.process_time(), time.perf_counter()
                        form.run()
                        form.seconds.append(time.process_time() - before)
                        form.wall_seconds.append(time.perf_counter() - before_wall)
        lasted = time.perf_counter() - started
        print(f"round {number + 1} of {rounds}: {lasted:.0f} s", flush=True)


def rows_of(cases: list[Case]) -> list[dict[str, Any]]:
    """The rows of the CSV."""
    machine = describe_machine("torch", "transformers")
    rows = []
    for case in cases:
        plain = statistics.median(next(iter(case.forms.values())).seconds)
        for name, form in case.forms.items():
            middle = statistics.median(form.seconds)
            rows.append(
                {
                    "what": case.what,
                    "form": name,
                    "batch_size": case.batch_size,
                    "seconds": f"{middle:.3g}",
                    "fastest": f"{min(form.seconds):.3g}",
                    "slowest": f"{max(form.seconds):.3g}",
                    "wall_seconds": f"{statistics.median(form.wall_seconds):.3g}",
                    "repetitions": len(form.seconds),
                    "times_plain": f"{plain / middle:.2f}",
                    "saved_mib": form.saved_mib,
                    "threads": torch.get_num_threads(),
                    **machine,
                }
            )
    return rows


def main() -> None:
    """Check and time every form, print a line each, and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all cases (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=12.0, help="of the whole run, at most (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="recordings (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny size, one round, everything once")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.relative_to(REPOSITORY)}, none with --quick")
    arguments = parser.parse_args()
    until = time.perf_counter() + 60 * arguments.minutes
    torch.set_num_threads(1)
    set_seed(0)
    model = EcgJepaForPreTraining(EcgJepaConfig.preset("tiny" if arguments.quick else "base")).train()
    cases = make_cases(model, arguments.batch_size)
    for case in cases:
        check_forms(case, model)
    print("all forms agree", flush=True)
    time_forms(cases, model, 1 if arguments.quick else arguments.rounds, arguments.quick, until)
    rows = rows_of(cases)
    for row in rows:
        print(
            f"{row['what']:46s} {row['batch_size']:3d}  {row['form']:10s} {row['seconds']:>9s} s "
            f"({row['fastest']} to {row['slowest']}), {row['times_plain']} times plain, {row['saved_mib']} MiB kept"
        )
    output = arguments.output or (None if arguments.quick else RESULTS)
    if output is not None:
        write_csv(output, rows)
        print(f"written: {output}")


if __name__ == "__main__":
    main()
