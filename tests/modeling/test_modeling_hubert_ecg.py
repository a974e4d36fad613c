"""HuBERT-ECG: the formulas of its description. `tests/systems` asks it what all models owe."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from small_systems import SMALL_SYSTEMS
from torch.nn import functional as F
from transformers import HubertConfig, HubertModel

from clear_hug_hf.modeling.configuration_hubert_ecg import HubertEcgConfig
from clear_hug_hf.modeling.modeling_hubert_ecg import (
    HubertEcgForPreTraining,
    HubertEcgForSequenceClassification,
    HubertEcgModel,
)


small_config = partial(SMALL_SYSTEMS["hubert_ecg"].config, num_labels=5)


def make_values(count: int = 2, num_values: int = 1920) -> torch.Tensor:
    return torch.randn(count, num_values)


@pytest.mark.parametrize(
    ("num_values", "num_tokens"), [(6000, 93), (12000, 187), (1920, 29), (90, 1), (20, 0), (0, 0)]
)
def test_when_values_are_counted_then_convolutions_decide(num_values, num_tokens):
    assert max(HubertEcgConfig().count_tokens(num_values), 0) == num_tokens
    if num_tokens:
        assert HubertEcgModel(small_config())(make_values(1, num_values)).last_hidden_state.shape[1] == num_tokens


@pytest.mark.parametrize(("size", "millions"), [("small", 30.2), ("base", 92.8), ("large", 187.6)])
def test_when_the_size_is_released_then_parameters_are_as_many_as_stated(size, millions):
    with torch.device("meta"):
        model = HubertEcgModel(HubertEcgConfig.preset(size))
    assert model.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_when_values_are_read_then_states_are_those_of_transformers(implementation):
    model = HubertEcgModel(small_config()).eval()
    model.set_attn_implementation(implementation)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim", "conv_kernel")
    names += ("conv_stride", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups")
    sizes = {name: getattr(model.config, name) for name in names}
    theirs = HubertModel(HubertConfig(**sizes, attn_implementation=implementation)).eval()
    weights = {}
    for name, tensor in model.state_dict().items():
        old = re.sub(r"feature_encoder.convolutions.(\d)", r"feature_extractor.conv_layers.\1.conv", name)
        old = old.replace("feature_encoder.norm", "feature_extractor.conv_layers.0.layer_norm")
        weights[old if old.startswith("feature_") else f"encoder.{old}"] = tensor
    assert set(theirs.state_dict()) - set(weights) == {"masked_spec_embed"}
    theirs.load_state_dict(weights, strict=False)
    values = make_values()
    attention_mask = torch.arange(1920) < torch.tensor([[1920], [1300]])
    for mask in (None, attention_mask):
        expected = theirs(values, attention_mask=mask if mask is None else mask.long()).last_hidden_state
        torch.testing.assert_close(model(values, mask).last_hidden_state, expected, atol=1e-5, rtol=0)


def test_when_values_are_padding_then_only_their_number_counts():
    model = HubertEcgModel(small_config()).eval()
    values = make_values()
    at_end = torch.arange(1920).expand(2, -1) < 1440
    in_leads = (torch.arange(1920) % 160 < 120).expand(2, -1)
    assert model.token_mask(at_end).sum(dim=1).tolist() == [22, 22]
    output = model(values, at_end)
    assert output.last_hidden_state.equal(model(values, in_leads).last_hidden_state)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, :22].mean(dim=1))


def test_when_nothing_is_left_of_a_recording_then_numbers_stay_finite():
    output = HubertEcgModel(small_config()).eval()(make_values(), attention_mask=torch.zeros(2, 1920))
    assert not output.pooler_output.any()
    assert output.last_hidden_state.isfinite().all()


def test_when_a_recording_is_classified_then_its_mean_state_decides():
    model = HubertEcgForSequenceClassification(small_config(classifier_dropout=0.5)).eval()
    values = make_values()
    states = model.hubert_ecg(values).last_hidden_state
    torch.testing.assert_close(model(values).logits, model.classifier(states.mean(dim=1)))


def test_when_codes_are_predicted_then_logits_are_cosines_divided_by_the_temperature():
    model = HubertEcgForPreTraining(small_config(logits_temperature=0.1)).eval()
    batch = SMALL_SYSTEMS["hubert_ecg"].inputs(HubertEcgForPreTraining)
    output = model(**batch, output_hidden_states=True)
    masked = output.bool_masked_pos
    assert masked.equal(batch["bool_masked_pos"] & model.hubert_ecg.token_mask(batch["attention_mask"]))
    losses = []
    for index, logits in enumerate(output.logits.split([10, 12], dim=2)):
        projected = model.final_proj[index](output.hidden_states[-1])
        codes = model.label_embedding[index].weight
        expected = F.cosine_similarity(projected[:, :, None], codes, dim=3) / 0.1
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        losses.append(F.cross_entropy(logits[masked], batch["codes"][..., index][masked]))
    assert output.loss_weight == masked.sum()
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    del batch["codes"]
    assert model(**batch).loss is None


def test_when_seeds_are_passed_then_the_mask_depends_on_them_alone():
    model = HubertEcgForPreTraining(small_config(mask_time_length=4)).train()
    values, seeds = make_values(3), torch.tensor([5, 6, 5])
    masked = model(values, seeds=seeds).bool_masked_pos
    assert masked[0].equal(masked[2])
    assert not masked[0].equal(masked[1])
    assert masked[1:2].equal(model(values[:1], seeds=seeds[1:2]).bool_masked_pos)
    model.eval()
    zeros = torch.zeros(3, dtype=torch.long)
    assert model(values).bool_masked_pos.equal(model(values, seeds=zeros).bool_masked_pos)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input_values", (2, 12, 160)),
        ("input_values", (2, 20)),
        ("attention_mask", (2, 12)),
        ("bool_masked_pos", (2, 28)),
        ("codes", (2, 29)),
        ("codes", (2, 29, 1)),
        ("seeds", (1,)),
    ],
)
def test_when_an_input_has_another_shape_then_it_is_refused(name, shape):
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        HubertEcgForPreTraining(small_config())(**{"input_values": make_values(), name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv_dim": []}, "conv_dim must contain 1 to 32 sizes of at least 1"),
        ({"vocab_sizes": [0]}, "vocab_sizes must contain 1 to 32 sizes of at least 1"),
        ({"conv_stride": [2] * 3}, "must have one entry for each convolution, got 5, 5 and 3"),
        ({"conv_dim": [10**6] * 5}, "parameters, but at most"),
        ({"vocab_sizes": [10**9]}, "parameters, but at most"),
        ({"num_samples": 8}, "results in 0 tokens"),
        ({"num_conv_pos_embedding_groups": 5}, "hidden_size=32 must be divisible by num_conv_pos_embedding_groups=5"),
        ({"num_attention_heads": 5}, "hidden_size=32 must be divisible by num_attention_heads=5"),
    ],
)
def test_when_sizes_make_no_sense_then_a_sentence_refuses_them(fields, message):
    with pytest.raises(ValueError, match=message):
        small_config(**fields)
