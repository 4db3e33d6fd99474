"""The computation behind every guarded method: it asks the application's client, under the guard's condition.

The condition keeps unsafe points out of the search. What comes back is held to its payload all the same, because an
index may outlive it; where a point falls away, the request is made once more without it.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from qdrant_client import QdrantClient, models

from hysac_retrieval.errors import PointNotFoundError, SettingsError
from hysac_retrieval.guard.check import (
    FAULTS,
    ROUNDS,
    Given,
    fallen_points,
    hiding,
    narrowed,
    refused,
    safe_points,
    shown_by,
)
from hysac_retrieval.guard.condition import Guard
from hysac_retrieval.guard.known import Guards, holds_anything
from hysac_retrieval.guard.methods import METHODS
from hysac_retrieval.guard.queries import query
from hysac_retrieval.guard.values import taken
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.types import PointId


def call(guards: Guards, name: str, args: tuple[Any, ...], kwargs: Given, defaults: Given) -> Steps[Any]:
    """Carry out one of `METHODS`; arguments that it takes and was not given have some `defaults`.

    Raises:
        SettingsError: An argument is not known here, is of another type, or asks for more than can be guarded.
        PointNotFoundError: The query is made of a point that is not there, or not safe.
        TypeError: An argument is missing, or given twice.
    """
    given = _given(name, args, kwargs)
    for key in METHODS[name].arguments & defaults.keys():
        if given.get(key) is None:
            given[key] = defaults[key]
    collection = given["collection_name"]
    guard = yield from guards(collection)
    try:
        answer = yield from _answered(guards, guard, name, given)
    except PointNotFoundError:  # of a query that is made of points: perhaps their verdict is another's by now
        newer = yield from guards.confirmed(collection, guard, found=False)
        if newer == guard:
            raise
    else:
        newer = yield from guards.confirmed(collection, guard, found=holds_anything(answer))
        if newer == guard:
            return answer
    return (yield from _answered(guards, newer, name, given))


def _answered(guards: Guards, guard: Guard, name: str, given: dict[str, Any]) -> Steps[Any]:
    if name in ("count", "facet"):
        key = str(METHODS[name].filter)
        return (yield Ask(name, **given | {key: guard.filter(given[key])}))
    if name == "scroll":
        return (yield from _scroll(guard, given))
    if name == "retrieve":
        return (yield from _retrieve(guard, given))
    if name.startswith("search_matrix"):
        return (yield from _matrix(guard, name, given))
    return (yield from query(guards, guard, name, given))


@cache
def _signature(name: str) -> inspect.Signature:
    # The asynchronous client has the same.
    return inspect.signature(getattr(QdrantClient, name))


def _given(name: str, args: tuple[Any, ...], kwargs: Given) -> dict[str, Any]:
    """Return the arguments of a call as values, filters and selections of payload in any case."""
    given = dict(_signature(name).bind(None, *args, **kwargs).arguments)
    given.pop("self", None)
    given |= given.pop("kwargs", {})
    method = METHODS[name]
    if unknown := given.keys() - method.arguments:
        what = (
            f"argument {sorted(unknown)[0]!r} of {name} is not known to the guard, which refuses what it cannot judge"
        )
        raise SettingsError(what, hint="Leave it out")
    values = {key: taken("filter" if key == method.filter else key, value) for key, value in given.items()}
    if method.filter:
        values.setdefault(method.filter, None)
    if "with_payload" in method.arguments:
        values.setdefault("with_payload", True)
    if "exact" in method.checked:
        # Estimates are made for each condition apart: joined with "safe" they would tell what only unsafe points have.
        values["exact"] = True
    return values


def _scroll(guard: Guard, given: Given) -> Steps[tuple[list[models.Record], PointId | None]]:
    """Return a page of safe points, and the first of the next one."""
    shown = shown_by(guard, given["with_payload"])
    user, limit = given["scroll_filter"], given.get("limit", 10)
    arguments = dict(given) | ({} if shown is None else {"with_payload": shown.request()})
    found: list[models.Record] = []
    hidden: list[PointId] = []
    ordered = given.get("order_by") is not None
    paged = not ordered and limit >= 1
    more = 1  # the next page begins with it, and only a safe one may be named
    # Where copies differ, a page of all of them seems to be the last. So it is read from one, and then held to all.
    several = not ordered and arguments.pop("consistency", None) is not None
    while True:
        wanted = max(limit - len(found) + more, 1) if paged else limit
        arguments |= {"limit": wanted, "scroll_filter": hiding(guard, hidden, user)}
        try:
            records, following = yield Ask("scroll", **arguments)
        except FAULTS as error:
            if wanted <= limit or not refused(error):
                raise
            more = 0  # strict mode may allow as many as were asked for: what follows them is found apart
            continue
        fallen = yield from fallen_points(guard, given, records, shown)
        if several:
            same = yield from safe_points(guard, given, [record.id for record in records])
            fallen += [record.id for record in records if record.id not in same]
        if ordered and fallen and len(hidden) < ROUNDS * limit:  # pages in an order have no offset to go on from
            hidden += fallen
            continue
        found += [narrowed(record, shown) for record in records if record.id not in fallen]
        if len(found) > limit:
            return found[:limit], normal_ids([found[limit].id])[0]
        if not paged or following is None:
            return found, None
        arguments["offset"] = following


def _retrieve(guard: Guard, given: Given) -> Steps[list[models.Record]]:
    """Return the safe ones of some points, as often as they are named, in that order."""
    ids = normal_ids(given["ids"])
    if not ids:
        return []
    shown = shown_by(guard, given["with_payload"])
    selections = {"with_payload": given["with_payload"] if shown is None else shown.request()}
    if "with_vectors" in given:
        selections["with_vectors"] = given["with_vectors"]
    found = yield from safe_points(guard, given, ids, shown, **selections)
    return [found[identity] for identity in ids if identity in found]


def _matrix(guard: Guard, name: str, given: dict[str, Any]) -> Steps[Any]:
    """Return the distances of some safe points from each other."""
    hidden: list[PointId] = []
    for _ in range(ROUNDS):
        answer = yield Ask(name, **given | {"query_filter": hiding(guard, hidden, given["query_filter"])})
        if isinstance(answer, models.SearchMatrixOffsetsResponse):
            ids = normal_ids(answer.ids)
        else:
            ids = normal_ids(identity for pair in answer.pairs for identity in (pair.a, pair.b))
        safe = yield from safe_points(guard, given, ids)
        if not (fallen := [identity for identity in dict.fromkeys(ids) if identity not in safe]):
            return answer
        hidden += fallen
    raise SettingsError(
        f"the index of {given['collection_name']!r} is not that of its payloads",
        hint="`hysac doctor --collection` mends it",
    )
