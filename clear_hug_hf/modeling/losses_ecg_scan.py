"""
The losses of ECG-Scan: contrasts of pages with signals and texts, and the leads rebuilt from a page.

Shapes: `B` pages, `L` leads (12), `T` samples, `E` the width of the shared space.
"""

import torch
from torch.nn import functional as F


VOLUME_EPS = 1e-6
"""Added to the determinant of a Gram matrix: the root's gradient has no bound where the volume vanishes."""


def gramian_volume(
    anchor: torch.Tensor, first: torch.Tensor, second: torch.Tensor, normalize: bool = False
) -> torch.Tensor:
    """
    Volume of the parallelepiped that three unit vectors span, of every anchor with every pair (GRAM, Cicchetti et al.,
    arXiv 2412.11959): the root of the determinant of their Gram matrix. 0 where they lie in a plane, 1 where they are
    orthogonal.

    A vector and its opposite give the same volume. And it is `sqrt(1 - c^2)` times the distance of the anchor from the
    plane of a pair, with the cosine `c` of the pair, which no anchor can change: pairs that agree look close to all.

    Args:
        anchor (`torch.Tensor` of shape `(B, E)`):
            Unit vectors.
        first, second (`torch.Tensor` of shape `(M, E)`):
            Unit vectors; the pairs are those of one row.
        normalize (`bool`, *optional*, defaults to `False`):
            Divide by the area that the pair spans: the distance alone.

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
    chosen: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Cross-entropy of finding the k-th column in row k and the other way round, averaged.

    The scores `(B, B)` are high where row and column belong together. Pairs that are `duplicates` `(B, B)` are not to
    be told apart: they are left out, but for the diagonal. All columns that are not left out share `label_smoothing`
    of the target. Rows and columns of the `chosen` `(B,)` are compared, by default all; 0 comes out where there are
    none.
    """
    scores = scores.float()
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    left_out = torch.zeros_like(itself) if duplicates is None else duplicates & ~itself
    count: int | torch.Tensor = len(scores)
    if chosen is not None:
        # A row that is left alone with itself has a loss of 0.
        left_out = (left_out | ~(chosen[:, None] & chosen)) & ~itself
        count = chosen.sum().clamp(min=1)
    losses = []
    for one, absent in ((scores, left_out), (scores.T, left_out.T)):
        logs = one.masked_fill(absent, float("-inf")).log_softmax(dim=1)
        spread = logs.masked_fill(absent, 0.0).sum(dim=1) / (~absent).sum(dim=1)
        losses.append(-((1 - label_smoothing) * logs.diagonal() + label_smoothing * spread).sum() / count)
    return (losses[0] + losses[1]) / 2


def same_texts(text_ids: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Which recordings have the same text `(B, B)`, by `text_ids` `(B,)` that are the same number for identical texts,
    and the share of pairs of different ones that do. Only `chosen` ones `(B,)` have a text.
    """
    duplicates = (text_ids[:, None] == text_ids) & chosen[:, None] & chosen
    num_texts = chosen.sum()
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
    chosen: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Contrast of pages with pairs of signal and text by the volume that they span: small where they belong together.

    Args:
        image, signal, text (`torch.Tensor` of shape `(B, E)`):
            Unit vectors of the same recordings.
        log_scale (`torch.Tensor` of shape `()` or `(1,)`):
            Logarithm of one over the temperature.
        duplicates (`torch.BoolTensor` of shape `(B, B)`, *optional*):
            Recordings with the same text.
        label_smoothing, normalize, chosen:
            As [`contrastive_loss`] and [`gramian_volume`].
    """
    scores = -gramian_volume(image, signal, text, normalize) * log_scale.float().exp()
    return contrastive_loss(scores, duplicates, label_smoothing, chosen)


def pairwise_contrastive_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    log_scale: torch.Tensor,
    duplicates: torch.Tensor | None = None,
    label_smoothing: float = 0.1,
    chosen: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Symmetric InfoNCE on cosines (Radford et al., 2021); arguments as [`gramian_contrastive_loss`].
    """
    with torch.autocast(first.device.type, enabled=False):
        scores = first.float() @ second.float().T * log_scale.float().exp()
        return contrastive_loss(scores, duplicates, label_smoothing, chosen)


def reconstruction_loss(
    reconstruction: torch.Tensor,
    waveforms: torch.Tensor,
    weights: torch.Tensor,
    delta: float = 0.1,
) -> torch.Tensor:
    """
    Huber's loss of the leads, averaged by weight.

    Args:
        reconstruction, waveforms (`torch.Tensor` of shape `(B, L, T)`):
            What was rebuilt, and the truth [mV].
        weights (`torch.Tensor` of shape `(B, L, T)`):
            0 where nothing was recorded, less for what the page does not show. 0 comes out where all are 0.
        delta (`float`, *optional*, defaults to 0.1):
            Error above which the loss grows linearly [mV].
    """
    weights = weights.float()
    losses = F.huber_loss(reconstruction.float(), waveforms.float(), reduction="none", delta=delta)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def lead_residuals(leads: torch.Tensor) -> torch.Tensor:
    """
    How far limb leads are from obeying Einthoven's (III = II - I) and Goldberger's identities (aVR = -(I + II) / 2,
    aVL = I - II / 2, aVF = II - I / 2), which hold for potentials in one unit: not after leads were scaled apart.

    Args:
        leads (`torch.Tensor` of shape `(..., L, T)`):
            Leads [mV], the first six I, II, III, aVR, aVL and aVF.

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
    The soft lead constraint: mean square of the four [`lead_residuals`] of a reconstruction [mV^2].

    Where the truth obeys the identities, this with the squared error is that error in another metric, which weighs
    four of the six directions of limb-lead errors up. It knows nothing about the patient.

    Args:
        reconstruction (`torch.Tensor` of shape `(B, L, T)`):
            Leads [mV].
        identity_mask (`torch.BoolTensor` of shape `(B,)`, *optional*):
            Recordings whose own leads obey the identities; the others do not count. 0 comes out where none does.
    """
    squares = lead_residuals(reconstruction.float()).square().mean(dim=(1, 2))
    if identity_mask is None:
        return squares.mean()
    counted = identity_mask.to(squares.dtype)
    return (squares * counted).sum() / counted.sum().clamp(min=1)


__all__ = [
    "contrastive_loss",
    "gramian_contrastive_loss",
    "gramian_volume",
    "lead_residuals",
    "pairwise_contrastive_loss",
    "reconstruction_loss",
    "same_texts",
    "soft_lead_loss",
]
