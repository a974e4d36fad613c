"""The report describes the recording as it came: rhythm, leads, amplitude, and what is implausible."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clear_hug_hf import ClearHugFeatureExtractor, EcgJepaFeatureExtractor, EcgScanFeatureExtractor
from clear_hug_hf.data.records import Recording
from clear_hug_hf.processing import STANDARD_LEADS, EcgFeatureExtractor, InputError, SignalReport
from clear_hug_hf.processing.signal_report import Quality, describe_signal, measure_quality


EXTRACTORS = (ClearHugFeatureExtractor, EcgJepaFeatureExtractor, EcgScanFeatureExtractor)
ALL_LEADS = np.ones(12, dtype=bool)


@pytest.fixture
def recording(make_recordings: Callable[..., list[Recording]]) -> Recording:
    return make_recordings(1, sampling_rate=500.0)[0]


def _quality(recording: Recording) -> Quality:
    return measure_quality(recording.waveform, recording.sampling_rate, recording.lead_names, recording.unit)


def _report(extractor: EcgFeatureExtractor, recording: Recording, windows: str = "all") -> SignalReport:
    return extractor(**recording.as_inputs(), windows=windows, return_reports=True)["reports"][0]


def test_when_a_recording_is_clean_then_nothing_is_reported(recording: Recording) -> None:
    quality = _quality(recording)
    assert quality[:4] == ([], [], 0.0, 0.0)
    assert list(quality.ranges) == list(STANDARD_LEADS)
    assert describe_signal(quality, ALL_LEADS, np.arange(50, 1000, 80)).warnings == []


def test_when_leads_are_flat_or_empty_then_they_are_named_in_the_standard_order(recording: Recording) -> None:
    waveform = recording.waveform.copy()
    waveform[7], waveform[1] = 0.3, np.nan
    quality = _quality(replace(recording, waveform=waveform))
    assert quality.flat_leads == ["II", "V2"]
    assert quality.nan_share == pytest.approx(1 / 12)
    assert quality.clipped_share == 0.0, "a flat lead is not a clipped one"


def test_when_a_lead_rests_at_its_limits_then_those_samples_count(recording: Recording) -> None:
    waveform = recording.waveform.copy()
    waveform[3, 100:160], waveform[3, 900:905] = 9.0, 9.0  # 120 ms, and 10 ms that may be a peak
    waveform[4, -30:], waveform[5, :30] = 9.0, 9.0  # neighbors in memory, not in time
    waveform[6, 400:425] = -9.0
    quality = _quality(replace(recording, waveform=waveform))
    assert quality.clipped_share == pytest.approx((60 + 30 + 30 + 25) / waveform.size)
    assert quality.clipped_leads == ["aVR"], "the only one with more than 1 %"
    waveform[6, 0] = np.inf
    assert _quality(replace(recording, waveform=waveform)).clipped_share == quality.clipped_share


def test_when_a_recording_has_other_leads_too_then_they_do_not_count(recording: Recording) -> None:
    wider = replace(
        recording,
        waveform=np.concatenate([np.full((1, 5000), np.nan, np.float32), recording.waveform]),
        lead_names=["vx", *recording.lead_names],
    )
    assert _quality(wider) == _quality(recording)


def test_when_beats_are_regular_or_not_then_rate_and_variability_follow_their_definitions(recording) -> None:
    quality = _quality(recording)
    regular = describe_signal(quality, ALL_LEADS, np.arange(20, 1000, 50), 100.0)
    assert (regular.heart_rate, regular.sdnn_ms, regular.rmssd_ms, regular.irregularity) == (120.0, 0.0, 0.0, 0.0)
    bigeminy = describe_signal(quality, ALL_LEADS, np.cumsum([20, *[60, 100] * 5]), 100.0)
    assert bigeminy.heart_rate == pytest.approx(75.0)
    assert bigeminy.sdnn_ms == pytest.approx(np.std([600.0, 1000.0] * 5, ddof=1))
    assert bigeminy.rmssd_ms == pytest.approx(400.0)
    assert bigeminy.irregularity == pytest.approx(0.5)
    single = describe_signal(quality, ALL_LEADS, np.array([20]), 100.0)
    assert (single.heart_rate, single.sdnn_ms, single.rmssd_ms, single.irregularity, single.beats_found) == (
        None,
    ) * 4 + (1,)


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_when_an_extractor_is_asked_then_it_reports_what_its_model_reads(kind: Any, make_recordings: Any) -> None:
    fast, slow = make_recordings(2, sampling_rate=500.0)
    extractor = kind()
    both = {**fast.as_inputs(), "waveforms": [fast.waveform, slow.waveform]}
    features = extractor(**both, return_reports=True, return_tensors="pt")
    assert set(features) == {*extractor(**slow.as_inputs()), "reports"}
    reports = features["reports"]
    assert [round(item.heart_rate / 10) for item in reports] == [11, 6]
    found, holds_15 = reports[0].beats_found, kind is ClearHugFeatureExtractor
    assert found > 15
    part = [f"only 15 of {found} beats are read: use windows='all'"] if holds_15 else []
    assert [item.warnings for item in reports] == [part, []]
    assert reports[0].beats_read == (15 if holds_15 else found)
    assert [len(item.window_rates) for item in reports] == [1, 1]
    whole = _report(extractor, fast)
    assert (whole.beats_read, whole.beats_found, whole.warnings) == (found, found, [])
    assert len(whole.window_rates) == (2 if holds_15 else 1)
    assert whole.window_rates == pytest.approx([reports[0].heart_rate] * len(whole.window_rates), rel=0.05)
    assert reports[1].beats_read == reports[1].beats_found
    assert json.loads(json.dumps(reports[0].to_dict()))["beats_found"] == found
    assert reports[1].summary().startswith(f"{reports[1].heart_rate:.0f}/min, SDNN ")


def _with_gap(recording: Recording, value: float) -> Recording:
    """Six times the recording, of which 35 s hold no signal."""
    waveform = np.tile(recording.waveform, 6)
    waveform[:, round(15 * recording.sampling_rate) : round(50 * recording.sampling_rate)] = value
    return replace(recording, waveform=waveform)


@pytest.mark.parametrize("kind", EXTRACTORS)
@pytest.mark.parametrize("value", [0.0, np.nan])
def test_when_the_leads_are_off_for_most_of_the_time_then_the_rest_is_read_and_its_rhythm_reported(
    kind: Any, value: float, recording: Recording
) -> None:
    alone, report = _report(kind(), recording), _report(kind(), _with_gap(recording, value))
    assert report.heart_rate == pytest.approx(alone.heart_rate, rel=0.05)
    # Repeating the recording makes two intervals of its seams; the gap would make one of 35 s.
    assert (report.sdnn_ms or 1e9) < 300
    assert report.contradiction("STACH") is None
    assert report.warnings[0] == "10-20 s, 20-30 s, 30-40 s, 40-50 s skipped: every lead is flat or missing"
    assert not any("unit" in warning for warning in report.warnings)


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_when_a_detector_finds_beats_without_signal_then_they_do_not_count(
    kind: Any, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = np.arange(50, 6000, 60)
    extractor = kind(windows="all")
    monkeypatch.setattr(extractor, "detect", lambda *_, **__: [np.rint(beats * extractor.sampling_rate / 100)])
    report = _report(extractor, _with_gap(recording, 0.0))
    assert report.beats_found == np.count_nonzero((beats < 1500) | (beats >= 5000))
    assert report.heart_rate == pytest.approx(100)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_when_most_of_a_window_holds_no_signal_but_a_sample_then_it_is_left_out(
    value: float, recording: Recording
) -> None:
    extractor = EcgScanFeatureExtractor(windows="all")
    waveform = np.tile(recording.waveform, 2)
    waveform[:, 5000:8000] = value
    waveform[:, 6000] = 0.1
    output = _report(extractor, replace(recording, waveform=waveform))
    assert output.warnings[0] == "10-20 s skipped: every lead is flat or missing"
    held = recording.waveform.copy()
    for start in range(0, 5000, 250):  # Coarse samples that rest for 0.4 s
        held[:, start : start + 200] = held[:, start : start + 1]
    assert not any("skipped" in warning for warning in _report(extractor, replace(recording, waveform=held)).warnings)


def test_when_no_lead_varies_then_the_unit_is_not_blamed(recording: Recording) -> None:
    extractor = ClearHugFeatureExtractor(do_mask_flat_leads=False)
    with pytest.raises(InputError, match="the recording contains no signal"):
        extractor.clean(np.zeros((12, 5000)), sampling_rate=500.0, lead_names=STANDARD_LEADS, unit="mV")


@pytest.mark.parametrize("windows", ["first", "center"])
def test_when_a_choice_of_window_drops_beats_then_a_warning_reports_it(windows: str, recording: Recording) -> None:
    longer = replace(recording, waveform=np.tile(recording.waveform, 2))
    report = _report(EcgJepaFeatureExtractor(), longer, windows=windows)
    assert f"only {report.beats_read} of {report.beats_found} beats are read: use windows='all'" in report.warnings


def test_when_no_beats_are_sought_then_the_rhythm_is_not_mentioned(recording: Recording) -> None:
    report = _report(ClearHugFeatureExtractor(detector="regular"), recording)
    assert (report.heart_rate, report.beats_found, report.beats_read) == (None, None, None)
    assert report.summary() == "10 s"


@pytest.mark.parametrize("kind", EXTRACTORS)
@pytest.mark.parametrize(("factor", "looks_like"), [(1e3, "uV"), (1e-3, "V")])
def test_when_the_unit_is_wrong_by_a_thousand_then_it_is_refused_with_the_right_one(
    kind: Any, factor: float, looks_like: str, recording: Recording
) -> None:
    wrong = replace(recording, waveform=recording.waveform * np.float32(factor))
    with pytest.raises(InputError, match=f"the unit is probably {looks_like} instead of mV"):
        kind()(**wrong.as_inputs())
    kind()(**replace(wrong, unit=looks_like).as_inputs())
    with pytest.raises(InputError, match="the unit is probably mV instead of uV"):
        kind()(**replace(recording, unit="uV").as_inputs())


def test_when_a_recording_is_normalized_then_it_has_no_amplitude(recording: Recording) -> None:
    normalized = replace(recording, waveform=recording.waveform * 1000, unit="NU")
    report = _report(ClearHugFeatureExtractor(), normalized)
    assert report.amplitude_mv is None
    assert report.warnings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda waveform: 15 * waveform, r"lead\(s\) I, .* span up to .*: check the unit and the gain"),
        (lambda waveform: 0.05 * waveform, "the largest lead spans .*: check the unit and the gain"),
        (lambda waveform: waveform * np.where(np.arange(12) == 8, 50, 1)[:, None], r"lead\(s\) V3 span up to"),
        (lambda waveform: waveform[:, :500], r"the recording is short \(1 s with "),
        (lambda waveform: waveform[:, :1500], r"the recording is short \(3 s with "),
        (lambda waveform: waveform[:, :2450], r"the recording is short \(4.9 s with "),
    ],
)
def test_when_amplitude_or_length_is_implausible_then_a_warning_reports_it(
    change: Callable[[np.ndarray], np.ndarray], message: str, recording: Recording
) -> None:
    (warning,) = _report(ClearHugFeatureExtractor(), replace(recording, waveform=change(recording.waveform))).warnings
    assert re.match(message, warning)


def test_when_an_artifact_is_brief_then_the_amplitude_is_that_of_the_beats(recording: Recording) -> None:
    waveform = recording.waveform + 300.0  # an electrode's offset
    waveform[:, 2000:2100] += 500.0
    assert _report(ClearHugFeatureExtractor(), replace(recording, waveform=waveform)).warnings == []


def test_when_leads_are_missing_then_a_warning_names_them_and_what_is_left(recording: Recording) -> None:
    alone = replace(recording, waveform=recording.waveform[1:2], lead_names=["II"])
    report = _report(ClearHugFeatureExtractor(), alone)
    assert report.missing_leads == [name for name in STANDARD_LEADS if name != "II"]
    (warning,) = report.warnings
    assert warning.startswith("11 of 12 leads are missing and masked: I, III, aVR, ")
    assert warning.endswith("based on II only")
    waveform = recording.waveform.copy()
    waveform[6] = 0.0
    report = _report(ClearHugFeatureExtractor(), replace(recording, waveform=waveform))
    assert report.missing_leads == report.flat_leads == ["V1"]
    assert report.warnings == [
        "1 of 12 leads are missing and masked: V1 (flat); predictions are based on the others only"
    ]
    assert report.summary().endswith("; leads missing: V1; leads flat: V1")


def test_when_a_model_does_not_read_a_lead_then_it_is_not_missed(recording: Recording) -> None:
    names = EcgJepaFeatureExtractor().lead_names
    kept = recording.waveform[[STANDARD_LEADS.index(name) for name in names]]
    eight = replace(recording, waveform=kept * 5, lead_names=names, unit="NU")
    assert _report(EcgJepaFeatureExtractor(), eight).warnings == []


def test_when_samples_are_lost_or_clipped_then_a_warning_reports_it(recording: Recording) -> None:
    waveform = recording.waveform.copy()
    waveform[:, 1000:1100] = np.nan
    waveform[9, 3000:3100] = 5.0
    clipped, lost = _report(ClearHugFeatureExtractor(), replace(recording, waveform=waveform)).warnings
    assert clipped.startswith("lead(s) V4 are clipped")
    assert lost.startswith("2.0% of the samples are NaN or Inf")


@pytest.mark.parametrize(("rate", "implausible"), [(15, True), (40, False), (217, False), (280, True)])
def test_when_the_rate_is_implausible_then_a_warning_reports_it(
    rate: float, implausible: bool, recording: Recording
) -> None:
    peaks = np.arange(0, 6000, 6000 / rate).astype(np.int64)
    warnings = describe_signal(_quality(recording), ALL_LEADS, peaks, 100.0).warnings
    assert len(warnings) == implausible
    assert all(warning.startswith(f"a heart rate of {rate}/min is implausible") for warning in warnings)


def test_when_no_beat_is_found_then_a_warning_reports_it(recording: Recording) -> None:
    (warning,) = describe_signal(_quality(recording), ALL_LEADS, np.empty(0, dtype=np.int64)).warnings
    assert warning.startswith("no beats were detected in 10 s")


@pytest.mark.parametrize(
    ("label", "rate", "contradicts"),
    [
        ("SBRAD", 171.0, True),
        ("SB", 66.0, True),
        ("Brady", 64.0, False),
        ("STACH", 74.0, True),
        ("STach", 96.0, False),
        ("427084000", 80.0, True),
        ("SR", 171.0, False),
        ("STTC", 60.0, False),
        ("SBRAD", None, False),
    ],
)
def test_when_the_rate_contradicts_a_label_then_a_sentence_reports_it(
    label: str, rate: float | None, contradicts: bool, recording: Recording
) -> None:
    report = replace(describe_signal(_quality(recording), ALL_LEADS), heart_rate=rate)
    found = report.contradiction(label)
    assert (found is not None) == contradicts
    if found:
        assert found.startswith(f"the heart rate of {rate:.0f}/min contradicts {label}: ")
