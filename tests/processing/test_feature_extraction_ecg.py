"""Any recording in, what a model reads out; what cannot be handled is refused in one sentence: for all systems."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pulses import LEADS, RATE, known, make_pulses
from transformers import AutoFeatureExtractor

from clear_hug_hf.data.collator import EcgCollator
from clear_hug_hf.data.preparation import prepare
from clear_hug_hf.data.records import Recording
from clear_hug_hf.processing import EcgFeatureExtractor, InputError
from clear_hug_hf.systems import SYSTEMS


SHIPPED = sorted((Path(__file__).parents[2] / "model_cards").glob("*/preprocessor_config.json"))
OF_LOADING = {"auto_map", "feature_extractor_type", "image_processor_type"}
EIGHT = [0, 1, *range(6, 12)]
# They interpolate from the first to the last sample, which stretches a recording by up to a sample.
STRETCHING = {SYSTEMS[name].feature_extractor for name in ("ecg_fm", "ecg_founder")}
# They refuse recordings that lack a lead.
COMPLETE = {SYSTEMS[name].feature_extractor for name in ("ecg_founder", "hubert_ecg")}
# They scale each lead to the range from -1 to 1.
SCALED = {SYSTEMS["hubert_ecg"].feature_extractor}
# They standardize each window by itself, over all leads that are there or each lead.
PER_WINDOW = {SYSTEMS[name].feature_extractor for name in ("st_mem", "ecg_resnet")}
NO_BEATS = np.empty(0, dtype=np.int64)


# One system for each class, which others may share.
KINDS = {system.classes["AutoFeatureExtractor"]: name for name, system in [*SYSTEMS.items()][::-1]}


@pytest.fixture(params=sorted(KINDS.values()))
def kind(request: pytest.FixtureRequest) -> Any:
    """The feature extractor of each system."""
    return SYSTEMS[request.param].feature_extractor


@pytest.fixture
def extractor(kind: Any) -> EcgFeatureExtractor:
    return kind(**_ten_seconds(kind))


def _ten_seconds(kind: Any) -> dict[str, Any]:
    """Settings with which all extractors read windows of ten seconds, the last one up to the end of the recording."""
    settings = {"window_seconds": 10.0, "drop_remainder": False, "patch_size": 50, "short_recordings": "pad"}
    return {name: value for name, value in settings.items() if hasattr(kind, name)}


def _inputs(extractor: EcgFeatureExtractor, *args: Any, **kwargs: Any) -> np.ndarray:
    return extractor(*args, **kwargs)[extractor.model_input_names[0]]


def _assert_alike(result: Any, expected: Any, atol: float = 1e-5) -> None:
    """Equal but for rounding, which may move a pixel of a trace where signals are drawn."""
    assert result.shape == expected.shape
    gaps = np.abs(np.asarray(result, dtype=np.float64) - np.asarray(expected, dtype=np.float64))
    assert gaps.mean() < 1e-4
    if result.ndim < 4 or result.shape[1] != 3:
        assert gaps.max() <= atol


# ------------------------------------------------------------------------------------------------- any recording in


def test_when_leads_unit_and_container_differ_then_the_inputs_are_the_same(extractor) -> None:
    waveform = make_pulses()
    expected = extractor(waveform, **known())
    assert set(expected) == set(extractor.model_input_names)
    order = np.random.default_rng(0).permutation(12)
    mixed = np.concatenate([waveform[:6] / 1000.0, waveform[6:]])
    for other, output in (
        (waveform[order], known(lead_names=[LEADS[i].lower() for i in order])),
        (waveform * 1000.0, known(unit="uV")),
        (mixed, known(unit=["V"] * 6 + ["mV"] * 6)),
        (torch.from_numpy(waveform), known()),
        (waveform[EIGHT], known(lead_names=[LEADS[i] for i in EIGHT])),
    ):
        _assert_alike(_inputs(extractor, other, **output), expected[extractor.model_input_names[0]])


def test_when_limb_leads_are_absent_then_they_are_derived_but_never_from_normalized_leads(kind) -> None:
    extractor = kind(**({"millivolts_per_unit": 1.0} if hasattr(kind, "millivolts_per_unit") else {}))
    names, waveform = [LEADS[i] for i in EIGHT], make_pulses()
    signal, present = extractor.clean(waveform[EIGHT], **known(lead_names=names))
    np.testing.assert_allclose(signal, extractor.clean(waveform, **known())[0], atol=1e-5)
    assert present.all()
    if kind in COMPLETE:
        with pytest.raises(InputError, match="lead III, aVR, aVL, aVF is missing or flat, but this model was"):
            extractor.clean(waveform[EIGHT], **known(lead_names=names, unit="NU"))
        return
    _, present = extractor.clean(waveform[EIGHT], **known(lead_names=names, unit="NU"))
    assert np.flatnonzero(present).tolist() == EIGHT


@pytest.mark.parametrize("rate", [50.0, 100.0, 250.0, 257.0, 400.0, 1000.0])
def test_when_the_rate_differs_then_the_same_beats_are_found(extractor, rate: float) -> None:
    extractor = extractor.replace(detector="multilead")  # the default of most; others place peaks less exactly
    expected = extractor(make_pulses(), **known(), return_r_peaks=True)["r_peaks"]
    np.testing.assert_allclose(expected[0] / extractor.sampling_rate, np.arange(0.4, 9.8, 60 / 72), atol=0.01)
    result = extractor(make_pulses(rate=rate), **known(sampling_rate=rate), return_r_peaks=True)["r_peaks"]
    assert result.shape == expected.shape
    tolerance = max(0.01, 1 / rate) if type(extractor) in STRETCHING else 0.01
    assert np.abs(result - expected).max() <= tolerance * extractor.sampling_rate


def test_when_recordings_of_different_lengths_and_rates_are_batched_then_each_equals_itself_alone(extractor) -> None:
    recordings = [make_pulses(10.0), make_pulses(4.0, heart_rate=90), make_pulses(12.0, rate=250.0)]
    rates = [RATE, RATE, 250.0]
    together = extractor(recordings, **known(sampling_rate=rates))
    for row, (waveform, rate) in enumerate(zip(recordings, rates, strict=True)):
        alone = extractor(waveform, **known(sampling_rate=rate))
        for name in extractor.model_input_names:
            np.testing.assert_array_equal(together[name][row], alone[name][0], err_msg=name)


def test_when_the_recording_is_longer_than_the_window_then_the_choice_decides_what_is_seen(extractor) -> None:
    waveform, extractor = make_pulses(27.0), extractor.replace(detector="multilead")

    def starts(**choice: Any) -> list[int]:
        return extractor(waveform, **known(), return_windows=True, **choice)["window_starts"].tolist()

    assert starts() == [0]
    assert starts(windows="center") == [4250]
    assert starts(windows="all", stride_seconds=5.0) == [0, 2500, 5000, 7500, 8500]
    result = extractor(waveform, **known(), windows="all", return_windows=True, return_r_peaks=True)
    assert result["window_starts"].tolist() == [0, 5000, 8500], "the last window ends with the recording"
    assert result["recording_ids"].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(
        _inputs(extractor, waveform, **known(), windows="all")[:1], _inputs(extractor, waveform, **known())
    )
    # Peaks mapped back to the recording are its beats.
    expected = np.arange(0.4, 26.8, 60 / 72)
    for start, peaks in zip(result["window_starts"], result["r_peaks"], strict=True):
        seconds = start / RATE + peaks[peaks >= 0] / extractor.sampling_rate
        assert np.abs(seconds[:, None] - expected).min(axis=1).max() <= 0.02


def test_when_recordings_are_prepared_then_their_rows_give_what_the_extractor_gives(
    extractor, make_recordings: Callable[..., list[Recording]]
) -> None:
    recordings = make_recordings(3, sampling_rate=RATE)
    dataset, rejected = prepare(recordings, extractor, ["fast", "inverted"], progress=False)
    assert not rejected
    assert all(9 < count < 21 for count in dataset["num_beats"]), "prepared sets keep the peaks"
    expected = extractor([recording.waveform for recording in recordings], **known(), return_tensors="pt")
    for rows in (dataset, dataset.with_format("numpy")):
        batch = EcgCollator(extractor, trim=False)(list(rows))
        assert batch["labels"].tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]
        for name, values in expected.items():
            assert batch[name].dtype == values.dtype
            # Rows are stored in small steps [mV], which normalization to a standard deviation of 1 enlarges.
            _assert_alike(batch[name], values, atol=5e-4 if type(extractor) in COMPLETE | PER_WINDOW else 1e-4)


# ------------------------------------------------------------------------------------------------------------- beats


def test_when_peaks_are_known_then_they_are_used_and_converted_to_the_models_rate(extractor) -> None:
    features = extractor(make_pulses(), **known(), r_peaks=np.array([1000, 2000, 4000]), return_r_peaks=True)
    assert (features["r_peaks"] / extractor.sampling_rate).tolist() == [[2, 4, 8]]


@pytest.mark.parametrize(
    "peaks", [np.array([200, 100]), np.array([-1, 100]), np.array([10, 5000]), np.array([1.5]), np.array([[1, 2]])]
)
def test_when_known_peaks_make_no_sense_then_they_are_refused(extractor, peaks: np.ndarray) -> None:
    with pytest.raises(InputError, match="r_peaks must"):
        extractor(make_pulses(), **known(), r_peaks=peaks)


def test_when_no_one_needs_beats_then_none_are_searched(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("beats were searched")

    monkeypatch.setattr(kind, "detect", refuse)
    if not kind.reads_beats:
        kind()(make_pulses(), **known())
    for asked in ({"on_no_beats": "raise"}, {"return_r_peaks": True}, {"return_reports": True}):
        with pytest.raises(AssertionError, match="beats were searched"):
            kind()(make_pulses(), **known(), **asked)


def test_when_no_beat_is_found_then_the_window_is_refused_or_kept(extractor) -> None:
    with pytest.raises(InputError, match="no beats were detected between 0 s and 10 s"):
        extractor(make_pulses(), **known(), r_peaks=NO_BEATS, on_no_beats="raise")
    assert len(_inputs(extractor, make_pulses(), **known(), r_peaks=NO_BEATS, on_no_beats="mask")) == 1
    noise = np.random.default_rng(0).normal(0.0, 0.01, (12, 5000))
    if extractor.on_no_beats == "mask":
        assert len(_inputs(extractor, noise, **known())) == 1


# ----------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_when_the_electrodes_are_off_for_a_window_then_it_is_left_out_by_name(
    kind, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    waveform = make_pulses(30.0)
    waveform[:, 5000:10000] = value
    extractor = kind(windows="all", **_ten_seconds(kind))
    with caplog.at_level("WARNING"):
        assert len(_inputs(extractor, [waveform, make_pulses(10.0)], **known())) == 3
    assert "recording 0: 10-20 s skipped: every lead is flat or missing" in caplog.messages
    output = extractor(waveform, **known(), return_windows=True)
    assert output["skipped_windows"].tolist() == [[0, 10, 20]]
    assert output["window_ids"].tolist() == [0, 2]
    with pytest.raises(InputError, match="no signal between 0 s and 10 s: every lead is flat or missing"):
        extractor(waveform[:, 5000:], **known(), windows="first")


def test_when_samples_of_a_window_are_missing_in_every_lead_then_a_few_are_repaired_and_many_are_not(
    extractor,
) -> None:
    waveform = make_pulses()
    waveform[:, 2000:2800] = np.nan
    assert np.isfinite(_inputs(extractor, waveform, **known())).all()
    waveform[:, 2000:4500] = np.nan
    with pytest.raises(InputError, match="no signal between 0 s and 10 s"):
        extractor(waveform, **known())


def test_when_a_lead_is_flat_or_mostly_nan_then_it_is_masked_and_the_others_do_not_change(extractor) -> None:
    waveform = make_pulses()
    expected, _ = extractor.clean(waveform, **known())
    complete = _inputs(extractor, waveform, **known())
    waveform[7] = 0.3
    waveform[8, 100:3000] = np.nan
    if type(extractor) in COMPLETE:
        with pytest.raises(InputError, match="lead V2, V3 is missing or flat, but this model was trained on complete"):
            extractor.clean(waveform, **known())
        return
    signal, present = extractor.clean(waveform, **known())
    assert np.flatnonzero(~present).tolist() == [7, 8]
    np.testing.assert_allclose(signal, np.where(present[:, None], expected, 0.0), atol=1e-5)
    features = extractor(waveform, **known())
    if "lead_mask" in features:
        gone = [extractor.lead_names.index(LEADS[lead]) for lead in (7, 8)]
        assert np.flatnonzero(~features["lead_mask"][0]).tolist() == gone
        assert not features["input_values"][0, gone].any()
        others = features["lead_mask"][0]
        result, complete = features["input_values"][0, others], complete[0, others]
        if type(extractor) in PER_WINDOW:
            result, complete = ((one - one.mean()) / one.std() for one in (result, complete))
        np.testing.assert_allclose(result, complete, atol=1e-5)


def test_when_a_few_samples_are_nan_then_the_lead_is_repaired(extractor) -> None:
    waveform = make_pulses()
    expected, _ = extractor.clean(waveform, **known())
    waveform[3, 40:46] = np.nan
    waveform[8, 2222] = np.inf
    signal, present = extractor.clean(waveform, **known())
    assert present.all()
    np.testing.assert_allclose(signal, expected, atol=0.05)
    with pytest.raises(InputError, match="NaN or Inf"):
        extractor(waveform, **known(), do_repair=False)


# --------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_when_a_shipped_file_is_loaded_and_saved_then_no_byte_of_it_changes(path: Path, tmp_path: Path) -> None:
    AutoFeatureExtractor.from_pretrained(path.parent).save_pretrained(tmp_path)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    AutoFeatureExtractor.from_pretrained(path.parent, detector="xqrs").save_pretrained(tmp_path)
    changed = json.loads((tmp_path / path.name).read_text())
    assert changed == {**json.loads(path.read_text()), "detector": "xqrs"}


def test_when_it_is_saved_and_loaded_then_every_setting_comes_back(kind, tmp_path: Path) -> None:
    settings = {"windows": "all", "stride_seconds": 5.0, "window_seconds": 5.0, "detector": "xqrs"}
    saved = kind(**{**_ten_seconds(kind), **settings, "bandpass_low": 0.4})
    saved.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is kind
    apart = dict.fromkeys(OF_LOADING)
    assert vars(loaded) | apart == vars(saved) | apart
    np.testing.assert_array_equal(
        _inputs(loaded, make_pulses(14.0), **known()), _inputs(saved, make_pulses(14.0), **known())
    )
    module = kind.__module__.rsplit(".", 1)[-1]
    auto_map = json.loads((tmp_path / "preprocessor_config.json").read_text())["auto_map"]
    assert auto_map["AutoFeatureExtractor"] == f"{module}.{kind.__name__}"
    assert {path.name for path in tmp_path.iterdir()} >= {"feature_extraction_ecg.py", f"{module}.py"}


def test_when_help_is_asked_for_then_every_setting_is_explained_once(kind) -> None:
    explained = f"{kind.__doc__}{EcgFeatureExtractor.__init__.__doc__}"
    arguments = [line.split("(`")[0] for line in explained.splitlines() if "(`" in line or "See [" in line]
    for name in set(kind().to_dict()) - OF_LOADING:
        assert sum(name in line.replace(",", " ").replace(":", " ").split() for line in arguments) == 1, name
        assert getattr(kind, name) == kind().to_dict()[name] or list(getattr(kind, name)) == kind().to_dict()[name]
    assert set(kind.model_settings) <= set(kind().to_dict())


def test_when_settings_are_replaced_then_they_are_checked_and_the_extractor_stays_as_it_was(kind) -> None:
    extractor = kind()
    other = extractor.replace(windows="all", min_seconds=2.0, detector=None)
    assert type(other) is kind
    assert other.to_dict() == {**kind().to_dict(), "windows": "all", "min_seconds": 2.0}
    assert extractor.to_dict() == kind().to_dict()
    with pytest.raises(TypeError, match=f"{kind.__name__} has no setting 'window'"):
        extractor(make_pulses(), **known(), window="all")


def test_when_a_step_is_overridden_then_only_that_call_changes(extractor) -> None:
    if hasattr(extractor, "preprocessing"):
        extractor = extractor.replace(preprocessing="evaluation")  # without filters of its own
    if hasattr(extractor, "normalize"):
        extractor = extractor.replace(normalize="none")
    drifting = 4.0 * make_pulses() + 3.0 * np.sin(np.arange(5000) / RATE)

    def made(**step: Any) -> np.ndarray:
        return _inputs(extractor, drifting, **known(), r_peaks=np.array([700, 1200]), **step)

    default_features, filtered, unfiltered = made(), made(do_bandpass=True), made(do_bandpass=False)
    assert np.abs(filtered - unfiltered).max() > (0.01 if type(extractor) in SCALED else 0.5)
    np.testing.assert_array_equal(default_features, filtered if extractor.do_bandpass else unfiltered)
    np.testing.assert_array_equal(made(), default_features)
    if type(extractor) in SCALED:
        signal, _ = extractor.clean(drifting, **known(), do_rescale=True)
        assert (signal.min(), signal.max()) == (-3.0, 3.0)
        return
    signal = filtered if type(extractor) in PER_WINDOW else extractor.clean(drifting, **known(), do_bandpass=True)[0]
    assert np.abs(signal.mean()) < 0.05
    if "input_values" in extractor.model_input_names:
        assert np.abs(unfiltered).max() > 3.0
        assert np.abs(made(do_rescale=True)).max() <= 3.0


def test_when_extractors_are_called_then_they_take_the_same_arguments(kind) -> None:
    for name in ("__call__", "clean", "detect", "split"):
        assert inspect.signature(getattr(kind, name)) == inspect.signature(getattr(EcgFeatureExtractor, name)), name
    assert list(inspect.signature(kind.cut).parameters)[:4] == ["self", "signals", "r_peaks", "lead_masks"]
    signal, present = kind().clean(make_pulses(), **known())
    assert signal.shape == (12, 10 * kind.sampling_rate)
    assert present.all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": "last"}, "windows must be one of 'first', 'center', 'all', got 'last'"),
        ({"on_no_beats": "invent"}, "on_no_beats must be one of 'raise', 'mask', got 'invent'"),
        ({"detector": "magic"}, "detector must be one of .*, got 'magic'"),
        ({"stride_seconds": -1.0}, "stride_seconds must be a number between .*, got -1.0"),
        ({"do_bandpass": True, "bandpass_high": 125.0, "sampling_rate": 250}, "below half the sampling rate"),
        ({"do_rescale": 2}, "do_rescale must be true or false, got 2"),
    ],
)
def test_when_settings_make_no_sense_then_they_are_refused_for_good_and_for_a_call(kind, settings, message) -> None:
    with pytest.raises(InputError, match=message):
        kind(**settings).replace(**settings)
    if "sampling_rate" not in settings:
        with pytest.raises(InputError, match=message):
            kind()(make_pulses(), **known(), **settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling_rate": None}, "sampling_rate is required"),
        ({"sampling_rate": "fast"}, "sampling_rate must be a number"),
        ({"sampling_rate": 0}, "at least 50 Hz"),
        ({"sampling_rate": 20.0}, "at least 50 Hz"),
        ({"sampling_rate": float("nan")}, "at least 50 Hz"),
        ({"lead_names": None}, "lead_names is required"),
        ({"lead_names": LEADS[:11]}, "12 rows but there are 11 lead names"),
        ({"lead_names": [*LEADS[:11], "pleth"]}, "unknown lead name 'pleth'"),
        ({"unit": None}, "unit is required"),
        ({"unit": "mmHg"}, "unknown unit"),
        ({"waveforms": make_pulses()[1]}, "1 dimension"),
        ({"waveforms": make_pulses().T}, "transpose"),
        ({"waveforms": make_pulses(0.5)}, "must be at least 1 s long, got 0.5 s"),
        ({"waveforms": np.zeros((12, 5000))}, "all leads are flat"),
        ({"waveforms": np.full((12, 5000), np.nan)}, "no usable signal"),
        ({"waveforms": np.full((12, 5000), "x")}, "dtype"),
        ({"waveforms": np.zeros((0, 5000)), "lead_names": []}, "at least one of the 12 standard leads"),
        ({"waveforms": []}, "no recording"),
        (
            {"waveforms": [make_pulses(), make_pulses()], "sampling_rate": [500.0]},
            "one entry for each of the 2 recordings, got 1",
        ),
        (
            {"waveforms": [make_pulses(), np.zeros((12, 5000))]},
            r"^recording 1: the recording contains no signal: all leads are flat",
        ),
        ({"do_resample": False, "sampling_rate": 400.0}, "set do_resample=True"),
    ],
)
def test_when_the_input_cannot_be_used_then_the_message_explains_what_was_wrong(extractor, changes, message) -> None:
    call = {"waveforms": make_pulses(), **known(), **changes}
    with pytest.raises(InputError, match=message):
        extractor(call.pop("waveforms"), **call)
