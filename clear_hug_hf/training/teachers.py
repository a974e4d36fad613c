"""What teachers make of recordings: computed once before training, since they stay as they are."""

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
from .processes import connect_processes, gather_shares, own_share


def make_tokenizer(config: Any, text: str | None = None) -> Any:
    """
    The tokenizer of a model's text encoder.

    Args:
        config ([`PreTrainedConfig`]): The model's, with the `text_config` of its text encoder, if it has one.
        text (`str`, *optional*): Name or folder of the text encoder, which holds its tokenizer. Without it, the one
            that reads bytes, for which the presets' text encoders are made.

    Returns:
        A tokenizer, or `None` where the model reads no texts.

    Raises:
        InputError: If the tokenizer cannot be loaded, or the encoder has fewer embeddings than it has tokens.
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
            f"it has {len(tokenizer)} tokens and the text encoder {config.text_config.vocab_size}: name the "
            "text encoder that it belongs to"
        )
    return tokenizer


@torch.no_grad()
def add_signal_embeds(
    dataset: datasets.Dataset, model: Any, folder: str | Path, batch_size: int = 64, progress: bool = True
) -> datasets.Dataset:
    """
    A prepared dataset with the column `signal_embeds`: what the signal teacher makes of each row. Launched processes
    compute a share each.

    Args:
        dataset ([`datasets.Dataset`]): Prepared for the model.
        model ([`PreTrainedModel`]): Holds the teacher, which computes on the device of this process.
        folder (`str` or `Path`): The teacher's folder, for its feature extractor.
        batch_size (`int`, *optional*, defaults to 64): Rows at a time.
        progress (`bool`, *optional*, defaults to `True`): Whether to show a progress bar.

    Raises:
        InputError: If the dataset is a stream, or a row cannot be read by the teacher.
    """
    if isinstance(dataset, datasets.IterableDataset):
        raise InputError(
            "a stream has no column for what a teacher makes of it: train from a prepared folder without --streaming"
        )
    extractor = load_feature_extractor(find_model_folder(folder))
    connect_processes()
    state, before = PartialState(), model.device
    model.eval()
    model.signal_model.to(state.device)
    found = []
    read = ["signal", "signal_scale", "r_peaks", "lead_mask", "sampling_rate", "unit"]
    rows = dataset.select_columns(read).with_format("numpy")
    share = own_share(range(len(rows)))
    shown = progress and state.is_main_process
    for start in tqdm(range(0, len(share), batch_size), desc="signal teacher", unit="batch", disable=not shown):
        signals, names = [], []
        batch = [rows[index] for index in share[start : start + batch_size]]
        for row in batch:
            signal, _, present = read_row(row)
            signals.append(signal[present])
            names.append([name for name, there in zip(STANDARD_LEADS, present, strict=True) if there])
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
        found.append(model.encode_signals(**inputs).float().cpu())
    model.signal_model.to(before)
    width = model.config.signal_embed_dim
    embeds = gather_shares(found).numpy() if len(rows) else np.zeros((0, width), dtype=np.float32)
    feature = datasets.List(datasets.Value("float32"), length=width)
    return dataset.add_column(SIGNAL_EMBEDS, list(embeds), feature=feature)
