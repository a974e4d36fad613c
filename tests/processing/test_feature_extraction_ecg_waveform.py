"""The feature extractor that encoders of whole recordings share: scales, leads and lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pulses import LEADS, known, make_pulses

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_ecg_waveform import NORMALIZATIONS, EcgWaveformFeatureExtractor


def _values(waveform: np.ndarray, unit: str = "mV", **settings: Any) -> np.ndarray:
    values: np.ndarray = EcgWaveformFeatureExtractor(**settings)(waveform, **known(unit=unit))["input_values"][0]
    return values


def _standardized_leads(waveform: np.ndarray) -> np.ndarray:
    """A recording as data sets in standard deviations publish it."""
    return (waveform - waveform.mean(axis=1, keepdims=True)) / waveform.std(axis=1, keepdims=True)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_when_a_window_is_normalized_then_each_scale_is_that_of_its_description(normalize: str) -> None:
    cleaned = _values(make_pulses(), normalize="none").astype(np.float64)
    expected = {
        "none": cleaned,
        "lead": _standardized_leads(cleaned),
        "recording": (cleaned - cleaned.mean()) / cleaned.std(),
        "minmax": (cleaned - cleaned.min()) / (cleaned.max() - cleaned.min()),
    }[normalize]
    np.testing.assert_allclose(_values(make_pulses(), normalize=normalize), expected, atol=1e-5)


@pytest.mark.parametrize(("normalize", "are_alike"), [("lead", True), ("recording", False), ("minmax", False)])
def test_when_leads_were_standardized_before_then_only_the_default_makes_them_comparable(
    normalize: str, are_alike: bool
) -> None:
    waveform = make_pulses()
    # Other gains are another unit of all leads together.
    np.testing.assert_allclose(
        _values(7 * waveform, "NU", normalize=normalize), _values(waveform, normalize=normalize), atol=1e-5
    )
    standardized = _values(_standardized_leads(waveform), "NU", normalize=normalize)
    gap = np.abs(standardized - _values(waveform, normalize=normalize)).max()
    assert (gap < 1e-4) if are_alike else (gap > 0.05)
    assert EcgWaveformFeatureExtractor().normalize == "lead"


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_when_samples_or_leads_are_missing_then_they_are_zero_and_scale_nothing(normalize: str) -> None:
    extractor = EcgWaveformFeatureExtractor(normalize=normalize)
    short = make_pulses(4.0)[[0, 1, *range(6, 12)]] + 2.0  # an offset, of which padding and missing leads have none
    names = [LEADS[lead] for lead in (0, 1, *range(6, 12))]
    features = extractor(short, **known(unit="NU", lead_names=names))
    assert features["attention_mask"].sum() == 400
    assert features["attention_mask"][0, :400].all()
    assert np.flatnonzero(~features["lead_mask"][0]).tolist() == [2, 3, 4, 5]
    assert not features["input_values"][0, 2:6].any()
    assert not features["input_values"][0, :, 400:].any()
    alone = extractor.replace(window_seconds=4.0, lead_names=names)(short, **known(unit="NU", lead_names=names))
    np.testing.assert_array_equal(
        features["input_values"][0, features["lead_mask"][0], :400], alone["input_values"][0]
    )


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_when_a_lead_is_constant_in_a_window_then_it_is_finite(normalize: str) -> None:
    waveform = make_pulses(20.0)
    waveform[6, :5000] = 0.3
    values = _values(waveform, normalize=normalize)
    assert np.isfinite(values).all()
    if normalize == "lead":
        # But for the last samples, where the filter of resampling sees what follows.
        assert np.abs(values[6]).max() < 40
    constant = EcgWaveformFeatureExtractor(normalize=normalize, do_mask_flat_leads=False).cut(
        [np.full((12, 1000), np.float32(0.3))], [], [np.ones(12, dtype=bool)]
    )["input_values"]
    np.testing.assert_allclose(constant, 0.3 if normalize == "none" else 0.0, atol=1e-6)


def test_when_a_model_reads_some_leads_then_they_are_in_its_order_and_one_must_be_there() -> None:
    extractor = EcgWaveformFeatureExtractor(lead_names=["V5", "II"])
    features = extractor(make_pulses(), **known())
    np.testing.assert_array_equal(features["input_values"][0], _values(make_pulses())[[10, 1]])
    assert features["lead_mask"].shape == (1, 2)
    with pytest.raises(InputError, match=r"must contain at least one lead of the model \(V5, II\), got V1, V2$"):
        extractor(make_pulses()[6:8], **known(lead_names=["V1", "V2"]))


@pytest.mark.parametrize(("settings", "message"), [({"normalize": "z"}, "normalize must be one of 'none', 'lead'")])
def test_when_a_setting_is_unknown_then_it_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EcgWaveformFeatureExtractor(**settings)
