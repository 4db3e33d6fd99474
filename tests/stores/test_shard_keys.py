"""Collections whose shards are chosen by a key, as for tenants: written to by key, and searched in some of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from support.cli import invoke
from support.rest_server import RestServer
from support.spaces import CURVATURE, DIM, STORES, index_on, profile, random_points

from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import InputError, PointNotFoundError, SettingsError, StoreError
from hysac_retrieval.guard import SafeQdrantClient
from hysac_retrieval.ingest import Content, attached_collection_for, fill
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.connecting import connect
from hysac_retrieval.stores import StorageOptions
from hysac_retrieval.stores.base import pages

TENANTS: list[Any] = ["red", "blue", 7]
TEXTS = ["a dog", "a gun", "a cat", "a house", "a knife", "a tree"]
TITLES = Content(text="title")


@pytest.fixture
def server(either: RestServer) -> RestServer:
    return either


@pytest.fixture
def client(server: RestServer) -> Iterator[QdrantClient]:
    """An application's collection, with points of each tenant."""
    with_close = server.client()
    with_close.create_collection(
        "shop",
        vectors_config={"own": models.VectorParams(size=2, distance=models.Distance.COSINE)},
        sharding_method=models.ShardingMethod.CUSTOM,
    )
    for place, tenant in enumerate(TENANTS):
        with_close.create_shard_key("shop", tenant)
        rows = [
            models.PointStruct(id=100 * place + row, vector={"own": [1.0, row + 1.0]}, payload={"title": text})
            for row, text in enumerate(TEXTS)
        ]
        with_close.upsert("shop", rows, shard_key_selector=tenant)
    yield with_close
    with_close.close()


def safe_rows(engine_hits: Any) -> set[int]:
    return {hit.id for hit in engine_hits}


SAFE = {100 * place + row for place in range(3) for row in (0, 2, 3, 5)}


def test_attach_writes_to_the_shards_of_each_point_and_detach_leaves_nothing(
    server: RestServer, client: QdrantClient, encoder: Encoder
) -> None:
    before = client.scroll("shop", limit=100, with_vectors=True)[0]
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        report = fill(index, encoder, TITLES)
        assert (report.indexed["text"], report.failures) == (18, 0)
        assert index.info().safe == len(SAFE)
        assert fill(index, encoder, TITLES).skipped == 18
        rescore(
            index, encoder.safety.model_copy(update={"source": "anew"}), fingerprint=encoder.fingerprint[:16] + 16 * "0"
        )
        assert index.info().safe == len(SAFE)
        assert not any(point.payload["hysac"].get("earlier") for page in pages(index.store, "shop") for point in page)
        assert index.detach() == 18
    assert client.scroll("shop", limit=100, with_vectors=True)[0] == before
    assert client.get_collection("shop").config.metadata in (None, {})


def test_content_that_can_no_longer_be_judged_loses_its_score_in_its_own_shard(
    server: RestServer, client: QdrantClient, encoder: Encoder
) -> None:
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        fill(index, encoder, TITLES)
        client.set_payload("shop", {"title": ""}, [100], shard_key_selector="blue")
        client.set_payload("shop", {"title": 5}, [202], shard_key_selector=7)
        report = fill(index, encoder, TITLES)
        assert (report.lacking, report.failures) == (1, 1)
        assert index.info().safe == len(SAFE) - 2


@pytest.mark.parametrize(
    ("selector", "places"),
    [
        (None, (0, 1, 2)),
        ("red", (0,)),
        (7, (2,)),
        (["red", "blue"], (0, 1)),
        (models.ShardKeyWithFallback(target="green", fallback="blue"), (1,)),
    ],
    ids=str,
)
def test_engine_and_guard_search_the_tenants_that_they_are_told(
    server: RestServer, client: QdrantClient, encoder: Encoder, selector: Any, places: tuple[int, ...]
) -> None:
    wanted = {identity for identity in SAFE if identity // 100 in places}
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        fill(index, encoder, TITLES)
    with connect("shop", model=encoder, **server.place) as engine:
        assert safe_rows(engine.search("a dog", limit=50, shard_key_selector=selector)) == wanted
        (batch,) = engine.search_batch(["a dog"], limit=50, shard_key_selector=selector)
        assert safe_rows(batch) == wanted
        groups = engine.search_groups("a dog", "title", groups=20, size=9, shard_key_selector=selector)
        assert {hit.id for group in groups.groups for hit in group.hits} == wanted
    guard = SafeQdrantClient(client)
    among: dict[str, Any] = {"limit": 50, "shard_key_selector": selector}
    assert {record.id for record in guard.scroll("shop", **among)[0]} == wanted
    assert {point.id for point in guard.query_points("shop", query=[1.0, 1.0], using="own", **among).points} == wanted
    assert guard.count("shop", shard_key_selector=selector).count == len(wanted)
    request = models.QueryRequest(query=[1.0, 1.0], using="own", limit=50, shard_key=selector)
    assert {point.id for point in guard.query_batch_points("shop", [request])[0].points} == wanted


@pytest.mark.parametrize(
    ("given", "places"),
    [((), (0, 1, 2)), (("red",), (0,)), (("7",), (2,)), (('"blue"',), (1,)), (("red", "7"), (0, 2))],
    ids=str,
)
def test_the_command_line_searches_the_tenants_that_it_is_told(
    server: RestServer,
    client: QdrantClient,
    encoder: Encoder,
    toy_bundle: Path,
    given: tuple[str, ...],
    places: tuple[int, ...],
) -> None:
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        fill(index, encoder, TITLES)
    options = ["--collection", "shop", *server.options, "--model", toy_bundle, "--json"]
    options += [option for key in given for option in ("--shard-key", key)]
    wanted = {identity for identity in SAFE if identity // 100 in places}
    for more in ((), ("--traversal", "adaptive")):
        result = invoke("search", "a gun", *options, "--limit", 50, *more)
        assert {hit["id"] for hit in json.loads(result.stdout)["hits"]} == wanted
    steps = json.loads(invoke("explain", "a gun", *options, "--near", 20).stdout)["steps"]
    shown = {hit["id"] for step in steps for hit in (*step["nearest"], *step["entailing"])}
    assert shown == wanted


def test_a_word_of_digits_is_no_number_and_an_unknown_tenant_is_said(
    server: RestServer, client: QdrantClient, encoder: Encoder, toy_bundle: Path
) -> None:
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        fill(index, encoder, TITLES)
    for key in ('"7"', "07", "8"):
        result = invoke(
            "search", "a dog", "--collection", "shop", *server.options, "--model", toy_bundle, "--shard-key", key
        )
        assert (result.exit_code, "Shard key" in result.stderr) == (1, True)


def test_an_adaptive_traversal_looks_among_the_tenants_of_the_search_only(
    server: RestServer, client: QdrantClient, encoder: Encoder
) -> None:
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        fill(index, encoder, TITLES)
    probing = SafetyPolicy(traversal="adaptive")
    with connect("shop", model=encoder, policy=probing, **server.place) as engine:
        before = len(server.requests)
        assert engine.search("a gun", shard_key_selector="red").query.path
    asked = [body["searches"] for _, path, body in server.requests[before:] if path.endswith("points/query/batch")]
    assert len(asked) == 2
    assert {str(search["shard_key"]) for searches in asked for search in searches} == {"red"}


def test_a_query_made_of_a_point_asks_for_it_among_the_tenants_of_the_request(
    server: RestServer, client: QdrantClient, encoder: Encoder
) -> None:
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        fill(index, encoder, TITLES)
    guard = SafeQdrantClient(client)
    for tenant, identity in (("red", 100), ("red", 1), ("blue", 0)):  # another's, unsafe, another's
        request = models.QueryRequest(query=identity, using="own", limit=5, shard_key=tenant)
        with pytest.raises(PointNotFoundError, match=str(identity)):
            guard.query_batch_points("shop", [request])


def made(server: RestServer, **options: Any) -> Index:
    space: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile()}
    return Index.create("c", **space, storage=StorageOptions(shard_by="meta.tenant"), **server.place, **options)


def owned(*tenants: Any) -> list[dict[str, Any]]:
    return [{"meta": {"tenant": tenant}} for tenant in tenants]


def test_a_new_collection_is_divided_by_a_payload_field(server: RestServer) -> None:
    points = random_points(6, high=1.8)
    with made(server) as index:
        index.upsert(range(6), points, modality="image", payloads=owned("red", "blue", 7, "red", 7, "blue"))
        assert server.tenants["c"].keys == [7, "blue", "red"]
        assert server.tenants["c"].places == {0: "red", 1: "blue", 2: 7, 3: "red", 4: 7, 5: "blue"}
        found = index.query(points[0], limit=10, shard_key_selector="red")
        assert {hit.id for hit in found} == {0, 3}
        index.delete([0, 1, 99])
        assert set(server.tenants["c"].places) == {2, 3, 4, 5}
    with made(server, exist_ok=True) as index:
        index.upsert([2], points[:1], modality="image", payloads=owned("red"))  # it has moved to another tenant
        assert server.tenants["c"].places[2] == "red"
        assert index.count() == 4


@pytest.mark.parametrize("tenant", [None, "", 1.5, True, ["red", "blue"], {}], ids=repr)
def test_a_point_without_a_tenant_is_refused_before_anything_is_written(server: RestServer, tenant: Any) -> None:
    with made(server) as index:
        with pytest.raises(InputError, match=r"point 1 .*meta\.tenant"):
            index.upsert([0, 1], random_points(2), modality="text", payloads=owned("red", tenant))
        assert index.count() == 0


def test_a_collection_that_is_divided_otherwise_is_not_taken_for_one(server: RestServer) -> None:
    space: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile(), **server.place}
    Index.create("c", **space).close()
    with pytest.raises(SettingsError, match=r"divided by nothing, not by meta\.tenant"):
        made(server, exist_ok=True)


@pytest.mark.parametrize("store", STORES)
def test_shard_keys_are_for_a_server(store: str, tmp_path: Path) -> None:
    with (
        pytest.raises(SettingsError, match="shard_by"),
        index_on(store, tmp_path, storage=StorageOptions(shard_by="x")),
    ):
        pass
    with index_on(store, tmp_path, name="other") as index, pytest.raises(SettingsError, match="shard_key_selector"):
        index.query(random_points(1)[0], shard_key_selector="a")


@pytest.mark.parametrize("wrong", [True, 1.5, {"a": 1}], ids=repr)
def test_a_selector_of_another_kind_is_an_error(tmp_path: Path, wrong: Any) -> None:
    with index_on("memory", tmp_path) as index, pytest.raises(SettingsError, match="shard_key_selector"):
        index.query(random_points(1)[0], shard_key_selector=wrong)


@pytest.mark.parametrize("step", ["PUT /index", "PUT /vectors", "PATCH"])
def test_what_fails_half_way_is_taken_back(
    server: RestServer, client: QdrantClient, encoder: Encoder, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = client.get_collection("shop").config
    answer, left = type(server)._answer, [1 if step == "PATCH" else 2]

    def failing(self: Any, on: Any, method: str, path: str, body: Any) -> Any:
        if step.startswith(method) and step.partition(" ")[2] in path and body.get("metadata", True) != {"hysac": None}:
            left[0] -= 1
            if left[0] == 0 or step == "PUT /vectors":
                raise ValueError("Wrong input: no")
        return answer(self, on, method, path, body)

    monkeypatch.setattr(type(server), "_answer", failing)
    with pytest.raises(StoreError, match="Wrong input: no"):
        attached_collection_for(encoder, "shop", TITLES, **server.place)
    after = client.get_collection("shop").config
    assert after.params.vectors == before.params.vectors
    assert "hysac" not in (after.metadata or {})
    dropped = {path.rpartition("/")[2] for method, path, _ in server.requests if method == "DELETE"}
    assert "hysac.unsafe" in dropped


def test_what_cannot_be_taken_back_is_said(
    server: RestServer, client: QdrantClient, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, on: Any, method: str, path: str, body: Any) -> Any:
        if method in ("PATCH", "DELETE"):
            raise ValueError("Wrong input: no")
        return answer(self, on, method, path, body)

    answer = type(server)._answer
    monkeypatch.setattr(type(server), "_answer", failing)
    with pytest.raises(StoreError, match=r"could not be taken away.*goes on from there, and detach"):
        attached_collection_for(encoder, "shop", TITLES, **server.place)
    monkeypatch.undo()
    with attached_collection_for(encoder, "shop", TITLES, **server.place) as index:
        assert fill(index, encoder, TITLES).indexed["text"] == 18


def test_a_run_that_fails_half_way_names_the_command_that_takes_it_back(
    server: RestServer, client: QdrantClient, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, on: Any, method: str, path: str, body: Any) -> Any:
        if path.endswith("points/batch"):
            raise ValueError("Wrong input: no")
        return answer(self, on, method, path, body)

    answer, before = type(server)._answer, client.get_collection("shop").config
    place = ("--collection", "shop", *server.options)
    with monkeypatch.context() as patched:
        patched.setattr(type(server), "_answer", failing)
        failed = invoke("attach", *place, "--text-field", "title", "--model", toy_bundle, "--workers", 0)
    assert failed.exit_code == 1
    assert "hysac detach --collection shop" in failed.stderr
    assert invoke("detach", *place, "--yes").exit_code == 0
    assert client.get_collection("shop").config.params.vectors == before.params.vectors
