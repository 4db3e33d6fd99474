"""What the guarded clients do with each method of qdrant-client: one table, and one computation for all of them.

The computation yields what it asks of the application's client, is sent the answer and returns the result; `clients`
drives it blocking and asynchronously.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from qdrant_client import QdrantClient, models

from hysac_retrieval.errors import PointNotFoundError, SettingsError
from hysac_retrieval.guard.condition import Guard
from hysac_retrieval.guard.requests import (
    checked_params,
    expect_here,
    guarded_prefetch,
    guarded_requests,
    mentioned,
)
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.types import PointId


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is guarded.

    Attributes:
        passed: Arguments that cannot change which points are returned beyond what the condition allows.
        filter: The argument with the caller's filter, to which the condition is joined.
        looked_at: Arguments that are checked or rewritten.
    """

    passed: frozenset[str]
    filter: str | None = None
    looked_at: frozenset[str] = frozenset()

    @property
    def arguments(self) -> frozenset[str]:
        """All arguments that are known."""
        return self.passed | self.looked_at | ({self.filter} if self.filter else frozenset())


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ALWAYS = _names("collection_name consistency shard_key_selector timeout")
_SHOWN = _names("with_payload with_vectors")
_RANKED = _ALWAYS | _SHOWN | _names("using limit score_threshold")
_QUERIED = _names("query prefetch search_params lookup_from")
_COUNTED = _names("exact")

METHODS: Mapping[str, Method] = {
    "query_points": Method(_RANKED | {"offset"}, "query_filter", _QUERIED),
    "query_points_groups": Method(_RANKED | {"group_by", "group_size"}, "query_filter", _QUERIED | {"with_lookup"}),
    "query_batch_points": Method(_names("collection_name consistency timeout"), None, _names("requests")),
    "scroll": Method(_ALWAYS | _SHOWN | _names("limit order_by offset"), "scroll_filter"),
    "retrieve": Method(_ALWAYS | _SHOWN, None, _names("ids")),
    "count": Method(_names("collection_name shard_key_selector timeout"), "count_filter", _COUNTED),
    "facet": Method(_ALWAYS | _names("key limit"), "facet_filter", _COUNTED),
    "search_matrix_pairs": Method(_ALWAYS | _names("limit sample using"), "query_filter"),
    "search_matrix_offsets": Method(_ALWAYS | _names("limit sample using"), "query_filter"),
}
"""Methods that return points, or facts about points."""

TOLD = _names("collection_exists get_collection get_collections get_collection_aliases get_aliases info close")
"""Methods that are passed on as they are: they tell of collections, and never of single points."""

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        _names(
            "batch_update_points clear_payload delete delete_payload delete_vectors overwrite_payload set_payload "
            "update_vectors upload_collection upload_points upsert create_collection recreate_collection "
            "update_collection delete_collection update_collection_aliases create_payload_index delete_payload_index "
            "create_vector_name delete_vector_name create_shard_key delete_shard_key"
        ),
        "a guarded client only reads; write with the application's own client",
    ),
    **dict.fromkeys(
        _names(
            "create_snapshot delete_snapshot list_snapshots recover_snapshot create_full_snapshot delete_full_snapshot "
            "list_full_snapshots create_shard_snapshot delete_shard_snapshot list_shard_snapshots "
            "recover_shard_snapshot migrate"
        ),
        "it copies collections whole, unsafe points and all",
    ),
    **dict.fromkeys(
        _names(
            "cluster_collection_update cluster_status cluster_telemetry collection_cluster_info get_optimizations "
            "list_shard_keys recover_current_peer remove_peer"
        ),
        "it is for the administration of a server",
    ),
    **dict.fromkeys(
        _names("http grpc_points grpc_collections init_options cloud_inference local_inference_batch_size"),
        "it leads around the guard",
    ),
    **dict.fromkeys(
        _names(
            "get_embedding_size list_image_models list_late_interaction_multimodal_models "
            "list_late_interaction_text_models list_sparse_models list_text_models DEFAULT_BATCH_SIZE"
        ),
        "it has nothing to do with collections; ask qdrant_client.QdrantClient",
    ),
}
"""Everything else that clients have, and why it is refused. What is not named anywhere is refused, too."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A call to the application's client."""

    method: str
    arguments: Mapping[str, Any]


Steps: TypeAlias = Generator[Ask, Any, Any]
GuardOf: TypeAlias = Callable[[str], Generator[Ask, Any, Guard]]
"""Finds the guard of a collection, perhaps by asking for its metadata."""


def call(guard_of: GuardOf, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Steps:
    """Carry out one of `METHODS`.

    Raises:
        SettingsError: An argument is not known here, or asks for more than can be guarded.
        PointNotFoundError: The query is made of a point that is not there, or not safe.
        TypeError: An argument is missing, or given twice.
    """
    given = _bound(name, args, kwargs)
    collection = given["collection_name"]
    guard = yield from guard_of(collection)
    if name == "retrieve":
        return (yield from _retrieve(guard, given))
    arguments, ids = _rewritten(guard, name, given)
    if ids:
        yield from _expect_safe(guard, given, ids)
    return (yield Ask(name, arguments))


@cache
def _signature(name: str) -> inspect.Signature:
    # The asynchronous client has the same.
    return inspect.signature(getattr(QdrantClient, name))


def _bound(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name."""
    given = dict(_signature(name).bind(None, *args, **kwargs).arguments)
    given.pop("self", None)
    given |= given.pop("kwargs", {})
    if unknown := given.keys() - METHODS[name].arguments:
        raise SettingsError(
            f"argument {sorted(unknown)[0]!r} of {name} is not known to the guard, which refuses what it cannot judge; "
            "leave it out"
        )
    return given


def _rewritten(guard: Guard, name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], set[PointId]]:
    """Arguments with the condition in them, and the ids of the points that the query is made of."""
    arguments, collection = dict(given), given["collection_name"]
    ids: set[PointId] = set()
    method = METHODS[name]
    if method.filter:
        arguments[method.filter] = guard.filter(given.get(method.filter))
    if "exact" in method.looked_at:
        # Estimates are made for each condition apart: joined with "safe" they would tell what only unsafe points have.
        arguments["exact"] = True
    if "requests" in method.looked_at:
        arguments["requests"], ids = guarded_requests(guard, collection, given["requests"])
    if "query" in method.looked_at:
        prefetch, ids = guarded_prefetch(guard, collection, given.get("prefetch"))
        ids |= set(mentioned(given.get("query")))
        expect_here(collection, given.get("lookup_from"))
        checked_params(given.get("search_params"))
        if prefetch is not None:
            arguments["prefetch"] = prefetch
    if given.get("with_lookup") is not None:
        raise SettingsError(
            "with_lookup returns points of another collection, which are not judged; look them up apart"
        )
    return arguments, ids


def _expect_safe(guard: Guard, given: Mapping[str, Any], ids: set[PointId]) -> Generator[Ask, Any, None]:
    """Check that points are safe: what is near an unsafe point, and how near, would tell what it is."""
    records, _ = yield Ask("scroll", _by_id(guard, given, list(ids)) | {"with_payload": False, "with_vectors": False})
    if lacking := ids - {record.id for record in records}:
        first = sorted(lacking, key=str)[0]
        raise PointNotFoundError(
            f"collection {given['collection_name']!r} has no safe point {first!r}; a query is only made of safe ones"
        )


def _retrieve(guard: Guard, given: Mapping[str, Any]) -> Steps:
    """The safe ones of some points, found by the engine under the condition instead of by id."""
    ids = list(dict.fromkeys(normal_ids(given["ids"])))
    if not ids:
        return []
    shown = {name: given[name] for name in _SHOWN if name in given}
    records, _ = yield Ask("scroll", _by_id(guard, given, ids) | shown)
    found = {record.id: record for record in records}
    return [found[identity] for identity in ids if identity in found]


def _by_id(guard: Guard, given: Mapping[str, Any], ids: list[PointId]) -> dict[str, Any]:
    same = {name: given[name] for name in _ALWAYS if name in given}
    these: Any = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
    return same | {"scroll_filter": guard.filter(these), "limit": len(ids)}
