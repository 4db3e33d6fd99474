"""The store on a Qdrant server, as far as the wire: what is sent, in which order, and what errors become."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from support.rest_server import RestServer, rest_server
from support.spaces import CURVATURE, DIM, nearest, profile, random_points

from hysac_retrieval.collection.collection import payload_indexes
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import CollectionNotFoundError, ModelMismatchError, StoreError
from hysac_retrieval.lorentz import dist0
from hysac_retrieval.stores.qdrant.store import QdrantStore
from hysac_retrieval.stores.retry import Retry


@pytest.fixture
def server() -> Iterator[RestServer]:
    with rest_server() as running:
        yield running


def make(server: RestServer, **options: object) -> Index:
    settings = {
        "dim": DIM,
        "curvature": CURVATURE,
        "safety": profile(),
        "fingerprint": "f1",
        "url": server.url,
    } | options
    return Index.create("c", **settings)  # type: ignore[arg-type]


def test_a_server_holds_an_index_and_answers_as_exact_search_does(server: RestServer) -> None:
    points = random_points(30)
    with make(server) as index:
        index.upsert(range(30), points, modality="image", payloads=[{"k": i} for i in range(30)])
        assert index.info().points == 30
        index.optimize()
    with Index.open("c", url=server.url, expect_fingerprint="f1") as index:
        query = random_points(1, seed=9)[0]
        safe = np.flatnonzero(profile().unsafe(dist0(points, CURVATURE), "image") <= 0.5)
        assert [hit.id for hit in index.query(query, limit=5)] == safe[nearest(query, points[safe])[:5]].tolist()
        assert len(index.query_batch(random_points(3), limit=2, ef=64)) == 3
        index.delete([1, 2])
        assert index.count() == 28
    with pytest.raises(ModelMismatchError):
        Index.open("c", url=server.url, expect_fingerprint="f2")


def test_the_safety_filter_is_part_of_every_request(server: RestServer) -> None:
    with make(server) as index:
        index.query_batch(random_points(2), ef=64, threshold=0.25, filter={"should": [{"is_empty": {"key": "a"}}]})
    for search in server.bodies("POST", "/collections/c/points/query/batch")[0]["searches"]:
        must = search["filter"]["must"]
        assert must[0] == {"key": "hysac.safe.f1", "match": {"value": True}}
        assert must[1] == {"key": "hysac.unsafe", "range": {"gte": 0.0, "lte": 0.25}}
        assert must[2] == {"should": [{"is_empty": {"key": "a"}}]}
        assert "should" not in search["filter"]
        assert search["params"] == {"hnsw_ef": 64}
        assert search["using"] == "hysac"


def test_payload_indexes_are_made_before_the_first_point(server: RestServer) -> None:
    with make(server) as index:
        index.upsert([1], random_points(1), modality="text")
    puts = [(path, body) for method, path, body in server.requests if method == "PUT"]
    assert [path for path, _ in puts] == [
        "/collections/c",
        *["/collections/c/index"] * len(payload_indexes("f")),
        "/collections/c/points",
    ]
    fields = {body["field_name"]: body["field_schema"] for path, body in puts if path.endswith("index")}
    wanted = {"hysac.unsafe": "float", "hysac.modality": "keyword", "hysac.model": "keyword"}
    assert wanted.items() <= fields.items()
    assert puts[0][1]["vectors"] == {"hysac": {"size": DIM + 2, "distance": "Dot"}}


@pytest.mark.parametrize(
    ("version", "options", "words"),
    [
        ("1.15.5", {}, r"collection metadata needs Qdrant 1\.16, this is 1\.15\.5"),
        ("1.17.1", {"quantization": "turbo4"}, r"turbo4 needs Qdrant 1\.18, this is 1\.17\.1"),
        ("1.18.3", {"quantization": "turbo8"}, r"turbo8 needs Qdrant 1\.20, this is 1\.18\.3. int8 works here"),
        ("unheard of", {}, r"collection metadata needs Qdrant 1\.16, this is unheard of"),
    ],
)
def test_what_a_server_is_too_old_for_is_refused_before_anything_is_sent(
    server: RestServer, version: str, options: dict[str, object], words: str
) -> None:
    server.version = version
    with pytest.raises(StoreError, match=words):
        make(server, **options)
    assert [path for method, path, _ in server.requests if method != "GET"] == []


@pytest.mark.parametrize(("version", "quantization"), [("1.16.0", "int8"), ("1.18.0", "turbo4"), ("1.20.0", "turbo8")])
def test_what_a_server_can_do_is_sent(server: RestServer, version: str, quantization: str) -> None:
    server.version = version
    make(server, quantization=quantization).close()
    assert server.backend.collection_exists("c")


def test_what_goes_wrong_on_the_wire_is_a_store_error(server: RestServer) -> None:
    with make(server, api_key="secret", retries=0) as index:  # type: ignore[arg-type]
        assert server.headers["api-key"] == "secret"
        server.backend.delete_collection("c")
        with pytest.raises(CollectionNotFoundError, match="no collection 'c'"):
            index.query(random_points(1)[0])
        server.broken = True
        with pytest.raises(StoreError, match=r"500.*disk full") as caught:
            index.query(random_points(1)[0])
        assert "secret" not in str(caught.value)
    server.broken = False
    with pytest.raises(CollectionNotFoundError, match="none"):
        Index.open("c", url=server.url)


def test_a_server_that_is_not_there_is_a_store_error() -> None:
    store = QdrantStore.connect(url="http://127.0.0.1:9", retry=Retry(0))
    with pytest.raises(StoreError, match="cannot be reached"):
        store.open("c")
    store.close()
