"""HeartLang's feature extractor: the released signals, peaks and sentences of beats, and no beat is lost unnoticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pulses import LEADS, known, make_pulses
from released import Released

from clear_hug_hf.processing import InputError
from clear_hug_hf.processing.feature_extraction_heartlang import HeartLangFeatureExtractor


@pytest.fixture(scope="module")
def extractor() -> HeartLangFeatureExtractor:
    return HeartLangFeatureExtractor()


@pytest.fixture(scope="module")
def released(shared: Path) -> Released:
    return Released(shared / "parity" / "official_heartlang_small.safetensors")


# Released numbers


@pytest.mark.parametrize(
    ("case", "recording", "settings", "described"),
    [
        ("mv500", "mv500", {}, {}),
        ("long500", "long500", {"window_seconds": 15.0}, {}),
        ("nu100", "nu100", {"scaling": "standard"}, {"sampling_rate": 100.0, "unit": "NU"}),
        ("two_leads", "mv500", {}, {"lead_names": ["II", "V2"]}),
    ],
)
def test_when_a_recording_is_read_then_signal_peaks_and_beats_are_the_released_ones(
    released: Released, case: str, recording: str, settings: dict[str, Any], described: dict[str, Any]
) -> None:
    extractor = HeartLangFeatureExtractor(**settings)
    waveform = released.tensors[f"input.raw_{recording}"].numpy()
    names = described.get("lead_names", LEADS)
    waveform = waveform[[LEADS.index(name) for name in names]]
    signal, _ = extractor.clean(waveform, **known(**described))
    if case == recording:
        np.testing.assert_allclose(signal, released.tensors[f"input.signal100_{case}"], atol=1e-5)
    features = extractor(waveform, **known(**described), return_r_peaks=True)
    np.testing.assert_array_equal(features["r_peaks"][0], released.tensors[f"input.peaks_{case}"])
    for name in ("lead_ids", "time_ids"):
        np.testing.assert_array_equal(features[name], released.tensors[f"input.{name}_{case}"])
    np.testing.assert_allclose(features["input_values"], released.tensors[f"input.beats_{case}"], atol=1e-5)


def test_when_a_recording_is_scaled_to_its_range_then_the_signal_is_the_released_one(released: Released) -> None:
    waveform = released.tensors["input.raw_mv500"].numpy()
    signal, _ = HeartLangFeatureExtractor(scaling="min_max").clean(waveform, **known())
    np.testing.assert_allclose(signal, released.tensors["input.signal100_mv500_csn"], atol=1e-5)


# Sentences


def cut_by_hand(signal: np.ndarray, peaks: list[int]) -> list[np.ndarray]:
    """The beats of a lead, as the paper's authors describe them."""
    beats = []
    for index, peak in enumerate(peaks):
        start = (peaks[index - 1] + peak) // 2 if index else max(peak - 48, 0)
        stop = (peak + peaks[index + 1]) // 2 if index + 1 < len(peaks) else min(peak + 48, len(signal))
        if len(peaks) == 1:
            stop = min(start + 96, len(signal))
        if stop - start > 96:
            start, stop = max(peak - 48, 0), min(max(peak - 48, 0) + 96, len(signal))
        beat = np.zeros(96, dtype=np.float32)
        place = max(48 - (peak - start), 0)
        samples = signal[start:stop][: 96 - place]
        beat[place : place + len(samples)] = samples
        beats.append(beat)
    return beats


@pytest.mark.parametrize(
    "peaks",
    [
        [40, 120, 200, 290, 370, 450, 530, 610, 700, 780, 860, 950],
        [0, 20, 45, 160, 400, 460, 470, 999],  # close, far, and at the ends
        [30],
        [980],
        [500],
    ],
)
def test_when_peaks_are_known_then_beats_are_placed_and_numbered_as_described(
    extractor: HeartLangFeatureExtractor, peaks: list[int]
) -> None:
    signal = np.random.default_rng(0).normal(size=(12, 1000)).astype(np.float32)
    features = extractor.cut([signal], [np.array(peaks)], [np.ones(12, dtype=bool)])
    count = 12 * len(peaks)
    expected = [beat for lead in signal for beat in cut_by_hand(lead, peaks)]
    np.testing.assert_array_equal(features["input_values"][0, :count], expected)
    assert not features["input_values"][0, count:].any()
    leads = [lead for lead in range(1, 13) for _ in peaks]
    assert features["lead_ids"][0].tolist() == leads + [0] * (256 - count)
    assert features["time_ids"][0].tolist() == [peak // 100 + 1 for peak in peaks] * 12 + [0] * (256 - count)


def test_when_one_recording_is_read_then_the_outputs_have_the_documented_shapes(
    extractor: HeartLangFeatureExtractor,
) -> None:
    features = extractor(make_pulses(), **known(), return_tensors="pt")
    assert {name: (tuple(value.shape), value.dtype) for name, value in features.items()} == {
        "input_values": ((1, 256, 96), torch.float32),
        "lead_ids": ((1, 256), torch.int64),
        "time_ids": ((1, 256), torch.int64),
    }
    assert list(features) == extractor.model_input_names


def test_when_leads_are_missing_then_the_others_keep_their_ids(extractor: HeartLangFeatureExtractor) -> None:
    whole = extractor(make_pulses(), **known())
    kept = [name for name in LEADS if name not in ("III", "aVF", "V4")]
    some = extractor(make_pulses()[[LEADS.index(name) for name in kept]], **known(lead_names=kept))
    count = int((whole["lead_ids"][0] == 1).sum())
    assert dict.fromkeys(some["lead_ids"][0].tolist()).keys() == set(range(13)) - {10}, "limb leads are derived"
    present = ~np.isin(whole["lead_ids"][0], [0, 10])
    np.testing.assert_allclose(some["input_values"][0, : 11 * count], whole["input_values"][0][present], atol=1e-5)


@pytest.mark.parametrize("order", [[*range(6, 12), *range(6)], [*range(12)][::-1]])
def test_when_leads_come_in_another_order_then_nothing_changes(
    extractor: HeartLangFeatureExtractor, order: list[int]
) -> None:
    whole = extractor(make_pulses(), **known())
    other = extractor(make_pulses()[order], **known(lead_names=[LEADS[row] for row in order]))
    for name, array in whole.items():
        np.testing.assert_array_equal(other[name], array)


def test_when_lead_one_is_flat_then_the_detector_reads_the_next_lead(extractor: HeartLangFeatureExtractor) -> None:
    waveform = make_pulses()
    expected = extractor(waveform[1:], **known(lead_names=LEADS[1:]), return_r_peaks=True)["r_peaks"]
    waveform[0] = 0.0
    np.testing.assert_array_equal(extractor(waveform, **known(), return_r_peaks=True)["r_peaks"], expected)


def test_when_the_first_lead_has_no_beats_then_all_leads_are_read_only_if_set() -> None:
    waveform = make_pulses()
    waveform[0] = 0.0
    kept = {"do_mask_flat_leads": False}  # as the released code keeps them
    with pytest.raises(InputError, match="no beats were detected"):
        HeartLangFeatureExtractor(**kept)(waveform, **known())
    masked = HeartLangFeatureExtractor(**kept, on_no_beats="mask")(waveform, **known())
    assert not any(array.any() for array in masked.values()), "as released"
    assert HeartLangFeatureExtractor(**kept, detection_leads="all")(waveform, **known())["lead_ids"].any()


# Too many beats


FAST = {"heart_rate": 156.0}


def test_when_there_are_too_many_beats_then_the_lost_leads_are_named(
    extractor: HeartLangFeatureExtractor, caplog: pytest.LogCaptureFixture
) -> None:
    peaks = np.arange(20, 5000, 190)[:26]
    for _ in range(2):
        caplog.clear()
        features = extractor(make_pulses(**FAST), **known(), r_peaks=peaks)
        (message,) = caplog.messages
        assert message.startswith(
            "a window has 312 beats in all leads together, and the model reads 256: beats of V4, V5, V6 are lost; "
        )
    counts = np.bincount(features["lead_ids"][0], minlength=13)
    assert counts.tolist() == [0, *[26] * 9, 22, 0, 0]
    caplog.clear()
    extractor(make_pulses(**FAST), **known(), r_peaks=peaks, on_lost_beats="ignore")
    assert not caplog.messages
    with pytest.raises(InputError, match=r"beats of V4, V5, V6 are lost; set windows=\"all\"") as caught:
        extractor(make_pulses(**FAST), **known(), r_peaks=peaks, on_lost_beats="raise")
    assert "\n" not in str(caught.value)


def test_when_all_windows_are_read_then_no_beat_is_lost(
    extractor: HeartLangFeatureExtractor, caplog: pytest.LogCaptureFixture
) -> None:
    peaks = np.arange(20, 5000, 190)[:26]
    features = extractor(
        make_pulses(**FAST), **known(), r_peaks=peaks, windows="all", return_windows=True, on_lost_beats="raise"
    )
    assert features["input_values"].shape == (2, 256, 96)
    for lead_ids in features["lead_ids"]:
        assert np.bincount(lead_ids, minlength=13).tolist() == [256 - 12 * 13, *[13] * 12]
    assert features["time_ids"][1].max() == 10, "times refer to the whole window"
    starts, ends = features["window_starts"].tolist(), features["window_ends"].tolist()
    assert (starts[0], ends[0], ends[1]) == (0, starts[1], 5000)
    # Fewer leads leave room for more beats.
    limb = extractor(make_pulses(**FAST)[:2], **known(lead_names=LEADS[:2]), r_peaks=peaks, windows="all")
    assert limb["input_values"].shape[0] == 1
    # Prediction reads all windows.
    caplog.clear()
    windows = extractor.read_windows(make_pulses(**FAST), **known())
    assert len(windows.places) == 2
    assert not [message for message in caplog.messages if "lost" in message]


def test_when_a_recording_is_long_then_it_is_divided_into_windows(extractor: HeartLangFeatureExtractor) -> None:
    features = extractor(make_pulses(25.0), **known(), windows="all", return_windows=True)
    assert features["window_starts"].tolist() == [0, 5000, 7500]
    assert features["time_ids"].max() == 10
    with pytest.raises(InputError, match=r"window_seconds must be at most 15, got 16: .* windows=\"all\""):
        HeartLangFeatureExtractor(window_seconds=16.0)
    with pytest.raises(InputError, match="a window has beats in second 16, and the model has time embeddings for 15"):
        extractor.cut([np.zeros((12, 1600))], [np.array([1550])], [np.ones(12, dtype=bool)])


# Scales


def test_when_a_scaling_is_standard_then_mean_and_deviation_are_needed() -> None:
    waveform = make_pulses(rate=100.0)
    description = known(sampling_rate=100.0)
    settings = {"scaling": "standard"}
    signal, _ = HeartLangFeatureExtractor(**settings, signal_mean=0.1, signal_std=0.5).clean(waveform, **description)
    np.testing.assert_allclose(signal, (waveform - 0.1) / 0.5, atol=1e-5)
    with pytest.raises(InputError, match=r"set signal_mean and signal_std \[mV\]"):
        HeartLangFeatureExtractor(**settings).clean(waveform, **description)
    normalized, _ = HeartLangFeatureExtractor(**settings).clean(waveform, **{**description, "unit": "NU"})
    np.testing.assert_array_equal(normalized, waveform.astype(np.float32))


def test_when_a_scaling_changes_the_unit_then_the_extractor_declares_it() -> None:
    assert HeartLangFeatureExtractor().keeps_unit
    for settings in ({"scaling": "standard"}, {"scaling": "min_max"}, {"do_rescale": True}):
        assert not HeartLangFeatureExtractor(**settings).keeps_unit


def test_when_samples_are_missing_then_they_are_filled_from_left_to_right() -> None:
    extractor = HeartLangFeatureExtractor(do_bandpass=False)
    waveform = make_pulses(rate=100.0)
    waveform[4, 100:110] = np.nan
    waveform[5, 300] = np.inf
    expected = waveform.astype(np.float64)
    expected[5, 300] = np.nan
    for sample in range(100, 110):
        expected[4, sample] = np.nanmean(expected[4, sample - 6 : sample + 7])
    expected[5, 300] = np.nanmean(expected[5, 294:307])
    signal, present = extractor.clean(waveform, **known(sampling_rate=100.0))
    assert present.all()
    np.testing.assert_allclose(signal, expected, atol=1e-6)


def test_when_a_setting_is_invalid_then_one_sentence_refuses_it() -> None:
    for setting, message in (
        ({"scaling": "microvolt"}, "scaling must be one of 'millivolt', 'standard', 'min_max'"),
        ({"detection_leads": "II"}, "detection_leads must be one of"),
        ({"on_lost_beats": "squeeze"}, "on_lost_beats must be one of"),
        ({"num_beats": 11}, "num_beats must be an integer between 12 and"),
        ({"num_beats": 999_999}, "times beat_length=96 must be at most"),
        ({"signal_std": 0.0}, "signal_std must be a number between"),
    ):
        with pytest.raises(InputError, match=message):
            HeartLangFeatureExtractor(**setting)
