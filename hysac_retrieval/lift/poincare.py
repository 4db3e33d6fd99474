"""Poincaré coordinates for Euclid: nearly the right order from the engine, the exact distance in a second stage.

In units where c = 1 a point [x, t] is stored as p = x / (1 + t), in the unit ball. The geodesic distance to q is
2 asinh(|p − q| sqrt(s(p) s(q))) with the conformal weight s(p) = 1 / (1 − |p|²) = (1 + t) / 2. Among points of one
radius the Euclidean order is the geodesic one; between radii it is not, so a search fetches more candidates than it
returns and orders them by the distance. That takes the weight, which a float32 vector near the boundary no longer
tells: it is kept in the payload as ``hysac.scale``, computed from the float64 point.

Errors of the distance in float32: coordinates of the unit ball are rounded by up to 3e-8, which is worth about
6e-8 · e^r / 4 at radius r (in units of 1/√c). Measured over pairs of points 0.01 to 5 apart, d = 5, one of them at r:

    r                       1       5       10      15      18
    largest error           3e-7    6e-6    9e-4    0.14    4.4
    median error            2e-8    8e-7    1e-4    0.02    0.14
    padded lift, largest    3e-5    0.04    5       -       -

So a tree with edges of length 1 or so keeps its order out to radius 15, where points begin to be `beyond`; the padded
lift, whose products are of the size e^(2r), loses it before radius 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, FiniteFloat

from hysac_retrieval import lorentz
from hysac_retrieval.lift.checks import LiftModel, checked_matrix, checked_point, checked_scores

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["PoincareLift"]

_SCALE = "scale"
_REACH = 2.0**20  # weight at which the rounding of float32, 2⁻²⁴, displaces a point by 1/16: radius 15.2
_UNUSABLE = 1e6  # distance of a point whose weight is missing: beyond all others
_INSIDE = 1 - 2.0**-24  # float32 vectors are taken to lie at least this little within the unit ball
_MAX_RADIUS = 50.0  # in units of 1/√c; beyond float64's reach long before


class PoincareLift(LiftModel):
    """Poincaré coordinates for Euclid, with the distance from the score and the points' conformal weights.

    For data whose radii span so much that the `PaddedLift` loses them, such as trees.

    Attributes:
        kind: Always ``"poincare"``.
        curvature: c > 0 of the hyperboloid of curvature −c.
        dim: Number d of space components of a point, which is also the length of a stored vector.
    """

    kind: Literal["poincare"] = "poincare"
    curvature: FiniteFloat = Field(gt=0)
    dim: int = Field(ge=1)

    @classmethod
    def make(cls, dim: int, curvature: float) -> PoincareLift:
        """Return the lift for points of dimension d ≥ 1 and curvature c > 0; there is nothing to fit.

        Raises:
            SettingsError: An argument is out of range.
        """
        return cls.from_dict({"dim": dim, "curvature": curvature})

    @property
    def size(self) -> int:
        """Length of a stored vector, d."""
        return self.dim

    @property
    def metric(self) -> Literal["Euclid"]:
        """``"Euclid"``."""
        return "Euclid"

    @property
    def ranks(self) -> Literal[False]:
        """False: Euclidean distances between Poincaré coordinates shrink toward the boundary."""
        return False

    def lift(self, points: ArrayLike) -> NDArray[np.float32]:
        """Return coordinates (n, d) in the unit ball, whatever the curvature; see `Lift.lift`."""
        x = checked_matrix(points, self.dim, "points") * self.curvature**0.5
        return np.asarray(x / (1 + lorentz.time(x, 1.0))[:, None], dtype=np.float32)

    def lift_query(self, points: ArrayLike) -> NDArray[np.float32]:
        """Return the vectors of `lift`."""
        return self.lift(points)

    def unlift(self, vectors: ArrayLike, radii: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return finite points (n, d) of stored vectors; see `Lift.unlift`.

        A radius that is given and fits its vector to float32 makes the radius of the point exact; the vector alone
        tells it to about 6e-8 · e^r / 4.
        """
        p = checked_matrix(vectors, self.dim, "vectors")
        root = self.curvature**0.5
        norm = np.linalg.norm(p, axis=1)
        radius = 2 * np.arctanh(np.minimum(norm, _INSIDE))
        if radii is not None:
            known = np.asarray(radii, dtype=np.float64) * root
            fits = (known >= 0) & (known <= _MAX_RADIUS) & (np.abs(np.tanh(known / 2) - norm) <= 1e-6)
            radius = np.where(fits, known, radius)
        # Near the origin sinh(r)/|p| is 2 to the last digit, and the quotient would be 0/0 there.
        factor = np.where(norm > 1e-12, np.sinh(radius) / np.maximum(norm, 1e-12), 2.0)
        return np.asarray(p * (factor / root)[:, None])

    def beyond(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether points are so near the boundary that float32 displaces them (radius 15.2/√c); shape (n,)."""
        return np.asarray(self._scale(checked_matrix(points, self.dim, "points")) > _REACH)

    def extras(self, points: ArrayLike) -> list[dict[str, float]]:
        """Return the conformal weight ``scale``, 1 or more, of each of the points (n, d)."""
        return [{_SCALE: float(scale)} for scale in self._scale(checked_matrix(points, self.dim, "points"))]

    def formula(self, point: ArrayLike) -> models.Expression:
        """Return acosh(max(1, 1 + 2 s(q) · hysac.scale · $score²)) / √c; see `Lift.formula`.

        To this comes 10⁶ · max(0, 1 − hysac.scale), which is 0 for every weight that `extras` gives and puts a point
        without a valid one last. The engines compute in float64, so that acosh near 1 is accurate enough.
        """
        from qdrant_client import models

        variable = f"hysac.{_SCALE}"
        weight = float(self._scale(checked_point(point, self.dim)[None])[0])
        excess = models.MultExpression(mult=[2 * weight, variable, "$score", "$score"])
        cosh = models.MaxExpression(max=[1.0, models.SumExpression(sum=[1.0, excess])])
        distance = models.MultExpression(mult=[self.curvature**-0.5, models.AcoshExpression(acosh=cosh)])
        lack = models.SumExpression(sum=[1.0, models.NegExpression(neg=variable)])
        penalty = models.MultExpression(mult=[_UNUSABLE, models.MaxExpression(max=[0.0, lack])])
        return models.SumExpression(sum=[distance, penalty])

    def defaults(self) -> dict[str, Any]:
        """Return a weight of 0, which no point has: `formula` puts it last."""
        return {f"hysac.{_SCALE}": 0.0}

    def distances(self, point: ArrayLike, scores: Sequence[float], extras: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return 2 asinh(score · sqrt(s(q) s(p))) / √c, with s(p) as ``scale`` in the extras; see `Lift.distances`."""
        weight = self._scale(checked_point(point, self.dim)[None])[0]
        found = checked_scores(scores, extras)
        scales = np.array([_weight(extra.get(_SCALE)) for extra in extras], dtype=np.float64)
        distances = 2 * np.arcsinh(np.abs(found) * np.sqrt(weight * scales)) / self.curvature**0.5
        finite: list[float] = np.where(np.isfinite(distances), distances, np.inf).tolist()
        return finite

    def _scale(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return conformal weights (n,) of points (n, d): 1/(1 − |p|²), from a form that does not cancel."""
        return np.asarray((1 + lorentz.time(points * self.curvature**0.5, 1.0)) / 2)


def _weight(value: Any) -> float:
    """Return a stored weight; NaN for anything else."""
    valid = isinstance(value, int | float) and not isinstance(value, bool) and value >= 1
    return float(value) if valid else float("nan")
