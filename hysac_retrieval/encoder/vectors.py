"""Vectors of another encoder, as the head of a bundle takes them: float32, finite, of unit length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import Modality


def unit_vectors(vectors: NDArray[Any], size: int) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Bring vectors to unit length.

    Args:
        vectors: Floating point, (n, size).
        size: Numbers that the head takes.

    Returns:
        The vectors, (n, size) float32, and what is wrong with those rows that have no direction, which are 0.

    Raises:
        InvalidVectorError: The array is of another shape or of no floating point numbers.
    """
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise InvalidVectorError(f"vectors are {vectors.dtype} of shape {vectors.shape}, expected floats, (n, {size})")
    if vectors.shape[1] != size:
        raise InvalidVectorError(
            f"vectors have {vectors.shape[1]} numbers, the head of the model takes {size}",
            hint="Give vectors of the encoder that the head was fitted to",
        )
    vectors = vectors.astype(np.result_type(vectors.dtype, np.float32), copy=False)
    largest = np.abs(vectors).max(axis=1, initial=0)
    fit = np.isfinite(largest) & (largest > 0)
    scaled = vectors / np.where(fit, largest, 1)[:, None]  # so that no square overflows
    faults: dict[int, str] = {}
    if not fit.all():
        scaled[~fit] = 0
        faults = {int(row): "is zero" if largest[row] == 0 else "is not finite" for row in np.flatnonzero(~fit)}
    length = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    return (scaled / np.where(fit, length, 1)[:, None]).astype(np.float32, copy=False), faults


def expect_all(faults: dict[int, str]) -> None:
    """Raise `InvalidVectorError` if there are faults."""
    if faults:
        first, fault = next(iter(faults.items()))
        others = f", as {len(faults) - 1} further ones" if len(faults) > 1 else ""
        raise InvalidVectorError(f"vector {first} {fault}{others}", hint="Leave them out: they have no direction")


def less_safe(
    points: Mapping[Modality, NDArray[np.float32]], safety: SafetyProfile, curvature: float
) -> tuple[NDArray[np.float32], list[Modality]]:
    """Choose, for each of n vectors, the point of the modality in which it is less safe.

    Args:
        points: What the heads make of the vectors, (n, d) each.
        safety: The model's calibration.
        curvature: c > 0 of the space (−c).

    Returns:
        The points, (n, d), and their modalities.
    """
    kinds = list(points)
    scores = [safety.unsafe(lorentz.dist0(points[kind].astype(np.float64), curvature), kind) for kind in kinds]
    chosen = np.argmax(np.stack(scores), axis=0)
    made = np.stack([points[kind] for kind in kinds])[chosen, np.arange(len(chosen))]
    return made, [kinds[each] for each in chosen]
