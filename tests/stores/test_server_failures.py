"""Failures of a server: each is a typed error with what was found and what mends it, and nothing is lost."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest
import trustme
from qdrant_client import models
from support.faulty_server import Fault, FaultyServer, faulty_server
from support.grpc_server import GrpcServer, grpc_server
from support.qdrant_server import own_names
from support.rest_server import rest_server
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import StoreError, StoreUnavailableError
from hysac_retrieval.stores import CollectionSpec, Retry, Store
from hysac_retrieval.stores.qdrant.store import QdrantStore

QUICK = Retry(retries=2, first=0.01)
HAD, MORE, CHUNK = 6, 10, 4
POINTS = random_points(HAD + MORE)
PAYLOADS = [{"k": row} for row in range(HAD + MORE)]
SPEC = CollectionSpec(size=2, metadata={"v": 1}, indexes={"k": "float"})
VECTORS = np.eye(2, dtype=np.float32)


def make(name: str, **place: Any) -> Index:
    return Index.create(name, dim=DIM, curvature=CURVATURE, safety=profile(), **place)


def write(index: Index, rows: range) -> None:
    index.upsert(
        list(rows), POINTS[rows.start : rows.stop], modality="image", payloads=PAYLOADS[rows.start : rows.stop]
    )


def stored(store: Store, name: str) -> dict[Any, Any]:
    return {point.id: point.payload["k"] for point in store.scroll(name)[0]}


FAILURES: dict[str, tuple[Fault, type[StoreError], str]] = {
    "slow": (Fault(status=200, seconds=8), StoreUnavailableError, r"in time.*timeout="),
    "429": (Fault(status=429), StoreUnavailableError, r"429.*retries="),
    "429 for an hour": (Fault(status=429, retry_after="3600"), StoreUnavailableError, r"wait 3600 seconds.*retries="),
    "500": (Fault(status=500), StoreUnavailableError, r"500.*log.*retries="),
    "503": (Fault(status=503), StoreUnavailableError, r"503.*retries="),
    "reset": (Fault(), StoreUnavailableError, r"broke.*retries="),
    "done, but the answer lost": (Fault(after=True), StoreUnavailableError, r"broke.*retries="),
    "torn answer": (Fault(torn=True), StoreUnavailableError, r"broke.*retries="),
    "wrong key": (Fault(status=401), StoreError, r"401.*api_key="),
    "read-only key": (Fault(status=403), StoreError, r"403.*read-only"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_bulk_write_that_fails_half_way_loses_nothing_and_can_be_made_again(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, kind, words = FAILURES[failure]
    monkeypatch.setattr("hysac_retrieval.stores.qdrant.operations.UPSERT_CHUNK", CHUNK)
    with faulty_server() as server, make("c", url=server.url, timeout=1, retries=1) as index:
        write(index, range(HAD))
        server.expect("PUT /collections/c/points", None, last=fault)
        with pytest.raises(StoreError, match=words) as caught:
            write(index, range(HAD, HAD + MORE))
        assert type(caught.value) is kind
        assert (caught.value.written, f"{CHUNK} of the {MORE} points" in str(caught.value)) == (CHUNK, True)
        there = stored(QdrantStore(server.behind.backend), "c")
        assert there.items() >= {row: row for row in range(HAD + CHUNK)}.items()
        server.expect("nothing")
        write(index, range(HAD, HAD + MORE))
        assert stored(index.store, "c") == {row: row for row in range(HAD + MORE)}


@pytest.mark.parametrize("failure", [name for name in FAILURES if name != "slow"])
def test_a_search_that_fails_says_what_mends_it(failure: str) -> None:
    fault, kind, words = FAILURES[failure]
    with faulty_server() as server, make("c", url=server.url, retries=0) as index:
        write(index, range(HAD))
        server.expect("points/query", last=fault)
        with pytest.raises(StoreError, match=words) as caught:
            index.query(POINTS[0])
        assert type(caught.value) is kind


@pytest.mark.parametrize("prefer_grpc", [False, True])
def test_a_server_that_is_not_there_is_named_as_such(prefer_grpc: bool) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    store = QdrantStore.connect(url=url, prefer_grpc=prefer_grpc, retry=QUICK)
    with pytest.raises(StoreUnavailableError, match=r"cannot be reached.*3 attempts.*running at the url"):
        store.names()
    store.close()


def test_a_key_is_checked_by_both_interfaces() -> None:
    with grpc_server() as server:
        server.rest.key = "right"
        for prefer_grpc in (False, True):
            for key in (None, "wrong"):
                options = {"api_key": key, "prefer_grpc": prefer_grpc, "grpc_port": server.port}
                store = QdrantStore.connect(url=server.rest.url, retry=QUICK, **options)
                with pytest.raises(StoreError, match=r"Invalid API key.*api_key=") as caught:
                    store.names()
                assert type(caught.value) is StoreError
                assert "wrong" not in str(caught.value)
                store.close()
            right = {"api_key": "right", "prefer_grpc": prefer_grpc, "grpc_port": server.port}
            store = QdrantStore.connect(url=server.rest.url, **right)
            assert store.names() == []
            store.close()


@pytest.fixture
def grpc_side() -> Iterator[tuple[GrpcServer, QdrantStore]]:
    with grpc_server() as server:
        store = QdrantStore(server.client(timeout=1), owned=True, retry=QUICK)
        store.create("c", SPEC)
        store.upsert("c", [1, 2], VECTORS, [{"k": 1}, {"k": 2}])
        yield server, store
        store.close()


def test_what_is_done_twice_over_grpc_is_stored_once(grpc_side: tuple[GrpcServer, QdrantStore]) -> None:
    server, store = grpc_side
    server.faults = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    store.upsert("c", [2, 3], VECTORS, [{"k": 20}, {"k": 3}])
    assert server.calls.count("Upsert") == 1 + 3
    assert stored(store, "c") == {1: 1, 2: 20, 3: 3}
    server.faults = [grpc.StatusCode.UNAVAILABLE]
    store.create("d", SPEC)
    assert store.open("d").metadata == SPEC.metadata


def test_a_write_that_fails_half_way_over_grpc_loses_nothing(
    grpc_side: tuple[GrpcServer, QdrantStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store = grpc_side
    monkeypatch.setattr("hysac_retrieval.stores.qdrant.operations.UPSERT_CHUNK", 1)
    server.faults = [None, *[grpc.StatusCode.UNAVAILABLE] * 3]
    with pytest.raises(StoreUnavailableError, match=r"1 of the 2 points") as caught:
        store.upsert("c", [3, 4], VECTORS, [{"k": 3}, {"k": 4}])
    assert caught.value.written == 1
    assert stored(store, "c").items() >= {1: 1, 2: 2, 3: 3}.items()


def test_a_server_too_slow_over_grpc_is_given_up(grpc_side: tuple[GrpcServer, QdrantStore]) -> None:
    server, store = grpc_side
    waiting = threading.Event()
    original = server.rest.backend.count

    def slow(*args: Any, **options: Any) -> Any:
        waiting.wait(1.5)
        return original(*args, **options)

    server.rest.backend.count = slow  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError, match=r"gRPC in time.*2 attempts.*timeout="):
        QdrantStore(store.client, retry=Retry(1, first=0.01)).count("c")
    waiting.set()


Handshake = Callable[[bool], str]
"""Asks the server of another name for its collections, over gRPC or not; what the error says, after its type."""

ASK = """
import sys
from hysac_retrieval.errors import StoreError
from hysac_retrieval.stores import Retry
from hysac_retrieval.stores.qdrant.client import make_client
from hysac_retrieval.stores.qdrant.store import QdrantStore
from qdrant_client import QdrantClient

url, port, grpc = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "grpc"
client = make_client(QdrantClient, url=url, prefer_grpc=grpc, grpc_port=port, ca_file=sys.argv[4] or None)
try:
    print("answered", QdrantStore(client, retry=Retry(3, first=60)).names())
except StoreError as error:
    print(type(error).__name__, error)
"""


def collections_at(url: str, port: int, *, over_grpc: bool, trusted: Path | None) -> str:
    """What a process of its own gets: trusted authorities are read once in each."""
    paths = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", ASK, url, str(port), "grpc" if over_grpc else "rest", str(trusted or "")]
    found = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def secured(authority: trustme.CA, request: pytest.FixtureRequest) -> Iterator[tuple[FaultyServer, int]]:
    """A server over TLS, both interfaces, whose certificate is for the name that a test asks for."""
    import ssl

    certificate = authority.issue_cert(request.param)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
    with faulty_server(context) as rest, grpc_server(credentials) as both:
        yield rest, both.port


@pytest.mark.parametrize("over_grpc", [False, True], ids=["rest", "grpc"])
@pytest.mark.parametrize("secured", ["qdrant.example.org"], indirect=True)
def test_a_certificate_for_another_name_is_refused_at_once(
    secured: tuple[FaultyServer, int], over_grpc: bool, trusted: Path
) -> None:
    server, port = secured
    answer = collections_at(server.url.replace("127.0.0.1", "localhost"), port, over_grpc=over_grpc, trusted=trusted)
    assert re.match(r"StoreError the certificate of the Qdrant server is not accepted: ", answer), answer
    assert re.search(r"Hostname mismatch|Hostname Verification", answer)
    assert "the name that the certificate is for in url=" in answer
    assert server.behind.requests == []


@pytest.mark.slow
@pytest.mark.parametrize("over_grpc", [False, True], ids=["rest", "grpc"])
@pytest.mark.parametrize("secured", ["localhost"], indirect=True)
def test_a_certificate_of_an_unknown_authority_is_refused_until_it_is_made_known(
    secured: tuple[FaultyServer, int], over_grpc: bool, trusted: Path
) -> None:
    server, port = secured
    url = server.url.replace("127.0.0.1", "localhost")
    answer = collections_at(url, port, over_grpc=over_grpc, trusted=None)
    assert answer.startswith("StoreError the certificate of the Qdrant server is not accepted: "), answer
    assert answer.endswith("in ca_file=")
    assert collections_at(url, port, over_grpc=over_grpc, trusted=trusted) == "answered []"


@pytest.mark.parametrize("over_grpc", [False, True], ids=["rest", "grpc"])
def test_https_to_a_server_without_tls_is_said(over_grpc: bool) -> None:
    with grpc_server() as server:
        url = server.rest.url.replace("http:", "https:")
        answer = collections_at(url, server.port, over_grpc=over_grpc, trusted=None)
        assert answer.startswith("StoreError no TLS connection to Qdrant: "), answer
        assert answer.endswith("use http:// in url=")


def test_http_to_a_server_with_tls_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def alert() -> None:  # what a TLS server answers to what is no handshake
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(bytes.fromhex("15030100020246"))

        threading.Thread(target=alert, daemon=True).start()
        store = QdrantStore.connect(url=f"http://127.0.0.1:{listener.getsockname()[1]}", retry=Retry(0))
        with pytest.raises(StoreError, match=r"does not speak HTTP.*https://"):
            store.names()
        store.close()


@pytest.mark.parametrize("path", ["", "/", "/qdrant", "/a/qdrant/"])
def test_a_url_with_a_path_and_further_headers_reach_a_server_behind_a_proxy(path: str) -> None:
    with rest_server(behind=path.rstrip("/")) as server:
        store = QdrantStore.connect(url=server.url + path, headers={"X-Team": "search"}, api_key="k")
        store.create("c", SPEC)
        store.upsert("c", [1], VECTORS[:1], [{}])
        assert (store.names(), store.count("c")) == (["c"], 1)
        assert (server.headers["x-team"], server.headers["api-key"]) == ("search", "k")
        store.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://example.org/qdrant", "https://example.org/qdrant"),
        ("http://example.org", "http://example.org:6333"),
        ("https://example.org:1/qdrant", "https://example.org:1/qdrant"),
        ("example.org:7", "http://example.org:7"),
    ],
)
def test_the_port_of_an_address(url: str, address: str) -> None:
    store = QdrantStore.connect(url=url)
    assert store.client._client.rest_uri == address  # type: ignore[attr-defined]
    store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://10.1.2.3:6333", 1), ("https://10.1.2.3:6333", 0), ("http://localhost:6333", 0), ("http://[::1]:6333", 0)],
)
def test_a_key_in_the_clear_is_said_in_one_line(url: str, said: int, caplog: pytest.LogCaptureFixture) -> None:
    QdrantStore.connect(url=url, api_key="secret").close()
    assert [record.message.count("in the clear") for record in caplog.records] == [1] * said
    assert "secret" not in caplog.text


def test_a_file_that_holds_no_authority_is_said(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "absent.pem"):
        with pytest.raises(StoreError, match=rf"{name} holds no certificates.*PEM"):
            QdrantStore.connect(url="https://localhost:1", ca_file=tmp_path / name)


def test_tests_leave_the_collections_of_a_server_alone() -> None:
    with rest_server() as server:
        server.backend.create_collection("theirs", models.VectorParams(size=2, distance=models.Distance.DOT))
        store = QdrantStore.connect(url=server.url)
        with own_names(store.client) as own:
            assert own.names() == []
            own.create("c", SPEC)
            own.upsert("c", [1], VECTORS[:1], [{"k": 1}])
            assert (own.names(), own.count("c"), own.open("c").metadata) == (["c"], 1, {"v": 1})
            assert not own.exists("theirs")
            assert len(store.names()) == 2
        assert [one.name for one in server.backend.get_collections().collections] == ["theirs"]
