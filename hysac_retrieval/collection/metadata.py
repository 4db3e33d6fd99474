"""Metadata that is kept with a collection, without which its vectors cannot be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hysac_retrieval.errors import NotACollectionError
from hysac_retrieval.safety.profile import TOLD, SafetyProfile
from hysac_retrieval.stores.types import Opened, Quantization

FORMAT_VERSION: Literal[1] = 1
ATTACH_HINT = "Create one of another name, index with hysac-index, or add vectors to it with `hysac-index attach`"
Vectors = Literal["in-place", "companion", "none"]
"""Where the vectors of an application's points are: in its collection, in a companion of it, or nowhere."""

_LENGTH = 32  # characters of a bundle's fingerprint


class Calibration(BaseModel):
    """A calibration that points of a collection may still carry scores of.

    Attributes:
        fingerprint: Identity of the model with that calibration.
        safety: The calibration.
        served: Whether points keep its verdicts beside those of the next, for searches that were opened with it; until
            all points have those of the next.
        kept: Whether any point may still carry them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    fingerprint: str = Field(min_length=1)
    safety: SafetyProfile
    served: bool = False
    kept: bool = False


class Attached(BaseModel):
    """Link from vectors and scores to the collection of an application whose points they belong to.

    Attributes:
        collection: The application's collection.
        companion: Collection that holds the vectors, under the same ids; None if it is the application's own.
        scores_only: Whether there are no vectors, only scores.
        labels: Payload fields that the companion has copies of.
        content: Description of what the scores were given for: see `ingest.Content`.
        indexed: Payload fields of the application's collection that were given an index.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    collection: str
    companion: str | None = None
    scores_only: bool = False
    labels: tuple[str, ...] = ()
    content: dict[str, Any] | None = None
    indexed: tuple[str, ...] = ()

    @property
    def vectors(self) -> Vectors:
        """Where the vectors are."""
        return "none" if self.scores_only else "companion" if self.companion else "in-place"


class CollectionMetadata(BaseModel):
    """Metadata that is needed to read a collection's vectors.

    Attributes:
        format_version: Version of this contract.
        fingerprint: Identity of the model that made the points.
        dim: Number d of space components of a point.
        curvature: Curvature c > 0 of the space (−c).
        lift: How points are stored, as `Lift.to_dict`.
        stamp: Short name of the lift, which every point carries, so that a reply shows that another one stored it; None
            in collections made before there was one.
        safety: Calibration that gave the points their scores.
        quantization: How the vectors that the graph compares are compressed; None for not at all.
        measured: Measurements that the choice of the lift was based on (``lift="auto"``).
        shard_by: Payload field by which points are divided into shards of their own, in a collection of tenants.
        attached: Application's collection that the points belong to; None if they were written to this one.
        earlier: Calibrations that came before, oldest first; points that carry no score but theirs are found by no safe
            search with this one until `rescore` has rewritten them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format_version: Literal[1] = FORMAT_VERSION
    fingerprint: str = Field(min_length=1)
    dim: int = Field(gt=0)
    curvature: float = Field(gt=0)
    lift: dict[str, Any]
    stamp: str | None = None
    safety: SafetyProfile
    quantization: Quantization | None = None
    measured: dict[str, Any] | None = None
    shard_by: str | None = None
    attached: Attached | None = None
    earlier: tuple[Calibration, ...] = ()


def same_points(one: str, other: str) -> bool:
    """Whether two fingerprints are of models that give the same points, perhaps with different scores.

    The first half of a bundle's fingerprint is a hash of what makes the points, the second half of everything.
    Fingerprints that a caller made are the same or not.
    """
    return one == other or (len(one) == len(other) == _LENGTH and one[: _LENGTH // 2] == other[: _LENGTH // 2])


def raw_fingerprint(dim: int, curvature: float, safety: SafetyProfile) -> str:
    """Return an identity for points that come from no bundle: a hash of the space and its calibration."""
    space = {"dim": dim, "curvature": curvature}
    whole = space | {"safety": safety.model_dump(mode="json", exclude={*TOLD})}
    first, second = (hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for part in (space, whole))
    return f"raw-{first[:12]}{second[:16]}"


def stamp_of(lift: Mapping[str, Any]) -> str:
    """Return a short name of a lift: eight hexadecimal digits of a hash."""
    return hashlib.sha256(json.dumps(lift, sort_keys=True).encode()).hexdigest()[:8]


def read_metadata(name: str, opened: Opened) -> CollectionMetadata:
    """Return the metadata of a collection.

    Raises:
        NotACollectionError: It has none, or such as this version cannot read.
    """
    what = f"collection {name!r}"
    if opened.metadata is None:
        lack = "vector named 'hysac'" if opened.size is None else "hysac metadata"
        raise NotACollectionError(f"{what} exists but has no {lack}", hint=ATTACH_HINT)
    try:
        return CollectionMetadata.model_validate(dict(opened.metadata))
    except ValueError as error:
        raise NotACollectionError(f"{what} has metadata that this version cannot read: {error}") from error
