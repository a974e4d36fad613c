"""Draw rows of a prepared dataset as ECG pages, with the targets that pages are aligned to: signals and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..processing.recording_inputs import StoredWindow
from .augmentation import AugmentingCollator
from .texts import row_text, text_id


LAYOUT_PROBABILITIES: Mapping[str, float] = {"3x4": 0.6, "6x2": 0.2, "12x1": 0.2}
"""Probability of each page layout in training; our choice, which no paper specifies."""
SIGNAL_EMBEDS = "signal_embeds"
"""The column that [`add_signal_embeds`] adds to a dataset: the signal teacher's embedding of each row."""


class PageCollator(AugmentingCollator):
    """
    Draws the pages of a batch. In training, the seed of each recording determines layout, style and photographic
    distortions, so that pages differ in every epoch and a run resumes from a checkpoint exactly.

    A batch has `pixel_values` `(batch_size, 3, height, width)`, and `labels` if requested. With targets it also has
    `waveforms` `(batch_size, 12, num_samples)` [mV], `drawn_mask` and `signal_mask` of the same shape, `identity_mask`
    `(batch_size,)`, `signal_embeds` `(batch_size, width)` if requested, and with a tokenizer `input_ids`,
    `attention_mask`, `text_mask` and `text_ids`.

    Args:
        feature_extractor ([`EcgFeatureExtractor`]): Feature extractor of a model that reads pages.
        label_names (`Sequence[str]`, *optional*, defaults to `()`): As [`EcgCollator`].
        tokenizer (*optional*): Tokenizer of the text tower. Without it the batch has no texts.
        with_targets (`bool`, *optional*, defaults to `False`): Whether to add the targets of pre-training: signals,
            masks and the texts of [`add_text_column`].
        with_signals (`bool`, *optional*, defaults to `False`): Whether the targets include `signal_embeds`.
        augmentation (`float`, *optional*, defaults to `1.0`): Strength of the augmentations (see `augment_page`). With
            0, pages are clean, but layout and style still vary.
        random (`bool`, *optional*, defaults to `False`): Whether to draw random pages without seeds, too, with torch's
            global generator. Otherwise pages without seeds are clean and have the layout of the feature extractor.
        max_text_length (`int`, *optional*, defaults to `256`): Longest text [tokens]; longer ones are truncated.
    """

    def __init__(
        self,
        feature_extractor: Any,
        label_names: Sequence[str] | None = (),
        tokenizer: Any = None,
        *,
        with_targets: bool = False,
        with_signals: bool = False,
        augmentation: float = 1.0,
        random: bool = False,
        max_text_length: int = 256,
    ):
        super().__init__(feature_extractor, label_names, augmentation=augmentation, random=random)
        self.tokenizer = tokenizer
        self.with_targets = with_targets
        self.with_signals = with_signals
        self.max_text_length = max_text_length

    @property
    def columns(self) -> list[str]:
        """`list[str]`: As [`EcgCollator`], with the columns of texts and signal embeddings."""
        texts = ["report"] if self.with_targets and self.tokenizer is not None else []
        return [*super().columns, *texts, *([SIGNAL_EMBEDS] if self.with_signals else [])]

    def _cut(
        self, windows: Sequence[StoredWindow], generators: Sequence[np.random.Generator] | None = None
    ) -> dict[str, np.ndarray]:
        options: dict[str, Any] = {"return_targets": self.with_targets}
        if generators is not None:
            names, probabilities = list(LAYOUT_PROBABILITIES), list(LAYOUT_PROBABILITIES.values())
            layouts = [str(generator.choice(names, p=probabilities)) for generator in generators]
            options |= {"layouts": layouts, "generators": generators, "strength": self.augmentation}
        features, _ = self.feature_extractor.make_inputs(*zip(*windows, strict=True), **options)
        return features

    def _batch(self, features: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch = super()._batch(features, rows)
        if self.with_targets:
            if self.with_signals:
                embeds = np.stack([np.asarray(row[SIGNAL_EMBEDS], dtype=np.float32) for row in rows])
                batch[SIGNAL_EMBEDS] = torch.from_numpy(embeds)
            if self.tokenizer is not None:
                batch |= self._texts(rows)
        return batch

    def _texts(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        texts = [row_text(row) for row in rows]
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_text_length, return_tensors="pt"
        )
        ids = torch.tensor([text_id(text) for text in texts])
        return {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "text_mask": ids >= 0,
            "text_ids": ids,
        }
