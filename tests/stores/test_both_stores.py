"""Every operation through `QdrantStore` and through `AsyncQdrantStore`: the same requests, answers and errors."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, models
from support.faulty_server import Fault, faulty_server
from support.grpc_server import grpc_server
from support.rest_server import rest_server
from support.spaces import match

from hysac_retrieval.errors import CollectionExistsError, CollectionNotFoundError, StoreError
from hysac_retrieval.stores import CollectionSpec, Retry, StoredPoint, VectorQuery
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.stores.qdrant.operations import Operations
from hysac_retrieval.stores.qdrant.store import AsyncQdrantStore, QdrantStore
from hysac_retrieval.stores.types import GroupQuery

QUICK = Retry(retries=2, first=0.01)
SPEC = CollectionSpec(size=3, metadata={"v": [1, None, "é"]}, indexes={"hysac.unsafe": "float"})
N = 11
VECTORS = np.random.default_rng(5).normal(size=(N, 3)).astype(np.float32)
PAYLOADS = [{"k": row % 3, "hysac": {"model": "m", "radius": row / 8}} for row in range(N)]
ONE = models.Filter(must=[match("k", 1)])
FORMULA = models.FormulaQuery(formula=models.MultExpression(mult=["$score", 2.0]))
AMENDMENTS = [Amendment(row, {"unsafe": 0.5}, "m" if row else "another", row / 8) for row in range(6)]

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def ask(method: str, *arguments: Any, **keywords: Any) -> Call:
    return method, arguments, keywords


TOUR = [
    ask("version"),
    ask("names"),
    ask("exists", "c"),
    ask("open", "c"),
    ask("create", "c", SPEC),
    ask("create", "c", SPEC),
    ask("names"),
    ask("open", "c"),
    ask("add_index", "c", "k", "keyword"),
    ask("drop_index", "c", "k"),
    ask("admit", "c", {"k": "keyword"}),
    ask("upsert", "c", list(range(N)), VECTORS, PAYLOADS),
    ask("upsert", "c", [1], VECTORS[:1, :2], [{}]),
    ask("query", "c", VectorQuery(VECTORS[:2], limit=4, filter=ONE, ef=32)),
    ask("query", "c", VectorQuery(VECTORS[:1], limit=3, formulas=[FORMULA], candidates=6, with_vectors=False)),
    ask("query", "c", VectorQuery(VECTORS[:0], limit=3)),
    ask("query_groups", "c", VectorQuery(VECTORS[:1], limit=1), GroupQuery("k", groups=2, size=2)),
    ask("scroll", "c", limit=4, with_vectors=True),
    ask("scroll", "c", filter=ONE, limit=2, after=2),
    ask("retrieve", "c", [*range(N), 99]),
    ask("amend", "c", AMENDMENTS),
    ask("count", "c", models.Filter(must=[match("hysac.model", "m")])),
    ask("scroll", "c"),
    ask("delete", "c", [0, 1, 2, 3, 4, 77]),
    ask("count", "c"),
    ask("strip", "c", ["k"], ONE),
    ask("scroll", "c"),
    ask("optimize", "c"),
    ask("indexed", "c"),
    ask("memory", "c"),
    ask("write_metadata", "c", {"v": 2}),
    ask("aliases"),
    ask("point_alias", "a", "c"),
    ask("point_alias", "a", "c"),
    ask("aliases"),
    ask("names"),
    ask("open", "c"),
    ask("drop", "c"),
    ask("count", "c"),
    ask("exists", "c"),
]


def blocking(store: QdrantStore, tour: list[Call]) -> list[Any]:
    answers = []
    for method, arguments, keywords in tour:
        try:
            answers.append(getattr(store, method)(*arguments, **keywords))
        except StoreError as error:
            answers.append((type(error), str(error), error.written))
    store.close()
    return answers


async def awaited(store: AsyncQdrantStore, tour: list[Call]) -> list[Any]:
    answers = []
    for method, arguments, keywords in tour:
        try:
            answers.append(await getattr(store, method)(*arguments, **keywords))
        except StoreError as error:
            answers.append((type(error), str(error), error.written))
    await store.close()
    return answers


@pytest.fixture(params=["memory", "rest", "grpc"])
def sides(request: pytest.FixtureRequest) -> Iterator[tuple[QdrantStore, AsyncQdrantStore, Any]]:
    """Both stores, each on its own place, and the requests to both places."""
    with ExitStack() as stack:
        if request.param == "memory":
            yield QdrantStore.connect(), AsyncQdrantStore.connect(), lambda: ([1], [1])
        elif request.param == "rest":
            one, other = stack.enter_context(rest_server()), stack.enter_context(rest_server())
            stores = QdrantStore.connect(url=one.url), AsyncQdrantStore.connect(url=other.url)
            yield *stores, lambda: (one.requests, other.requests)
        else:
            first, second = stack.enter_context(grpc_server()), stack.enter_context(grpc_server())
            options = {"grpc_port": second.port, "prefer_grpc": True, "check_compatibility": False}
            client = AsyncQdrantClient(url=second.rest.url, **options)
            stores = QdrantStore(first.client(), owned=True), AsyncQdrantStore(client, owned=True)
            yield *stores, lambda: (first.calls, second.calls)


def test_both_do_the_same(sides: tuple[QdrantStore, AsyncQdrantStore, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hysac_retrieval.stores.qdrant.operations.UPSERT_CHUNK", 4)
    store, twin, requests = sides
    answers = blocking(store, TOUR)
    assert asyncio.run(awaited(twin, TOUR)) == answers
    one, other = requests()
    assert one == other != []
    by_call: dict[str, list[Any]] = {}
    for (method, *_), answer in zip(TOUR, answers, strict=True):
        by_call.setdefault(method, []).append(answer)
    assert [one[0] for one in (by_call["open"][0], by_call["create"][1])] == [
        CollectionNotFoundError,
        CollectionExistsError,
    ]
    assert by_call["upsert"][1][0] is StoreError
    assert {point.id for point in by_call["retrieve"][0]} == set(range(N))
    amended = {p.id for p in by_call["scroll"][2][0] if p.payload["hysac"].get("unsafe") == 0.5}
    assert amended == {1, 2, 3, 4, 5}
    assert (by_call["count"][0], by_call["count"][1], by_call["exists"]) == (N, N - 5, [False, False])
    assert all(isinstance(point, StoredPoint) for answer in by_call["query"][0] for point in answer)


def test_both_have_the_same_methods_and_the_tour_has_them_all() -> None:
    operations = {name for name in vars(Operations) if not name.startswith("_")}
    assert operations == {method for method, *_ in TOUR}
    for name in operations | {"close"}:
        one, other = getattr(QdrantStore, name), getattr(AsyncQdrantStore, name)
        parameters = [dict(inspect.signature(method).parameters) for method in (one, other)]
        assert parameters[0] == parameters[1], name
        assert inspect.iscoroutinefunction(other), name
        assert not inspect.iscoroutinefunction(one), name


def test_both_outlast_the_same_faults() -> None:
    large = ask("upsert", "c", list(range(5)), VECTORS[:5], [{"text": "x" * 1000}] * 5)
    too_large = ask("upsert", "c", [6, 7], VECTORS[:2], [{"text": "x" * 4000}, {}])
    tour = [ask("create", "c", SPEC), ask("open", "c"), large, ask("count", "c"), too_large]
    answers, seen = [], []
    for kind in ("blocking", "awaited"):
        with faulty_server() as server:
            server.expect("PUT /collections/c", Fault(after=True), Fault(status=503))
            server.largest = 3000
            if kind == "blocking":
                answers.append(blocking(QdrantStore.connect(url=server.url, retry=QUICK), tour))
            else:
                twin = AsyncQdrantStore.connect(url=server.url, retry=QUICK)
                answers.append(asyncio.run(awaited(twin, tour)))
            seen.append(len(server.seen))
    assert answers[0] == answers[1]
    assert answers[0][1].metadata == SPEC.metadata
    assert answers[0][3] == 5
    assert answers[0][4][2] == 0
    assert seen[0] == seen[1] > 4
