"""HeartLang gives the released numbers, from states to codes. `tests/systems` tests what all models share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from released import Released
from small_systems import SMALL_SYSTEMS

from clear_hug_hf.hub.convert_heartlang import convert_heartlang_state_dict
from clear_hug_hf.modeling.configuration_heartlang import HeartLangConfig
from clear_hug_hf.modeling.modeling_heartlang import (
    HeartLangForPreTraining,
    HeartLangForSequenceClassification,
    HeartLangModel,
    HeartLangTokenizerModel,
)


CASES = ["random", "mv500", "nu100", "long500", "two_leads"]
each_implementation = pytest.mark.parametrize("implementation", ["eager", "sdpa"])


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_heartlang_small.safetensors")


def read_inputs(released: Released, case: str) -> dict[str, torch.Tensor]:
    names = {"input_values": "beats", "lead_ids": "lead_ids", "time_ids": "time_ids"}
    return {name: released.tensors[f"input.{short}_{case}"] for name, short in names.items()}


def convert(released: Released, kind: str, **config: Any) -> Any:
    tensors = released.part("tokenizer" if kind == "tokenizer" else "model")
    if kind == "classifier":
        tensors = {f"backbone.{name}": tensor for name, tensor in tensors.items()} | released.part("classifier")
    sizes = json.loads(released.metadata["sizes"])
    heads = re.search(r"heads (\d+)", sizes["tokenizer"])[1] if kind == "tokenizer" else sizes["heads"]
    return convert_heartlang_state_dict(tensors, **{"num_attention_heads": int(heads), **config})


# Released numbers


@each_implementation
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_when_recordings_are_read_then_states_and_logits_are_the_released_ones(
    released: Released, case: str, implementation: str
) -> None:
    model = convert(released, "classifier", attn_implementation=implementation)
    assert isinstance(model, HeartLangForSequenceClassification)
    inputs = read_inputs(released, case)
    outputs = model.heartlang(**inputs)
    num_states = released.tensors[f"expected.last_hidden_state_{case}"].shape[1]
    released.check(f"last_hidden_state_{case}", outputs.last_hidden_state[:, :num_states])
    released.check(f"logits_{case}", model(**inputs).logits)
    assert outputs.pooler_output.equal(outputs.last_hidden_state[:, 0])
    assert outputs.lead_states.equal(outputs.pooler_output[:, None])
    assert outputs.present_leads.all()


@each_implementation
@torch.no_grad()
def test_when_layers_are_watched_then_each_gives_the_released_states(released: Released, implementation: str) -> None:
    model = convert(released, "encoder", attn_implementation=implementation).heartlang
    inputs, outputs = read_inputs(released, "random"), []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, arguments, output: outputs.append(output))
    model(**inputs)
    released.check("token_embed_random", model.embeddings.project(inputs["input_values"]))
    for index, states in enumerate(outputs):
        released.check(f"layer{index}_random", states)


@each_implementation
@torch.no_grad()
def test_when_beats_are_masked_then_codes_and_loss_are_the_released_ones(
    released: Released, implementation: str
) -> None:
    model = convert(released, "encoder", attn_implementation=implementation)
    assert isinstance(model, HeartLangForPreTraining)
    inputs, mask = read_inputs(released, "random"), released.tensors["input.mask"]
    output = model(**inputs, bool_masked_pos=mask, codes=released.tensors["expected.codes_without_ids"])
    released.check("code_logits_at_mask", output.logits[mask.bool()])
    released.check("masked_loss", output.loss)
    assert output.loss_weight == mask.sum()


@each_implementation
@torch.no_grad()
def test_when_beats_are_tokenized_then_codes_and_reconstruction_are_the_released_ones(
    released: Released, implementation: str
) -> None:
    tokenizer = convert(released, "tokenizer", attn_implementation=implementation)
    assert isinstance(tokenizer, HeartLangTokenizerModel)
    inputs = read_inputs(released, "random")
    output = tokenizer(**inputs)
    assert output.codes.equal(released.tensors["expected.codes_with_ids"])
    for name in ("quantized", "reconstruction"):
        num_beats = released.tensors[f"expected.{name}"].shape[1]
        released.check(name, output[name][:, :num_beats])
    released.check("commitment_loss", output.commitment_loss)
    error = (output.reconstruction - inputs["input_values"]).square().mean()
    torch.testing.assert_close(output.loss, error + output.commitment_loss)
    # As released pre-training asks for them.
    assert tokenizer(inputs["input_values"]).codes.equal(released.tensors["expected.codes_without_ids"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tokenizer(**inputs).codes.equal(output.codes)


@torch.no_grad()
def test_when_any_property_of_the_network_differs_then_so_do_the_numbers(released: Released) -> None:
    inputs, expected = read_inputs(released, "mv500"), released.tensors["expected.logits_mv500"]
    for change in ({"hidden_act": "relu"}, {"layer_norm_eps": 1e-2}, {"num_attention_heads": 6}):
        logits = convert(released, "classifier", **change)(**inputs).logits
        assert (logits - expected).abs().max() > 1e-3, change


# Padding and neighbors


def make_model(model_class: type, **fields: Any) -> Any:
    return model_class(SMALL_SYSTEMS["heartlang"].config(num_labels=5, **fields)).eval()


def make_batch() -> dict[str, torch.Tensor]:
    """Two recordings, of which the second has 15 of 24 beats."""
    batch = SMALL_SYSTEMS["heartlang"].make_batch()
    return {name: batch[name] for name in ("input_values", "lead_ids", "time_ids")}


@torch.no_grad()
def test_when_padding_has_other_ids_then_the_class_token_differs_since_padding_is_attended_to() -> None:
    model, batch = make_model(HeartLangModel), make_batch()
    expected = model(**batch).pooler_output
    other = {**batch, "lead_ids": batch["lead_ids"].masked_fill(batch["lead_ids"] == 0, 3)}
    actual = model(**other).pooler_output
    assert actual[0].equal(expected[0])
    assert (actual[1] - expected[1]).abs().max() > 1e-3


@torch.no_grad()
def test_when_a_beat_changes_then_the_last_beat_is_a_neighbor_of_the_first() -> None:
    embeddings, beats = make_model(HeartLangModel).embeddings, make_batch()["input_values"]
    changed = beats.clone()
    changed[0, 0] += 1.0
    differs = (embeddings.project(beats) - embeddings.project(changed)).abs().amax(dim=2)[0] > 0
    assert differs.nonzero().flatten().tolist() == [0, 1, 23]


@torch.no_grad()
def test_when_ids_are_omitted_then_neither_leads_nor_times_are_added() -> None:
    model, batch = make_model(HeartLangModel), make_batch()
    plain = model(batch["input_values"]).pooler_output
    for table in (model.embeddings.lead_embeddings, model.embeddings.time_embeddings):
        table.weight.zero_()
    torch.testing.assert_close(model(**batch).pooler_output, plain)


# Masks and codes


@torch.no_grad()
def test_when_masks_are_drawn_then_seeds_determine_them_and_half_of_the_beats_is_masked() -> None:
    model, batch = make_model(HeartLangForPreTraining), make_batch()
    seeds = torch.tensor([7, 8])
    mask = model(**batch, seeds=seeds).bool_masked_pos
    assert mask.sum(dim=1).tolist() == [12, 12]
    assert not mask[0].equal(mask[1])
    second = {name: tensor[1:] for name, tensor in batch.items()}
    assert model(**second, seeds=seeds[1:]).bool_masked_pos.equal(mask[1:])
    assert model(**batch).bool_masked_pos.equal(model(**batch).bool_masked_pos)
    model.train()
    assert model(**batch, seeds=seeds).bool_masked_pos.equal(mask)
    assert not model(**batch).bool_masked_pos.equal(model(**batch).bool_masked_pos)
    assert model(**batch).loss is None


@torch.no_grad()
def test_when_codes_are_unknown_then_they_are_not_counted() -> None:
    model, batch = make_model(HeartLangForPreTraining), make_batch()
    mask = torch.arange(24).expand(2, -1) < 4
    codes = torch.randint(16, (2, 24))
    whole = model(**batch, bool_masked_pos=mask, codes=codes)
    first = model(**batch, bool_masked_pos=mask, codes=codes.masked_fill(torch.tensor([[False], [True]]), -100))
    assert (whole.loss_weight, first.loss_weight) == (8, 4)
    alone = {name: tensor[:1] for name, tensor in batch.items()}
    torch.testing.assert_close(first.loss, model(**alone, bool_masked_pos=mask[:1], codes=codes[:1]).loss)


@torch.no_grad()
def test_when_beats_are_padding_then_they_have_one_code() -> None:
    codes = make_model(HeartLangTokenizerModel)(**make_batch()).codes
    assert len(codes[1, 15:].unique()) == 1


# Config


def test_when_sizes_are_released_ones_then_so_are_the_numbers_of_parameters() -> None:
    with torch.device("meta"):
        model = HeartLangForPreTraining(HeartLangConfig())
        tokenizer = HeartLangTokenizerModel(HeartLangConfig.preset("tokenizer"))
    counts = [sum(entry.numel() for entry in part.parameters()) for part in (model, model.heartlang, tokenizer)]
    assert [round(count / 1e6, 1) for count in counts] == [44.6, 38.3, 24.6]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_lead_embeddings": 12}, r"num_lead_embeddings must be greater than the number of leads \(12\)"),
        ({"num_beats": 10**9}, "num_beats must be at most"),
        ({"head_dim": 10**9}, "parameters, but at most"),
        ({"vocab_size": 10**9}, "parameters, but at most"),
        ({"code_dim": 10**9}, "parameters, but at most"),
        ({"decoder_num_hidden_layers": 0}, "decoder_num_hidden_layers must be at least 1"),
        ({"mask_ratio": 1.0}, "mask_ratio must be at least 0 and below 1"),
    ],
)
def test_when_a_field_is_out_of_range_then_one_sentence_refuses_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        HeartLangConfig(**fields)
    assert "\n" not in str(caught.value)
