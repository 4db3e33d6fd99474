"""From radius to safety: scores, thresholds and the redirection of unsafe queries.

In a HySAC space the distance from the origin grows along safe text < safe image < unsafe text <
unsafe image, so a radius is a safety score once the modality is known. A `SafetyProfile` holds what
was measured on a model's validation set; it travels in the model bundle and in the collection.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hysac_retrieval import lorentz
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.types import MODALITIES, Modality

RedirectMode = Literal["geodesic", "reference", "none"]
Traversal = Literal[RedirectMode, "adaptive"]
PERCENTILES = (5, 25, 50, 75, 95)
"""Percentiles kept of each calibration set."""

REFERENCE_ALPHA = 0.8
"""Default of the published traversal's offset α."""


class RadiusStats(BaseModel):
    """Radii of one calibration set: geodesic distances from the origin."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    count: int = Field(ge=0, description="Samples; 0 where the figures were taken over from elsewhere.")
    mean: float = Field(ge=0)
    std: float = Field(ge=0)
    percentiles: dict[int, float] = Field(description="Percentile (0 to 100) to radius.")

    @classmethod
    def of(cls, radii: ArrayLike) -> Self:
        """Measure a sample of radii, shape (n,), n ≥ 1."""
        r = np.asarray(radii, dtype=np.float64)
        return cls(
            count=r.size,
            mean=float(r.mean()),
            std=float(r.std()),
            percentiles={p: float(np.percentile(r, p)) for p in PERCENTILES},
        )


class ModalityProfile(BaseModel):
    """How radius and safety relate for one modality.

    P(unsafe | radius) = σ(slope · (radius − midpoint)).

    Attributes:
        safe: Radii of safe calibration samples.
        unsafe: Radii of unsafe calibration samples.
        slope: Steepness of the logistic calibration, > 0 (an unsafe point is farther out).
        midpoint: Radius at which P(unsafe) = ½.
        boundary: Radius that an unsafe query of this modality is moved to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    safe: RadiusStats
    unsafe: RadiusStats
    slope: float = Field(gt=0)
    midpoint: float = Field(ge=0)
    boundary: float = Field(gt=0)


class SafetyProfile(BaseModel):
    """The safety calibration of a model.

    Attributes:
        text: Calibration of texts.
        image: Calibration of images.
        threshold: Largest unsafe score, in [0, 1), that still counts as safe.
        source: What the profile was computed from, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: ModalityProfile
    image: ModalityProfile
    threshold: float = Field(ge=0, lt=1)
    source: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in MODALITIES:
            profile = self.of(name)
            if profile.safe.mean >= profile.unsafe.mean:
                raise ValueError(
                    f"the mean radius of safe {name} samples ({profile.safe.mean:.4g}) is not below that of unsafe "
                    f"ones ({profile.unsafe.mean:.4g}): the radius says nothing about safety; train or calibrate again"
                )
        return self

    def of(self, modality: Modality) -> ModalityProfile:
        """Return the calibration of one modality."""
        if modality == "text":
            return self.text
        if modality == "image":
            return self.image
        raise SettingsError(f"unknown modality {modality!r}; expected one of {', '.join(MODALITIES)}")

    def unsafe(self, radius: ArrayLike, modality: Modality) -> NDArray[np.float64]:
        """P(unsafe | radius, modality), in [0, 1], of the shape of `radius`.

        Fails closed: a radius that is not finite scores 1.
        """
        profile = self.of(modality)
        r = np.asarray(radius, dtype=np.float64)
        finite = np.isfinite(r)
        # Clipped so that exp cannot overflow; σ is 0 or 1 to the last bit of float64 long before ±700.
        logit = np.clip(profile.slope * (np.where(finite, r, 0.0) - profile.midpoint), -700.0, 700.0)
        return np.where(finite, 1.0 / (1.0 + np.exp(-logit)), 1.0)

    def reach(self, modality: Modality) -> float:
        """Largest radius whose score is at most the threshold, ≥ 0, up to rounding."""
        profile = self.of(modality)
        if not self.threshold:
            return 0.0
        logit = math.log(self.threshold) - math.log1p(-self.threshold)
        return max(profile.midpoint + logit / profile.slope, 0.0)


def redirect(
    points: NDArray[Any],
    modality: Modality,
    profile: SafetyProfile,
    curvature: float,
    mode: RedirectMode = "geodesic",
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Move unsafe query points toward the origin.

    Args:
        points: Space components, shape (n, d).
        modality: Kind of the queries; each has its own boundary.
        profile: The model's calibration.
        curvature: Curvature c > 0 of the space (−c).
        mode: ``"geodesic"`` puts a point whose score is above the profile's threshold exactly onto the boundary, if it
            lies beyond it, and leaves a safe query as it is; ``"reference"`` is the formula of
            the published code (see `traverse_reference`); ``"none"`` moves nothing. (``"adaptive"`` depends on what
            is found; see `traversal`.)

    Returns:
        The points to search with, (n, d) float64, and which of them were moved, (n,) bool. No point is ever
        farther from the origin than before.
    """
    x = np.asarray(points, dtype=np.float64)
    if mode == "none":
        return x, np.zeros(x.shape[0], dtype=np.bool_)
    calibration = profile.of(modality)
    if mode == "geodesic":
        radius = lorentz.dist0(x, curvature)
        moved = (profile.unsafe(radius, modality) > profile.threshold) & (radius > calibration.boundary)
        if not moved.any():
            return x, moved
        return np.where(moved[:, None], lorentz.traverse(x, calibration.boundary, curvature), x), moved
    if mode == "reference":
        # The published bounds: 95th percentile of safe images for image queries, of safe texts for the others.
        return traverse_reference(x, calibration.safe.percentiles[95], curvature)
    raise SettingsError(f"unknown redirection {mode!r}; expected one of {', '.join(get_args(RedirectMode))}")


def traverse_reference(
    points: NDArray[Any], bound: float, curvature: float, alpha: float = REFERENCE_ALPHA
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The traversal of the published HySAC code, number for number.

    B = b + 1 + tanh((b − α) / c). A point whose *geodesic* distance from the origin exceeds B has the *Euclidean*
    norm of its space components set to B, so that it ends up at radius asinh(√c B)/√c < B. Kept for comparison with
    published results; ``geodesic`` is exact.

    Args:
        points: Space components, shape (n, d).
        bound: The bound b, a percentile of the radii of safe samples.
        curvature: Curvature c > 0.
        alpha: The offset α.

    Returns:
        The points, (n, d) float64, and which of them were moved, (n,) bool.
    """
    x = np.asarray(points, dtype=np.float64)
    target = bound + 1.0 + math.tanh((bound - alpha) / curvature)
    norm = np.linalg.norm(x, axis=-1)
    # The norm is never increased: asinh(√c B)/√c < B, so whatever passes the first test has a larger norm.
    moved = lorentz.dist0(x, curvature) > target
    scale = np.where(moved, target / np.where(norm > 0, norm, 1.0), 1.0)
    return x * scale[:, None], moved
