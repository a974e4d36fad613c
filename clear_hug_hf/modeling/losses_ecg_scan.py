"""
Losses of ECG-Scan: contrastive alignment of pages with signals and texts, and reconstruction of the leads.

Shapes: `B` pages, `L` leads (12), `T` samples, `E` dimension of the shared space.
"""

import torch
from torch.nn import functional as F


VOLUME_EPS = 1e-6
"""Added to the determinant of a Gram matrix, since the gradient of the square root is unbounded at 0."""


def gramian_volume(
    anchor: torch.Tensor, first: torch.Tensor, second: torch.Tensor, normalize: bool = False
) -> torch.Tensor:
    """
    Volume of the parallelepiped spanned by three unit vectors (GRAM, Cicchetti et al., 2024, arXiv 2412.11959), for
    every anchor and every pair: the square root of the determinant of their Gram matrix. It is 0 if they are coplanar
    and 1 if they are orthogonal.

    Negating a vector does not change the volume. It is the distance of the anchor from the plane of the pair times
    `sqrt(1 - c^2)`, where `c` is the cosine similarity of the pair: similar pairs have a small volume with any anchor.

    Args:
        anchor (`torch.Tensor` of shape `(B, E)`):
            Unit vectors.
        first, second (`torch.Tensor` of shape `(M, E)`):
            Unit vectors. Corresponding rows form a pair.
        normalize (`bool`, *optional*, defaults to `False`):
            Divide by the area spanned by the pair, which leaves the distance.

    Returns:
        `torch.FloatTensor` of shape `(B, M)`, float32.
    """
    with torch.autocast(anchor.device.type, enabled=False):
        anchor, first, second = anchor.float(), first.float(), second.float()
        to_first, to_second = anchor @ first.T, anchor @ second.T
        between = (first * second).sum(dim=1)
        determinant = (
            1 + 2 * to_first * to_second * between - to_first.square() - to_second.square() - between.square()
        )
        if normalize:
            determinant = determinant / (1 - between.square()).clamp(min=1e-3)
        return (determinant.clamp(min=0) + VOLUME_EPS).sqrt()


def contrastive_loss(
    scores: torch.Tensor,
    duplicates: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    selected: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Symmetric cross-entropy of matching row k with column k, averaged over both directions.

    Args:
        scores (`torch.Tensor` of shape `(B, B)`):
            Similarities of rows and columns.
        duplicates (`torch.BoolTensor` of shape `(B, B)`, *optional*):
            Pairs that are not used as negatives.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Target probability that is distributed uniformly over all remaining columns.
        selected (`torch.BoolTensor` of shape `(B,)`, *optional*):
            Rows and columns to compare; all by default. The loss is 0 if there are none.
    """
    scores = scores.float()
    diagonal = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    excluded = torch.zeros_like(diagonal) if duplicates is None else duplicates & ~diagonal
    count: int | torch.Tensor = len(scores)
    if selected is not None:
        # The loss of a row without negatives is 0.
        excluded = (excluded | ~(selected[:, None] & selected)) & ~diagonal
        count = selected.sum().clamp(min=1)
    losses = []
    for logits, ignored in ((scores, excluded), (scores.T, excluded.T)):
        log_probabilities = logits.masked_fill(ignored, float("-inf")).log_softmax(dim=1)
        uniform = log_probabilities.masked_fill(ignored, 0.0).sum(dim=1) / (~ignored).sum(dim=1)
        matches = log_probabilities.diagonal()
        losses.append(-((1 - label_smoothing) * matches + label_smoothing * uniform).sum() / count)
    return (losses[0] + losses[1]) / 2


def find_duplicate_texts(text_ids: torch.Tensor, has_text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Find recordings with identical texts.

    Args:
        text_ids (`torch.LongTensor` of shape `(B,)`):
            Equal for identical texts.
        has_text (`torch.BoolTensor` of shape `(B,)`):
            True for recordings that have a text.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Mask `(B, B)` of pairs with the same text, and the fraction of pairs of
        different recordings that have the same text.
    """
    duplicates = (text_ids[:, None] == text_ids) & has_text[:, None] & has_text
    num_texts = has_text.sum()
    pairs = (num_texts * (num_texts - 1)).clamp(min=1)
    return duplicates, (duplicates.sum() - num_texts).float() / pairs


def gramian_contrastive_loss(
    image: torch.Tensor,
    signal: torch.Tensor,
    text: torch.Tensor,
    log_scale: torch.Tensor,
    duplicates: torch.Tensor | None = None,
    label_smoothing: float = 0.1,
    normalize: bool = False,
    selected: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Contrastive loss of pages with pairs of signal and text, based on the [`gramian_volume`], which is small for
    matching triples.

    Args:
        image, signal, text (`torch.Tensor` of shape `(B, E)`):
            Unit vectors of the same recordings.
        log_scale (`torch.Tensor` of shape `()` or `(1,)`):
            Logarithm of the inverse temperature.
        duplicates (`torch.BoolTensor` of shape `(B, B)`, *optional*):
            Pairs of recordings with the same text.
        label_smoothing, normalize, selected:
            See [`contrastive_loss`] and [`gramian_volume`].
    """
    scores = -gramian_volume(image, signal, text, normalize) * log_scale.float().exp()
    return contrastive_loss(scores, duplicates, label_smoothing, selected)


def pairwise_contrastive_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    log_scale: torch.Tensor,
    duplicates: torch.Tensor | None = None,
    label_smoothing: float = 0.1,
    selected: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Symmetric InfoNCE loss of cosine similarities (Radford et al., 2021), see [`gramian_contrastive_loss`].
    """
    with torch.autocast(first.device.type, enabled=False):
        scores = first.float() @ second.float().T * log_scale.float().exp()
        return contrastive_loss(scores, duplicates, label_smoothing, selected)


def reconstruction_loss(
    reconstruction: torch.Tensor,
    waveforms: torch.Tensor,
    weights: torch.Tensor,
    delta: float = 0.1,
) -> torch.Tensor:
    """
    Weighted mean of the Huber loss of the leads.

    Args:
        reconstruction, waveforms (`torch.Tensor` of shape `(B, L, T)`):
            Reconstruction and ground truth [mV].
        weights (`torch.Tensor` of shape `(B, L, T)`):
            Weights of the samples. The loss is 0 if all are 0.
        delta (`float`, *optional*, defaults to 0.1):
            Threshold between the quadratic and the linear part of the loss [mV].
    """
    weights = weights.float()
    losses = F.huber_loss(reconstruction.float(), waveforms.float(), reduction="none", delta=delta)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def lead_residuals(leads: torch.Tensor) -> torch.Tensor:
    """
    Residuals of the identities of Einthoven (III = II - I) and Goldberger (aVR = -(I + II) / 2, aVL = I - II / 2,
    aVF = II - I / 2), which do not hold if leads were scaled individually.

    Args:
        leads (`torch.Tensor` of shape `(..., L, T)`):
            Leads [mV], starting with I, II, III, aVR, aVL and aVF.

    Returns:
        `torch.Tensor` of shape `(..., 4, T)` [mV].
    """
    first, second, third, right, left, foot = leads[..., :6, :].unbind(dim=-2)
    return torch.stack(
        (
            first + third - second,
            right + (first + second) / 2,
            left - first + second / 2,
            foot - second + first / 2,
        ),
        dim=-2,
    )


def soft_lead_loss(reconstruction: torch.Tensor, identity_mask: torch.Tensor | None = None) -> torch.Tensor:
    """
    Soft lead constraint: mean square of the four [`lead_residuals`] of a reconstruction [mV^2].

    If the ground truth satisfies the identities, adding this term to a squared error only changes its metric: it
    increases the weight of four of the six directions of limb-lead errors.

    Args:
        reconstruction (`torch.Tensor` of shape `(B, L, T)`):
            Leads [mV].
        identity_mask (`torch.BoolTensor` of shape `(B,)`, *optional*):
            True for recordings that satisfy the identities; others are ignored. The loss is 0 if there are none.
    """
    squares = lead_residuals(reconstruction.float()).square().mean(dim=(1, 2))
    if identity_mask is None:
        return squares.mean()
    weights = identity_mask.to(squares.dtype)
    return (squares * weights).sum() / weights.sum().clamp(min=1)


__all__ = [
    "contrastive_loss",
    "find_duplicate_texts",
    "gramian_contrastive_loss",
    "gramian_volume",
    "lead_residuals",
    "pairwise_contrastive_loss",
    "reconstruction_loss",
    "soft_lead_loss",
]
