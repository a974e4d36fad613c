"""
Second ways to compute what the plain forms do, for speed: attention that computes only the pairs that may attend to
each other, and dropout that draws less on a CPU. Configs choose between forms of attention by `attention_form`.

Shapes: `B` recordings, `H` heads, `L` leads, `N` tokens per lead, `D` the width of a head; tokens in lead-major order.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch.nn import functional as F


class AttentionPattern(Protocol):
    """Who attends to whom, in a form that computes the attention itself; it stands where masks do."""

    def attend(
        self, attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """Queries, keys and values `(B, H, S, D)` to states `(B, S, H, D)`; `attention` is the module that asks."""
        ...


class LeadBeatPattern(NamedTuple):
    """
    Attention within leads and within beats, in small pieces that hold every allowed pair, in place of one mask of all
    pairs. One summary token per lead stands before the beats. Masks are True where attention is allowed.

    Args:
        leads (`torch.BoolTensor` of shape `(B * L, 1, 1, 1 + N)`):
            Each summary token to itself and to the beats of its lead; the visible beats of the lead attend alike
            unless there is `seen`.
        columns (`torch.BoolTensor` of shape `(B * N, 1, L, 2 * L)`):
            The same beat of all leads to each other, and to the summaries.
        visible (`torch.BoolTensor` of shape `(B, L, N)`):
            Beats that attend as in `leads` or `seen`, the others as in `columns`.
        seen (`torch.BoolTensor` of shape `(B, 1, K, K + L)`, *optional*):
            Where visible beats attend to those of all leads: `K` of the beats to each other, and to the summaries.
        kept_beats (`torch.LongTensor` of shape `(B, K)`):
            Which beats the last are, as `lead * N + beat`.
        slots (`torch.LongTensor` of shape `(B, L * N)`):
            Where among them each beat stands; of no meaning for hidden beats.
    """

    leads: torch.Tensor
    columns: torch.Tensor
    visible: torch.Tensor
    seen: torch.Tensor | None
    kept_beats: torch.Tensor
    slots: torch.Tensor

    def attend(
        self, attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """As [`AttentionPattern.attend`], piece by piece through the module's own `attend`."""
        attend: Callable[..., tuple[torch.Tensor, Any]] = attention.attend
        # The config's, and not a shape's: a number that compiled code may take for granted.
        num_leads, num_beats = attention.config.num_leads, self.visible.shape[2]
        summaries, beats = zip(
            *(
                (state[:, :, :num_leads], state[:, :, num_leads:].unflatten(2, (num_leads, num_beats)))
                for state in (query, key, value)
            ),
            strict=True,
        )

        # To one sequence per lead: its summary, then its beats.
        by_lead = [
            torch.cat((summary[:, :, :, None], beat), dim=3).transpose(1, 2).flatten(0, 1)
            for summary, beat in zip(summaries, beats, strict=True)
        ]
        lead_queries = by_lead[0] if self.seen is None else by_lead[0][:, :, :1]
        of_leads, _ = attend(lead_queries, by_lead[1], by_lead[2], self.leads, **kwargs)
        of_leads = of_leads.unflatten(0, (-1, num_leads))

        # To one sequence per beat: that beat in all leads, then the summaries.
        by_beat = [
            torch.cat((beat.permute(0, 3, 1, 2, 4), summary[:, None].expand(-1, num_beats, -1, -1, -1)), dim=3)
            for summary, beat in zip(summaries[1:], beats[1:], strict=True)
        ]
        beat_queries = beats[0].permute(0, 3, 1, 2, 4).flatten(0, 1)
        of_columns, _ = attend(
            beat_queries, by_beat[0].flatten(0, 1), by_beat[1].flatten(0, 1), self.columns, **kwargs
        )
        of_columns = of_columns.unflatten(0, (-1, num_beats)).transpose(1, 2)

        if self.seen is None:
            of_visible = of_leads[:, :, 1:]
        else:
            index = self.kept_beats[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
            seen_q, seen_k, seen_v = (state[:, :, num_leads:].gather(2, index) for state in (query, key, value))
            seen_k, seen_v = torch.cat((seen_k, summaries[1]), dim=2), torch.cat((seen_v, summaries[2]), dim=2)
            of_seen, _ = attend(seen_q, seen_k, seen_v, self.seen, **kwargs)
            index = self.slots[:, :, None, None].expand(-1, -1, query.shape[1], query.shape[3])
            of_visible = of_seen.gather(1, index).unflatten(1, (num_leads, num_beats))
        of_beats = torch.where(self.visible[..., None, None], of_visible, of_columns)
        return torch.cat((of_leads[:, :, 0], of_beats.flatten(1, 2)), dim=1)


class CrossPattern(NamedTuple):
    """
    Attention by rows (leads) and columns (times) of the grid of tokens, in place of a mask of all pairs: one softmax
    over the scores within a token's lead and those with the other leads at its time, `N + L` in place of `L * N`.

    Args:
        num_leads (`int`):
            Rows of the grid.
        real (`torch.BoolTensor` of shape `(B, L, N)`, *optional*):
            Tokens that exist; by default all. A token always sees itself.
    """

    num_leads: int
    real: torch.Tensor | None = None

    def attend(
        self, attention: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """As [`AttentionPattern.attend`]; of the module only `scaling` is read."""
        # (B, H, L, N, D) and, for columns, (B, H, N, L, D)
        rows_q, rows_k, rows_v = (
            states.unflatten(2, (self.num_leads, -1)) for states in (query * attention.scaling, key, value)
        )
        columns_q, columns_k, columns_v = (states.transpose(2, 3) for states in (rows_q, rows_k, rows_v))
        num_leads, num_times = rows_q.shape[2:4]
        in_row = rows_q @ rows_k.transpose(3, 4)
        in_column = columns_q @ columns_k.transpose(3, 4)

        # A token meets itself in its row.
        itself = torch.eye(num_leads, dtype=torch.bool, device=query.device)
        if self.real is None:
            in_column = in_column.masked_fill(itself, -math.inf)
        else:
            real = self.real[:, None]
            own = torch.eye(num_times, dtype=torch.bool, device=query.device)
            in_row = in_row.masked_fill(~(real[:, :, :, None, :] | own), -math.inf)
            in_column = in_column.masked_fill(~real.transpose(2, 3)[:, :, :, None, :] | itself, -math.inf)
        scores = torch.cat((in_row, in_column.transpose(2, 3)), dim=-1)
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        from_row = weights[..., :num_times] @ rows_v
        from_column = weights[..., num_times:].transpose(2, 3) @ columns_v
        return (from_row + from_column.transpose(2, 3)).flatten(2, 3).transpose(1, 2)


def drop(states: torch.Tensor, share: float, training: bool) -> torch.Tensor:
    """
    Dropout. On a CPU a random number of 16 bits decides each value, so that one draw serves four: torch's own dropout
    spends most of its time on drawing there. The share is exact to 1 / 65536, and the scale fits it.
    """
    if not training or not share or states.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(states, share, training)
    dropped = round(share * 65_536)
    bits = (
        torch.empty(-(-states.numel() // 4), dtype=torch.int64, device="cpu").random_(-(2**63), None).view(torch.int16)
    )
    kept = (bits[: states.numel()] >= dropped - 32_768).view(states.shape)
    return states * (kept.to(states.dtype) * (65_536 / (65_536 - dropped)))


__all__ = ["AttentionPattern", "CrossPattern", "LeadBeatPattern", "drop"]
