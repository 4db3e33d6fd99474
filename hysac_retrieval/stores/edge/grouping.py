"""Grouping of search results for an engine that has no grouping of its own, with the results of one that has.

Searches follow one another, each without the points already seen and without those that could only go into groups
that are full, until enough groups are full or nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from qdrant_client import models

from hysac_retrieval.stores.requests import group_values
from hysac_retrieval.stores.types import Group, GroupQuery, StoredPoint, VectorQuery
from hysac_retrieval.types import PointId

ROUNDS = 10
"""Searches at most; each asks for twice as many points as the one before."""

Value = str | int


def grouped(
    search: Callable[[VectorQuery], list[StoredPoint]], query: VectorQuery, groups: GroupQuery, *, descending: bool
) -> list[Group]:
    """Group what a search finds.

    Args:
        search: Best points of a query of a single vector, with payload and score.
        query: The search; its `limit` has no meaning here.
        groups: Field to group by, and numbers of groups and points.
        descending: Whether a larger score is better.
    """
    found: dict[Value, list[StoredPoint]] = {}
    seen: list[PointId] = []
    limit = groups.groups * groups.size
    # With a second stage, each round has the first one find as many times more than it returns as the query asked for.
    spare = max(1.0, (query.candidates or 0) / max(1, query.limit))
    for _ in range(ROUNDS):
        answer = search(
            replace(
                query,
                filter=_remaining(query.condition(0), groups, found, seen),
                filters=None,
                limit=limit,
                candidates=None if query.candidates is None else math.ceil(limit * spare),
            )
        )
        seen.extend(point.id for point in answer)
        for point in answer:
            for value in group_values(point.payload, groups.key):
                members = found.setdefault(value, [])
                if len(members) < groups.size:
                    members.append(point)
        if len(answer) < limit or _room(found, groups) == []:
            break
        limit *= 2
    sign = -1.0 if descending else 1.0
    for members in found.values():
        members.sort(key=lambda point: sign * _score(point))
    best = sorted(found.items(), key=lambda item: sign * _score(item[1][0]))[: groups.groups]
    return [Group(value, tuple(members)) for value, members in best]


def _remaining(
    filter: models.Filter | None, groups: GroupQuery, found: Mapping[Value, list[StoredPoint]], seen: list[PointId]
) -> models.Filter:
    """Return the condition of points that can still go into a group: the caller's, and room in the group."""
    must: list[Any] = [] if filter is None else [filter]
    must_not: list[Any] = [models.IsEmptyCondition(is_empty=models.PayloadField(key=groups.key))]
    if seen:
        must_not.append(models.HasIdCondition(has_id=list(seen)))
    room = _room(found, groups)
    if room is not None:
        must.append(
            models.Filter(should=list(_each_kind(groups.key, room, lambda values: models.MatchAny(any=values))))
        )
    else:
        # "Except" holds for a point that has any other value, so a point of several groups is kept for the others.
        full = [value for value, members in found.items() if len(members) >= groups.size]
        must.extend(_each_kind(groups.key, full, lambda values: models.MatchExcept(**{"except": values})))
    return models.Filter(must=must or None, must_not=must_not)


def _room(found: Mapping[Value, list[StoredPoint]], groups: GroupQuery) -> list[Value] | None:
    """Return groups that are wanted and not full; None while there are too few, so that any new one is wanted."""
    if len(found) < groups.groups:
        return None
    return [value for value, members in list(found.items())[: groups.groups] if len(members) < groups.size]


def _each_kind(key: str, values: list[Value], match: Callable[[list[Any]], Any]) -> Iterable[models.FieldCondition]:
    # A condition lists either words or numbers.
    for kind in (str, int):
        if chosen := [value for value in values if isinstance(value, kind)]:
            yield models.FieldCondition(key=key, match=match(chosen))


def _score(point: StoredPoint) -> float:
    return 0.0 if point.score is None else point.score
