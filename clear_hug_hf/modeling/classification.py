"""The losses of the classifiers, of all systems alike."""

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig


IGNORED_LABEL = -100
"""Class of a recording or a sample that is unknown."""


def infer_problem_type(config: PreTrainedConfig, labels: torch.Tensor) -> str:
    """
    What a classifier learns whose config does not say it, by the rules of transformers: one label is a value
    (`"regression"`), class numbers are one class per recording (`"single_label_classification"`), and anything else is
    independent labels (`"multi_label_classification"`).

    Two things that transformers would get wrong are independent labels here: one label that has a name, or Booleans,
    which is a diagnosis; and whole numbers of shape `(batch_size, num_labels)`.

    Args:
        config ([`PreTrainedConfig`]):
            Of the classifier; its `id2label` counts.
        labels (`torch.Tensor`):
            Labels of a batch.
    """
    names = list((config.id2label or {}).values())
    if len(names) == 1:
        is_value = names == ["LABEL_0"] and labels.dtype != torch.bool
        return "regression" if is_value else "multi_label_classification"
    of_classes = labels.ndim == 1 and not labels.is_floating_point()
    return "single_label_classification" if of_classes else "multi_label_classification"


def known_mean(losses: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean of the losses that are known; zero, with a gradient, where none is."""
    return losses.masked_fill(~known, 0.0).sum() / known.sum().clamp(min=1)


def known_binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, positive_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Binary cross-entropy of independent labels, averaged over those that are known; zero where none is.

    Args:
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Scores.
        labels (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            1, 0, or NaN where unknown.
        positive_weights (`torch.FloatTensor` of shape `(num_labels,)`, *optional*):
            How much a recording with the label counts; 1 by default.
    """
    losses = F.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(0.0), reduction="none", pos_weight=positive_weights
    )
    return known_mean(losses, ~labels.isnan())


def classification_loss(
    labels: torch.Tensor, logits: torch.Tensor, config: PreTrainedConfig, **kwargs: object
) -> torch.Tensor:
    """
    The loss that `config.problem_type` names: binary cross-entropy of independent labels, where NaN means that a label
    is unknown and counts for nothing; cross-entropy of one class, where -100 means unknown; or mean squared error,
    where NaN means unknown. Zero where nothing is known.

    Args:
        labels (`torch.Tensor`):
            `(batch_size, num_labels)` for several labels and for regression, class numbers `(batch_size,)` for one.
        logits (`torch.FloatTensor` of shape `(batch_size, num_labels)`):
            Scores.
        config ([`PreTrainedConfig`]):
            Holds `problem_type`. Where it is `None` it is set to what [`infer_problem_type`] says, so that a saved
            model tells what its scores are.

    Raises:
        `ValueError`: if the labels have another shape, independent labels do not lie between 0 and 1, or class numbers
            are not whole. On a GPU the range is asserted on the device, which does not wait for it.
    """
    if config.problem_type is None:
        config.problem_type = infer_problem_type(config, labels)  # type: ignore[assignment]
    logits = logits.float()
    if config.problem_type == "single_label_classification":
        _expect_shape(labels, (logits.shape[0],))
        if labels.is_floating_point():
            raise ValueError(
                "labels are class numbers with problem_type='single_label_classification' and must be whole numbers, "
                f"got {labels.dtype}: pass labels.long(), or set another problem_type."
            )
        labels = labels.to(logits.device).long()
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED_LABEL)
        return known_mean(losses, labels != IGNORED_LABEL)

    if config.problem_type == "regression":
        if logits.shape[1] == 1 and labels.ndim == 1:
            labels = labels[:, None]
        _expect_shape(labels, tuple(logits.shape))
        labels = labels.to(logits)
        return known_mean(F.mse_loss(logits, labels.nan_to_num(0.0), reduction="none"), ~labels.isnan())

    _expect_shape(labels, tuple(logits.shape))
    _expect_shares(labels)
    return known_binary_cross_entropy(logits, labels.to(logits))


def _expect_shape(labels: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tuple(labels.shape) != shape:
        raise ValueError(f"labels must have shape {shape} for these recordings, got {tuple(labels.shape)}.")


def _expect_shares(labels: torch.Tensor) -> None:
    fit = (((labels >= 0) & (labels <= 1)) | labels.isnan()).all()
    message = (
        "labels must lie between 0 and 1, or be NaN, with problem_type='multi_label_classification': set "
        "problem_type='regression' for values such as an age, or 'single_label_classification' for class numbers."
    )
    # Not every kind of device can assert without waiting for it.
    fit = fit if fit.device.type in ("cpu", "cuda", "meta") else fit.cpu()
    try:
        torch._assert_async(fit, message)
    except RuntimeError as error:
        raise ValueError(message) from error


__all__ = [
    "IGNORED_LABEL",
    "classification_loss",
    "infer_problem_type",
    "known_binary_cross_entropy",
    "known_mean",
]
