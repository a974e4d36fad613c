"""
Pre-training by comparing two views of each recording: SimCLR (Chen et al., "A Simple Framework for Contrastive
Learning of Visual Representations", ICML 2020), MoCo v3 (Chen et al., "An Empirical Study of Training Self-Supervised
Vision Transformers", ICCV 2021), BYOL (Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020), SimSiam (Chen and He,
"Exploring Simple Siamese Representation Learning", CVPR 2021) and CLOCS (Kiyasseh et al., "CLOCS: Contrastive Learning
of Cardiac Signals Across Space, Time, and Patients", ICML 2021), which are settings of one model.

Shapes: `B` recordings, `E` size of the projections.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoModel
from transformers.utils import ModelOutput

from .configuration_siamese import SiameseConfig
from .contrasts import CONTRASTS, Mlp, cosine_similarities, effective_rank, relative_std
from .modeling_ecg import MomentumTeacher
from .modeling_objective import ObjectiveModel, split_views


Views = list[dict[str, Any]]


@dataclass
class SiameseForPreTrainingOutput(ModelOutput):
    """
    Output of [`SiameseForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Contrast of each view with the other one, averaged over both.
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of recordings that `loss` averages, `B`.
        top1 (`torch.FloatTensor` of shape `()`):
            Fraction of views whose most similar target is that of their own recording, among those of the other view.
            By chance it is one divided by the number of recordings.
        pooled_std (`torch.FloatTensor` of shape `()`):
            Standard deviation of the pooled states of all views relative to their size, see [`relative_std`]. A value
            near zero indicates representation collapse.
        effective_rank (`torch.FloatTensor` of shape `()`):
            Number of dimensions that the pooled states of all views vary in, see [`effective_rank`].
        projections (`torch.FloatTensor` of shape `(2, B, E)`):
            Projections of both views.
    """

    loss: torch.Tensor | None = None
    loss_weight: torch.Tensor | None = None
    top1: torch.Tensor | None = None
    pooled_std: torch.Tensor | None = None
    effective_rank: torch.Tensor | None = None
    projections: torch.Tensor | None = None


class SiameseForPreTraining(ObjectiveModel, MomentumTeacher):
    """
    Pre-training of any encoder by comparing two views of each recording.

    An encoder and a projector map both views to vectors; with `config.prediction_sizes`, a predictor maps the
    projections of one view to those of the other. `config.target` and `config.contrast` select what they are compared
    with and how. The pooled states before the projector are the features of the encoder.

    Differences from the papers:

    - Batch normalization reads one view at a time, also for SimCLR, which normalizes both views together.
    - The momentum network is updated once per optimization step, MoCo v3's before each forward pass. In training mode,
      its batch normalization uses the statistics of the batch, as in the papers, but it has no dropout.
    - Several positives of a recording (CLOCS) are averaged per recording; the released code averages the recording
      itself and others of the same patient separately.
    - Losses are averaged over views, recordings and directions, where some papers sum them.

    In training mode, recordings are compared with those of all processes, which then need equally many; in evaluation
    mode with those of their own batch.
    """

    config: SiameseConfig  # type: ignore[assignment]
    # Logged by the training loop in addition to the loss.
    monitors = ("top1", "pooled_std", "effective_rank")
    # A collapsed model has the lowest cosine loss, targets that move change the loss of the same model, and contrasts
    # with negatives depend on the size of validation batches.
    ranks_by_loss = False
    needs_full_batch = True

    def __init__(self, config: SiameseConfig):
        super().__init__(config)
        self.projector = Mlp(config.hidden_size, config.projection_widths, config.projection_norms)
        self.predictor: nn.Module = nn.Identity()
        if config.prediction_sizes is not None:
            self.predictor = Mlp(config.projection_widths[-1], config.prediction_widths, config.prediction_norms or ())
        if config.target == "momentum":
            self.momentum_backbone = AutoModel.from_config(config.backbone_config)
            self.momentum_projector = Mlp(config.hidden_size, config.projection_widths, config.projection_norms)
        self.post_init()
        self.train(self.training)

    def momentum_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        if self.config.target != "momentum":
            return []
        return [(self.momentum_backbone, self.backbone), (self.momentum_projector, self.projector)]

    def momentum_at(self, progress: float) -> float:
        """Momentum, from `ema_start` to `ema_end` by half a cosine (Grill et al., 2020, Section 3.3)."""
        start, end = self.config.ema_start, self.config.ema_end
        return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2

    def train(self, mode: bool = True) -> "SiameseForPreTraining":
        """Set the training mode. Of the momentum network, only batch normalization is ever in training mode."""
        super().train(mode)
        for teacher, _ in self.momentum_pairs():
            for module in teacher.eval().modules():
                if isinstance(module, _BatchNorm):
                    module.train(mode)
        return self

    def forward(
        self, input_values: torch.Tensor, groups: torch.Tensor | None = None, **inputs: Any
    ) -> SiameseForPreTrainingOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(2 * B, ...)`):
                Input of the backbone for the first views of all recordings, followed by their second views.
            groups (`torch.LongTensor` of shape `(B,)`, *optional*):
                Equal for recordings of the same patient. Required unless `config.same_patient` is `"negative"`.
            inputs:
                Further inputs of the backbone, such as masks, each of `2 * B` rows in the same order.

        Raises:
            `ValueError`: if the number of rows is odd, or groups are required.
        """
        views = split_views(input_values, **inputs)
        pooled = [self.pool(self.backbone(**view)) for view in views]
        projections = torch.stack([self.projector(states) for states in pooled])
        queries = torch.stack([self.predictor(projected) for projected in projections])
        targets = TARGETS[self.config.target](self, views, projections)

        # Gathered in one piece: rows are recordings, with both views in each.
        keys, first = self.gather(targets.transpose(0, 1).float())
        keys = keys.transpose(0, 1)
        positives, excluded = self._patients(groups)
        contrast = CONTRASTS[self.config.contrast]
        losses = [
            contrast(
                queries[view],
                keys[1 - view],
                keys[view],
                temperature=self.config.temperature,
                first=first,
                positives=positives,
                excluded=excluded,
            )
            for view in (0, 1)
        ]
        with torch.no_grad():
            own = torch.arange(first, first + len(pooled[0]), device=keys.device)
            nearest = torch.stack([cosine_similarities(queries[view], keys[1 - view]).argmax(1) for view in (0, 1)])
            states = torch.cat(pooled).detach()
        return SiameseForPreTrainingOutput(
            loss=self.config.loss_scale * (losses[0] + losses[1]) / 2,
            loss_weight=torch.full((), len(pooled[0]), dtype=torch.float32, device=keys.device),
            top1=(nearest == own).float().mean(),
            pooled_std=relative_std(states),
            effective_rank=effective_rank(states),
            projections=projections,
        )

    def _patients(self, groups: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Masks `(A, B)` of positives and of excluded recordings of the same patient."""
        role = self.config.same_patient
        if role == "negative":
            return None, None
        if groups is None:
            raise ValueError(f"same_patient={role!r} requires the groups of the recordings.")
        same = groups[:, None] == self.gather(groups)[0]
        return (same, None) if role == "positive" else (None, same)


def _shared_targets(model: SiameseForPreTraining, views: Views, projections: torch.Tensor) -> torch.Tensor:
    return projections


def _detached_targets(model: SiameseForPreTraining, views: Views, projections: torch.Tensor) -> torch.Tensor:
    return projections.detach()


@torch.no_grad()
def _momentum_targets(model: SiameseForPreTraining, views: Views, projections: torch.Tensor) -> torch.Tensor:
    states = [model.pool(model.momentum_backbone(**view)) for view in views]
    return torch.stack([model.momentum_projector(pooled) for pooled in states])


TARGETS: dict[str, Callable[[SiameseForPreTraining, Views, torch.Tensor], torch.Tensor]] = {
    "shared": _shared_targets,
    "detached": _detached_targets,
    "momentum": _momentum_targets,
}
"""What the other view is, by `config.target`: a function of model, views and projections."""


__all__ = ["SiameseForPreTraining", "SiameseForPreTrainingOutput"]
