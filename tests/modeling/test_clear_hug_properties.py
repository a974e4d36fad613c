"""What depends on what, found out by changing inputs."""

from functools import partial

import pytest
import torch
from small_systems import SMALL_SYSTEMS
from small_systems import make_beats as make_batch

from clear_hug_hf import ClearHugForPreTraining, ClearHugForSequenceClassification, ClearHugModel
from clear_hug_hf.modeling.fast_ops import fast_dropout
from clear_hug_hf.modeling.modeling_clear_hug import (
    count_visible,
    decoder_attention_mask,
    encoder_attention_mask,
    normalize_beats,
    seeded_noise,
)
from clear_hug_hf.modeling.modeling_ecg import EcgModelOutput, seeded_counters


small_config = partial(SMALL_SYSTEMS["clear_hug"].config, num_labels=5)
TOLERANCE = 2e-5
NO_GUIDANCE = {"view_guidance": False, "conduction_guidance": False}
GUIDANCE = [{}, {"view_guidance": False}, {"conduction_guidance": False}, NO_GUIDANCE]


def changed(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Whether the vectors along the last dimension differ."""
    return (before - after).abs().amax(dim=-1) > TOLERANCE


def real_of(batch) -> torch.Tensor:
    """Which beats exist."""
    return batch["attention_mask"][:, None, :] & batch["lead_mask"][:, :, None]


def with_other_beats(batch, places: torch.Tensor) -> dict[str, torch.Tensor]:
    """The batch with something added to these beats."""
    return {**batch, "input_values": batch["input_values"] + torch.randn(96) * places[..., None]}


def allowed_by_the_paper(config, real, visible, *, decoder: bool) -> torch.Tensor:
    """The table of attention rules, one pair of tokens at a time."""
    batch_size, num_leads, num_beats = real.shape
    tokens = [(lead, None) for lead in range(num_leads)]
    tokens += [(lead, beat) for lead in range(num_leads) for beat in range(num_beats)]
    allowed = torch.zeros(batch_size, len(tokens), len(tokens), dtype=torch.bool)
    for sample in range(batch_size):
        for row, (lead, beat) in enumerate(tokens):
            for column, (key_lead, key_beat) in enumerate(tokens):
                key_exists = real[sample, key_lead].any() if key_beat is None else real[sample, key_lead, key_beat]
                key_is_visible = key_beat is not None and bool(visible[sample, key_lead, key_beat])
                own_summary = key_beat is None and key_lead == lead
                if config.full_attention:
                    sees = True
                elif beat is None:
                    sees = key_lead == lead or config.cls_attention == "full"
                elif not decoder:
                    sees = True
                elif visible[sample, lead, beat]:
                    released = config.decoder_visible_attention == "all"
                    sees = own_summary or (key_is_visible if released else key_beat is not None and key_lead == lead)
                else:
                    sees = (own_summary and config.view_guidance) or (key_beat == beat and config.conduction_guidance)
                allowed[sample, row, column] = (sees and bool(key_exists)) or row == column
    return allowed


@pytest.mark.parametrize(
    "fields",
    [*GUIDANCE, {"cls_attention": "full"}, {"decoder_visible_attention": "all"}, {"full_attention": True}],
)
def test_when_masks_are_built_then_they_are_the_papers(fields):
    config = small_config(lead_names=["I", "aVR", "V1"], num_beats=4, **fields)
    real = torch.rand(3, 3, 3) < 0.8
    real[1, 2] = False  # a missing lead
    real[2, :, 2] = False  # a missing beat
    visible = real & (torch.rand(3, 3, 3) < 0.5)
    expected = allowed_by_the_paper(config, real, visible, decoder=True)
    assert decoder_attention_mask(config, real, visible)[:, 0].equal(expected)

    positions = torch.tensor([[lead * 4 + beat for lead in range(3) for beat in range(3)]])
    mask = encoder_attention_mask(config, real.any(dim=2), real.flatten(1), positions)
    assert mask[:, 0].equal(allowed_by_the_paper(config, real, visible, decoder=False))


# What the encoder makes of a lead


@pytest.mark.parametrize(
    ("fields", "sees_others"),
    [
        ({"num_hidden_layers": 1}, False),
        ({"num_hidden_layers": 2}, True),  # through the beats
        ({"num_hidden_layers": 1, "cls_attention": "full"}, True),
    ],
)
def test_when_another_lead_changes_then_a_lead_state_changes_by_the_rules(fields, sees_others):
    batch = make_batch()
    model = ClearHugModel(small_config(**fields)).eval()
    before = model(**batch).lead_states
    batch["input_values"][:, 4] += torch.randn(96)
    lead_changed = changed(before, model(**batch).lead_states)
    expected = torch.full((2, 12), sees_others)
    expected[:, 4] = True
    assert lead_changed[0].equal(expected[0])
    assert lead_changed[1, :10].equal(expected[1, :10])
    assert sees_others or not lead_changed[1, 10:].any()


def test_when_amplitude_and_offset_of_beats_change_then_nothing_changes():
    batch = make_batch()
    model = ClearHugModel(small_config()).eval()
    before = model(**batch).lead_states
    batch["input_values"] = batch["input_values"] * 3.0 + 7.0
    torch.testing.assert_close(model(**batch).lead_states, before, atol=1e-4, rtol=0)


def test_when_beats_are_normalized_then_mean_and_unbiased_variance_are_gone():
    beats = torch.randn(2, 3, 4, 96) * 5 + 2
    real = torch.ones(2, 3, 4, dtype=torch.bool)
    real[0, 0, 0] = False
    beats[0, 0, 0] = torch.nan
    normal = normalize_beats(beats, real, 1e-6)
    assert normal[0, 0, 0].eq(0).all()
    torch.testing.assert_close(normal[1].std(dim=-1), torch.ones(3, 4))
    torch.testing.assert_close(normal[1].mean(dim=-1), torch.zeros(3, 4), atol=1e-6, rtol=0)
    expected = (beats[1] - beats[1].mean(-1, keepdim=True)) / (beats[1].var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(normal[1], expected)


# What a hidden beat is rebuilt from, given what the encoder made of the visible ones


class Rebuilt:
    """Beat 3 of lead 2 as a decoder of one layer rebuilds it: nothing reaches it but what it attends to."""

    def __init__(self, config, *visible_beats: tuple[int, int]):
        self.decoder = ClearHugForPreTraining(config).eval().decoder
        self.visible = torch.zeros(1, 12, 15, dtype=torch.bool)
        for lead, beat in visible_beats:
            self.visible[0, lead, beat] = True
        self.memory = torch.randn(1, 192, 32)
        self.before = self.rebuild(self.memory)

    def rebuild(self, memory: torch.Tensor) -> torch.Tensor:
        slots, real = torch.arange(180)[None], torch.ones(1, 12, 15, dtype=torch.bool)
        with torch.no_grad():
            return self.decoder(memory, slots, slots, self.visible, real)[0, 2, 3]

    def has_changed(self, memory: torch.Tensor | None = None) -> bool:
        return bool(changed(self.before, self.rebuild(self.memory if memory is None else memory)))

    def reacts_to(self, lead: int, beat: int | None = None) -> bool:
        """To what the encoder made of a beat, or of a lead."""
        other = self.memory.clone()
        other[0, lead if beat is None else 12 + lead * 15 + beat] += torch.randn(32)
        return self.has_changed(other)


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize(
    ("fields", "sees_same_beat", "sees_own_summary", "sees_rest"),
    [
        ({}, True, True, False),
        ({"view_guidance": False}, True, False, False),
        ({"conduction_guidance": False}, False, True, False),
        (NO_GUIDANCE, False, False, False),
        ({"full_attention": True}, True, True, True),
    ],
)
def test_when_decoder_memory_changes_then_a_hidden_beat_changes_by_the_rules(
    form, fields, sees_same_beat, sees_own_summary, sees_rest
):
    config = small_config(decoder_num_hidden_layers=1, attention_form=form, **fields)
    visible = [(lead, 3) for lead in range(12) if lead != 2]
    beat = Rebuilt(config, *visible, *((5, place) for place in range(8, 15)))
    assert beat.reacts_to(2) is sees_own_summary
    for lead in (0, 1, 11):
        assert beat.reacts_to(lead, 3) is sees_same_beat
    assert beat.reacts_to(7) is sees_rest  # the summary of another lead
    assert beat.reacts_to(5, 9) is sees_rest  # another beat of another lead
    assert not beat.reacts_to(2, 4)  # the values at the place of a hidden beat


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize(
    ("rule", "sees_other_visible", "sees_own_lead"), [("lead", False, True), ("all", True, False)]
)
def test_when_decoder_memory_changes_then_a_visible_beat_changes_by_the_rule(
    form, rule, sees_other_visible, sees_own_lead
):
    config = small_config(decoder_num_hidden_layers=1, attention_form=form, decoder_visible_attention=rule)
    beat = Rebuilt(config, (2, 3), (2, 8), (5, 9))
    assert beat.reacts_to(2)  # its summary
    assert not beat.reacts_to(7)  # another summary
    assert beat.reacts_to(2, 8)  # a visible beat of its lead
    assert beat.reacts_to(5, 9) is sees_other_visible
    assert not beat.reacts_to(5, 3)  # the same beat of another lead is hidden
    # Hidden beats start from their positions, which are parameters: the only trace of them in one layer.
    with torch.no_grad():
        beat.decoder.position_embeddings[0, 12 + 2 * 15 + 11] += torch.randn(24)
    assert beat.has_changed() is sees_own_lead


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "fields",
    [
        *GUIDANCE,
        {"decoder_visible_attention": "all"},
        {"cls_attention": "reference_bias", "beat_embedding": "conv", "decoder_visible_attention": "all"},
    ],
)
def test_when_the_decoder_attends_in_pieces_then_it_rebuilds_what_one_mask_does(fields, implementation):
    batch = make_batch(num_beats=13, real_beats=(13, 7, 1))
    batch["lead_mask"][2, :6] = False
    model = ClearHugForPreTraining(small_config(**fields)).eval()
    model.set_attn_implementation(implementation)
    outputs, gradients = [], []
    for form in ("dense", "sparse"):
        model.config.attention_form = form
        outputs.append(model(**batch))
        model.zero_grad()
        outputs[-1].loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    hidden = outputs[0].bool_masked_pos
    assert hidden.flatten(1).any(dim=1).all()
    torch.testing.assert_close(outputs[1].reconstruction[hidden], outputs[0].reconstruction[hidden])
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss)
    for dense, pieces in zip(*gradients, strict=True):
        torch.testing.assert_close(pieces, dense, atol=1e-5, rtol=1e-4)
    # Visible beats, too, and those named one by one.
    seen = real_of(batch) & ~hidden
    torch.testing.assert_close(outputs[1].reconstruction[seen], outputs[0].reconstruction[seen])
    named = model(**batch, bool_masked_pos=hidden)
    torch.testing.assert_close(named.reconstruction[hidden], outputs[0].reconstruction[hidden])


@pytest.mark.parametrize("fields", [{"full_attention": True}, {"cls_attention": "full"}])
def test_when_more_may_be_attended_to_than_the_pieces_hold_then_one_mask_is_used(fields):
    batch = make_batch()
    model = ClearHugForPreTraining(small_config(attention_form="sparse", **fields)).eval()
    pieces = model(**batch).reconstruction
    model.config.attention_form = "dense"
    torch.testing.assert_close(model(**batch).reconstruction, pieces, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("fields", "leaks"),
    [
        ({}, False),
        ({"full_attention": True}, False),
        ({"cls_attention": "reference_bias"}, False),
        ({"beat_embedding": "conv"}, True),  # the released convolution reads hidden neighbors
    ],
)
def test_when_beats_change_then_hidden_ones_change_no_reconstruction_and_visible_ones_all(fields, leaks):
    batch, noise = make_batch(), torch.rand(2, 12, 15)
    model = ClearHugForPreTraining(small_config(**fields)).eval()
    before = model(**batch, noise=noise)
    hidden = before.bool_masked_pos
    after = model(**with_other_beats(batch, hidden), noise=noise)
    assert changed(before.target, after.target)[hidden].all()
    if leaks:
        assert changed(before.reconstruction, after.reconstruction).any()
    else:
        torch.testing.assert_close(after.reconstruction, before.reconstruction)
    after = model(**with_other_beats(batch, real_of(batch) & ~hidden), noise=noise)
    assert changed(before.reconstruction, after.reconstruction)[hidden].all()


# Missing beats and leads

ALL_FORMS = [
    {},
    {"full_attention": True},
    {"cls_attention": "full"},
    {"cls_attention": "reference_bias"},
    {"beat_embedding": "conv"},
]


@pytest.mark.parametrize("fields", ALL_FORMS)
def test_when_missing_beats_and_leads_hold_anything_then_nothing_changes(fields):
    batch = make_batch()
    noise = torch.rand(2, 12, 15)
    real = real_of(batch)
    other = {**batch, "input_values": batch["input_values"].clone(), "time_ids": batch["time_ids"].clone()}
    other["input_values"][~real] = torch.nan
    other["time_ids"][~batch["attention_mask"]] = 7

    model = ClearHugModel(small_config(**fields)).eval()
    before, after = model(**batch), model(**other)
    torch.testing.assert_close(after.lead_states, before.lead_states)
    states, other_states = before.last_hidden_state[:, 12:], after.last_hidden_state[:, 12:]
    torch.testing.assert_close(other_states[real.flatten(1)], states[real.flatten(1)])
    assert other_states.isfinite().all()

    pretraining = ClearHugForPreTraining(small_config(**fields)).eval()
    before, after = pretraining(**batch, noise=noise), pretraining(**other, noise=noise)
    torch.testing.assert_close(after.loss, before.loss)
    torch.testing.assert_close(after.reconstruction[real], before.reconstruction[real])


@pytest.mark.parametrize("fields", ALL_FORMS)
def test_when_a_batch_is_trimmed_to_its_longest_then_numbers_stay(fields):
    full, trimmed = make_batch(15, (11, 9)), make_batch(11, (11, 9))
    noise = torch.rand(2, 12, 15)
    config = small_config(**fields)
    model = ClearHugForSequenceClassification(config).eval()
    torch.testing.assert_close(model(**trimmed).logits, model(**full).logits, atol=1e-5, rtol=0)

    pretraining = ClearHugForPreTraining(config).eval()
    for full_noise, trimmed_noise in ((noise, noise[:, :, :11]), (None, None)):
        before, after = pretraining(**full, noise=full_noise), pretraining(**trimmed, noise=trimmed_noise)
        assert after.bool_masked_pos.equal(before.bool_masked_pos[:, :, :11])
        torch.testing.assert_close(after.loss, before.loss, atol=1e-5, rtol=0)
    drawn = [pretraining(**batch, generator=torch.Generator().manual_seed(5)) for batch in (full, trimmed)]
    assert drawn[1].bool_masked_pos.equal(drawn[0].bool_masked_pos[:, :, :11])


@pytest.mark.parametrize("fields", ALL_FORMS)
def test_when_recordings_come_one_by_one_then_numbers_are_those_of_the_batch(fields):
    """Also with the masks that evaluation draws, and beside recordings of one beat."""
    batch = make_batch(15, (15, 9, 1))
    model = ClearHugForPreTraining(small_config(**fields)).eval()
    together = model(**batch)
    alone = [model(**{name: value[i : i + 1] for name, value in batch.items()}) for i in range(3)]
    assert together.bool_masked_pos.equal(torch.cat([output.bool_masked_pos for output in alone]))
    reconstruction, real = torch.cat([output.reconstruction for output in alone]), real_of(batch)
    torch.testing.assert_close(together.reconstruction[real], reconstruction[real], atol=1e-5, rtol=0)
    weights = torch.stack([output.loss_weight for output in alone])
    assert weights.diff().lt(0).all()
    assert weights.sum() == together.loss_weight == together.bool_masked_pos.sum()
    total = (torch.stack([output.loss for output in alone]) * weights).sum() / weights.sum()
    torch.testing.assert_close(total, together.loss)


def test_when_beats_are_missing_in_one_lead_only_then_a_mask_per_lead_marks_it():
    batch = make_batch(15, (15, 15))
    attention_mask = torch.ones(2, 12, 15, dtype=torch.bool)
    attention_mask[0, 3, 4:] = False
    attention_mask[1, 10:] = False
    model = ClearHugForSequenceClassification(small_config()).eval()
    before = model(batch["input_values"], attention_mask=attention_mask).logits
    batch["input_values"][0, 3, 4:] = 9.0
    torch.testing.assert_close(model(batch["input_values"], attention_mask=attention_mask).logits, before)
    # A lead without beats is a missing lead.
    by_lead = model(batch["input_values"][1:], lead_mask=batch["lead_mask"][1:]).logits
    torch.testing.assert_close(by_lead, before[1:])


def test_when_nothing_was_recorded_then_nothing_is_hidden_and_gradients_are_finite():
    model = ClearHugForPreTraining(small_config())
    output = model(**make_batch(15, (0,)))
    output.loss.backward()
    assert output.loss == 0
    assert not output.bool_masked_pos.any()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# Which beats are hidden


@pytest.mark.parametrize("mask_ratio", [0.5, 0.75, 0.8, 0.9, 1 / 3])
def test_when_beats_are_hidden_then_each_recording_hides_its_share(mask_ratio):
    model = ClearHugForPreTraining(small_config(mask_ratio=mask_ratio)).eval()
    counts = torch.arange(0, 16)
    attention_mask = torch.arange(15) < counts[:, None]
    masked = model(
        torch.randn(16, 12, 15, 96), attention_mask=attention_mask, noise=torch.rand(16, 12, 15)
    ).bool_masked_pos
    assert not (masked & ~attention_mask[:, None, :]).any()
    hidden = masked.sum(dim=(1, 2))
    expected = counts * 12 - (counts * 12 * (1 - mask_ratio) + 0.5 + 1e-3).floor()
    assert hidden.tolist() == expected.tolist()


@pytest.mark.parametrize("mask_ratio", [0.1, 0.5, 0.75, 0.8, 0.85, 0.9, 0.99])
def test_when_visible_beats_are_counted_then_slots_always_suffice(mask_ratio):
    numbers = torch.arange(0, 500)
    counts = count_visible(numbers, mask_ratio)
    assert counts.tolist() == [count_visible(int(number), mask_ratio) for number in numbers]
    assert (counts.diff() >= 0).all()


def test_when_noise_is_given_then_the_lowest_stays_visible():
    batch = make_batch()
    model = ClearHugForPreTraining(small_config())
    noise = torch.rand(2, 12, 15)
    first, second = (model(**batch, noise=noise).bool_masked_pos for _ in range(2))
    assert first.equal(second)
    real = real_of(batch)
    for sample in range(2):
        seen = noise[sample][real[sample] & ~first[sample]]
        assert seen.max() < noise[sample][first[sample]].min()
    assert not first[0].equal(first[1])


def test_when_seeds_are_given_then_a_recording_hides_the_same_beats_in_any_batch():
    model = ClearHugForPreTraining(small_config()).train()
    batch = make_batch(real_beats=(12, 12))
    seeds = torch.tensor([3, -(2**62)])
    first = model(**batch, seeds=seeds).bool_masked_pos
    torch.manual_seed(5)
    turned = {name: value.flip(0) for name, value in batch.items()}
    turned["lead_mask"] = batch["lead_mask"]
    trimmed = {
        "input_values": batch["input_values"][:, :, :12],
        "attention_mask": batch["attention_mask"][:, :12],
        "lead_mask": batch["lead_mask"],
    }
    assert torch.equal(model(**trimmed, seeds=seeds).bool_masked_pos, first[:, :, :12])
    assert torch.equal(model.eval()(**batch, seeds=seeds).bool_masked_pos, first)
    full = {**batch, "lead_mask": torch.ones_like(batch["lead_mask"])}
    both, alone = model(**full, seeds=seeds), {name: value[1:] for name, value in full.items()}
    assert torch.equal(model(**alone, seeds=seeds[1:]).bool_masked_pos, both.bool_masked_pos[1:])
    assert not torch.equal(both.bool_masked_pos[0], both.bool_masked_pos[1])


def test_when_noise_comes_from_seeds_then_it_is_uniform_and_every_recordings_own():
    noise = seeded_noise(torch.arange(2000), seeded_counters(12, 15)).flatten(1)
    assert noise.min() >= 0
    assert noise.max() < 1
    counts = torch.histc(noise, bins=10, min=0, max=1) / noise.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=2e-3, rtol=0)
    # Neither neighboring seeds nor neighboring beats go together.
    for first, second in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        correlation = torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1]
        assert correlation.abs() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_when_values_are_dropped_then_share_scale_and_gradient_are_those_of_dropout(dtype):
    states = torch.ones(999, 1001, dtype=dtype, requires_grad=True)
    dropped = fast_dropout(states, 0.1, True)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.9, abs=2e-3)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 1 / 0.9), atol=1e-4, rtol=1e-2)
    dropped.sum().backward()
    assert torch.equal(states.grad != 0, kept)
    # No pattern along rows or columns.
    assert kept.float().mean(dim=0).std() < 0.02
    assert kept.float().mean(dim=1).std() < 0.02
    assert fast_dropout(states, 0.1, False) is states
    assert fast_dropout(states, 0.0, True) is states


def test_when_training_then_every_step_and_recording_hides_other_beats_unless_seeded():
    batch = make_batch(15, (15, 15))
    batch.pop("lead_mask")
    model = ClearHugForPreTraining(small_config()).train()
    first, second = (model(**batch).bool_masked_pos for _ in range(2))
    assert not first.equal(second)
    assert not first[0].equal(first[1])
    seeded = [model(**batch, generator=torch.Generator().manual_seed(seed)).bool_masked_pos for seed in (3, 3, 4)]
    assert seeded[0].equal(seeded[1])
    assert not seeded[0].equal(seeded[2])


def test_when_evaluating_then_results_are_deterministic():
    batch = make_batch()
    config = small_config()
    model = ClearHugForPreTraining(config).eval()
    first = model(**batch)
    torch.rand(7)
    second = model(**batch)
    assert first.loss.equal(second.loss)
    assert first.reconstruction.equal(second.reconstruction)
    # Another model, and another precision, hide the same beats.
    assert ClearHugForPreTraining(config).eval().bfloat16()(**batch).bool_masked_pos.equal(first.bool_masked_pos)


def test_when_hidden_beats_are_named_then_exactly_they_are_hidden_as_with_noise():
    batch = make_batch()
    model = ClearHugForPreTraining(small_config()).eval()
    by_noise = model(**batch, noise=torch.rand(2, 12, 15))
    by_name = model(**batch, bool_masked_pos=by_noise.bool_masked_pos)
    assert by_name.bool_masked_pos.equal(by_noise.bool_masked_pos)
    real = real_of(batch)
    torch.testing.assert_close(by_name.reconstruction[real], by_noise.reconstruction[real], atol=1e-5, rtol=0)
    torch.testing.assert_close(by_name.loss, by_noise.loss)


def test_when_the_loss_is_computed_then_it_is_the_mean_over_hidden_beats():
    output = ClearHugForPreTraining(small_config()).eval()(**make_batch())
    errors = (output.reconstruction - output.target).square().mean(dim=-1)
    torch.testing.assert_close(output.loss, errors[output.bool_masked_pos].mean())


# Heads


def test_when_leads_are_missing_then_hug_means_run_over_those_present():
    model = ClearHugForSequenceClassification(small_config()).eval()
    states = torch.randn(1, 12, 32)
    present = torch.ones(1, 12, dtype=torch.bool)
    present[0, [2, 3, 4, 5]] = False  # III, and the whole second group
    feature, groups = model.head(EcgModelOutput(lead_states=states, present_leads=present))

    maps, pairs, everything = model.head.group_maps, model.head.pair_maps, model.head.all_maps[0]
    g1 = torch.stack([maps[0](states[:, lead]) for lead in (0, 1)]).mean(0)
    g3 = torch.stack([maps[2](states[:, lead]) for lead in range(6, 12)]).mean(0)
    p12, p23, p13 = pairs[0](g1), pairs[1](g3), (pairs[2](g1) + pairs[2](g3)) / 2
    top = (everything(p12) + everything(p23) + everything(p13)) / 3
    expected = torch.stack((g1, torch.zeros_like(g1), g3, p12, p23, p13, top), dim=1)
    torch.testing.assert_close(groups, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(feature, (g1 + g3 + p12 + p23 + p13 + top) / 6, atol=1e-5, rtol=1e-5)


def test_when_the_head_is_simpler_then_it_averages_as_in_the_paper():
    states = torch.randn(2, 12, 32)
    present = torch.ones(2, 12, dtype=torch.bool)
    present[1, 6:] = False
    outputs = EcgModelOutput(lead_states=states, present_leads=present)

    mean = ClearHugForSequenceClassification(small_config(head_type="mean")).head(outputs)[0]
    torch.testing.assert_close(mean, torch.stack((states[0].mean(0), states[1, :6].mean(0))))

    weighted = ClearHugForSequenceClassification(small_config(head_type="weighted")).head
    scores = weighted.score(states)[1, :6].softmax(dim=0)
    torch.testing.assert_close(weighted(outputs)[0][1], (scores * states[1, :6]).sum(0))

    single = ClearHugForSequenceClassification(small_config(head_type="single_level")).head
    groups = [[0, 1, 2], [3, 4, 5], list(range(6, 12))]
    combinations = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    assert len(single.maps) == 7
    vectors = [
        layer(states[0, [lead for g in combination for lead in groups[g]]]).mean(0)
        for layer, combination in zip(single.maps, combinations, strict=True)
    ]
    torch.testing.assert_close(single(outputs)[0][0], torch.stack(vectors).mean(0), atol=1e-5, rtol=1e-5)


def test_when_leads_make_one_group_then_hug_is_refused():
    with pytest.raises(ValueError, match="head_type='hug' requires at least two"):
        ClearHugForSequenceClassification(small_config(lead_names=["I", "II", "III"]))
    model = ClearHugForSequenceClassification(small_config(lead_names=["I", "II", "III"], head_type="mean")).eval()
    assert model(torch.randn(1, 3, 4, 96)).logits.shape == (1, 5)


def test_when_leads_and_groups_are_others_then_shapes_follow():
    config = small_config(lead_names=["X", "Y", "Z", "II"], lead_groups=[["X"], ["Y"], ["Z"], ["II"]])
    output = ClearHugForSequenceClassification(config).eval()(torch.randn(2, 4, 7, 96))
    assert output.group_states.shape == (2, 4 + 6 + 1, 32)
    assert ClearHugForPreTraining(config).eval()(torch.randn(2, 4, 7, 96)).reconstruction.shape == (2, 4, 7, 96)


def test_when_beat_features_are_used_then_those_of_visible_beats_matter_and_no_others():
    batch = make_batch()
    batch["beat_features"] = torch.randn(2, 12, 15, 3)
    model = ClearHugForPreTraining(small_config(use_beat_features=True)).eval()
    before = model(**batch)
    hidden = before.bool_masked_pos
    of_hidden = {**batch, "beat_features": torch.where(hidden[..., None], 9.0, batch["beat_features"])}
    torch.testing.assert_close(model(**of_hidden).reconstruction, before.reconstruction)
    real = real_of(batch)
    of_missing = {**batch, "beat_features": torch.where(real[..., None], batch["beat_features"], 9.0)}
    torch.testing.assert_close(model(**of_missing).reconstruction[hidden], before.reconstruction[hidden])
    of_visible = {**batch, "beat_features": torch.where(hidden[..., None], batch["beat_features"], 9.0)}
    assert changed(before.reconstruction[hidden], model(**of_visible).reconstruction[hidden]).any()
