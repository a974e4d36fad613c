"""Rows of a prepared dataset to ECG pages with what they are aligned to: signals, embeddings, texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..processing.recording_inputs import StoredWindow
from .augmentation import AugmentingCollator
from .texts import row_text, text_id


LAYOUT_PROBABILITIES: Mapping[str, float] = {"3x4": 0.6, "6x2": 0.2, "12x1": 0.2}
"""How often pages of each layout are drawn in training: our choice, since no paper says it."""
SIGNAL_EMBEDS = "signal_embeds"
"""The column that [`add_signal_embeds`] adds to a dataset: what the signal teacher makes of a row."""


class PageCollator(AugmentingCollator):
    """
    Draws the pages of a batch, for training each time anew: layout, style and how the page was photographed follow
    from the seed of its recording, so that a run goes on from a checkpoint as if it had never stopped.

    A batch has `pixel_values` `(batch_size, 3, height, width)`; `labels` where asked for; with targets `waveforms`
    `(batch_size, 12, num_samples)` [mV] with `drawn_mask` and `signal_mask` of the same shape, `identity_mask`
    `(batch_size,)`, `signal_embeds` `(batch_size, width)` where there are any, and with a tokenizer `input_ids`,
    `attention_mask`, `text_mask` and `text_ids`.

    Args:
        feature_extractor ([`EcgFeatureExtractor`]): Of a model that reads pages.
        label_names (`Sequence[str]`, *optional*, defaults to `()`): As [`EcgCollator`].
        tokenizer (*optional*): Of the text tower. Without it the batch has no texts.
        with_targets (`bool`, *optional*, defaults to `False`): Whether the batch has what pre-training needs beside
            the pages: signals and masks, and texts, which are those of [`add_text_column`].
        with_signals (`bool`, *optional*, defaults to `False`): With targets, whether also the column `signal_embeds`.
        augmentation (`float`, *optional*, defaults to `1.0`): Strength of the augmentations (see `augment_page`); 0
            draws clean pages of every layout and style.
        random (`bool`, *optional*, defaults to `False`): Whether pages without seeds are drawn from torch's own
            generator. Otherwise they are the clean pages of `feature_extractor.layout`, always the same.
        max_text_length (`int`, *optional*, defaults to `256`): Tokens after which a text is cut.
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
        """`list[str]`: As [`EcgCollator`], with what texts are made of."""
        read = super().columns
        texts = ["report"] if self.with_targets and self.tokenizer is not None else []
        return [*read, *texts, *([SIGNAL_EMBEDS] if self.with_signals else [])]

    def _cut(
        self, windows: Sequence[StoredWindow], generators: Sequence[np.random.Generator] | None = None
    ) -> dict[str, np.ndarray]:
        chosen: dict[str, Any] = {"return_targets": self.with_targets}
        if generators is not None:
            names, shares = list(LAYOUT_PROBABILITIES), list(LAYOUT_PROBABILITIES.values())
            layouts = [str(generator.choice(names, p=shares)) for generator in generators]
            chosen |= {"layouts": layouts, "generators": generators, "strength": self.augmentation}
        return self.feature_extractor.cut(*zip(*windows, strict=True), **chosen)

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
