"""Beat detection: on the recordings that cardiologists marked, on altered copies of them, and on simulated ones."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

from clear_hug_hf.evaluation.beats import match_beats
from clear_hug_hf.processing import DETECTORS, STANDARD_LEADS, InputError, cut_beats, detect_r_peaks


neurokit2 = pytest.importorskip("neurokit2")
wfdb = pytest.importorskip("wfdb")

RATE = 100
LEAD_II = STANDARD_LEADS.index("II")


@pytest.fixture(scope="module")
def ludb(shared: Path) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """LUDB at 500 Hz and at 100 Hz (records, 12, samples) [mV], and the marks of lead II [ms]."""
    signals, marks = [], []
    for header in sorted((shared / "data" / "ludb" / "data").glob("*.hea"), key=lambda path: int(path.stem)):
        record = wfdb.rdrecord(str(header.with_suffix("")))
        names = [name.lower() for name in record.sig_name]
        signals.append(record.p_signal.T[[names.index(lead.lower()) for lead in STANDARD_LEADS]])
        annotation = wfdb.rdann(str(header.with_suffix("")), "ii")
        peaks = [sample for sample, symbol in zip(annotation.sample, annotation.symbol, strict=True) if symbol == "N"]
        marks.append(np.array(peaks) * 1000.0 / record.fs)
    original = np.stack(signals)
    return original, resample_poly(original, 1, 5, axis=-1).astype(np.float32), marks


def score(result: list[np.ndarray], marks: list[np.ndarray], rate: float = RATE) -> tuple[float, int, np.ndarray]:
    """F1, number of records wholly right, and the errors of the matched beats [ms]."""
    matches = [match_beats(peaks * 1000.0 / rate, beats, 150.0) for peaks, beats in zip(result, marks, strict=True)]
    pairs, extra, missed = np.sum([match[:3] for match in matches], axis=0)
    right = sum(match[1] == match[2] == 0 for match in matches)
    return 2 * pairs / (2 * pairs + extra + missed), right, np.concatenate([match[3] for match in matches])


@functools.cache
def simulate(heart_rate: int, seconds: int = 10) -> np.ndarray:
    """A simulated 12-lead recording at 100 Hz. Simulated at 500 Hz: at 100 Hz neurokit2 never returns for 60 bpm."""
    leads = neurokit2.ecg_simulate(
        duration=seconds, sampling_rate=500, heart_rate=heart_rate, method="multileads", random_state=heart_rate
    )
    return resample_poly(leads.to_numpy().T, 1, 5, axis=-1)


def bumps(peaks: np.ndarray, widths: np.ndarray | float, heights: np.ndarray | float = 1.0) -> np.ndarray:
    """Ten seconds of twelve leads of different heights with a bell at each peak [s]."""
    bells = np.exp(-0.5 * ((np.arange(1000)[:, None] / RATE - peaks) / widths) ** 2)
    return np.outer(np.linspace(0.5, 1.5, 12), (heights * bells).sum(axis=1))


def spikes(original: np.ndarray, marks: list[np.ndarray], millivolts: float, before: float) -> np.ndarray:
    """Pacing spikes of one sample at 500 Hz [mV] before each beat [ms], alternating in sign over the leads."""
    paced = original.copy()
    for recording, beats in zip(paced, marks, strict=True):
        places = np.rint((beats - before) / 2).astype(int)
        recording[:, places[places >= 0]] += millivolts * (-1.0) ** np.arange(12)[:, None]
    return resample_poly(paced, 1, 5, axis=-1)


def test_when_cardiologists_marked_the_beats_then_nearly_all_are_found_where_they_are(ludb) -> None:
    _, signals, marks = ludb
    f1, right, errors = score(detect_r_peaks(signals), marks)
    assert f1 >= 0.998
    assert right >= 98
    assert np.median(np.abs(errors)) <= 8
    assert np.mean(np.abs(errors) > 50) < 0.02


@pytest.mark.parametrize("rate", [50, 250, 257, 500])
def test_when_the_rate_is_another_then_the_beats_are_the_same(ludb, rate: int) -> None:
    original, _, marks = ludb
    signals = resample_poly(original[:40], rate, 500, axis=-1)
    f1, right, errors = score(detect_r_peaks(signals, sampling_rate=rate), marks[:40], rate)
    assert f1 >= 0.995
    assert right >= 38
    assert np.median(np.abs(errors)) <= 10


ALL = slice(None)


@pytest.mark.parametrize(
    ("leads", "samples", "change"),
    [
        (slice(6), ALL, lambda part, noise: np.full_like(part, 0.7)),
        (LEAD_II, ALL, lambda part, noise: part + 50 * noise),
        (slice(None, None, 2), ALL, lambda part, noise: part + 5 * noise),
        (8, slice(40, None, 90), lambda part, noise: part + 100),
        (LEAD_II, slice(300, 800), lambda part, noise: np.full_like(part, np.nan)),
        (slice(3, 9), ALL, lambda part, noise: np.where(noise > 1.6, np.inf, part)),
        (3, ALL, lambda part, noise: np.full_like(part, np.nan)),
        (ALL, ALL, lambda part, noise: part + 2 * np.sin(2 * np.pi * 0.3 * np.arange(part.shape[-1]) / RATE)),
        (ALL, slice(30), lambda part, noise: part + 5),
        (ALL, ALL, lambda part, noise: part.clip(-0.3, 0.3)),
    ],
    ids=[
        *("limb leads flat", "II drowned", "six leads drowned", "one lead pulses", "II blank for 5 s"),
        *("samples infinite", "a lead blank", "wandering", "a step at the start", "clipped"),
    ],
)
def test_when_recordings_are_altered_then_the_beats_are_still_found(ludb, leads, samples, change) -> None:
    _, signals, marks = ludb
    altered = signals.copy()
    part = altered[:, leads, samples]
    altered[:, leads, samples] = change(part, np.random.default_rng(0).normal(size=part.shape))
    f1, right, _ = score(detect_r_peaks(altered), marks)
    assert f1 >= 0.998
    assert right >= 98


# A ventricular spike runs into its QRS; an atrial spike is isolated, and 5 mV of it exceed the QRS of low recordings.
@pytest.mark.parametrize(
    ("millivolts", "before", "bar"), [(2, 40, 0.998), (5, 40, 0.998), (2, 160, 0.998), (5, 160, 0.95)]
)
def test_when_a_pacemaker_spikes_before_each_beat_then_the_beats_are_still_found(
    ludb, millivolts, before, bar
) -> None:
    original, _, marks = ludb
    f1, _, _ = score(detect_r_peaks(spikes(original, marks, millivolts, before)), marks)
    assert f1 >= bar


def test_when_all_leads_are_noisy_then_most_beats_are_still_found(ludb) -> None:
    _, signals, marks = ludb
    noise = np.random.default_rng(0).normal(size=signals.shape) * signals.std(axis=-1, keepdims=True)
    assert score(detect_r_peaks(signals + 0.5 * noise), marks)[0] >= 0.99
    assert score(detect_r_peaks(signals + noise), marks)[0] >= 0.97


def test_when_a_beat_is_gone_for_all_leads_then_only_it_is_missed(ludb) -> None:
    _, signals, _ = ludb
    gone = signals.copy()
    gone[:, :, 400:500] = np.nan
    whole = detect_r_peaks(signals)
    for peaks, expected in zip(detect_r_peaks(gone), whole, strict=True):
        outside = expected[(expected < 385) | (expected > 515)]
        assert np.isin(outside, peaks[:, None] + np.arange(-2, 3)).all()
        assert not ((peaks > 405) & (peaks < 495)).any()


@pytest.mark.parametrize(("leads", "bar"), [(["II"], 0.99), (["V2"], 0.99), (["I", "II", "V2"], 0.998)])
def test_when_only_some_leads_are_present_then_they_suffice(ludb, leads: list[str], bar: float) -> None:
    _, signals, marks = ludb
    mask = np.isin(STANDARD_LEADS, leads)
    noisy = signals + 1000 * ~mask[:, None] * np.random.default_rng(0).normal(size=signals.shape)
    result = detect_r_peaks(noisy, lead_mask=mask)
    assert score(result, marks)[0] >= bar
    alone = detect_r_peaks(signals[:, mask], lead_names=leads)
    assert all(np.array_equal(item, other) for item, other in zip(result, alone, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda signals: -signals,
        lambda signals: signals * np.where(np.arange(12) % 3, 1, -1).astype(np.float32)[:, None],
        lambda signals: signals * 1e-3,
        lambda signals: signals * 1000 + 500,
        lambda signals: signals / signals.std(axis=-1, keepdims=True),
        lambda signals: signals.astype(np.float64),
        lambda signals: signals[:, np.random.default_rng(0).permutation(12)],
    ],
    ids=["inverted", "some leads inverted", "in V", "in uV with an offset", "z-scored", "float64", "permuted"],
)
def test_when_sign_scale_or_order_of_leads_change_then_the_peaks_do_not(ludb, change) -> None:
    _, signals, _ = ludb
    for item, other in zip(detect_r_peaks(signals), detect_r_peaks(change(signals)), strict=True):
        assert item.size == other.size
        assert np.abs(item - other).max() <= 1  # two samples of one height change places by rounding
        assert np.mean(item != other) < 0.2


def test_when_recordings_come_one_by_one_then_the_peaks_are_those_of_the_batch(ludb) -> None:
    _, signals, _ = ludb
    for recording, expected in zip(signals, detect_r_peaks(signals), strict=True):
        result = detect_r_peaks(recording)
        assert len(result) == 1
        assert result[0].dtype == np.int64
        np.testing.assert_array_equal(result[0], expected)


def test_when_recordings_are_joined_to_a_minute_then_the_beats_inside_are_the_same(ludb) -> None:
    _, signals, marks = ludb
    # Leads of one amplitude, since a patient does not change his every ten seconds.
    scaled = signals[:60] / np.abs(signals[:60]).max(axis=-1, keepdims=True)
    long = np.concatenate(np.split(scaled, 6), axis=-1)
    for row, peaks in enumerate(detect_r_peaks(long)):
        parts = [match_beats((peaks - 1000 * part) * 10.0, marks[10 * part + row], 150.0)[:3] for part in range(6)]
        pairs, extra, missed = np.sum(parts, axis=0)
        assert extra + missed <= 0.03 * pairs


@pytest.mark.parametrize(("heart_rate", "seconds"), [(30, 10), (75, 10), (150, 5), (220, 5)])
def test_when_the_heart_beats_slowly_or_fast_then_every_beat_is_found_once(heart_rate: int, seconds: int) -> None:
    (peaks,) = detect_r_peaks(simulate(heart_rate, seconds))
    intervals = np.diff(peaks) / RATE * heart_rate / 60
    assert abs(peaks.size - heart_rate * seconds / 60) <= 1.5
    assert (np.abs(intervals - 1) < 0.25).all()


def test_when_the_recording_is_short_then_its_few_beats_are_found() -> None:
    recording = simulate(75)
    (whole,) = detect_r_peaks(recording)
    for begin in whole[1:-1] - 40:
        (peaks,) = detect_r_peaks(recording[:, begin : begin + 100])
        inside = whole[(whole >= begin + 15) & (whole < begin + 85)] - begin
        assert all(np.abs(peaks - beat).min() <= 2 for beat in inside)
        assert peaks.size <= 2


def test_when_t_waves_are_tall_then_they_are_no_beats() -> None:
    beats = np.arange(0.5, 9.6, 0.8)
    (peaks,) = detect_r_peaks(bumps(beats, 0.012) + bumps(beats + 0.28, 0.045, 2.0))
    np.testing.assert_allclose(peaks / RATE, beats, atol=0.03)


def test_when_beats_are_wide_weak_or_irregular_then_they_are_kept() -> None:
    beats = np.array([0.6, 1.2, 1.65, 2.9, 3.4, 4.5, 4.95, 5.9, 7.1, 7.7, 9.0])
    width = np.where(np.arange(beats.size) % 4 == 2, 0.03, 0.015)  # 120 ms against 60 ms from foot to foot
    height = np.where(np.arange(beats.size) % 5 == 3, 0.6, 1.0)
    (peaks,) = detect_r_peaks(bumps(beats, width, height))
    np.testing.assert_allclose(peaks / RATE, beats, atol=0.03)


@pytest.mark.parametrize(
    "nothing",
    [
        np.zeros((12, 1000)),
        np.full((12, 1000), 7.3),
        np.full((12, 1000), np.nan),
        np.full((12, 1000), -np.inf),
        np.linspace(0, 1, 12_000).reshape(12, 1000),
        np.zeros((12, 1)),
        np.ones((12, 1000), dtype=np.int16),
        np.random.default_rng(0).normal(size=(12, 1000)),
    ],
    ids=["zeros", "constant", "nan", "inf", "ramp", "one sample", "integers", "noise"],
)
def test_when_there_is_no_beat_then_none_is_invented(nothing: np.ndarray) -> None:
    (peaks,) = detect_r_peaks(nothing)
    assert peaks.dtype == np.int64
    assert peaks.size == 0


def test_when_one_recording_of_a_batch_is_flat_then_the_others_keep_their_beats() -> None:
    recording = simulate(75)
    beats, none, again = detect_r_peaks(np.stack([recording, np.zeros_like(recording), recording]))
    assert none.size == 0
    assert beats.size >= 12
    np.testing.assert_array_equal(beats, again)


@pytest.fixture(scope="module")
def simulated_lead() -> np.ndarray:
    # A single simulated lead: lead II of the simulated 12 has T waves many times its QRS, which no library survives.
    lead = neurokit2.ecg_simulate(duration=10, sampling_rate=500, heart_rate=80, method="ecgsyn", random_state=3)
    return resample_poly(lead, 1, 5)


@pytest.mark.parametrize("detector", ["xqrs", "neurokit"])
def test_when_a_library_detector_is_named_then_it_reads_lead_ii(detector: str, simulated_lead: np.ndarray) -> None:
    leads = np.zeros((12, 1000))
    leads[LEAD_II] = simulated_lead
    leads[LEAD_II, 500] = np.nan
    leads[0] = simulated_lead[::-1]  # lead I has beats at other times
    result, none = detect_r_peaks(np.stack([leads, np.zeros_like(leads)]), detector=detector)
    (ours,) = detect_r_peaks(leads[[LEAD_II]], lead_names=["II"])
    # The libraries may miss a beat at an end.
    pairs, extra, _, _ = match_beats(result, ours, 15)
    assert ours.size >= 12
    assert pairs >= ours.size - 2
    assert extra == 0
    assert result.dtype == np.int64
    assert none.size == 0


@pytest.mark.parametrize("lead_ii", ["flat", "masked", "absent"])
def test_when_lead_ii_has_no_beat_then_a_library_detector_reads_the_next_lead(
    lead_ii: str, simulated_lead: np.ndarray
) -> None:
    names, leads = ["I", "II", "V1", "V2"], np.zeros((4, 1000))
    leads[2], leads[3] = simulated_lead, simulated_lead[::-1]
    mask = np.array([True, lead_ii != "masked", True, True])
    if lead_ii == "masked":
        leads[1] = simulated_lead[::-1]
    if lead_ii == "absent":
        names[1] = "III"
    (result,) = detect_r_peaks(leads, detector="xqrs", lead_names=names, lead_mask=mask)
    (expected,) = detect_r_peaks(leads[[2]], detector="xqrs", lead_names=["V1"])
    assert expected.size >= 10
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"signals": np.zeros(1000)}, "shape"),
        ({"signals": np.zeros((12, 0))}, "shape"),
        ({"sampling_rate": 40}, "50 Hz"),
        ({"sampling_rate": float("nan")}, "50 Hz"),
        ({"signals": np.zeros((3, 1000))}, "lead_names must have one name for each"),
        ({"lead_mask": np.ones(8, dtype=bool)}, "lead_mask must have the shape"),
        ({"detector": "hamilton"}, f"'hamilton': choose one of {', '.join(map(repr, DETECTORS))}"),
    ],
)
def test_when_the_input_does_not_fit_then_it_is_refused(arguments: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        detect_r_peaks(**{"signals": np.zeros((12, 1000)), **arguments})


@pytest.mark.parametrize(("rate", "samples"), [(100.0, 1000), (500.0, 5000)])
def test_when_the_control_without_beats_is_asked_for_then_patches_follow_each_other(rate: float, samples: int) -> None:
    noise = np.random.default_rng(0).normal(size=(2, 12, samples))
    for result in detect_r_peaks(noise, rate, "regular"):
        np.testing.assert_allclose(result / rate, 0.48 + 0.96 * np.arange(10))
    signal = noise[:1] if rate == 100.0 else noise[:1, :, ::5]
    beats, mask, _ = cut_beats(signal, np.array(detect_r_peaks(signal, 100.0, "regular")))
    np.testing.assert_array_equal(beats[0, :, mask[0]].transpose(1, 0, 2).reshape(12, 960), signal[0, :, :960])
