"""Released ECG-FM weights give the released numbers, and a file that is not one of them is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from released import Released, StateDict, jepa_tensors
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, pipeline
from transformers.initialization import no_init_weights

from clear_hug_hf import STANDARD_LEADS, Recording
from clear_hug_hf.hub.convert_ecg_fm import (
    MAXIMUM_LABELS,
    RELEASED_LABELS,
    convert_ecg_fm_checkpoint,
    convert_ecg_fm_state_dict,
    convert_ecg_fm_to_folder,
)
from clear_hug_hf.modeling.configuration_ecg_fm import EcgFmConfig
from clear_hug_hf.modeling.modeling_ecg_fm import (
    EcgFmForPreTraining,
    EcgFmForSequenceClassification,
    EcgFmModel,
)
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.folders import classifier_config


CASES = ("random", "mv500", "nu100", "long500")
RECENT = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
each_implementation = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
each_naming = pytest.mark.parametrize("naming", [{}, RECENT], ids=["as released", "since 2025"])


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_ecg_fm_small.safetensors")


def _renamed(state_dict: StateDict, naming: dict[str, str]) -> StateDict:
    for old, new in naming.items():
        state_dict = {key.replace(old, new): tensor for key, tensor in state_dict.items()}
    return state_dict


def _pretrained(released: Released, naming: dict[str, str] | None = None) -> EcgFmForPreTraining:
    return convert_ecg_fm_state_dict(_renamed(released.part("model"), naming or {}), num_attention_heads=4)


def _classifier(released: Released, naming: dict[str, str] | None = None) -> EcgFmForSequenceClassification:
    return convert_ecg_fm_state_dict(_renamed(released.part("classifier"), naming or {}), num_attention_heads=4)


def _negative_ids(released: Released) -> torch.Tensor:
    """Indices of tokens, of the released ones, which count the masked tokens of all recordings."""
    masked, flat = released.tensors["input.mask"].bool(), released.tensors["input.negative_ids"]
    num_masked = int(masked[0].sum())
    negative_ids = torch.zeros((*masked.shape, flat.shape[1] // num_masked), dtype=torch.long)
    for row, tokens in enumerate(torch.arange(masked.shape[1])[mask] for mask in masked):
        negative_ids[row, tokens] = tokens[flat[row].view(num_masked, -1) - row * num_masked]
    return negative_ids


# Released numbers


@each_naming
@each_implementation
def test_when_the_pretrained_model_is_converted_then_states_agree(released, tmp_path, implementation, naming):
    torch.save(
        {"model": _renamed(released.part("model"), naming), "cfg": {"model": {"dim": 48}}}, tmp_path / "file.pt"
    )
    model = convert_ecg_fm_checkpoint(tmp_path / "file.pt", num_attention_heads=4)
    assert isinstance(model, EcgFmForPreTraining)
    assert not model.training
    model.set_attn_implementation(implementation)
    encoder, tensors = model.ecg_fm, released.tensors
    with torch.no_grad():
        output = encoder(tensors["input.values_random"], output_hidden_states=True)
        released.check("features_random", output.extract_features)
        states, _ = encoder.feature_projection(output.extract_features)
        released.check("conv_pos_random", encoder.pos_conv_embed(states))
        for index, layer in enumerate(output.hidden_states[1:]):
            released.check(f"layer{index}_random", layer)
        for case in (*CASES, "flat"):
            released.check(f"last_hidden_state_{case}", encoder(tensors[f"input.values_{case}"]).last_hidden_state)
        attention_mask = ~tensors["input.padding_mask"][:, 0].bool()
        assert encoder.token_mask(attention_mask).equal(~tensors["expected.token_padding_padded"].bool())
        output = encoder(tensors["input.values_padded"], attention_mask)
        released.check("last_hidden_state_padded", output.last_hidden_state)


@each_naming
def test_when_the_pretrained_model_is_converted_then_codes_and_similarities_agree(released, naming):
    model, masked = _pretrained(released, naming), released.tensors["input.mask"].bool()
    inputs = {"bool_masked_pos": masked, "negative_ids": _negative_ids(released)}
    with torch.no_grad():
        output = model(released.tensors["input.values_random"], **inputs, output_hidden_states=True)
        again = model(released.tensors["input.values_random"], **inputs)
    released.check("last_hidden_state_masked", output.hidden_states[-1])
    released.check("quantized", output.quantized)
    assert output.codes.equal(released.tensors["expected.codes"])
    # The released order is (positive and negatives, recordings, masked tokens).
    similarities = output.contrastive_logits[masked].unflatten(0, (len(masked), -1)).permute(2, 0, 1)
    assert similarities.isneginf().any()
    released.check("contrastive_logits", similarities)
    released.check("code_perplexity", output.code_perplexity)
    released.check("prob_perplexity", output.prob_perplexity)
    released.check("features_pen", output.features_penalty)
    assert again.contrastive_logits.equal(output.contrastive_logits)


@each_naming
@each_implementation
def test_when_the_classifier_is_converted_then_logits_agree(released, implementation, naming):
    model = _classifier(released, naming)
    assert isinstance(model, EcgFmForSequenceClassification)
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        for case in CASES:
            values = released.tensors[f"input.values_{case}"]
            released.check(f"classifier_pooled_{case}", model.ecg_fm(values).pooler_output)
            released.check(f"classifier_logits_{case}", model(values).logits)
        attention_mask = ~released.tensors["input.padding_mask"][:, 0].bool()
        logits = model(released.tensors["input.values_padded"], attention_mask).logits
        released.check("classifier_logits_padded", logits)


def test_when_an_encoder_alone_is_converted_then_it_is_that_of_the_classifier(released):
    state_dict = {
        key.removeprefix("encoder."): tensor
        for key, tensor in released.part("classifier").items()
        if not key.startswith("proj.")
    }
    model = convert_ecg_fm_state_dict(state_dict, num_attention_heads=4)
    assert type(model) is EcgFmModel
    released.check("classifier_pooled_random", model(released.tensors["input.values_random"]).pooler_output)


def test_when_weights_are_converted_then_sizes_come_from_the_shapes(released):
    sizes = json.loads(released.metadata["sizes"])
    config = _pretrained(released).config
    assert config.hidden_size == sizes["encoder_embed_dim"]
    assert config.num_hidden_layers == sizes["encoder_layers"]
    assert config.intermediate_size == sizes["encoder_ffn_embed_dim"]
    assert (config.conv_dim, config.conv_kernel, config.conv_stride) == ([32] * 4, [2] * 4, [2] * 4)
    assert config.num_conv_pos_embeddings == sizes["conv_pos"]
    assert config.num_conv_pos_embedding_groups == sizes["conv_pos_groups"]
    assert config.num_codevectors_per_group == sizes["latent_vars"]
    assert config.num_codevector_groups == sizes["latent_groups"]
    assert (config.codevector_dim, config.proj_codevector_dim) == (16, sizes["final_dim"])
    assert list(RELEASED_LABELS) == json.loads(released.metadata["labels"])
    assert set(MAXIMUM_LABELS) < set(RELEASED_LABELS)


# The released size


def _released_size(kind: str) -> StateDict:
    """A state dict with the released names and shapes."""
    prefix = "encoder." if kind == "classifier" else ""
    numbers = torch.randn(5_000_000, generator=torch.Generator().manual_seed(0))
    starts = iter(range(215))

    def draw(*shape: int) -> torch.Tensor:
        return numbers[next(starts) :][: torch.Size(shape).numel()].view(shape)

    def linear(name: str, size: int, *inputs: int) -> StateDict:
        return {f"{name}.weight": draw(size, *inputs), f"{name}.bias": draw(size)}

    tensors = {
        **{f"feature_extractor.conv_layers.{index}.0.weight": draw(256, 256, 2) for index in (1, 2, 3)},
        "feature_extractor.conv_layers.0.0.weight": draw(256, 12, 2),
        **linear("feature_extractor.conv_layers.0.2", 256),
        **linear("layer_norm", 256),
        **linear("post_extract_proj", 768, 256),
        "conv_pos.pos_conv.0.bias": draw(768),
        "conv_pos.pos_conv.0.weight_g": draw(1, 1, 128),
        "conv_pos.pos_conv.0.weight_v": draw(768, 48, 128),
        **linear("encoder.layer_norm", 768),
    }
    for index in range(12):
        layer = f"encoder.layers.{index}"
        for name in "kvq":
            tensors |= linear(f"{layer}.self_attn.{name}_proj", 768, 768)
        tensors |= linear(f"{layer}.self_attn.out_proj", 768, 768)
        tensors |= linear(f"{layer}.fc1", 3072, 768) | linear(f"{layer}.fc2", 768, 3072)
        tensors |= linear(f"{layer}.self_attn_layer_norm", 768) | linear(f"{layer}.final_layer_norm", 768)
    tensors = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    if kind == "classifier":
        return tensors | linear("proj", 17, 768)
    tensors |= {"mask_emb": draw(768), "quantizer.vars": draw(1, 640, 128)}
    tensors |= linear("quantizer.weight_proj", 640, 256)
    return tensors | linear("project_q", 256, 256) | linear("final_proj", 256, 768)


@pytest.mark.parametrize(("kind", "num_tensors"), [("pretrained", 215), ("classifier", 209)])
def test_when_a_file_has_the_released_size_then_every_number_of_it_is_in_the_model(kind, num_tensors):
    tensors = _released_size(kind)
    assert len(tensors) == num_tensors
    with no_init_weights():  # which takes longer than all else
        model = convert_ecg_fm_state_dict(tensors)
    weights = model.state_dict()
    assert len(weights) == num_tensors
    expected = EcgFmConfig(num_labels=17).to_dict()
    assert {name for name, value in model.config.to_dict().items() if value != expected[name]} <= {
        *("id2label", "label2id", "problem_type", "window_aggregation", "dtype", "architectures")
    }
    by_start = {float(tensor.flatten()[0]): tensor for tensor in tensors.values()}
    assert len(by_start) == num_tensors
    for name, weight in weights.items():
        assert weight.equal(by_start.pop(float(weight.flatten()[0]))), name
    if kind == "pretrained":
        assert model.num_parameters() == 90_883_072
    else:
        assert list(model.config.id2label.values()) == list(RELEASED_LABELS)
        assert model.config.window_aggregation == dict.fromkeys(MAXIMUM_LABELS, "max")


# Folders


def test_when_a_classifier_is_converted_to_a_folder_then_it_answers_with_its_labels(
    released, tmp_path, write_record, printed_by
):
    generator = torch.Generator().manual_seed(0)
    tensors = released.part("classifier")
    tensors["proj.weight"] = torch.randn(17, 48, generator=generator)
    tensors["proj.bias"] = torch.randn(17, generator=generator)
    torch.save({"model": tensors}, tmp_path / "mimic_iv_ecg_finetuned.pt")
    facts = convert_ecg_fm_to_folder(
        tmp_path / "mimic_iv_ecg_finetuned.pt", tmp_path / "converted", num_attention_heads=4
    )
    assert facts["kind"] == "fine-tuned ECG-FM classifier"
    assert facts["num_tensors"] == len(tensors)
    assert (facts["labels_known"], facts["labels"]) == (True, "released")
    card = ModelCard.load(tmp_path / "converted" / "README.md")
    for words in (
        "a fine-tuned ECG-FM classifier",
        f"with {len(tensors)} tensors, all of which are used",
        "The number of attention heads, 4, is not in the file.",
        "Their authors, not `clear-hug-hf`, trained the weights",
        "MIMIC-IV-ECG",
        "Its labels are those of the released classifier.",
        "The repositories of code and weights state the MIT license",
        "arXiv 2408.05178",
    ):
        assert words in card.text, words
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "converted")
    assert (extractor.sampling_rate, extractor.window_seconds, extractor.drop_remainder) == (500, 5, True)

    classify = pipeline("ecg-classification", model=str(tmp_path / "converted"))
    waveform = released.tensors["input.raw_mv500"].numpy()
    call = {"sampling_rate": 500, "lead_names": STANDARD_LEADS, "unit": "mV"}
    scores = {entry["label"]: entry["score"] for entry in classify(waveform, **call)}
    with torch.no_grad():
        logits = classify.model(released.tensors["input.values_mv500"]).logits
    windows = dict(zip(RELEASED_LABELS, logits.sigmoid().T.tolist(), strict=True))
    for label in RELEASED_LABELS:
        expected = max(windows[label]) if label in MAXIMUM_LABELS else np.mean(windows[label])
        assert scores[label] == pytest.approx(expected, abs=1e-6), label
    recording = Recording(waveform, 500.0, STANDARD_LEADS, "mV", record_id="record")
    record = write_record(tmp_path / "record", recording).with_suffix("")
    printed = json.loads(printed_by("predict", record, "--model", tmp_path / "converted", "--json"))
    assert printed["aggregate"] == "model"
    assert printed["probabilities"] == {entry["label"]: entry["score"] for entry in classify(record)}
    assert printed["probabilities"] == pytest.approx(scores, abs=0.01), "files have rounded samples"
    # A classifier of other labels starts without it.
    assert classifier_config(classify.model.config, ["Sinus rhythm", "Tachycardia"]).window_aggregation is None
    means = {entry["label"]: entry["score"] for entry in classify(waveform, **call, aggregate="mean")}
    assert means == pytest.approx({label: np.mean(values) for label, values in windows.items()}, abs=1e-6)


def test_when_the_pretrained_model_is_converted_by_the_command_then_all_auto_classes_load_it(
    released, tmp_path, printed_by, refused
):
    torch.save({"model": released.part("model"), "cfg": {"model": {}}}, tmp_path / "pretrained.pt")
    command = ["convert", "ecg-fm", tmp_path / "pretrained.pt", tmp_path / "converted"]
    assert "is not a released size: pass --num-attention-heads" in refused(*command)
    printed = printed_by(*command, "--num-attention-heads", 4)
    assert "pre-trained ECG-FM model" in printed
    assert f"{len(released.part('model'))} tensors, all of which are used" in printed
    facts = json.loads((tmp_path / "converted" / "conversion.json").read_text())
    assert (facts["labels_known"], facts["labels"]) == (None, None)
    values = released.tensors["input.values_mv500"]
    model, report = AutoModelForPreTraining.from_pretrained(tmp_path / "converted", output_loading_info=True)
    assert type(model) is EcgFmForPreTraining
    assert not any(report.values())
    with torch.no_grad():
        released.check("last_hidden_state_mv500", model.eval().ecg_fm(values).last_hidden_state)
        encoder = AutoModel.from_pretrained(tmp_path / "converted").eval()
        released.check("last_hidden_state_mv500", encoder(values).last_hidden_state)


# Other files


def test_when_a_file_is_another_one_then_a_sentence_refuses_it(released):
    state_dict = released.part("model")
    with pytest.raises(InputError, match="48 is not a released size: pass num_attention_heads"):
        convert_ecg_fm_state_dict(state_dict)
    lacking = {key: tensor for key, tensor in state_dict.items() if key not in ("mask_emb", "layer_norm.bias")}
    with pytest.raises(
        InputError, match=r"not that of a pre-trained ECG-FM model: it lacks layer_norm.bias, mask_emb"
    ):
        convert_ecg_fm_state_dict(lacking, num_attention_heads=4)
    with pytest.raises(InputError, match=r"it has the unexpected head\.weight"):
        convert_ecg_fm_state_dict({**state_dict, "head.weight": torch.zeros(1)}, num_attention_heads=4)
    with pytest.raises(
        InputError, match=r"not that of a pre-trained ECG-FM model: it lacks .* has the unexpected stem\.weight"
    ):
        convert_ecg_fm_state_dict({"stem.weight": torch.zeros(3)})
    with pytest.raises(InputError, match="not that of a pre-trained ECG-FM model") as caught:
        convert_ecg_fm_state_dict(jepa_tensors(64))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="has no labels: remove the label names"):
        convert_ecg_fm_state_dict(state_dict, num_attention_heads=4, label_names=["AF"])


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("feature_extractor.conv_layers.0.0.weight", (32, 8, 2), r"reads 8 lead\(s\): pass lead_names"),
        ("conv_pos.pos_conv.0.weight_v", (48, 13, 16), "groups of 13 channels, which do not divide the width 48"),
        ("quantizer.vars", (1, 20, 7), "do not fit the 16 inputs of project_q"),
        ("quantizer.vars", (20, 8), "has the shape .20, 8. instead of 3 nonempty"),
        ("encoder.layers.1.fc2.weight", (48, 95), "shapes of the tensors are inconsistent"),
        ("conv_pos.pos_conv.0.weight_g", (48, 1, 1), "shapes of the tensors are inconsistent"),
    ],
)
def test_when_a_shape_does_not_fit_then_a_sentence_says_so(released, key, shape, message):
    with pytest.raises(InputError, match=message):
        convert_ecg_fm_state_dict({**released.part("model"), key: torch.zeros(shape)}, num_attention_heads=4)


def test_when_labels_do_not_fit_then_a_sentence_says_so(released):
    state_dict = released.part("classifier")
    with pytest.raises(InputError, match="has 6 labels but 2 names were passed"):
        convert_ecg_fm_state_dict(state_dict, num_attention_heads=4, label_names=["AF", "MI"])
    model = convert_ecg_fm_state_dict(state_dict, num_attention_heads=4, label_names=list("ABCDEF"))
    assert model.config.id2label[5] == "F"
    assert model.config.window_aggregation is None
