"""How the scores of several windows become those of their recording."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clear_hug_hf.inference.classifier_outputs import aggregate_windows, find_contradictions, model_aggregate


SCORES = np.array([[0.1, 0.9, 0.5], [0.3, 0.1, 0.7]], dtype=np.float32)


def _config(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(id2label={0: "AF", 1: "PVC", 2: "SR"}, **fields)


@pytest.mark.parametrize("fields", [{}, {"window_aggregation": None}, {"window_aggregation": {}}])
def test_when_a_config_states_nothing_then_windows_are_averaged(fields: dict[str, Any]) -> None:
    assert model_aggregate(_config(**fields)) == "mean"
    np.testing.assert_array_equal(aggregate_windows(SCORES, "mean"), SCORES.mean(axis=0))


def test_when_a_config_states_how_then_each_label_has_its_own_way() -> None:
    choices = model_aggregate(_config(window_aggregation={"PVC": "max", "SR": "mean"}))
    assert choices == ["mean", "max", "mean"]
    scores = aggregate_windows(SCORES, choices)
    np.testing.assert_array_equal(scores, [SCORES[:, 0].mean(), SCORES[:, 1].max(), SCORES[:, 2].mean()])
    assert scores.dtype == SCORES.dtype


def test_when_a_label_is_the_maximum_then_the_rate_of_its_window_counts() -> None:
    asked = []

    class Report:
        def contradiction(self, name: str, window: int | None) -> str:
            asked.append((name, window))
            return ""

    find_contradictions(Report(), ["AF", "PVC", "SR"], SCORES, ["mean", "max", "max"])
    assert {("AF", None), ("PVC", 0), ("SR", 1)} == set(asked[-3:])
