"""Statistics of the inputs that a model was made with, by which others are told from them.

A model's own points do not tell a photograph from a drawn scene, so pictures are compared by what can be counted in
their pixels; vectors are compared by where they point.
"""

from __future__ import annotations

import base64
import binascii
import math
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

_GRID = 16  # cells of a picture on each side, of which colours and steps are taken
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_FEATURES = 5 * len(_QUANTILES)
_FEW = 50  # vectors of its own without which nothing is said of a single one
_LEAST = 5  # vectors without which nothing is said of an encoder
_SMALL = 64  # numbers below which shuffling them changes too little to tell encoders apart
_SHUFFLES = 64
_SURE = 6.0  # standard deviations
OWN = 0.995
"""Share of held-out inputs of its own that a model takes for such."""
ENOUGH = 100
"""Pictures from which on there are statistics of them."""
MOST_REFERENCES = 256
"""Vectors of a modality that a bundle keeps."""


class PictureStatistics(BaseModel):
    """Counts of a model's own pictures: a picture with the counts x is like them up to |(x − mean) · scale|² = limit.

    `mean` and `scale`, (k,) and (k, k), are float32, little-endian, in base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: str = Field(max_length=1_000)
    scale: str = Field(max_length=10_000)
    limit: float = Field(gt=0)

    @classmethod
    def of(cls, counts: NDArray[np.float32], seed: int = 0) -> Self:
        """Compute them from counts of n ≥ `ENOUGH` pictures, (n, k): half of them fit, the other half sets the limit.

        See `picture_counts`.
        """
        order = np.random.default_rng(seed).permutation(len(counts))
        own, held = counts[order[::2]], counts[order[1::2]]
        mean, spread = own.mean(axis=0), own.std(axis=0) + 1e-6
        inverse = np.linalg.inv(np.cov(((own - mean) / spread).T) + 1e-3 * np.eye(_FEATURES))
        scale = np.linalg.cholesky(inverse) / spread[:, None]
        made = cls(mean=_packed(mean, "<f4"), scale=_packed(scale, "<f4"), limit=1.0)
        limit = float(np.quantile(made.distances(held), OWN))
        return made.model_copy(update={"limit": round(limit, 3)})

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self._mean.size != _FEATURES or self._scale.size != _FEATURES**2:
            raise ValueError(f"statistics of pictures are of other sizes than {_FEATURES} and {_FEATURES}²")
        return self

    @cached_property
    def _mean(self) -> NDArray[np.float32]:
        return _unpacked(self.mean, "<f4")

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        return _unpacked(self.scale, "<f4")

    def distances(self, counts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how far counts (n, k) are from those of the model's own pictures, (n,)."""
        found: NDArray[np.float32] = (((counts - self._mean) @ self._scale.reshape(_FEATURES, -1)) ** 2).sum(axis=1)
        return found

    def unlike(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Tell which pictures (n, size, size, 3) are unlike the model's own, (n,)."""
        found: NDArray[np.bool_] = self.distances(picture_counts(pixels)) > self.limit
        return found


class VectorStatistics(BaseModel):
    """Directions of vectors that a head was fitted to, (n, size) float16, little-endian, in base64.

    A vector is unlike them whose cosine with the nearest is below `nearest`; None where they are too few to tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(gt=0, le=65_536)
    references: str = Field(max_length=2**23)
    nearest: float | None = Field(default=None, ge=-1, le=1)

    @classmethod
    def of(cls, vectors: NDArray[Any], groups: NDArray[Any] | None = None, seed: int = 0) -> Self:
        """Take references from vectors (n, size), n ≥ 1, at random where they are many.

        The limit `nearest` is that of vectors with the references that are not of their group, of `groups` (n,): a
        sentence is near to those that were written beside it, as nothing will be that is met later.
        """
        of_group = np.arange(len(vectors)) if groups is None else groups
        some = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:MOST_REFERENCES])
        directions = _directions(vectors)
        cosines = np.where(of_group[:, None] == of_group[some], -1.0, directions @ directions[some].T)
        limit = None
        if len(vectors) >= _FEW and len(np.unique(of_group)) > 1:
            limit = math.floor(1e4 * np.quantile(cosines.max(axis=1), 1 - OWN)) / 1e4
        return cls(size=vectors.shape[1], references=_packed(directions[some], "<f2"), nearest=limit)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        values = _unpacked(self.references, "<f2")
        if not values.size or values.size % self.size:
            raise ValueError(f"{values.size} numbers are no references of {self.size} each")
        return self

    @cached_property
    def _directions(self) -> NDArray[np.float64]:
        return _directions(_unpacked(self.references, "<f2").reshape(-1, self.size))

    def familiarity(self, vectors: NDArray[Any]) -> float | None:
        """Tell how sure it is that vectors are of the encoder that the references are of, whatever they are about.

        Vectors of one encoder are nearer to the references than to references whose components have been shuffled; to
        another encoder's vectors, both are the same.

        Args:
            vectors: Floating point, (n, size), finite, none of them 0.

        Returns:
            Standard deviations by which the references are nearer than shuffled ones; None where they cannot tell.
        """
        if len(vectors) < _LEAST or self.size < _SMALL:
            return None
        rng, found, own = np.random.default_rng(0), _directions(vectors), self._directions
        shuffled = [_nearness(found, own[:, rng.permutation(self.size)]) for _ in range(_SHUFFLES)]
        return float((_nearness(found, own) - np.mean(shuffled)) / (np.std(shuffled) + 1e-9))

    def unlike(self, vectors: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Tell which vectors (n, size), finite and none of them 0, are unlike the references; None: not to be told."""
        if self.nearest is None:
            return None
        found: NDArray[np.bool_] = (_directions(vectors) @ self._directions.T).max(axis=1) < self.nearest
        return found

    def foreign(self, vectors: NDArray[Any]) -> bool:
        """Whether vectors (n, size) are of another encoder; False for too few of them."""
        sure = self.familiarity(vectors)
        return sure is not None and sure < _SURE


class Inputs(BaseModel):
    """Statistics of the inputs that a model was made with: `pictures` are pixels, `text` and `image` vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    pictures: PictureStatistics | None = None
    text: VectorStatistics | None = None
    image: VectorStatistics | None = None


def picture_counts(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Count what tells kinds of pictures apart, whatever they show: quantiles over the cells of a coarse grid.

    They are of the steps of colour to the right and down (logarithms), of the saturation, absolute and relative, and
    of the lightness. The grid is so coarse that noise and the size of a picture hardly matter.

    Args:
        pixels: (n, size, size, 3).

    Returns:
        The counts, (n, k).
    """
    n, size = pixels.shape[:2]
    grid, cell = min(_GRID, size), max(1, size // _GRID)
    rows = pixels[:, : grid * cell, : grid * cell].reshape(n, grid, cell, -1).sum(axis=2, dtype=np.uint32)
    colour = rows.reshape(n, grid, grid, cell, 3).sum(axis=3).astype(np.float32) / (255 * cell * cell)
    largest = colour.max(axis=3)
    saturation = largest - colour.min(axis=3)
    right, down = (np.abs(np.diff(colour, axis=axis)).max(axis=3) for axis in (2, 1))
    relative = saturation / (largest + 0.05)
    counts = [np.log(_quantiles(step) + 0.01) for step in (right, down)]
    counts += [_quantiles(each) for each in (saturation, colour.mean(axis=3), relative)]
    return np.concatenate(counts, axis=1)


def _nearness(vectors: NDArray[np.float64], references: NDArray[np.float64]) -> float:
    return float((vectors @ references.T).max(axis=1).mean())


def _quantiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = np.sort(values.reshape(len(values), -1), axis=1)
    return flat[:, [round(share * (flat.shape[1] - 1)) for share in _QUANTILES]]


def _directions(vectors: NDArray[Any]) -> NDArray[np.float64]:
    v = np.asarray(vectors, dtype=np.float64)
    found: NDArray[np.float64] = v / np.linalg.norm(v, axis=1, keepdims=True)
    return found


def _packed(values: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def _unpacked(text: str, dtype: str) -> NDArray[Any]:
    """Read packed numbers; `ValueError` if they are none, or not finite."""
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype=dtype)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"packed numbers cannot be read: {error}") from error
    if not np.isfinite(values).all():
        raise ValueError("packed numbers are not finite")
    return values
