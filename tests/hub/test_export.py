"""Exported models compute what the model does, for any batch, and need no other file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from clear_hug_hf import (
    ClearHugConfig,
    ClearHugFeatureExtractor,
    ClearHugForPreTraining,
    ClearHugForSequenceClassification,
    CrtConfig,
    CrtForSequenceClassification,
    EcgCpcConfig,
    EcgCpcFeatureExtractor,
    EcgCpcForSequenceClassification,
    EcgFmConfig,
    EcgFmFeatureExtractor,
    EcgFmForSequenceClassification,
    EcgFounderConfig,
    EcgFounderFeatureExtractor,
    EcgFounderForSequenceClassification,
    EcgJepaConfig,
    EcgJepaFeatureExtractor,
    EcgJepaForSequenceClassification,
    EcgS4Config,
    EcgS4ForSequenceClassification,
    EcgScanConfig,
    EcgScanFeatureExtractor,
    EcgScanForImageClassification,
    EcgWaveformFeatureExtractor,
    HeartLangConfig,
    HeartLangFeatureExtractor,
    HeartLangForSequenceClassification,
    HubertEcgConfig,
    HubertEcgFeatureExtractor,
    HubertEcgForSequenceClassification,
    StMemConfig,
    StMemFeatureExtractor,
    StMemForSequenceClassification,
)
from clear_hug_hf.hub.export import export_onnx, run_onnx
from clear_hug_hf.processing import RHYTHM_FEATURES, STANDARD_LEADS, InputError
from clear_hug_hf.training.folders import save_model_folder


pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
SYSTEMS: dict[str, Any] = {
    "clear_hug": lambda: (
        ClearHugForSequenceClassification(ClearHugConfig(**SMALL, num_labels=3, use_beat_features=True)),
        ClearHugFeatureExtractor(use_beat_features=True),
    ),
    "ecg_jepa": lambda: (
        EcgJepaForSequenceClassification(EcgJepaConfig.preset("tiny", num_hidden_layers=1, num_labels=3)),
        EcgJepaFeatureExtractor(),
    ),
    "heartlang": lambda: (
        HeartLangForSequenceClassification(HeartLangConfig.preset("tiny", num_hidden_layers=1, num_labels=3)),
        HeartLangFeatureExtractor(detector="multilead"),
    ),
    "ecg_cpc": lambda: (
        EcgCpcForSequenceClassification(EcgCpcConfig.preset("tiny", hidden_size=32, num_labels=3)),
        EcgCpcFeatureExtractor(),
    ),
    "crt": lambda: (
        CrtForSequenceClassification(CrtConfig.preset("tiny", num_hidden_layers=1, num_labels=3)),
        EcgWaveformFeatureExtractor(),
    ),
    "ecg_s4": lambda: (
        EcgS4ForSequenceClassification(
            EcgS4Config(hidden_size=32, num_hidden_layers=1, num_labels=3, rhythm_features=RHYTHM_FEATURES)
        ),
        EcgWaveformFeatureExtractor(rhythm_features=RHYTHM_FEATURES),
    ),
    "ecg_founder": lambda: (
        EcgFounderForSequenceClassification(EcgFounderConfig.preset("tiny", num_labels=3)),
        EcgFounderFeatureExtractor(),
    ),
    "ecg_fm": lambda: (
        EcgFmForSequenceClassification(EcgFmConfig.preset("tiny", num_hidden_layers=1, num_labels=3)),
        EcgFmFeatureExtractor(),
    ),
    "hubert_ecg": lambda: (
        HubertEcgForSequenceClassification(HubertEcgConfig.preset("tiny", num_hidden_layers=1, num_labels=3)),
        HubertEcgFeatureExtractor(),
    ),
    "st_mem": lambda: (
        StMemForSequenceClassification(StMemConfig.preset("tiny", num_hidden_layers=1, num_labels=3)),
        StMemFeatureExtractor(),
    ),
    "ecg_scan": lambda: (
        EcgScanForImageClassification(EcgScanConfig.preset("tiny", num_labels=3)),
        EcgScanFeatureExtractor(),
    ),
}


def _saved(system: str, folder: Path) -> tuple[Any, Any]:
    torch.manual_seed(0)
    system, _, head_type = system.partition(" ")
    model, extractor = SYSTEMS[system]()
    if head_type:
        model.config.head_type = head_type
        model = type(model)(model.config)
    if hasattr(extractor, "image_processor"):
        extractor = EcgScanFeatureExtractor(image_size=model.config.image_size)
    with torch.no_grad():  # Logits that differ between recordings.
        model.classifier.weight.normal_()
        if model.rhythm_classifier is not None:
            model.rhythm_classifier.weight.normal_()
    save_model_folder(folder, model, extractor)
    return model.eval(), extractor


@pytest.mark.parametrize("system", [*SYSTEMS, *(f"{name} attention" for name in SYSTEMS)])
def test_when_a_classifier_is_exported_then_its_logits_are_those_of_the_model(system: str, tmp_path: Path) -> None:
    model, _ = _saved(system, tmp_path / "model")
    done = export_onnx(tmp_path / "model", tmp_path / "exported", int8=system == "clear_hug")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "exported")
    rng = np.random.default_rng(1)
    waveforms = [rng.normal(0, 0.1, (12, 2000)) for _ in range(4)]
    for number, waveform in enumerate(waveforms):
        waveform[:, 100 :: 150 + 30 * number] += 1
    about = {"sampling_rate": 200, "lead_names": STANDARD_LEADS, "unit": "mV"}
    for part in (waveforms, waveforms[:1]):
        found = run_onnx(done.folder / "model.onnx", dict(extractor(part, **about, return_tensors="np")))
        with torch.no_grad():
            expected = model(**extractor(part, **about, return_tensors="pt")).logits.numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-3
    facts = json.loads((done.folder / "export.json").read_text())
    assert facts["files"]["model.onnx"]["largest_difference"] < 1e-4
    if system == "clear_hug":
        small = facts["files"]["model_int8.onnx"]
        assert small["bytes"] < facts["files"]["model.onnx"]["bytes"]
        assert 0 < small["largest_difference"] < 1


def test_when_an_export_cannot_be_then_one_sentence_explains_why(tmp_path: Path, refused: Callable[..., str]) -> None:
    encoder = ClearHugForPreTraining(ClearHugConfig(**SMALL))
    save_model_folder(tmp_path / "encoder", encoder, ClearHugFeatureExtractor())
    with pytest.raises(InputError, match="is not a classifier of recordings: fine-tune the model first"):
        export_onnx(tmp_path / "encoder", tmp_path / "exported")
    _saved("clear_hug", tmp_path / "model")
    mine, exported = tmp_path / "mine", tmp_path / "exported"
    for folder, name, content, message in (
        (mine, "thesis.txt", "mine", "contains thesis.txt, which no earlier run of this kind wrote"),
        (exported, "export.json", '{"model": "of another"}', "contains a different export (model was"),
    ):
        folder.mkdir()
        (folder / name).write_text(content)
        assert message in refused("export", tmp_path / "model", "--output-dir", folder)
        assert (folder / name).read_text() == content
    assert "does not exist" in refused("export", tmp_path / "absent", "--output-dir", tmp_path / "new")
    assert not (tmp_path / "new").exists()
