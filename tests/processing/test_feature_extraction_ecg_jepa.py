"""ECG-JEPA's feature extractor: any recording in, the eight leads that the model reads out."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import signal as scipy_signal

from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.processing import STANDARD_LEADS, ClearHugFeatureExtractor, InputError
from clear_hug_hf.processing.feature_extraction_ecg_jepa import INDEPENDENT_LEADS, EcgJepaFeatureExtractor


RATE = 500.0
KEPT = [0, 1, *range(6, 12)]


def _recording(seconds: float = 10.0, rate: float = RATE) -> np.ndarray:
    """Twelve leads [mV] with a narrow spike for each QRS, obeying the limb-lead identities."""
    time = np.arange(round(seconds * rate)) / rate
    peaks = np.arange(0.4, seconds - 0.2, 60.0 / 72.0)
    qrs = np.exp(-0.5 * ((time[:, None] - peaks) / 0.012) ** 2).sum(axis=1)
    t_wave = 0.2 * np.exp(-0.5 * ((time[:, None] - peaks - 0.25) / 0.04) ** 2).sum(axis=1)
    one, two = 0.7 * qrs + t_wave, 1.1 * qrs + t_wave
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    chest = [gain * qrs + 0.5 * t_wave for gain in (-0.6, -0.3, 0.4, 1.2, 1.3, 0.9)]
    return np.stack([*limb, *chest])


def _known(**kwargs: Any) -> dict[str, Any]:
    return {"sampling_rate": RATE, "lead_names": STANDARD_LEADS, "unit": "mV", **kwargs}


@pytest.fixture(scope="module")
def extractor() -> EcgJepaFeatureExtractor:
    return EcgJepaFeatureExtractor()


def test_when_one_recording_is_given_then_the_outputs_have_the_documented_shapes(extractor) -> None:
    features = extractor(_recording(), **_known(), return_tensors="pt")
    assert {name: (tuple(value.shape), value.dtype) for name, value in features.items()} == {
        "input_values": ((1, 8, 2500), torch.float32),
        "lead_mask": ((1, 8), torch.bool),
        "attention_mask": ((1, 50), torch.bool),
    }
    assert set(features) == set(extractor.model_input_names)
    assert features["lead_mask"].all()
    assert features["attention_mask"].all()


def test_when_nothing_needs_to_be_done_then_the_signal_is_left_as_it_is(extractor) -> None:
    waveform = _recording(rate=250.0) + 0.4  # an offset stays, too
    features = extractor(waveform, **_known(sampling_rate=250.0))
    np.testing.assert_array_equal(features["input_values"][0], waveform[KEPT].astype(np.float32))


def test_when_leads_and_unit_differ_then_the_signal_is_the_same(extractor) -> None:
    waveform = _recording()
    expected = extractor(waveform, **_known())["input_values"]
    order = np.random.default_rng(0).permutation(12)
    shuffled = extractor(waveform[order], **_known(lead_names=[STANDARD_LEADS[i].lower() for i in order]))
    microvolts = extractor(waveform * 1000.0, **_known(unit="uV"))
    eight = extractor(waveform[KEPT], **_known(lead_names=INDEPENDENT_LEADS))
    for other in (shuffled, microvolts, eight):
        np.testing.assert_allclose(other["input_values"], expected, atol=1e-5)


def test_when_the_method_is_fft_then_it_is_the_transform_of_the_released_preparation() -> None:
    drifting = _recording() + np.linspace(0.0, 1.5, 5000)
    fourier = EcgJepaFeatureExtractor(resample_method="fft")(drifting, **_known())["input_values"][0]
    expected = scipy_signal.resample(drifting[KEPT].astype(np.float32).astype(np.float64), 2500, axis=1)
    np.testing.assert_array_equal(fourier, expected.astype(np.float32))
    polyphase = EcgJepaFeatureExtractor()(drifting, **_known())["input_values"][0]
    exact = (_recording(rate=250.0) + np.linspace(0.0, 1.5, 5000)[::2])[KEPT]
    # Taken for periodic, the drift jumps at the ends; elsewhere both are right.
    assert np.abs(fourier - exact)[:, :50].max() > 0.2
    assert np.abs(polyphase - exact)[:, :50].max() < 0.02
    np.testing.assert_allclose(fourier[:, 300:-300], polyphase[:, 300:-300], atol=0.02)


@pytest.mark.parametrize("method", ["polyphase", "fft"])
@pytest.mark.parametrize("rate", [100.0, 257.0, 400.0, 1000.0])
def test_when_the_rate_differs_then_ten_seconds_fill_the_window(method: str, rate: float) -> None:
    features = EcgJepaFeatureExtractor(resample_method=method)(_recording(rate=rate), **_known(sampling_rate=rate))
    assert features["attention_mask"].all()
    expected = _recording(rate=250.0)[KEPT]
    gap = np.abs(features["input_values"][0] - expected)[:, 50:-50]
    assert gap.max() < (0.06 if rate == 100.0 else 0.02)  # 100 Hz hardly hold the spike


def test_when_a_recording_is_short_then_what_it_lacks_is_marked(extractor) -> None:
    recordings = [_recording(), _recording(4.55)]
    features = extractor(recordings, **_known())
    assert features["attention_mask"].sum(axis=1).tolist() == [50, 22]
    assert features["attention_mask"][1, :22].all()
    short = features["input_values"][1]
    assert not short[:, 22 * 50 :].any(), "a patch that is filled in part is missing"
    whole = extractor(recordings[1], **_known())["input_values"][0]
    np.testing.assert_array_equal(short, whole)
    assert np.abs(short[:, : 22 * 50]).max() > 0.5


def test_when_a_lead_is_missing_flat_or_mostly_nan_then_it_is_marked(extractor) -> None:
    waveform = _recording()
    waveform[7] = 0.3
    waveform[8, 100:3000] = np.nan
    features = extractor(waveform, **_known())
    assert np.flatnonzero(~features["lead_mask"][0]).tolist() == [3, 4]
    assert not features["input_values"][0, [3, 4]].any()
    two = extractor(_recording()[[1, 7]], **_known(lead_names=["II", "V2"]))
    assert np.flatnonzero(two["lead_mask"][0]).tolist() == [1, 3]


def test_when_none_of_the_models_leads_is_there_then_it_is_refused(extractor) -> None:
    with pytest.raises(InputError, match=r"has lead\(s\) aVR, aVF and the model reads I, II, V1"):
        extractor(_recording()[[3, 5]], **_known(lead_names=["aVR", "aVF"]))


def test_when_other_leads_are_chosen_then_they_come_in_that_order() -> None:
    extractor = EcgJepaFeatureExtractor(lead_names=["V5", "II", "aVF"])
    features = extractor(
        _recording(rate=250.0)[[0, 1, 10]], **_known(sampling_rate=250.0, lead_names=["I", "II", "V5"])
    )
    np.testing.assert_allclose(features["input_values"][0], _recording(rate=250.0)[[10, 1, 5]], atol=1e-6)


def test_when_no_one_asks_for_beats_then_none_are_searched(extractor, monkeypatch) -> None:
    expected = extractor(_recording(), **_known(), return_r_peaks=True)["r_peaks"]
    np.testing.assert_allclose(expected[0], np.arange(0.4, 9.8, 60 / 72) * 250, atol=2)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("beats were searched")

    monkeypatch.setattr(EcgJepaFeatureExtractor, "detect", refuse)
    extractor(_recording(), **_known())
    with pytest.raises(AssertionError, match="beats were searched"):
        extractor(_recording(), **_known(), on_no_beats="raise")


def test_when_a_window_has_no_beat_then_it_is_kept_unless_refused(extractor) -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.01, (12, 5000))
    assert extractor(noise, **_known())["attention_mask"].all()
    with pytest.raises(InputError, match="no beat was found between 0 s and 10 s"):
        extractor(noise, **_known(), on_no_beats="raise", r_peaks=np.empty(0, dtype=np.int64))


def test_when_the_recording_is_longer_than_the_window_then_the_choice_decides_what_is_seen(extractor) -> None:
    waveform = _recording(27.0, rate=250.0)
    call = _known(sampling_rate=250.0)
    everything = extractor(waveform, **call, windows="all", return_windows=True)
    assert everything["window_starts"].tolist() == [0, 2500, 4250]
    assert everything["recording_ids"].tolist() == [0, 0, 0]
    for row, start in enumerate(everything["window_starts"]):
        expected = waveform[KEPT, start : start + 2500].astype(np.float32)
        np.testing.assert_array_equal(everything["input_values"][row], expected)
    center = extractor(waveform, **call, windows="center")
    np.testing.assert_array_equal(center["input_values"][0], waveform[KEPT, 2125:4625].astype(np.float32))


def test_when_filters_are_asked_for_then_they_act(extractor) -> None:
    drifting = _recording() + 3.0 * np.sin(np.arange(5000) / RATE)
    plain = extractor(drifting, **_known())["input_values"]
    filtered = extractor(drifting, **_known(), do_bandpass=True)["input_values"]
    rescaled = extractor(drifting, **_known(), do_rescale=True)["input_values"]
    assert np.abs(plain).max() > 3.0
    assert np.abs(filtered.mean()) < 0.05
    assert np.abs(rescaled).max() <= 3.0


def test_when_recordings_are_prepared_then_their_rows_give_what_the_extractor_gives(
    extractor, make_recordings
) -> None:
    recordings = make_recordings(3, sampling_rate=RATE)
    dataset, rejected = prepare(recordings, extractor, ["fast", "inverted"], progress=False)
    assert not rejected
    assert all(9 < count < 21 for count in dataset["num_beats"]), "prepared sets keep the peaks"
    batch = EcgCollator(extractor, trim=False)(list(dataset))
    expected = extractor([recording.waveform for recording in recordings], **_known(), return_tensors="pt")
    assert batch["labels"].shape == (3, 2)
    torch.testing.assert_close(batch["input_values"], expected["input_values"], atol=1e-4, rtol=0)
    for name in ("lead_mask", "attention_mask"):
        assert batch[name].equal(expected[name])


def test_when_it_is_saved_and_loaded_then_every_setting_comes_back(tmp_path: Path) -> None:
    saved = EcgJepaFeatureExtractor(
        windows="all", stride_seconds=5.0, resample_method="fft", lead_names=("II", "V1"), window_seconds=5.0
    )
    saved.save_pretrained(tmp_path)
    loaded = EcgJepaFeatureExtractor.from_pretrained(tmp_path)
    apart = {"feature_extractor_type": None, "auto_map": None}
    assert vars(loaded) | apart == vars(saved) | apart
    np.testing.assert_array_equal(
        loaded(_recording(14.0), **_known())["input_values"], saved(_recording(14.0), **_known())["input_values"]
    )
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert settings["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_ecg_jepa.EcgJepaFeatureExtractor"}
    assert {path.name for path in tmp_path.iterdir()} >= {
        "feature_extraction_ecg.py",
        "feature_extraction_ecg_jepa.py",
    }


def test_when_extractors_are_called_then_they_take_the_same_arguments(extractor) -> None:
    other = ClearHugFeatureExtractor()
    for name in ("__call__", "detect", "split", "cut"):
        assert inspect.signature(getattr(extractor, name)) == inspect.signature(getattr(other, name)), name
    signal, present = extractor.clean(_recording(), **_known())
    assert signal.shape == (12, 2500)
    assert present.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lead_names": []}, "at least one lead"),
        ({"lead_names": ["II", "II"]}, "each only once"),
        ({"lead_names": ["II", "MLII"]}, "lead_names holds 'MLII': choose from I, II"),
        ({"resample_method": "linear"}, "resample_method is 'linear': choose one of 'polyphase', 'fft'"),
        ({"patch_size": 60}, "has 2500 samples at 250 Hz, which is no whole number of patches of 60"),
        ({"patch_size": 0}, "patch_size is 0: give a whole number from 1 to 2500"),
        ({"windows": "last"}, "windows is 'last'"),
        ({"on_no_beats": "invent"}, "on_no_beats is 'invent'"),
        ({"do_bandpass": True, "bandpass_high": 125.0}, "below half the sampling rate"),
    ],
)
def test_when_settings_make_no_sense_then_they_are_refused(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        EcgJepaFeatureExtractor(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_rate": None}, "sampling rate is missing"),
        ({"lead_names": None}, "lead names are missing"),
        ({"unit": None}, "unit is missing"),
        ({"waveforms": np.zeros((12, 5000))}, "all leads are flat"),
        ({"waveforms": np.zeros((0, 5000)), "lead_names": []}, "none of the 12 standard leads"),
        ({"waveforms": _recording(0.5)}, "lasts 0.5 s"),
        ({"do_resample": False}, "set `do_resample=True`"),
    ],
)
def test_when_the_input_cannot_be_used_then_the_message_says_what_was_wrong(extractor, changes, message) -> None:
    call = {"waveforms": _recording(), **_known(), **changes}
    with pytest.raises(InputError, match=message):
        extractor(call.pop("waveforms"), **call)
