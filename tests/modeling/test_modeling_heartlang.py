"""HeartLang gives the released numbers, from states to codes. `tests/systems` tests what all models share."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from released import Released
from small_models import NO_DROPOUT
from small_systems import SMALL_SYSTEMS, make_sentences
from torch.nn import functional as F

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
    assert mask.sum(dim=1).tolist() == [12, 7]
    assert not mask[1, 15:].any()
    without_ids = model(batch["input_values"], seeds=seeds).bool_masked_pos
    assert without_ids.equal(mask), "padding is what is zero"
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
    codes = make_tokenizer()(**make_batch()).codes
    assert len(codes[1, 15:].unique()) == 1
    assert len(codes.unique()) > 1


@torch.no_grad()
def test_when_a_masked_beat_changes_then_predictions_do_only_as_released() -> None:
    """There, the convolution of the neighbors reads it."""
    batch, mask = make_batch(), torch.arange(24).expand(2, -1) % 3 == 1
    other = {**batch, "input_values": batch["input_values"].clone()}
    other["input_values"][mask] = 5.0
    for released in (False, True):
        model = make_model(HeartLangForPreTraining, released_pretraining=released)
        first, second = (model(**one, bool_masked_pos=mask).logits for one in (batch, other))
        assert first.equal(second) != released


def test_when_pretraining_is_as_released_then_padding_counts_as_beats() -> None:
    batch = make_batch()
    model = make_model(HeartLangForPreTraining, released_pretraining=True)
    mask = model(**batch, seeds=torch.tensor([7, 8])).bool_masked_pos
    assert mask.sum(dim=1).tolist() == [12, 12]
    assert mask[1, 15:].any()
    output = make_model(HeartLangTokenizerModel, released_pretraining=True)(**batch)
    assert output.loss_weight == 48
    error = (output.reconstruction - batch["input_values"]).square().mean()
    torch.testing.assert_close(output.loss, error + output.commitment_loss)


# Training of the tokenizer


def make_tokenizer(**fields: Any) -> HeartLangTokenizerModel:
    """A tokenizer with 16 codes at random places, in which padding has features, too."""
    torch.manual_seed(0)
    tokenizer = make_model(HeartLangTokenizerModel, **NO_DROPOUT, **fields)
    with torch.no_grad():
        tokenizer.codebook.weight.copy_(F.normalize(torch.randn(16, 8), dim=1))
        tokenizer.encoder_projection[2].bias.normal_()
    return tokenizer


@torch.no_grad()
def test_when_beats_are_tokenized_then_codes_and_loss_are_those_of_plain_loops() -> None:
    tokenizer, batch = make_tokenizer(), make_batch()
    output = tokenizer(**batch)
    features, codes = tokenizer.tokenize(**batch)
    assert codes.equal(output.codes)
    errors, commitments, uses = [], [], [0] * 16
    for row, count in enumerate((24, 15)):
        for beat in range(count):
            distances = [(features[row, beat] - code).norm() for code in tokenizer.codebook.weight]
            nearest = distances.index(min(distances))
            assert codes[row, beat] == nearest
            assert output.quantized[row, beat].equal(tokenizer.codebook.weight[nearest])
            errors.append((output.reconstruction - batch["input_values"])[row, beat].square().mean())
            commitments.append((features[row, beat] - tokenizer.codebook.weight[nearest]).square().mean())
            uses[nearest] += 1
    assert output.loss_weight == len(errors) == 39
    torch.testing.assert_close(output.commitment_loss, sum(commitments) / 39)
    torch.testing.assert_close(output.loss, sum(errors) / 39 + sum(commitments) / 39)
    entropy = -sum(use / 39 * math.log(use / 39) for use in uses if use)
    assert output.perplexity == pytest.approx(math.exp(entropy), rel=1e-5)


@torch.no_grad()
def test_when_all_codes_are_used_equally_then_the_perplexity_is_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, values = make_tokenizer(), torch.randn(2, 24, 96)
    codes = torch.arange(48).remainder(16).view(2, 24)
    for uses, expected in ((codes, 16), (codes % 4, 4), (codes * 0, 1)):
        monkeypatch.setattr(tokenizer, "tokenize", lambda *_, uses=uses, **__: (torch.randn(2, 24, 8), uses))
        assert tokenizer(values).perplexity == pytest.approx(expected)


def test_when_steps_are_taken_then_codes_are_moving_averages_of_unit_length() -> None:
    tokenizer = make_tokenizer().train()
    expected = tokenizer.codebook.weight.clone()
    for step in range(3):
        values = torch.randn(2, 24, 96, generator=torch.Generator().manual_seed(step))
        values[1, 15:] = 0.0
        with torch.no_grad():
            features, codes = tokenizer.tokenize(values)
            tokenizer(values)
        is_beat = values.any(dim=2)
        for code in range(16):
            used = features[is_beat & (codes == code)]
            if len(used):
                moved = 0.99 * expected[code] + 0.01 * F.normalize(used.mean(dim=0), dim=0)
                expected[code] = moved / moved.norm()
        tokenizer.after_optimizer_step((step + 1) / 3)
        torch.testing.assert_close(tokenizer.codebook.weight.detach(), expected)
    assert len(tokenizer.codebook.weight[tokenizer.codebook.weight != make_tokenizer().codebook.weight]) > 8
    # A step without beats, as one in evaluation mode, moves nothing.
    before = tokenizer.codebook.weight.clone()
    tokenizer(torch.zeros(1, 24, 96))
    tokenizer.eval()(torch.randn(1, 24, 96))
    tokenizer.after_optimizer_step(1.0)
    assert tokenizer.codebook.weight.equal(before)


def _train(cuts: tuple[int, ...], num_codes: int = 16) -> tuple[Any, Any, Any]:
    """Gradients of two steps of six recordings cut into parts, and the codes after each."""
    torch.manual_seed(0)
    tokenizer = make_model(HeartLangTokenizerModel, **NO_DROPOUT, vocab_size=num_codes).train()
    assert not tokenizer.codebook.weight.any()
    gradients, weights = [], []
    for step in range(2):
        batch = make_sentences(real_beats=(24, 15, 9, 21, 1, 12))
        batch = {name: batch[name] for name in ("input_values", "lead_ids", "time_ids")}
        seeds = torch.arange(6) + 10 * step
        outputs = [
            tokenizer(**{name: tensor[part] for name, tensor in batch.items()}, seeds=seeds[part])
            for part in torch.arange(6).split(cuts)
        ]
        total = sum(output.loss * output.loss_weight for output in outputs) / 82
        assert sum(output.loss_weight for output in outputs) == 82
        trained = [one for one in tokenizer.parameters() if one.requires_grad]
        gradients.append(torch.autograd.grad(total, trained))
        with torch.no_grad():
            torch._foreach_add_(trained, gradients[-1], alpha=-0.1)
        tokenizer.after_optimizer_step((step + 1) / 2)
        weights.append(tokenizer.codebook.weight.clone())
    return gradients, weights, tokenizer


@pytest.mark.parametrize("cuts", [(3, 3), (1, 5), (1, 1, 2, 2)])
def test_when_a_step_is_cut_then_gradients_and_codes_are_those_of_the_whole(cuts: tuple[int, ...]) -> None:
    torch.testing.assert_close(_train(cuts)[:2], _train((6,))[:2])


def test_when_a_codebook_is_empty_then_the_first_step_fills_it_by_kmeans() -> None:
    _, (weight, _), _ = _train((6,))
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(16))
    # Ten iterations of k-means of the features before the step: nearly all codes are used, and are means.
    _, _, tokenizer = _train((6,))
    with torch.no_grad():
        batch = make_sentences(real_beats=(24, 15, 9, 21, 1, 12))
        inputs = {name: batch[name] for name in ("input_values", "lead_ids", "time_ids")}
        features, codes = tokenizer.tokenize(**inputs)
    codes, features = codes[batch["lead_ids"] > 0], features[batch["lead_ids"] > 0]
    assert len(codes.unique()) > 12
    for code in codes.unique():
        mean = F.normalize(features[codes == code].mean(dim=0), dim=0)
        assert (mean * tokenizer.codebook.weight[code]).sum() > 0.98
    # Padding alone fills nothing.
    tokenizer = make_model(HeartLangTokenizerModel).train()
    for values, is_filled in ((torch.zeros(1, 24, 96), False), (torch.randn(1, 24, 96), True)):
        tokenizer(values)
        tokenizer.after_optimizer_step(0.5)
        assert tokenizer.codebook.weight.any() == is_filled
    # With more codes than features, each feature becomes one.
    assert _train((6,), 128)[2].codebook.weight.norm(dim=1).allclose(torch.ones(128))


# A tokenizer in the model


def test_when_a_model_has_a_tokenizer_then_it_predicts_its_codes_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    tokenizer, batch = make_tokenizer(), make_batch()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = SMALL_SYSTEMS["heartlang"].config(vocab_size=20)
    model = HeartLangForPreTraining.from_tokenizer(config, tmp_path / "tokenizer").train()
    assert (model.config.vocab_size, model.code_head.out_features) == (16, 16)
    assert not model.tokenizer.training
    seeds = torch.tensor([1, 2])
    torch.manual_seed(0)
    output = model(**batch, seeds=seeds)
    torch.manual_seed(0)
    codes = tokenizer(**batch).codes
    torch.testing.assert_close(model(**batch, seeds=seeds, codes=codes).loss, output.loss)
    # A plain loop.
    losses, right = [], 0
    for row, beat in output.bool_masked_pos.nonzero().tolist():
        scores = output.logits[row, beat].log_softmax(dim=0)
        losses.append(-scores[codes[row, beat]])
        right += int(scores.argmax() == codes[row, beat])
    assert output.loss_weight == len(losses) == 12 + 7
    torch.testing.assert_close(output.loss, sum(losses) / len(losses))
    assert output.accuracy == pytest.approx(right / len(losses))
    output.loss.backward()
    assert {name.partition(".")[0] for name, one in model.named_parameters() if one.grad is None} == {"tokenizer"}

    model.save_pretrained(tmp_path / "model")
    loaded, report = HeartLangForPreTraining.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values())
    assert not any(one.requires_grad for one in loaded.tokenizer.parameters())
    torch.testing.assert_close(loaded(**batch).loss, model.eval()(**batch).loss)
    _, report = HeartLangModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values())
    released = HeartLangForPreTraining.from_pretrained(tmp_path / "model", released_pretraining=True)
    mask = released(**batch).bool_masked_pos
    plain = released(**batch, bool_masked_pos=mask, codes=tokenizer(batch["input_values"]).codes)
    torch.testing.assert_close(released(**batch, bool_masked_pos=mask).loss, plain.loss)


def test_when_there_is_no_trained_tokenizer_of_the_same_beats_then_it_is_refused(tmp_path: Path) -> None:
    config = SMALL_SYSTEMS["heartlang"].config()
    make_model(HeartLangTokenizerModel).save_pretrained(tmp_path / "untrained")
    make_model(HeartLangModel).save_pretrained(tmp_path / "encoder")
    SMALL_SYSTEMS["st_mem"].config().save_pretrained(tmp_path / "other")
    for name in ("untrained", "encoder", "other"):
        with pytest.raises(ValueError, match=f"{name} does not contain a trained tokenizer of HeartLang"):
            HeartLangForPreTraining.from_tokenizer(config, tmp_path / name)
    make_tokenizer(num_time_embeddings=20).save_pretrained(tmp_path / "longer")
    with pytest.raises(ValueError, match="the tokenizer has num_time_embeddings=20 and the model 16"):
        HeartLangForPreTraining.from_tokenizer(config, tmp_path / "longer")


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
        ({"tokenizer_config": {"vocab_size": 512}}, "the tokenizer has vocab_size=512 and the model 8192"),
        ({"tokenizer_config": {"model_type": "bert"}}, "tokenizer_config must be the config of a HeartLang tokenizer"),
        ({"tokenizer_config": {"tokenizer_config": {}}}, "tokenizer_config must be the config of a HeartLang"),
    ],
)
def test_when_a_field_is_out_of_range_then_one_sentence_refuses_it(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        HeartLangConfig(**fields)
    assert "\n" not in str(caught.value)
