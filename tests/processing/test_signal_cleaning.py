"""Cleaning keeps what it should keep and reports what it cannot repair."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import signal as scipy_signal

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.signal_cleaning import bandpass, canonical_unit, repair_non_finite, resample, rescale


def _sine(frequency: float, rate: float, seconds: float = 10.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def test_when_one_sample_is_nan_then_it_becomes_the_mean_of_six_neighbors_on_each_side() -> None:
    signal = np.arange(40.0)[None] ** 2
    expected = np.concatenate([signal[0, 14:20], signal[0, 21:27]]).mean()
    signal[0, 20] = np.nan
    repaired = repair_non_finite(signal)
    assert repaired[0, 20] == pytest.approx(expected)
    np.testing.assert_array_equal(np.delete(repaired, 20, axis=1), np.delete(signal, 20, axis=1))
    assert np.isnan(signal[0, 20]), "the caller's array is left as it was"


def test_when_a_gap_is_wider_than_the_neighborhood_then_a_line_bridges_it_or_zeros_fill_it() -> None:
    signal = np.linspace(0.0, 1.0, 101)[None]
    signal[0, 30:60] = np.inf
    repaired = repair_non_finite(signal)
    assert np.isfinite(repaired).all()
    assert repaired[0, 45] == pytest.approx(0.45)
    assert not repair_non_finite(np.full((1, 20), np.nan)).any()


@pytest.mark.parametrize("rate", [50.0, 128.0, 250.0, 257.0, 360.0, 400.0, 500.0, 1000.0])
def test_when_a_slow_sine_is_resampled_then_it_stays_the_same_sine(rate: float) -> None:
    resampled = resample(_sine(5.0, rate)[None], rate, 100.0)
    assert resampled.shape == (1, 1000)
    np.testing.assert_allclose(resampled[0, 50:-50], _sine(5.0, 100.0)[50:-50], atol=0.01)


@pytest.mark.parametrize("rate", [50.0, 99.0, 128.0, 200.0, 250.0, 257.0, 360.0, 400.0, 499.9, 500.0, 977.77, 1000.0])
@pytest.mark.parametrize("seconds", [0.6, 10.013, 430.0])
def test_when_a_signal_is_resampled_then_it_equals_scipys_polyphase_filter(rate: float, seconds: float) -> None:
    signals = np.random.default_rng(0).standard_normal((2, 1, round(rate * seconds))).cumsum(axis=-1) + 40.0
    ratio = (Fraction(100) / Fraction(rate).limit_denominator(10_000)).limit_denominator(10_000)
    expected = scipy_signal.resample_poly(signals, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    np.testing.assert_allclose(resample(signals, rate, 100.0), expected, rtol=0, atol=1e-11)
    single = resample(signals.astype(np.float32), rate, 100.0)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=0, atol=3e-6 * np.abs(signals).max())


def test_when_whole_numbers_are_resampled_then_they_are_as_their_floats() -> None:
    signals = np.random.default_rng(0).integers(-2000, 2000, (2, 500), dtype=np.int16)
    np.testing.assert_array_equal(resample(signals, 500.0, 100.0), resample(signals.astype(np.float64), 500.0, 100.0))


def test_when_a_frequency_lies_above_the_new_nyquist_then_it_is_removed_and_not_folded() -> None:
    resampled = resample(_sine(80.0, 500.0)[None], 500.0, 100.0)
    assert np.abs(resampled[0, 50:-50]).max() < 0.01


def test_when_the_band_passes_then_drift_and_mains_are_gone_and_the_middle_stays() -> None:
    wanted = _sine(10.0, 100.0)
    dirty = wanted + 2.0 * _sine(0.1, 100.0) + 5.0
    cleaned = bandpass(dirty[None], 100.0, 0.67, 40.0)
    np.testing.assert_allclose(cleaned[0, 200:-200], wanted[200:-200], atol=0.05)


@pytest.mark.parametrize("num_samples", [100, 1000])
def test_when_the_band_passes_then_it_equals_scipys_two_way_filter(num_samples: int) -> None:
    signals = np.random.default_rng(0).standard_normal((2, 3, num_samples)).cumsum(axis=-1)
    sections = scipy_signal.butter(5, (0.67, 40.0), btype="bandpass", fs=100.0, output="sos")
    expected = scipy_signal.sosfiltfilt(sections, signals, padlen=min(300, num_samples - 1))
    np.testing.assert_allclose(bandpass(signals, 100.0, 0.67, 40.0), expected, atol=1e-10)


def test_when_a_recording_is_rescaled_then_its_range_is_the_limit_or_it_is_flat_and_zeros() -> None:
    rescaled = rescale(np.array([[0.0, 1.0], [4.0, 2.0]]))
    assert rescaled.min() == -3.0
    assert rescaled.max() == 3.0
    assert rescaled[0, 1] == pytest.approx(-1.5)
    assert not rescale(np.ones((2, 5))).any()


def test_when_a_unit_is_unknown_then_it_is_refused_with_the_known_ones() -> None:
    assert [canonical_unit(u) for u in ("mv", "uV", "µV", "V", "nu")] == ["mV", "uV", "uV", "V", "NU"]
    with pytest.raises(InputError, match="unknown unit 'mmHg': use one of mV, uV, V, NU"):
        canonical_unit("mmHg")
