"""Which recordings a classifier's encoder maps far from those that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.splits import patient_folds, patient_keys
from ..modeling.modeling_ecg import EcgModelOutput, Familiarity, masked_mean
from ..processing.errors import InputError
from .features import EncodedDataset


MIN_RECORDINGS = 50
FALSE_ALARM_RATE = 0.01
"""Fraction of the training recordings, predicted in a cross-validation by patient, whose distance exceeds 1."""
_NUM_FOLDS = 5
# Components, and numbers of each kind of feature, which bound the stored size to about 260 kB.
_MAX_RANK, _MAX_POOLED_SIZE, _MAX_LEADS_SIZE = 64, 15_000, 48_000


class FittedPart(NamedTuple):
    """
    A low-rank Gaussian of one kind of feature, see [`Familiarity`].

    Args:
        mean (`np.ndarray` of shape `(size,)`): Mean of the training recordings.
        components (`np.ndarray` of shape `(rank, size)`): Their principal components.
        scales (`np.ndarray` of shape `(rank + 1,)`): Inverse standard deviation along each component, and the mean one
            in the remaining directions.
    """

    mean: np.ndarray
    components: np.ndarray
    scales: np.ndarray


def fit_familiarity(
    model: Any,
    training: EncodedDataset,
    record_ids: Sequence[str],
    patient_ids: Sequence[str | None],
    held_out: EncodedDataset | None = None,
) -> None:
    """
    Give a classifier the module [`Familiarity`], with the distance that [`FALSE_ALARM_RATE`] of the training
    recordings exceed in a cross-validation by patient as unit.

    Args:
        model ([`PreTrainedModel`]): A classifier.
        training ([`EncodedDataset`]): Features of its training recordings, an item for each.
        record_ids, patient_ids (`Sequence`): Recording and patient of each.
        held_out ([`EncodedDataset`], *optional*): Features of recordings of the same source and other patients, which
            measure the false-alarm rate that the config states. Without them the config states none: that of the
            training recordings is [`FALSE_ALARM_RATE`] by construction.

    Raises:
        InputError: If there are fewer than [`MIN_RECORDINGS`] training recordings, or fewer than five patients.
    """
    check_enough(record_ids, patient_ids)
    states, present = training.columns["lead_states"].float(), training.columns["present"].bool()
    leads, lead_mean = _centered_leads(states, present)
    parts = {"pooled": masked_mean(states, present).double().numpy(), "leads": leads}
    if states.shape[1] == 1:
        # The pooled feature is that of the only row.
        del parts["leads"]
    folds = patient_folds(record_ids, patient_ids, _NUM_FOLDS)
    fitted, distances = {}, []
    for name, rows in parts.items():
        max_size = _MAX_POOLED_SIZE if name == "pooled" else _MAX_LEADS_SIZE
        rank = max(1, min(_MAX_RANK, max_size // rows.shape[1], len(rows) // 4, rows.shape[1] - 1))
        out_of_fold = np.empty(len(rows))
        for fold in range(_NUM_FOLDS):
            out_of_fold[folds == fold] = _distances(_fit(rows[folds != fold], rank), rows[folds == fold])
        unit = np.quantile(out_of_fold, 1 - FALSE_ALARM_RATE)
        distances.append(out_of_fold / unit)
        part = _fit(rows, rank)
        fitted[name] = part._replace(scales=part.scales / unit)
    largest = np.max(distances, axis=0)
    unit = np.quantile(largest, 1 - FALSE_ALARM_RATE)
    config = {f"{name}_rank": len(part.components) for name, part in fitted.items()}
    model.config.familiarity = {
        "num_rows": states.shape[1],
        **config,
    }
    model.familiarity = Familiarity(model.config)
    for name, part in fitted.items():
        mean = part.mean if name == "pooled" else part.mean + lead_mean.ravel()
        values = {"mean": mean, "components": part.components, "scales": part.scales / unit}
        for kind, value in values.items():
            getattr(model.familiarity, f"{name}_{kind}").copy_(torch.from_numpy(value))
    model.familiarity.to(device=model.device, dtype=model.dtype)
    if held_out is not None:
        measured = familiarity_distances(model, held_out)
        model.config.familiarity |= {
            "false_alarm_rate": float((measured > 1).mean()),
            "num_recordings": len(measured),
        }


def check_enough(record_ids: Sequence[str], patient_ids: Sequence[str | None]) -> None:
    """Raise `InputError` if training recordings are fewer than [`MIN_RECORDINGS`], or of fewer than five patients."""
    num_patients = len(set(patient_keys(record_ids, patient_ids)))
    for count, what, least in (
        (len(record_ids), "training recordings", MIN_RECORDINGS),
        (num_patients, "patients with training recordings", _NUM_FOLDS),
    ):
        if count < least:
            raise InputError(
                f"there are {count} {what}: at least {least} are needed to tell which recordings are unlike them"
            )


def remove_familiarity(model: Any) -> None:
    """Remove the module [`Familiarity`] of a classifier, if it has one, and its sizes in the config."""
    model.config.familiarity = model.familiarity = None


@torch.no_grad()
def familiarity_distances(model: Any, encoded: EncodedDataset) -> np.ndarray:
    """Distance `(num_recordings,)` of encoded recordings from the training recordings of a model."""
    states, present = encoded.columns["lead_states"], encoded.columns["present"]
    outputs = EcgModelOutput(lead_states=states.to(model.device), present_leads=present.to(model.device))
    return np.asarray(model.familiarity(outputs).cpu().numpy())


def _centered_leads(states: torch.Tensor, present: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """States of all leads minus their mean `(num_recordings, num_leads * D)`, 0 where missing, and their mean."""
    weights = present[..., None].double()
    mean = (states * weights).sum(dim=0) / weights.sum(dim=0).clamp(min=1)
    return ((states - mean) * weights).flatten(1).numpy(), mean.numpy()


def _fit(rows: np.ndarray, rank: int) -> FittedPart:
    mean = rows.mean(axis=0)
    _, singular_values, components = np.linalg.svd(rows - mean, full_matrices=False)
    variances = np.maximum(singular_values**2 / (len(rows) - 1), 1e-12)
    # Without recordings for all directions, the variance of the others is shared by all that remain.
    rest = max(variances[rank:].sum() / (rows.shape[1] - rank), 1e-12)
    return FittedPart(mean, components[:rank], np.append(variances[:rank], rest) ** -0.5)


def _distances(part: FittedPart, rows: np.ndarray) -> np.ndarray:
    centered = rows - part.mean
    scores = centered @ part.components.T
    remaining = np.maximum((centered**2).sum(axis=1) - (scores**2).sum(axis=1), 0.0)
    return np.sqrt(((scores * part.scales[:-1]) ** 2).sum(axis=1) + remaining * part.scales[-1] ** 2)
