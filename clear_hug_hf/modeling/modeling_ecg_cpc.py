"""
ECG-CPC models (Al-Masud, Lopez Alcaraz and Strodthoff, "Benchmarking ECG FMs: A Reality Check Across Clinical Tasks",
2025, arXiv 2509.25095): the S4 encoder with the settings of the released network, and the head of its pre-training by
contrastive predictive coding. For pre-training of new models see [`CpcForPreTraining`].
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_ecg_cpc import EcgCpcConfig
from .losses_cpc import contrast_future_tokens
from .modeling_ecg import EcgClassifierOutput, EcgForSequenceClassification, check_shape, validate_kwargs
from .modeling_ecg_s4 import EcgS4Model, EcgS4ModelOutput, EcgS4PreTrainedModel


@dataclass
class EcgCpcForPreTrainingOutput(ModelOutput):
    """
    Output of [`EcgCpcForPreTraining`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            Cross-entropy of the true token among itself and the negatives, summed over the tokens of a recording and
            averaged over the recordings.
        prediction (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`):
            What each token predicts of the convolutions `config.prediction_steps` tokens ahead.
        accuracy (`torch.FloatTensor` of shape `()`):
            Fraction of the predictions that are closest to the true token.
        negatives (`torch.LongTensor` of shape `(batch_size, sequence_length - prediction_steps, num_negatives)`):
            Tokens that were the negatives of each prediction.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*):
            See [`EcgModelOutput`].
        loss_weight (`torch.FloatTensor` of shape `()`):
            Number of recordings, by which the losses of parts of a batch are weighted.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    negatives: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    loss_weight: torch.Tensor | None = None


class EcgCpcPreTrainedModel(EcgS4PreTrainedModel):
    """Base class of the ECG-CPC models."""

    config: EcgCpcConfig
    base_model_prefix = "ecg_cpc"


class EcgCpcModel(EcgCpcPreTrainedModel, EcgS4Model):
    """
    ECG-CPC encoder: [`EcgS4Model`] with the settings of the released network, in which tokens are 1/120 s apart.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgCpcConfig, EcgCpcModel

    >>> model = EcgCpcModel(EcgCpcConfig.preset("tiny")).eval()
    >>> model(torch.randn(2, 12, 600)).last_hidden_state.shape
    torch.Size([2, 300, 64])
    ```
    """

    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^classifier\.", r"^projection\."]  # noqa: RUF012

    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgS4ModelOutput:
        r"""
        Args:
            input_values (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`):
                Recordings of any length [mV]; missing leads and samples are zero.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 or True for tokens that were recorded, `ceil(num_samples / conv_stride)` in total. Others, at the end
                of short recordings, do not count in `pooler_output`.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        validate_kwargs(kwargs)
        outputs: EcgS4ModelOutput = super().forward(input_values, attention_mask, **kwargs)
        return outputs

    def _token_mask(self, attention_mask: torch.Tensor, batch_size: int, num_samples: int) -> torch.Tensor:
        check_shape("attention_mask", attention_mask, (batch_size, -(-num_samples // self.config.conv_stride)))
        return attention_mask


class EcgCpcForPreTraining(EcgCpcPreTrainedModel):
    """
    ECG-CPC encoder that predicts the output of its convolutions `config.prediction_steps` tokens ahead, and tells it
    apart from that at other tokens of the same recording (Al-Masud et al., 2025, after van den Oord et al., 2018).

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgCpcConfig, EcgCpcForPreTraining

    >>> model = EcgCpcForPreTraining(EcgCpcConfig.preset("tiny"))
    >>> loss = model(torch.randn(2, 12, 600), seeds=torch.tensor([0, 1])).loss
    ```
    """

    def __init__(self, config: EcgCpcConfig):
        super().__init__(config)
        self.ecg_cpc = EcgCpcModel(config)
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
    ) -> EcgCpcForPreTrainingOutput:
        r"""
        Args:
            input_values, attention_mask:
                See [`EcgCpcModel.forward`]. The tokens of a recording come first.
            negatives (`torch.LongTensor` of shape `(batch_size, sequence_length - prediction_steps, num_negatives)`,
                *optional*):
                Negatives of each prediction: tokens of the same recording.
            seeds (`torch.LongTensor` of shape `(batch_size,)`, *optional*, defaults to zeros):
                Seed of each recording, from which negatives are drawn otherwise: any token but the true one.

        Raises:
            `ValueError`: if an input has the wrong shape.
        """
        outputs: EcgS4ModelOutput = self.ecg_cpc(input_values, attention_mask, **kwargs)
        states, features = outputs.last_hidden_state, outputs.extract_features
        assert states is not None
        assert features is not None
        prediction = self.projection(states)
        losses, counted, hits, negatives = contrast_future_tokens(
            prediction,
            features,
            steps=self.config.prediction_steps,
            num_negatives=self.config.num_negatives,
            attention_mask=attention_mask,
            seeds=seeds,
            negatives=negatives,
        )
        batch_size = len(states)
        return EcgCpcForPreTrainingOutput(
            loss=losses.masked_fill(~counted, 0.0).sum() / batch_size,
            prediction=prediction,
            accuracy=(hits & counted).sum() / counted.sum().clamp(min=1),
            negatives=negatives,
            hidden_states=outputs.hidden_states,
            loss_weight=losses.new_full((), batch_size),
        )


class EcgCpcForSequenceClassification(EcgCpcPreTrainedModel, EcgForSequenceClassification):
    """
    ECG-CPC encoder with a linear classifier of the recording on the mean of its states.

    Example:

    ```python
    >>> import torch
    >>> from clear_hug_hf import EcgCpcConfig, EcgCpcForSequenceClassification

    >>> config = EcgCpcConfig.preset("tiny", id2label={0: "NORM", 1: "MI"})
    >>> model = EcgCpcForSequenceClassification(config).eval()
    >>> model(torch.randn(2, 12, 600)).logits.sigmoid().shape
    torch.Size([2, 2])
    ```
    """

    ecg_cpc: EcgCpcModel
    encoder_class = EcgCpcModel
    _keys_to_ignore_on_load_unexpected = [r"^projection\."]  # noqa: RUF012

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        rhythm: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EcgClassifierOutput:
        """Classify recordings. See [`EcgCpcModel.forward`] for the inputs and [`classify`] for labels and rhythm."""
        return self.classify(self.ecg_cpc(input_values, attention_mask, **kwargs), labels, rhythm, **kwargs)


__all__ = [
    "EcgCpcForPreTraining",
    "EcgCpcForPreTrainingOutput",
    "EcgCpcForSequenceClassification",
    "EcgCpcModel",
    "EcgCpcPreTrainedModel",
]
