"""Fractions are stratified and by patient, nearest neighbors are what a plain loop finds, tables follow the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.optimize import minimize

from clear_hug_hf.data.label_sets import LABEL_SETS
from clear_hug_hf.evaluation.metrics import macro_auroc
from clear_hug_hf.evaluation.protocol import (
    NUM_NEIGHBORS,
    PAPER,
    PENALTIES,
    STRENGTHS,
    holdout_split,
    nearest_neighbor_scores,
    protocol_table,
    published_for,
    random_subset,
    select_logistic,
    select_nearest_neighbors,
    select_ridge,
    stratified_subset,
)
from clear_hug_hf.processing import InputError


# Some labels come with others, and the rarest has one recording in a hundred.
SKEWED = [0.55, 0.25, 0.1, 0.05, 0.02, 0.01]


def _skewed(num_recordings: int = 3000, seed: int = 0) -> tuple[np.ndarray, list[str | None]]:
    """Skewed multi-labels, some recordings without any, and patients with up to five recordings or none named."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_recordings, len(SKEWED))) < SKEWED).astype(float)
    labels[:, 1] *= labels[:, 0]
    labels[rng.random(num_recordings) < 0.2] = 0.0
    patients: list[str | None] = []
    while len(patients) < num_recordings:
        number = int(rng.integers(1, 6))
        patients += [None if number == 5 else f"p{len(patients)}"] * number
    return labels, patients[:num_recordings]


def _assert_whole_patients(chosen: np.ndarray, patients: list[str | None]) -> None:
    inside = {patients[index] for index in chosen} - {None}
    outside = {patient for index, patient in enumerate(patients) if index not in set(chosen.tolist())} - {None}
    assert not inside & outside


def test_when_shares_are_drawn_plainly_then_they_are_nested_and_recordings_are_whole() -> None:
    # Two windows of each recording.
    records = [f"r{index // 2}" for index in range(2000)]
    previous: set[str] = set()
    for fraction in (0.0001, 0.01, 0.1, 0.5, 1.0):
        rows = random_subset(records, fraction, seed=3)
        drawn = [records[row] for row in rows]
        assert len(drawn) == 2 * len({*drawn}) == 2 * max(1, int(1000 * fraction))
        assert previous <= {*drawn}
        previous = {*drawn}
    first, again, other = (random_subset(records, 0.1, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_when_shares_are_drawn_plainly_then_rare_labels_may_be_missed_that_a_stratified_draw_has() -> None:
    labels, patients = _skewed()
    records = [str(index) for index in range(len(labels))]
    rarest = int(labels.sum(axis=0).argmin())
    plain = [labels[random_subset(records, 0.1, seed), rarest].sum() for seed in range(40)]
    stratified = [labels[stratified_subset(labels, patients, 0.1, seed), rarest].sum() for seed in range(40)]
    assert min(plain) == 0 < min(stratified)
    assert np.mean(plain) == pytest.approx(0.1 * labels[:, rarest].sum(), rel=0.2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_when_a_fraction_is_drawn_then_patients_are_whole_and_each_label_is_as_frequent_as_in_all(
    fraction: float, seed: int
) -> None:
    labels, patients = _skewed(seed=seed)
    chosen = stratified_subset(labels, patients, fraction, seed)
    _assert_whole_patients(chosen, patients)
    assert (np.diff(chosen) > 0).all()
    # The last patient may bring up to four recordings.
    assert round(fraction * 3000) <= len(chosen) < round(fraction * 3000) + 4
    # Far nearer than chance: a random draw of 10 % misses the common labels by about 12, this one by a patient or two.
    with_unlabeled = np.column_stack([labels, labels.sum(axis=1) == 0])
    found = with_unlabeled[chosen].sum(axis=0)
    assert np.abs(found - fraction * with_unlabeled.sum(axis=0)).max() <= 6
    assert (found > 0).all() or fraction < 0.1


def test_when_fractions_share_a_seed_then_the_smaller_is_part_of_the_larger() -> None:
    labels, patients = _skewed(800)
    previous: set[int] = set()
    for fraction in (0.001, 0.01, 0.05, 0.1, 0.5, 0.99, 1.0):
        chosen = set(stratified_subset(labels, patients, fraction, seed=3).tolist())
        assert previous <= chosen
        previous = chosen
    assert previous == set(range(800))
    first, again, other = (stratified_subset(labels, patients, 0.1, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_when_labels_are_unknown_then_they_count_as_absent() -> None:
    labels, patients = _skewed(400)
    unknown = np.where(labels == 0, np.nan, labels)
    np.testing.assert_array_equal(
        stratified_subset(unknown, patients, 0.2, seed=1), stratified_subset(labels, patients, 0.2, seed=1)
    )


def test_when_there_are_no_labels_or_few_recordings_then_at_least_one_is_drawn() -> None:
    assert len(stratified_subset(np.zeros((7, 0)), [None] * 7, 0.4)) == 3
    assert len(stratified_subset(np.eye(3), list("abc"), 0.01)) == 1
    np.testing.assert_array_equal(stratified_subset(np.zeros((4, 2)), ["a"] * 4, 0.01), range(4))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_when_a_fraction_is_no_share_then_it_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match="it must be above 0 and at most 1"):
        stratified_subset(np.eye(3), list("abc"), fraction)
    with pytest.raises(InputError, match="it must be above 0 and at most 1"):
        random_subset(list("abc"), fraction)


def test_when_there_is_nothing_to_draw_from_then_it_is_refused() -> None:
    with pytest.raises(InputError, match="no recordings to draw from"):
        stratified_subset(np.zeros((0, 2)), [], 0.5)


def test_when_recordings_are_split_off_then_parts_share_no_patient_and_are_all() -> None:
    labels, patients = _skewed(600)
    first, second = holdout_split(labels, patients, 0.1, seed=2)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(600))
    _assert_whole_patients(second, patients)
    assert 60 <= len(second) < 64
    with pytest.raises(InputError, match="leaves none"):
        holdout_split(labels[:5], ["a"] * 5)


@pytest.mark.parametrize("num_neighbors", [1, 4, 100])
def test_when_neighbours_are_searched_then_scores_are_those_of_a_plain_loop(num_neighbors: int) -> None:
    rng = np.random.default_rng(0)
    features, queries = rng.normal(2.0, [1, 5, 0.1, 1], (30, 4)), rng.normal(2.0, [1, 5, 0.1, 1], (9, 4))
    labels = (rng.random((30, 3)) < 0.4).astype(float)
    labels[rng.random((30, 3)) < 0.3] = np.nan
    found = nearest_neighbor_scores(features, labels, queries, num_neighbors)

    plain = np.zeros((9, 3))
    scaled, asked = ((one - features.mean(axis=0)) / features.std(axis=0) for one in (features, queries))
    for row, query in enumerate(asked):
        cosines = np.array([one @ query / np.sqrt((one @ one) * (query @ query)) for one in scaled])
        nearest = np.argsort(-cosines)[:num_neighbors]
        for label in range(3):
            votes = [((1 + cosines[index]) / 2, labels[index, label]) for index in nearest]
            known = [(weight, value) for weight, value in votes if not np.isnan(value)]
            if known:
                plain[row, label] = sum(weight * value for weight, value in known) / sum(weight for weight, _ in known)
    np.testing.assert_allclose(found, plain, atol=1e-5)
    assert found.min() >= 0
    assert found.max() <= 1


def test_when_a_feature_is_constant_or_all_agree_then_scores_stay_probabilities() -> None:
    rng = np.random.default_rng(1)
    features = np.concatenate([rng.normal(size=(20, 3)), np.full((20, 1), 7.0)], axis=1).astype(np.float32)
    scores = nearest_neighbor_scores(features, np.tile([1.0, 0.0], (20, 1)), features, 7)
    np.testing.assert_allclose(scores, np.tile([1.0, 0.0], (20, 1)), atol=1e-6)
    assert scores.max() <= 1


def test_when_the_number_of_neighbours_is_chosen_then_it_is_the_best_on_validation() -> None:
    rng = np.random.default_rng(2)
    labels = [(rng.random((count, 2)) < 0.5).astype(float) for count in (60, 40, 30)]
    features = [one @ rng.normal(size=(2, 5)) + rng.normal(0, 2.0, (len(one), 5)) for one in labels]
    count, scores = select_nearest_neighbors(features[0], labels[0], features[1], labels[1], features[2])
    usable = [one for one in NUM_NEIGHBORS if one <= 60]
    by_count = {
        one: macro_auroc(labels[1], nearest_neighbor_scores(features[0], labels[0], features[1], one))
        for one in usable
    }
    assert len(set(by_count.values())) > 1
    assert by_count[count] == max(by_count.values())
    np.testing.assert_array_equal(scores, nearest_neighbor_scores(features[0], labels[0], features[2], count))
    # The tested recordings had no influence: with other validation labels another number is chosen.
    numbers = set()
    for seed in range(10):
        shuffled = np.random.default_rng(seed).permutation(labels[1])
        numbers.add(select_nearest_neighbors(features[0], labels[0], features[1], shuffled, features[2])[0])
    assert len(numbers) > 1


def test_when_there_is_one_training_recording_then_it_is_everyones_neighbour() -> None:
    count, scores = select_nearest_neighbors(
        np.ones((1, 3)), np.array([[1.0]]), np.eye(3), np.eye(3)[:, :1], np.eye(3)
    )
    assert count == 1
    np.testing.assert_allclose(scores, 1.0)


def _linear_problem(num_features: int = 6) -> list[np.ndarray]:
    """Features and labels of training, validation and other recordings, of which one label is partly unknown."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(2, num_features))
    labels = [(rng.random((count, 2)) < 0.4).astype(float) for count in (50, 30, 20)]
    features = [one @ directions + rng.normal(0, 1.5, (len(one), num_features)) for one in labels]
    labels[0][:7, 1] = np.nan
    return [features[0], labels[0], features[1], labels[1], features[2]]


@pytest.mark.parametrize("num_features", [6, 80])  # fewer and more than recordings
@pytest.mark.parametrize("select", [select_logistic, select_ridge])
def test_when_a_linear_model_is_fitted_then_its_scores_minimize_the_penalized_loss(
    select: Callable[..., tuple[float, np.ndarray, np.ndarray]], num_features: int
) -> None:
    problem = _linear_problem(num_features)
    strength, _, scores = select(*problem)
    inputs, others = ((part - problem[0].mean(axis=0)) / problem[0].std(axis=0) for part in (problem[0], problem[4]))
    for column, truth in enumerate(problem[1].T):
        known = ~np.isnan(truth)
        signs = 2 * truth[known] - 1

        def loss(weights: np.ndarray, inputs: np.ndarray = inputs[known], signs: np.ndarray = signs) -> float:
            outputs, penalty = inputs @ weights[1:] + weights[0], (weights[1:] ** 2).sum()
            if select is select_ridge:
                return ((outputs - signs) ** 2).sum() + strength * penalty
            return strength * np.logaddexp(0, -signs * outputs).sum() + penalty / 2

        best = minimize(loss, np.zeros(1 + num_features), options={"gtol": 1e-7}).x
        outputs = (1 + (select is select_ridge)) * (others @ best[1:] + best[0])
        np.testing.assert_allclose(scores[:, column], 1 / (1 + np.exp(-outputs)), atol=1e-4)


@pytest.mark.parametrize(("select", "candidates"), [(select_logistic, STRENGTHS), (select_ridge, PENALTIES)])
def test_when_the_penalty_is_chosen_then_it_is_the_best_on_validation(
    select: Callable[..., tuple[float, np.ndarray, np.ndarray]], candidates: Sequence[float]
) -> None:
    problem = _linear_problem()
    chosen, on_validation, _ = select(*problem)
    assert chosen in candidates
    assert macro_auroc(problem[3], on_validation) > 0.6
    values = set()
    for seed in range(10):
        shuffled = np.random.default_rng(seed).permutation(problem[3])
        values.add(select(*problem[:3], shuffled, problem[4])[0])
    assert len(values) > 1


@pytest.mark.parametrize("select", [select_logistic, select_ridge])
def test_when_a_class_or_a_feature_says_nothing_then_scores_stay_finite(
    select: Callable[..., tuple[float, np.ndarray, np.ndarray]],
) -> None:
    features, labels, validation, validation_labels, others = _linear_problem()
    features[:, 2], labels[:, 0] = 7.0, 0.0
    _, on_validation, scores = select(features, labels, validation, validation_labels, others)
    for part in (on_validation, scores):
        assert np.isfinite(part).all()
        assert len(set(part[:, 0].round(9))) == 1
    # What was constant in training has no influence.
    others[:, 2] += 100
    np.testing.assert_array_equal(select(features, labels, validation, validation_labels, others)[2], scores)
    single = select(features[:1], labels[-1:], validation, validation_labels, others)[2]
    assert np.isfinite(single).all()


@pytest.mark.parametrize("name", list(PAPER))
def test_when_a_task_is_the_papers_then_its_numbers_are_found(name: str) -> None:
    published = PAPER[name]
    sizes = dict(zip(("train", "validation", "test"), published.sizes, strict=True))
    names = LABEL_SETS[name].names
    assert published_for(list(names), sizes) is published
    assert published_for(names, {**sizes, "calibration": 3}) is published
    for split in sizes:
        assert published_for(names, {**sizes, split: sizes[split] + 1}) is None
        assert published_for(names, {one: size for one, size in sizes.items() if one != split}) is None
    assert published_for(names[::-1], sizes) is None
    assert published_for(names[:-1], sizes) is None
    assert published_for([*names, "other"], sizes) is None


# Means over the methods of the paper's table, which find a digit that was changed.
MEANS = {
    "ptbxl_sub": [61.7533, 71.2708, 78.3858],
    "ptbxl_super": [71.7975, 76.8733, 79.5958],
    "ptbxl_form": [53.0142, 62.8767, 72.0842],
    "ptbxl_rhythm": [54.6958, 74.2317, 80.2567],
    "cpsc9": [60.2192, 73.9733, 79.3883],
    "csn_published": [58.4175, 71.775, 78.4183],
}


def test_when_the_papers_table_is_read_then_each_method_has_each_task_in_its_order() -> None:
    methods = ["SimCLR", "BYOL", "MoCo v3", "SimSiam", "TS-TCC", "CLOCS", "ASTCL", "CRT", "ST-MEM", "HeartLang"]
    for published in PAPER.values():
        assert list(published.values) == [*methods, "CLEAR, mean + linear", "CLEAR-HUG"]
    for task, published in PAPER.items():
        assert np.mean(list(published.values.values()), axis=0).round(4).tolist() == MEANS[task]
    # As printed.
    assert PAPER["csn_published"].values["ST-MEM"][1:] == PAPER["ptbxl_super"].values["ST-MEM"][1:]


def _cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_when_results_are_laid_out_then_it_is_a_column_per_task_and_fraction() -> None:
    def row(method: str, task: str, fraction: float, *metric: float | None) -> dict:
        values = dict(zip(("value", "low", "high"), metric, strict=True)) if metric else None
        return {"method": method, "task": task, "fraction": fraction, "macro_auroc": values}

    rows = [
        row("ours, probe", "super", 1.0, 0.901, 0.8888, 0.9111),
        row("ours, probe", "own", 0.01, 0.75, None, None),
        row("other", "super", 0.1, float("nan"), None, None),
        row("other", "own", 1.0),
        row("other", "own", 0.01, 0.5, 0.4, 0.6),
    ]
    table = _cells(protocol_table(rows, {"super": PAPER["ptbxl_super"]}, [0.01, 0.1, 1.0]))
    assert table[0] == ["method", "super 1%", "super 10%", "super 100%", "own 1%", "own 10%", "own 100%"]
    assert table[1] == ["---", *["---:"] * 6]
    assert table[2] == ["ours, probe", "", "", "90.1 (88.9 to 91.1)", "75.0", "", ""]
    assert table[3] == ["other", "", "", "", "50.0 (40.0 to 60.0)", "", ""]
    assert table[4] == ["*SimCLR (paper)*", "63.41", "69.77", "73.53", "", "", ""]
    assert table[13] == ["*HeartLang (paper)*", "78.94", "85.59", "87.52", "", "", ""]
    assert table[15] == ["*CLEAR-HUG (paper)*", "79.61", "86.85", "90.24", "", "", ""]
    assert len(table) == 16
    assert {len(line) for line in table} == {7}


def test_when_no_task_was_published_then_the_table_has_no_rows_of_the_paper() -> None:
    rows = [{"method": "m", "task": "t", "fraction": 0.5, "macro_auroc": {"value": 0.5, "low": 0.25, "high": 0.75}}]
    assert _cells(protocol_table(rows, {}, [0.5])) == [
        ["method", "t 50%"],
        ["---", "---:"],
        ["m", "50.0 (25.0 to 75.0)"],
    ]
    elsewhere = _cells(protocol_table(rows, {"t": PAPER["cpsc9"]}, [0.5]))
    assert elsewhere[3:] == [[f"*{method} (paper)*", ""] for method in PAPER["cpsc9"].values]
