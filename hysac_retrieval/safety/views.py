"""Views of an item that were judged, of which the one farthest from the origin gives the score.

A picture holds more than the crop that its vector is made of, and a text more than its first words. The vector stays
that of the first view; the score that is stored is the worst of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hysac_retrieval.errors import InputError
from hysac_retrieval.payload import finite_number, short_numbers
from hysac_retrieval.types import Modality

_SAME = 1e-9  # two computations of one radius may differ in the last digits


JUDGE = "judge"
"""Entry that indexing stores with a point under ``hysac``: which of its views were judged."""

ViewSetting = Literal["fast", "thorough"]
"""Which views of a picture are judged."""

TEXTS = "text"
"""Judge of texts; another name has all of them judged anew."""


def judge_of(modality: Modality, views: ViewSetting) -> str:
    """Return the judge of items of a modality."""
    return TEXTS if modality == "text" else views


def covers(stored: object, wanted: str) -> bool:
    """Whether the judge that a point names has seen all that another would see."""
    return stored == wanted or (stored == "thorough" and wanted == "fast")


@dataclass(frozen=True, slots=True)
class Judged:
    """Outcome of judging the views of one item.

    Attributes:
        views: Number of views, at least 1.
        worst: Name of the view whose radius is the largest.
        radius: That radius, ≥ 0.
        known: How much of a text the model knows, in [0, 1]; None for an image, or where that is not known.
        unlike: Whether the item is unlike all that the model knows; None where that cannot be told.
        point: Space components of the worst view, (d,), while it is at hand.
    """

    views: int
    worst: str
    radius: float
    known: float | None = None
    unlike: bool | None = field(default=None, kw_only=True)
    point: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    def hides(self, own: float) -> bool:
        """Whether there is something worse than the vector's view, which has the radius `own`."""
        return self.radius > own * (1 + _SAME)

    def entries(self, own: float) -> dict[str, Any]:
        """Return what a point carries for it under ``hysac``; of views nothing where the vector's is the only one.

        Args:
            own: Radius of the stored vector, to which the worst view's is never inferior.
        """
        unlike = {"unlike": True} if self.unlike else {}
        if self.views == 1 and not self.hides(own):
            return unlike
        worst = {"view": self.worst, "radius": short_numbers([max(self.radius, own)])[0]}
        return unlike | {"views": self.views, "worst": worst}


def judged(
    names: Sequence[str], radii: ArrayLike, points: NDArray[Any] | None = None, known: float | None = None
) -> Judged:
    """Return the outcome for views with these names and radii, (k,), k ≥ 1; the first of equally bad ones counts.

    `points` are the views', (k, d); `known` is how much of a text the model knows.
    """
    r = np.asarray(radii, dtype=np.float64)
    worst = int(np.argmax(r))
    return Judged(len(names), names[worst], float(r[worst]), known, None if points is None else points[worst].copy())


def of_vector(unlike: bool) -> Judged:
    """Return the outcome for a vector that was stored or given: nothing of it is judged but its own point."""
    return Judged(1, "vector", 0.0, unlike=unlike)


def check_judged(judged: Sequence[Judged | None]) -> None:
    """Check what a caller says was judged.

    Raises:
        InputError: A radius is not finite and ≥ 0, or no view was judged; the message names the row.
    """
    for row, one in enumerate(judged):
        if one is not None and (one.views < 1 or finite_number(one.radius) is None):
            raise InputError(f"row {row} was judged by {one.views} views, the worst at radius {one.radius}")


def worst_radius(own: Mapping[str, Any]) -> float | None:
    """Return the radius that the score of a point follows from, by its ``hysac`` payload; None if it is unreadable."""
    radius = finite_number(own.get("radius"))
    if radius is None or (own.get("worst") is None and own.get("views") in (None, 1)):
        return radius
    worst = own.get("worst")
    farthest = finite_number(worst.get("radius")) if isinstance(worst, Mapping) else None
    return None if farthest is None else max(radius, farthest)


def stored_views(own: Mapping[str, Any]) -> Judged | None:
    """Return what was judged of a stored point; None where only its vector was.

    Fails closed: what cannot be read was judged to be infinitely far out.
    """
    worst, views = own.get("worst"), own.get("views")
    if worst is None and views in (None, 1):
        return None
    farthest = worst_radius(own)
    name = worst.get("view") if isinstance(worst, Mapping) else None
    return Judged(
        views if isinstance(views, int) else 1,
        name if isinstance(name, str) else "unreadable",
        math.inf if farthest is None else farthest,
    )
