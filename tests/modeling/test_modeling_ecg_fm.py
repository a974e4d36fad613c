"""ECG-FM: the formulas of its description. `tests/systems` asks it what all models owe."""

from __future__ import annotations

import math
import re
from functools import partial

import pytest
import torch
from small_systems import SMALL_SYSTEMS
from torch.nn import functional as F
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2Encoder

from clear_hug_hf.modeling.configuration_ecg_fm import EcgFmConfig
from clear_hug_hf.modeling.modeling_ecg import seeded_counters
from clear_hug_hf.modeling.modeling_ecg_fm import (
    EcgFmForPreTraining,
    EcgFmForSequenceClassification,
    EcgFmModel,
    draw_negatives,
    draw_spans,
    perplexity,
)
from clear_hug_hf.training.finetuning import parameter_depths


small_config = partial(SMALL_SYSTEMS["ecg_fm"].config, num_labels=5)


def make_recordings(count: int = 2, num_samples: int = 480) -> torch.Tensor:
    return torch.randn(count, 12, num_samples)


# Tokens


@pytest.mark.parametrize(("num_samples", "num_tokens"), [(2500, 156), (480, 30), (31, 1), (16, 1), (15, 0), (0, 0)])
def test_when_samples_are_counted_then_each_convolution_halves_them(num_samples, num_tokens):
    assert max(EcgFmConfig().count_tokens(num_samples), 0) == num_tokens
    if num_tokens:
        assert EcgFmModel(small_config())(make_recordings(1, num_samples)).last_hidden_state.shape[1] == num_tokens


def test_when_rates_decay_then_norms_before_the_layers_have_the_lowest():
    depths = parameter_depths(EcgFmModel(small_config()))
    assert {depth for name, depth in depths.items() if not name.startswith("layers.")} == {2}
    assert (depths["layers.0.layer_norm.weight"], depths["layers.1.final_layer_norm.bias"]) == (1, 0)


def test_when_the_size_is_released_then_parameters_are_those_of_the_files():
    with torch.device("meta"):
        model = EcgFmForPreTraining(EcgFmConfig.preset("base"))
        classifier = EcgFmForSequenceClassification(EcgFmConfig(num_labels=17))
    assert EcgFmConfig.preset("base").to_dict() == EcgFmConfig().to_dict()
    assert model.num_parameters() == 90_883_072
    assert len(model.state_dict()) == 215
    assert len(classifier.state_dict()) == 209


# Against transformers


def test_when_no_sample_is_missing_then_layers_are_those_of_transformers_bit_for_bit():
    model = EcgFmModel(small_config()).eval()
    config = model.config
    theirs = Wav2Vec2Encoder(
        Wav2Vec2Config(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            num_conv_pos_embeddings=config.num_conv_pos_embeddings,
            num_conv_pos_embedding_groups=config.num_conv_pos_embedding_groups,
            attn_implementation="sdpa",
        )
    ).eval()
    weights = model.state_dict()
    theirs.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("feature_")})
    output = model(make_recordings())
    states, _ = model.feature_projection(output.extract_features)
    assert theirs(states).last_hidden_state.equal(output.last_hidden_state)


# Padding


def test_when_a_recording_is_padded_then_its_padding_is_ignored_but_counts_for_the_norm():
    model = EcgFmModel(small_config()).eval()
    recordings = make_recordings(3)
    lengths = torch.tensor([480, 333, 90])
    attention_mask = torch.arange(480) < lengths[:, None]
    recordings[~attention_mask[:, None].expand(-1, 12, -1)] = torch.nan
    together = model(recordings, attention_mask)
    assert model.token_mask(attention_mask).sum(dim=1).tolist() == [30, 20, 5]
    for row, length in enumerate(lengths):
        alone = model(recordings[row : row + 1].nan_to_num(0.0), attention_mask[row : row + 1])
        torch.testing.assert_close(together.last_hidden_state[row], alone.last_hidden_state[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.pooler_output[row], alone.pooler_output[0], atol=1e-5, rtol=0)
        # Without padding the convolutions are normalized over fewer samples.
        cut = model(recordings[row : row + 1, :, :length]).pooler_output[0]
        assert torch.allclose(cut, alone.pooler_output[0], atol=1e-5) == (length == 480)
    valid = together.last_hidden_state[1, :20]
    torch.testing.assert_close(together.pooler_output[1], valid.sum(dim=0) / (valid != 0).sum(dim=0))


def test_when_padding_is_zeroed_then_it_is_after_the_positions_and_not_before():
    """In transformers' encoder, the positions of the last tokens do not see the first tokens of padding."""
    model = EcgFmModel(small_config()).eval()
    attention_mask = torch.arange(480)[None] < 320
    recordings = make_recordings(1) * attention_mask[:, None]
    output = model(recordings, attention_mask, output_hidden_states=True)
    states, _ = model.feature_projection(output.extract_features)
    after = model.layer_norm(states + model.pos_conv_embed(states))
    before = states.clone()
    before[:, 20:] = 0
    before = model.layer_norm(before + model.pos_conv_embed(before))
    torch.testing.assert_close(output.hidden_states[0][:, :20], after[:, :20])
    assert (output.hidden_states[0][:, :20] - before[:, :20]).abs().max() > 1e-2
    assert output.hidden_states[0][:, 20:].eq(model.layer_norm.bias).all()


def test_when_nothing_is_left_of_a_recording_then_numbers_stay_finite():
    model = EcgFmModel(small_config()).eval()
    output = model(make_recordings(), attention_mask=torch.zeros(2, 480))
    assert not output.pooler_output.any()
    assert output.last_hidden_state.isfinite().all()


def test_when_leads_are_missing_then_they_are_zero():
    model = EcgFmModel(small_config()).eval()
    recordings, lead_mask = make_recordings(), torch.arange(12).expand(2, -1) < 8
    marked = model(recordings.masked_fill(~lead_mask[..., None], torch.nan), lead_mask=lead_mask)
    zeros = model(recordings * lead_mask[..., None])
    assert marked.pooler_output.equal(zeros.pooler_output)
    assert marked.present_leads.all()
    assert (marked.pooler_output - model(recordings).pooler_output).abs().max() > 1e-2


def test_when_a_state_is_zero_then_it_does_not_count_in_the_mean():
    model = EcgFmModel(small_config(num_hidden_layers=1)).eval()
    layer = model.layers[0].final_layer_norm
    with torch.no_grad():
        layer.weight.fill_(1e-30)  # together with their bias, most states of these channels vanish
        layer.weight[:3] = 0
        layer.bias[3:] = 0.5
    pooled = model(make_recordings()).pooler_output
    assert not pooled[:, :3].any()
    assert pooled[:, 3:].eq(0.5).all()


def test_when_a_recording_is_classified_then_its_pooled_state_decides():
    model = EcgFmForSequenceClassification(small_config(classifier_dropout=0.5)).eval()
    batch = SMALL_SYSTEMS["ecg_fm"].inputs(EcgFmForSequenceClassification)
    torch.testing.assert_close(model(**batch).logits, model.classifier(model.ecg_fm(**batch).pooler_output))


# Pre-training


def test_when_spans_are_drawn_then_they_cover_about_half_of_a_recording_and_never_its_padding():
    seeds, valid = torch.arange(400), torch.ones(400, 156, dtype=torch.bool)
    valid[100:200, 100:] = False
    valid[200:300, 9:] = False
    masked = draw_spans(seeds, seeded_counters(157), valid, 0.65, 10)
    assert not (masked & ~valid).any()
    assert not masked[200:300].any(), "nine tokens hold no span of ten"
    for rows, length in ((masked[:100], 156), (masked[100:200, :100], 100)):
        # Of n starts among m, none falls on the last ten tokens with probability (1 - 10 / m) ** n.
        expected = 1 - (1 - 10 / (length - 9)) ** (0.65 * length / 10)
        assert rows.float().mean().item() == pytest.approx(expected, abs=0.05)
    for row in masked[:20].tolist():
        spans = re.findall("1+", "".join("01"[value] for value in row))
        assert all(len(span) >= 10 for span in spans)
    assert masked[0].equal(draw_spans(seeds[:1], seeded_counters(157), valid[:1], 0.65, 10)[0])
    assert len({tuple(row) for row in masked[:100].tolist()}) == 100


def test_when_negatives_are_drawn_then_they_are_other_masked_tokens_each_equally_often():
    masked = torch.arange(30).expand(4, -1) % 3 == 1
    masked = torch.cat((masked, torch.zeros(2, 30, dtype=torch.bool)))
    masked[5, 4] = True
    tokens, counted = draw_negatives(torch.arange(6), seeded_counters(30, 1000), masked)
    assert counted[:4].equal(masked[:4])
    assert not counted[4:].any(), "one masked token has no negatives"
    for row in range(4):
        for token in masked[row].nonzero().flatten().tolist():
            counts = tokens[row, token].bincount(minlength=30)
            others = masked[row].clone()
            others[token] = False
            assert (counts > 0).equal(others)
            assert counts[others].float().sub(1000 / 9).abs().max() < 60


def test_when_the_loss_is_made_then_it_is_that_of_its_parts():
    model = EcgFmForPreTraining(small_config()).eval()
    batch = SMALL_SYSTEMS["ecg_fm"].inputs(EcgFmForPreTraining)
    output = model(**batch)
    masked = output.bool_masked_pos
    assert masked.equal(batch["bool_masked_pos"] & model.ecg_fm.token_mask(batch["attention_mask"]))
    logits = output.contrastive_logits[masked]
    assert logits.shape == (masked.sum(), 8)
    expected = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    torch.testing.assert_close(output.contrastive_loss, expected)
    similarity = F.cosine_similarity(output.prediction, output.target, dim=2)[masked] / 0.1
    torch.testing.assert_close(logits[:, 0], similarity, atol=1e-5, rtol=0)
    diversity = 1 - output.prob_perplexity / 20
    total = output.contrastive_loss + 0.1 * diversity + 10 * output.features_penalty
    torch.testing.assert_close(output.loss, total)
    # Among identical tokens nothing can be told apart.
    alike = model(torch.zeros(1, 12, 480), bool_masked_pos=masked[:1])
    assert alike.contrastive_logits[..., 1:].isneginf().all()
    assert alike.contrastive_loss == 0


def test_when_probabilities_are_even_then_perplexity_counts_the_codes():
    probabilities = torch.zeros(1, 4, 2, 10)
    probabilities[0, range(4), 0, range(4)] = 1
    probabilities[0, :, 1] = 0.1
    counted = torch.tensor([[True, True, True, False]])
    assert perplexity(probabilities, counted).item() == pytest.approx(3 + 10, abs=1e-4)


def test_when_seeds_are_passed_then_everything_that_is_drawn_depends_on_them_alone():
    model = EcgFmForPreTraining(small_config(mask_time_length=4)).train()
    recordings, seeds = make_recordings(3), torch.tensor([5, 6, 5])
    output, again = model(recordings, seeds=seeds), model(recordings, seeds=seeds)
    for name in ("contrastive_logits", "codes", "bool_masked_pos"):
        assert output[name].equal(again[name]), name
    assert output.bool_masked_pos[0].equal(output.bool_masked_pos[2])
    assert not output.bool_masked_pos[0].equal(output.bool_masked_pos[1])
    alone = model(recordings[1:2], seeds=seeds[1:2])
    assert alone.codes[0].equal(output.codes[1])
    assert not model(recordings).codes.equal(output.codes), "without seeds, every call draws anew"
    model.eval()
    assert model(recordings).codes.equal(model(recordings, seeds=seeds).codes)
    assert model(recordings).bool_masked_pos.equal(
        model(recordings, seeds=torch.zeros(3, dtype=torch.long)).bool_masked_pos
    )


def test_when_codes_are_sampled_then_they_have_their_probabilities():
    model = EcgFmForPreTraining(small_config())
    model.quantizer.weight_proj.weight.data.zero_()
    model.quantizer.weight_proj.bias.data.copy_(torch.arange(20) / 5)
    output = model.train()(make_recordings(1).expand(200, -1, -1), seeds=torch.arange(200))
    expected = (torch.arange(10) / 5).softmax(dim=0)
    for group in range(2):
        found = output.codes[..., group].flatten().bincount(minlength=10) / (200 * 30)
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_when_pretrained_then_the_contrastive_loss_falls():
    model = EcgFmForPreTraining(small_config(initializer_range=0.02, mask_time_length=3)).train()
    waves = torch.sin(torch.arange(480) / (3 + 4 * torch.rand(8, 1, 1))) * torch.linspace(0.5, 2, 12)[:, None]
    waves = waves + 0.5 * make_recordings(8).cumsum(dim=2) / 20
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(40):
        output = model(waves, seeds=torch.arange(8) + 8 * step)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.contrastive_loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


# Weights


def test_when_the_model_is_new_then_the_positions_have_the_norm_of_their_kernel():
    convolution = EcgFmModel(small_config()).pos_conv_embed.conv
    norm, direction = convolution.parametrizations.weight.original0, convolution.parametrizations.weight.original1
    torch.testing.assert_close(norm, direction.norm(dim=(0, 1), keepdim=True))
    torch.testing.assert_close(convolution.weight, direction)
    assert direction.std().item() == pytest.approx(2 / math.sqrt(32 * 32), rel=0.05)


# Bad input


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("input_values", (2, 8, 480)),
        ("input_values", (2, 12, 15)),
        ("input_values", (2, 12, 0)),
        ("attention_mask", (2, 12, 480)),
        ("lead_mask", (2, 8)),
        ("bool_masked_pos", (2, 29)),
        ("negative_ids", (2, 30)),
        ("seeds", (1,)),
    ],
)
def test_when_an_input_has_another_shape_then_it_is_refused(name, shape):
    with pytest.raises(ValueError, match=f"{name} must have shape"):
        EcgFmForPreTraining(small_config())(**{"input_values": make_recordings(), name: torch.ones(shape)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conv_dim": []}, "conv_dim must contain 1 to 32 sizes of at least 1"),
        ({"conv_kernel": [2, 2, 0, 2]}, "conv_kernel must contain 1 to 32 sizes of at least 1"),
        ({"conv_stride": [2] * 3}, "must have one entry for each convolution, got 4, 4 and 3"),
        ({"conv_dim": [10**6] * 4}, "parameters, but at most"),
        ({"num_samples": 15}, "results in 0 tokens"),
        ({"num_conv_pos_embedding_groups": 5}, "hidden_size=32 must be divisible by num_conv_pos_embedding_groups=5"),
        ({"num_attention_heads": 5}, "hidden_size=32 must be divisible by num_attention_heads=5"),
        ({"codevector_dim": 15}, "codevector_dim=15 must be divisible by num_codevector_groups=2"),
        ({"num_codevectors_per_group": 10**9}, "parameters, but at most"),
    ],
)
def test_when_sizes_make_no_sense_then_a_sentence_refuses_them(fields, message):
    with pytest.raises(ValueError, match=message):
        small_config(**fields)
