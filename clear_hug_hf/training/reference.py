"""
Baselines of pre-trained models on the signal: a supervised 1-D ResNet, and the features of MiniRocket.

They are trained on the same prepared recordings and labels; the epoch of the ResNet and the penalty of the regression
on MiniRocket's features are chosen by the same validation macro AUROC. They are neither saved nor published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import nn
from transformers import set_seed

from ..modeling.modeling_ecg import masked_binary_cross_entropy
from ..processing.errors import import_library
from .arguments import REFERENCE, FinetuningArguments
from .features import EncodedDataset, dataset_labels, identity_collator
from .finetuning import train_with_trainer
from .pretraining import decay_groups


class ResidualBlock(nn.Module):
    """Two 1-D convolutions with batch normalization and a shortcut (He et al., 2016, section 3)."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.convolution1 = nn.Conv1d(inputs, width, 7, stride, 3, bias=False)
        self.norm1 = nn.BatchNorm1d(width)
        self.convolution2 = nn.Conv1d(width, width, 7, 1, 3, bias=False)
        self.norm2 = nn.BatchNorm1d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv1d(inputs, width, 1, stride, bias=False), nn.BatchNorm1d(width))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(batch_size, inputs, length)` to `(batch_size, width, length / stride)`."""
        hidden = F.relu(self.norm1(self.convolution1(states)))
        return F.relu(self.norm2(self.convolution2(hidden)) + self.shortcut(states))


class ResNet1d(nn.Module):
    """
    An 18-layer ResNet over time with the leads as input channels. The feature is the mean and maximum over time, with
    a dropout of 0.3. The first convolution spans 15 samples, all others 7.

    Args:
        num_labels (`int`): Number of labels.
        num_leads (`int`, *optional*, defaults to 12): Number of leads.
        widths (`Sequence[int]`, *optional*, defaults to 64, 96, 128, 192): Channels of the stages, of two blocks each.
    """

    def __init__(self, num_labels: int, num_leads: int = 12, widths: Sequence[int] = (64, 96, 128, 192)):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(num_leads, widths[0], 15, 2, 7, bias=False),
            nn.BatchNorm1d(widths[0]),
            nn.ReLU(),
            nn.MaxPool1d(3, 2, 1),
        )
        blocks = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(2):
                stride = 2 if stage and not block else 1
                blocks.append(ResidualBlock(inputs, width, stride))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Linear(2 * inputs, num_labels)

    def forward(self, signal: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """
        Args:
            signal (`torch.Tensor` of shape `(batch_size, num_leads, num_samples)`): Standardized leads.
            labels (`torch.Tensor` of shape `(batch_size, num_labels)`, *optional*): 1, 0, or NaN if unknown.
        """
        states = self.blocks(self.stem(signal))
        feature = torch.cat((states.mean(dim=2), states.amax(dim=2)), dim=1)
        logits = self.classifier(self.dropout(feature))
        if labels is None:
            return {"logits": logits}
        return {"loss": masked_binary_cross_entropy(logits, labels), "logits": logits}


def signal_dataset(dataset: datasets.Dataset, label_names: Sequence[str], num_samples: int) -> EncodedDataset:
    """
    Signals and labels of prepared recordings.

    Args:
        dataset ([`datasets.Dataset`]): Prepared recordings.
        label_names (`Sequence[str]`): Labels, in the order of the outputs.
        num_samples (`int`): Length to which signals are cut or zero-padded.

    Returns:
        [`EncodedDataset`]: Items with `signal` `(num_leads, num_samples)`, whose leads are standardized since sources
        differ in units, and `labels`.
    """
    signals = np.zeros((len(dataset), len(dataset[0]["signal"]), num_samples), dtype=np.float32)
    for row, recording in enumerate(dataset.select_columns(["signal"]).with_format("numpy")):
        signal = np.asarray(recording["signal"], dtype=np.float32)[:, :num_samples]
        signal = signal - signal.mean(axis=1, keepdims=True)
        signals[row, :, : signal.shape[1]] = signal / np.maximum(signal.std(axis=1, keepdims=True), 1e-6)
    labels = dataset_labels(dataset, label_names)
    return EncodedDataset({"signal": torch.from_numpy(signals), "labels": labels})


def train_reference(
    train_set: EncodedDataset, validation_set: EncodedDataset, arguments: FinetuningArguments
) -> tuple[ResNet1d, int, list[dict[str, Any]]]:
    """
    Train the ResNet from random initialization.

    Args:
        train_set, validation_set ([`EncodedDataset`]): Recordings from [`signal_dataset`].
        arguments ([`FinetuningArguments`]): Recipe, such as [`REFERENCE`]; `head_learning_rate` applies to all
            weights.

    Returns:
        `tuple[ResNet1d, int, list[dict]]`: The network of the best epoch, that epoch, and a row per epoch.
    """
    set_seed(arguments.seed)
    signal, labels = train_set.columns["signal"], train_set.columns["labels"]
    model = ResNet1d(labels.shape[1], signal.shape[1]).to(PartialState().device)
    optimizer = torch.optim.AdamW(
        decay_groups(model, arguments.weight_decay), lr=arguments.head_learning_rate or REFERENCE["head_learning_rate"]
    )
    best, history = train_with_trainer(model, train_set, validation_set, identity_collator, optimizer, arguments)
    return model.eval(), best, history


@torch.no_grad()
def predict_reference(model: ResNet1d, dataset: EncodedDataset, batch_size: int = 64) -> np.ndarray:
    """Probabilities of the ResNet, `(num_recordings, num_labels)`."""
    device = next(model.parameters()).device
    batches = dataset.columns["signal"].split(batch_size)
    return np.concatenate([model(batch.to(device))["logits"].sigmoid().cpu().numpy() for batch in batches])


def minirocket_features(
    train_set: EncodedDataset, others: Sequence[EncodedDataset], seed: int = 0, num_features: int = 10_000
) -> list[np.ndarray]:
    """
    Features of MiniRocket (Dempster, Schmidt and Webb, "MiniRocket: A very fast (almost) deterministic transform for
    time series classification", KDD 2021) by aeon: shares of positive values of the signal after dilated convolutions
    with fixed kernels of random leads. Their offsets are quantiles of training recordings.

    Args:
        train_set, others ([`EncodedDataset`]): Recordings from [`signal_dataset`].
        seed (`int`, *optional*, defaults to 0): Seed of the leads and of the recordings that determine offsets.
        num_features (`int`, *optional*, defaults to 10,000): Number of features, rounded down to a multiple of 84.

    Returns:
        `list[np.ndarray]`: Features `(num_recordings, num_features)` of the training recordings and of the others.

    Raises:
        ImportError: If aeon is not installed.
    """
    transforms = import_library("aeon.transformations.collection.convolution_based", "MiniRocket")
    transform = transforms.MiniRocket(n_kernels=num_features, random_state=seed, n_jobs=torch.get_num_threads())
    signals = [part.columns["signal"].numpy() for part in (train_set, *others)]
    transform.fit(signals[0])
    return [np.asarray(transform.transform(signal)) for signal in signals]
