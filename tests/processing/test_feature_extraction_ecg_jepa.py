"""ECG-JEPA's feature extractor: the eight leads that the model reads out, otherwise as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pulses import known, make_pulses
from scipy import signal as scipy_signal

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_ecg_jepa import EcgJepaFeatureExtractor


KEPT = [0, 1, *range(6, 12)]


@pytest.fixture(scope="module")
def extractor() -> EcgJepaFeatureExtractor:
    return EcgJepaFeatureExtractor()


def test_when_one_recording_is_given_then_the_outputs_have_the_documented_shapes(extractor) -> None:
    features = extractor(make_pulses(), **known(), return_tensors="pt")
    assert {name: (tuple(value.shape), value.dtype) for name, value in features.items()} == {
        "input_values": ((1, 8, 2500), torch.float32),
        "lead_mask": ((1, 8), torch.bool),
        "attention_mask": ((1, 50), torch.bool),
    }
    assert features["lead_mask"].all()
    assert features["attention_mask"].all()


def test_when_nothing_needs_to_be_done_then_the_signal_is_left_as_it_is(extractor) -> None:
    waveform = make_pulses(rate=250.0) + 0.4  # an offset stays, too
    features = extractor(waveform, **known(sampling_rate=250.0))
    np.testing.assert_array_equal(features["input_values"][0], waveform[KEPT].astype(np.float32))


def test_when_the_method_is_fft_then_it_is_the_transform_of_the_released_preparation() -> None:
    drifting = make_pulses() + np.linspace(0.0, 1.5, 5000)
    fourier = EcgJepaFeatureExtractor(resample_method="fft")(drifting, **known())["input_values"][0]
    expected = scipy_signal.resample(drifting[KEPT].astype(np.float32).astype(np.float64), 2500, axis=1)
    np.testing.assert_array_equal(fourier, expected.astype(np.float32))
    polyphase = EcgJepaFeatureExtractor()(drifting, **known())["input_values"][0]
    exact = (make_pulses(rate=250.0) + np.linspace(0.0, 1.5, 5000)[::2])[KEPT]
    # Taken for periodic, the drift jumps at the ends; elsewhere both are right.
    assert np.abs(fourier - exact)[:, :50].max() > 0.2
    assert np.abs(polyphase - exact)[:, :50].max() < 0.02
    np.testing.assert_allclose(fourier[:, 300:-300], polyphase[:, 300:-300], atol=0.02)


@pytest.mark.parametrize("method", ["polyphase", "fft"])
@pytest.mark.parametrize("rate", [100.0, 257.0, 400.0, 1000.0])
def test_when_the_rate_differs_then_ten_seconds_fill_the_window(method: str, rate: float) -> None:
    features = EcgJepaFeatureExtractor(resample_method=method)(make_pulses(rate=rate), **known(sampling_rate=rate))
    assert features["attention_mask"].all()
    expected = make_pulses(rate=250.0)[KEPT]
    gap = np.abs(features["input_values"][0] - expected)[:, 50:-50]
    assert gap.max() < (0.06 if rate == 100.0 else 0.02)  # 100 Hz hardly hold the spike


def test_when_a_recording_is_short_then_what_it_lacks_is_marked(extractor) -> None:
    recordings = [make_pulses(), make_pulses(4.55)]
    features = extractor(recordings, **known())
    assert features["attention_mask"].sum(axis=1).tolist() == [50, 22]
    assert features["attention_mask"][1, :22].all()
    short = features["input_values"][1]
    assert not short[:, 22 * 50 :].any(), "a patch that is filled in part is missing"
    whole = extractor(recordings[1], **known())["input_values"][0]
    np.testing.assert_array_equal(short, whole)
    assert np.abs(short[:, : 22 * 50]).max() > 0.5


def test_when_leads_are_missing_then_they_are_marked(extractor) -> None:
    two = extractor(make_pulses()[[1, 7]], **known(lead_names=["II", "V2"]))
    assert np.flatnonzero(two["lead_mask"][0]).tolist() == [1, 3]


def test_when_none_of_the_models_leads_is_there_then_it_is_refused(extractor) -> None:
    with pytest.raises(InputError, match=r"must contain at least one lead of the model \(I, II, V1, .* got aVR, aVF"):
        extractor(make_pulses()[[3, 5]], **known(lead_names=["aVR", "aVF"]))


def test_when_other_leads_are_chosen_then_they_come_in_that_order() -> None:
    extractor = EcgJepaFeatureExtractor(lead_names=["V5", "II", "aVF"])
    features = extractor(
        make_pulses(rate=250.0)[[0, 1, 10]], **known(sampling_rate=250.0, lead_names=["I", "II", "V5"])
    )
    np.testing.assert_allclose(features["input_values"][0], make_pulses(rate=250.0)[[10, 1, 5]], atol=1e-6)


def test_when_the_recording_is_longer_than_the_window_then_each_window_is_a_stretch_of_it(extractor) -> None:
    waveform = make_pulses(27.0, rate=250.0)
    call = known(sampling_rate=250.0)
    everything = extractor(waveform, **call, windows="all", return_windows=True)
    assert everything["window_starts"].tolist() == [0, 2500, 4250]
    for row, start in enumerate(everything["window_starts"]):
        expected = waveform[KEPT, start : start + 2500].astype(np.float32)
        np.testing.assert_array_equal(everything["input_values"][row], expected)
    center = extractor(waveform, **call, windows="center")
    np.testing.assert_array_equal(center["input_values"][0], waveform[KEPT, 2125:4625].astype(np.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lead_names": []}, "at least one lead"),
        ({"lead_names": ["II", "II"]}, "no duplicates"),
        ({"lead_names": ["II", "MLII"]}, "unknown lead 'MLII' in lead_names: choose from I, II"),
        ({"resample_method": "linear"}, "resample_method must be one of 'polyphase', 'fft', got 'linear'"),
        ({"patch_size": 60}, r"window length of 2500 samples \(10 s at 250 Hz\) must be divisible by patch_size=60"),
        ({"patch_size": 0}, "patch_size must be an integer between 1 and 2500, got 0"),
    ],
)
def test_when_settings_make_no_sense_then_they_are_refused(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        EcgJepaFeatureExtractor(**settings)
