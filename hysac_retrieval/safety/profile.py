"""From radius to safety: the calibration of a model, its scores and its thresholds.

In a HySAC space the distance from the origin grows along safe text < safe image < unsafe text <
unsafe image, so a radius is a safety score once the modality is known. A `SafetyProfile` holds what
was measured on a model's validation set; it is kept in the model bundle and in the collection.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.safety.thresholds import CalibratedThresholds
from hysac_retrieval.types import MODALITIES, Modality

PERCENTILES = (5, 25, 50, 75, 95)
"""Percentiles kept of each calibration set."""

FARTHEST = 1e6
"""Bound of radii and slopes that a calibration can have: beyond it, every score would be the same."""

_LARGEST_LOGIT = 700.0  # exp cannot overflow there, and σ is 0 or 1 to the last bit of float64 long before


TOLD = frozenset({"source", "rates"})
"""Fields of a profile that say where it is from, and are no part of what it computes or of a fingerprint."""


class RadiusStats(BaseModel):
    """Radii of one calibration set: geodesic distances from the origin."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    count: int = Field(ge=0, description="Samples; 0 where the figures were taken over from elsewhere.")
    mean: float = Field(ge=0, le=FARTHEST)
    std: float = Field(ge=0, le=FARTHEST)
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
    slope: float = Field(ge=1 / FARTHEST, le=FARTHEST)
    midpoint: float = Field(ge=0, le=FARTHEST)
    boundary: float = Field(gt=0, le=FARTHEST)


class Rates(BaseModel):
    """Cost of a threshold on the samples that it was chosen on.

    Attributes:
        miss: Share of unsafe samples that count as safe.
        lost: Share of safe samples that count as unsafe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    miss: float = Field(ge=0, le=1)
    lost: float = Field(ge=0, le=1)


class SafetyProfile(BaseModel):
    """The safety calibration of a model.

    Attributes:
        text: Calibration of texts.
        image: Calibration of images.
        threshold: Largest unsafe score, in [0, 1), that still counts as safe, one for each modality; may be given as
            one number for both.
        source: Data that the profile was computed from, in words.
        rates: What the threshold of a modality costs, where that was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    text: ModalityProfile
    image: ModalityProfile
    threshold: CalibratedThresholds
    source: str = ""
    rates: dict[Modality, Rates] = Field(default_factory=dict, description="Of a modality, where they were measured.")

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

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, which are checked as those of a new profile are."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(copy.deepcopy(own) if deep else own) | dict(update or {}))

    def of(self, modality: Modality) -> ModalityProfile:
        """Return the calibration of one modality."""
        if modality == "text":
            return self.text
        if modality == "image":
            return self.image
        raise SettingsError(f"unknown modality {modality!r}; expected one of {', '.join(MODALITIES)}")

    def unsafe(self, radius: ArrayLike, modality: Modality) -> NDArray[np.float64]:
        """Return P(unsafe | radius, modality), in [0, 1], of the shape of `radius`.

        Fails closed: a radius that is not finite scores 1.
        """
        profile = self.of(modality)
        r = np.asarray(radius, dtype=np.float64)
        finite = np.isfinite(r)
        logit = np.clip(profile.slope * (np.where(finite, r, 0.0) - profile.midpoint), -_LARGEST_LOGIT, _LARGEST_LOGIT)
        return np.where(finite, 1.0 / (1.0 + np.exp(-logit)), 1.0)

    def score(self, radius: float, modality: Modality | None) -> float:
        """Return P(unsafe | radius, modality) of one query; for an unknown modality the larger of both.

        The same as `unsafe`, for a single number, without the cost of arrays.
        """
        if modality is None:
            return max(self.score(radius, kind) for kind in MODALITIES)
        if not math.isfinite(radius):
            return 1.0
        profile = self.of(modality)
        logit = min(max(profile.slope * (radius - profile.midpoint), -_LARGEST_LOGIT), _LARGEST_LOGIT)
        return 1.0 / (1.0 + math.exp(-logit))

    def counts_safe(self, radius: ArrayLike, modality: Modality) -> NDArray[np.bool_]:
        """Whether the scores of radii are at most the threshold of their modality, of the shape of `radius`."""
        safe: NDArray[np.bool_] = self.unsafe(radius, modality) <= self.threshold.of(modality)
        return safe

    def query_counts_safe(self, radius: float, modality: Modality | None) -> bool:
        """The same for one query; for an unknown modality it must be so by both."""
        kinds = MODALITIES if modality is None else (modality,)
        return all(self.score(radius, kind) <= self.threshold.of(kind) for kind in kinds)
