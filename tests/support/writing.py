"""What applications write into payloads, beside this package: whole, by part, by filter, in batches, null, lists."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import qdrant_edge as edge
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from hysac_retrieval.collection.index import Index
from hysac_retrieval.stores.edge.filter import edge_filter

N = 8
"""Points of the collection, with ids of 0 to N − 1."""

OWN = "own"
"""Stands for the model's fingerprint, in values and keys."""

Operation = tuple[str, Any, Any, Any]
"""What is done, to which points, with what, and below which key."""

GOOD: dict[str, Any] = {"unsafe": 0.1, "model": OWN, "safe": {OWN: True}, "modality": "text", "radius": 1.0}
RECORDS: list[Any] = [
    GOOD,
    GOOD | {"unsafe": 0.9, "safe": {OWN: False}},
    GOOD | {"unsafe": 0.9},
    GOOD | {"safe": {OWN: [True]}},
    GOOD | {"safe": {OWN: [True, False]}},
    GOOD | {"unsafe": [0.1, 0.9]},
    GOOD | {"model": [OWN, "other"]},
    GOOD | {"model": "other"},
    {"unsafe": 0.1},
    [GOOD],
    [],
    {},
    None,
    "x",
]
PARTS: list[dict[str, Any]] = [
    {"unsafe": 0.9},
    {"unsafe": None},
    {"unsafe": [0.1]},
    {"safe": {OWN: False}},
    {"safe": None},
    {"safe": {}},
    {"safe": {OWN: True}},
    {"model": "other"},
    {"model": OWN},
]
PATHS = ["hysac", "hysac.safe", f"hysac.safe.{OWN}", "hysac.unsafe", "hysac.model", "title", "k"]

points = st.one_of(
    st.lists(st.integers(0, N - 1), min_size=1, max_size=4, unique=True),
    st.sampled_from(
        [
            {"must": [{"key": "k", "match": {"value": 1}}]},
            {"must": [{"key": f"hysac.safe.{OWN}", "match": {"value": True}}]},
            {"must": [{"key": "hysac.unsafe", "range": {"lte": 0.5}}]},
            {"must": [{"is_empty": {"key": "hysac"}}]},
            {"must_not": [{"has_id": [0, 1, 2]}]},
        ]
    ),
)
records = st.sampled_from(RECORDS)
payloads = st.one_of(
    st.builds(lambda k, record: {"k": k, "title": "new", "hysac": record}, st.integers(0, 2), records),
    st.builds(lambda k: {"k": k, "title": "new"}, st.integers(0, 2)),
)
changes = st.one_of(payloads, st.builds(lambda record: {"hysac": record}, records), st.just({"k": 1}))
operations: st.SearchStrategy[list[Operation]] = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.integers(0, N - 1), payloads, st.none()),
        st.tuples(st.just("set_payload"), points, changes, st.none()),
        st.tuples(st.just("set_payload"), points, st.sampled_from(PARTS), st.just("hysac")),
        st.tuples(st.just("set_payload"), points, st.sampled_from([{OWN: True}, {OWN: False}]), st.just("hysac.safe")),
        st.tuples(st.just("overwrite_payload"), points, payloads, st.none()),
        st.tuples(
            st.just("delete_payload"), points, st.lists(st.sampled_from(PATHS), min_size=1, max_size=3), st.none()
        ),
        st.tuples(st.just("delete_payload"), points, st.just(["hysac"]), st.none()),
        st.tuples(st.just("clear_payload"), points, st.none(), st.none()),
        st.tuples(st.just("delete"), points, st.none(), st.none()),
    ),
    min_size=1,
    max_size=8,
)


def named(value: Any, own: str) -> Any:
    """Return a value with the fingerprint in it."""
    if isinstance(value, dict):
        return {named(key, own): named(item, own) for key, item in value.items()}
    if isinstance(value, list):
        return [named(item, own) for item in value]
    return value.replace(OWN, own) if isinstance(value, str) else value


def by_client(client: QdrantClient, name: str, vectors: list[list[float]], batch: bool) -> Callable[[Operation], None]:
    """Return what carries out operations with a client, each alone or as a batch."""

    def write(operation: Operation) -> None:
        kind, target, value, key = operation
        chosen: Any = models.Filter.model_validate(target) if isinstance(target, dict) else target
        where: dict[str, Any] = {"filter": chosen} if isinstance(target, dict) else {"points": target}
        # Points that have been removed in the meantime are an error for a change by id; the others are changed.
        with suppress(Exception):
            if kind == "upsert":
                client.upsert(
                    name, [models.PointStruct(id=target, vector={"hysac": vectors[target]}, payload=value)], wait=True
                )
            elif kind == "delete":
                client.delete(name, chosen, wait=True)
            elif batch:
                client.batch_update_points(name, [_operation(kind, where, value, key)], wait=True)
            elif kind == "set_payload":
                client.set_payload(name, value, chosen, key=key, wait=True)
            elif kind == "overwrite_payload":
                client.overwrite_payload(name, value, chosen, wait=True)
            elif kind == "delete_payload":
                client.delete_payload(name, value, chosen, wait=True)
            else:
                client.clear_payload(name, chosen, wait=True)

    return write


def _operation(kind: str, where: dict[str, Any], value: Any, key: str | None) -> Any:
    if kind == "set_payload":
        return models.SetPayloadOperation(set_payload=models.SetPayload(payload=value, key=key, **where))
    if kind == "overwrite_payload":
        return models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload=value, **where))
    if kind == "delete_payload":
        return models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=value, **where))
    chosen = models.FilterSelector(**where) if "filter" in where else models.PointIdsList(**where)
    return models.ClearPayloadOperation(clear_payload=chosen)


def by_shard(index: Index, vectors: list[list[float]]) -> Callable[[Operation], None]:
    """Return what carries out operations with the embedded engine."""
    shard: Any = index.store.extension(index.name).shard  # type: ignore[attr-defined]
    do = edge.UpdateOperation

    def write(operation: Operation) -> None:
        kind, target, value, key = operation
        some = not isinstance(target, dict)
        chosen = target if some else edge_filter(models.Filter.model_validate(target))
        with suppress(Exception):
            if kind == "upsert":
                shard.update(do.upsert_points([edge.Point(target, {"hysac": vectors[target]}, value)]))
            elif kind == "delete":
                shard.update(do.delete_points(chosen) if some else do.delete_points_by_filter(chosen))
            else:
                act = getattr(do, kind if some else f"{kind}_by_filter")
                given = () if value is None else (value,) if key is None else (value, key)
                shard.update(act(chosen, *given))

    return write
