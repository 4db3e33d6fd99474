"""Servers that cannot be worked with, or not any longer: said in words, at once, and what was written stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
from qdrant_client import models
from support.applications import application
from support.cli import invoke
from support.faulty_server import Fault, FaultyServer, faulty_server
from support.grpc_server import GrpcServer, grpc_server
from support.pictures import write_pictures
from support.rest_server import RestServer, rest_server
from support.spaces import CURVATURE, DIM, profile

from hysac_retrieval import connect
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import CollectionNotFoundError, StorageFullError, StoreError, StoreUnavailableError
from hysac_retrieval.stores import CollectionSpec, Retry
from hysac_retrieval.stores.qdrant.store import QdrantStore

SPEC = CollectionSpec(size=2, metadata={"v": 1})
VECTORS = np.eye(2, dtype=np.float32)
SETTINGS: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile(), "fingerprint": "f1"}
PATIENT = Retry(retries=3, first=0.01, wait=600.0)


@pytest.mark.parametrize("version", ["1.15.5", "1.7.4", "0.11.0"])
def test_a_server_older_than_anything_supported_is_said_whatever_is_asked(version: str) -> None:
    with application("server", Path()) as app:
        assert app.server is not None
        app.server.version, place = version, app.place
        asked: list[Callable[[], Any]] = [
            lambda: Index.create("c", **SETTINGS, **place),
            lambda: Index.attach("app", **SETTINGS, **place),
            lambda: Index.open("app", **place),
            lambda: connect("app", model=None, **place),
        ]
        for ask in asked:
            with pytest.raises(StoreError, match=rf"needs Qdrant 1\.16, this is {version}.*newer server"):
                ask()
        assert [path for method, path, _ in app.server.requests if method in ("PUT", "PATCH", "DELETE")] == []


ANSWERS: dict[str, tuple[int, str]] = {
    "a page": (200, "<html>welcome</html>"),
    "no such page": (404, "<html>nothing here</html>"),
    "nothing at all": (404, ""),
    "JSON of another": (200, json.dumps({"name": "es", "version": {"number": "8.1"}, "tagline": "for search"})),
    "an error of another": (404, json.dumps({"error": "no handler found", "status": 404})),
}


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """The address of something that gives the same answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_PUT = do_POST = _handle  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.mark.parametrize("what", ANSWERS)
def test_what_is_no_qdrant_server_is_said_whatever_is_asked(what: str) -> None:
    with answering(*ANSWERS[what]) as url:
        place: dict[str, Any] = {"url": url, "retries": 3, "wait": 600.0}
        asked: list[Callable[[], Any]] = [
            lambda: Index.create("c", **SETTINGS, **place),
            lambda: Index.attach("c", **SETTINGS, **place),
            lambda: connect("c", model=None, **place),
        ]
        for ask in asked:
            with pytest.raises(StoreError, match=r"not a Qdrant server.*Check the url") as caught:
                ask()
            assert type(caught.value) is StoreError


def test_a_service_of_another_kind_behind_the_port_for_grpc_is_said() -> None:
    listening = grpc.server(__import__("concurrent.futures").futures.ThreadPoolExecutor(1))
    port = listening.add_insecure_port("127.0.0.1:0")
    listening.start()
    store = QdrantStore.connect(url="http://127.0.0.1:1", prefer_grpc=True, grpc_port=port, retry=PATIENT)
    with pytest.raises(StoreError, match=r"UNIMPLEMENTED.*Check the url"):
        store.names()
    store.close()
    listening.stop(0).wait()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as running:
        yield running


NO_ROOM = "Service internal error: No space left on device: WAL buffer size exceeds available disk space"
NO_SHARE = (
    "Bad request: Strict mode error: Disk usage is at 96% of total capacity, exceeding the configured limit of 95%"
)
GONE = "Not found: Collection `c` doesn't exist!"
STOPS: dict[str, tuple[Fault, type[StoreError], str]] = {
    "read-only key": (Fault(status=403, words="Forbidden: Write access is needed"), StoreError, "read-only key"),
    "expired token": (Fault(status=401, words="Invalid API key or JWT"), StoreError, "a token expires"),
    "removed": (Fault(status=404, words=GONE), CollectionNotFoundError, "removed, renamed or recreated"),
    "locked": (Fault(status=403, words="Storage locked: maintenance"), StoreError, "Unlock it"),
    "disk full": (Fault(status=500, words=NO_ROOM), StorageFullError, "Free some space on the server"),
    "insufficient storage": (Fault(status=507, words="Insufficient Storage"), StorageFullError, "Free some space"),
    "share of the disk": (Fault(status=400, words=NO_SHARE), StorageFullError, "Free some space on the server"),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_write_that_cannot_succeed_ends_at_once_and_keeps_what_was_written(
    server: FaultyServer, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, kind, words = STOPS[stop]
    monkeypatch.setattr("hysac_retrieval.stores.qdrant.operations.UPSERT_CHUNK", 1)
    store = QdrantStore.connect(url=server.url, retry=PATIENT)
    store.create("c", SPEC)
    server.expect("PUT /collections/c/points", None, last=fault)
    with pytest.raises(StoreError, match=rf"{words}") as caught:
        store.upsert("c", [1, 2], VECTORS, [{}, {}])
    assert (type(caught.value), caught.value.written, len(server.seen)) == (kind, 1, 2)
    assert server.behind.backend.count("c").count == 1
    store.close()


@pytest.mark.parametrize("stop", [name for name in STOPS if name != "read-only key"])
def test_a_run_that_meets_it_says_so_and_is_continued_by_the_same_command(
    server: FaultyServer, stop: str, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, _, words = STOPS[stop]
    monkeypatch.setattr("hysac_retrieval.stores.qdrant.operations.UPSERT_CHUNK", 1)
    options = ("--collection", "c", "--url", server.url, "--model", toy_bundle, "--workers", 0)
    folder = write_pictures(tmp_path / "p")
    server.expect("PUT /collections/c/points", None, None, last=fault)
    result = invoke("index", folder, *options)
    assert (result.exit_code, words in result.stderr.replace("\n", " ")) == (1, True), result.stderr
    server.expect("nothing")
    again = json.loads(invoke("index", folder, *options, "--json").stdout)["report"]
    assert (again["indexed"]["image"], again["skipped"]) == (2, 2)


CODES: dict[str, tuple[grpc.StatusCode, str, type[StoreError], str]] = {
    "read-only key": (grpc.StatusCode.PERMISSION_DENIED, "Write access is needed", StoreError, "read-only key"),
    "expired token": (grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT", StoreError, "a token expires"),
    "removed": (grpc.StatusCode.NOT_FOUND, GONE, CollectionNotFoundError, "removed, renamed or recreated"),
    "locked": (grpc.StatusCode.FAILED_PRECONDITION, "Storage locked: maintenance", StoreError, "Unlock it"),
    "disk full": (grpc.StatusCode.INTERNAL, NO_ROOM, StorageFullError, "Free some space on the server"),
    "share of the disk": (grpc.StatusCode.INVALID_ARGUMENT, NO_SHARE, StorageFullError, "Free some space"),
}


@pytest.fixture
def over_grpc() -> Iterator[tuple[GrpcServer, QdrantStore]]:
    with grpc_server() as running:
        store = QdrantStore(running.client(), owned=True, retry=PATIENT)
        store.create("c", SPEC)
        yield running, store
        store.close()


@pytest.mark.parametrize("stop", CODES)
def test_over_grpc_it_ends_at_once_as_well(over_grpc: tuple[GrpcServer, QdrantStore], stop: str) -> None:
    running, store = over_grpc
    code, running.words, kind, words = CODES[stop]
    running.faults = [code] * 9
    with pytest.raises(StoreError, match=words) as caught:
        store.upsert("c", [1], VECTORS[:1], [{}])
    assert (type(caught.value), running.calls.count("Upsert")) == (kind, 1)


@pytest.mark.parametrize("over", ["rest", "grpc"])
@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Service runtime error: No space left on device (os error 28)", StorageFullError),
        ("Service internal error: segment 3 is corrupted", StoreError),
    ],
)
def test_an_optimizer_that_failed_is_said_and_not_waited_for(
    over: str, reason: str, kind: type[StoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hysac_retrieval.stores.qdrant.operations.OPTIMIZE_TIMEOUT", 30.0)
    with grpc_server() as running:
        store = QdrantStore(running.client(prefer_grpc=over == "grpc"), owned=True, retry=PATIENT)
        store.create("c", SPEC)
        running.rest.optimizer, began = reason, time.monotonic()
        with pytest.raises(StoreError, match=r"cannot finish its graph.*" + reason[-12:-8]) as caught:
            store.optimize("c")
        assert type(caught.value) is kind
        assert time.monotonic() - began < 10
        running.rest.optimizer = None
        store.close()


@pytest.mark.parametrize(("seconds", "waited"), [("1", True), ("3600", False)])
def test_over_grpc_a_server_that_asks_for_time_is_given_it_as_over_rest(seconds: str, waited: bool) -> None:
    with grpc_server() as running:
        store = QdrantStore(running.client(), owned=True, retry=Retry(3, first=0.01))
        store.create("c", SPEC)
        store.count("c")
        running.words, running.metadata = (
            "Rate limiting exceeded: Read rate limit exceeded",
            (("retry-after", seconds),),
        )
        running.faults, began = [grpc.StatusCode.RESOURCE_EXHAUSTED], time.monotonic()
        if waited:
            assert store.count("c") == 0
            assert time.monotonic() - began >= 1.0
        else:
            with pytest.raises(StoreUnavailableError, match=r"wait 3600 seconds") as caught:
                store.count("c")
            assert caught.value.retry_after == 3600
        assert running.calls.count("Count") == 2 + waited
        store.close()


def test_a_batch_beyond_a_rate_limit_is_halved_over_grpc_too(over_grpc: tuple[GrpcServer, QdrantStore]) -> None:
    running, store = over_grpc
    running.words = "Rate limiting exceeded: Write rate limit exceeded, request larger than rate limiter capacity, " \
        "please try to split your request"  # fmt: skip
    running.faults = [grpc.StatusCode.RESOURCE_EXHAUSTED]
    store.upsert("c", [1, 2], VECTORS, [{}, {}])
    assert (running.calls.count("Upsert"), store.count("c")) == (3, 2)


FILTERS: dict[str, tuple[Any, str, str]] = {
    "slice": ({"slice": {"total": 2, "index": 0}}, "1.19", "a slice condition"),
    "prefix": ({"key": "k", "match": {"prefix": "a"}}, "1.19", "a match by prefix"),
    "substring": ({"key": "k", "match": {"substring": "a"}}, "1.20", "a match by substring"),
}
NESTINGS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda one: {"must": one},
    "deep": lambda one: {"should": [{"must_not": [one]}]},
    "counted": lambda one: {"min_should": {"conditions": [one], "min_count": 1}},
    "nested": lambda one: {"must": [{"nested": {"key": "a", "filter": {"must": [one]}}}]},
}


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("kind", FILTERS)
def test_a_filter_that_a_server_is_too_old_for_is_refused_before_it_is_sent(
    either: RestServer, kind: str, nesting: str
) -> None:
    condition, since, name = FILTERS[kind]
    given = NESTINGS[nesting](condition)
    with Index.create("c", **SETTINGS, **either.place) as index:
        index.upsert([1], np.zeros((1, DIM)), modality="text", payloads=[{"k": "ab"}])
        asked: list[Callable[[], Any]] = [
            lambda: index.query(np.zeros(DIM), filter=given),
            lambda: index.query_groups(np.zeros(DIM), "k", filter=given),
            lambda: index.count(models.Filter.model_validate(given)),
            lambda: index.store.scroll("c", filter=models.Filter.model_validate(given)),
        ]
    for version in ("1.18.3", "1.19.0", "1.20.0"):
        either.version = version
        with Index.open("c", **either.place) as index:
            sent = len(either.bodies("POST", ".*"))
            for ask in asked:
                if version >= since:
                    ask()
                else:
                    with pytest.raises(StoreError, match=rf"{name} in a filter needs Qdrant {since}, this is 1\."):
                        ask()
            assert (len(either.bodies("POST", ".*")) > sent) == (version >= since)


LACKING = {*(f"{name} in a filter" for _, _, name in FILTERS.values()), "turbo8", "acosh in formulas"}


@pytest.mark.parametrize(
    ("version", "lacking"),
    [("1.20.1", set()), ("1.18.3", LACKING)],
)
def test_the_doctor_says_what_a_server_can_do(version: str, lacking: set[str]) -> None:
    with rest_server() as running:
        running.version = version
        result = invoke("doctor", "--url", running.url, "--json")
        assert result.exit_code == 0
        checks = {check["name"]: check for check in json.loads(result.stdout)}
        assert checks["server"]["message"] == f"Qdrant {version} at {running.url}"
        assert {name for name, check in checks.items() if check["status"] == "missing"} - {"training"} == lacking
        assert checks["turbo4"]["message"] == "needs Qdrant 1.18"
        shown = " ".join(invoke("doctor", "--url", running.url).stdout.split())
        assert ("int8 works here" in shown) == bool(lacking)


def test_the_doctor_says_which_servers_are_of_no_use() -> None:
    with rest_server() as running:
        running.version = "1.15.0"
        result = invoke("doctor", "--url", running.url)
        assert (result.exit_code, "Use a newer server" in result.stdout) == (1, True)
    with answering(200, "<html>") as url:
        result = invoke("doctor", "--url", url)
        assert (result.exit_code, "not a Qdrant server" in " ".join(result.stdout.split())) == (1, True)
