"""HuBERT-ECG's preprocessing gives the values of the released code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pulses import LEADS, known, make_pulses
from released import Released
from scipy import signal as scipy_signal

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_hubert_ecg import HubertEcgFeatureExtractor, scale


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_hubert_ecg_small.safetensors")


@pytest.mark.parametrize(
    ("case", "rate", "unit"), [("mv500", 500, "mV"), ("nu100", 100, "NU"), ("long500", 500, "mV")]
)
def test_when_a_released_recording_is_read_then_values_agree(released, case, rate, unit):
    waveform = released.tensors[f"input.raw_{case}"].numpy()
    features = HubertEcgFeatureExtractor()(waveform, **known(sampling_rate=rate, unit=unit))
    np.testing.assert_allclose(features["input_values"], released.tensors[f"input.values_{case}"].numpy(), atol=1e-5)
    assert features["attention_mask"].all()
    # Leads are arranged by name.
    order = np.random.default_rng(0).permutation(12)
    names = [LEADS[row] for row in order]
    shuffled = HubertEcgFeatureExtractor()(waveform[order], **known(sampling_rate=rate, unit=unit, lead_names=names))
    np.testing.assert_array_equal(shuffled["input_values"], features["input_values"])


def test_when_a_recording_is_read_then_leads_are_scaled_as_a_whole_and_windows_decimated_end_to_end():
    extractor = HubertEcgFeatureExtractor(windows="all")
    waveform = make_pulses(12.0)
    waveform[0, -1] += 5
    signal, _ = extractor.clean(waveform, **known())
    np.testing.assert_allclose(signal.min(axis=1), -1, atol=1e-6)
    np.testing.assert_allclose(signal.max(axis=1), 1, atol=1e-6)
    values = extractor(waveform, **known())["input_values"]
    assert values.shape == (3, 6000)
    for row, start in enumerate((0, 2500, 3500)):
        expected = scipy_signal.decimate(signal[:, start : start + 2500].astype(np.float64).ravel(), 5)
        np.testing.assert_allclose(values[row], expected, atol=1e-6)


def test_when_a_lead_is_missing_or_flat_then_it_is_refused_by_name():
    extractor = HubertEcgFeatureExtractor()
    waveform = make_pulses()
    with pytest.raises(InputError, match="lead V6 is missing or flat"):
        extractor(waveform[:11], **known(lead_names=LEADS[:11]))
    with pytest.raises(InputError, match="lead V6 is missing or flat"):
        extractor.cut([waveform], [np.empty(0, dtype=np.int64)], [np.arange(12) < 11])
    waveform[7] = 0.3
    with pytest.raises(InputError, match="lead V2 is missing or flat"):
        extractor(waveform, **known())
    signal, _ = extractor.clean(waveform, **known(), do_mask_flat_leads=False, do_bandpass=False)
    assert (signal[7] == -1).all()


def test_when_a_recording_is_short_then_it_is_refused_or_padded_by_setting():
    waveform = make_pulses(4.2)
    with pytest.raises(InputError, match=r'is 4.2 s long, but this model reads windows of 5 s: .* "pad"|="pad"'):
        HubertEcgFeatureExtractor()(waveform, **known())
    extractor = HubertEcgFeatureExtractor(short_recordings="pad")
    features = extractor(waveform, **known())
    by_lead = features["attention_mask"].reshape(12, 500)
    assert by_lead[:, :420].all()
    assert not by_lead[:, 420:].any()
    signal, _ = extractor.clean(waveform, **known())
    padded = np.pad(signal.astype(np.float64), ((0, 0), (0, 400)))
    np.testing.assert_allclose(features["input_values"][0], scipy_signal.decimate(padded.ravel(), 5), atol=1e-6)
    assert HubertEcgFeatureExtractor()(make_pulses(5.0), **known())["attention_mask"].all()


@pytest.mark.parametrize("rate", [50.0, 90.0, 257.0, 999.9])
def test_when_a_recording_is_resampled_then_its_length_is_that_of_the_released_code(rate):
    waveform = make_pulses(10.0, rate=rate)
    signal, _ = HubertEcgFeatureExtractor().clean(waveform, **known(sampling_rate=rate))
    assert signal.shape[1] == int(waveform.shape[1] * 500 / rate)
    assert signal.dtype == np.float32


def test_when_a_lead_is_constant_then_scaling_keeps_it_finite():
    assert (scale(np.full((1, 9), 4.0)) == -1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"short_recordings": "stretch"}, "short_recordings must be"), ({"decimation": 0}, "decimation must be")],
)
def test_when_a_setting_is_invalid_then_a_sentence_refuses_it(settings, message):
    with pytest.raises(InputError, match=message):
        HubertEcgFeatureExtractor(**settings)
