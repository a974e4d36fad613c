"""
Loss of contrastive predictive coding (van den Oord, Li and Vinyals, "Representation Learning with Contrastive
Predictive Coding", 2018, arXiv 1807.03748), in the form for ECG of Mehari and Strodthoff (2022, arXiv 2103.12676).

Shapes: `B` recordings, `S` tokens, `D` width, `P` predictions, `K` negatives.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from .modeling_ecg import check_shape, seeded_bits, seeded_counters


class FutureContrast(NamedTuple):
    """
    Result of [`contrast_future_tokens`].

    Args:
        losses (`torch.FloatTensor` of shape `(B, P)`): Cross-entropy of each prediction.
        counted (`torch.BoolTensor` of shape `(B, P)`): True where the predicted token was recorded.
        hits (`torch.BoolTensor` of shape `(B, P)`): True where the true token is more similar than all negatives.
        negatives (`torch.LongTensor` of shape `(B, P, K)`): Tokens that were the negatives.
    """

    losses: torch.Tensor
    counted: torch.Tensor
    hits: torch.Tensor
    negatives: torch.Tensor


def contrast_future_tokens(
    prediction: torch.Tensor,
    features: torch.Tensor,
    *,
    steps: int,
    num_negatives: int,
    attention_mask: torch.Tensor | None = None,
    seeds: torch.Tensor | None = None,
    negatives: torch.Tensor | None = None,
) -> FutureContrast:
    """
    Cross-entropy of the true token among itself and other tokens of the same recording, by dot products with what an
    earlier token predicts.

    Args:
        prediction (`torch.FloatTensor` of shape `(B, S, D)`):
            What each token predicts of the features `steps` tokens ahead. There are `P = max(S - steps, 0)`
            predictions; the last tokens make none.
        features (`torch.FloatTensor` of shape `(B, S, D)`):
            Features of the tokens.
        steps (`int`):
            Number of tokens from a prediction to its true token.
        num_negatives (`int`):
            Number of negatives.
        attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*):
            1 or True for tokens that were recorded, which come first.
        seeds (`torch.LongTensor` of shape `(B,)`, *optional*):
            See [`draw_negatives`].
        negatives (`torch.LongTensor` of shape `(B, P, K)`, *optional*):
            Negatives of each prediction, by default drawn.

    Raises:
        `ValueError`: if `negatives` or `seeds` have the wrong shape.
    """
    batch_size, num_tokens = prediction.shape[:2]
    num_predictions = max(num_tokens - steps, 0)
    true = torch.arange(steps, steps + num_predictions, device=prediction.device)
    lengths = true.new_full((batch_size,), num_tokens)
    if attention_mask is not None:
        lengths = attention_mask.to(prediction.device).long().sum(dim=1)
    if negatives is None:
        negatives = draw_negatives(seeds, lengths, true, num_negatives)
    check_shape("negatives", negatives, (batch_size, num_predictions, num_negatives))
    similarities = prediction[:, :num_predictions].float() @ features.float().transpose(1, 2)
    candidates = torch.cat((true[:, None].expand(batch_size, -1, 1), negatives.to(true)), dim=2)
    logits = similarities.gather(2, candidates)
    losses = F.cross_entropy(logits.flatten(0, 1), true.new_zeros(batch_size * num_predictions), reduction="none")
    return FutureContrast(
        losses=losses.view(batch_size, num_predictions),
        counted=true < lengths[:, None],
        hits=logits[:, :, 0] > logits[:, :, 1:].amax(dim=2),
        negatives=negatives,
    )


def draw_negatives(
    seeds: torch.Tensor | None, lengths: torch.Tensor, true: torch.Tensor, num_negatives: int
) -> torch.Tensor:
    """
    Draw the negatives `(B, P, K)` of each prediction from the tokens of the same recording, with replacement.

    Args:
        seeds (`torch.LongTensor` of shape `(B,)`, *optional*, defaults to zeros): Seed of each recording.
        lengths (`torch.LongTensor` of shape `(B,)`): Number of tokens of each recording.
        true (`torch.LongTensor` of shape `(P,)`): The true token of each prediction, which is never drawn.
        num_negatives (`int`): Number of negatives.
    """
    if seeds is None:
        seeds = torch.zeros_like(lengths)
    check_shape("seeds", seeds, tuple(lengths.shape))
    counters = seeded_counters(len(true), num_negatives).to(true.device)
    bits = seeded_bits(seeds.to(true)[:, None, None], counters)
    drawn = bits.remainder((lengths - 1).clamp(min=1)[:, None, None])
    return drawn + (drawn >= true[:, None])


__all__ = ["FutureContrast", "contrast_future_tokens", "draw_negatives"]
