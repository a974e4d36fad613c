"""Scores of beat detectors against marked beats."""

from __future__ import annotations

import numpy as np


def match_beats(found: np.ndarray, marks: np.ndarray, tolerance: float) -> tuple[int, int, int, np.ndarray]:
    """
    Pair found beats with marked ones, each at most once, in the order of time.

    Only what lies between the first and the last mark counts (within the tolerance): whoever marks a recording leaves
    out beats that its ends cut.

    Args:
        found (`np.ndarray` of shape `(num_found,)`): Ascending places of the found beats, in any unit.
        marks (`np.ndarray` of shape `(num_marks,)`): Ascending places of the true beats, in the same unit.
        tolerance (`float`): Largest distance of a pair, in the same unit.

    Returns:
        `tuple[int, int, int, np.ndarray]`: Number of pairs (true positives), of found beats without a mark (false
        positives), of marks without a found beat (false negatives), and for each pair found minus marked, of shape
        `(num_pairs,)`. All zero without marks, since nothing lies between them.
    """
    found, marks = np.asarray(found), np.asarray(marks)
    if marks.size == 0:
        return 0, 0, 0, np.empty(0)
    found = found[(found >= marks[0] - tolerance) & (found <= marks[-1] + tolerance)]
    errors: list[float] = []
    mark = beat = 0
    # In one dimension with one tolerance, pairing the earliest two that fit is a largest possible pairing.
    while mark < marks.size and beat < found.size:
        error = float(found[beat]) - float(marks[mark])
        if abs(error) <= tolerance:
            errors.append(error)
            mark, beat = mark + 1, beat + 1
        elif error < 0:
            beat += 1
        else:
            mark += 1
    pairs = len(errors)
    return pairs, found.size - pairs, marks.size - pairs, np.array(errors)
