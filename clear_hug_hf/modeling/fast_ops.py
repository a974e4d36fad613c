"""
Faster equivalents of standard operations: sparse attention over the allowed pairs, and dropout for CPUs. The
`attention_form` of a config selects between dense and sparse attention.

Shapes: `B` recordings, `H` heads, `L` leads, `N` tokens per lead, `D` head dimension; tokens are in lead-major order.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn import functional as F


class AttentionPattern(Protocol):
    """A structured attention pattern that computes the attention itself. Passed in place of an attention mask."""

    def attend(
        self, attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """
        Compute attention.

        Args:
            attention ([`EcgAttention`]): The calling module.
            query, key, value (`torch.Tensor` of shape `(B, H, S, D)`): Projected states.

        Returns:
            `torch.Tensor` of shape `(B, S, H, D)`.
        """
        ...


class LeadBeatPattern(NamedTuple):
    """
    Attention within leads and within beats. It computes several small attentions that cover all allowed pairs instead
    of masking the full score matrix. The sequence consists of one summary token per lead followed by the beats. Masks
    are True where attention is allowed.

    Args:
        lead_mask (`torch.BoolTensor` of shape `(B * L, 1, 1, 1 + N)`):
            Attention of each summary token to itself and to the beats of its lead. Also used for the visible beats of
            the lead unless `visible_mask` is given.
        beat_mask (`torch.BoolTensor` of shape `(B * N, 1, L, 2 * L)`):
            Attention of each beat to the same beat of all leads and to the summary tokens.
        visible (`torch.BoolTensor` of shape `(B, L, N)`):
            True for visible beats, which use `lead_mask` or `visible_mask`; masked beats use `beat_mask`.
        visible_mask (`torch.BoolTensor` of shape `(B, 1, K, K + L)`, *optional*):
            Attention of `K` visible beats to each other, across all leads, and to the summary tokens.
        kept_beats (`torch.LongTensor` of shape `(B, K)`):
            Indices of these beats, `lead * N + beat`.
        slots (`torch.LongTensor` of shape `(B, L * N)`):
            Position of each beat in `kept_beats`; undefined for masked beats.
    """

    lead_mask: torch.Tensor
    beat_mask: torch.Tensor
    visible: torch.Tensor
    visible_mask: torch.Tensor | None
    kept_beats: torch.Tensor
    slots: torch.Tensor

    def attend(
        self, attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See [`AttentionPattern.attend`]. Each part is computed by the `attend` method of the module."""
        attend: Callable[..., tuple[torch.Tensor, Any]] = attention.attend
        # Taken from the config, so that it is a constant in compiled code.
        num_leads, num_beats = attention.config.num_leads, self.visible.shape[2]
        summaries, beats = zip(
            *(
                (state[:, :, :num_leads], state[:, :, num_leads:].unflatten(2, (num_leads, num_beats)))
                for state in (query, key, value)
            ),
            strict=True,
        )

        # One sequence per lead: its summary token, then its beats.
        by_lead = [
            torch.cat((summary[:, :, :, None], beat), dim=3).transpose(1, 2).flatten(0, 1)
            for summary, beat in zip(summaries, beats, strict=True)
        ]
        lead_queries = by_lead[0] if self.visible_mask is None else by_lead[0][:, :, :1]
        lead_states, _ = attend(lead_queries, by_lead[1], by_lead[2], self.lead_mask, **kwargs)
        lead_states = lead_states.unflatten(0, (-1, num_leads))

        # One sequence per beat: that beat in all leads, then the summary tokens.
        by_beat = [
            torch.cat((beat.permute(0, 3, 1, 2, 4), summary[:, None].expand(-1, num_beats, -1, -1, -1)), dim=3)
            for summary, beat in zip(summaries[1:], beats[1:], strict=True)
        ]
        beat_queries = beats[0].permute(0, 3, 1, 2, 4).flatten(0, 1)
        masked_states, _ = attend(
            beat_queries, by_beat[0].flatten(0, 1), by_beat[1].flatten(0, 1), self.beat_mask, **kwargs
        )
        masked_states = masked_states.unflatten(0, (-1, num_beats)).transpose(1, 2)

        if self.visible_mask is None:
            visible_states = lead_states[:, :, 1:]
        else:
            index = self.kept_beats[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
            kept_q, kept_k, kept_v = (state[:, :, num_leads:].gather(2, index) for state in (query, key, value))
            kept_k, kept_v = torch.cat((kept_k, summaries[1]), dim=2), torch.cat((kept_v, summaries[2]), dim=2)
            kept_states, _ = attend(kept_q, kept_k, kept_v, self.visible_mask, **kwargs)
            index = self.slots[:, :, None, None].expand(-1, -1, query.shape[1], query.shape[3])
            visible_states = kept_states.gather(1, index).unflatten(1, (num_leads, num_beats))
        beat_states = torch.where(self.visible[..., None, None], visible_states, masked_states)
        return torch.cat((lead_states[:, :, 0], beat_states.flatten(1, 2)), dim=1)


class CrossPattern(NamedTuple):
    """
    Cross-pattern attention (Kim, 2024) over the rows (leads) and columns (time steps) of the token grid. Each token
    has one softmax over the scores within its lead and with the other leads at its time step: `N + L` scores instead
    of `L * N`.

    Args:
        num_leads (`int`):
            Number of rows of the grid.
        valid (`torch.BoolTensor` of shape `(B, L, N)`, *optional*):
            True for tokens that exist; all by default. A token always attends to itself.
    """

    num_leads: int
    valid: torch.Tensor | None = None

    def attend(
        self, attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """See [`AttentionPattern.attend`]. Only the `scaling` of the module is used."""
        # (B, H, L, N, D) and, for columns, (B, H, N, L, D)
        rows_q, rows_k, rows_v = (
            states.unflatten(2, (self.num_leads, -1)) for states in (query * attention.scaling, key, value)
        )
        columns_q, columns_k, columns_v = (states.transpose(2, 3) for states in (rows_q, rows_k, rows_v))
        num_leads, num_times = rows_q.shape[2:4]
        row_scores = rows_q @ rows_k.transpose(3, 4)
        column_scores = columns_q @ columns_k.transpose(3, 4)

        # The row contains the score of a token with itself; mask it in the column.
        same_lead = torch.eye(num_leads, dtype=torch.bool, device=query.device)
        if self.valid is None:
            column_scores = column_scores.masked_fill(same_lead, -math.inf)
        else:
            valid = self.valid[:, None]
            same_time = torch.eye(num_times, dtype=torch.bool, device=query.device)
            row_scores = row_scores.masked_fill(~(valid[:, :, :, None, :] | same_time), -math.inf)
            column_scores = column_scores.masked_fill(~valid.transpose(2, 3)[:, :, :, None, :] | same_lead, -math.inf)
        scores = torch.cat((row_scores, column_scores.transpose(2, 3)), dim=-1)
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        from_row = weights[..., :num_times] @ rows_v
        from_column = weights[..., num_times:].transpose(2, 3) @ columns_v
        return (from_row + from_column.transpose(2, 3)).flatten(2, 3).transpose(1, 2)


def fast_dropout(states: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """
    Dropout that is faster on CPUs, where `torch.nn.functional.dropout` spends most of its time on random numbers: each
    64-bit random number decides four values. The probability is rounded to a multiple of 1 / 65536.
    """
    if not training or not probability or states.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(states, probability, training)
    threshold = round(probability * 65_536)
    bits = (
        torch.empty(-(-states.numel() // 4), dtype=torch.int64, device="cpu").random_(-(2**63), None).view(torch.int16)
    )
    keep = (bits[: states.numel()] >= threshold - 32_768).view(states.shape)
    return states * (keep.to(states.dtype) * (65_536 / (65_536 - threshold)))


__all__ = ["AttentionPattern", "CrossPattern", "LeadBeatPattern", "fast_dropout"]
