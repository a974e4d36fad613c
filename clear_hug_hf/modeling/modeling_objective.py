"""Base model of pre-training objectives that share the encoders of all systems."""

from typing import Any

import torch
from transformers import AutoModel

from .configuration_objective import ObjectiveConfig
from .contrasts import gather_rows
from .modeling_ecg import EcgModelOutput, EcgPreTrainedModel, masked_mean


class ObjectiveModel(EcgPreTrainedModel):
    """
    Base class of pre-training models whose encoder is a `backbone` of any system. A subclass adds its heads, calls
    `post_init` and defines `forward`, which returns a `loss` (see `training.pretraining`).

    A run saves only the encoder, so that fine-tuning never depends on it.
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

    def gather(self, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        """
        The rows `(B, ...)` of all processes from those of this one `(A, ...)`, and the index of its first one; in
        evaluation mode its own alone, since validation batches may differ in size. See [`gather_rows`].
        """
        return gather_rows(rows) if self.training else (rows, 0)

    @staticmethod
    def pool(outputs: EcgModelOutput) -> torch.Tensor:
        """
        The vector `(batch_size, hidden_size)` of each recording that the mean head, probes and embeddings read: the
        mean of the present leads.
        """
        assert outputs.lead_states is not None
        assert outputs.present_leads is not None
        return masked_mean(outputs.lead_states, outputs.present_leads)


def split_views(input_values: torch.Tensor, **inputs: Any) -> list[dict[str, Any]]:
    """
    Split a batch of two views of each recording into the inputs of the backbone for the first and the second views.

    Args:
        input_values (`torch.Tensor` of shape `(2 * B, ...)`):
            Main input for the first views of all recordings, followed by their second views.
        inputs:
            Further inputs, such as masks, each of `2 * B` rows in the same order.

    Raises:
        `ValueError`: if there are no recordings, or their number is odd.
    """
    num_rows = len(input_values)
    if num_rows % 2 or not num_rows:
        raise ValueError(
            "a batch must have two views of each recording, all first views and then all second views, got "
            f"{num_rows} rows: use `data.views.ViewCollator`."
        )
    inputs = {"input_values": input_values, **inputs}
    return [
        {name: value.chunk(2)[view] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
        for view in (0, 1)
    ]


__all__ = ["ObjectiveModel", "split_views"]
