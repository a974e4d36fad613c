"""ECG-JEPA: the formulas of its description. `tests/systems` asks it what all models owe."""

import math
from functools import partial

import pytest
import torch
from small_systems import SMALL_SYSTEMS
from torch.nn import functional as F

from clear_hug_hf.modeling.configuration_ecg_jepa import EcgJepaConfig
from clear_hug_hf.modeling.fast_ops import CrossPattern
from clear_hug_hf.modeling.modeling_ecg import drop_path
from clear_hug_hf.modeling.modeling_ecg_jepa import (
    EcgJepaForPreTraining,
    EcgJepaForSequenceClassification,
    EcgJepaForTokenClassification,
    EcgJepaModel,
    cross_pattern,
    draw_time_mask,
    grid_positions,
    num_mask_draws,
    seeded_uniforms,
)


LEADS, TIMES, PATCH = 8, 12, 20
FORMS = [("eager", "dense"), ("sdpa", "dense"), ("sdpa", "sparse"), ("sdpa", "auto")]
with_each_form = pytest.mark.parametrize(("implementation", "form"), FORMS)
HIDDEN = torch.arange(TIMES) % 3 == 1


small_config = partial(SMALL_SYSTEMS["ecg_jepa"].config, num_labels=5)


def make_batch() -> dict[str, torch.Tensor]:
    """Two recordings: a whole one, and one of 9 patches that lacks V5 and V6."""
    return {name: entry for name, entry in SMALL_SYSTEMS["ecg_jepa"].make_batch().items() if name != "bool_masked_pos"}


def make_recordings(count: int = 2) -> torch.Tensor:
    return torch.randn(count, LEADS, TIMES * PATCH)


def as_grid(states: torch.Tensor) -> torch.Tensor:
    """`(B, L * P, D)` as `(B, L, P, D)`."""
    return states.unflatten(1, (LEADS, TIMES))


# Positions and pattern


def test_when_positions_are_made_then_they_hold_the_time_first_and_then_the_lead():
    positions = EcgJepaModel(EcgJepaConfig(num_hidden_layers=1)).embeddings.positions
    assert positions.shape == (8, 50, 768)
    token = positions[3, 7]
    for place, expected in ((0, 0.656987), (192, 0.753902), (384, 0.141120), (576, -0.989992)):
        assert token[place].item() == pytest.approx(expected, abs=1e-6)
    # The frequencies fall from 1 to nearly 1 / 10000, sines beside sines.
    assert token[100].item() == pytest.approx(math.sin(7 * 10_000 ** (-100 / 192)), abs=1e-6)
    predictor = grid_positions(1, 50, 384)[0]
    assert predictor[7, 192:].tolist() == [0.0] * 96 + [1.0] * 96


def test_when_the_pattern_is_made_then_each_patch_meets_its_lead_and_its_time():
    pattern = cross_pattern(8, 50).reshape(400, 400)
    assert pattern.sum(dim=1).eq(57).all()
    for row, column in ((0, 49), (0, 50), (51, 301), (399, 49)):
        assert pattern[row, column]
    for row, column in ((0, 51), (49, 50), (399, 48)):
        assert not pattern[row, column]


@pytest.mark.parametrize("pattern", ["cropa", "full"])
@with_each_form
def test_when_one_patch_changes_then_one_layer_changes_what_may_attend_to_it(implementation, form, pattern):
    config = small_config(num_hidden_layers=1, attn_implementation=implementation, attention_pattern=pattern)
    model = EcgJepaModel(config).eval()
    first = make_recordings(1)
    second = first.clone()
    second[0, 3, 5 * PATCH : 6 * PATCH] += 1.0
    if pattern == "full" and form == "sparse":
        with pytest.raises(ValueError, match="use 'auto' instead"):
            model(first, attention_form=form)
        return
    with torch.no_grad():
        states = [as_grid(model(entry, attention_form=form).last_hidden_state)[0] for entry in (first, second)]
    changed = (states[0] - states[1]).abs().amax(dim=2)
    meets = torch.full((LEADS, TIMES), pattern == "full")
    meets[3] = True
    meets[:, 5] = True
    assert changed[meets].gt(1e-4).all()
    assert changed[~meets].eq(0).all()


def test_when_positions_come_in_every_layer_then_it_is_not_the_same_as_in_the_first():
    every = EcgJepaModel(small_config()).eval()
    first = EcgJepaModel(small_config(position_injection="first_layer")).eval()
    first.load_state_dict(every.state_dict())
    recording = make_recordings(1)
    gap = every(recording).pooler_output - first(recording).pooler_output
    assert gap.abs().max() > 1e-2
    # One layer is the first of them.
    every.layers, first.layers = every.layers[:1], first.layers[:1]
    assert every(recording).pooler_output.equal(first(recording).pooler_output)


# Forms of attention


def call_for(name: str) -> dict[str, torch.Tensor]:
    batch = make_batch()
    whole = {"input_values": batch["input_values"]}
    each = torch.stack([torch.randperm(TIMES)[:5].sort().values for _ in range(2)])
    some = torch.tensor([1, 4, 5])
    return {
        "whole": whole,
        "masked": batch,
        "visible": {**whole, "kept_times": torch.tensor([0, 3, 4, 9, 11])},
        "visible of each": {**batch, "kept_times": each},
        "some leads": {
            **batch,
            "input_values": whole["input_values"][:, some],
            "lead_indices": some,
            "lead_mask": None,
        },
        "shorter": {"input_values": whole["input_values"][:, :, : 7 * PATCH]},
    }[name]


@pytest.mark.parametrize("name", ["whole", "masked", "visible", "visible of each", "some leads", "shorter"])
def test_when_forms_differ_then_numbers_and_gradients_agree(name):
    call = call_for(name)
    model = EcgJepaModel(small_config()).eval()
    outputs, gradients = [], []
    for implementation, form in FORMS:
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            outputs.append(model(**call, attention_form=form))
        model.zero_grad()
        model(**call, attention_form=form).pooler_output.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for key in ("last_hidden_state", "pooler_output", "lead_states"):
        for other in outputs[1:]:
            torch.testing.assert_close(other[key], outputs[0][key], atol=1e-5, rtol=0)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-4, rtol=1e-4)


def test_when_the_form_is_auto_then_it_is_dense_where_gradients_or_weights_are_wanted():
    model = EcgJepaModel(small_config()).eval()
    assert isinstance(model._attention_mask(LEADS, TIMES, None, None), torch.Tensor)
    with torch.no_grad():
        assert isinstance(model._attention_mask(LEADS, TIMES, None, None), CrossPattern)
        assert isinstance(model._attention_mask(LEADS, TIMES, None, "dense"), torch.Tensor)
        model.set_attn_implementation("eager")
        assert isinstance(model._attention_mask(LEADS, TIMES, None, None), torch.Tensor)
        output = model(**make_batch(), output_attentions=True)
    assert [tuple(weights.shape) for weights in output.attentions] == [(2, 4, 96, 96)] * 2
    with pytest.raises(ValueError, match="attention_form must be one of auto, dense, sparse, got 'other'"):
        model(torch.zeros(1, LEADS, TIMES * PATCH), attention_form="other")


def test_when_weights_are_asked_for_then_nothing_goes_to_missing_or_unrelated_patches():
    batch = make_batch()
    model = EcgJepaModel(small_config(attn_implementation="eager")).eval()
    real = (batch["lead_mask"][:, :, None] & batch["attention_mask"][:, None]).flatten(1)
    itself = torch.eye(96, dtype=torch.bool)
    for weights in model(**batch, output_attentions=True).attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 96))
        allowed = (cross_pattern(LEADS, TIMES).reshape(96, 96) & real[:, None, :]) | itself
        assert weights.masked_fill(allowed[:, None], 0).eq(0).all()
        assert weights[0].masked_fill(~allowed[0], 1).gt(0).all()


# What is missing


def partial_calls(part: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[int], list[int]]:
    """A call with masks, one with nothing but what these leave, and the leads and times that it holds."""
    recordings, leads, times = make_recordings(), list(range(LEADS)), list(range(TIMES))
    if part == "some leads":
        leads, some = [1, 2, 6], torch.tensor([1, 2, 6])
        given = {"input_values": recordings[:, leads], "lead_indices": some}
    elif part == "first seconds":
        times = list(range(7))
        recordings[:, :, 7 * PATCH :] = torch.nan  # whatever their values
        given = {"input_values": recordings[:, :, : 7 * PATCH]}
    else:
        times = [0, 1, 5, 8]
        given = {"input_values": recordings, "kept_times": torch.tensor(times)}
    lead_mask = torch.isin(torch.arange(LEADS), torch.tensor(leads)).expand(2, -1)
    attention_mask = torch.isin(torch.arange(TIMES), torch.tensor(times)).expand(2, -1)
    masked = {"input_values": recordings, "lead_mask": lead_mask, "attention_mask": attention_mask}
    return masked, given, leads, times


@pytest.mark.parametrize("part", ["some leads", "first seconds", "some times"])
@with_each_form
def test_when_parts_are_missing_then_it_is_as_if_only_the_others_were_given(implementation, form, part):
    model = EcgJepaModel(small_config(attn_implementation=implementation)).eval()
    masks, given, leads, times = partial_calls(part)
    real = masks["lead_mask"][..., None] & masks["attention_mask"].repeat_interleave(PATCH, dim=1)[:, None]
    with torch.no_grad():
        masked, subset = (model(**call, attention_form=form) for call in (masks, given))
        zeroed = model(masks["input_values"].masked_fill(~real, 0.0), attention_form=form)
    torch.testing.assert_close(masked.pooler_output, subset.pooler_output, atol=1e-5, rtol=0)
    torch.testing.assert_close(masked.lead_states[:, leads], subset.lead_states, atol=1e-5, rtol=0)
    states = as_grid(masked.last_hidden_state)[:, leads][:, :, times].flatten(1, 2)
    torch.testing.assert_close(states, subset.last_hidden_state, atol=1e-5, rtol=0)
    assert masked.lead_states[~masks["lead_mask"]].eq(0).all()
    # Zeros are a signal, not an absence.
    assert (zeroed.pooler_output - subset.pooler_output).abs().max() > 0.05


def test_when_masks_leave_nothing_out_then_it_is_as_without_them():
    recordings = make_recordings()
    model = EcgJepaModel(small_config()).eval()
    plain = model(recordings)
    full = model(recordings, lead_mask=torch.ones(2, LEADS), attention_mask=torch.ones(2, TIMES))
    assert full.last_hidden_state.equal(plain.last_hidden_state)
    states = as_grid(plain.last_hidden_state)
    torch.testing.assert_close(plain.lead_states, states.mean(dim=2))
    torch.testing.assert_close(plain.pooler_output, states.mean(dim=(1, 2)))


# Masks of pre-training


def draw_many(config: EcgJepaConfig, count: int, num_times: int = 50) -> torch.Tensor:
    draws = num_mask_draws(config, num_times)
    return torch.tensor(
        [draw_time_mask(config, num_times, seeded_uniforms(seed, draws)) for seed in range(count)]
    ).float()


def test_when_masks_are_random_then_they_hide_their_share_of_the_times():
    masks = draw_many(EcgJepaConfig(mask_type="random"), 4000)
    counts = masks.sum(dim=1)
    assert sorted(set(counts.tolist())) == [30, 31, 32, 33, 34]
    assert counts.mean().item() == pytest.approx(32, abs=0.1)
    assert masks.mean(dim=0).sub(0.64).abs().max() < 0.05


def test_when_masks_are_of_blocks_then_they_are_as_large_as_measured():
    released = draw_many(EcgJepaConfig(released_block_starts=True), 4000)
    counts = released.sum(dim=1)
    assert counts.mean().item() == pytest.approx(27.4, abs=0.3)
    assert 8 <= counts.min() <= 14
    assert 38 <= counts.max() <= 44
    # An off-by-one never hides the last time.
    chances = released.mean(dim=0)
    assert chances[49] == 0
    assert chances[0].item() == pytest.approx(0.095, abs=0.02)
    assert chances[25].item() == pytest.approx(0.656, abs=0.03)

    chances = draw_many(EcgJepaConfig(), 4000).mean(dim=0)
    assert chances[49].item() == pytest.approx(chances[0].item(), abs=0.02)
    assert chances[49] > 0.07
    # A mask of one block has no gaps.
    entry = draw_many(EcgJepaConfig(num_mask_blocks=1), 50)
    assert entry.diff(dim=1).abs().sum(dim=1).max() <= 2
    assert entry.sum(dim=1).min() >= 8


@pytest.mark.parametrize("mask_type", ["multi_block", "random"])
@pytest.mark.parametrize("num_times", [2, 3, 5])
def test_when_there_are_few_times_then_some_are_hidden_and_some_are_not(mask_type, num_times):
    counts = draw_many(EcgJepaConfig(mask_type=mask_type), 200, num_times).sum(dim=1)
    assert counts.min() >= 1
    assert counts.max() < num_times


def test_when_a_seed_is_given_then_it_alone_decides():
    model = EcgJepaForPreTraining(small_config()).train()
    recordings = make_recordings(3)

    def hidden(seed, rows=3):
        return model(recordings[:rows], seed=seed).bool_masked_pos[0, 0]

    assert hidden(7).equal(hidden(7))
    assert hidden(7).equal(hidden(7, rows=1))
    assert len({tuple(hidden(seed).tolist()) for seed in range(-3, 6)}) > 5
    in_training = hidden(7)
    model.eval()
    assert hidden(7).equal(in_training)


def test_when_in_training_then_masks_differ_and_in_evaluation_they_do_not():
    model = EcgJepaForPreTraining(small_config(mask_type="random")).train()
    recordings = make_recordings()
    masks = [model(recordings).bool_masked_pos for _ in range(6)]
    assert any(not mask.equal(masks[0]) for mask in masks)
    for mask in masks:
        assert mask.eq(mask[:1, :1]).all(), "one mask for all leads and recordings"
    first, second = (model(recordings, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.bool_masked_pos.equal(second.bool_masked_pos)
    model.eval()
    first, second = model(recordings), model(recordings)
    assert first.loss.equal(second.loss)
    assert model(recordings[1:]).bool_masked_pos[0].equal(first.bool_masked_pos[1])


def test_when_times_are_named_then_exactly_these_are_hidden():
    model = EcgJepaForPreTraining(small_config()).eval()
    recordings = make_recordings()
    together = model(recordings, bool_masked_pos=HIDDEN)
    assert together.bool_masked_pos.eq(HIDDEN).all()
    # Each recording may have its own.
    masks = torch.stack([HIDDEN, HIDDEN.roll(1)])
    each = model(recordings, bool_masked_pos=masks)
    assert each.bool_masked_pos.equal(masks[:, None].expand(-1, LEADS, -1))
    torch.testing.assert_close(each.prediction[0], together.prediction[0], atol=1e-5, rtol=0)
    alone = model(recordings[1:], bool_masked_pos=HIDDEN.roll(1))
    torch.testing.assert_close(each.prediction[1], alone.prediction[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(each.target[1], alone.target[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(each.loss * 2, model(recordings[:1], bool_masked_pos=HIDDEN).loss + alone.loss)


def test_when_samples_are_hidden_then_the_student_knows_nothing_of_them():
    model = EcgJepaForPreTraining(small_config()).eval()
    first = make_recordings()
    second = torch.where(HIDDEN.repeat_interleave(PATCH), torch.randn_like(first), first)
    entry, other = (
        model(recordings, bool_masked_pos=HIDDEN, output_hidden_states=True) for recordings in (first, second)
    )
    assert entry.prediction.equal(other.prediction)
    assert all(a.equal(b) for a, b in zip(entry.hidden_states, other.hidden_states, strict=True))
    assert entry.hidden_states[0].shape == (2, LEADS * 8, 32)
    assert (entry.target - other.target).abs().mean() > 0.1


def test_when_a_recording_is_short_then_its_own_times_are_hidden_and_the_others_are_as_alone():
    model = EcgJepaForPreTraining(small_config()).train()
    batch = make_batch()
    batch["input_values"][1, :, 9 * PATCH :] = torch.nan
    real = batch["lead_mask"][:, :, None] & batch["attention_mask"][:, None]
    for seed in range(30):
        output = model(**batch, seed=seed)
        hidden = output.bool_masked_pos
        assert not (hidden & ~real).any()
        assert output.loss.isfinite()
        assert output.loss_weight == hidden.sum()
        alone = model(batch["input_values"][:1], seed=seed)
        torch.testing.assert_close(output.prediction[0], alone.prediction[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output.target[0], alone.target[0], atol=1e-4, rtol=1e-4)
        # About the same share of the nine.
        fraction = hidden[0, 0].float().mean()
        assert abs(hidden[1, 0].sum() - 9 * fraction) <= 2
        if hidden[1, 0].any():
            cropped = {"input_values": batch["input_values"][1:, :6, : 9 * PATCH], "lead_indices": torch.arange(6)}
            alone = model(**cropped, bool_masked_pos=hidden[1, 0, :9])
            count = int(hidden[1, 0].sum())
            for name in ("prediction", "target"):
                here = output[name][1, :6, -count:]
                torch.testing.assert_close(here, alone[name][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mask_type", ["multi_block", "random"])
def test_when_recordings_have_any_length_then_hidden_and_visible_ones_have_room(mask_type):
    model = EcgJepaForPreTraining(EcgJepaConfig.preset("tiny", num_hidden_layers=1, mask_type=mask_type))
    lengths = torch.arange(51)
    attention_mask = torch.arange(50) < lengths[:, None]
    for seed in range(20):
        visible, hidden = model._choose_times(50, attention_mask, None, seed, None, torch.device("cpu"))
        both = torch.cat((visible, hidden), dim=1)
        assert both.sort(dim=1).values.eq(torch.arange(50)).all()
        drawn = torch.tensor(model._draw_mask(50, seed, None))
        for length in (50, 37, 10):
            shown = visible[length][visible[length] < length]
            taken = hidden[length][hidden[length] < length]
            assert len(shown) + len(taken) == length
            places = (torch.arange(length) + 0.5) * 50 / length
            assert set(taken.tolist()) == set(drawn[places.long()].nonzero().flatten().tolist())


def test_when_a_recording_shows_nothing_then_it_does_not_count():
    model = EcgJepaForPreTraining(small_config()).eval()
    batch = {
        "input_values": make_recordings(),
        "attention_mask": torch.ones(2, TIMES, dtype=torch.bool),
    }
    batch["attention_mask"][1] = HIDDEN  # only hidden times exist
    output = model(**batch, bool_masked_pos=HIDDEN)
    assert not output.bool_masked_pos[1].any()
    assert output.loss_weight == LEADS * HIDDEN.sum()
    alone = model(batch["input_values"][:1], bool_masked_pos=HIDDEN)
    torch.testing.assert_close(output.loss, alone.loss)
    batch["attention_mask"][:] = False
    nothing = model(**batch, bool_masked_pos=HIDDEN)
    assert (nothing.loss, nothing.loss_weight) == (0, 0)


def test_when_leads_are_missing_then_they_are_not_predicted():
    model = EcgJepaForPreTraining(small_config()).eval()
    recordings, kept = make_recordings(), torch.tensor([0, 3, 4])
    lead_mask = torch.zeros(2, LEADS, dtype=torch.bool)
    lead_mask[:, kept] = True
    masked = model(recordings, lead_mask=lead_mask, bool_masked_pos=HIDDEN)
    subset = model(recordings[:, kept], lead_indices=kept, bool_masked_pos=HIDDEN)
    torch.testing.assert_close(masked.loss, subset.loss)
    assert masked.loss_weight == subset.loss_weight == 2 * 3 * 4
    torch.testing.assert_close(masked.prediction[:, kept], subset.prediction, atol=1e-5, rtol=0)


# Teacher and loss


def test_when_the_target_is_made_then_it_is_the_teachers_view_of_everything():
    model = EcgJepaForPreTraining(small_config()).eval()
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    recordings = make_recordings()
    output = model(recordings, bool_masked_pos=HIDDEN)
    seen = as_grid(model.teacher(recordings).last_hidden_state)[:, :, HIDDEN]
    torch.testing.assert_close(output.target, F.layer_norm(seen, (32,)), atol=1e-5, rtol=1e-5)
    assert not output.target.requires_grad


@pytest.mark.parametrize(
    ("loss_type", "distance"),
    [("smooth_l1", F.smooth_l1_loss), ("l1", F.l1_loss), ("mse", F.mse_loss)],
)
def test_when_the_loss_is_chosen_then_it_is_that_of_prediction_and_target(loss_type, distance):
    model = EcgJepaForPreTraining(small_config(loss_type=loss_type)).eval()
    output = model(make_recordings())
    torch.testing.assert_close(output.loss, distance(output.prediction, output.target))
    assert output.loss_weight == output.prediction.shape[:3].numel()


def test_when_recordings_look_alike_then_the_alarm_rings():
    model = EcgJepaForPreTraining(small_config()).eval()
    alike = make_recordings(1).expand(4, -1, -1)
    assert model(alike).pooled_std < 1e-6
    output = model(make_recordings(4))
    assert output.pooled_std > 1e-2
    assert not output.pooled_std.requires_grad


def test_when_the_model_is_new_then_the_teacher_is_the_student_and_not_trained():
    model = EcgJepaForPreTraining(small_config())
    student = dict(model.ecg_jepa.named_parameters())
    assert (model.config.ema_start, model.config.ema_end) == (0.996, 1.0)
    for name, parameter in model.teacher.named_parameters():
        assert parameter.equal(student[name]), name
        assert not parameter.requires_grad
        assert parameter is not student[name]
    assert all(parameter.requires_grad for parameter in student.values())


def test_when_in_training_mode_then_the_teacher_is_not_unless_released():
    model = EcgJepaForPreTraining(small_config())
    assert model.training
    for mode in (True, False, True):
        model.train(mode)
        assert model.ecg_jepa.training == mode
        assert not any(module.training for module in model.teacher.modules())
    released = EcgJepaForPreTraining(small_config(teacher_drop_path=True, drop_path_rate=0.5)).train()
    assert released.teacher.training
    recordings = make_recordings()
    targets = [released(recordings, bool_masked_pos=HIDDEN).target for _ in range(8)]
    assert any(not target.equal(targets[0]) for target in targets)
    clean = EcgJepaForPreTraining(small_config(drop_path_rate=0.5)).train()
    targets = [clean(recordings, bool_masked_pos=HIDDEN).target for _ in range(8)]
    assert all(target.equal(targets[0]) for target in targets)


def test_when_trained_then_the_loss_falls_and_the_teacher_comes_along():
    model = EcgJepaForPreTraining(small_config(initializer_range=0.02, ema_start=0.9)).train()
    phases = torch.rand(16, 1, 1) * 6
    waves = torch.sin(torch.arange(TIMES * PATCH) / (4 + phases) + phases) * torch.linspace(0.5, 2, LEADS)[:, None]
    start = [parameter.clone() for parameter in model.teacher.parameters()]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(60):
        output = model(waves, seed=step)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        model.after_optimizer_step(step / 60)
        losses.append(output.loss.item())
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
    assert any(not old.equal(new) for old, new in zip(start, model.teacher.parameters(), strict=True))
    assert output.pooled_std > 1e-3


# Weights


def test_when_the_model_is_new_then_deeper_layers_write_less():
    model = EcgJepaForPreTraining(EcgJepaConfig.preset("tiny"))
    for layers in (model.ecg_jepa.layers, model.teacher.layers, model.predictor.layers):
        for depth, layer in enumerate(layers, start=1):
            for written in (layer.attention.o_proj, layer.fc2):
                assert written.weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * depth), rel=0.06)
                assert not written.bias.any()
            for other in (layer.attention.q_proj, layer.fc1):
                assert other.weight.std().item() == pytest.approx(0.02, rel=0.06)
            assert layer.attention.q_proj.bias is None
    assert EcgJepaModel(small_config(qkv_bias=True)).layers[0].attention.k_proj.bias is not None


def test_when_depth_is_stochastic_then_it_grows_and_keeps_the_mean():
    model = EcgJepaModel(small_config(num_hidden_layers=3, drop_path_rate=0.2))
    assert [layer.drop_path_rate for layer in model.layers] == pytest.approx([0.0, 0.1, 0.2])
    dropped = drop_path(torch.ones(20_000, 1, 3), 0.2, training=True)
    assert dropped.eq(dropped[:, :, :1]).all(), "a sequence is left out as a whole"
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0.0, 1.25])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)
    assert drop_path(dropped, 0.2, training=False) is dropped


def test_when_weights_are_bfloat16_then_the_sparse_form_works_too():
    model = EcgJepaForPreTraining(small_config(attention_form="sparse")).bfloat16().eval()
    output = model(**make_batch()).prediction
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()


# Outputs


def test_when_an_encoder_is_pretrained_further_then_its_teacher_starts_as_it(tmp_path):
    encoder = EcgJepaModel(small_config())
    encoder.save_pretrained(tmp_path)
    model, report = EcgJepaForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert all(key.startswith(("teacher.", "predictor.")) for key in report["missing_keys"])
    expected = encoder.state_dict()
    for part in (model.ecg_jepa, model.teacher):
        for name, tensor in part.state_dict().items():
            assert tensor.equal(expected[name]), name
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


# Classifiers


def test_when_a_recording_is_classified_then_its_pooled_state_decides():
    model = EcgJepaForSequenceClassification(small_config(classifier_dropout=0.5)).eval()
    batch = make_batch()
    torch.testing.assert_close(model(**batch).logits, model.classifier(model.ecg_jepa(**batch).pooler_output))
    # Two leads of their own.
    two = torch.tensor([1, 2])
    output = model(batch["input_values"][:1, two], lead_indices=two)
    assert output.logits.shape == (1, 5)


def test_when_samples_are_classified_then_each_has_its_place():
    model = EcgJepaForTokenClassification(small_config()).eval()
    recordings = make_recordings()
    logits = model(recordings).logits
    state = model.ecg_jepa(recordings).last_hidden_state[1, 3 * TIMES + 7]  # lead 3, time 7
    scores = F.linear(state, model.classifier.weight, model.classifier.bias).view(PATCH, 5)
    torch.testing.assert_close(logits[1, 3, 7 * PATCH + 11], scores[11], atol=1e-5, rtol=1e-5)


def test_when_samples_have_labels_then_unknown_and_missing_ones_do_not_count():
    model = EcgJepaForTokenClassification(small_config()).eval()
    batch = make_batch()
    labels = torch.randint(0, 5, (2, TIMES * PATCH))
    labels[:, 30:50] = -100
    output = model(**batch, labels=labels)
    each = labels[:, None].repeat(1, LEADS, 1)
    assert model(**batch, labels=each).loss.equal(output.loss)
    known = each != -100
    known &= batch["lead_mask"][:, :, None] & batch["attention_mask"].repeat_interleave(PATCH, dim=1)[:, None]
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits[known], each[known]))
    nothing = model(**batch, labels=torch.full_like(labels, -100))
    assert nothing.loss == 0
    with pytest.raises(ValueError, match="labels must have shape"):
        model(**batch, labels=labels[:, :-1])


# Bad input


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input_values", (2, 8, 0)),
        ("input_values", (2, 8, 230)),
        ("input_values", (2, 8, 260)),  # more patches than it holds
        ("attention_mask", (2, 8, 12)),
        ("bool_masked_pos", (3, 12)),
    ],
)
def test_when_an_input_has_another_shape_then_it_is_refused(name, shape):
    message = r" \(batch_size, 8 leads, a multiple of 20" if name == "input_values" else ""
    with pytest.raises(ValueError, match=f"{name} must have shape{message}"):
        EcgJepaForPreTraining(small_config())(**{"input_values": make_recordings(), name: torch.ones(shape)})


@pytest.mark.parametrize(
    "mask",
    [torch.zeros(12), torch.ones(12), torch.stack([HIDDEN, torch.arange(12) < 5]), torch.zeros(2, 12)],
)
def test_when_a_mask_hides_nothing_or_everything_or_unequally_then_it_is_refused(mask):
    model = EcgJepaForPreTraining(small_config())
    with pytest.raises(ValueError, match="bool_masked_pos must mask the same number of time steps in every recording"):
        model(make_recordings(), bool_masked_pos=mask)


def test_when_there_is_one_patch_per_lead_then_it_cannot_be_pretrained_on():
    with pytest.raises(ValueError, match="requires at least 2 patches per lead, got 1"):
        EcgJepaForPreTraining(small_config())(torch.zeros(1, LEADS, PATCH))


def test_when_lead_indices_do_not_fit_then_they_are_refused():
    model = EcgJepaModel(small_config())
    with pytest.raises(ValueError, match="lead_indices must be one-dimensional with 1 to 8 entries"):
        model(torch.zeros(1, 1, 40), lead_indices=torch.tensor(1))
    with pytest.raises(ValueError, match="2 leads, a multiple of 20"):
        model(torch.zeros(1, LEADS, 40), lead_indices=torch.tensor([1, 2]))
