"""Views of an item: what of it the model sees, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Views:
    """Views of one item, k ≥ 1; the first is the one that its vector is made of.

    Attributes:
        names: Their names, k of them.
        rows: What the model takes: pixels (k, size, size, 3) uint8, or token ids (k, context_length) int64.
    """

    names: tuple[str, ...]
    rows: NDArray[Any]
