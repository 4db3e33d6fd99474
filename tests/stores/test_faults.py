"""Servers that are away, slow, overloaded or in trouble: bounded retries, then an error that says how far it came."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient
from support.faulty_server import Fault, FaultyServer, faulty_server
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval import aconnect
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    RequestTooLargeError,
    SettingsError,
    StoreError,
    StoreUnavailableError,
)
from hysac_retrieval.stores import CollectionSpec, Retry, Store, VectorQuery, open_store
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.stores.qdrant.store import QdrantStore

QUICK = Retry(retries=3, first=0.01)
SPEC = CollectionSpec(size=2, metadata={"v": [1, 0.5]}, indexes={"k": "float"})
VECTORS = np.array([[1, 0], [0, 1], [1, 1], [2, 1], [3, 1]], dtype=np.float32)
RESET, LOST = Fault(), Fault(after=True)
TORN = Fault(torn=True)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as running:
        yield running


@pytest.fixture
def store(server: FaultyServer) -> Iterator[QdrantStore]:
    made = QdrantStore.connect(url=server.url, retry=QUICK)
    yield made
    made.close()


def fill(store: Store) -> None:
    store.create("c", SPEC)
    store.upsert("c", [1, 2, 3, 4, 5], VECTORS, [{"k": i} for i in range(5)])


CALLS: dict[str, tuple[str, Callable[[Store], Any]]] = {
    "names": ("GET /collections", lambda s: s.names()),
    "open": ("GET /collections/c", lambda s: s.open("c").size),
    "upsert": ("PUT /collections/c/points", lambda s: s.upsert("c", [1], VECTORS[:1], [{"k": 0}])),
    "query": ("POST /collections/c/points/query", lambda s: s.query("c", VectorQuery(VECTORS[:1], 2))[0][0].id),
    "scroll": ("POST /collections/c/points/scroll", lambda s: s.scroll("c", limit=2)[1]),
    "retrieve": ("POST /collections/c/points", lambda s: s.retrieve("c", [3])[0].payload),
    "count": ("POST /collections/c/points/count", lambda s: s.count("c")),
    "delete": ("POST /collections/c/points/delete", lambda s: s.delete("c", [77])),
    "metadata": ("PATCH /collections/c", lambda s: s.write_metadata("c", {"v": 2})),
    "indexed": ("GET /collections/c", lambda s: s.indexed("c")),
    "optimize": ("GET /collections/c", lambda s: s.optimize("c")),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_outlasts_a_few_faults(server: FaultyServer, store: QdrantStore, call: str) -> None:
    fill(store)
    path, act = CALLS[call]
    expected = act(store)
    server.expect(path, RESET, Fault(status=503), LOST)
    assert act(store) == expected
    assert len(server.seen) >= 4
    assert store.count("c") == 5


@pytest.mark.parametrize(
    "fault", [RESET, LOST, TORN, *(Fault(status=status) for status in (429, 500, 502, 503, 504, 408))]
)
def test_what_lasts_is_an_error_after_the_last_attempt(server: FaultyServer, store: QdrantStore, fault: Fault) -> None:
    fill(store)
    server.expect("points/query", last=fault)
    with pytest.raises(StoreUnavailableError, match=r"'c'.*after 4 attempts"):
        store.query("c", VectorQuery(VECTORS[:1], 2))
    assert len(server.seen) == 4


def test_pauses_grow(server: FaultyServer) -> None:
    store = QdrantStore.connect(url=server.url, retry=Retry(retries=3, first=0.1))
    server.expect("/collections", last=Fault(status=500))
    with pytest.raises(StoreUnavailableError):
        store.names()
    pauses = np.diff(server.seen)
    for pause, longest in zip(pauses, (0.1, 0.2, 0.4), strict=True):
        assert pause > longest / 2 - 0.01
    assert pauses[2] > pauses[0]
    store.close()


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_request_that_is_refused_is_not_made_again(server: FaultyServer, store: QdrantStore, status: int) -> None:
    fill(store)
    server.expect("points/query", last=Fault(status=status))
    with pytest.raises(StoreError, match=rf"{status}.*in trouble") as caught:
        store.query("c", VectorQuery(VECTORS[:1], 2))
    assert not isinstance(caught.value, StoreUnavailableError)
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_says_what_mends_it_and_nothing_more(server: FaultyServer, status: int) -> None:
    store, _ = open_store({"url": server.url, "api_key": "secret"})
    server.expect("/collections", last=Fault(status=status))
    with pytest.raises(StoreError, match=rf"{status}.*api_key=") as caught:
        store.names()
    assert "secret" not in str(caught.value)
    assert not isinstance(caught.value, StoreUnavailableError)
    assert len(server.seen) == 1
    store.close()


def later(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_time_is_given_it(server: FaultyServer, store: QdrantStore, status: int) -> None:
    fill(store)
    server.expect("points/count", Fault(status=status, retry_after="1"))
    assert store.count("c") == 5
    assert np.diff(server.seen)[0] >= 1.0


@pytest.mark.parametrize(
    ("status", "header"), [(429, lambda: "3600"), (503, lambda: "3600"), (503, lambda: later(3600))]
)
def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    server: FaultyServer, store: QdrantStore, status: int, header: Callable[[], str]
) -> None:
    fill(store)
    server.expect("points/count", last=Fault(status=status, retry_after=header()))
    with pytest.raises(StoreUnavailableError) as caught:
        store.count("c")
    assert caught.value.retry_after == pytest.approx(3600, abs=30)
    assert len(server.seen) == 1


@pytest.mark.parametrize("header", ["soon", later(-60), "-5"], ids=["words", "past", "negative"])
def test_a_server_that_asks_in_a_strange_way_is_asked_again(
    server: FaultyServer, store: QdrantStore, header: str
) -> None:
    fill(store)
    server.expect("points/count", Fault(status=503, retry_after=header), Fault(status=429, retry_after="soon"))
    assert store.count("c") == 5
    assert len(server.seen) == 3


@pytest.mark.slow
def test_a_slow_server_is_given_up_in_time(server: FaultyServer) -> None:
    store, owned = open_store({"url": server.url, "timeout": 0.5, "retries": 1})
    assert owned
    fill(store)
    server.expect("points/query", last=Fault(status=200, seconds=20))
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"in time.*2 attempts.*timeout="):
        store.query("c", VectorQuery(VECTORS[:1], 2))
    assert 1.9 < time.monotonic() - began < 6
    server.expect("points/query", Fault(status=200, seconds=20))
    assert store.query("c", VectorQuery(VECTORS[:1], 1))[0][0].id == 5
    store.close()


def test_a_server_that_comes_back_is_found() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = QdrantStore.connect(url=f"http://127.0.0.1:{port}", retry=Retry(retries=6, first=0.1))
    answer = b'{"time":0,"status":"ok","result":{"collections":[{"name":"back"}]}}'

    def come_back() -> None:
        time.sleep(0.3)
        with socket.create_server(("127.0.0.1", port)) as listening:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
                connection.sendall(head.encode() + answer)

    thread = threading.Thread(target=come_back)
    thread.start()
    assert store.names() == ["back"]
    thread.join()
    store.close()


def test_an_upsert_that_fails_says_how_far_it_came(
    server: FaultyServer, store: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hysac_retrieval.stores.qdrant.operations.UPSERT_CHUNK", 2)
    store.create("c", SPEC)
    server.expect("PUT /collections/c/points", None, None, last=RESET)
    with pytest.raises(StoreUnavailableError, match=r"4 attempts.*4 of the 5 points") as caught:
        store.upsert("c", [1, 2, 3, 4, 5], VECTORS, [{}] * 5)
    assert caught.value.written == 4
    assert server.behind.backend.count("c").count == 4
    server.expect("nothing")
    store.upsert("c", [1, 2, 3, 4, 5], VECTORS, [{}] * 5)
    assert store.count("c") == 5


REFUSALS = [
    Fault(status=413, words="Request entity is too large"),  # of a proxy
    Fault(status=400, words="Format error in JSON body: JSON payload (4012 bytes) is larger than allowed (3000 bytes)"),
    Fault(status=429, words="Rate limiting exceeded: Write rate limit exceeded, request larger than rate limiter "
          "capacity, please try to split your request"),
]  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSALS, ids=["413", "400", "429"])
def test_what_is_too_large_for_one_request_is_sent_in_several(
    server: FaultyServer, store: QdrantStore, refusal: Fault
) -> None:
    store.create("c", SPEC)
    server.largest, server.refusal = 3000, refusal
    store.upsert("c", [1, 2, 3, 4, 5], VECTORS, [{"text": "x" * 1000}] * 5)
    assert store.count("c") == 5
    changes = [Amendment(i, {"note": "y" * 1000}, "m", None) for i in (1, 2, 3, 4, 5)]
    store.amend("c", changes)  # of which none fits: what counts is that the server takes them
    found = store.query("c", VectorQuery(np.repeat(VECTORS, 40, axis=0), limit=1))
    assert [len(hits) for hits in found] == [1] * 200
    store.delete("c", [1, 2, 3])
    assert store.count("c") == 2


@pytest.mark.parametrize("refusal", REFUSALS, ids=["413", "400", "429"])
def test_a_single_point_that_is_too_large_is_named(server: FaultyServer, store: QdrantStore, refusal: Fault) -> None:
    store.create("c", SPEC)
    server.largest, server.refusal = 3000, refusal
    with pytest.raises(RequestTooLargeError, match=rf"{refusal.status}.*point 7.*0 of the 2 points") as failed:
        store.upsert("c", [6, 7], VECTORS[:2], [{}, {"text": "x" * 4000}])
    assert "max_request_size_mb" in failed.value.hint


def test_an_extension_writes_in_halves_what_is_too_large_and_names_nothing_as_missing(
    server: FaultyServer, store: QdrantStore
) -> None:
    store.create("c", SPEC)
    store.upsert("c", [1, 2, 3, 4, 5], VECTORS, [{}] * 5)
    extension = store.extension("c")
    server.largest, server.refusal = 3000, REFUSALS[1]
    assert extension.write([1, 2, 3, 4, 5], None, [{"note": "x" * 1000}] * 5) == 5
    assert [point.payload["note"][:1] for point in store.scroll("c")[0]] == ["x"] * 5
    with pytest.raises(RequestTooLargeError):
        extension.write([1, 2], None, [{"note": "x" * 4000}, {}])


def test_a_connection_that_drops_in_the_middle_of_a_batch_loses_and_doubles_nothing(
    server: FaultyServer, store: QdrantStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hysac_retrieval.stores.qdrant.operations.UPSERT_CHUNK", 2)
    store.create("c", SPEC)
    server.expect("PUT /collections/c/points", None, LOST, RESET, TORN, None)
    store.upsert("c", [1, 2, 3, 4, 5], VECTORS, [{"k": i} for i in range(5)])
    assert [(p.id, p.payload) for p in store.scroll("c")[0]] == [(i + 1, {"k": i}) for i in range(5)]
    assert len(server.seen) == 6


def test_a_collection_whose_making_was_not_confirmed_is_ours(server: FaultyServer, store: QdrantStore) -> None:
    server.expect("PUT /collections/c", LOST)
    store.create("c", SPEC)
    assert store.open("c").metadata == SPEC.metadata
    assert [body["field_name"] for body in server.behind.bodies("PUT", "/collections/c/index")] == ["k"]


def test_a_collection_that_another_made_meanwhile_is_not_ours(server: FaultyServer, store: QdrantStore) -> None:
    other = QdrantStore.connect(url=server.behind.url)
    original = store.client.create_collection

    def create(*args: Any, **options: Any) -> Any:
        other.create("c", CollectionSpec(size=2, metadata={"theirs": True}))
        return original(*args, **options)

    store.client.create_collection = create  # type: ignore[method-assign]
    server.expect("PUT /collections/c", Fault(status=503))
    with pytest.raises(CollectionExistsError):
        store.create("c", SPEC)
    assert other.open("c").metadata == {"theirs": True}
    other.close()


def test_a_collection_that_cannot_be_finished_is_removed(server: FaultyServer, store: QdrantStore) -> None:
    server.expect("PUT /collections/c/index", last=Fault(status=500))
    with pytest.raises(StoreUnavailableError):
        store.create("c", SPEC)
    assert not store.exists("c")


def test_a_collection_that_is_not_there_is_said_at_once(server: FaultyServer, store: QdrantStore) -> None:
    server.expect("/collections/nowhere")
    with pytest.raises(CollectionNotFoundError, match="nowhere"):
        store.count("nowhere")
    assert len(server.seen) == 1


def test_what_is_no_qdrant_server_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def page() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>")

        thread = threading.Thread(target=page)
        thread.start()
        store = QdrantStore.connect(url=url)
        with pytest.raises(StoreError, match="not a Qdrant server"):
            store.names()
        thread.join()
        store.close()


def test_asynchronous_calls_are_retried_alike() -> None:
    attempts: list[float] = []

    async def act() -> str:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise StoreUnavailableError("away", retry_after=0.05 * len(attempts))
        return "done"

    assert asyncio.run(QUICK.acall(act)) == "done"
    assert (np.diff(attempts) >= [0.045, 0.095]).all()  # a timer may be a little early

    async def never() -> None:
        raise StoreUnavailableError("away")

    with pytest.raises(StoreUnavailableError, match=r"after 4 attempts"):
        asyncio.run(QUICK.acall(never))


@pytest.mark.parametrize("own_client", [True, False])
def test_an_asynchronous_search_outlasts_a_few_faults(server: FaultyServer, own_client: bool) -> None:
    points = random_points(20)
    with Index.create("c", dim=DIM, curvature=CURVATURE, safety=profile(), url=server.url) as index:
        index.upsert(range(20), points, modality="image")

    async def search() -> list[Any]:
        client = AsyncQdrantClient(url=server.url, check_compatibility=False)
        where: dict[str, Any] = {"async_client": client} if own_client else {"url": server.url, "retries": 2}
        async with aconnect("c", model=None, **where) as engine:
            server.expect("points/query", RESET, Fault(status=503))
            found = [hit.id for hit in (await engine.search(points[7], safe=False, limit=1)).hits]
            assert len(server.seen) == 3
            server.expect("points/query", last=Fault(status=500))
            with pytest.raises(StoreUnavailableError, match=r"after [34] attempts"):
                await engine.search(points[7])
        await client.close()
        return found

    assert asyncio.run(search()) == [7]


@contextmanager
def grpc_store(answer: Callable[[grpc.ServicerContext], None]) -> Iterator[QdrantStore]:
    """A store that speaks gRPC to a server which has only one answer."""

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: answer(context))

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = QdrantClient(url="http://127.0.0.1", grpc_port=port, prefer_grpc=True, check_compatibility=False)
    try:
        yield QdrantStore(client, retry=QUICK)
    finally:
        client.close()
        server.stop(0).wait()


@pytest.mark.parametrize(
    ("code", "kind", "attempts", "words"),
    [
        (grpc.StatusCode.UNAVAILABLE, StoreUnavailableError, 4, "cannot be reached"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, StoreUnavailableError, 4, "in time"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, StoreUnavailableError, 4, "details"),
        (grpc.StatusCode.INTERNAL, StoreUnavailableError, 4, "details"),
        (grpc.StatusCode.UNAUTHENTICATED, StoreError, 1, "api_key="),
        (grpc.StatusCode.PERMISSION_DENIED, StoreError, 1, "api_key="),
        (grpc.StatusCode.NOT_FOUND, CollectionNotFoundError, 1, "details"),
        (grpc.StatusCode.INVALID_ARGUMENT, StoreError, 1, "details"),
    ],
)
def test_what_goes_wrong_over_grpc_is_the_same_error(
    code: grpc.StatusCode, kind: type[StoreError], attempts: int, words: str
) -> None:
    calls: list[float] = []

    def answer(context: grpc.ServicerContext) -> None:
        calls.append(time.monotonic())
        context.abort(code, "details")

    with grpc_store(answer) as store, pytest.raises(kind, match=words) as caught:
        store.count("c")
    assert type(caught.value) is kind
    assert len(calls) == attempts


def test_a_server_that_asks_for_time_over_grpc_is_given_it() -> None:
    calls: list[float] = []

    def answer(context: grpc.ServicerContext) -> None:
        calls.append(time.monotonic())
        context.set_trailing_metadata((("retry-after", "1" if len(calls) == 1 else "3600"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")

    with grpc_store(answer) as store, pytest.raises(StoreUnavailableError, match="3600"):
        store.count("c")
    assert len(calls) == 2
    assert calls[1] - calls[0] >= 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://a", "retries": -1},
        {"url": "http://a", "retries": True},
        {"url": "http://a", "retries": 1.5},
        {"url": "http://a", "timeout": 0},
        {"url": "http://a", "timeout": float("inf")},
        {"url": "http://a", "timeout": "5"},
        {"location": ":memory:", "timeout": 5},
        {"location": "folder", "retries": 2},
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"retries|timeout"):
        open_store(options)  # type: ignore[arg-type]


def test_bulk_work_waits_for_a_server_that_has_answered_before(
    server: FaultyServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = QdrantStore.connect(url=server.url, retry=Retry(retries=1, first=0.01, longest=0.05, wait=30))
    store.create("c", SPEC)
    server.expect("PUT /collections/c/points", *[Fault(status=503)] * 12)
    store.upsert("c", [1, 2, 3, 4, 5], VECTORS, [{}] * 5)
    assert store.count("c") == 5
    assert len(server.seen) == 13
    assert [record.message.count("waiting since") for record in caplog.records] == [1]
    store.close()


def test_the_wait_of_bulk_work_has_an_end(server: FaultyServer) -> None:
    store = QdrantStore.connect(url=server.url, retry=Retry(retries=1, first=0.01, longest=0.05, wait=0.5))
    store.create("c", SPEC)
    server.expect("PUT /collections/c/points", last=Fault(status=503))
    with pytest.raises(StoreUnavailableError, match="0 of the 5 points of this call"):
        store.upsert("c", [1, 2, 3, 4, 5], VECTORS, [{}] * 5)
    assert len(server.seen) > 3
    store.close()


def test_a_server_that_never_answered_is_not_waited_for(server: FaultyServer) -> None:
    server.expect("GET", last=Fault(status=503))
    store = QdrantStore.connect(url=server.url, retry=Retry(retries=1, first=0.01, wait=60))
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        store.names()
    assert time.monotonic() - began < 10
    store.close()
