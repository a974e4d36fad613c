"""Released weights give the released numbers, and a file that is not one of them is refused."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy import signal as scipy_signal
from transformers import AutoFeatureExtractor, AutoModelForPreTraining, AutoModelForSequenceClassification

from clear_hug_hf import STANDARD_LEADS, ClearHugConfig
from clear_hug_hf.hub.checkpoints import name_size
from clear_hug_hf.hub.convert_clear_hug import (
    convert_clear_hug_state_dict,
    convert_to_folder,
    released_feature_extractor,
)
from clear_hug_hf.processing import InputError
from clear_hug_hf.training.provenance import find_facts


IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "sdpa"])


class Released:
    """The released layers at a small size with random weights: state dicts, inputs, and what they compute."""

    def __init__(self, path):
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.heads = {
            "num_attention_heads": int(self.metadata["heads"]),
            "decoder_num_attention_heads": int(self.metadata["decoder_heads"]),
        }
        self.inputs = {
            "input_values": self.tensors["input.signals"].unflatten(1, (12, 15)),
            "time_ids": self.tensors["input.time_ids"].unflatten(1, (12, 15)),
        }
        self.masked = self.tensors["input.masked"].view(1, 12, 15).expand(3, -1, -1)

    def state_dict(self, name: str) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(f"{name}."): tensor for key, tensor in self.tensors.items() if key.startswith(f"{name}.")
        }

    def convert(self, name: str, implementation: str = "sdpa", **options):
        model = convert_clear_hug_state_dict(self.state_dict(name), **{**self.heads, **options})
        model.set_attn_implementation(implementation)
        return model

    def save(self, name: str, path: Path) -> Path:
        """A file as training scripts write it."""
        options = argparse.Namespace(model="clear", batch_size=256, lr=5e-4, opt_betas=[0.9, 0.98])
        torch.save({"model": self.state_dict(name), "epoch": 99, "args": options}, path)
        return path

    def check(self, name: str, actual: torch.Tensor) -> None:
        expected = self.tensors[f"expected.{name}"]
        torch.testing.assert_close(actual.reshape(expected.shape), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def released(shared) -> Released:
    return Released(shared / "parity" / "official_clear_small.safetensors")


def test_when_weights_are_converted_then_sizes_come_from_the_shapes(released):
    model = released.convert("pretrain")
    config, metadata = model.config, released.metadata
    assert config.hidden_size == int(metadata["embed_dim"])
    assert config.num_hidden_layers == int(metadata["depth"])
    assert config.intermediate_size == config.decoder_intermediate_size == int(metadata["mlp_dim"])
    assert config.decoder_hidden_size == int(metadata["decoder_embed_dim"])
    assert config.decoder_num_hidden_layers == int(metadata["decoder_depth"])
    assert (config.num_beats, config.beat_length, config.beat_embedding) == (15, 96, "conv")
    assert not model.training


@pytest.mark.parametrize(
    ("width", "decoder_width", "heads", "decoder_heads"), [(768, 512, 8, 16), (1024, 1024, 16, 16)]
)
def test_when_sizes_are_released_ones_then_heads_are_known(width, decoder_width, heads, decoder_heads):
    model = convert_clear_hug_state_dict(released_tensors(width, decoder_width))
    assert model.config.num_attention_heads == heads
    assert model.config.decoder_num_attention_heads == decoder_heads


def released_tensors(width: int = 768, decoder_width: int = 512) -> dict[str, torch.Tensor]:
    """A pre-trained state dict with one narrow layer each in encoder and decoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (12, width),
        "pos_embed": (1, 192, width),
        "mask_token": (1, 1, decoder_width),
        "decoder_pos_embed": (1, 192, decoder_width),
        "token_embed.tokenConv.weight": (width, 96, 3),
        "spa_embed.embed.weight": (16, width),
        "tem_embed.embed.weight": (16, width),
        "decoder_embed.weight": (decoder_width, width),
        "decoder_embed.bias": (decoder_width,),
        "decoder_pred.weight": (96, decoder_width),
        "decoder_pred.bias": (96,),
    }
    for norm, size in (("norm_layer", width), ("decoder_norm", decoder_width)):
        shapes |= {f"{norm}.weight": (size,), f"{norm}.bias": (size,)}
    for stack, size in (("encoder_transformer", width), ("decoder_transformer", decoder_width)):
        layer = f"{stack}.layers.0"
        shapes |= {
            f"{layer}.self_attn.in_proj_weight": (3 * size, size),
            f"{layer}.self_attn.in_proj_bias": (3 * size,),
        }
        shapes |= {f"{layer}.self_attn.out_proj.weight": (size, size), f"{layer}.self_attn.out_proj.bias": (size,)}
        shapes |= {f"{layer}.ff.0.weight": (8, size), f"{layer}.ff.0.bias": (8,)}
        shapes |= {f"{layer}.ff.3.weight": (size, 8), f"{layer}.ff.3.bias": (size,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"{layer}.{norm}.weight": (size,), f"{layer}.{norm}.bias": (size,)}
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


# Other files


@pytest.mark.parametrize(
    "key", ["mask_token", "norm_layer.bias", "decoder_transformer.layers.0.self_attn.in_proj_bias"]
)
def test_when_a_key_is_missing_then_it_is_named(key):
    tensors = released_tensors()
    del tensors[key]
    with pytest.raises(InputError, match=f"not that of a CLEAR pre-trained model: it lacks {key};"):
        convert_clear_hug_state_dict(tensors)


def test_when_keys_are_left_over_then_they_are_named():
    tensors = released_tensors()
    tensors["moe.level9.weight"] = torch.zeros(1)
    tensors["encoder_transformer.layers.0.norm3.weight"] = torch.zeros(1)
    with pytest.raises(
        InputError, match=r"it holds moe\.level9\.weight, encoder_transformer\.layers\.0\.norm3\.weight, which no such"
    ):
        convert_clear_hug_state_dict(tensors)


def test_when_a_layer_is_missing_in_the_middle_then_it_is_noticed():
    tensors = released_tensors()
    tensors |= {
        key.replace("layers.0", "layers.2"): tensor
        for key, tensor in tensors.items()
        if key.startswith("encoder_transformer")
    }
    with pytest.raises(InputError, match=r"it lacks encoder_transformer\.layers\.1\.self_attn\.in_proj_weight"):
        convert_clear_hug_state_dict(tensors)


def test_when_it_is_another_network_then_the_first_keys_of_both_sides_are_named():
    other = {f"features.{index}.weight": torch.zeros(3) for index in range(8)}
    with pytest.raises(InputError) as caught:
        convert_clear_hug_state_dict(other)
    others = len(released_tensors()) - 5
    assert str(caught.value) == (
        "the state dict is not that of a CLEAR pre-trained model: it lacks cls_token, pos_embed, "
        f"token_embed.tokenConv.weight, spa_embed.embed.weight, tem_embed.embed.weight and {others} more, and it "
        "holds features.0.weight, features.1.weight, features.2.weight, features.3.weight, features.4.weight and 3 "
        "more, which no such model has; check that the file is the right one and complete"
    )


def test_when_a_fine_tuned_file_is_incomplete_then_it_is_named_for_what_it_is(released):
    for name, kind in (("linear", "CLEAR-linear"), ("hug", "CLEAR-HUG")):
        tensors = released.state_dict(name)
        del tensors["mlp_head.bias"]
        with pytest.raises(InputError, match=rf"not that of a {kind} classifier: it lacks mlp_head\.bias;"):
            convert_clear_hug_state_dict(tensors, num_attention_heads=4)


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder."])
def test_when_it_is_heartlang_then_it_says_why_it_cannot_be_converted(prefix):
    # Of the pre-trained model, of a fine-tuned one, and of the tokenizer that makes its words.
    tensors = {
        f"{prefix}cls_token": torch.zeros(768),
        f"{prefix}token_embed.tokenConv.weight": torch.zeros(768, 96, 3),
        f"{prefix}transformer.layers.0.0.to_qkv.weight": torch.zeros(1536, 768),
    }
    with pytest.raises(InputError, match=r"HeartLang.* one summary token \(cls_token\) for the recording") as caught:
        convert_clear_hug_state_dict(tensors)
    assert "\n" not in str(caught.value)


def test_when_a_transformer_has_layers_like_heartlang_then_it_is_not_taken_for_it():
    with pytest.raises(InputError, match="not that of a CLEAR pre-trained model: it lacks cls_token"):
        convert_clear_hug_state_dict({"transformer.layers.0.0.to_qkv.weight": torch.zeros(6, 2)})


def test_when_heads_cannot_be_known_then_they_are_asked_for():
    with pytest.raises(InputError, match="width 64 is not a released size: pass num_attention_heads"):
        convert_clear_hug_state_dict(released_tensors(64, 512))
    with pytest.raises(InputError, match="width 48 is not a released size: pass decoder_num_attention_heads"):
        convert_clear_hug_state_dict(released_tensors(768, 48))


def test_when_heads_do_not_fit_then_it_is_bad_input():
    with pytest.raises(InputError, match="hidden_size=768 is not a multiple of num_attention_heads=7"):
        convert_clear_hug_state_dict(released_tensors(), num_attention_heads=7)
    with pytest.raises(InputError, match="'num_attention_heads' expected int") as caught:
        convert_clear_hug_state_dict(released_tensors(), num_attention_heads="many")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        (
            "decoder_pred.weight",
            (50, 512),
            r"do not fit together: decoder\.prediction\.weight is \(50, 512\) and not \(96, 512\)",
        ),
        ("pos_embed", (1, 190, 768), "whole number of beats"),
        ("pos_embed", (1, 12, 768), "whole number of beats"),
        ("cls_token", (768,), r"cls_token is \(768,\) and not of 2 dimension"),
        ("cls_token", (0, 768), r"cls_token is \(0, 768\)"),
        ("cls_token", (8, 768), "8 leads instead of the twelve"),
        ("encoder_transformer.layers.0.self_attn.in_proj_bias", (2300,), "cannot be cut into queries, keys"),
        ("mask_token", (), r"mask_token is \(\)"),
    ],
)
def test_when_shapes_contradict_each_other_then_it_is_refused(key, shape, message):
    tensors = released_tensors()
    tensors[key] = torch.zeros(shape)
    if shape == (8, 768):
        tensors["pos_embed"] = torch.zeros(1, 128, 768)
    with pytest.raises(InputError, match=message):
        convert_clear_hug_state_dict(tensors)


# Folders


@IMPLEMENTATIONS
def test_when_a_pretrained_file_becomes_a_folder_then_the_folder_gives_the_released_numbers(
    released, tmp_path, implementation
):
    path = released.save("pretrain", tmp_path / "checkpoint.pth")
    convert_to_folder(path, tmp_path / "lead", cls_attention="lead", **released.heads)
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "lead", attn_implementation=implementation)
    with torch.no_grad():
        released.check("last_hidden_state", model.clear_hug(**released.inputs).last_hidden_state)
        for hidden in ({"bool_masked_pos": released.masked}, {"noise": released.masked.float()}):
            output = model(**released.inputs, **hidden)
            assert output.bool_masked_pos.equal(released.masked)
            released.check("reconstruction", output.reconstruction)
            released.check("loss", output.loss)

    facts = convert_to_folder(path, tmp_path / "released", **released.heads)
    assert facts["cls_attention"] == "reference_bias"
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "released", attn_implementation=implementation)
    with torch.no_grad():
        released.check("released_bias_hidden_state", model.clear_hug(**released.inputs).last_hidden_state)


@IMPLEMENTATIONS
@pytest.mark.parametrize(("name", "head"), [("linear", "mean"), ("hug", "hug")])
def test_when_a_classifier_becomes_a_folder_then_the_folder_gives_the_released_numbers(
    released, tmp_path, implementation, name, head
):
    path = released.save(name, tmp_path / "checkpoint-best.pth")
    facts = convert_to_folder(
        path, tmp_path / "model", num_attention_heads=4, label_names=list("VWXYZ"), cls_attention="lead"
    )
    assert facts["labels_known"] is True
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", attn_implementation=implementation)
    assert model.config.head_type == head
    assert model.config.problem_type == "multi_label_classification"
    assert [model.config.id2label[index] for index in range(5)] == list("VWXYZ")
    assert model.config.label2id["Z"] == 4
    with torch.no_grad():
        output = model(**released.inputs)
        released.check("last_hidden_state", model.clear_hug(**released.inputs).last_hidden_state)
    released.check(f"{name}_logits", output.logits)
    if name == "hug":
        released.check("hug_groups", output.group_states)


def test_when_a_file_is_converted_then_the_folder_says_what_it_was_made_of(released, tmp_path):
    path = released.save("hug", tmp_path / "checkpoint-best.pth")
    facts = convert_to_folder(path, tmp_path / "model", num_attention_heads=4)
    # The file that cards are made from.
    assert find_facts(tmp_path / "model") == {"conversion.json": facts}
    assert facts.pop("versions").keys() >= {"clear-hug-hf", "torch", "transformers"}
    model = released.convert("hug")
    assert facts == {
        "system": "clear-hug",
        "kind": "CLEAR-HUG classifier",
        "file": "checkpoint-best.pth",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "num_tensors": len(released.state_dict("hug")),
        "size": None,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_attention_heads": 4,
        "cls_attention": "reference_bias",
        "beat_embedding": "conv",
        "labels_known": False,
        "license_note": "Their repository states no licence",
    }
    config = ClearHugConfig.from_pretrained(tmp_path / "model")
    assert config.id2label[4] == "LABEL_4"
    assert AutoFeatureExtractor.from_pretrained(tmp_path / "model").detector == "xqrs"


def test_when_a_model_has_a_released_size_then_it_is_named():
    for size in ("base", "large"):
        assert name_size(ClearHugConfig.preset(size), ("", "decoder_")) == size
    other = ClearHugConfig.preset("base", decoder_num_hidden_layers=2)
    assert name_size(other, ("", "decoder_")) is None
    assert name_size(other) == "base"  # a classifier has no decoder


def test_when_a_folder_holds_anything_else_then_it_is_left_alone(released, tmp_path):
    path = released.save("linear", tmp_path / "checkpoint.pth")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"results holds notes\.txt, which no earlier run of this kind wrote"):
        convert_to_folder(path, tmp_path / "results", num_attention_heads=4)
    assert [one.name for one in (tmp_path / "results").iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="is a file"):
        convert_to_folder(path, path, num_attention_heads=4)

    (tmp_path / "model").mkdir()  # an empty folder is no loss
    convert_to_folder(path, tmp_path / "model", num_attention_heads=4)
    again = convert_to_folder(path, tmp_path / "model", num_attention_heads=4, label_names=list("ABCDE"))
    assert find_facts(tmp_path / "model")["conversion.json"] == again
    other = released.save("hug", tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"holds another conversion \(not the same: sha256\)"):
        convert_to_folder(other, tmp_path / "model", num_attention_heads=4)
    assert find_facts(tmp_path / "model")["conversion.json"] == again
    (tmp_path / "model" / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"holds a README\.md that no conversion wrote"):
        convert_to_folder(path, tmp_path / "model", num_attention_heads=4)


def test_when_a_conversion_fails_then_nothing_is_left_and_the_earlier_one_stays(released, tmp_path):
    path = released.save("linear", tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match="has 5 labels and 2 were named"):
        convert_to_folder(path, tmp_path / "model", num_attention_heads=4, label_names=("a", "b"))
    assert not (tmp_path / "model").exists()
    facts = convert_to_folder(path, tmp_path / "model", num_attention_heads=4)
    with pytest.raises(InputError, match="pass num_attention_heads"):
        convert_to_folder(path, tmp_path / "model")
    assert find_facts(tmp_path / "model")["conversion.json"] == facts
    assert sorted(one.name for one in tmp_path.iterdir()) == ["checkpoint.pth", "model"]


def test_when_label_names_make_no_sense_then_it_is_said(released, tmp_path):
    linear = released.save("linear", tmp_path / "linear.pth")
    for names in (("a", "b", "c", "d", "a"), ("a", "b", "c", "d", "")):
        with pytest.raises(InputError, match="empty or occurs twice"):
            convert_to_folder(linear, tmp_path / "model", num_attention_heads=4, label_names=names)
    pretrained = released.save("pretrain", tmp_path / "pretrain.pth")
    with pytest.raises(InputError, match="pre-trained model, which has no labels"):
        convert_to_folder(pretrained, tmp_path / "model", label_names=("a",), **released.heads)


# Preparation


def test_when_peaks_are_given_then_the_released_feature_extractor_cuts_the_released_beats(shared):
    official = np.load(shared / "parity" / "official_beats_small.npz")
    extractor = released_feature_extractor()
    for signals, peaks, beats, time_ids in zip(
        official["signals"], official["r_peaks"], official["beats"], official["time_ids"], strict=True
    ):
        found = extractor(
            signals,
            sampling_rate=100,
            lead_names=STANDARD_LEADS,
            unit="mV",
            r_peaks=peaks[peaks >= 0],
            do_bandpass=False,
            on_no_beats="mask",
        )
        np.testing.assert_array_equal(found["input_values"][0], beats)
        np.testing.assert_array_equal(found["time_ids"][0], time_ids[0])
        assert found["lead_mask"].all()


def test_when_a_recording_is_prepared_as_released_then_filter_and_peaks_are_those_libraries(shared):
    from wfdb.processing import xqrs_detect

    signals = np.load(shared / "parity" / "official_beats_small.npz")["signals"][0].astype(np.float32)
    extractor = released_feature_extractor()
    cleaned, _ = extractor.clean(signals, sampling_rate=100, lead_names=STANDARD_LEADS, unit="mV")
    numerator, denominator = scipy_signal.butter(5, (0.67, 40.0), btype="bandpass", fs=100.0)
    # Only how far a recording is continued at its ends differs from the released call.
    expected = scipy_signal.filtfilt(numerator, denominator, signals.astype(np.float64), padlen=300)
    np.testing.assert_allclose(cleaned, expected, atol=1e-5)
    peaks = extractor(signals, sampling_rate=100, lead_names=STANDARD_LEADS, unit="mV", return_r_peaks=True)[
        "r_peaks"
    ][0]
    np.testing.assert_array_equal(peaks, xqrs_detect(cleaned[1].astype(np.float64), fs=100, verbose=False))


def test_when_a_lead_is_flat_or_lost_then_it_stays_a_lead_as_released(shared):
    signals = np.load(shared / "parity" / "official_beats_small.npz")["signals"][0].astype(np.float32)
    signals[3], signals[8] = 0.0, np.nan
    signals[5, 40] = np.nan
    _, present = released_feature_extractor().clean(
        signals, sampling_rate=100, lead_names=STANDARD_LEADS, unit="mV", do_bandpass=False
    )
    assert present.all()


def test_when_a_folder_was_converted_then_its_card_says_of_what(released, tmp_path, capsys, run):
    path = released.save("hug", tmp_path / "hug_super.pth")
    heads = ["--num-attention-heads", "4"]
    labels = ["--labels", "NORM", "MI", "STTC", "CD", "HYP"]
    run("convert", "clear-hug", path, tmp_path / "hug", *heads, *labels)
    printed = capsys.readouterr().out
    assert "CLEAR-HUG classifier: " in printed
    assert "every tensor used" in printed
    facts = json.loads((tmp_path / "hug" / "conversion.json").read_text())
    card = (tmp_path / "hug" / "README.md").read_text()
    for words in (
        "The released CLEAR-HUG classifier `hug_super.pth`",
        f"SHA-256 `{facts['sha256']}`",
        f"{facts['num_tensors']} tensors, all of them used",
        "`cls_attention=reference_bias` runs the encoder as the released code does",
        "Their repository states no licence",
        "None: this repository holds no file with measured results",
        "| MI | 0.5 |",
    ):
        assert words in card, words
    # What the card shows works: the folder has the pipeline that it names.
    entry = json.loads((tmp_path / "hug" / "config.json").read_text())["custom_pipelines"]["ecg-classification"]
    assert entry["impl"] == "pipeline_ecg_classification.EcgClassificationPipeline"
    assert (tmp_path / "hug" / "pipeline_ecg_classification.py").is_file()
    # It can be converted again, and published as it is.
    run("convert", "clear-hug", path, tmp_path / "hug", *heads)
    assert "they are LABEL_0, LABEL_1 ...; --labels names them" in capsys.readouterr().out
    run("publish", tmp_path / "hug", "you/hug", "--dry-run", tmp_path / "staged")
    assert "missing: names of the labels" in capsys.readouterr().out
    assert json.loads((tmp_path / "staged" / "conversion.json").read_text())["kind"] == "CLEAR-HUG classifier"


def test_when_a_file_is_no_checkpoint_then_the_command_says_so_in_one_sentence(tmp_path, refused):
    (tmp_path / "checkpoint.pth").write_bytes(b"not a checkpoint")
    assert "is not a checkpoint" in refused("convert", "clear-hug", tmp_path / "checkpoint.pth", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_when_a_converted_encoder_is_finetuned_then_the_card_of_the_result_says_where_it_came_from(
    released, tmp_path, ptbxl_folder, run
):
    path = released.save("pretrain", tmp_path / "checkpoint-99.pth")
    convert_to_folder(path, tmp_path / "encoder", **released.heads)
    recipe = ["--data", ptbxl_folder, "--labels", "MI", "--epochs", "1", "--no-control", "--no-feature-cache"]
    run("finetune", *recipe, "--model", tmp_path / "encoder", "--output", tmp_path / "run")
    run("publish", tmp_path / "run", "you/fast", "--dry-run", tmp_path / "staged", "--license", "mit")
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "**Encoder**: converted from `checkpoint-99.pth`" in card
    assert "The file that was converted is its authors' work" in card
    assert "nothing was trained" not in card
