"""Recordings that several files train on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import datasets
import pytest
from small_models import LABELS

from clear_hug_hf import ClearHugFeatureExtractor, Recording
from clear_hug_hf.data.preparation import prepare


@pytest.fixture(scope="session")
def make_rows(make_recordings: Callable[..., list[Recording]]) -> Callable[[int], datasets.Dataset]:
    """Prepared recordings with their labels, of so many patients; no test changes them."""

    @functools.cache
    def make(num_patients: int) -> datasets.Dataset:
        return prepare(make_recordings(num_patients), ClearHugFeatureExtractor(), LABELS, progress=False).dataset

    return make


@pytest.fixture(scope="session")
def dataset(make_rows: Callable[[int], datasets.Dataset]) -> datasets.Dataset:
    return make_rows(18)
