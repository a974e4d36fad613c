"""Released HuBERT-ECG weights give the released numbers, and a file that is not one of them is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from released import Released, StateDict, jepa_tensors
from safetensors.torch import save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification
from transformers.initialization import no_init_weights

from clear_hug_hf.hub.convert_hubert_ecg import (
    convert_hubert_ecg_checkpoint,
    convert_hubert_ecg_state_dict,
    convert_hubert_ecg_to_folder,
)
from clear_hug_hf.modeling.configuration_hubert_ecg import HubertEcgConfig
from clear_hug_hf.modeling.modeling_hubert_ecg import (
    HubertEcgForPreTraining,
    HubertEcgForSequenceClassification,
    HubertEcgModel,
)
from clear_hug_hf.processing import InputError


CASES = ("random", "mv500", "nu100", "long500", "ten_seconds")
FORMER = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
PARTS = ("masked_spec_embed", "final_proj.", "label_embedding.")
each_implementation = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
each_naming = pytest.mark.parametrize("naming", [{}, FORMER], ids=["recent", "former"])
each_suffix = pytest.mark.parametrize("suffix", [".safetensors", ".pt"])


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_hubert_ecg_small.safetensors")


def _renamed(state_dict: StateDict, naming: dict[str, str]) -> StateDict:
    for old, new in naming.items():
        state_dict = {key.replace(old, new): tensor for key, tensor in state_dict.items()}
    return state_dict


def _classifier_tensors(released: Released, prefix: str = "hubert_ecg.") -> StateDict:
    """Tensors of a fine-tuned classifier, in which parts of pre-training remain."""
    tensors = {f"{prefix}{key}": tensor for key, tensor in released.part("model").items()}
    return tensors | released.part("classifier")


# Released numbers


@each_implementation
@each_naming
@each_suffix
def test_when_the_pretrained_model_is_converted_then_numbers_agree(released, tmp_path, suffix, naming, implementation):
    path, tensors = tmp_path / f"model{suffix}", _renamed(released.part("model"), naming)
    if suffix == ".pt":
        torch.save({"model_state_dict": tensors, "global_step": 3}, path)
    else:
        save_file(tensors, path)
    model = convert_hubert_ecg_checkpoint(path, num_attention_heads=4)
    assert type(model) is HubertEcgForPreTraining
    assert not model.training
    model.set_attn_implementation(implementation)
    encoder, tensors = model.hubert_ecg, released.tensors
    with torch.no_grad():
        for case in CASES:
            output = encoder(tensors[f"input.values_{case}"])
            released.check(f"last_hidden_state_{case}", output.last_hidden_state)
            released.check(f"pooled_{case}", output.pooler_output)
        attention_mask = tensors["input.attention_mask_padded"].bool()
        output = encoder(tensors["input.values_padded"], attention_mask)
        released.check("last_hidden_state_padded", output.last_hidden_state)
        masked = tensors["input.mask"].bool()
        output = model(tensors["input.values_random"], bool_masked_pos=masked, output_hidden_states=True)
    released.check("last_hidden_state_masked", output.hidden_states[-1])
    released.check("code_logits_masked", output.logits)


@each_implementation
def test_when_the_classifier_is_converted_then_logits_agree(released, implementation):
    model = convert_hubert_ecg_state_dict(_classifier_tensors(released), num_attention_heads=4)
    assert type(model) is HubertEcgForSequenceClassification
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        for case in ("random", "mv500"):
            released.check(f"logits_{case}", model(released.tensors[f"input.values_{case}"]).logits)
        attention_mask = released.tensors["input.attention_mask_padded"].bool()
        released.check("logits_padded", model(released.tensors["input.values_padded"], attention_mask).logits)


def test_when_weights_are_converted_then_sizes_come_from_the_shapes(released):
    config = convert_hubert_ecg_state_dict(released.part("model"), num_attention_heads=4).config
    sizes = json.loads(released.metadata["sizes"])
    del sizes["num_labels"]
    assert {name: getattr(config, name) for name in sizes} == sizes


@pytest.mark.parametrize("has_mask", [True, False])
def test_when_an_encoder_alone_is_converted_then_it_is_that_of_the_pretrained_model(released, has_mask):
    dropped = PARTS[1:] if has_mask else PARTS
    state_dict = {key: tensor for key, tensor in released.part("model").items() if not key.startswith(dropped)}
    model = convert_hubert_ecg_state_dict(state_dict, num_attention_heads=4)
    assert type(model) is HubertEcgModel
    released.check("pooled_random", model(released.tensors["input.values_random"]).pooler_output)


@pytest.mark.parametrize(("size", "heads"), [("small", 8), ("base", None), ("large", 16)])
def test_when_a_file_has_a_released_size_then_every_number_of_it_is_in_the_model(size, heads):
    config = HubertEcgConfig.preset(size)
    with torch.device("meta"):
        template = HubertEcgForPreTraining(config).state_dict()
    numbers = torch.randn(8_000_000, generator=torch.Generator().manual_seed(0))
    tensors, expected = {}, {}
    for index, (name, tensor) in enumerate(template.items()):
        expected[name] = numbers[index:][: tensor.numel()].view(tensor.shape)
        old = name.removeprefix("hubert_ecg.")
        old = re.sub(r"feature_encoder.convolutions.(\d)", r"feature_extractor.conv_layers.\1.conv", old)
        old = old.replace("feature_encoder.norm", "feature_extractor.conv_layers.0.layer_norm")
        old = old if old.startswith(("feature_", "final_proj", "label_", "mask_")) else f"encoder.{old}"
        tensors[old.replace("mask_embedding", "masked_spec_embed")] = expected[name]
    with no_init_weights():  # which takes longer than all else
        model = convert_hubert_ecg_state_dict(tensors, num_attention_heads=heads)
    differing = {name for name, value in model.config.to_dict().items() if value != config.to_dict()[name]}
    assert differing <= {"dtype", "architectures"}
    weights = model.state_dict()
    assert set(weights) == set(expected)
    assert all(weights[name].equal(tensor) for name, tensor in expected.items())


# Folders


def test_when_a_classifier_is_converted_to_a_folder_then_unused_tensors_are_named(released, tmp_path):
    save_file(_classifier_tensors(released), tmp_path / "model.safetensors")
    facts = convert_hubert_ecg_to_folder(
        tmp_path / "model.safetensors", tmp_path / "converted", num_attention_heads=4, label_names=list("ABCDEF")
    )
    assert (facts["kind"], facts["labels_known"], facts["size"]) == ("fine-tuned HuBERT-ECG classifier", True, None)
    (unused,) = facts["unused_tensors"].values()
    assert {name.removeprefix("hubert_ecg.").split(".")[0] for name in unused} == {
        *("masked_spec_embed", "final_proj", "label_embedding")
    }
    card = ModelCard.load(tmp_path / "converted" / "README.md")
    for words in ("HuBERT-ECG", "CC BY-NC 4.0", "Their authors, not `clear-hug-hf`, trained the weights"):
        assert words in card.text, words
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "converted")
    assert (extractor.sampling_rate, extractor.window_seconds, extractor.decimation) == (500, 5, 5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        released.check("logits_mv500", model(released.tensors["input.values_mv500"]).logits)


def test_when_the_pretrained_model_is_converted_by_the_command_then_all_auto_classes_load_it(
    released, tmp_path, printed_by, refused
):
    save_file(released.part("model"), tmp_path / "model.safetensors")
    command = ["convert", "hubert-ecg", tmp_path / "model.safetensors", tmp_path / "converted"]
    assert "is not a released size: pass --num-attention-heads" in refused(*command)
    assert "pre-trained HuBERT-ECG model" in printed_by(*command, "--num-attention-heads", 4)
    model, report = AutoModelForPreTraining.from_pretrained(tmp_path / "converted", output_loading_info=True)
    assert type(model) is HubertEcgForPreTraining
    assert not any(report.values())
    encoder = AutoModel.from_pretrained(tmp_path / "converted").eval()
    with torch.no_grad():
        output = encoder(released.tensors["input.values_mv500"])
    released.check("last_hidden_state_mv500", output.last_hidden_state)


# Other files


def test_when_a_file_is_another_one_then_a_sentence_refuses_it(released):
    state_dict = released.part("model")
    with pytest.raises(InputError, match="48 is not a released size: pass num_attention_heads"):
        convert_hubert_ecg_state_dict(state_dict)
    lacking = {key: tensor for key, tensor in state_dict.items() if key != "masked_spec_embed"}
    with pytest.raises(InputError, match=r"not that of a pre-trained HuBERT-ECG model: it lacks masked_spec_embed"):
        convert_hubert_ecg_state_dict(lacking, num_attention_heads=4)
    with pytest.raises(InputError, match=r"it has the unexpected head\.weight"):
        convert_hubert_ecg_state_dict({**state_dict, "head.weight": torch.zeros(1)}, num_attention_heads=4)
    with pytest.raises(InputError, match="not that of a pre-trained HuBERT-ECG model") as caught:
        convert_hubert_ecg_state_dict(jepa_tensors(64))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="has no labels: remove the label names"):
        convert_hubert_ecg_state_dict(state_dict, num_attention_heads=4, label_names=["AF"])
    with pytest.raises(InputError, match="has 6 labels but 2 names were passed"):
        convert_hubert_ecg_state_dict(_classifier_tensors(released), num_attention_heads=4, label_names=["AF", "MI"])


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("feature_extractor.conv_layers.0.conv.weight", (24, 12, 10), "shapes of the tensors are inconsistent"),
        (
            "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
            (48, 13, 16),
            "groups of 13 channels, which do not divide the width 48",
        ),
        ("label_embedding.0.weight", (11, 7), "shapes of the tensors are inconsistent"),
        ("label_embedding.0.weight", (11,), "has the shape .11,. instead of 2 nonempty"),
        ("encoder.layers.1.feed_forward.output_dense.weight", (48, 79), "shapes of the tensors are inconsistent"),
    ],
)
def test_when_a_shape_does_not_fit_then_a_sentence_refuses_it(released, key, shape, message):
    with pytest.raises(InputError, match=message):
        convert_hubert_ecg_state_dict({**released.part("model"), key: torch.zeros(shape)}, num_attention_heads=4)
