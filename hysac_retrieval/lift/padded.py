"""Exact hyperbolic ranking on a stock vector index: Lorentz points to stored vectors and back.

Qdrant scores by Dot, and negating the time component of the query makes Dot the Lorentzian inner
product ⟨q, x⟩ = q·x − t(q) t(x), which falls as the geodesic distance grows. But its graph is built from
products between *stored* vectors, which such an embedding leaves meaningless. Three steps mend that,
and none changes a score:

1. *Boost*: a Lorentz boost, an isometry, carries the centroid m of the data to the origin, where
   space and time components are of one size. With u = m_x, γ = m_t in units where c = 1:
   t' = γ t − u·x,  x' = x + ((u·x)/(γ + 1) − t) u.
2. *Pad*: [x', t', p] with p = sqrt(M² − |x'|² − t'²) gives every stored vector the norm M, so that Dot
   ranks stored vectors among themselves as the cosine does. The query is [x', −t', 0].
3. *Rotate*, for int8 quantization only: one orthogonal matrix on both sides spreads t' and p, which
   would otherwise set the quantization step for all coordinates.

A point too far out for the norm M is stored with p = 0: its score stays exact, only the graph around
it is worse. Count such points with `beyond`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, FiniteFloat

from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError, SettingsError
from hysac_retrieval.lift.checks import LiftModel, checked_matrix, checked_point

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["PaddedLift"]

_LARGEST = float(np.finfo(np.float32).max)
_DEFAULT_MAX_RADIUS = 4.0  # in units of 1/√c; published HySAC radii stay well within


Coordinate = Annotated[float, Field(ge=-1e18, le=1e18)]
"""Of what float32 can hold the square."""


class PaddedLift(LiftModel):
    """Boosted and padded vectors for Dot: the score is the Lorentzian inner product itself.

    Made by `fit` or `default`.

    Attributes:
        kind: Always ``"padded"``.
        curvature: c > 0 of the hyperboloid of curvature −c.
        centroid: Space components of the point that the boost carries to the origin, length d.
        norm: M, the norm of every stored vector of a point that is not `beyond`.
        rotate_seed: Seed of the rotation, or None for no rotation.
    """

    kind: Literal["padded"] = "padded"
    curvature: FiniteFloat = Field(gt=0)
    centroid: tuple[Coordinate, ...] = Field(min_length=1)
    norm: FiniteFloat = Field(gt=0, le=1e150)  # whose square is finite
    rotate_seed: int | None = Field(default=None, ge=0, lt=2**32)

    @classmethod
    def fit(
        cls, points: ArrayLike, curvature: float, margin: float = 0.5, rotate_seed: int | None = None
    ) -> PaddedLift:
        """Return a lift for data like a sample: its centroid, and a norm that holds the whole sample.

        Args:
            points: Sample, shape (n, d), n ≥ 1, space components.
            curvature: c > 0.
            margin: The norm M is that of the outermost point of the sample times ``1 + margin``, margin ≥ 0. A
                tight M makes p differ so much between near and far points that the graph serves the far ones
                less well; from about 0.5 on there is nothing more to gain.
            rotate_seed: Seed of the rotation, for int8 quantization; None for no rotation.

        Raises:
            InvalidVectorError: The sample is empty, not of shape (n, d), or not finite.
            SettingsError: The curvature, the margin or the seed is out of range.
        """
        if not 0 <= margin < np.inf:
            raise SettingsError(f"margin is {margin}; it must be a finite number of 0 or more")
        sample = checked_matrix(points, None, "points")
        if not len(sample):
            raise InvalidVectorError("the sample to fit the lift on is empty", hint="Give a point, or use default()")
        center = lorentz.centroid(sample, curvature)
        entries = {"curvature": curvature, "centroid": tuple(center.tolist()), "rotate_seed": rotate_seed}
        unpadded = cls.from_dict(entries | {"norm": 1.0})
        boosted, height = unpadded._boosted(sample)
        norm = float(np.sqrt(np.max(_sum_squares(boosted) + height**2))) * (1 + margin)
        return cls.from_dict(entries | {"norm": norm})

    @classmethod
    def default(
        cls, dim: int, curvature: float, max_radius: float | None = None, rotate_seed: int | None = None
    ) -> PaddedLift:
        """Return a lift for when there is no sample: no boost, and a norm that holds a ball around the origin.

        Args:
            dim: d ≥ 1.
            curvature: c > 0.
            max_radius: Geodesic radius that the norm M makes room for; 4/√c if None.
            rotate_seed: Seed of the rotation, for int8 quantization; None for no rotation.

        Raises:
            SettingsError: An argument is out of range.
        """
        entries = {"curvature": curvature, "centroid": (0.0,) * dim, "norm": 1.0, "rotate_seed": rotate_seed}
        unpadded = cls.from_dict(entries)
        reach = _DEFAULT_MAX_RADIUS if max_radius is None else max_radius * curvature**0.5
        if not 0 <= reach <= 20:  # cosh(2 · 20) has left the precision of float32 long ago
            raise SettingsError(f"max_radius is {max_radius}; it must be between 0 and {20 / curvature**0.5:.4g}")
        return unpadded.model_copy(update={"norm": float(np.sqrt(np.cosh(2 * reach) / curvature))})

    @property
    def dim(self) -> int:
        """Number d of space components of a point."""
        return len(self.centroid)

    @property
    def size(self) -> int:
        """Length of a stored vector, d + 2."""
        return self.dim + 2

    @property
    def metric(self) -> Literal["Dot"]:
        """``"Dot"``."""
        return "Dot"

    @property
    def ranks(self) -> Literal[True]:
        """True: the score is the Lorentzian inner product, which falls as the distance grows."""
        return True

    def lift(self, points: ArrayLike) -> NDArray[np.float32]:
        """Return vectors (n, d + 2) to store, of norm M but for points that are `beyond`; see `Lift.lift`."""
        space, height = self._boosted(checked_matrix(points, self.dim, "points"))
        room = self.norm**2 - _sum_squares(space) - height**2
        return self._finish(space, height, np.sqrt(np.maximum(room, 0.0)))

    def lift_query(self, points: ArrayLike) -> NDArray[np.float32]:
        """Return vectors (n, d + 2) whose Dot with stored vectors is ⟨query, point⟩; see `Lift.lift_query`."""
        space, height = self._boosted(checked_matrix(points, self.dim, "points"))
        return self._finish(space, -height, 0.0)

    def unlift(self, vectors: ArrayLike, radii: ArrayLike | None = None) -> NDArray[np.float64]:
        """See `Lift.unlift`; radii are not needed, as the vectors hold them as accurately as the direction."""
        stored = checked_matrix(vectors, self.size, "vectors")
        if self.rotate_seed is not None:
            stored = stored @ _rotation(self.size, self.rotate_seed)
        return _boost(stored[:, : self.dim], -self._shift, self._gamma, self.curvature)[0]

    def beyond(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether points lie outside the norm M: stored with p = 0, found less surely by the graph; shape (n,)."""
        space = checked_matrix(points, self.dim, "points") * self.curvature**0.5
        # The time component alone says it, |x'|² being t'² − 1. It cancels a little: hence an allowance of a few
        # digits, so that the very points that set M are within it.
        height = self._gamma * _time(space, 1.0) - space @ self._shift
        return np.asarray(2 * height**2 - 1 > self.curvature * self.norm**2 * (1 + 1e-9))

    def extras(self, points: ArrayLike) -> list[dict[str, float]]:
        """Return empty mappings: the score says all."""
        return [{} for _ in checked_matrix(points, self.dim, "points")]

    def formula(self, point: ArrayLike) -> models.Expression:
        """Return acosh(max(1, −c · $score)) / √c, whichever the point; see `Lift.formula`.

        Without the maximum, the rounding of a score would leave points at distance 0 outside the domain of acosh. An
        engine keeps constants in float32, which adds as much to the error of `distances` as the score does.
        """
        from qdrant_client import models

        checked_point(point, self.dim)
        cosh = models.MultExpression(mult=[-self.curvature, "$score"])
        distance = models.AcoshExpression(acosh=models.MaxExpression(max=[1.0, cosh]))
        return models.MultExpression(mult=[self.curvature**-0.5, distance])

    def defaults(self) -> dict[str, Any]:
        """Return nothing: `formula` uses no payload."""
        return {}

    def distances(self, point: ArrayLike, scores: Sequence[float], extras: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return acosh(max(1, −c · score)) / √c for each score; see `Lift.distances`.

        A float32 score leaves an error of about 4e-4/√c at distance 0, falling as 1/distance.
        """
        if len(scores) != len(extras):
            raise InvalidVectorError(f"there are {len(scores)} scores, but extras of {len(extras)} points")
        c, root = self.curvature, self.curvature**0.5
        # Number by number: for the ten hits of a search NumPy costs more than it saves.
        return [math.acosh(max(1.0, -c * s)) / root if math.isfinite(s) else math.inf for s in scores]

    @cached_property
    def _shift(self) -> NDArray[np.float64]:
        """Space components of the centroid in units where c = 1."""
        return np.array(self.centroid, dtype=np.float64) * np.float64(self.curvature**0.5)

    @cached_property
    def _gamma(self) -> float:
        """Time component of the centroid in units where c = 1."""
        return math.sqrt(1 + float(self._shift @ self._shift))

    def _boosted(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Space (n, d) and time (n,) components in the frame of the centroid."""
        return _boost(points, self._shift, self._gamma, self.curvature)

    def _finish(
        self, space: NDArray[np.float64], height: NDArray[np.float64], pad: NDArray[np.float64] | float
    ) -> NDArray[np.float32]:
        vectors = np.empty((len(space), self.size))
        vectors[:, :-2], vectors[:, -2], vectors[:, -1] = space, height, pad
        if self.rotate_seed is not None:
            vectors = vectors @ _rotation(self.size, self.rotate_seed).T
        # Not by a product of BLAS, whose threads wait for each other for longer than this takes.
        if len(vectors) and not np.abs(vectors).max() <= _LARGEST:
            raise InvalidVectorError(
                "a point lies so far out that float32 cannot hold it", hint="Check that these are Lorentz points"
            )
        return vectors.astype(np.float32)


def _boost(
    space: NDArray[np.float64], shift: NDArray[np.float64], gamma: float, curvature: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boost that carries a point to the origin; `shift` and `gamma` are its components where c = 1.

    The boost by −shift is its inverse.
    """
    moved = space + ((space @ shift) / (gamma + 1) - _time(space, curvature))[:, None] * shift
    # t' = γ t − u·x follows from x', and does not cancel this way.
    return moved, _time(moved, curvature)


def _time(space: NDArray[np.float64], curvature: float) -> NDArray[np.float64]:
    """`lorentz.time` without what it does for libraries other than NumPy: this is in the way of a query."""
    time: NDArray[np.float64] = np.sqrt(1 / curvature + _sum_squares(space))
    return time


def _sum_squares(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", rows, rows)
    return squares


@lru_cache(maxsize=8)
def _rotation(size: int, seed: int) -> NDArray[np.float64]:
    """Return an orthogonal matrix drawn uniformly (Haar measure), the same for ever for one seed."""
    # RandomState because its stream is frozen by NumPy's policy (NEP 19), which that of Generator is not.
    q, r = np.linalg.qr(np.random.RandomState(seed).standard_normal((size, size)))
    q *= np.sign(np.diag(r))  # makes the factorisation unique, whichever LAPACK computed it
    q.flags.writeable = False
    return q
