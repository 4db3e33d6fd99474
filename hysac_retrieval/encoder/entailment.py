"""Which points entail which: the cones of a model, calibrated.

A general point entails the special ones in its cone. The published cone of x has the half aperture asin(2K / (√c |x|))
with K = 0.1 (MERU, arXiv 2304.09172, eq. 5), and y lies in it if its exterior angle at x (eq. 6) is no wider. Both
suppose radii as small as K: at a HySAC's radii such a cone is a few degrees wide, and the exterior angle of a matched
pair, which grows with the radii, is not. So three things are calibrated on pairs that are known to match:

* *Power.* Angles are taken in the tangent space at the origin, between vectors whose lengths are radii raised to a
  power p (`lorentz.radial_angle`). Directions and the order of radii stay, and they are what a model learns; the ratio
  of radii becomes free. The larger p, the less an angle tells of how much farther out a point lies, and the more of its
  direction.
* *Half aperture.* One constant θ ≤ π/2 for each relation, a pair of groups, so that the width of a cone does not depend
  on how far out its apex is, and angles between all texts and all that they may entail are compared with one number.
  Beyond π/2 a cone would hold what is more general than its apex, and cones of what it holds would not lie in it (Ganea
  et al., arXiv 1804.01882).
* *Selectivity.* The shares of matched and of other pairs that are inside, without which a claim of entailment says
  nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hysac_retrieval import lorentz
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import Modality

Level: TypeAlias = tuple[Literal["safe", "unsafe"], Modality]
"""A group of points, by its place in the order of radii."""
LEVELS: Mapping[str, Level] = {
    "T": ("safe", "text"),
    "I": ("safe", "image"),
    "T*": ("unsafe", "text"),
    "I*": ("unsafe", "image"),
}
"""The four groups from the origin outwards, by their symbols: T text, I image, * unsafe."""

Relation = Literal["T<I", "T<T*", "T<I*", "I<T*", "I<I*", "T*<I*"]
"""A pair of groups, the apex's first: a safe text and an image, ``T<I``."""


class Cone(BaseModel):
    """The cones of one relation.

    Attributes:
        half_aperture: Largest exterior angle inside, in radians, at most π/2.
        matched: Share of the matched calibration pairs that are inside.
        unmatched: Share of all other calibration pairs of those groups that are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    half_aperture: float = Field(gt=0, le=math.pi / 2)
    matched: float = Field(ge=0, le=1)
    unmatched: float = Field(ge=0, le=1)


class Entailment(BaseModel):
    """Calibrated cones of a model.

    Attributes:
        version: Version of this contract.
        power: Power of the radii at which angles are taken, at least 1.
        cones: The cones of each relation.
        source: What they were calibrated on, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[2] = 2
    power: float = Field(ge=1)
    cones: dict[Relation, Cone]
    source: str = ""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.cones:
            raise ValueError("there is no cone of any relation")
        return self

    def angle(self, apex: Any, point: Any, curvature: float) -> NDArray[np.float64]:
        """`lorentz.radial_angle` at `apex` of `point`, both (..., d) space components; radians, broadcast."""
        x, y = (np.asarray(each, dtype=np.float64) for each in (apex, point))
        angle: NDArray[np.float64] = lorentz.radial_angle(x, y, curvature, self.power)
        return angle

    def relations(self, apexes: Any, point: Any, curvature: float, safety: SafetyProfile) -> list[Relation | None]:
        """By which relation each of n stored texts entails a point; None if it does not.

        A text is safe or unsafe by its radius. A point that was moved belongs to no group: it stands for the group
        whose mean radius is nearest to its own, for it is the radius that sets how wide matched angles are. What is no
        farther out than a text's own group is entailed by no text of it.

        Args:
            apexes: Points of texts, (n, d).
            point: A point, (d,).
            curvature: Curvature c > 0.
            safety: Calibration of the radii.
        """
        level = level_of(float(lorentz.dist0(np.asarray(point, dtype=np.float64), curvature)), safety)
        radii = lorentz.dist0(np.asarray(apexes, dtype=np.float64), curvature)
        angles = self.angle(apexes, np.asarray(point)[None, :], curvature)
        found: list[Relation | None] = []
        for angle, safe in zip(angles, safety.counts_safe(radii, "text"), strict=True):
            relation: Any = f"{'T' if safe else 'T*'}<{level}"
            cone = self.cones.get(relation)
            found.append(relation if cone is not None and angle <= cone.half_aperture else None)
        return found


def level_of(radius: float, safety: SafetyProfile) -> str:
    """Symbol of the group, of `LEVELS`, whose mean radius is nearest to a radius; of two, the inner."""
    return min(LEVELS, key=lambda symbol: abs(_mean(LEVELS[symbol], safety) - radius))


def _mean(level: Level, safety: SafetyProfile) -> float:
    side, modality = level
    part = safety.of(modality)
    return (part.safe if side == "safe" else part.unsafe).mean
