"""What holds for the feature extractors of all systems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoFeatureExtractor

from clear_hug_hf.processing import (
    STANDARD_LEADS,
    ClearHugFeatureExtractor,
    EcgFeatureExtractor,
    EcgJepaFeatureExtractor,
    EcgScanFeatureExtractor,
    InputError,
)


EXTRACTORS = (ClearHugFeatureExtractor, EcgJepaFeatureExtractor, EcgScanFeatureExtractor)
SHIPPED = sorted((Path(__file__).parents[2] / "model_cards").glob("*/preprocessor_config.json"))
OF_LOADING = {"auto_map", "feature_extractor_type", "image_processor_type"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_when_a_shipped_file_is_loaded_and_saved_then_no_byte_of_it_changes(path: Path, tmp_path: Path) -> None:
    AutoFeatureExtractor.from_pretrained(path.parent).save_pretrained(tmp_path)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    AutoFeatureExtractor.from_pretrained(path.parent, detector="xqrs").save_pretrained(tmp_path)
    changed = json.loads((tmp_path / path.name).read_text())
    assert changed == {**json.loads(path.read_text()), "detector": "xqrs"}


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_when_help_is_asked_for_then_every_setting_is_explained_once(kind: type[EcgFeatureExtractor]) -> None:
    explained = f"{kind.__doc__}{EcgFeatureExtractor.__init__.__doc__}"
    arguments = [line.split("(`")[0] for line in explained.splitlines() if "(`" in line or "As in" in line]
    for name in set(kind().to_dict()) - OF_LOADING:
        assert sum(name in line.replace(",", " ").replace(":", " ").split() for line in arguments) == 1, name
        assert getattr(kind, name) == kind().to_dict()[name] or list(getattr(kind, name)) == kind().to_dict()[name]


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_when_settings_are_replaced_then_they_are_checked_and_the_extractor_stays_as_it_was(kind: Any) -> None:
    extractor = kind()
    other = extractor.replace(windows="all", min_seconds=2.0, detector=None)
    assert type(other) is kind
    assert other.to_dict() == {**kind().to_dict(), "windows": "all", "min_seconds": 2.0}
    assert extractor.to_dict() == kind().to_dict()
    with pytest.raises(InputError, match="windows is 'last': choose one of"):
        extractor.replace(windows="last")
    with pytest.raises(InputError, match="below half the sampling rate"):
        extractor.replace(do_bandpass=True, bandpass_high=extractor.sampling_rate / 2)
    with pytest.raises(TypeError, match=f"{kind.__name__} has no setting 'window'"):
        extractor(np.ones((12, 1000)), sampling_rate=100, lead_names=STANDARD_LEADS, unit="mV", window="all")


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_when_a_setting_follows_the_models_config_then_the_extractor_has_it(kind: Any) -> None:
    assert set(kind.model_settings) <= set(kind().to_dict())
