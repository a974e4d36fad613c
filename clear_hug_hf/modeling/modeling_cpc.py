"""
Contrastive predictive coding (van den Oord, Li and Vinyals, 2018, arXiv 1807.03748) on any encoder with causal states,
in the form for ECG of Mehari and Strodthoff ("Self-Supervised Representation Learning from 12-Lead ECG Data",
Computers in Biology and Medicine 2022, arXiv 2103.12676) and Al-Masud, Lopez Alcaraz and Strodthoff (2025, arXiv
2509.25095): one linear map predicts the features a fixed time ahead, and negatives are tokens of the same recording.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_cpc import CpcConfig
from .losses_cpc import contrast_future_tokens
from .modeling_ecg import masked_loss_mean
from .modeling_objective import ObjectiveModel


@dataclass
class CpcForPreTrainingOutput(ModelOutput):
    """
    Output of [`CpcForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Cross-entropy of the true token among itself and the negatives, averaged over all predictions of recorded
            tokens. A model that predicts nothing has `log(1 + num_negatives)`, 4.86 by default.
        prediction (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            What each token predicts of the features `config.prediction_steps` tokens ahead.
        accuracy (`torch.FloatTensor` of shape `()`):
            Fraction of the predictions that are closest to the true token.
        negatives (`torch.LongTensor` of shape `(batch_size, sequence_length - prediction_steps, num_negatives)`):
            Tokens that were the negatives of each prediction.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`].
        loss_weight (`torch.LongTensor` of shape `()`):
            Number of predictions in the mean, by which the losses of parts of a batch are weighted.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    negatives: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


class CpcForPreTraining(ObjectiveModel):
    """
    Contrastive predictive coding: from the state of a token, which knows of no later samples, a linear map predicts
    the features of the backbone `config.prediction_steps` tokens ahead, to be told apart from those of other tokens of
    the same recording.

    The backbone returns causal states (`has_causal_states`), a `last_hidden_state` in order of time, and
    `extract_features` of the same shape, which see only samples near their token.

    The publications sum the cross-entropy over the tokens of a recording. Here it is averaged over all predictions of
    a batch, which differs by a constant factor if all recordings have the same length: Adam's steps do not depend on
    it, while the limit of the gradient norm does. With `loss_weight`, any division of a batch results in the same
    gradient, unless the backbone normalizes by statistics of the batch.

    Raises:
        `ValueError`: if the backbone has no causal states.
    """

    config: CpcConfig
    monitors: ClassVar[tuple[str, ...]] = ("accuracy",)

    def __init__(self, config: CpcConfig):
        super().__init__(config)
        if not getattr(self.backbone, "has_causal_states", False):
            raise ValueError(
                "contrastive predictive coding predicts later samples and requires an encoder whose states do not "
                f"depend on them, such as state space layers in one direction: {type(self.backbone).__name__} has no "
                "such states."
            )
        self.projection = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        negatives: torch.Tensor | None = None,
        seeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CpcForPreTrainingOutput:
        r"""
        Args:
            input_values, attention_mask:
                Inputs of the backbone. The tokens of a recording come first.
            negatives (`torch.LongTensor` of shape `(batch_size, sequence_length - prediction_steps, num_negatives)`,
                *optional*):
                Negatives of each prediction: tokens of the same recording.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*, defaults to zeros):
                Seed of each recording, from which negatives are drawn otherwise: any token but the true one.

        Raises:
            `ValueError`: if an input has the wrong shape, or recordings are too short for a prediction.
        """
        outputs = self.backbone(input_values, attention_mask=attention_mask, **kwargs)
        num_tokens = outputs.last_hidden_state.shape[1]
        if self.config.prediction_steps >= num_tokens:
            raise ValueError(
                f"prediction_steps={self.config.prediction_steps} must be less than the {num_tokens} tokens of the "
                "recordings."
            )
        prediction = self.projection(outputs.last_hidden_state)
        losses, counted, hits, negatives = contrast_future_tokens(
            prediction,
            outputs.extract_features,
            steps=self.config.prediction_steps,
            num_negatives=self.config.num_negatives,
            attention_mask=outputs.token_mask,
            seeds=seeds,
            negatives=negatives,
        )
        return CpcForPreTrainingOutput(
            loss=masked_loss_mean(losses, counted),
            prediction=prediction,
            accuracy=masked_loss_mean(hits.to(losses.dtype), counted),
            negatives=negatives,
            hidden_states=outputs.hidden_states,
            loss_weight=counted.sum(),
        )


__all__ = ["CpcForPreTraining", "CpcForPreTrainingOutput"]
