"""The computation behind every guarded method: it asks the application's client, under the guard's condition."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias

from qdrant_client import QdrantClient, models

from hysac_retrieval.errors import PointNotFoundError, SettingsError
from hysac_retrieval.guard.condition import Guard
from hysac_retrieval.guard.methods import ALWAYS, METHODS, SHOWN
from hysac_retrieval.guard.requests import checked_params, expect_here, guarded_prefetch, guarded_stages, mentioned
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.types import PointId

GuardOf: TypeAlias = Callable[[str], Steps[Guard]]
"""Finds the guard of a collection, perhaps by asking for its metadata."""


def call(guard_of: GuardOf, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps[Any]:
    """Carry out one of `METHODS`.

    Raises:
        SettingsError: An argument is not known here, or asks for more than can be guarded.
        PointNotFoundError: The query is made of a point that is not there, or not safe.
        TypeError: An argument is missing, or given twice.
    """
    given = dict(_signature(name).bind(None, *args, **kwargs).arguments)
    given.pop("self", None)
    given |= given.pop("kwargs", {})
    if unknown := given.keys() - METHODS[name].arguments:
        what = (
            f"argument {sorted(unknown)[0]!r} of {name} is not known to the guard, which refuses what it cannot judge"
        )
        raise SettingsError(what, hint="Leave it out")
    guard = yield from guard_of(given["collection_name"])
    if name == "retrieve":
        return (yield from _retrieve(guard, given))
    arguments, ids = _rewritten(guard, name, given)
    if ids:
        yield from _expect_safe(guard, given, ids)
    return (yield Ask(name, **arguments))


@cache
def _signature(name: str) -> inspect.Signature:
    # The asynchronous client has the same.
    return inspect.signature(getattr(QdrantClient, name))


def _rewritten(guard: Guard, name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], set[PointId]]:
    """Arguments with the condition in them, and the ids of the points that the query is made of."""
    arguments, collection, method = dict(given), given["collection_name"], METHODS[name]
    ids: set[PointId] = set()
    if method.filter:
        arguments[method.filter] = guard.filter(given.get(method.filter))
    if "exact" in method.checked:
        # Estimates are made for each condition apart: joined with "safe" they would tell what only unsafe points have.
        arguments["exact"] = True
    if "requests" in method.checked:
        arguments["requests"], ids = guarded_stages(guard, collection, given["requests"], models.QueryRequest)
    if "query" in method.checked:
        prefetch, ids = guarded_prefetch(guard, collection, given.get("prefetch"))
        ids |= set(mentioned(given.get("query")))
        expect_here(collection, given.get("lookup_from"))
        checked_params(given.get("search_params"))
        if prefetch is not None:
            arguments["prefetch"] = prefetch
    if given.get("with_lookup") is not None:
        raise SettingsError("with_lookup returns points of another collection, not judged", hint="Look them up apart")
    return arguments, ids


def _expect_safe(guard: Guard, given: Mapping[str, Any], ids: set[PointId]) -> Steps[None]:
    """Check that points are safe: what is near an unsafe point, and how near, would tell what it is."""
    records = yield from _safe(guard, given, list(ids), with_payload=False, with_vectors=False)
    if lacking := ids - records.keys():
        first = sorted(lacking, key=str)[0]
        hint = "A query is only made of safe ones"
        raise PointNotFoundError(f"collection {given['collection_name']!r} has no safe point {first!r}", hint=hint)


def _retrieve(guard: Guard, given: Mapping[str, Any]) -> Steps[list[models.Record]]:
    """The safe ones of some points."""
    ids = list(dict.fromkeys(normal_ids(given["ids"])))
    if not ids:
        return []
    found = yield from _safe(guard, given, ids, **{name: given[name] for name in SHOWN if name in given})
    return [found[identity] for identity in ids if identity in found]


def _safe(
    guard: Guard, given: Mapping[str, Any], ids: list[PointId], **shown: Any
) -> Steps[dict[PointId, models.Record]]:
    """The safe ones of some points, found by the engine under the condition instead of by id."""
    same = {name: given[name] for name in ALWAYS if name in given}
    these: Any = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
    records, _ = yield Ask("scroll", **same, scroll_filter=guard.filter(these), limit=len(ids), **shown)
    return {record.id: record for record in records}
