"""What a collection is, apart from where it lives: its metadata, its records, its searches.

Pure functions of their arguments. `Index` sends what `plan` makes to a store and hands the answer to `interpret`;
the asynchronous search does the same with another sender.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticSerializationError, to_jsonable_python
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.errors import InputError, InvalidVectorError, ModelMismatchError, NotACollectionError
from hysac_retrieval.filters import BEYOND, MODALITY, MODEL, PAYLOAD_KEY, UNSAFE, checked_count, effective_threshold
from hysac_retrieval.filters import search_filter as _search_filter
from hysac_retrieval.lift import Lift, lift_from_dict
from hysac_retrieval.results import Hit, Modality, PointId
from hysac_retrieval.safety import MODALITIES, SafetyProfile
from hysac_retrieval.stores.base import IndexKind, Opened, StoredPoint, VectorQuery

FORMAT_VERSION: Literal[1] = 1
PAYLOAD_INDEXES: dict[str, IndexKind] = {UNSAFE: "float", MODALITY: "keyword", MODEL: "keyword", BEYOND: "bool"}

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "hysac-retrieval")
# A few candidates more than asked for, so that the float32 scores of an engine do not decide which point is last.
_SPARE = 8

_log = logging.getLogger(__name__)


class CollectionMetadata(BaseModel):
    """What is needed to read a collection's vectors, kept with it.

    Attributes:
        format_version: Version of this contract.
        fingerprint: Identity of the model that made the points.
        dim: Number d of space components of a point.
        curvature: Curvature c > 0 of the space (−c).
        lift: How points are stored, as `Lift.to_dict`.
        safety: Calibration that gave the points their scores.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format_version: Literal[1] = FORMAT_VERSION
    fingerprint: str = Field(min_length=1)
    dim: int = Field(gt=0)
    curvature: float = Field(gt=0)
    lift: dict[str, Any]
    safety: SafetyProfile


def point_id(source_key: str) -> str:
    """Deterministic id of a point: the same key, such as a path or a URL, always has the same UUID."""
    return str(uuid.uuid5(_NAMESPACE, source_key))


def raw_fingerprint(dim: int, curvature: float, safety: SafetyProfile) -> str:
    """Identity for points that come from no bundle: a hash of the space and its calibration."""
    content = {"dim": dim, "curvature": curvature, "safety": safety.model_dump(mode="json", exclude={"source"})}
    return "raw-" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:28]


def normal_ids(ids: Iterable[Any]) -> list[PointId]:
    """Ids as the engines return them: integers of 0 to 2⁶⁴ − 1, or UUIDs as canonical strings.

    Raises:
        InputError: An id is neither.
    """
    return [_normal_id(value, row) for row, value in enumerate(ids)]


def _normal_id(value: Any, row: int) -> PointId:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < 2**64:
        return int(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            pass
    raise InputError(
        f"id {value!r} (row {row}) is neither an integer from 0 to 2^64 − 1 nor a UUID; "
        "point_id(key) makes one of any text"
    )


@dataclass(frozen=True)
class SearchPlan:
    """A search ready to be sent.

    Attributes:
        query: What goes to the store.
        points: The points searched with, (n, d) float64.
        limit: Hits to return for each, at most.
        threshold: Largest unsafe score of a hit; None for a search that may return anything.
    """

    query: VectorQuery
    points: NDArray[np.float64]
    limit: int
    threshold: float | None


@dataclass(frozen=True)
class Collection:
    """A collection by name and metadata."""

    name: str
    metadata: CollectionMetadata

    @classmethod
    def read(cls, name: str, opened: Opened, expect_fingerprint: str | None = None) -> Self:
        """Understand what a store says about a collection.

        Raises:
            NotACollectionError: It lacks our vector or our metadata, or they do not fit each other.
            ModelMismatchError: Another model made it.
        """
        what = f"collection {name!r}"
        if opened.size is None or opened.metadata is None:
            lack = "vector named 'hysac' (Dot)" if opened.size is None else "metadata"
            raise NotACollectionError(
                f"{what} exists but has no {lack} of ours; create one of another name, or index with hysac-index"
            )
        try:
            metadata = CollectionMetadata.model_validate(dict(opened.metadata))
            lift = lift_from_dict(metadata.lift)
        except ValueError as error:  # pydantic's own, and SettingsError of a lift this version does not know
            raise NotACollectionError(f"{what} has metadata that this version cannot read: {error}") from error
        if lift.size != opened.size or lift.dim != metadata.dim:
            raise NotACollectionError(
                f"{what} has vectors of length {opened.size}, but its metadata describes {lift.size} for points of "
                f"dimension {lift.dim} where {metadata.dim} was declared; index again"
            )
        collection = cls(name, metadata)
        if expect_fingerprint is not None:
            collection.expect(expect_fingerprint)
        return collection

    def expect(self, fingerprint: str) -> None:
        """Check which model the collection was indexed with.

        Raises:
            ModelMismatchError: It was another one.
        """
        if fingerprint != self.metadata.fingerprint:
            raise ModelMismatchError(
                f"collection {self.name!r} was indexed with model {self.metadata.fingerprint}, but this is model "
                f"{fingerprint}; their points cannot be compared. Load the model it was indexed with, or index again"
            )

    @cached_property
    def lift(self) -> Lift:
        """How points are stored."""
        return lift_from_dict(self.metadata.lift)

    def records(
        self,
        ids: Sequence[Any],
        points: ArrayLike,
        modality: Modality,
        payloads: Sequence[Mapping[str, Any] | None] | None,
    ) -> tuple[list[PointId], NDArray[np.float32], list[dict[str, Any]]]:
        """Turn points into what is stored: ids, vectors (n, size) and payloads with radius and score."""
        keys = normal_ids(ids)
        x = self.checked(points)
        given: Sequence[Mapping[str, Any] | None] = [None] * len(keys) if payloads is None else payloads
        if not len(keys) == len(x) == len(given):
            raise InputError(f"{len(keys)} ids, {len(x)} points and {len(given)} payloads; give as many of each")
        radius = np.asarray(lorentz.dist0(x, self.metadata.curvature))
        unsafe = self.metadata.safety.unsafe(radius, modality)
        beyond = self.lift.beyond(x)
        rows = []
        for row, payload in enumerate(given):
            ours = {
                "unsafe": min(_short(unsafe[row], up=True), 1.0),
                "radius": _short(radius[row]),
                "modality": modality,
                "model": self.metadata.fingerprint,
            }
            rows.append(_plain(payload, row) | {PAYLOAD_KEY: ours | ({"beyond": True} if beyond[row] else {})})
        return keys, self.lift.lift(x), rows

    def plan(
        self,
        points: ArrayLike,
        *,
        limit: int = 10,
        safe: bool = True,
        threshold: float | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        modality: Modality | None = None,
        ef: int | None = None,
    ) -> SearchPlan:
        """Make the request of a search with points (n, d); the arguments are those of `Index.query`."""
        x = self.checked(points)
        wanted = checked_count(limit, "limit")
        bound = effective_threshold(threshold, self.metadata.safety.threshold)
        allowed = bound if safe else None
        query = VectorQuery(
            vectors=self.lift.lift_query(x),
            limit=wanted + _SPARE,
            filter=_search_filter(
                threshold=allowed, fingerprint=self.metadata.fingerprint, modality=modality, user=filter
            ),
            ef=None if ef is None else max(checked_count(ef, "ef"), wanted + _SPARE),
        )
        return SearchPlan(query, x, wanted, allowed)

    def interpret(self, plan: SearchPlan, answers: Sequence[Sequence[StoredPoint]]) -> list[list[Hit]]:
        """Turn a store's answers into hits in ascending geodesic distance, computed here in float64."""
        return [
            self._hits(point, answer, plan.threshold)[: plan.limit]
            for point, answer in zip(plan.points, answers, strict=True)
        ]

    def _hits(self, point: NDArray[np.float64], answer: Sequence[StoredPoint], threshold: float | None) -> list[Hit]:
        distances = self._distances(point, answer)
        hits = [self._hit(stored, distance) for stored, distance in zip(answer, distances, strict=True)]
        if threshold is not None:
            # The search itself guarantees this; a hit that fails here is a defect of a store, and stays in.
            leaked = [hit for hit in hits if hit.unsafe is None or hit.unsafe > threshold]
            for hit in leaked:
                _log.error("store returned point %s of %r in spite of the safety filter; dropped", hit.id, self.name)
            hits = [hit for hit in hits if hit.unsafe is not None and hit.unsafe <= threshold]
        return sorted(hits, key=lambda hit: (hit.distance, str(hit.id)))

    def _distances(self, point: NDArray[np.float64], answer: Sequence[StoredPoint]) -> list[float]:
        vectors = [stored.vector for stored in answer]
        if vectors and all(vector is not None for vector in vectors):
            found = self.lift.unlift(np.asarray(vectors, dtype=np.float64))
            return [float(d) for d in lorentz.dist(found, point[None, :], self.metadata.curvature)]
        scores = [math.nan if stored.score is None else stored.score for stored in answer]
        return [float(d) for d in self.lift.score_to_distance(scores)]

    def _hit(self, stored: StoredPoint, distance: float) -> Hit:
        ours = stored.payload.get(PAYLOAD_KEY)
        ours = ours if isinstance(ours, Mapping) else {}
        unsafe, radius, modality = _number(ours.get("unsafe")), _number(ours.get("radius")), ours.get("modality")
        valid = unsafe is not None and unsafe <= 1 and ours.get("model") == self.metadata.fingerprint
        return Hit(
            id=stored.id,
            distance=distance,
            unsafe=unsafe if valid else None,
            radius=radius,
            modality=modality if modality in MODALITIES else None,
            payload={key: value for key, value in stored.payload.items() if key != PAYLOAD_KEY},
        )

    def checked(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points as a float64 array (n, d).

        Raises:
            InvalidVectorError: They are not numbers, not of that shape, or not finite; the message names the row.
        """
        try:
            x = np.asarray(points)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InvalidVectorError(f"points cannot be read as an array of shape (n, d): {error}") from error
        dim = self.metadata.dim
        if x.dtype.kind not in "fiu" and x.size:
            raise InvalidVectorError(f"points have dtype {x.dtype}; expected real numbers of shape (n, {dim})")
        if x.ndim == 1 and not x.size:
            x = x.reshape(0, dim)
        if x.ndim != 2 or x.shape[1] != dim:
            raise InvalidVectorError(f"points have shape {x.shape}; this collection takes (n, {dim})")
        x = x.astype(np.float64)
        # Beyond 1e18 the stored float32 vector would overflow; no encoder comes near.
        bad = np.flatnonzero(~(np.abs(x) < 1e18).all(axis=1))
        if bad.size:
            raise InvalidVectorError(f"point in row {bad[0]} holds NaN, infinity or a number beyond 1e18")
        return x


def _short(value: float, *, up: bool = False) -> float:
    """Round to 12 decimals, a score upward, so that it never looks safer than it is.

    Engines parse JSON numbers of more than 15 digits to within one unit in the last place only; these come back exact.
    """
    return round(math.ceil(value * 1e12) / 1e12 if up else float(value), 12)


def _number(value: Any) -> float | None:
    """A finite number of 0 or more; None for anything else, True and False included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _plain(payload: Mapping[str, Any] | None, row: int) -> dict[str, Any]:
    """A caller's payload as JSON values; dates, paths and UUIDs become strings."""
    if payload is None:
        return {}
    if not isinstance(payload, Mapping):
        raise InputError(f"payload in row {row} is {type(payload).__name__}; expected a mapping")
    if PAYLOAD_KEY in payload:
        raise InputError(f"payload in row {row} has a key {PAYLOAD_KEY!r}, which is reserved; rename that field")
    try:
        plain = to_jsonable_python(dict(payload))
        json.dumps(plain, allow_nan=False)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"payload in row {row} does not consist of JSON values: {error}") from error
    result: dict[str, Any] = plain
    return result
