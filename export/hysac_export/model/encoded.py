"""Quadruplets as points: encoded by any model, ready for validation, calibration and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.split import GROUPS, DrawnSplit, Progress, draw_split
from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError

Points = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


class Encodes(Protocol):
    """Encoder of texts and images: the runtime's `Encoder`, a `TrainedRun`, or a `Published` checkpoint."""

    @property
    def curvature(self) -> float:
        """Curvature c > 0 of the space (−c); NaN for a Euclidean model, whose points are unit vectors."""

    def encode_text(self, texts: list[str], /) -> Points:
        """Points of n texts, (n, d)."""

    def encode_image(self, images: Any, /) -> Points:
        """Points of n images, (n, d): pixels (n, S, S, 3) uint8, or paths and bytes where the encoder reads these."""


@dataclass(frozen=True)
class EncodedSplit:
    """n encoded quadruplets; row i of every group belongs to quadruplet i.

    Points are (n, d), space components, or unit vectors of a Euclidean model; the rest is as in `DrawnSplit`.

    Raises:
        InvalidVectorError: The groups differ in shape, are empty, or hold values that are not finite (a model that
            yields NaN would otherwise look perfect: nothing ranks above a NaN).
    """

    safe_text: Points
    safe_image: Points
    unsafe_text: Points
    unsafe_image: Points
    categories: NDArray[np.str_]
    context: NDArray[np.bool_]
    name: str = ""

    def __post_init__(self) -> None:
        n, *rest = self.safe_text.shape
        for group in GROUPS:
            points = getattr(self, group)
            if points.shape != (n, *rest) or len(rest) != 1 or n == 0:
                expected = f"(n, d) with n ≥ 1 as safe_text: {self.safe_text.shape}"
                raise InvalidVectorError(f"{group} has shape {points.shape}, expected {expected}")
            if not np.isfinite(points).all():
                bad = int((~np.isfinite(points).all(axis=1)).sum())
                raise InvalidVectorError(f"{bad} of {n} {group} points are not finite: the model diverged in training")
        if self.categories.shape != (n,) or self.context.shape != (n,):
            found = f"categories {self.categories.shape} and context {self.context.shape}"
            raise InvalidVectorError(f"{found} must have shape ({n},)")

    def __len__(self) -> int:
        return len(self.safe_text)

    def select(self, rows: NDArray[np.bool_]) -> Self:
        """The quadruplets of some rows, (n,) bool, at least one of them true."""
        parts = {field: getattr(self, field)[rows] for field in (*GROUPS, "categories", "context")}
        return replace(self, **parts)


def in_parts(
    encode: Callable[[Any], Points], items: Sequence[Any] | NDArray[Any], size: int, progress: Progress | None = None
) -> Points:
    """Encode n items, at least one, `size` at a time: (n, d)."""
    parts = []
    for start in range(0, len(items), size):
        parts.append(encode(items[start : start + size]))
        if progress:
            progress(len(parts[-1]))
    return np.concatenate(parts)


def encode_drawn(encoder: Encodes, drawn: DrawnSplit, progress: Progress | None = None) -> EncodedSplit:
    """Encode a drawn split with a model."""
    # Images are nearly all the work; texts count as nothing.
    points = {
        group: in_parts(encoder.encode_image, getattr(drawn, group), 128, progress)
        if group.endswith("image")
        else in_parts(encoder.encode_text, list(getattr(drawn, group)), 128)
        for group in GROUPS
    }
    return EncodedSplit(**points, categories=drawn.categories, context=drawn.context, name=drawn.name)


def encode_split(encoder: Encodes, split: str, n: int = 1000, seed: int = 0, size: int = 64) -> EncodedSplit:
    """Draw n quadruplets of a split and encode them; see `draw_split`."""
    return encode_drawn(encoder, draw_split(split, n, seed, size))


def radii_of(encoded: EncodedSplit, curvature: float) -> dict[str, Floats]:
    """Distance of every point from the origin, by group, (n,) float64 each."""
    return {group: lorentz.dist0(np.asarray(getattr(encoded, group), dtype=np.float64), curvature) for group in GROUPS}


def curvature_of(encoder: Encodes) -> float | None:
    """Curvature c of a model's space; None for a Euclidean model."""
    return None if math.isnan(encoder.curvature) else float(encoder.curvature)
