"""Views of an item that were judged, of which the one farthest from the origin gives the score.

A picture holds more than the crop that its vector is made of, and a text more than its first words. The vector stays
that of the first view; the score that is stored is the worst of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

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

SECOND = "second"
"""Entry under ``hysac`` with the opinion of a second judge."""

_AND = "+"

TEXTS = "text"
"""Judge of texts; another name has all of them judged anew."""


def judge_of(modality: Modality, views: ViewSetting, second: str | None = None) -> str:
    """Return the judge of items of a modality; a `second` one looks at pictures only."""
    if modality == "text":
        return TEXTS
    return views if second is None else f"{views}{_AND}{second}"


def covers(stored: object, wanted: str) -> bool:
    """Whether the judge that a point names has seen all that another would see."""
    if stored == wanted or not isinstance(stored, str):
        return stored == wanted
    (views, _, second), (enough, _, needed) = stored.partition(_AND), wanted.partition(_AND)
    seen = views == enough or (views == "thorough" and enough == "fast")
    return seen and needed in ("", second)


@dataclass(frozen=True, slots=True)
class Second:
    """The opinion of a second judge on a picture, such as a detector's, beside the model's.

    Attributes:
        judge: Its name.
        score: How unsafe the picture is to it, in [0, 1]: ½ is the largest score that counts as safe.
    """

    judge: str
    score: float

    @classmethod
    def of(cls, judge: str, probability: float, threshold: float) -> Self:
        """Bring a probability in [0, 1], of which `threshold` is the largest that counts as safe, to that scale."""
        if probability <= threshold:
            return cls(judge, probability / threshold / 2 if threshold else 0.0)
        # Rounded it must not come to lie on the safe side.
        return cls(judge, max(0.5 + (probability - threshold) / (1 - threshold) / 2, 0.5 + 1e-9))

    @property
    def unsafe(self) -> bool:
        """Whether the picture is unsafe to it."""
        return not self.score <= 0.5

    def scaled(self, threshold: float) -> float:
        """Return the score on the scale of a model whose largest safe score is `threshold`."""
        inner, outer = 2 * self.score * threshold, threshold + (2 * self.score - 1) * (1 - threshold)
        return outer if self.unsafe else inner

    def entries(self) -> dict[str, Any]:
        """Return what a point carries for it under ``hysac``."""
        return {SECOND: {"judge": self.judge, "unsafe": short_numbers([self.score], up=True)[0]}}

    @classmethod
    def stored(cls, own: Mapping[str, Any]) -> Self | None:
        """Return the opinion that a point carries; what cannot be read is the worst there is."""
        entry = own.get(SECOND)
        if entry is None:
            return None
        score = finite_number(entry.get("unsafe")) if isinstance(entry, Mapping) else None
        name = entry.get("judge") if isinstance(entry, Mapping) else None
        return cls(name if isinstance(name, str) else "unreadable", 1.0 if score is None else min(score, 1.0))


@dataclass(frozen=True, slots=True)
class Judged:
    """Outcome of judging the views of one item.

    Attributes:
        views: Number of views, at least 1.
        worst: Name of the view whose radius is the largest.
        radius: That radius, ≥ 0.
        known: How much of a text the model knows, in [0, 1]; None for an image, or where that is not known.
        unlike: Whether the item is unlike all that the model knows; None where that cannot be told.
        second: Opinion of a second judge.
        point: Space components of the worst view, (d,), while it is at hand.
    """

    views: int
    worst: str
    radius: float
    known: float | None = None
    unlike: bool | None = field(default=None, kw_only=True)
    second: Second | None = field(default=None, kw_only=True)
    point: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    def hides(self, own: float) -> bool:
        """Whether there is something worse than the vector's view, which has the radius `own`."""
        return self.radius > own * (1 + _SAME)

    def entries(self, own: float) -> dict[str, Any]:
        """Return what a point carries for it under ``hysac``; of views nothing where the vector's is the only one.

        Args:
            own: Radius of the stored vector, to which the worst view's is never inferior.
        """
        more = ({"unlike": True} if self.unlike else {}) | ({} if self.second is None else self.second.entries())
        if self.views == 1 and not self.hides(own):
            return more
        worst = {"view": self.worst, "radius": short_numbers([max(self.radius, own)])[0]}
        return more | {"views": self.views, "worst": worst}


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
        if one is not None and one.second is not None and not 0 <= one.second.score <= 1:
            raise InputError(f"row {row} has a second score of {one.second.score}, expected one in [0, 1]")


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
