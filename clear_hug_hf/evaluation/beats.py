"""Score beat detectors against annotated beats."""

from __future__ import annotations

import numpy as np


def match_beats(detected: np.ndarray, annotated: np.ndarray, tolerance: float) -> tuple[int, int, int, np.ndarray]:
    """
    Match detected beats with annotated ones, each at most once, in temporal order.

    Detections before the first or after the last annotation (beyond the tolerance) are ignored, as annotators omit
    beats that are cut at the ends of a recording.

    Args:
        detected (`np.ndarray` of shape `(num_detected,)`): Ascending positions of detected beats, in any unit.
        annotated (`np.ndarray` of shape `(num_annotated,)`): Ascending positions of true beats, in the same unit.
        tolerance (`float`): Largest distance of a match, in the same unit.

    Returns:
        `tuple[int, int, int, np.ndarray]`: Number of true positives, false positives and false negatives, and the
        error of each match, detected minus annotated, of shape `(num_matches,)`. All zero without annotations.
    """
    detected, annotated = np.asarray(detected), np.asarray(annotated)
    if annotated.size == 0:
        return 0, 0, 0, np.empty(0)
    detected = detected[(detected >= annotated[0] - tolerance) & (detected <= annotated[-1] + tolerance)]
    errors: list[float] = []
    target = beat = 0
    # In one dimension, greedily matching the earliest pair within the tolerance gives a maximum matching.
    while target < annotated.size and beat < detected.size:
        error = float(detected[beat]) - float(annotated[target])
        if abs(error) <= tolerance:
            errors.append(error)
            target, beat = target + 1, beat + 1
        elif error < 0:
            beat += 1
        else:
            target += 1
    matches = len(errors)
    return matches, detected.size - matches, annotated.size - matches, np.array(errors)
