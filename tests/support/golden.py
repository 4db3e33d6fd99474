"""Golden numbers of the published code: where they are and how to read them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

_TESTS = Path(__file__).resolve().parents[1]


def golden_path(name: str) -> Path:
    """Path of a golden file or folder; skips the test where a set that is not carried here is missing.

    Looked for in the folder named by HYSAC_GOLDEN, in tests/data/golden, and in ../shared/golden beside the checkout.
    """
    folders = [_TESTS / "data" / "golden", _TESTS.parents[1] / "shared" / "golden"]
    if chosen := os.environ.get("HYSAC_GOLDEN"):
        folders.insert(0, Path(chosen))
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"golden set {name!r} is not here; name the folder that holds it in HYSAC_GOLDEN")


def load_golden(name: str) -> dict[str, np.ndarray]:
    """Arrays of the golden set ``name`` (without ``.npz``)."""
    with np.load(golden_path(f"{name}.npz")) as archive:
        return {key: archive[key] for key in archive.files}


def relative_error(got: object, expected: np.ndarray) -> np.ndarray:
    """|got − expected| / max(1, |expected|), the measure in which all tolerances are stated."""
    return np.abs(np.asarray(got, dtype=np.float64) - expected) / np.maximum(1.0, np.abs(expected))
