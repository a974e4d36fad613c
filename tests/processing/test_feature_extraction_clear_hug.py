"""The feature extractor: any recording in, beats out; what it cannot handle it refuses in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from clear_hug_hf.processing import (
    STANDARD_LEADS,
    ClearHugFeatureExtractor,
    EcgJepaFeatureExtractor,
    EcgScanFeatureExtractor,
    InputError,
)


RATE = 500.0


def _recording(seconds: float = 10.0, rate: float = RATE, heart_rate: float = 72.0) -> np.ndarray:
    """Twelve leads [mV] with a narrow spike for each QRS, obeying the limb-lead identities."""
    time = np.arange(round(seconds * rate)) / rate
    peaks = np.arange(0.4, seconds - 0.2, 60.0 / heart_rate)
    qrs = np.exp(-0.5 * ((time[:, None] - peaks) / 0.012) ** 2).sum(axis=1)
    t_wave = 0.2 * np.exp(-0.5 * ((time[:, None] - peaks - 0.25) / 0.04) ** 2).sum(axis=1)
    one, two = 0.7 * qrs + t_wave, 1.1 * qrs + t_wave
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    chest = [gain * qrs + 0.5 * t_wave for gain in (-0.6, -0.3, 0.4, 1.2, 1.3, 0.9)]
    return np.stack([*limb, *chest])


def _known(**kwargs: Any) -> dict[str, Any]:
    return {"sampling_rate": RATE, "lead_names": STANDARD_LEADS, "unit": "mV", **kwargs}


@pytest.fixture(scope="module")
def extractor() -> ClearHugFeatureExtractor:
    return ClearHugFeatureExtractor()


def test_when_one_recording_is_given_then_the_outputs_have_the_documented_shapes(extractor) -> None:
    features = extractor(_recording(), **_known(), return_tensors="pt")
    assert {name: (tuple(value.shape), value.dtype) for name, value in features.items()} == {
        "input_values": ((1, 12, 15, 96), torch.float32),
        "attention_mask": ((1, 15), torch.bool),
        "time_ids": ((1, 15), torch.int64),
        "lead_mask": ((1, 12), torch.bool),
    }
    assert set(features) == set(extractor.model_input_names)
    described = ClearHugFeatureExtractor(use_beat_features=True)
    assert set(described(_recording(), **_known())) == set(described.model_input_names)
    assert features["attention_mask"].sum() == 12
    # Each beat has its R peak in the middle of its window.
    beats = features["input_values"][0, 4, :12]
    assert (beats.argmax(dim=-1) - 48).abs().max() <= 1


def test_when_leads_unit_and_container_differ_then_the_beats_are_the_same(extractor) -> None:
    waveform = _recording()
    expected = extractor(waveform, **_known())
    order = np.random.default_rng(0).permutation(12)
    shuffled = extractor(waveform[order], **_known(lead_names=[STANDARD_LEADS[i].lower() for i in order]))
    microvolts = extractor(waveform * 1000.0, **_known(unit="uV"))
    mixed = extractor(np.concatenate([waveform[:6] / 1000.0, waveform[6:]]), **_known(unit=["V"] * 6 + ["mV"] * 6))
    tensor = extractor(torch.from_numpy(waveform), **_known())
    for other in (shuffled, microvolts, mixed, tensor):
        np.testing.assert_allclose(other["input_values"], expected["input_values"], atol=1e-5)


def test_when_limb_leads_are_absent_then_they_are_derived_but_never_from_normalised_leads(extractor) -> None:
    waveform = _recording()
    kept = [0, 1, *range(6, 12)]
    names = [STANDARD_LEADS[i] for i in kept]
    derived = extractor(waveform[kept], **_known(lead_names=names))
    np.testing.assert_allclose(derived["input_values"], extractor(waveform, **_known())["input_values"], atol=1e-5)
    assert derived["lead_mask"].all()
    normalised = extractor(waveform[kept], **_known(lead_names=names, unit="NU"))
    assert normalised["lead_mask"][0].tolist() == [True, True, False, False, False, False] + [True] * 6


@pytest.mark.parametrize("rate", [50.0, 100.0, 250.0, 257.0, 400.0, 1000.0])
def test_when_the_rate_differs_then_the_same_beats_are_found(extractor, rate: float) -> None:
    expected = extractor(_recording(), **_known(), return_r_peaks=True)
    features = extractor(_recording(rate=rate), **_known(sampling_rate=rate), return_r_peaks=True)
    assert features["r_peaks"].shape == expected["r_peaks"].shape
    assert np.abs(features["r_peaks"] - expected["r_peaks"]).max() <= 1


def test_when_recordings_of_different_lengths_and_rates_are_batched_then_each_equals_itself_alone(extractor) -> None:
    recordings = [_recording(10.0), _recording(4.0, heart_rate=90), _recording(12.0, rate=250.0)]
    rates = [RATE, RATE, 250.0]
    together = extractor(recordings, **_known(sampling_rate=rates))
    for row, (waveform, rate) in enumerate(zip(recordings, rates, strict=True)):
        alone = extractor(waveform, **_known(sampling_rate=rate))
        for name in extractor.model_input_names:
            np.testing.assert_array_equal(together[name][row], alone[name][0], err_msg=name)


def test_when_peaks_are_known_then_they_are_used_and_converted_to_the_models_rate(extractor) -> None:
    features = extractor(_recording(), **_known(), r_peaks=np.array([1000, 2000, 4000]), return_r_peaks=True)
    assert features["r_peaks"].tolist() == [[200, 400, 800]]
    assert features["attention_mask"].sum() == 3
    assert features["time_ids"][0, :3].tolist() == [3, 5, 9]


@pytest.mark.parametrize(
    "peaks", [np.array([200, 100]), np.array([-1, 100]), np.array([10, 5000]), np.array([1.5]), np.array([[1, 2]])]
)
def test_when_known_peaks_make_no_sense_then_they_are_refused(extractor, peaks: np.ndarray) -> None:
    with pytest.raises(InputError, match="r_peaks must"):
        extractor(_recording(), **_known(), r_peaks=peaks)


def test_when_the_recording_is_longer_than_the_window_then_the_choice_decides_what_is_seen(extractor) -> None:
    waveform = _recording(27.0)
    first = extractor(waveform, **_known(), return_windows=True)
    center = extractor(waveform, **_known(), windows="center", return_windows=True)
    everything = extractor(waveform, **_known(), windows="all", return_windows=True, return_r_peaks=True)
    overlapping = extractor(waveform, **_known(), windows="all", stride_seconds=5.0, return_windows=True)
    assert first["window_starts"].tolist() == [0]
    assert center["window_starts"].tolist() == [4250]
    assert everything["window_starts"].tolist() == [0, 5000, 8500], "the last window ends with the recording"
    assert overlapping["window_starts"].tolist() == [0, 2500, 5000, 7500, 8500]
    assert everything["recording_ids"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(everything["input_values"][0], first["input_values"][0])
    # Peaks mapped back to the recording are its beats.
    whole = [
        p + start / 5
        for p, start in zip(everything["r_peaks"][1], everything["window_starts"][[1] * 99], strict=False)
    ]
    expected = np.arange(0.4, 26.8, 60 / 72) * 100
    assert min(np.abs(expected - whole[3])) <= 1


@pytest.mark.parametrize("heart_rate", [60.0, 96.0, 140.0, 210.0])
def test_when_the_heart_is_fast_then_windows_by_beats_hold_every_beat_once_and_in_its_true_place(
    heart_rate: float,
) -> None:
    waveform, given = _recording(heart_rate=heart_rate), {"windows": "all", "return_windows": True}
    found = ClearHugFeatureExtractor(use_beat_features=True)(waveform, **_known(), **given, return_r_peaks=True)
    # A model that holds them all reads the same beats at once.
    whole = ClearHugFeatureExtractor(use_beat_features=True, num_beats=60)(waveform, **_known(), **given)
    total = int(whole["attention_mask"].sum())
    assert total >= round(heart_rate / 6) - 2
    counts = found["attention_mask"].sum(axis=1)
    assert counts.sum() == total
    assert len(counts) == -(-total // 15)
    assert np.ptp(counts) <= 1
    for name, axis in {"input_values": 1, "time_ids": 0, "beat_features": 1}.items():
        rows = [row.take(range(count), axis=axis) for row, count in zip(found[name], counts, strict=True)]
        np.testing.assert_array_equal(np.concatenate(rows, axis=axis), whole[name][0].take(range(total), axis=axis))
        assert not any(
            row.take(range(count, 15), axis=axis).any() for row, count in zip(found[name], counts, strict=True)
        )
    # Windows follow one another, from between two beats to between two beats.
    starts, ends = found["window_starts"], found["window_ends"]
    assert (starts[0], ends[-1]) == (0, 5000)
    np.testing.assert_array_equal(starts[1:], ends[:-1])
    beats = [start + 5 * peaks[peaks >= 0] for start, peaks in zip(starts, found["r_peaks"], strict=True)]
    assert [len(one) for one in beats] == counts.tolist()
    assert (np.diff(np.concatenate(beats)) > 0).all()
    assert all(start < one[0] and one[-1] < end for start, one, end in zip(starts, beats, ends, strict=True))


@pytest.mark.parametrize("kind", [ClearHugFeatureExtractor, EcgJepaFeatureExtractor, EcgScanFeatureExtractor])
@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_when_the_electrodes_are_off_for_a_window_then_it_is_left_out_by_name(
    kind: Any, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    waveform = _recording(30.0)
    waveform[:, 5000:10000] = value
    extractor = kind(windows="all")
    with caplog.at_level("WARNING"):
        found = extractor([waveform, _recording(10.0)], **_known())
    assert len(found[extractor.model_input_names[0]]) == 3
    assert "recording 0: 10-20 s left out: every lead is flat or missing there" in caplog.messages
    told = extractor(waveform, **_known(), return_windows=True)
    assert told["skipped_windows"].tolist() == [[0, 10, 20]]
    assert told["window_ids"].tolist() == [0, 2]
    with pytest.raises(InputError, match="every lead is flat or missing between 0 s and 10 s"):
        extractor(waveform[:, 5000:], **_known(), windows="first")


@pytest.mark.parametrize("kind", [ClearHugFeatureExtractor, EcgJepaFeatureExtractor, EcgScanFeatureExtractor])
def test_when_samples_of_a_window_are_missing_in_every_lead_then_a_few_are_repaired_and_many_are_not(
    kind: Any,
) -> None:
    extractor, waveform = kind(), _recording()
    waveform[:, 2000:2800] = np.nan
    assert np.isfinite(extractor(waveform, **_known())[extractor.model_input_names[0]]).all()
    waveform[:, 2000:4500] = np.nan
    with pytest.raises(InputError, match="flat or missing between 0 s and 10 s"):
        extractor(waveform, **_known())


def test_when_a_lead_is_flat_or_mostly_nan_then_it_is_masked_and_the_others_do_not_change(extractor) -> None:
    waveform = _recording()
    expected = extractor(waveform, **_known())
    waveform[7] = 0.3
    waveform[8, 100:3000] = np.nan
    features = extractor(waveform, **_known())
    assert np.flatnonzero(~features["lead_mask"][0]).tolist() == [7, 8]
    assert not features["input_values"][0, [7, 8]].any()
    others = [i for i in range(12) if i not in (7, 8)]
    np.testing.assert_allclose(features["input_values"][0, others], expected["input_values"][0, others], atol=1e-5)


def test_when_a_few_samples_are_nan_then_the_lead_is_repaired(extractor) -> None:
    waveform = _recording()
    expected = extractor(waveform, **_known())
    waveform[3, 40:46] = np.nan
    waveform[5, 2222] = np.inf
    features = extractor(waveform, **_known())
    assert features["lead_mask"].all()
    np.testing.assert_allclose(features["input_values"], expected["input_values"], atol=0.05)
    with pytest.raises(InputError, match="NaN or Inf"):
        extractor(waveform, **_known(), do_repair=False)


def test_when_no_beat_is_found_then_it_is_refused_or_marked_but_never_invented(extractor) -> None:
    with pytest.raises(InputError, match="no beat was found between 0 s and 10 s"):
        extractor(_recording(), **_known(), r_peaks=np.empty(0, dtype=np.int64))
    features = extractor(_recording(), **_known(), r_peaks=np.empty(0, dtype=np.int64), on_no_beats="mask")
    assert not features["attention_mask"].any()
    assert not features["input_values"].any()


def test_when_a_step_is_overridden_then_only_that_call_changes(extractor) -> None:
    drifting = _recording() + 3.0 * np.sin(np.arange(5000) / RATE)
    peaks = np.array([700, 1200])
    filtered = extractor(drifting, **_known(), r_peaks=peaks)["input_values"]
    unfiltered = extractor(drifting, **_known(), r_peaks=peaks, do_bandpass=False)["input_values"]
    rescaled = extractor(drifting, **_known(), r_peaks=peaks, do_rescale=True)["input_values"]
    assert np.abs(filtered - unfiltered).max() > 0.5
    assert np.abs(rescaled).max() <= 3.0
    np.testing.assert_array_equal(extractor(drifting, **_known(), r_peaks=peaks)["input_values"], filtered)


def test_when_it_is_saved_and_loaded_then_every_setting_comes_back(tmp_path: Path) -> None:
    saved = ClearHugFeatureExtractor(windows="all", stride_seconds=5.0, detector="neurokit", bandpass_low=0.5)
    saved.save_pretrained(tmp_path)
    loaded = ClearHugFeatureExtractor.from_pretrained(tmp_path)
    assert vars(loaded) | {"feature_extractor_type": None} == vars(saved) | {"feature_extractor_type": None}
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is ClearHugFeatureExtractor
    np.testing.assert_array_equal(
        loaded(_recording(14.0), **_known())["input_values"], saved(_recording(14.0), **_known())["input_values"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_rate": None}, "sampling rate is missing"),
        ({"sampling_rate": "fast"}, "not a number"),
        ({"sampling_rate": 0}, "at least 50 Hz"),
        ({"sampling_rate": 20.0}, "at least 50 Hz"),
        ({"sampling_rate": float("nan")}, "at least 50 Hz"),
        ({"lead_names": None}, "lead names are missing"),
        ({"lead_names": STANDARD_LEADS[:11]}, "12 rows but 11 lead names"),
        ({"lead_names": [*STANDARD_LEADS[:11], "pleth"]}, "unknown lead name 'pleth'"),
        ({"unit": None}, "unit is missing"),
        ({"unit": "mmHg"}, "unknown unit"),
        ({"waveforms": _recording()[1]}, "1 dimension"),
        ({"waveforms": _recording().T}, "transpose"),
        ({"waveforms": _recording(0.5)}, "lasts 0.5 s"),
        ({"waveforms": np.zeros((12, 5000))}, "all leads are flat"),
        ({"waveforms": np.full((12, 5000), np.nan)}, "no usable signal"),
        ({"waveforms": np.full((12, 5000), "x")}, "dtype"),
        ({"waveforms": []}, "no recording"),
        ({"waveforms": [_recording(), _recording()], "sampling_rate": [500.0]}, "1 entries for 2 recordings"),
        ({"windows": "last"}, "windows is 'last'"),
        ({"detector": "magic"}, "detector is 'magic'"),
        ({"stride_seconds": -1.0}, "stride_seconds is -1.0: give a number from"),
    ],
)
def test_when_the_input_cannot_be_used_then_the_message_says_what_was_wrong(extractor, changes, message) -> None:
    call = {"waveforms": _recording(), **_known(), **changes}
    with pytest.raises(InputError, match=message):
        extractor(call.pop("waveforms"), **call)


def test_when_one_recording_of_a_batch_is_bad_then_it_is_named(extractor) -> None:
    with pytest.raises(InputError, match=r"^recording 1: all leads are flat"):
        extractor([_recording(), np.zeros((12, 5000))], **_known())
