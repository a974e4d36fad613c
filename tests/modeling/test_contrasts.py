"""Contrasts against numbers by hand and plain loops, their identities, and indicators of collapse."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from clear_hug_hf.modeling.contrasts import (
    CONTRASTS,
    Mlp,
    effective_rank,
    info_nce,
    negative_cosine,
    nt_xent,
    relative_std,
)


def _vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _loop(first: torch.Tensor, second: torch.Tensor, temperature: float, same: torch.Tensor, role: str) -> float:
    """NT-Xent as its paper states it: over all 2 B vectors, one at a time."""
    vectors = F.normalize(torch.cat((first, second)), dim=1).tolist()
    count, total = len(first), 0.0
    for row, query in enumerate(vectors):
        weights = {
            other: math.exp(sum(a * b for a, b in zip(query, key, strict=True)) / temperature)
            for other, key in enumerate(vectors)
            if other != row
        }
        partner = (row + count) % (2 * count)
        alike = [other for other in weights if other != partner and same[row % count, other % count]]
        if role == "excluded":
            weights = {other: weight for other, weight in weights.items() if other not in alike}
        positives = [partner, *alike] if role == "positive" else [partner]
        probabilities = [weights[other] / sum(weights.values()) for other in positives]
        total -= sum(map(math.log, probabilities)) / len(probabilities)
    return total / len(vectors)


@pytest.mark.parametrize("role", ["negative", "excluded", "positive"])
def test_when_views_are_contrasted_with_nt_xent_then_it_is_that_of_a_plain_loop(role: str) -> None:
    first, second = _vectors(5, 3), _vectors(5, 3, seed=1)
    groups = torch.tensor([4, 7, 4, 1, 4])
    same = groups[:, None] == groups
    settings = {"excluded": {"excluded": same}, "positive": {"positives": same}}.get(role, {})
    both = nt_xent(first, second, first, 0.3, **settings) + nt_xent(second, first, second, 0.3, **settings)
    assert both.item() / 2 == pytest.approx(_loop(first, second, 0.3, same, role), rel=1e-5)


def test_when_there_are_two_recordings_then_contrasts_are_the_numbers_by_hand() -> None:
    queries, keys = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [4.0, 0.0]])
    e = math.e
    # Cosines with the keys are 1 and 1, 0 and 0; those with the other query are 0.
    assert info_nce(queries, keys, temperature=1.0).item() == pytest.approx(math.log(2))
    assert negative_cosine(queries, keys).item() == pytest.approx(-0.5)
    expected = (math.log((2 * e + 1) / e) + math.log(3)) / 2
    assert nt_xent(queries, keys, queries, temperature=1.0).item() == pytest.approx(expected)
    assert info_nce(queries, keys, temperature=0.5).item() == pytest.approx(math.log(2))
    assert info_nce(queries, keys.flip(1), temperature=0.5).item() == pytest.approx(math.log(2))


def test_when_all_pairs_are_perfect_then_only_the_negatives_remain_in_nt_xent() -> None:
    count, temperature = 4, 0.2
    views = torch.eye(count)
    expected = math.log(1 + 2 * (count - 1) * math.exp(-1 / temperature))
    assert nt_xent(views, views, views, temperature).item() == pytest.approx(expected, rel=1e-4)


def test_when_vectors_have_unit_length_then_byols_distance_is_two_plus_twice_the_negative_cosine() -> None:
    queries, keys = _vectors(6, 4), _vectors(6, 4, seed=1)
    distance = (F.normalize(queries, dim=1) - F.normalize(keys, dim=1)).square().sum(dim=1).mean()
    torch.testing.assert_close(distance, 2 + 2 * negative_cosine(queries, keys))


@pytest.mark.parametrize("name", list(CONTRASTS))
def test_when_a_process_has_some_of_the_recordings_then_their_mean_is_that_of_all(name: str) -> None:
    queries, keys, own = (_vectors(6, 4, seed=seed) for seed in range(3))
    groups = torch.tensor([0, 1, 0, 2, 1, 0])
    same = groups[:, None] == groups
    contrast = CONTRASTS[name]
    whole = contrast(queries, keys, own, 0.2, positives=same)
    parts = [contrast(queries[at : at + 3], keys, own, 0.2, at, positives=same[at : at + 3]) for at in (0, 3)]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)


def test_when_vectors_collapse_then_the_indicators_show_it() -> None:
    vectors = _vectors(200, 8)
    assert relative_std(vectors - vectors.mean(dim=0)).item() == pytest.approx(1)
    assert relative_std(1e-3 * vectors + 1).item() == pytest.approx(1e-3, rel=0.1)
    assert relative_std(torch.ones(5, 3)) == effective_rank(torch.ones(5, 3)) == 0
    assert effective_rank(vectors).item() == pytest.approx(8, rel=0.1)
    line = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    for scale in (1.0, 1e-12):
        assert effective_rank(scale * line).item() == pytest.approx(1, abs=1e-4)
    wide = _vectors(6, 50)
    torch.testing.assert_close(effective_rank(wide), effective_rank(wide.repeat(20, 1)))


def test_when_an_mlp_has_norms_then_they_follow_its_layers() -> None:
    mlp = Mlp(4, [8, 6, 5], ["batch", "layer", "batch_without_scale"])
    assert mlp(_vectors(7, 4)).shape == (7, 5)
    names = {name for name, _ in mlp.named_parameters()}
    assert names == {f"linears.{i}.weight" for i in range(3)} | {
        f"norms.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")
    }
    assert Mlp(4, [3], ["none"]).linears[0].bias is not None
    output = mlp(_vectors(7, 4))
    torch.testing.assert_close(output.mean(dim=0), torch.zeros(5), atol=1e-5, rtol=0)
