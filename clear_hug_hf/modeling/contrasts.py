"""
Contrasts between two views of the same recordings, and what their networks share: heads, the gathering of vectors over
processes, and indicators of collapse.

Shapes: `A` queries, those of this process; `B` keys, those of all processes; `E` size of the vectors. Query `i` and
key `first + i` are of the same recording.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import distributed, nn
from torch.nn import functional as F


MlpNorm = Literal["none", "batch", "batch_without_scale", "layer"]
"""Normalization after a layer of an [`Mlp`]; `"batch_without_scale"` learns neither scale nor shift."""
_MLP_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda size: nn.Identity(),
    "batch": nn.BatchNorm1d,
    "batch_without_scale": lambda size: nn.BatchNorm1d(size, affine=False),
    "layer": nn.LayerNorm,
}


class Mlp(nn.Module):
    """
    Projector or predictor: linear layers, each followed by its normalization and, except for the last one, by ReLU.

    Args:
        input_size (`int`):
            Size of the input vectors.
        sizes (`Sequence[int]`):
            Output size of each layer.
        norms (`Sequence[str]`):
            Normalization of each layer, see [`MlpNorm`]. A layer has a bias only without normalization.
    """

    def __init__(self, input_size: int, sizes: Sequence[int], norms: Sequence[str]):
        super().__init__()
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=norm == "none")
            for before, after, norm in zip([input_size, *sizes], sizes, norms, strict=False)
        )
        self.norms = nn.ModuleList(_MLP_NORMS[norm](size) for size, norm in zip(sizes, norms, strict=True))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for index, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            states = norm(linear(states if index == 0 else F.relu(states)))
        return states


# --------------------------------------------------------------------------------------------------------- contrasts


def nt_xent(
    queries: torch.Tensor,
    keys: torch.Tensor,
    own_keys: torch.Tensor,
    temperature: float = 0.1,
    first: int = 0,
    positives: torch.Tensor | None = None,
    excluded: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Normalized temperature-scaled cross-entropy (SimCLR, Chen et al., ICML 2020, Equation 1): each query has to find
    the other view of its recording among all other vectors of both views, `2 B - 2` of which are negatives.

    Args:
        queries (`torch.Tensor` of shape `(A, E)`):
            Vectors of one view.
        keys (`torch.Tensor` of shape `(B, E)`):
            Vectors of the other view.
        own_keys (`torch.Tensor` of shape `(B, E)`):
            Vectors of the queries' own view, of which each query's own is left out.
        temperature (`float`, *optional*, defaults to 0.1):
            Divisor of the cosine similarities.
        first (`int`, *optional*, defaults to 0):
            Row of the keys that belongs to the first query.
        positives (`torch.BoolTensor` of shape `(A, B)`, *optional*):
            Recordings that are positives of a query besides its own. The logarithms of the probabilities of several
            positives are averaged (Khosla et al., NeurIPS 2020, Equation 2).
        excluded (`torch.BoolTensor` of shape `(A, B)`, *optional*):
            Recordings that are neither positives nor negatives of a query. Its own never is.

    Returns:
        `torch.FloatTensor` of shape `()`: Mean over the queries.
    """
    scores = cosine_similarities(queries, torch.cat((keys, own_keys))) / temperature
    own = _own_keys(queries, keys, first)
    none = torch.zeros_like(own)
    positives = none if positives is None else positives
    excluded = none if excluded is None else excluded
    return _cross_entropy(
        scores, torch.cat((positives | own, positives & ~own), dim=1), torch.cat((excluded & ~own, excluded | own), 1)
    )


def info_nce(
    queries: torch.Tensor,
    keys: torch.Tensor,
    own_keys: torch.Tensor | None = None,
    temperature: float = 0.1,
    first: int = 0,
    positives: torch.Tensor | None = None,
    excluded: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    InfoNCE (van den Oord et al., 2018, arXiv 1807.03748; in this form MoCo v3, Chen et al., ICCV 2021, Equation 1):
    each query has to find its recording among the keys of the other view. Arguments as for [`nt_xent`]; `own_keys` is
    not used.
    """
    scores = cosine_similarities(queries, keys) / temperature
    own = _own_keys(queries, keys, first)
    ignored = torch.zeros_like(own) if excluded is None else excluded & ~own
    return _cross_entropy(scores, own if positives is None else positives | own, ignored)


def negative_cosine(
    queries: torch.Tensor,
    keys: torch.Tensor,
    own_keys: torch.Tensor | None = None,
    temperature: float = 1.0,
    first: int = 0,
    positives: torch.Tensor | None = None,
    excluded: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Negative cosine similarity of query and key of the same recording (SimSiam, Chen and He, CVPR 2021, Equation 1).
    The squared distance of the unit vectors, which BYOL (Grill et al., NeurIPS 2020, Equation 2) minimizes, is 2 plus
    twice this. Without negatives, only `queries`, `keys` and `first` of the arguments of [`nt_xent`] are used.
    """
    with torch.autocast(queries.device.type, enabled=False):
        return -F.cosine_similarity(queries.float(), keys[first : first + len(queries)].float(), dim=1).mean()


CONTRASTS: dict[str, Callable[..., torch.Tensor]] = {
    "nt_xent": nt_xent,
    "info_nce": info_nce,
    "cosine": negative_cosine,
}
"""Contrasts by name, with the same arguments."""


def cosine_similarities(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Cosine similarities `(A, B)` of vectors `(A, E)` and `(B, E)`, in float32 also under autocast."""
    with torch.autocast(queries.device.type, enabled=False):
        return F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T


def _own_keys(queries: torch.Tensor, keys: torch.Tensor, first: int) -> torch.Tensor:
    """Mask `(A, B)` of the key that belongs to each query."""
    rows = torch.arange(first, first + len(queries), device=queries.device)
    return rows[:, None] == torch.arange(len(keys), device=queries.device)


def _cross_entropy(scores: torch.Tensor, positives: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the cross-entropy, averaged over the positives of a row."""
    log_probabilities = scores.masked_fill(ignored, float("-inf")).log_softmax(dim=1)
    return -(log_probabilities.masked_fill(~positives, 0.0).sum(dim=1) / positives.sum(dim=1)).mean()


# --------------------------------------------------------------------------------------------------------- processes


class _Gather(torch.autograd.Function):
    """
    Concatenation of the rows of all processes, equally many of each. The gradient of a row is the sum over the
    processes, whose losses all depend on it.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.contiguous()
        gathered = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(gathered, rows)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def gather_rows(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
    """
    Gather the rows of all processes, with gradient: a loss that is averaged over this process's rows and weighted by
    their number then has, over all processes, the gradient that one process would compute for all rows.

    Args:
        rows (`torch.Tensor` of shape `(A, ...)`):
            Rows of this process; every process has equally many.

    Returns:
        `tuple[torch.Tensor, int]`: Rows of all processes `(B, ...)`, and the index of this process's first one.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return rows, 0
    return _Gather.apply(rows), distributed.get_rank() * len(rows)


# ---------------------------------------------------------------------------------------------------------- collapse


@torch.no_grad()
def relative_std(vectors: torch.Tensor) -> torch.Tensor:
    """
    Standard deviation of vectors `(B, D)` over the batch relative to their size: the root mean square distance from
    their mean, divided by their root mean square norm. It is 0 if all vectors are equal and 1 if their mean is 0.
    """
    vectors = vectors.float()
    spread = (vectors - vectors.mean(dim=0)).square().mean()
    return (spread / vectors.square().mean().clamp(min=1e-12)).sqrt()


@torch.no_grad()
def effective_rank(vectors: torch.Tensor) -> torch.Tensor:
    """
    Effective number of dimensions that vectors `(B, D)` vary in: the participation ratio of the eigenvalues of their
    covariance, `sum(e)^2 / sum(e^2)`. It is 1 for points on a line, at most `min(B - 1, D)`, and 0 for equal vectors.
    The effective rank of Roy and Vetterli (EUSIPCO 2007) is based on the entropy of singular values instead; this one
    needs no decomposition, for which a GPU would be waited for.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        centered = vectors.float() - vectors.float().mean(dim=0)
        # Scaled, since the squares of squares of small numbers would underflow.
        centered = centered / centered.abs().amax().clamp(min=1e-30)
        gram = centered @ centered.T if len(centered) < centered.shape[1] else centered.T @ centered
        return gram.diagonal().sum().square() / gram.square().sum().clamp(min=1e-12)


__all__ = [
    "CONTRASTS",
    "Mlp",
    "MlpNorm",
    "cosine_similarities",
    "effective_rank",
    "gather_rows",
    "info_nce",
    "negative_cosine",
    "nt_xent",
    "relative_std",
]
