"""Released weights give the released numbers, and a file that is not one of them is refused."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from released import Released
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


HEADS = {"num_attention_heads": 4, "decoder_num_attention_heads": 4}


def _inputs(released: Released) -> dict[str, torch.Tensor]:
    return {
        "input_values": released.tensors["input.signals"].unflatten(1, (12, 15)),
        "time_ids": released.tensors["input.time_ids"].unflatten(1, (12, 15)),
    }


def _save(released: Released, name: str, path: Path) -> Path:
    """A file as training scripts write it."""
    options = argparse.Namespace(model="clear", batch_size=256, lr=5e-4, opt_betas=[0.9, 0.98])
    torch.save({"model": released.part(name), "epoch": 99, "args": options}, path)
    return path


@pytest.fixture(scope="module")
def released(shared) -> Released:
    return Released(shared / "parity" / "official_clear_small.safetensors")


def test_when_weights_are_converted_then_sizes_come_from_the_shapes(released):
    model = convert_clear_hug_state_dict(released.part("pretrain"), **HEADS)
    config, metadata = model.config, released.metadata
    assert config.hidden_size == int(metadata["embed_dim"])
    assert config.num_hidden_layers == int(metadata["depth"])
    assert config.intermediate_size == config.decoder_intermediate_size == int(metadata["mlp_dim"])
    assert config.decoder_hidden_size == int(metadata["decoder_embed_dim"])
    assert config.decoder_num_hidden_layers == int(metadata["decoder_depth"])
    assert (config.num_beats, config.beat_length, config.beat_embedding) == (15, 96, "conv")
    assert not model.training


def test_when_a_fine_tuned_file_is_incomplete_then_it_is_named_for_what_it_is(released):
    for name, kind in (("linear", "CLEAR-linear"), ("hug", "CLEAR-HUG")):
        tensors = released.part(name)
        del tensors["mlp_head.bias"]
        with pytest.raises(InputError, match=rf"not that of a {kind} classifier: it lacks mlp_head\.bias;"):
            convert_clear_hug_state_dict(tensors, num_attention_heads=4)


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder."])
def test_when_it_is_heartlang_then_it_explains_why_it_cannot_be_converted(prefix):
    # Of the pre-trained model, of a fine-tuned one, and of the tokenizer that makes its words.
    tensors = {
        f"{prefix}cls_token": torch.zeros(768),
        f"{prefix}token_embed.tokenConv.weight": torch.zeros(768, 96, 3),
        f"{prefix}transformer.layers.0.0.to_qkv.weight": torch.zeros(1536, 768),
    }
    message = r"HeartLang.* one summary token \(cls_token\) per recording.* `clear-hug convert heartlang`"
    with pytest.raises(InputError, match=message) as caught:
        convert_clear_hug_state_dict(tensors)
    assert "\n" not in str(caught.value)


def test_when_a_transformer_has_layers_like_heartlang_then_it_is_not_taken_for_it():
    with pytest.raises(InputError, match="not that of a CLEAR pre-trained model: it lacks cls_token"):
        convert_clear_hug_state_dict({"transformer.layers.0.0.to_qkv.weight": torch.zeros(6, 2)})


# Folders


@IMPLEMENTATIONS
def test_when_a_pretrained_file_becomes_a_folder_then_the_folder_gives_the_released_numbers(
    released, tmp_path, implementation
):
    path = _save(released, "pretrain", tmp_path / "checkpoint.pth")
    convert_to_folder(path, tmp_path / "lead", cls_attention="lead", **HEADS)
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "lead", attn_implementation=implementation)
    with torch.no_grad():
        released.check("last_hidden_state", model.clear_hug(**_inputs(released)).last_hidden_state)
        masked = released.tensors["input.masked"].view(1, 12, 15).expand(3, -1, -1)
        for hidden in ({"bool_masked_pos": masked}, {"noise": masked.float()}):
            output = model(**_inputs(released), **hidden)
            assert output.bool_masked_pos.equal(masked)
            released.check("reconstruction", output.reconstruction)
            released.check("loss", output.loss)

    facts = convert_to_folder(path, tmp_path / "released", **HEADS)
    assert facts["cls_attention"] == "reference_bias"
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "released", attn_implementation=implementation)
    with torch.no_grad():
        released.check("released_bias_hidden_state", model.clear_hug(**_inputs(released)).last_hidden_state)


@IMPLEMENTATIONS
@pytest.mark.parametrize(("name", "head"), [("linear", "mean"), ("hug", "hug")])
def test_when_a_classifier_becomes_a_folder_then_the_folder_gives_the_released_numbers(
    released, tmp_path, implementation, name, head
):
    path = _save(released, name, tmp_path / "checkpoint-best.pth")
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
        output = model(**_inputs(released))
        released.check("last_hidden_state", model.clear_hug(**_inputs(released)).last_hidden_state)
    released.check(f"{name}_logits", output.logits)
    if name == "hug":
        released.check("hug_groups", output.group_states)


def test_when_a_file_is_converted_then_the_folder_records_what_it_was_made_of(released, tmp_path):
    path = _save(released, "hug", tmp_path / "checkpoint-best.pth")
    facts = convert_to_folder(path, tmp_path / "model", num_attention_heads=4)
    # The file that cards are made from.
    assert find_facts(tmp_path / "model") == {"conversion.json": facts}
    assert facts.pop("versions").keys() >= {"clear-hug-hf", "torch", "transformers"}
    model = convert_clear_hug_state_dict(released.part("hug"), num_attention_heads=4)
    assert facts == {
        "system": "clear-hug",
        "kind": "CLEAR-HUG classifier",
        "file": "checkpoint-best.pth",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "num_tensors": len(released.part("hug")),
        "size": None,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_attention_heads": 4,
        "cls_attention": "reference_bias",
        "beat_embedding": "conv",
        "labels_known": False,
        "license_note": "Their repository states no license",
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
    path = _save(released, "linear", tmp_path / "checkpoint.pth")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"results contains notes\.txt, which no earlier run of this kind wrote"):
        convert_to_folder(path, tmp_path / "results", num_attention_heads=4)
    assert [one.name for one in (tmp_path / "results").iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="is a file"):
        convert_to_folder(path, path, num_attention_heads=4)

    (tmp_path / "model").mkdir()  # an empty folder is no loss
    convert_to_folder(path, tmp_path / "model", num_attention_heads=4)
    again = convert_to_folder(path, tmp_path / "model", num_attention_heads=4, label_names=list("ABCDE"))
    assert find_facts(tmp_path / "model")["conversion.json"] == again
    other = _save(released, "hug", tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"contains a different conversion \(mismatch in sha256\)"):
        convert_to_folder(other, tmp_path / "model", num_attention_heads=4)
    assert find_facts(tmp_path / "model")["conversion.json"] == again
    (tmp_path / "model" / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"contains a README\.md that no conversion wrote"):
        convert_to_folder(path, tmp_path / "model", num_attention_heads=4)


def test_when_a_conversion_fails_then_nothing_is_left_and_the_earlier_one_stays(released, tmp_path):
    path = _save(released, "linear", tmp_path / "checkpoint.pth")
    with pytest.raises(InputError, match="has 5 labels but 2 names were passed"):
        convert_to_folder(path, tmp_path / "model", num_attention_heads=4, label_names=("a", "b"))
    assert not (tmp_path / "model").exists()
    facts = convert_to_folder(path, tmp_path / "model", num_attention_heads=4)
    with pytest.raises(InputError, match="pass num_attention_heads"):
        convert_to_folder(path, tmp_path / "model")
    assert find_facts(tmp_path / "model")["conversion.json"] == facts
    assert sorted(one.name for one in tmp_path.iterdir()) == ["checkpoint.pth", "model"]


def test_when_label_names_make_no_sense_then_it_is_reported(released, tmp_path):
    linear = _save(released, "linear", tmp_path / "linear.pth")
    for names in (("a", "b", "c", "d", "a"), ("a", "b", "c", "d", "")):
        with pytest.raises(InputError, match="is empty or duplicate"):
            convert_to_folder(linear, tmp_path / "model", num_attention_heads=4, label_names=names)
    pretrained = _save(released, "pretrain", tmp_path / "pretrain.pth")
    with pytest.raises(InputError, match="pre-trained model, which has no labels"):
        convert_to_folder(pretrained, tmp_path / "model", label_names=("a",), **HEADS)


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


def test_when_a_folder_was_converted_then_its_card_names_the_source(released, tmp_path, capsys, run):
    path = _save(released, "hug", tmp_path / "hug_super.pth")
    heads = ["--num-attention-heads", "4"]
    labels = ["--labels", "NORM", "MI", "STTC", "CD", "HYP"]
    run("convert", "clear-hug", path, tmp_path / "hug", *heads, *labels)
    printed = capsys.readouterr().out
    assert "CLEAR-HUG classifier: " in printed
    assert "tensors, all of which are used" in printed
    facts = json.loads((tmp_path / "hug" / "conversion.json").read_text())
    card = (tmp_path / "hug" / "README.md").read_text()
    for words in (
        "The released CLEAR-HUG classifier `hug_super.pth`",
        f"SHA-256 `{facts['sha256']}`",
        f"{facts['num_tensors']} tensors, all of which are used",
        "The encoder runs as in the released code (`cls_attention=reference_bias`).",
        "Their repository states no license",
        "No results are recorded for these weights.",
        "| MI | 0.5 |",
    ):
        assert words in card, words
    # What the card shows works: the folder has the pipeline that it names.
    entry = json.loads((tmp_path / "hug" / "config.json").read_text())["custom_pipelines"]["ecg-classification"]
    assert entry["impl"] == "pipeline_ecg_classification.EcgClassificationPipeline"
    assert (tmp_path / "hug" / "pipeline_ecg_classification.py").is_file()
    # It can be converted again, and published as it is.
    run("convert", "clear-hug", path, tmp_path / "hug", *heads)
    assert "they are LABEL_0, LABEL_1 ...: set them with --labels" in capsys.readouterr().out
    run("publish", tmp_path / "hug", "you/hug", "--dry-run", tmp_path / "staged")
    assert "missing: label names" in capsys.readouterr().out
    assert json.loads((tmp_path / "staged" / "conversion.json").read_text())["kind"] == "CLEAR-HUG classifier"


def test_when_a_converted_encoder_is_finetuned_then_the_card_of_the_result_names_where_it_came_from(
    released, tmp_path, ptbxl_folder, run
):
    path = _save(released, "pretrain", tmp_path / "checkpoint-99.pth")
    convert_to_folder(path, tmp_path / "encoder", **HEADS)
    recipe = ["--labels", "MI", "--num-train-epochs", "1", "--no-control", "--no-use-feature-cache"]
    command = ["finetune", "--data", ptbxl_folder, "--model", tmp_path / "encoder", "--output-dir", tmp_path / "run"]
    run(*command, *recipe)
    run("publish", tmp_path / "run", "you/fast", "--dry-run", tmp_path / "staged", "--license", "mit")
    card = (tmp_path / "staged" / "README.md").read_text()
    assert "**Encoder**: converted from `checkpoint-99.pth`" in card
    assert "The converted file is the work of its authors" in card
    assert "The weights are unchanged" not in card
