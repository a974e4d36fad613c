"""Collate rows of a prepared dataset into a batch of model inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..processing.errors import InputError
from ..processing.feature_extraction_ecg import EcgFeatureExtractor
from ..processing.recording_inputs import StoredWindow, read_row


class EcgCollator:
    """
    Computes the model inputs of a batch, such as beats, from the stored signals and R peaks in one vectorized step.

    Args:
        feature_extractor ([`EcgFeatureExtractor`]): The one that the dataset was prepared with.
        label_names (`Sequence[str]`, *optional*): Labels of the batch, in the order of the model's outputs. Defaults
            to all labels of the rows, in their order; an empty sequence omits the labels.
        trim (`bool`, *optional*, defaults to `True`): Whether to pad the batch to its longest recording instead of
            `num_beats`. The model's output is the same.
        all_beats (`bool`, *optional*, defaults to `False`): Whether a row with more beats than the model reads at once
            becomes several windows, as prediction requires. Otherwise only its first beats are used, as in training.
            The batch then also has `rows` `(num_windows,)`, the index of the row of each window.
    """

    def __init__(
        self,
        feature_extractor: EcgFeatureExtractor,
        label_names: Sequence[str] | None = None,
        trim: bool = True,
        all_beats: bool = False,
    ):
        self.all_beats = all_beats
        self.feature_extractor = feature_extractor
        self.label_names = None if label_names is None else list(label_names)
        self.trim = trim

    @property
    def columns(self) -> list[str]:
        """`list[str]`: Columns of a prepared dataset that the collator needs; reading only these saves time."""
        columns = ["sampling_rate", "signal", "signal_scale", "lead_mask", "r_peaks"]
        return columns if self.label_names == [] else [*columns, "labels"]

    def length(self, row: Mapping[str, Any]) -> int:
        """Number of beats of a row that the model reads. Batches of rows of similar length need little padding."""
        return self.feature_extractor.row_length(row)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Collate rows.

        Args:
            rows (`Sequence[Mapping]`): Rows of a prepared dataset, with lists or arrays.

        Returns:
            `dict[str, torch.Tensor]`: Outputs of the feature extractor, such as `input_values` `(batch_size, 12,
            num_beats, beat_length)` float32, `attention_mask` `(batch_size, num_beats)` bool and `lead_mask`
            `(batch_size, 12)` bool; and, with labels, `labels` `(batch_size, num_labels)` float32.

        Raises:
            InputError: If the sampling rate of the rows differs from that of the feature extractor, a label is
                missing, or a value is invalid.
        """
        return self._batch(self._cut(self._read(rows)), rows)

    def _read(self, rows: Sequence[Mapping[str, Any]]) -> list[StoredWindow]:
        rate = float(rows[0]["sampling_rate"])
        if rate != self.feature_extractor.sampling_rate:
            raise InputError(
                f"the dataset was prepared at {rate:g} Hz and the model expects "
                f"{self.feature_extractor.sampling_rate:g} Hz: prepare it with the model's feature extractor"
            )
        return [read_row(row) for row in rows]

    def _cut(self, windows: Sequence[StoredWindow]) -> dict[str, np.ndarray]:
        inputs = zip(*windows, strict=True)
        features, parts = self.feature_extractor.make_inputs(*inputs, all_beats=self.all_beats)
        if self.all_beats:
            features["rows"] = np.array([part.window for part in parts])
        return self.feature_extractor.trim(features) if self.trim else features

    def _batch(self, features: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The features of rows as tensors, with their labels."""
        batch = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in features.items()}
        names = list(rows[0].get("labels") or ()) if self.label_names is None else self.label_names
        if names:
            batch["labels"] = torch.tensor(self._labels(rows, names), dtype=torch.float32)
        return batch

    @staticmethod
    def mean_by_row(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """
        Average over the windows of each row of a batch.

        Args:
            values (`torch.FloatTensor` of shape `(num_windows, ...)`): Values of the windows.
            rows (`torch.LongTensor` of shape `(num_windows,)`): `rows` of a batch with `all_beats`.

        Returns:
            `torch.FloatTensor` of shape `(num_rows, ...)`.
        """
        count = torch.bincount(rows)
        total = values.new_zeros((len(count), *values.shape[1:])).index_add_(0, rows, values)
        return total / count.reshape(-1, *[1] * (values.ndim - 1))

    @staticmethod
    def _labels(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[float]]:
        known = rows[0].get("labels") or {}
        if missing := [name for name in names if name not in known]:
            raise InputError(f"the dataset has no label {missing[0]!r}: choose from {', '.join(known) or 'none'}")
        return [
            [float("nan") if row["labels"][name] is None else float(row["labels"][name]) for name in names]
            for row in rows
        ]
