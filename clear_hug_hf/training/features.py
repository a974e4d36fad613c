"""What a frozen encoder makes of recordings: computed once, kept on disk by what it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
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
from ..utils.files import atomic_file, check_writable
from .processes import gather_shares, own_share


class EncodedDataset(Dataset):
    """
    Features of recordings with their labels: items with `lead_states` `(num_leads, hidden_size)`, `present`
    `(num_leads,)` and `labels` `(num_labels,)`.

    Args:
        columns (`dict[str, torch.Tensor]`): Each with one row per recording.
    """

    def __init__(self, columns: dict[str, torch.Tensor]):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """A whole batch at once, for a loader with [`as_it_is`] as its collator."""
        chosen = torch.as_tensor(indices)
        return {name: column[chosen] for name, column in self.columns.items()}

    def select(self, indices: Sequence[int]) -> EncodedDataset:
        """The recordings at some positions."""
        return EncodedDataset(self.__getitems__(list(indices)))


def as_it_is(batch: Any) -> Any:
    """A collator for datasets that make whole batches."""
    return batch


def default_cache() -> Path:
    """Folder of kept features: `clear_hug_features` beside the caches of Hugging Face (`HF_HOME`)."""
    return Path(HF_HOME) / "clear_hug_features"


def encode(
    model: PreTrainedModel,
    dataset: datasets.Dataset,
    collator: EcgCollator,
    batch_size: int = 64,
    progress: bool = False,
    cache_dir: str | Path | None = None,
) -> EncodedDataset:
    """
    Read every recording once with the encoder, without dropout; or take what an earlier call kept. Connected processes
    read a share each, and get the features of all.

    Args:
        model ([`PreTrainedModel`]): Its encoder is used, on the device that it is on.
        dataset ([`datasets.Dataset`]): As `prepare` makes it.
        collator ([`EcgCollator`]): Makes the batches and labels. If it reads `all_beats`, the features of a row are
            the mean over its windows.
        batch_size (`int`, *optional*, defaults to `64`): Recordings at a time.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.
        cache_dir (`str` or `Path`, *optional*): Where features are kept, under the [`features_key`] of encoder,
            feature extractor and recordings. Not kept without it. A file that is damaged is made anew.

    Raises:
        InputError: If `cache_dir` cannot be written.
    """
    labels = dataset_labels(dataset, collator.label_names)
    path = None
    if cache_dir is not None:
        check_writable(cache_dir)
        path = Path(cache_dir) / f"{features_key(model, dataset, collator)}.safetensors"
        kept = _read(path, len(dataset))
        # Processes encode together or not at all.
        if all(gather_object([kept is not None])) and kept is not None:
            return EncodedDataset({**kept, "labels": labels})
    columns = _encode(model, dataset, collator, batch_size, progress)
    if path is not None and PartialState().is_main_process:
        with atomic_file(path) as partial:
            save_file(columns, partial)
    return EncodedDataset({**columns, "labels": labels})


@torch.no_grad()
def _encode(
    model: PreTrainedModel, dataset: datasets.Dataset, collator: EcgCollator, batch_size: int, progress: bool
) -> dict[str, torch.Tensor]:
    model.eval()
    parts: dict[str, list[torch.Tensor]] = {"lead_states": [], "present": []}
    only = EcgCollator(collator.feature_extractor, (), trim=collator.trim, all_beats=collator.all_beats)
    # Recordings with like many beats together need less padding, and padding costs as much as beats.
    order = sorted(range(len(dataset)), key=[len(peaks) for peaks in dataset["r_peaks"]].__getitem__)
    rows = dataset.select_columns(only.columns).with_format("numpy").select(own_share(order))
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=only)
    shown = progress and PartialState().is_main_process
    for batch in tqdm(loader, desc="encode", unit="batch", disable=not shown):
        of = batch.pop("rows", None)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        encoded = model.base_model(**batch)
        states, present = encoded.lead_states.float().cpu(), encoded.present_leads.cpu()
        if of is not None:
            # Windows of one row are of the same leads, and each has beats.
            states, present = collator.mean_by_row(states, of), collator.mean_by_row(present.float(), of) > 0
        parts["lead_states"].append(states)
        parts["present"].append(present)
    back = torch.as_tensor(order).argsort()
    return {name: gather_shares(part)[back] for name, part in parts.items()}


def dataset_labels(dataset: datasets.Dataset, label_names: Sequence[str] | None) -> torch.Tensor:
    """Labels of a prepared dataset as `(num_recordings, num_labels)`: 1, 0, or NaN where unknown."""
    names = list(dataset.features["labels"]) if label_names is None else list(label_names)
    return torch.tensor(
        [[float("nan") if row[name] is None else float(row[name]) for name in names] for row in dataset["labels"]]
        if names
        else [[] for _ in range(len(dataset))],
        dtype=torch.float32,
    )


def features_key(model: PreTrainedModel, dataset: datasets.Dataset, collator: EcgCollator) -> str:
    """
    Hexadecimal name of the features of a dataset: another encoder weight or config, another sample, peak or order of
    the recordings, or another setting of the feature extractor gives another name. Head and labels do not count.
    """
    read = (weights_digest(model.base_model), dataset_digest(dataset), extractor_settings(collator.feature_extractor))
    return digest_of(*read, *(["all beats"] if collator.all_beats else []))


def _read(path: Path, count: int) -> dict[str, torch.Tensor] | None:
    try:
        columns = load_file(path)
    except (OSError, SafetensorError):
        return None
    fits = set(columns) == {"lead_states", "present"} and all(len(one) == count for one in columns.values())
    return columns if fits else None
