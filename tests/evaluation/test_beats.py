"""Scores of found beats against marked ones."""

from __future__ import annotations

import numpy as np

from clear_hug_hf.evaluation.beats import match_beats


def test_when_beats_are_near_marks_then_each_is_paired_once() -> None:
    pairs, extra, missed, errors = match_beats(np.array([95, 110, 305, 400]), np.array([100, 200, 300, 390]), 20)
    assert (pairs, extra, missed) == (3, 1, 1)
    np.testing.assert_array_equal(errors, [-5, 5, 10])


def test_when_beats_lie_outside_the_marks_then_they_do_not_count() -> None:
    assert match_beats(np.array([10, 95, 205, 300]), np.array([100, 200]), 20)[:3] == (2, 0, 0)


def test_when_a_beat_could_take_either_mark_then_no_pair_is_lost() -> None:
    assert match_beats(np.array([110, 125]), np.array([100, 118]), 20)[:3] == (2, 0, 0)
    assert match_beats(np.array([90, 109]), np.array([108, 120]), 20)[:3] == (2, 0, 0)


def test_when_nothing_is_found_or_marked_then_the_counts_are_zero() -> None:
    assert match_beats(np.empty(0), np.array([1, 2]), 5)[:3] == (0, 0, 2)
    assert match_beats(np.array([1, 2]), np.empty(0), 5)[:3] == (0, 0, 0)
