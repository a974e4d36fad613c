"""ECG-CPC's feature extractor: the authors' resampling, in windows or as a whole, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pulses import LEADS, known, make_pulses
from safetensors.numpy import load_file

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_ecg_cpc import EcgCpcFeatureExtractor, resample_sinc
from clear_hug_hf.processing.signal_cleaning import resample


@pytest.fixture(scope="module")
def released(shared: Path) -> dict[str, np.ndarray]:
    return load_file(shared / "parity" / "official_ecg_cpc_small.safetensors")


@pytest.mark.parametrize(("case", "rate", "unit"), [("mv500", 500, "mV"), ("nu100", 100, "NU")])
def test_when_recordings_are_read_then_windows_are_those_of_the_authors(
    released: dict[str, np.ndarray], case: str, rate: int, unit: str
) -> None:
    features = EcgCpcFeatureExtractor(windows="all")(
        released[f"input.raw_{case}"], sampling_rate=rate, lead_names=LEADS, unit=unit
    )
    np.testing.assert_allclose(features["input_values"], released[f"input.values_{case}"], atol=1e-5)
    assert features["attention_mask"].shape == (4, 300)
    assert features["attention_mask"].all()
    assert "resampy" not in sys.modules


@pytest.mark.parametrize(("case", "rate"), [("mv500", 500), ("mv250", 250), ("long500", 500)])
def test_when_prepared_as_for_pretraining_then_the_whole_recording_is_that_of_the_authors(
    released: dict[str, np.ndarray], case: str, rate: int
) -> None:
    expected = released[f"input.pretraining_values_{case}"]
    extractor = EcgCpcFeatureExtractor(preprocessing="pretraining", window_seconds=expected.shape[1] / 240)
    features = extractor(released[f"input.raw_{case}"], sampling_rate=rate, lead_names=LEADS, unit="mV")
    np.testing.assert_allclose(features["input_values"][0], expected, atol=1e-5)


def test_when_nan_is_in_a_recording_then_it_becomes_zero_or_is_interpolated() -> None:
    waveform = make_pulses(rate=240.0) + 1
    waveform[3, 100:110] = np.nan
    waveform[4, :5] = np.inf
    waveform[5, -5:] = np.nan
    waveform[6, 50] = 9.0
    evaluation = EcgCpcFeatureExtractor(window_seconds=10.0)
    values = evaluation(waveform, **known(sampling_rate=240.0))["input_values"][0]
    np.testing.assert_allclose(values, np.where(np.isfinite(waveform), waveform, 0), atol=1e-6)
    values = evaluation(waveform, **known(sampling_rate=240.0), preprocessing="pretraining")["input_values"][0]
    line = np.linspace(waveform[3, 99], waveform[3, 110], 12)[1:-1]
    np.testing.assert_allclose(values[3, 100:110], line.clip(-3, 3), atol=1e-6)
    assert not values[4, :5].any()
    np.testing.assert_allclose(values[5, -5:], waveform[5, -6], atol=1e-6)
    assert values[6, 50] == 3.0


@pytest.mark.parametrize("rate", [100.0, 128.0, 257.0, 360.0, 500.0, 1000.0])
def test_when_the_rate_differs_then_a_window_knows_of_no_other(rate: float) -> None:
    waveform = make_pulses(12.3, rate)
    extractor = EcgCpcFeatureExtractor(windows="all", do_derive_leads=False)
    features = extractor(waveform, **known(sampling_rate=rate), return_windows=True)
    assert features["window_starts"][:4].tolist() == [round(window * 600 * rate / 240) for window in range(4)]
    expected = make_pulses(12.3, 240.0)
    for window in range(4):
        start, stop = (int(edge * rate / 240) for edge in (window * 600, window * 600 + 600))
        alone = extractor(waveform[:, start : stop + 1], **known(sampling_rate=rate))["input_values"][0]
        np.testing.assert_allclose(features["input_values"][window, :, :600], alone, atol=2e-3)
        inside = features["input_values"][window] - expected[:, window * 600 : window * 600 + 600]
        # 100 Hz hardly hold the spikes, and at 257 Hz a window starts up to a sample early.
        assert np.abs(inside[:, 60:-60]).max() < (0.2 if rate in (100.0, 257.0) else 0.05)


def test_when_windows_overlap_then_the_whole_recording_is_resampled() -> None:
    waveform = make_pulses() + 0.3  # an offset ends at the end of what is resampled
    whole = resample_sinc(waveform.astype(np.float32).astype(np.float64), 500.0, 240.0).astype(np.float32)
    extractor = EcgCpcFeatureExtractor()
    assert whole.shape == (12, 2400)
    center = extractor(waveform, **known(), windows="center")["input_values"][0]
    np.testing.assert_array_equal(center, whole[:, 900:1500])
    halves = extractor(waveform, **known(), windows="all", stride_seconds=1.25)["input_values"]
    np.testing.assert_array_equal(halves[1], whole[:, 300:900])
    first = extractor(waveform, **known())["input_values"][0]
    assert 1e-4 < np.abs(first - whole[:, :600]).max() < 0.2
    # Other resampling is not the same.
    assert np.abs(resample(waveform, 500.0, 240.0) - whole).max() > 1e-3


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [(1250, 500.0, 600), (2500, 500.0, 1200), (999, 100.0, 2397), (1251, 500.0, 600), (7, 500.0, 3), (2, 500.0, 0)],
)
def test_when_resampled_then_the_length_is_rounded_down(count: int, rate: float, expected: int) -> None:
    if expected:
        assert resample_sinc(np.ones((2, count)), rate, 240.0).shape == (2, expected)
    signals = np.random.default_rng(0).normal(size=(2, count))
    assert resample_sinc(signals, 240.0, 240.0) is signals


def test_when_known_peaks_are_at_the_end_then_they_lie_within_the_signal() -> None:
    waveform = make_pulses(1251 / 500)
    features = EcgCpcFeatureExtractor()(waveform, **known(), r_peaks=np.array([10, 1250]), return_r_peaks=True)
    assert features["r_peaks"].tolist() == [[5, 599]]


def test_when_a_recording_is_short_then_what_it_lacks_is_marked() -> None:
    features = EcgCpcFeatureExtractor()([make_pulses(), make_pulses(1.501)], **known())
    assert features["input_values"].shape == (2, 12, 600)
    assert features["attention_mask"].sum(axis=1).tolist() == [300, 180]
    assert not features["input_values"][1, :, 360:].any()
    with pytest.raises(InputError, match="at least 1 s long"):
        EcgCpcFeatureExtractor()(make_pulses(0.9), **known())


def test_when_leads_are_missing_then_they_are_zero_and_limb_leads_are_derived() -> None:
    waveform, rows = make_pulses(), [0, 1, 6, 9]
    features = EcgCpcFeatureExtractor()(waveform[rows], **known(lead_names=[LEADS[row] for row in rows]))
    values, whole = features["input_values"][0], EcgCpcFeatureExtractor()(waveform, **known())["input_values"][0]
    kept = [0, 1, 2, 3, 4, 5, 6, 9]
    np.testing.assert_allclose(values[kept], whole[kept], atol=1e-5)
    assert not values[[7, 8, 10, 11]].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preprocessing": "paper"}, "preprocessing"),
        ({"clip_limit": 0.0}, "clip_limit"),
        ({"conv_stride": 0}, "conv_stride"),
        ({"conv_stride": 601}, "conv_stride"),
    ],
)
def test_when_a_setting_is_wrong_then_it_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EcgCpcFeatureExtractor(**settings)
