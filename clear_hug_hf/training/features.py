"""Features of frozen encoders: computed once, and cached under a digest of all that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.collator import EcgCollator
from ..data.model_files import extractor_settings
from ..inference.digests import dataset_digest, digest_of, weights_digest
from ..modeling.modeling_ecg import masked_mean
from ..processing.rhythm import rhythm_features
from ..utils.files import atomic_file, check_writable
from .processes import process_rows


class EncodedDataset(Dataset):
    """
    Features of recordings with their labels: items with `lead_states` `(num_leads, hidden_size)`, `present`
    `(num_leads,)` and `labels` `(num_labels,)`, for heads that read tokens `last_hidden_state` `(num_tokens,
    hidden_size)` and `token_mask` `(num_tokens,)`, and for classifiers that read rhythm features `rhythm`
    `(num_features,)`. If rows of the prepared dataset have several items, `rows` is the index of the row of each.

    Args:
        columns (`dict[str, torch.Tensor]`): Each with one row per item.
    """

    def __init__(self, columns: dict[str, torch.Tensor]):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    @property
    def num_bytes(self) -> int:
        """`int`: Size of all columns in memory."""
        return sum(column.nbytes for column in self.columns.values())

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A batch, for a loader with [`identity_collator`]."""
        rows = torch.as_tensor(indices)
        return {name: column[rows] for name, column in self.columns.items()}

    def select(self, indices: Sequence[int]) -> EncodedDataset:
        """The dataset of the items at these indices."""
        return EncodedDataset(self.__getitems__(list(indices)))

    def mean_by_row(self, values: torch.Tensor) -> torch.Tensor:
        """Average values of the items, `(num_items, ...)`, over each row: `(num_rows, ...)`."""
        return EcgCollator.mean_by_row(values, self.columns["rows"]) if "rows" in self.columns else values


def identity_collator(batch: Any) -> Any:
    """Collator for datasets whose items are already batches."""
    return batch


def default_cache() -> Path:
    """Default folder of the feature cache: `clear_hug_features` in `HF_HOME`."""
    return Path(HF_HOME) / "clear_hug_features"


def encode(
    model: PreTrainedModel,
    dataset: datasets.Dataset,
    collator: EcgCollator,
    batch_size: int = 64,
    progress: bool = False,
    cache_dir: str | Path | None = None,
    tokens: bool = False,
) -> EncodedDataset:
    """
    Compute the features of all recordings without dropout, or load them from the cache. Several processes divide the
    recordings, and each returns the features of all.

    Args:
        model ([`PreTrainedModel`]): Model whose encoder is used, on its current device.
        dataset ([`datasets.Dataset`]): Prepared recordings.
        collator ([`EcgCollator`]): Collates batches and labels. If it reads `all_beats`, a row with more beats than
            the model reads at once has several items.
        batch_size (`int`, *optional*, defaults to `64`): Recordings per batch.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.
        cache_dir (`str` or `Path`, *optional*): Folder that caches the features under [`features_key`]; damaged files
            are replaced. By default, features are not cached.
        tokens (`bool`, *optional*, defaults to `False`): Whether to keep the states of all tokens too, padded to the
            longest recording. They are not cached.

    Returns:
        [`EncodedDataset`]

    Raises:
        InputError: If `cache_dir` cannot be written.
    """
    of_rows = {"labels": dataset_labels(dataset, collator.label_names)}
    if collator.feature_extractor.rhythm_features:
        of_rows["rhythm"] = dataset_rhythm(dataset, collator.feature_extractor)
    path = None
    if cache_dir is not None:
        check_writable(cache_dir)
        path = Path(cache_dir) / f"{features_key(model, dataset, collator)}.safetensors"
        cached = _read(path, len(dataset), collator.all_beats)
        # Either all processes encode or none.
        if not tokens and all(gather_object([cached is not None])) and cached is not None:
            return _with_rows(cached, of_rows)
    columns = _encode(model, dataset, collator, batch_size, progress, tokens)
    if path is not None and PartialState().is_main_process:
        with atomic_file(path) as partial:
            save_file({name: column for name, column in columns.items() if name in _CACHED}, partial)
    return _with_rows(columns, of_rows)


_CACHED = {"lead_states", "present", "rows"}


def _with_rows(columns: dict[str, torch.Tensor], of_rows: dict[str, torch.Tensor]) -> EncodedDataset:
    """Add columns with one value for each row of the prepared dataset, such as its labels."""
    if "rows" in columns:
        of_rows = {name: column[columns["rows"]] for name, column in of_rows.items()}
    return EncodedDataset({**columns, **of_rows})


@torch.no_grad()
def _encode(
    model: PreTrainedModel,
    dataset: datasets.Dataset,
    collator: EcgCollator,
    batch_size: int,
    progress: bool,
    tokens: bool,
) -> dict[str, torch.Tensor]:
    model.eval()
    parts: dict[str, list[torch.Tensor]] = {"rows": [], "lead_states": [], "present": []}
    extractor = collator.feature_extractor.replace(rhythm_features=())  # encoders do not read them
    unlabeled = EcgCollator(extractor, (), trim=collator.trim, all_beats=collator.all_beats)
    # Batches of recordings with similar numbers of beats need less padding, which costs as much as beats.
    order = process_rows(sorted(range(len(dataset)), key=[len(peaks) for peaks in dataset["r_peaks"]].__getitem__))
    rows = dataset.select_columns(unlabeled.columns).with_format("numpy").select(order)
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=unlabeled)
    show_progress = progress and PartialState().is_main_process
    starts = range(0, len(order), batch_size)
    for start, batch in zip(starts, tqdm(loader, desc="encode", unit="batch", disable=not show_progress), strict=True):
        indices = torch.as_tensor(order[start : start + batch_size])
        parts["rows"].append(indices[batch.pop("rows")] if collator.all_beats else indices)
        encoded = model.base_model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        parts["lead_states"].append(encoded.lead_states.float().cpu())
        parts["present"].append(encoded.present_leads.cpu())
        if tokens:
            token_states = encoded.last_hidden_state.float().cpu()
            mask = torch.ones(token_states.shape[:2], dtype=torch.bool)
            parts.setdefault("last_hidden_state", []).append(token_states)
            parts.setdefault("token_mask", []).append(mask if encoded.token_mask is None else encoded.token_mask.cpu())
    columns = {name: torch.cat(_padded(gather_object(part))) for name, part in parts.items()}
    # Windows of a row stay in order.
    place = columns["rows"].argsort(stable=True)
    return {name: column[place] for name, column in columns.items() if name != "rows" or collator.all_beats}


def _padded(batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tokens of batches, `(batch_size, num_tokens, ...)`, padded to the longest; other tensors as they are."""
    longest = max(batch.shape[1] for batch in batches) if batches[0].ndim > 1 else 0
    return [
        torch.cat((batch, batch.new_zeros(len(batch), longest - batch.shape[1], *batch.shape[2:])), dim=1)
        if batch.ndim > 1 and batch.shape[1] < longest
        else batch
        for batch in batches
    ]


def linear_features(encoded: EncodedDataset) -> np.ndarray:
    """
    What linear models read of recordings: the mean of the states of present leads over all windows of each row, and
    the rhythm features if there are any, `(num_rows, hidden_size + num_features)`.
    """
    columns = [masked_mean(encoded.columns["lead_states"], encoded.columns["present"])]
    if "rhythm" in encoded.columns:
        columns.append(encoded.columns["rhythm"].to(columns[0]))
    return encoded.mean_by_row(torch.cat(columns, dim=1)).numpy()


def known_labels(encoded: EncodedDataset) -> np.ndarray:
    """Labels of recordings with one item each, `(num_rows, num_labels)` in double precision."""
    return encoded.columns["labels"].numpy().astype(np.float64)


def dataset_labels(dataset: datasets.Dataset, label_names: Sequence[str] | None) -> torch.Tensor:
    """Labels of a prepared dataset, `(num_recordings, num_labels)`: 1, 0, or NaN if unknown."""
    names = list(dataset.features["labels"]) if label_names is None else list(label_names)
    return torch.tensor(
        [[float("nan") if row[name] is None else float(row[name]) for name in names] for row in dataset["labels"]]
        if names
        else [[] for _ in range(len(dataset))],
        dtype=torch.float32,
    )


def dataset_rhythm(dataset: datasets.Dataset, feature_extractor: Any) -> torch.Tensor:
    """Rhythm features `(num_recordings, num_features)` of a prepared dataset, of all beats of each row."""
    rows = dataset.select_columns(["r_peaks", "signal"]).with_format("numpy")
    peaks, lengths = zip(*((row["r_peaks"], row["signal"].shape[-1]) for row in rows), strict=True)
    names = feature_extractor.rhythm_features
    return torch.from_numpy(rhythm_features(peaks, lengths, feature_extractor.sampling_rate, names))


def features_key(model: PreTrainedModel, dataset: datasets.Dataset, collator: EcgCollator) -> str:
    """
    Hexadecimal digest of the weights and config of the encoder, the samples, peaks and order of the recordings, and
    the settings of the feature extractor. Head, rhythm features and labels are not part of it.
    """
    settings = extractor_settings(collator.feature_extractor)
    settings.pop("rhythm_features", None)
    parts = (weights_digest(model.base_model), dataset_digest(dataset), settings)
    return digest_of(*parts, *(["all beats"] if collator.all_beats else []))


def _read(path: Path, count: int, all_beats: bool) -> dict[str, torch.Tensor] | None:
    """Cached features of `count` rows; `None` if there are none, or the file is damaged."""
    try:
        columns = load_file(path)
    except (OSError, SafetensorError):
        return None
    expected = _CACHED if all_beats else _CACHED - {"rows"}
    if set(columns) != expected or len({len(column) for column in columns.values()}) != 1:
        return None
    rows = columns["rows"].unique() if all_beats else columns["lead_states"]
    return columns if len(rows) == count else None
