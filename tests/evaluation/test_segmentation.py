"""Scores of found waves against marked ones."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from clear_hug_hf.evaluation.metrics import bootstrap_interval
from clear_hug_hf.evaluation.segmentation import (
    UNKNOWN,
    WAVES,
    match_waves,
    segmentation_samples,
    wave_intervals,
    weighted_median,
)
from clear_hug_hf.processing import InputError


P, QRS, T = 1, 2, 3
RATE = 250.0


def _painted(length: int, *waves: tuple[int, int, int], background: int = 0) -> np.ndarray:
    """Classes of a lead with waves from a first to a last sample."""
    classes = np.full(length, background)
    for first, last, wave in waves:
        classes[first : last + 1] = wave
    return classes


def _beats(num_recordings: int, num_leads: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Marks of regular beats whose ends are unknown, and a guess that is up to three samples off at every edge."""
    rng = np.random.default_rng(seed)
    marked = np.full((num_recordings, num_leads, 1250), UNKNOWN)
    guess = np.zeros_like(marked)
    for lead, found in zip(marked.reshape(-1, 1250), guess.reshape(-1, 1250), strict=True):
        lead[250:1000] = 0
        for start in range(250, 1000, 250):
            for offset, length, wave in ((0, 25, P), (40, 25, QRS), (100, 50, T)):
                first, last = start + offset, start + offset + length - 1
                lead[first : last + 1] = wave
                before, after = rng.integers(-3, 4, 2)
                found[first + before : last + after + 1] = wave
    return marked, guess


@pytest.mark.parametrize("wave", [0, P, QRS, T])
def test_when_intervals_are_painted_again_then_they_give_the_same_classes(wave: int) -> None:
    rng = np.random.default_rng(wave)
    classes = rng.integers(0, 4, 500).repeat(rng.integers(1, 6, 500))
    waves = [(first, last, wave) for first, last in wave_intervals(classes, wave)]
    again = _painted(len(classes), *waves, background=UNKNOWN)
    np.testing.assert_array_equal(again == wave, classes == wave)


def test_when_waves_are_interrupted_or_short_then_they_are_joined_first_and_left_out_after() -> None:
    classes = _painted(100, (10, 14, T), (17, 20, T), (40, 42, T), (60, 60, T), (63, 65, T))
    assert wave_intervals(classes, T).tolist() == [[10, 14], [17, 20], [40, 42], [60, 60], [63, 65]]
    assert wave_intervals(classes, T, shortest=5).tolist() == [[10, 20], [60, 65]]
    assert wave_intervals(classes, QRS, shortest=5).shape == (0, 2)


def test_when_waves_overlap_then_each_is_paired_once_and_with_the_one_it_shares_most_with() -> None:
    marked = _painted(100, (10, 29, T), (40, 49, T), (70, 79, T))
    # The first is found in two pieces, the second and nothing else by a wave that also touches the first.
    found = _painted(100, (8, 12, T), (15, 27, T), (29, 51, T), (90, 95, T))
    match = match_waves(marked, found, T)
    np.testing.assert_array_equal(match.onset_errors, [15 - 10, 29 - 40])
    np.testing.assert_array_equal(match.offset_errors, [27 - 29, 51 - 49])
    assert (match.missed, match.extra) == (1, 2)
    assert match_waves(marked, np.zeros(100, dtype=int), T)[2:] == (3, 0)


def test_when_a_wave_reaches_into_the_unknown_then_its_whole_length_is_compared() -> None:
    marked = np.concatenate([np.full(50, UNKNOWN), _painted(50, (0, 19, QRS))])
    match = match_waves(marked, _painted(100, (45, 69, QRS)), QRS)
    assert (match.onset_errors.tolist(), match.offset_errors.tolist()) == ([-5], [0])


def test_when_a_wave_without_a_partner_is_mostly_unknown_then_it_is_not_held_against_the_model() -> None:
    marked = np.concatenate([np.full(50, UNKNOWN), np.zeros(50, dtype=int)])
    assert match_waves(marked, _painted(100, (10, 30, T)), T).extra == 0
    assert match_waves(marked, _painted(100, (30, 55, T)), T).extra == 0
    assert match_waves(marked, _painted(100, (45, 70, T)), T).extra == 1


@pytest.mark.parametrize("seed", range(3))
def test_when_unknown_samples_are_predicted_otherwise_then_no_score_changes(seed: int) -> None:
    marked, guess = _beats(4, 2, seed)
    rng = np.random.default_rng(seed)
    other = guess.copy()
    # Not at the border: a wave that reaches across it is one wave.
    other[..., :200] = rng.integers(0, 4, (4, 2, 20)).repeat(10, axis=-1)
    other[..., 1100:] = rng.integers(0, 4, (4, 2, 15)).repeat(10, axis=-1)
    first = segmentation_samples(marked, guess, RATE, num_samples=20)
    second = segmentation_samples(marked, other, RATE, num_samples=20)
    assert first.keys() == second.keys()
    for key, samples in first.items():
        np.testing.assert_array_equal(samples, second[key], err_msg=str(key))


def test_when_samples_are_scored_then_f1_is_that_of_all_known_samples_together() -> None:
    rng = np.random.default_rng(0)
    marked, guess = rng.integers(0, 4, (5, 3, 400)), rng.integers(0, 4, (5, 3, 400))
    marked[rng.random(marked.shape) < 0.3] = UNKNOWN
    samples = segmentation_samples(marked, guess, RATE, num_samples=0)
    known = marked != UNKNOWN
    expected = f1_score(marked[known], guess[known], average=None)
    np.testing.assert_allclose([samples["f1", name][0] for name in WAVES], expected)
    assert samples["f1", "mean"][0] == pytest.approx(expected[1:].mean())


def test_when_the_marks_are_predicted_then_nothing_is_missing_and_nothing_off() -> None:
    marked, _ = _beats(3, 2, 0)
    samples = segmentation_samples(marked, np.where(marked == UNKNOWN, 0, marked), RATE, num_samples=10)
    for (score, wave), values in samples.items():
        expected = 1.0 if score in ("f1", "sensitivity", "ppv") else 0.0
        np.testing.assert_array_equal(values, expected, err_msg=f"{score} {wave}")


@pytest.mark.parametrize("shift", [-5, 5])
def test_when_all_waves_are_found_late_or_early_then_the_errors_are_in_milliseconds_and_signed(shift: int) -> None:
    marked, _ = _beats(3, 2, 0)
    found = np.roll(np.where(marked == UNKNOWN, 0, marked), shift, axis=-1)
    samples = segmentation_samples(marked, found, RATE, num_samples=10)
    for wave in WAVES[1:]:
        for edge in ("onset", "offset"):
            np.testing.assert_allclose(samples[f"{edge}_mean", wave], 4.0 * shift)
            np.testing.assert_allclose(samples[f"{edge}_sd", wave], 0.0, atol=1e-6)
            np.testing.assert_allclose(samples[f"{edge}_median", wave], 20.0)


def test_when_a_patient_is_drawn_twice_then_the_scores_are_those_of_the_recordings_written_twice() -> None:
    marked, guess = _beats(6, 2, 1)
    patients = ["a", "a", "b", "c", "c", "c"]
    samples = segmentation_samples(marked, guess, RATE, patients, num_samples=200, seed=3)
    distinct = [["a"] * 3, ["b"] * 3, ["c"] * 3, *[[x, x, y] for x in "abc" for y in "abc" if x != y], list("abc")]
    rows = [[place for one in drawn for place, name in enumerate(patients) if name == one] for drawn in distinct]
    written = [segmentation_samples(marked[row], guess[row], RATE, num_samples=0) for row in rows]
    for key, values in samples.items():
        possible = np.array([one[key][0] for one in written])
        gaps = np.abs(values[1:, None] - possible[None, :])
        assert gaps.min(axis=1).max() < 1e-9, key
        assert len(set(gaps.argmin(axis=1))) > 1 or np.ptp(possible) == 0, key


def test_when_two_methods_are_compared_then_what_both_share_cancels() -> None:
    marked, guess = _beats(8, 2, 2)
    worse = guess.copy()
    worse[:, :, 350:360] = 0  # Ten samples of one T wave, in every recording.
    better, poorer = (segmentation_samples(marked, one, RATE, num_samples=200) for one in (guess, worse))
    difference = bootstrap_interval(better["f1", "T"] - poorer["f1", "T"])
    alone = bootstrap_interval(better["f1", "T"])
    assert difference["low"] is not None
    assert alone["low"] is not None
    assert difference["low"] > 0
    assert difference["high"] - difference["low"] < alone["high"] - alone["low"]


def test_when_there_is_no_wave_of_a_kind_then_its_scores_do_not_exist() -> None:
    marked = np.zeros((2, 1, 100), dtype=int)
    marked[:, :, 40:60] = QRS
    samples = segmentation_samples(marked, marked, RATE, num_samples=5)
    for key in (("f1", "P"), ("sensitivity", "P"), ("ppv", "T"), ("onset_mean", "P"), ("offset_median", "T")):
        assert np.isnan(samples[key]).all(), key
    assert samples["f1", "QRS"][0] == 1.0


@pytest.mark.parametrize("num_values", [0, 1, 7, 8, 300])
def test_when_medians_are_weighted_then_they_are_those_of_repeated_values(num_values: int) -> None:
    rng = np.random.default_rng(num_values)
    values, groups = rng.integers(0, 20, num_values) * 4.0, rng.integers(0, 10, num_values)
    weights = np.concatenate([rng.integers(0, 4, (120, 10)), np.zeros((1, 10), dtype=int)])
    medians = weighted_median(values, weights, groups)
    for row, median in zip(weights, medians, strict=True):
        repeated = np.repeat(values, row[groups])
        np.testing.assert_equal(median, np.median(repeated) if len(repeated) else np.nan)


def test_when_there_is_nothing_to_score_then_the_error_explains_why() -> None:
    marked, guess = _beats(2, 2, 0)
    with pytest.raises(InputError, match="do not match"):
        segmentation_samples(marked, guess[:, :1], RATE)
    with pytest.raises(InputError, match="1 patients for 2"):
        segmentation_samples(marked, guess, RATE, ["a"])
    with pytest.raises(InputError, match="sampling rate is 0"):
        segmentation_samples(marked, guess, 0)
    with pytest.raises(InputError, match="no sample is annotated"):
        segmentation_samples(np.full_like(marked, UNKNOWN), guess, RATE)
    with pytest.raises(InputError, match="a predicted class is invalid"):
        segmentation_samples(marked, np.where(guess == T, 4, guess), RATE)
    with pytest.raises(InputError, match="a marked class is invalid"):
        segmentation_samples(np.where(marked == T, 7, marked), guess, RATE)
