"""The look at what comes back: a point is handed on if its payload says that it is safe.

The condition keeps unsafe points out of a search. An index may outlive the payload, and a value may be a list, of which
engines match any element; so what was found is held to the payload, as the engine of this package does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc  # type: ignore[import-untyped]
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from hysac_retrieval.guard.condition import Guard
from hysac_retrieval.guard.methods import ALWAYS
from hysac_retrieval.guard.shown import Shown
from hysac_retrieval.safety.filters import without
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.types import PointId

GuardOf: TypeAlias = Callable[[str], Steps[Guard]]
"""Finds the guard of a collection, perhaps by asking for its metadata."""

Given: TypeAlias = Mapping[str, Any]
"""The arguments of a call, as values."""

ROUNDS = 10
"""How often a request is made again because points fell away; then the answer is short."""

FAULTS = (UnexpectedResponse, grpc.RpcError)
"""What a client raises where a server answers with an error."""

_REFUSALS = (400, 403, 422, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)

_log = logging.getLogger(__name__)


def safe_points(
    guard: Guard, given: Given, ids: Iterable[PointId], shown: Shown | None = None, **selections: Any
) -> Steps[dict[PointId, models.Record]]:
    """Return the safe ones of some points: found by the engine under the condition, and held to their payload."""
    some = list(dict.fromkeys(ids))
    if not some:
        return {}
    looked = shown if selections else shown_by(guard, False)
    asked = selections or {"with_payload": looked.request() if looked else False, "with_vectors": False}
    same = {name: given[name] for name in ALWAYS if name in given}
    these: Any = models.Filter(must=[models.HasIdCondition(has_id=[*some])])
    try:
        records, _ = yield Ask("scroll", **same, scroll_filter=guard.filter(these), limit=len(some), **asked)
    except FAULTS as error:
        if len(some) == 1 or not refused(error):
            raise
        found: dict[PointId, models.Record] = {}
        for half in (some[: len(some) // 2], some[len(some) // 2 :]):
            found |= yield from safe_points(guard, given, half, shown, **selections)
        return found
    fallen = yield from fallen_points(guard, given, records, looked)
    return {record.id: narrowed(record, looked) for record in records if record.id not in fallen}


def refused(error: Any) -> bool:
    """Whether a server does not take a request as it is, as strict mode does not take one for too many points."""
    return (error.status_code if isinstance(error, UnexpectedResponse) else error.code()) in _REFUSALS


def fallen_points(guard: Guard, given: Given, points: Sequence[Any], shown: Shown | None) -> Steps[list[PointId]]:
    """Return the ids of points that came back although their payload does not say that they are safe."""
    if shown is None:
        safe = yield from safe_points(guard, given, [point.id for point in points])
        fallen = [point.id for point in points if point.id not in safe]
    else:
        fallen = [point.id for point in points if not guard.admits(point.payload or {})]
        for identity in fallen:
            _log.warning(
                "point %s of %r passed the safety filter, but its payload does not say that it is safe; left out "
                "(`hysac doctor --collection` compares index and payload)",
                identity,
                given["collection_name"],
            )
    return list(dict.fromkeys(fallen))


def shown_by(guard: Guard, asked: Any) -> Shown | None:
    """Return a selection of payload; None for one that is left to the engine, where a second look is needed."""
    return None if asked is None else Shown(asked, guard.checked_keys)


def narrowed(point: Any, shown: Shown | None) -> Any:
    """Return a point with the payload that the caller asked for."""
    if shown is not None:
        point.payload = shown.narrowed(point.payload)
    return point


def hiding(guard: Guard, hidden: Sequence[PointId], user: models.Filter | None) -> models.Filter:
    """Return the guard's condition and a caller's filter, without some points."""
    condition = guard.filter(user)
    return without(condition, hidden) or condition


def elsewhere(given: Given, place: str) -> Given:
    """Return the arguments that say how a collection is asked; a shard key is of one collection."""
    if place == given["collection_name"]:
        return given
    return {"collection_name": place} | {key: given[key] for key in ("consistency", "timeout") if key in given}
