"""
TS-TCC (Eldele et al., "Time-Series Representation Learning via Temporal and Contextual Contrasting", IJCAI 2021, arXiv
2106.14112) on any encoder whose states are in order of time.

A transformer summarizes the states of one view of a recording up to some time. From this context, linear maps predict
the next states of the other view, which are to be told apart from those of other recordings (temporal contrasting).
Projected contexts of both views are compared as in SimCLR (contextual contrasting).

Differences from the released code:

- Predictions of a context are normalized over the candidates, as in the paper (Equations 1 and 2). The code normalizes
  over the contexts that might have predicted a state.
- The last time of the context is drawn for each recording and view, where the code draws it once per batch.
- States are averaged to `config.num_times` times, and parts of a window without signal are left out.
- The temporal loss compares the recordings of all processes.

As released, states have unit length, contexts know no positions, and both directions of the temporal loss are added.
The views are those of the collator, whose defaults also differ from the released code: leads are scaled by a factor
each, in place of one per sample; segments of all leads are permuted together; the added noise is a tenth of a lead's
standard deviation, since more of it would cover an ECG; and all of them are drawn again in every epoch.

Shapes: `B` recordings, `N` times, `K` predictions, `D` hidden size of the backbone, `E` hidden size of contexts.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_ts_tcc import TsTccConfig
from .contrasts import Mlp, nt_xent, relative_std
from .modeling_ecg import (
    EcgModelOutput,
    PreNormLayer,
    check_shape,
    masked_loss_mean,
    register_constants,
    seeded_counters,
    seeded_fractions,
)
from .modeling_objective import ObjectiveModel, split_views


@dataclass
class TsTccForPreTrainingOutput(ModelOutput):
    """
    Output of [`TsTccForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Weighted sum of `temporal_loss` and `contextual_loss`.
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of recordings, `B`.
        temporal_loss (`torch.FloatTensor` of shape `()`):
            Cross-entropy of predicted states, the sum of both directions.
        contextual_loss (`torch.FloatTensor` of shape `()`):
            [`nt_xent`] of the projected contexts, averaged over both views.
        accuracy (`torch.FloatTensor` of shape `()`):
            Fraction of the predictions that are closest to the state of their own recording.
        pooled_std (`torch.FloatTensor` of shape `()`):
            Standard deviation of the pooled states of the backbone relative to their size, see [`relative_std`].
    """

    loss: torch.Tensor | None = None
    loss_weight: torch.Tensor | None = None
    temporal_loss: torch.Tensor | None = None
    contextual_loss: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    pooled_std: torch.Tensor | None = None


def average_times(outputs: EcgModelOutput, num_times: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Average states over time.

    Args:
        outputs ([`EcgModelOutput`]):
            Output of an encoder whose `last_hidden_state` is in order of time.
        num_times (`int`):
            Number of times `N` to average to.

    Returns:
        `tuple[torch.FloatTensor, torch.BoolTensor]`: States of unit length `(B, N, D)`, and a mask `(B, N)` of times
        with signal.

    Raises:
        `ValueError`: if the encoder returned fewer states.
    """
    states = outputs.last_hidden_state
    assert states is not None
    if states.shape[1] < num_times:
        raise ValueError(
            f"num_times={num_times} exceeds the {states.shape[1]} times that the backbone returns: reduce num_times."
        )
    mask = outputs.token_mask
    present = torch.ones_like(states[..., 0]) if mask is None else mask.to(states.dtype)
    # Both are means over the same spans, so that their quotient is the mean of the present states.
    totals = F.adaptive_avg_pool1d((states * present[..., None]).transpose(1, 2), num_times).transpose(1, 2)
    shares = F.adaptive_avg_pool1d(present[:, None], num_times)[:, 0]
    return F.normalize(totals.float(), dim=2), shares > 0


def future_contrast(
    predictions: torch.Tensor, futures: torch.Tensor, present: torch.Tensor, first: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Temporal contrasting (Eldele et al., 2021, Equations 1 and 2): cross-entropy of the true state among those of all
    recordings, each as many times ahead of its own context, by their dot products with the prediction.

    Args:
        predictions (`torch.Tensor` of shape `(A, K, D)`):
            Predictions for the recordings of this process.
        futures (`torch.Tensor` of shape `(B, K, D)`):
            States of the recordings of all processes.
        present (`torch.BoolTensor` of shape `(B, K)`):
            True for states with signal. Others are neither predicted nor candidates.
        first (`int`, *optional*, defaults to 0):
            Row of the states that belongs to the first prediction.

    Returns:
        `tuple[torch.FloatTensor, torch.FloatTensor]`: Mean over the predictions, and the fraction of them that are
        closest to their own state.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        scores = torch.einsum("akd,bkd->kab", predictions.float(), futures.float())
    own = torch.arange(first, first + len(predictions), device=scores.device)
    counted = present[own].T
    # The own state is kept, since a row without candidates has no softmax; it does not count if it is absent.
    is_own = own[:, None] == torch.arange(len(futures), device=scores.device)
    scores = scores.masked_fill(~(present.T[:, None] | is_own), float("-inf"))
    places = own[None, :, None].expand(len(scores), -1, 1)
    losses = -scores.log_softmax(dim=2).gather(2, places)[..., 0]
    hits = (scores.argmax(dim=2) == own).to(losses.dtype)
    return masked_loss_mean(losses, counted), masked_loss_mean(hits, counted)


class ContextTransformer(nn.Module):
    """Summarizes the states of a recording up to some time in one vector, the last state of a class token."""

    def __init__(self, config: TsTccConfig):
        super().__init__()
        width = config.context_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(
            PreNormLayer(config, width, config.context_num_attention_heads, config.context_intermediate_size)
            for _ in range(config.context_num_hidden_layers)
        )

    def forward(self, states: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Map states `(B, N, D)`, of which those in the mask `visible` `(B, N)` are read, to contexts `(B, E)`."""
        tokens = self.embed(states)
        tokens = torch.cat((self.class_token.to(tokens.dtype).expand(len(tokens), 1, -1), tokens), dim=1)
        mask = F.pad(visible, (1, 0), value=True)[:, None, None].expand(-1, 1, tokens.shape[1], -1)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return tokens[:, 0]


class TsTccForPreTraining(ObjectiveModel):
    """
    Temporal and contextual contrasting of two views of each recording.

    In training mode, recordings are compared with those of all processes, which then need equally many; in evaluation
    mode with those of their own batch. A model whose states are all equal has a temporal loss of `2 log(B)`, the
    highest, so that the loss ranks models.

    Raises:
        `ValueError`: if the states of the backbone are not in order of time.
    """

    config: TsTccConfig
    monitors = ("temporal_loss", "contextual_loss", "accuracy", "pooled_std")
    needs_full_batch = True
    time_counters: torch.Tensor

    def __init__(self, config: TsTccConfig):
        super().__init__(config)
        if not self.backbone.has_time_states:
            raise ValueError(
                "temporal and contextual contrasting predicts later states and requires an encoder with one state for "
                f"each time, such as a convolutional network of all leads: {type(self.backbone).__name__} has none."
            )
        self.context = ContextTransformer(config)
        self.predictions = nn.Linear(config.context_hidden_size, config.num_predictions * config.hidden_size)
        sizes = config.projection_sizes
        self.projector = Mlp(config.context_hidden_size, sizes, ["batch"] * (len(sizes) - 1) + ["none"])
        register_constants(self)
        self.post_init()

    def make_constants(self) -> dict[str, torch.Tensor]:
        """Counters of the two views, from which the last times of contexts are drawn."""
        return {"time_counters": seeded_counters(2)}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ContextTransformer):
            init.normal_(module.class_token, std=self.config.initializer_range)

    def _draw_times(self, present: torch.Tensor, seeds: torch.Tensor | None) -> torch.Tensor:
        """
        Draw the last time of the context of each view `(B, 2)`, such that all predicted times exist if a recording is
        long enough. In evaluation mode, they are the same for all recordings of a length.
        """
        batch_size, device = len(present), present.device
        if seeds is not None:
            check_shape("seeds", seeds, (batch_size,))
            fractions = seeded_fractions(seeds.to(device)[:, None], self.time_counters)
        elif self.training:
            fractions = torch.rand(batch_size, 2, device=device)
        else:
            fractions = torch.full((batch_size, 2), 0.5, device=device)
        choices = (present.sum(dim=1, keepdim=True) - self.config.num_predictions).clamp(min=1)
        return (fractions * choices).long().minimum(choices - 1)

    def forward(
        self, input_values: torch.Tensor, seeds: torch.Tensor | None = None, **inputs: Any
    ) -> TsTccForPreTrainingOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(2 * B, ...)`):
                Input of the backbone for the first, weakly changed views of all recordings, followed by their second,
                strongly changed views.
            seeds (`torch.LongTensor` of shape `(B,)`, *optional*):
                Seed of each recording, which determines the last times of its contexts.
            inputs:
                Further inputs of the backbone, such as masks, each of `2 * B` rows in the same order.

        Raises:
            `ValueError`: if the number of rows is odd, or the backbone returns too few times.
        """
        outputs = [self.backbone(**view) for view in split_views(input_values, **inputs)]
        states, present = zip(*(average_times(output, self.config.num_times) for output in outputs), strict=True)
        times = self._draw_times(present[0] & present[1], seeds)
        indices = torch.arange(self.config.num_times, device=times.device)
        steps = torch.arange(1, 1 + self.config.num_predictions, device=times.device)
        places = times[:, :, None] + steps
        has_place, places = places < len(indices), places.clamp(max=len(indices) - 1)

        contexts, futures, exist = [], [], []
        for view, other in ((0, 1), (1, 0)):
            contexts.append(self.context(states[view], present[view] & (indices <= times[:, view : view + 1])))
            rows = places[:, view]
            futures.append(states[other].gather(1, rows[..., None].expand(-1, -1, states[other].shape[2])))
            exist.append(present[other].gather(1, rows) & has_place[:, view])
        projections = torch.stack([self.projector(context) for context in contexts], dim=1)

        # Gathered from all processes: rows are recordings, with both views in each. Not all processes can send flags.
        keys, first = self.gather(projections)
        all_futures, _ = self.gather(torch.stack(futures, dim=1))
        all_exist = self.gather(torch.stack(exist, dim=1).long())[0].bool()
        temporal, accuracies, contextual = [], [], []
        for view, other in ((0, 1), (1, 0)):
            predictions = self.predictions(contexts[view]).unflatten(1, (len(steps), -1))
            loss, accuracy = future_contrast(predictions, all_futures[:, view], all_exist[:, view], first)
            temporal.append(loss)
            accuracies.append(accuracy)
            contextual.append(
                nt_xent(projections[:, view], keys[:, other], keys[:, view], self.config.temperature, first)
            )
        temporal_loss, contextual_loss = temporal[0] + temporal[1], (contextual[0] + contextual[1]) / 2
        pooled = torch.cat([self.pool(output).detach() for output in outputs])
        return TsTccForPreTrainingOutput(
            loss=self.config.temporal_weight * temporal_loss + self.config.contextual_weight * contextual_loss,
            loss_weight=torch.full_like(temporal_loss, len(times)),
            temporal_loss=temporal_loss,
            contextual_loss=contextual_loss,
            accuracy=(accuracies[0] + accuracies[1]) / 2,
            pooled_std=relative_std(pooled),
        )


__all__ = ["TsTccForPreTraining", "TsTccForPreTrainingOutput", "average_times", "future_contrast"]
