"""Base model of pre-training objectives that share the encoders of all systems."""

from typing import Any

import torch
from transformers import AutoModel

from .configuration_objective import ObjectiveConfig
from .modeling_ecg import EcgModelOutput, EcgPreTrainedModel, masked_mean


class ObjectiveModel(EcgPreTrainedModel):
    """
    Base class of pre-training models whose encoder is a `backbone` of any system. A subclass adds its heads, calls
    `post_init` and defines `forward`, which returns a `loss` (see `training.pretraining`).

    The objective is a tool of training: a run saves only the encoder, so that fine-tuning never depends on it.
    """

    config: ObjectiveConfig  # type: ignore[assignment]
    base_model_prefix = "backbone"

    def __init__(self, config: ObjectiveConfig):
        super().__init__(config)  # type: ignore[arg-type]
        self.backbone = AutoModel.from_config(config.backbone_config)

    @property
    def published(self) -> EcgPreTrainedModel:
        """The encoder, which a run saves."""
        encoder: EcgPreTrainedModel = self.backbone
        return encoder

    def get_input_embeddings(self) -> Any:
        return self.backbone.get_input_embeddings()

    @staticmethod
    def pool(outputs: EcgModelOutput) -> torch.Tensor:
        """
        The vector `(batch_size, hidden_size)` of each recording that the mean head, probes and embeddings read: the
        mean of the present leads.
        """
        assert outputs.lead_states is not None
        assert outputs.present_leads is not None
        return masked_mean(outputs.lead_states, outputs.present_leads)


__all__ = ["ObjectiveModel"]
