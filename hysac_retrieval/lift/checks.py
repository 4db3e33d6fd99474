"""Checks that the lifts share, each with an error that says what was found and what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from hysac_retrieval.errors import InvalidVectorError, SettingsError

__all__ = ["LiftModel", "checked_matrix", "checked_point", "checked_scores"]


class LiftModel(BaseModel):
    """Base of the lifts: immutable, compared by value, read back from what `to_dict` returns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make a lift of its entries, as `to_dict` returns them.

        Raises:
            SettingsError: The entries do not fit; the message names them.
        """
        try:
            return cls(**data)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise SettingsError(f"these are not the entries of a {cls.__name__}: {found}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the entries as JSON values."""
        return self.model_dump(mode="json")


def checked_matrix(values: ArrayLike, width: int | None, what: str) -> NDArray[np.float64]:
    """Return a finite float64 array of shape (n, width); any width if None.

    Raises:
        InvalidVectorError: It is not that; the message names the row.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidVectorError(f"{what} cannot be read as an array of shape (n, d): {error}") from error
    if array.dtype.kind not in "fiu":
        raise InvalidVectorError(f"{what} have dtype {array.dtype}; expected real numbers, shape (n, d)")
    if array.ndim != 2 or array.shape[1] == 0 or (width is not None and array.shape[1] != width):
        hint = "Wrap a single one as points[None]" if array.ndim == 1 else ""
        raise InvalidVectorError(f"{what} have shape {array.shape}; expected (n, {width or 'd'})", hint=hint)
    array = array.astype(np.float64)
    # A sum is finite where all are, unless it overflows, and costs less than asking each.
    if not math.isfinite(array.sum()) and not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise InvalidVectorError(f"{what} must be finite, but row {bad} holds NaN or infinity")
    return array


def checked_point(value: ArrayLike, dim: int) -> NDArray[np.float64]:
    """Return a finite float64 array of shape (dim,).

    Raises:
        InvalidVectorError: It is not that.
    """
    if np.ndim(value) != 1:
        raise InvalidVectorError(f"the point has shape {np.shape(value)}; expected ({dim},)")
    return checked_matrix(np.asarray(value)[None], dim, "the point's coordinates").reshape(dim)


def checked_scores(scores: ArrayLike, extras: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Return scores as float64, one for each mapping.

    Raises:
        InvalidVectorError: Their numbers differ.
    """
    found = np.asarray(scores, dtype=np.float64)
    if found.shape != (len(extras),):
        raise InvalidVectorError(f"scores have shape {found.shape}, but there are extras of {len(extras)} points")
    return found
