"""What is kept with a collection, and without which its vectors cannot be read."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hysac_retrieval.safety import SafetyProfile
from hysac_retrieval.stores.base import Quantization

FORMAT_VERSION: Literal[1] = 1


class CollectionMetadata(BaseModel):
    """What is needed to read a collection's vectors, kept with it.

    Attributes:
        format_version: Version of this contract.
        fingerprint: Identity of the model that made the points.
        dim: Number d of space components of a point.
        curvature: Curvature c > 0 of the space (−c).
        lift: How points are stored, as `Lift.to_dict`.
        safety: Calibration that gave the points their scores.
        quantization: How the vectors that the graph compares are compressed; None for not at all.
        measured: What the choice of the lift was based on (``lift="auto"``).
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format_version: Literal[1] = FORMAT_VERSION
    fingerprint: str = Field(min_length=1)
    dim: int = Field(gt=0)
    curvature: float = Field(gt=0)
    lift: dict[str, Any]
    safety: SafetyProfile
    quantization: Quantization | None = None
    measured: dict[str, Any] | None = None


def raw_fingerprint(dim: int, curvature: float, safety: SafetyProfile) -> str:
    """Identity for points that come from no bundle: a hash of the space and its calibration."""
    content = {"dim": dim, "curvature": curvature, "safety": safety.model_dump(mode="json", exclude={"source"})}
    return "raw-" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:28]
