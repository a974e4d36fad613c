"""Fixtures that several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real recordings and parity numbers beside the checkout; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared recordings are not beside this checkout ({SHARED.name}/ not found)")
    return SHARED
