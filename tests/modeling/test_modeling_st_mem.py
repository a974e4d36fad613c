"""ST-MEM gives the released numbers, and leaves out what is missing. `tests/systems` tests what all models share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from released import Released
from small_systems import SMALL_SYSTEMS

from clear_hug_hf.hub.convert_st_mem import convert_st_mem_state_dict
from clear_hug_hf.modeling.configuration_st_mem import StMemConfig
from clear_hug_hf.modeling.modeling_st_mem import StMemForPreTraining, StMemForSequenceClassification, StMemModel


CASES = ["short", "random", "mv500", "nu100", "long500"]
HEADS = {"num_attention_heads": 2}
each_implementation = pytest.mark.parametrize("implementation", ["eager", "sdpa"])


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_st_mem_small.safetensors")


@pytest.fixture(scope="module")
def small() -> Any:
    torch.manual_seed(0)
    return SMALL_SYSTEMS["st_mem"].classifier(SMALL_SYSTEMS["st_mem"].config(num_labels=3)).eval()


def _classifier(released: Released, part: str | None = None, **config: Any) -> StMemForSequenceClassification:
    tensors = released.part("model") | released.part("classifier") | (released.part(part) if part else {})
    return convert_st_mem_state_dict(tensors, **HEADS, **config)


# Released numbers


@each_implementation
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_when_recordings_are_read_then_vectors_and_logits_are_the_released_ones(
    released, case, implementation
) -> None:
    model = _classifier(released, attn_implementation=implementation)
    values = released.tensors[f"input.values_{case}"]
    outputs = model.st_mem(values)
    released.check(f"pooled_{case}", outputs.pooler_output)
    released.check(f"pooled_{case}", outputs.lead_states.mean(dim=1))
    released.check(f"logits_{case}", model(values).logits)
    assert outputs.present_leads.all()
    assert outputs.token_mask is None


@each_implementation
@torch.no_grad()
def test_when_layers_are_watched_then_each_gives_the_released_states(released, implementation) -> None:
    model = _classifier(released, attn_implementation=implementation).st_mem
    values = released.tensors["input.values_short"]
    released.check("patches_short", model.embeddings.embed_patches(values))
    outputs = model(values, output_hidden_states=True)
    for index, states in enumerate(outputs.hidden_states[1:]):
        released.check(f"layer{index}_short", states)
    released.check("latent_short", model.norm(outputs.last_hidden_state))


@each_implementation
@torch.no_grad()
def test_when_positions_were_fine_tuned_then_numbers_are_the_released_ones(released, implementation) -> None:
    model = _classifier(released, "free_positions", attn_implementation=implementation)
    values = released.tensors["input.values_random"]
    released.check("pooled_free_positions", model.st_mem(values).pooler_output)
    released.check("logits_free_positions", model(values).logits)


@each_implementation
@torch.no_grad()
def test_when_patches_are_masked_then_prediction_and_loss_are_the_released_ones(released, implementation) -> None:
    model = convert_st_mem_state_dict(
        released.part("full"), **HEADS, decoder_num_attention_heads=2, attn_implementation=implementation
    )
    assert isinstance(model, StMemForPreTraining)
    noise = released.tensors["input.noise"]
    output = model(released.tensors["input.values_random"], noise=noise, output_hidden_states=True)
    assert output.bool_masked_pos.equal(released.tensors["expected.masked_mask"].bool())
    released.check("masked_latent", model.st_mem.norm(output.hidden_states[-1]))
    released.check("masked_prediction", output.prediction)
    released.check("masked_loss", output.loss)
    assert output.loss_weight == output.bool_masked_pos.sum() == 2 * 12 * 23


@torch.no_grad()
def test_when_any_property_of_the_network_differs_then_so_do_the_numbers(released) -> None:
    values, expected = released.tensors["input.values_mv500"], released.tensors["expected.logits_mv500"]
    for other in ({"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-3}):
        assert (_classifier(released, **other)(values).logits - expected).abs().max() > 1e-5, other


# Missing leads and times


@torch.no_grad()
def test_when_leads_are_missing_then_the_model_is_that_without_them(small) -> None:
    leads = [0, 1, 6, 10]
    names = [small.config.lead_names[lead] for lead in leads]
    fields = {**SMALL_SYSTEMS["st_mem"].fields, "num_labels": 3, "lead_names": names}
    other = StMemForSequenceClassification(StMemConfig(**fields)).eval()
    weights = small.state_dict()
    weights["st_mem.embeddings.lead_embeddings"] = weights["st_mem.embeddings.lead_embeddings"][leads]
    other.load_state_dict(weights)
    values = torch.randn(2, 12, 240, generator=torch.Generator().manual_seed(0))
    lead_mask = torch.zeros(2, 12, dtype=torch.bool)
    lead_mask[:, leads] = True
    values[:, 3] = torch.nan  # the samples of a missing lead are never read
    values = torch.where(lead_mask[..., None], values, torch.full_like(values, 1e6))
    expected, masked = other.st_mem(values[:, leads]), small.st_mem(values, lead_mask)
    torch.testing.assert_close(masked.pooler_output, expected.pooler_output, atol=1e-5, rtol=0)
    torch.testing.assert_close(masked.lead_states[:, leads], expected.lead_states, atol=1e-5, rtol=0)
    torch.testing.assert_close(small(values, lead_mask).logits, other(values[:, leads]).logits, atol=1e-5, rtol=0)
    assert masked.present_leads.equal(lead_mask)
    assert masked.token_mask.view(2, 12, 14).all(dim=2).equal(lead_mask)
    # Zeros are something else.
    zeros = values.masked_fill(~lead_mask[..., None], 0)
    assert (small(zeros).logits - small(values, lead_mask).logits).abs().max() > 1e-3


@torch.no_grad()
def test_when_a_recording_is_short_then_masking_its_end_is_the_same_as_leaving_it_out(small) -> None:
    values = torch.randn(2, 12, 240, generator=torch.Generator().manual_seed(0))
    attention_mask = torch.arange(12).expand(2, -1) < 7
    masked, cut = small.st_mem(values, attention_mask=attention_mask), small.st_mem(values[:, :, :140])
    torch.testing.assert_close(masked.pooler_output, cut.pooler_output, atol=1e-5, rtol=0)
    torch.testing.assert_close(masked.lead_states, cut.lead_states, atol=1e-5, rtol=0)


@torch.no_grad()
def test_when_leads_are_missing_in_pretraining_then_the_others_are_reconstructed_as_alone() -> None:
    system = SMALL_SYSTEMS["st_mem"]
    torch.manual_seed(0)
    model, batch = StMemForPreTraining(system.config()).eval(), system.inputs(StMemForPreTraining)
    output = model(**batch)
    other = {**batch, "input_values": batch["input_values"].clone()}
    other["input_values"][1, 10:] = 7.0
    torch.testing.assert_close(model(**other).loss, output.loss)
    present = batch["lead_mask"][..., None] & batch["attention_mask"][:, None]
    assert output.loss_weight == (output.bool_masked_pos & present).sum()


@torch.no_grad()
def test_when_patches_are_reconstructed_then_the_loss_is_that_of_a_plain_loop() -> None:
    system = SMALL_SYSTEMS["st_mem"]
    model, batch = StMemForPreTraining(system.config()).eval(), system.inputs(StMemForPreTraining)
    output, errors = model(**batch), []
    for row, num_leads, num_patches in ((0, 12, 12), (1, 10, 9)):
        for lead in range(num_leads):
            order = batch["noise"][row, lead].argsort().tolist()
            for patch in range(num_patches):
                if patch not in order[:3]:  # a quarter of twelve stays
                    target = batch["input_values"][row, lead, 20 * patch : 20 * patch + 20]
                    target = (target - target.mean()) / (target.var(correction=1) + 1e-6).sqrt()
                    errors.append((output.prediction[row, lead, patch] - target).square().mean())
    assert output.loss_weight == len(errors)
    torch.testing.assert_close(output.loss, sum(errors) / len(errors))


@torch.no_grad()
def test_when_a_hidden_patch_changes_then_predictions_do_not() -> None:
    system = SMALL_SYSTEMS["st_mem"]
    model, batch = StMemForPreTraining(system.config()).eval(), system.inputs(StMemForPreTraining)
    output = model(**batch)
    for hidden, place in ((True, output.bool_masked_pos), (False, ~output.bool_masked_pos)):
        values = batch["input_values"].clone()
        values[place.repeat_interleave(20, dim=2)] *= -3.0
        other = model(**{**batch, "input_values": values})
        assert other.prediction.equal(output.prediction) == hidden


def test_when_a_step_is_cut_then_the_gradient_is_that_of_the_whole() -> None:
    system = SMALL_SYSTEMS["st_mem"]
    torch.manual_seed(0)
    model, batch = StMemForPreTraining(system.config()).train(), system.inputs(StMemForPreTraining)
    batch = {name: torch.cat((one, one)) for name, one in batch.items() if name != "noise"}
    batch["seeds"] = torch.arange(4)

    def gradient(*cuts: int) -> list[torch.Tensor]:
        outputs = [model(**{name: one[part] for name, one in batch.items()}) for part in torch.arange(4).split(cuts)]
        weight = sum(output.loss_weight for output in outputs)
        loss = sum(output.loss * output.loss_weight for output in outputs) / weight
        return list(torch.autograd.grad(loss, list(model.parameters())))

    for cuts in ((2, 2), (1, 3)):
        torch.testing.assert_close(gradient(*cuts), gradient(4), atol=1e-5, rtol=1e-4)


# Masks and positions


def test_when_seeds_are_passed_then_each_recording_has_its_own_mask_in_any_batch() -> None:
    system = SMALL_SYSTEMS["st_mem"]
    model = StMemForPreTraining(system.config()).train()
    values = system.bare_inputs(3)["input_values"]
    masks = model(values, seeds=torch.tensor([1, 2, 1])).bool_masked_pos
    assert masks[0].equal(masks[2])
    assert not masks[0].equal(masks[1])
    assert not masks[0, 0].equal(masks[0, 1]), "leads are masked independently"
    assert masks.sum(dim=2).eq(9).all()
    assert model(values[:1], seeds=torch.tensor([2])).bool_masked_pos[0].equal(masks[1])
    assert not model(values).bool_masked_pos.equal(model(values).bool_masked_pos)
    model.eval()
    assert model(values).bool_masked_pos.equal(model(values).bool_masked_pos)
    released = StMemForPreTraining(StMemConfig.preset("tiny"))
    assert (~released(torch.randn(1, 12, 2250)).bool_masked_pos).sum(dim=2).eq(7).all()
    with pytest.raises(ValueError, match="leaves none of 3 patches per lead visible: pass longer recordings"):
        model(values[:, :, :60])


def test_when_positions_are_learned_then_they_start_as_the_fixed_ones() -> None:
    system = SMALL_SYSTEMS["st_mem"]
    fixed, learned = StMemModel(system.config()), StMemModel(system.config(learned_positions=True))
    weight = learned.embeddings.positions.weight
    assert weight.requires_grad
    assert weight.equal(fixed.embeddings.positions.weight)
    assert set(learned.state_dict()) - set(fixed.state_dict()) == {"embeddings.positions.weight"}
    assert weight[[0, -1]].eq(0).all()


def test_when_no_size_is_named_then_it_is_the_released_one() -> None:
    with torch.device("meta"):
        config = StMemConfig(learned_positions=True)
        models = [StMemModel(config), StMemForPreTraining(config)]
    assert [round(model.num_parameters() / 1e6, 1) for model in models] == [85.2, 88.5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_samples": 2260}, "num_samples=2260 must be divisible by patch_size=75"),
        ({"hidden_size": 97}, "hidden_size=97 must be divisible by 2"),
        ({"decoder_hidden_size": 33}, "decoder_hidden_size=33 must be divisible by 2"),
        ({"mask_ratio": 1.0}, "mask_ratio must be at least 0 and below 1"),
        ({"head_dim": 10**9}, "parameters, but at most"),
        ({"num_samples": 750_000}, "tokens, but at most"),
    ],
)
def test_when_a_config_is_damaged_then_it_is_refused(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        StMemConfig(**fields)
