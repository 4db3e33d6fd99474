"""Protocol of the lifts: points of the hyperboloid to stored vectors and back, and scores to distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:  # encoders know lifts too, and need no store
    from qdrant_client import models

__all__ = ["Lift"]


class Lift(Protocol):
    """A way to store Lorentz points as vectors of an engine that compares by Dot or Euclid.

    Immutable; `to_dict` is kept with a collection, so that any process can read its vectors. n points of d space
    components have shape (n, d). Methods that take points or vectors raise `InvalidVectorError` where these are of
    another shape or dimension, no numbers, or not finite.
    """

    @property
    def kind(self) -> str:
        """Name of the strategy, the `kind` entry of `to_dict`."""

    @property
    def dim(self) -> int:
        """Number d of space components of a point."""

    @property
    def size(self) -> int:
        """Length of a stored vector."""

    @property
    def metric(self) -> Literal["Dot", "Euclid"]:
        """How the engine must compare stored vectors."""

    @property
    def ranks(self) -> bool:
        """Whether the engine's score orders points as the geodesic distance does.

        If not, a search must fetch more candidates than it returns, and order them by `formula` or `distances`.
        """

    def lift(self, points: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors (n, size) to store for points (n, d), float32, computed in float64."""

    def lift_query(self, points: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors (n, size) to search with for points (n, d), float32, computed in float64."""

    def unlift(self, vectors: ArrayLike, radii: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the points (n, d) of stored vectors (n, size).

        Args:
            vectors: As returned by `lift`.
            radii: Geodesic radii (n,) of the points, where they are known apart from the vectors; NaN where not.
        """

    def beyond(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Which of the points (n, d) lie outside the region that the index serves well; shape (n,)."""

    def extras(self, points: ArrayLike) -> list[dict[str, float]]:
        """Return a mapping for each of n points: ``hysac`` payload that `formula` and `distances` need."""

    def formula(self, point: ArrayLike) -> models.Expression:
        """Return the geodesic distance to a point (d,), in terms of ``$score`` and of extras as ``hysac.<name>``."""

    def defaults(self) -> dict[str, Any]:
        """Return values that `formula` takes for extras that a stored point lacks, such that it comes last."""

    def distances(self, point: ArrayLike, scores: Sequence[float], extras: Sequence[Mapping[str, Any]]) -> list[float]:
        """Compute here what `formula` computes in an engine.

        Args:
            point: Shape (d,), the point that was searched with.
            scores: k scores of stored points, from the engine.
            extras: k mappings that hold the points' extras, such as their ``hysac`` payloads.

        Returns:
            k geodesic distances; infinity where a score or an extra is missing or unusable, so that the
            point comes last.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable form, read back by `lift_from_dict`."""
