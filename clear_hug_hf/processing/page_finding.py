"""Finding the ECG page in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FoundPage:
    image: np.ndarray


def find_page(image: np.ndarray) -> FoundPage:
    return FoundPage(image)
