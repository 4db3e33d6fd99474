"""Whatever an application writes into payloads, every read agrees with the payloads that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models
from support.awaited import KINDS, guards
from support.hostile import allowed, modest, numbers
from support.qdrant_server import QDRANT
from support.spaces import index_on, random_points
from support.writing import GOOD, N, Operation, by_client, by_shard, named, operations

from hysac_retrieval import SafeSearch, SafetyPolicy
from hysac_retrieval.collection.index import Index

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["edge", "memory", "rest", "grpc", *QDRANT])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with index_on(request.param, tmp_path_factory.mktemp("writes")) as made:
        yield made


def begin(index: Index) -> list[list[float]]:
    """Write points that all are safe, over whatever is there; return their vectors."""
    lifted = index.collection.lift.lift(random_points(N, low=1.5, high=1.6))
    own = index.metadata.fingerprint
    rows = [{"k": row % 3, "title": f"t{row}", "hysac": named(GOOD, own)} for row in range(N)]
    index.store.delete(index.name, list(range(N)))
    index.store.upsert(index.name, list(range(N)), lifted, rows)
    vectors: list[list[float]] = lifted.tolist()
    return vectors


def counted(payload: dict[str, Any], own: str) -> bool:
    """Whether an engine counts a point as safe: in a list, every element must be."""
    record = payload.get("hysac")
    if not isinstance(record, dict) or not numbers(payload):
        return False
    verdicts = record.get("safe")
    return (
        max(numbers(payload)) <= 0.5
        and set(np.atleast_1d(record.get("model", ""))) == {own}
        and (verdicts.get(own) if isinstance(verdicts, dict) else None) in (True, [True])
    )


READS: dict[str, Callable[[Any, str, list[float]], Any]] = {
    "scroll": lambda c, name, q: c.scroll(name, limit=99)[0],
    "retrieve": lambda c, name, q: c.retrieve(name, list(range(N))),
    "query": lambda c, name, q: c.query_points(name, q, using="hysac", limit=99).points,
    "no query": lambda c, name, q: c.query_points(name, limit=99, with_payload=False).points,
    "batch": lambda c, name, q: (
        c.query_batch_points(name, [models.QueryRequest(query=q, using="hysac", limit=99, with_payload=["title"])])[
            0
        ].points
    ),
    "fusion": lambda c, name, q: (
        c.query_points(
            name,
            models.FusionQuery(fusion=models.Fusion.RRF),
            prefetch=[models.Prefetch(query=q, using="hysac", limit=99)],
            limit=99,
        ).points
    ),
}


@modest
@given(written=operations, batch=st.booleans())
def test_every_read_agrees_with_the_payloads(index: Index, written: list[Operation], batch: bool) -> None:
    vectors, own = begin(index), index.metadata.fingerprint
    client: QdrantClient | None = getattr(index.store, "client", None)
    write = by_shard(index, vectors) if client is None else by_client(client, index.name, vectors, batch)
    for operation in written:
        write((operation[0], *(named(part, own) for part in operation[1:])))
    there = {point.id: dict(point.payload) for point in index.retrieve(range(N))}
    safe = {identity for identity, payload in there.items() if allowed(payload, 0.5, own)}

    engine = SafeSearch(index, None, policy=SafetyPolicy(allow_unsafe=False))
    query = random_points(1, seed=5, low=1.5, high=1.6)[0]
    assert {hit.id for hit in engine.search(query, limit=99)} == safe
    assert engine.permitted(range(N)) == safe
    grouped = {hit.id for group in engine.search_groups(query, "k", groups=9, size=99) for hit in group}
    assert grouped == {one for one in safe if "k" in there[one]}
    if precise := not _rebuilt(written):
        assert index.info().safe == sum(counted(payload, own) for payload in there.values())
    if client is None:
        return
    for kind in KINDS:
        with guards(kind, client) as (_, made):
            guard = made()
            for label, read in READS.items():
                assert {point.id for point in read(guard, index.name, vectors[0])} == safe, (kind, label)
            if precise:
                assert guard.count(index.name).count == sum(counted(payload, own) for payload in there.values())


def _rebuilt(written: list[Operation]) -> bool:
    """Whether parts of `hysac` may have been written after it was deleted: only a count goes by what an index has."""
    deleted = [
        row for row, (kind, _, keys, _) in enumerate(written) if kind == "delete_payload" and "hysac" in str(keys)
    ]
    partly = [row for row, (*_, key) in enumerate(written) if key is not None]
    return bool(deleted) and bool(partly) and min(deleted) < max(partly)
