"""Queries by vectors and examples, alone, in a batch or grouped, of which only safe points come back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from qdrant_client import models

from hysac_retrieval.errors import PointNotFoundError
from hysac_retrieval.guard.check import (
    ROUNDS,
    Given,
    GuardOf,
    elsewhere,
    fallen_points,
    hiding,
    narrowed,
    safe_points,
    shown_by,
)
from hysac_retrieval.guard.condition import Guard
from hysac_retrieval.guard.requests import guarded, mentioned
from hysac_retrieval.guard.shown import Shown
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.types import PointId


def query(guard_of: GuardOf, guard: Guard, name: str, given: Given) -> Steps[Any]:
    """Find points by one query or several, in groups or not."""
    collection = given["collection_name"]
    several = name == "query_batch_points"
    stages = given["requests"] if several else [_stage(given)]
    for stage in stages:
        tenants = {"shard_key_selector": stage.shard_key} if several else {}
        yield from _expect_safe(guard_of, {**given, **tenants}, {*mentioned(stage, collection)})
    asked = [one.with_payload for one in stages] if several else [given["with_payload"]]
    # A request of a batch that asks for no payload gets none; the other methods have a default of their own.
    shown = [shown_by(guard, False if several and one is None else one) for one in asked]
    hidden: list[PointId] = []
    for _ in range(ROUNDS):
        safe = [guarded(stage, partial(hiding, guard, hidden)) for stage in stages]
        answer = yield Ask(name, **_arguments(given, safe, shown, several))
        points = _points(answer)
        fallen = yield from fallen_points(guard, given, points, shown[0])
        if not fallen:
            break
        hidden += fallen
    yield from _looked_up(guard_of, given, answer)
    return _shortened(answer, {*hidden}, shown)


def _stage(given: Given) -> models.QueryRequest:
    """Return what decides which points a method finds, as a request of a batch."""
    return models.QueryRequest(
        query=given.get("query"),
        prefetch=given.get("prefetch"),
        filter=given["query_filter"],
        params=given.get("search_params"),
        lookup_from=given.get("lookup_from"),
    )


def _arguments(
    given: Given, stages: Sequence[models.QueryRequest], shown: Sequence[Shown | None], several: bool
) -> dict[str, Any]:
    arguments = dict(given)
    if several:
        arguments["requests"] = [
            stage.model_copy(update={"with_payload": one.request()}) if one else stage
            for stage, one in zip(stages, shown, strict=True)
        ]
        return arguments
    arguments["query_filter"] = stages[0].filter
    if stages[0].prefetch is not None:
        arguments["prefetch"] = stages[0].prefetch
    if shown[0] is not None:
        arguments["with_payload"] = shown[0].request()
    return arguments


def _lists(answer: Any) -> list[list[Any]]:
    """Return the lists of points in an answer to `query`."""
    if isinstance(answer, models.GroupsResult):
        return [group.hits for group in answer.groups]
    return [one.points for one in (answer if isinstance(answer, list) else [answer])]


def _points(answer: Any) -> list[Any]:
    return [point for points in _lists(answer) for point in points]


def _shortened(answer: Any, hidden: set[PointId], shown: Sequence[Shown | None]) -> Any:
    """Return an answer without some points, with the payloads that the caller asked for."""
    lists = _lists(answer)
    for row, points in enumerate(lists):
        one = shown[row] if len(shown) == len(lists) else shown[0]
        points[:] = [narrowed(point, one) for point in points if point.id not in hidden]
    if isinstance(answer, models.GroupsResult):
        answer.groups = [group for group in answer.groups if group.hits]
    return answer


def _looked_up(guard_of: GuardOf, given: Given, answer: Any) -> Steps[None]:
    """Take from groups the points of another collection that are not safe there."""
    lookup = given.get("with_lookup")
    if lookup is None:
        return
    place = lookup if isinstance(lookup, str) else lookup.collection
    other = yield from guard_of(place)
    found = [group.lookup.id for group in answer.groups if group.lookup is not None]
    safe = yield from safe_points(other, elsewhere(given, place), found)
    for group in answer.groups:
        if group.lookup is not None and group.lookup.id not in safe:
            group.lookup = None


def _expect_safe(guard_of: GuardOf, given: Given, used: set[tuple[str, PointId]]) -> Steps[None]:
    """Check that points are safe: what is near an unsafe point, and how near, would tell what it is."""
    for place in sorted({place for place, _ in used}):
        guard = yield from guard_of(place)
        ids = {identity for where, identity in used if where == place}
        safe = yield from safe_points(guard, elsewhere(given, place), ids)
        if lacking := ids - safe.keys():
            first = sorted(lacking, key=str)[0]
            hint = "A query is only made of safe ones"
            raise PointNotFoundError(f"collection {place!r} has no safe point {first!r}", hint=hint)
