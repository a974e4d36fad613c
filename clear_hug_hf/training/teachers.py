"""Frozen teachers: tokenizers, and embeddings of recordings that are computed once before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import AutoTokenizer, ByT5Tokenizer

from ..data.model_files import load_feature_extractor
from ..data.pages import SIGNAL_EMBEDS
from ..processing.errors import InputError
from ..processing.leads import STANDARD_LEADS
from ..processing.recording_inputs import read_row
from .folders import find_model_folder
from .processes import connect_processes, gather_rows, process_rows


def make_tokenizer(config: Any, text: str | None = None) -> Any:
    """
    The tokenizer of a model's text encoder.

    Args:
        config ([`PreTrainedConfig`]): Config of the model, whose `text_config` is that of the text encoder, if any.
        text (`str`, *optional*): Name or folder of a pre-trained text encoder with its tokenizer (default: the
            byte-level tokenizer of the presets).

    Returns:
        A tokenizer, or `None` if the model reads no texts.

    Raises:
        InputError: If the tokenizer cannot be loaded, or has more tokens than the text encoder has embeddings.
    """
    if config.text_config is None:
        return None
    if text is None:
        tokenizer: Any = ByT5Tokenizer(extra_ids=0)
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(text)
        except (OSError, ValueError) as error:
            raise InputError(f"the tokenizer of {text} cannot be loaded: {str(error).splitlines()[0]}") from error
    if len(tokenizer) > config.text_config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens and the text encoder {config.text_config.vocab_size}: use the "
            "tokenizer of this text encoder"
        )
    return tokenizer


@torch.no_grad()
def add_signal_embeds(
    dataset: datasets.Dataset, model: Any, folder: str | Path, batch_size: int = 64, progress: bool = True
) -> datasets.Dataset:
    """
    Add the column `signal_embeds`, the signal teacher's embedding of each row, to a prepared dataset. Several
    processes divide the rows.

    Args:
        dataset ([`datasets.Dataset`]): Recordings prepared for the model.
        model ([`PreTrainedModel`]): Model with the teacher, which computes on the device of this process.
        folder (`str` or `Path`): Folder of the teacher, for its feature extractor.
        batch_size (`int`, *optional*, defaults to 64): Rows per batch.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.

    Raises:
        InputError: If the dataset is a stream, or the teacher cannot read a row.
    """
    if isinstance(dataset, datasets.IterableDataset):
        raise InputError(
            "embeddings of a teacher cannot be added to a stream: train from a prepared folder without --streaming"
        )
    extractor = load_feature_extractor(find_model_folder(folder))
    connect_processes()
    state, original_device = PartialState(), model.device
    model.eval()
    model.signal_model.to(state.device)
    embeds = []
    columns = ["signal", "signal_scale", "r_peaks", "lead_mask", "sampling_rate", "unit"]
    rows = dataset.select_columns(columns).with_format("numpy")
    indices = process_rows(range(len(rows)))
    show_progress = progress and state.is_main_process
    for start in tqdm(
        range(0, len(indices), batch_size), desc="signal teacher", unit="batch", disable=not show_progress
    ):
        signals, names = [], []
        batch = [rows[index] for index in indices[start : start + batch_size]]
        for row in batch:
            signal, _, present = read_row(row)
            signals.append(signal[present])
            names.append([name for name, is_present in zip(STANDARD_LEADS, present, strict=True) if is_present])
        inputs = extractor(
            signals,
            sampling_rate=[float(row["sampling_rate"]) for row in batch],
            lead_names=names,
            unit=[str(row["unit"]) for row in batch],
            windows="first",
            on_no_beats="mask",
            return_tensors="pt",
        )
        inputs = {name: tensor.to(state.device) for name, tensor in inputs.items()}
        embeds.append(model.encode_signals(**inputs).float().cpu())
    model.signal_model.to(original_device)
    width = model.config.signal_embed_dim
    column = gather_rows(embeds).numpy() if len(rows) else np.zeros((0, width), dtype=np.float32)
    feature = datasets.List(datasets.Value("float32"), length=width)
    return dataset.add_column(SIGNAL_EMBEDS, list(column), feature=feature)
