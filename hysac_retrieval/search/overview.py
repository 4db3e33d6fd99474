"""A collection at a glance: where its points lie, and which of their fields one may filter and colour by.

A place on the Poincaré disk has the true radius of its point. Its angle is that of the point's direction in the plane
of the two principal components of all directions shown, which keeps the most of what tells them apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.collection.metadata import CollectionMetadata
from hysac_retrieval.collection.plan import SearchPlan
from hysac_retrieval.collection.records import is_foreign, stored_points
from hysac_retrieval.payload import PAYLOAD_KEY, finite_number, own_payload
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.verdict import safe_score, valid_score
from hysac_retrieval.search.engine import SearchEngine
from hysac_retrieval.search.queries import Query
from hysac_retrieval.search.request import SearchRequest
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import MODALITIES, Modality

MOST_POINTS = 100_000
MOST_FIELDS, MOST_VALUES, LONGEST_VALUE = 12, 24, 60
_SAMPLE, _PAGE = 500, 1000
_PLAIN = re.compile(r"[\w-]+")  # a dot or a bracket in a field's name would be read as a path

Value = str | int | bool


class Narrowed(TypedDict, total=False):
    """Conditions as those of a search."""

    modality: Modality | None
    filter: models.Filter | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Facet:
    """A payload field with few values.

    Attributes:
        field: Its name.
        values: Its values, the most frequent first.
    """

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """Points of a collection, each row of every array one of them.

    Attributes:
        total: Points that there are to see; more than `ids` where the collection is larger than what was asked for.
        ids: Their ids.
        radius: Distances from the origin, (n,).
        angle: Angles on the disk, in radians, (n,).
        unsafe: Unsafe scores in [0, 1], (n,); NaN where there is none.
        kind: Index of the modality in `MODALITIES`, (n,); 2 for neither.
        safe: Whether a safe search may return it, (n,).
        facets: Fields to colour by.
        codes: For each facet the index of the point's value, (n,); −1 where it is none of them.
        axes: Mean direction and the two components, (3, d), from which `angle` is computed.
    """

    total: int
    ids: tuple[int | str, ...]
    radius: NDArray[np.float32]
    angle: NDArray[np.float32]
    unsafe: NDArray[np.float32]
    kind: NDArray[np.uint8]
    safe: NDArray[np.bool_]
    facets: tuple[Facet, ...]
    codes: tuple[NDArray[np.int8], ...]
    axes: NDArray[np.float32]


def facets(engine: SearchEngine, *, safe: bool = True) -> Steps[tuple[Facet, ...]]:
    """Return the fields of the payload that have few values, as found in the first points that may be shown.

    Raises:
        UnsafeNotAllowedError: ``safe=False`` where the policy forbids it.
    """
    points = yield from _visible(engine, _plan(engine, safe), _SAMPLE)
    return _facets(points)


def overview(
    engine: SearchEngine, *, safe: bool = True, limit: int = MOST_POINTS, **narrowed: Unpack[Narrowed]
) -> Steps[Overview]:
    """Read points and place them; with ``safe=True`` none but those that a safe search may return.

    Args:
        engine: The search, with its policy.
        safe: Whether only safe points are read.
        limit: Points to read; of a larger collection those with the lowest ids, which says nothing about them.
        **narrowed: Which of them are read.

    Raises:
        SettingsError: The filter is none.
        UnsafeNotAllowedError: ``safe=False`` where the policy forbids it.
    """
    collection, plan, strict = engine.collection, _plan(engine, safe, **narrowed), _plan(engine, True)
    some = yield from _visible(engine, plan, _SAMPLE)
    fields = _facets(some)
    rules = [rule.key.partition(".")[0].partition("[")[0] for rule in engine.policy.rules]
    wanted = [PAYLOAD_KEY, *(facet.field for facet in fields), *rules]
    points = yield from _visible(engine, plan, min(limit, MOST_POINTS), fields=wanted, with_vectors=True)
    total = yield Ask("count", collection.name, plan.filter)
    own = [own_payload(point.payload) for point in points]
    directions = _directions(collection, points)
    axes = _axes(directions)
    judged = [valid_score(each, collection.metadata.fingerprint) for each in own]
    return Overview(
        total=max(total, len(points)),
        ids=tuple(point.id for point in points),
        radius=np.array([finite_number(each.get("radius")) or 0.0 for each in own], np.float32),
        angle=_angles(directions, axes),
        unsafe=np.array([np.nan if score is None else score for score in judged], np.float32),
        kind=np.array([_kind(each.get("modality")) for each in own], np.uint8),
        safe=np.array([_shown(engine, strict, point) for point in points], np.bool_),
        facets=fields,
        codes=tuple(_codes(facet, points) for facet in fields),
        axes=axes,
    )


def drawn(found: Overview, metadata: CollectionMetadata) -> dict[str, Any]:
    """Return what a page draws of an overview: its arrays, the curvature, and the calibration by level."""
    held = {name: getattr(found, name) for name in found.__slots__}
    return {"curvature": metadata.curvature, "levels": levels(metadata.safety), **held}


def levels(profile: SafetyProfile) -> dict[str, Any]:
    """Return what of a calibration is drawn, for each modality."""
    return {
        kind: {
            "safe": {"mean": profile.of(kind).safe.mean, "std": profile.of(kind).safe.std},
            "unsafe": {"mean": profile.of(kind).unsafe.mean, "std": profile.of(kind).unsafe.std},
            "slope": profile.of(kind).slope,
            "midpoint": profile.of(kind).midpoint,
            "boundary": profile.of(kind).boundary,
            "threshold": profile.threshold.of(kind),
        }
        for kind in MODALITIES
    }


def direction(engine: SearchEngine, query: Query, options: Mapping[str, Any]) -> Steps[NDArray[np.float64]]:
    """Return the direction of a query, (d,), of length 1; all of its way to the origin has the same.

    Raises:
        SettingsError: An option is out of range.
    """
    (settled,) = yield from engine.settled([query], engine.prepare(SearchRequest, options))
    found: NDArray[np.float64] = _unit(settled.asked[None, :])[0]
    return found


def _plan(engine: SearchEngine, safe: bool, **narrowed: Unpack[Narrowed]) -> SearchPlan:
    return engine.prepare(SearchRequest, {"safe": safe, "limit": 1, **narrowed}).plan


def _visible(
    engine: SearchEngine,
    plan: SearchPlan,
    most: int,
    *,
    fields: Sequence[str] | None = None,
    with_vectors: bool = False,
) -> Steps[list[StoredPoint]]:
    """Read points under a plan's condition; what came back is looked at once more, as in a search."""
    found: list[StoredPoint] = []
    after = None
    while len(found) < most:
        page, after = yield Ask(
            "scroll",
            plan.collection.name,
            filter=plan.filter,
            limit=min(_PAGE, most - len(found)),
            after=after,
            with_vectors=with_vectors,
            fields=fields,
        )
        # An application's collection may have points that were not indexed here.
        found += [one for one in page if not (with_vectors and one.vector is None) and _shown(engine, plan, one)]
        if after is None:
            break
    return found


def _shown(engine: SearchEngine, plan: SearchPlan, point: StoredPoint) -> bool:
    own, bound = own_payload(point.payload), plan.thresholds
    if is_foreign(own, plan.collection):
        return False
    fingerprint = plan.collection.metadata.fingerprint
    if bound is not None and safe_score(own, fingerprint, bound, trust_reviews=plan.trust_reviews) is None:
        return False
    return all(rule.admits(point.payload) for rule in engine.policy.rules_of(bound is not None))


def _facets(points: Iterable[StoredPoint]) -> tuple[Facet, ...]:
    counted: dict[str, Counter[tuple[type, Value]]] = {}
    for point in points:
        for name, value in point.payload.items():
            if name != PAYLOAD_KEY and _PLAIN.fullmatch(name) and _is_label(value):
                counted.setdefault(name, Counter())[type(value), value] += 1
    # A field whose values hardly ever repeat, such as a file's name, narrows nothing.
    few = {
        name: values
        for name, values in counted.items()
        if 2 <= len(values) <= MOST_VALUES and 2 * len(values) <= values.total()
    }
    return tuple(
        Facet(name, tuple(value for (_, value), _ in values.most_common()))
        for name, values in sorted(few.items())[:MOST_FIELDS]
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, bool | int) or (isinstance(value, str) and 0 < len(value) <= LONGEST_VALUE)


def _codes(facet: Facet, points: Sequence[StoredPoint]) -> NDArray[np.int8]:
    known: dict[Any, int] = {(type(value), value): code for code, value in enumerate(facet.values)}
    values = (point.payload.get(facet.field) for point in points)
    return np.array([known.get((type(value), value), -1) if _is_label(value) else -1 for value in values], np.int8)


def _kind(modality: Any) -> int:
    return MODALITIES.index(modality) if modality in MODALITIES else len(MODALITIES)


def _directions(collection: Any, points: Sequence[StoredPoint]) -> NDArray[np.float32]:
    made = np.empty((len(points), collection.metadata.dim), np.float32)
    for start in range(0, len(points), _PAGE):  # float64 for a page at a time
        made[start : start + _PAGE] = _unit(stored_points(collection, points[start : start + _PAGE])[0])
    return made


def _unit(points: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(points, axis=1, keepdims=True)
    found: NDArray[np.float64] = points / np.where(length > 0, length, 1.0)
    return found


def _axes(directions: NDArray[np.float32]) -> NDArray[np.float32]:
    dim = directions.shape[1]
    axes = np.zeros((3, dim), np.float64)
    if len(directions):
        axes[0] = directions.mean(axis=0, dtype=np.float64)
        centred = directions - axes[0].astype(np.float32)
        _, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        for row, vector in enumerate(vectors.T[::-1][:2], start=1):
            axes[row] = vector * np.sign(vector[np.abs(vector).argmax()])  # the same turn each time
    return axes.astype(np.float32)


def _angles(directions: NDArray[np.float32], axes: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = directions - axes[0]
    angles: NDArray[np.float32] = np.arctan2(centred @ axes[2], centred @ axes[1]).astype(np.float32)
    return angles
