"""Released ECGFounder weights give the released numbers, and a file that is not one of them is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from released import Released, founder_tensors

from clear_hug_hf.hub.convert_ecg_founder import (
    RELEASED_LABELS,
    convert_ecg_founder_state_dict,
    convert_ecg_founder_to_folder,
)
from clear_hug_hf.hub.model_card import tensor_counts
from clear_hug_hf.hub.publishing import stage
from clear_hug_hf.modeling.configuration_ecg_founder import EcgFounderConfig
from clear_hug_hf.modeling.modeling_ecg_founder import (
    EcgFounderBlock,
    EcgFounderForSequenceClassification,
    EcgFounderModel,
)
from clear_hug_hf.processing import STANDARD_LEADS, InputError
from clear_hug_hf.processing.feature_extraction_ecg_founder import EcgFounderFeatureExtractor


CASES = ("random", "mv500", "nu100", "long500", "mv500_filtered", "nu100_filtered")


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_ecgfounder_small.safetensors")


def test_when_weights_are_converted_then_every_stage_and_logit_agrees(released: Released) -> None:
    model = convert_ecg_founder_state_dict(released.part("model"))
    assert isinstance(model, EcgFounderForSequenceClassification)
    assert not model.training
    sizes = json.loads(released.metadata["sizes"])
    config = model.config
    assert (config.stage_channels, config.stage_depths) == (sizes["filters"], sizes["blocks"])
    assert (config.group_size, config.kernel_size) == (sizes["groups_width"], sizes["kernel_size"])
    assert (config.bottleneck_ratio, config.stem_channels, config.num_leads) == (1, 16, 12)
    with torch.no_grad():
        states = model.ecg_founder(released.tensors["input.values_random"], output_hidden_states=True).hidden_states
        for name, state in zip(("stem", "stage0", "stage1", "stage2", "stage3"), states, strict=True):
            released.check(f"{name}_random", state.transpose(1, 2))
        for case in CASES:
            values = released.tensors[f"input.values_{case}"]
            released.check(f"pooled_{case}", model.ecg_founder(values).pooler_output)
            released.check(f"logits_{case}", model(values).logits)


def test_when_the_model_reads_one_lead_then_its_numbers_agree_and_it_picks_the_lead_by_name(
    released: Released,
) -> None:
    model = convert_ecg_founder_state_dict(released.part("model_1lead"))
    assert (model.config.lead_names, model.config.bottleneck_ratio) == (["I"], 0.5)
    with torch.no_grad():
        output = model(released.tensors["input.values_1lead"])
    released.check("logits_1lead", output.logits)
    released.check("pooled_1lead", model.ecg_founder(released.tensors["input.values_1lead"]).pooler_output)
    with pytest.raises(ValueError, match=r"input_values must have shape \(any, 1, any\), got \(2, 12, 1250\)"):
        model(released.tensors["input.values_random"])
    leads, raw = json.loads(released.metadata["lead_order"]), released.tensors["input.raw_mv500"].numpy()
    one_lead = EcgFounderFeatureExtractor(lead_names=["I"])
    alone = one_lead(raw[:1], sampling_rate=500, lead_names=["I"], unit="mV")["input_values"]
    order = np.random.default_rng(0).permutation(12)
    among = one_lead(raw[order], sampling_rate=500, lead_names=[leads[row] for row in order], unit="mV")
    np.testing.assert_array_equal(among["input_values"], alone)


@pytest.mark.parametrize(("preprocessing", "suffix"), [("evaluation", ""), ("fine_tuning", "_filtered")])
def test_when_recordings_are_prepared_as_released_then_values_agree_whatever_the_order_of_leads(
    released: Released, preprocessing: str, suffix: str
) -> None:
    leads = json.loads(released.metadata["lead_order"])
    mimic = [*leads[:3], "aVR", "aVF", "aVL", *leads[6:]]
    extractor = EcgFounderFeatureExtractor(preprocessing=preprocessing)
    for case, rate, unit in (("mv500", 500, "mV"), ("nu100", 100, "NU"), ("long500", 500, "mV")):
        expected = released.tensors.get(f"input.values_{case}{suffix}")
        if expected is None:
            continue
        raw = released.tensors[f"input.raw_{case}"].numpy()
        for names in (leads, mimic):
            rows = [leads.index(name) for name in names]
            values = extractor(raw[rows], sampling_rate=rate, lead_names=names, unit=unit)["input_values"]
            np.testing.assert_allclose(values, expected.numpy(), atol=1e-5)


def test_when_stored_recordings_lack_a_lead_of_the_model_then_they_are_refused_in_training_too() -> None:
    one_lead, extractor = EcgFounderFeatureExtractor(lead_names=["I"]), EcgFounderFeatureExtractor()
    waveform = np.random.default_rng(0).normal(size=(1, 5000))
    signal, present = one_lead.clean(waveform, 500, ["I"], "mV")
    assert one_lead.cut([signal], [np.empty(0, dtype=int)], [present])["input_values"].shape == (1, 1, 5000)
    with pytest.raises(InputError, match=r"lead II, III, aVR, .* is missing or flat, but this model was trained on"):
        extractor.cut([signal], [np.empty(0, dtype=int)], [present])


@pytest.mark.parametrize(("preprocessing", "repaired"), [("fine_tuning", True), ("evaluation", False)])
def test_when_samples_are_nan_then_fine_tuning_replaces_them_by_zero(preprocessing: str, repaired: bool) -> None:
    rng = np.random.default_rng(0)
    waveform = 1 + 0.1 * rng.normal(size=(12, 5000))
    zeros = waveform.copy()
    zeros[3, 100:150], waveform[3, 100:150] = 0, np.nan
    extractor = EcgFounderFeatureExtractor(preprocessing=preprocessing)
    about = {"sampling_rate": 500, "lead_names": STANDARD_LEADS, "unit": "mV"}
    values = [extractor(signal, **about)["input_values"] for signal in (waveform, zeros)]
    assert np.array_equal(*values) == repaired
    assert extractor.keeps_unit == (preprocessing != "evaluation")


def test_when_normalization_tensors_differ_then_nothing_changes_and_they_are_named(
    released: Released, tmp_path: Path
) -> None:
    tensors = released.part("model")
    other = {key: tensor * 3 + 1 if ".bn" in key or "first_bn" in key else tensor for key, tensor in tensors.items()}
    # The released file holds NumPy numbers beside the weights.
    torch.save({"state_dict": other, "step": np.int64(3), "val_auroc": np.float64(0.9)}, tmp_path / "founder.pth")
    facts = convert_ecg_founder_to_folder(tmp_path / "founder.pth", tmp_path / "folder")
    ((reason, unused),) = facts["unused_tensors"].items()
    assert "normalization" in reason
    assert set(unused) == {key for key in tensors if "bn" in key}
    assert json.loads((tmp_path / "folder" / "conversion.json").read_text())["unused_tensors"] == {reason: unused}
    assert tensor_counts(facts) == f"{len(tensors)} tensors, of which {len(unused)} are not used ({reason})"
    card = (tmp_path / "folder" / "README.md").read_text()
    for words in (tensor_counts(facts), "Their authors, not `clear-hug-hf`, trained the weights", "MIT license"):
        assert words in card
    assert "attention heads" not in card
    model = EcgFounderForSequenceClassification.from_pretrained(tmp_path / "folder").eval()
    with torch.no_grad():
        released.check("logits_random", model(released.tensors["input.values_random"]).logits)


def test_when_lengths_are_odd_then_a_batch_equals_one_by_one_and_the_last_pair_is_pooled_with_a_zero() -> None:
    torch.manual_seed(0)
    model = EcgFounderModel(EcgFounderConfig.preset("tiny")).eval()
    for length in (997, 1111, 1250):
        batch = torch.randn(3, 12, length)
        with torch.no_grad():
            together = model(batch).last_hidden_state
            alone = torch.cat([model(recording[None]).last_hidden_state for recording in batch])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    block = EcgFounderBlock(model.config, 16, 16, 2, False)
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    states = -torch.ones(1, 16, 5)
    assert block(states)[0, 0].tolist() == [-1, -1, 0]


@pytest.mark.parametrize(("size", "parameters"), [("base", 30_752_646), ("clef_small", None), ("clef_large", None)])
def test_when_a_file_has_a_released_size_then_sizes_and_labels_are_known(
    size: str, parameters: int | None, tmp_path: Path
) -> None:
    config = EcgFounderConfig.preset(size)
    tensors = founder_tensors(config)
    if size == "base":
        assert len(tensors) == 509
        assert sum(tensor.numel() for name, tensor in tensors.items() if "bn" not in name) == parameters
    else:  # CLEF has no classifier, and its names may have a prefix
        tensors = {f"model.{key}": tensor for key, tensor in tensors.items() if not key.startswith("dense.")}
    if size == "clef_large":  # 1.2 GB: only its shapes
        with torch.device("meta"):
            assert EcgFounderModel(config).num_parameters() == pytest.approx(296e6, rel=0.01)
        return
    torch.save({"state_dict": tensors}, tmp_path / "weights.ckpt")
    facts = convert_ecg_founder_to_folder(tmp_path / "weights.ckpt", tmp_path / "folder")
    assert facts["size"] == size
    saved = EcgFounderConfig.from_pretrained(tmp_path / "folder")
    if size == "base":
        assert tuple(saved.id2label.values()) == RELEASED_LABELS
        assert facts["labels_known"]
    else:
        assert (saved.lead_names, facts["kind"]) == (["I"], "ECGFounder encoder")
        assert facts["hub_license"] == "bsd-3-clause-clear"
        card = (tmp_path / "folder" / "README.md").read_text()
        assert "CLEF of Nokia Bell Labs" in card
        assert "HEEDB" not in card
        # 448,000 with the normalization layers.
        assert facts["num_parameters"] == pytest.approx(443e3, rel=0.001)


@pytest.mark.parametrize(
    ("stated", "license", "is_possible"),
    [
        ("cc-by-nc-4.0", "mit", False),
        ("cc-by-nc-4.0", "cc-by-4.0", False),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", True),
        ("cc-by-nc-4.0", None, True),
        ("mit", "cc-by-4.0", True),
    ],
)
def test_when_authors_forbid_commercial_use_then_no_license_that_allows_it_is_published(
    stated: str, license: str | None, is_possible: bool, tmp_path: Path
) -> None:
    torch.save(founder_tensors(EcgFounderConfig.preset("tiny"), 3), tmp_path / "weights.pth")
    convert_ecg_founder_to_folder(tmp_path / "weights.pth", tmp_path / "model", label_names=["A", "B", "C"])
    facts = json.loads((tmp_path / "model" / "conversion.json").read_text())
    (tmp_path / "model" / "conversion.json").write_text(json.dumps({**facts, "hub_license": stated}))
    if is_possible:
        assert stage(tmp_path / "model", tmp_path / "staged", "me/model", license=license).license == license
        return
    with pytest.raises(InputError, match=f"under {stated}, which forbids commercial use, so --license {license} is"):
        stage(tmp_path / "model", tmp_path / "staged", "me/model", license=license)
    assert not (tmp_path / "staged").exists()


def test_when_a_model_has_many_labels_then_predict_prints_the_positive_and_the_most_probable_ones(
    tmp_path: Path, ptbxl_folder: Path, printed_by: Any
) -> None:
    tensors = founder_tensors(EcgFounderConfig.preset("tiny"))
    tensors["dense.bias"] = torch.linspace(5, -5, 150)
    tensors["dense.bias"][-1] = 9  # the last one is positive, too
    torch.save(tensors, tmp_path / "weights.pth")
    convert_ecg_founder_to_folder(tmp_path / "weights.pth", tmp_path / "model")
    command = ["predict", ptbxl_folder / "records100/00000/00003_lr", "--model", tmp_path / "model"]
    lines = printed_by(*command, "--threshold", 0.99).splitlines()
    rows = [line for line in lines if "%  " in line]
    positive = [row for row in rows if row.startswith("  *")]
    assert len(rows) == 20
    assert 1 < len(positive) < 20
    assert RELEASED_LABELS[-1] in positive[0]
    assert lines[-1].strip() == "and 130 more, not predicted positive (--json lists all)"
    assert len(json.loads(printed_by(*command, "--json"))["probabilities"]) == 150


def _without(key: str) -> Any:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key}


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (_without("dense.bias"), {}, "not that of an ECGFounder classifier: it lacks dense.bias"),
        (_without("first_conv.conv.weight"), {}, "it lacks first_conv.conv.weight"),
        (_without("stage_list.1.block_list.0.bn2.weight"), {}, r"lacks stage_list\.1\.block_list\.0\.bn2\.weight"),
        (lambda tensors: {**tensors, "layer_norm.weight": torch.ones(3)}, {}, "unexpected layer_norm.weight"),
        (lambda tensors: {"encoder.norm.weight": torch.ones(3)}, {}, "it lacks first_conv"),
        (lambda tensors: {**tensors, "dense.weight": torch.ones(7, 5)}, {}, "shapes of the tensors are inconsistent"),
        (
            lambda tensors: {**tensors, "stage_list.0.block_list.0.conv2.conv.weight": torch.ones(16, 7, 16)},
            {},
            "in groups of 7",
        ),
        (lambda tensors: tensors, {"label_names": ["MI"]}, "has 7 labels but 1 names were passed"),
        (lambda tensors: tensors, {"label_names": ["MI"] * 7}, "a label name is empty or duplicate"),
        (
            lambda tensors: {key: tensor for key, tensor in tensors.items() if not key.startswith("dense.")},
            {"label_names": ["MI"]},
            "contains an ECGFounder encoder, which has no labels",
        ),
        (lambda tensors: tensors, {"lead_names": ["I", "II"]}, "reads 12 lead"),
    ],
)
def test_when_a_file_is_of_another_network_or_names_do_not_fit_then_one_sentence_says_so(
    change: Any, arguments: dict[str, Any], message: str
) -> None:
    tensors = founder_tensors(EcgFounderConfig.preset("tiny"), num_labels=7)
    with pytest.raises(InputError, match=message) as caught:
        convert_ecg_founder_state_dict(change(tensors), **arguments)
    assert "\n" not in str(caught.value)
