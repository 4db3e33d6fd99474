"""Second stages, groups, pages and sizes: equal answers from every engine, and the requests to a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from support.qdrant_server import knows, skip_if_too_old
from support.rest_server import rest_server
from support.spaces import match

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores import CollectionSpec, Store, VectorQuery
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.qdrant.store import QdrantStore
from hysac_retrieval.stores.requests import query_requests, read_collection
from hysac_retrieval.stores.types import METADATA_KEY, GroupQuery, Metric, StorageOptions
from hysac_retrieval.stores.versions import FORMULAS, TURBO4, TURBO8

RNG = np.random.default_rng(3)
VECTORS = RNG.normal(size=(60, 4)).astype(np.float32)
PAYLOADS: list[dict[str, Any]] = [
    {
        "row": row,
        "hysac": {"scale": 1.0 + row % 4},
        "album": {"id": f"a{row % 7}" if row % 11 else row % 3},
        "tags": [f"t{row % 3}", f"t{row % 5}", "everything"] if row % 6 else [],
        "odd": [row % 4, True] if row % 2 else row % 3,
    }
    for row in range(60)
]
SAFE = models.Filter(must_not=[match("album.id", "a3")])
# Minus the distance of a point with a payload's factor: descending order is by the smallest.
SCALED = models.FormulaQuery(
    formula=models.NegExpression(
        neg=models.MultExpression(
            mult=[
                "hysac.scale",
                models.AcoshExpression(
                    acosh=models.MaxExpression(max=[1.0, models.SumExpression(sum=[1.0, "$score"])])
                ),
            ]
        )
    ),
    defaults={"hysac.scale": 9.0},
)


def fill(store: Store, metric: Metric = "Euclid") -> Store:
    store.create("c", CollectionSpec(size=4, metadata={"v": 1}, metric=metric))
    store.upsert("c", list(range(60)), VECTORS, PAYLOADS)
    return store


@pytest.mark.parametrize("metric", ["Dot", "Euclid"])
def test_the_metric_decides_the_order_and_is_remembered(store: Store, metric: Metric) -> None:
    fill(store, metric)
    opened = store.open("c")
    assert (opened.metric, opened.formula, opened.size) == (metric, knows(store, FORMULAS), 4)
    query = VECTORS[5]
    score = VECTORS @ query if metric == "Dot" else np.linalg.norm(VECTORS - query, axis=1)
    best = np.argsort(-score if metric == "Dot" else score)[:8]
    found = store.query("c", VectorQuery(query[None], limit=8, with_vectors=False))[0]
    assert [point.id for point in found] == best.tolist()
    assert [point.score for point in found] == pytest.approx(score[best], abs=1e-5)
    assert all(point.vector is None for point in found)


def scaled(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm(VECTORS[rows] - query, axis=1)
    result: np.ndarray = -(1.0 + rows % 4) * np.arccosh(1.0 + distance)
    return result


def test_a_second_stage_orders_the_candidates_of_the_first(store: Store) -> None:
    skip_if_too_old(store, FORMULAS)
    fill(store)
    queries = VECTORS[[5, 17]]
    query = VectorQuery(queries, limit=4, filter=SAFE, formulas=[SCALED] * 2, candidates=12, ef=64)
    for row, answer in enumerate(store.query("c", query)):
        allowed = np.array([i for i in range(60) if PAYLOADS[i]["album"]["id"] != "a3"])
        first = allowed[np.argsort(np.linalg.norm(VECTORS[allowed] - queries[row], axis=1))[:12]]
        scores = scaled(first, queries[row])
        best = np.argsort(-scores)[:4]
        assert [point.id for point in answer] == first[best].tolist()
        assert [point.score for point in answer] == pytest.approx(scores[best], abs=1e-5)
        np.testing.assert_allclose(answer[0].vector or [], VECTORS[int(answer[0].id)])


def test_searches_of_one_request_may_have_conditions_of_their_own(store: Store) -> None:
    skip_if_too_old(store, FORMULAS)
    fill(store)
    only = [models.Filter(must=[match("row", row)]) for row in (3, 8)]
    for formulas in (None, [SCALED] * 3):
        query = VectorQuery(VECTORS[:3], limit=2, filters=[only[0], only[1], None], formulas=formulas, candidates=60)
        found = store.query("c", query)
        assert [[point.id for point in answer] for answer in found[:2]] == [[3], [8]]
        assert len(found[2]) == 2


def test_a_point_without_the_variable_of_a_formula_takes_the_default(store: Store) -> None:
    skip_if_too_old(store, FORMULAS)
    fill(store)
    store.upsert("c", [70], VECTORS[:1], [{}])
    query = VectorQuery(VECTORS[:1] + 1, limit=61, formulas=[SCALED], candidates=61, with_vectors=False)
    score = {point.id: point.score for point in store.query("c", query)[0]}
    assert score[70] == pytest.approx(9.0 * (score[0] or 0.0), rel=1e-5)


def expected_groups(key: str, n: int, size: int, query: np.ndarray, keep: models.Filter | None) -> list[Any]:
    """The definition: points best first, each put into its groups as long as these have room."""
    groups: dict[Any, list[int]] = {}
    for row in np.argsort(np.linalg.norm(VECTORS - query, axis=1)).tolist():
        if keep is not None and PAYLOADS[row]["album"]["id"] == "a3":
            continue
        value: Any = PAYLOADS[row]
        for part in key.split("."):
            value = value[part]
        values = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) for one in values):
            continue
        for one in dict.fromkeys(values):
            members = groups.setdefault(one, [])
            if len(members) < size:
                members.append(row)
    return list(groups.items())[:n]


@pytest.mark.parametrize("keep", [None, SAFE])
@pytest.mark.parametrize(
    ("key", "n", "size"),
    [("album.id", 3, 2), ("album.id", 20, 3), ("album.id", 9, 30), ("tags", 2, 1), ("tags", 6, 4), ("odd", 2, 5)],
)
def test_groups_are_those_of_the_best_points(
    store: Store, key: str, n: int, size: int, keep: models.Filter | None
) -> None:
    fill(store)
    query = VECTORS[9] * 0.5
    for limit in (1, 10):
        nearest = VectorQuery(query[None], limit=limit, filter=keep)
        found = store.query_groups("c", nearest, GroupQuery(key, groups=n, size=size))
        best = expected_groups(key, n, size, query, keep)
        # A point may be the best of several groups, whose order is then left to the engine.
        assert [g.points[0].id for g in found] == [ids[0] for _, ids in best]
        every = dict(expected_groups(key, len(PAYLOADS), size, query, keep))
        assert {g.value: [p.id for p in g.points] for g in found} == {g.value: every[g.value] for g in found}
        assert len({g.value for g in found}) == len(best)
    assert all(p.payload["row"] == p.id and p.vector is not None for g in found for p in g.points)


@pytest.mark.parametrize("keep", [None, SAFE])
@pytest.mark.parametrize(("key", "n", "size"), [("album.id", 3, 2), ("album.id", 9, 30), ("tags", 6, 4)])
def test_groups_that_a_server_returns_short_are_filled_by_one_more_request(
    key: str, n: int, size: int, keep: models.Filter | None
) -> None:
    with rest_server() as server:
        store = QdrantStore.connect(url=server.url)
        fill(store)
        server.short_groups = True
        query = VECTORS[9] * 0.5
        grouping = GroupQuery(key, groups=n, size=size)
        found = store.query_groups("c", VectorQuery(query[None], limit=10, filter=keep), grouping)
        assert [(g.value, [p.id for p in g.points]) for g in found] == expected_groups(key, n, size, query, keep)
        assert len(server.bodies("POST", "/collections/c/points/query/batch")) == 1
        store.close()


def test_groups_by_a_formula_are_ordered_by_its_value(store: Store) -> None:
    skip_if_too_old(store, FORMULAS)
    fill(store)
    query = VectorQuery(VECTORS[:1], limit=1, formulas=[SCALED], candidates=60, filter=SAFE)
    found = store.query_groups("c", query, GroupQuery("album.id", groups=3, size=4))
    allowed = np.array([i for i in range(60) if PAYLOADS[i]["album"]["id"] != "a3"])
    order = allowed[np.argsort(-scaled(allowed, VECTORS[0]))].tolist()
    best = list(dict.fromkeys(PAYLOADS[row]["album"]["id"] for row in order))[:3]
    assert [group.value for group in found] == best
    for group in found:
        assert [p.id for p in group.points] == [r for r in order if PAYLOADS[r]["album"]["id"] == group.value][:4]


def test_groups_of_a_field_that_no_point_has_are_none(store: Store) -> None:
    fill(store)
    assert store.query_groups("c", VectorQuery(VECTORS[:1], limit=1), GroupQuery("nothing", 3, 3)) == []


def test_pages_hold_every_point_once_in_the_order_of_ids(store: Store) -> None:
    fill(store)
    words = [f"00000000-0000-0000-0000-{i:012d}" for i in (3, 1, 2)]
    store.upsert("c", words, VECTORS[:3], [{}] * 3)
    seen, after, pages = [], None, 0
    while True:
        page, after = store.scroll("c", limit=7, after=after, with_vectors=pages == 0)
        seen.extend(page)
        pages += 1
        assert len(page) <= 7
        if after is None:
            break
    assert pages == 9
    assert [point.id for point in seen] == [*range(60), *sorted(words)]
    np.testing.assert_allclose(seen[2].vector or [], VECTORS[2])
    assert seen[8].vector is None
    assert seen[8].payload == PAYLOADS[8]
    some, after = store.scroll("c", filter=models.Filter(must=[match("album.id", "a3")]), limit=100)
    assert after is None
    assert [p.id for p in some] == [r for r in range(60) if PAYLOADS[r]["album"]["id"] == "a3"]


@pytest.mark.parametrize("quantization", ["int8", "turbo4", "turbo8", "binary"])
def test_quantized_vectors_are_compared_again_by_the_originals(store: Store, quantization: Any) -> None:
    skip_if_too_old(store, *(feature for feature in (TURBO4, TURBO8) if feature.name == quantization))
    spec = CollectionSpec(
        size=4, metadata={}, metric="Dot", quantization=quantization, storage=StorageOptions(on_disk=True)
    )
    store.create("c", spec)
    store.upsert("c", list(range(60)), VECTORS, PAYLOADS)
    store.optimize("c")
    query = VECTORS[5]
    best = np.argsort(-(VECTORS @ query))[:5]
    found = store.query("c", VectorQuery(query[None], limit=5, oversampling=12.0, ef=64))[0]
    assert [point.id for point in found] == best.tolist()
    assert [point.score for point in found] == pytest.approx((VECTORS @ query)[best], rel=1e-6)


@pytest.mark.parametrize("kind", ["edge", "memory"])
@pytest.mark.parametrize("option", ["shards", "replication_factor"])
def test_options_of_a_cluster_are_refused_where_there_is_none(kind: str, option: str, tmp_path: Path) -> None:
    store: Store = EdgeStore(tmp_path) if kind == "edge" else QdrantStore.connect()
    with pytest.raises(SettingsError, match="server"):
        store.create("c", CollectionSpec(size=2, metadata={}, storage=StorageOptions(**{option: 2})))
    assert not store.exists("c")
    store.close()


def test_a_server_is_told_how_to_store_and_how_to_search() -> None:
    storage = StorageOptions(
        on_disk=True, on_disk_payload=True, shards=6, replication_factor=3, write_consistency_factor=2
    )
    with rest_server() as server:
        store = QdrantStore.connect(url=server.url)
        store.create("c", CollectionSpec(4, {"v": 1}, "Euclid", quantization="turbo4", storage=storage))
        query = VectorQuery(VECTORS[:1], limit=3, ef=64, oversampling=2.5)
        store.query("c", query)
        store.query("c", VectorQuery(VECTORS[:1], limit=3, ef=64, oversampling=2.5, formulas=[SCALED], filter=SAFE))
        store.query_groups("c", query, GroupQuery("album.id", groups=2, size=3))
        store.close()
    made = server.bodies("PUT", "/collections/c")[0]
    assert made["vectors"] == {"hysac": {"size": 4, "distance": "Euclid", "on_disk": True}}
    assert made["quantization_config"] == {"turbo": {"always_ram": True, "bits": "bits4"}}
    assert {key: made[key] for key in ("shard_number", "replication_factor", "write_consistency_factor")} == {
        "shard_number": 6,
        "replication_factor": 3,
        "write_consistency_factor": 2,
    }
    assert made["on_disk_payload"] is True
    plain, staged = server.bodies("POST", "/collections/c/points/query")
    assert plain["params"] == {"hnsw_ef": 64, "quantization": {"rescore": True, "oversampling": 2.5}}
    assert staged.get("params") is None
    condition = {"must_not": [{"key": "album.id", "match": {"value": "a3"}}]}
    assert (staged["filter"], staged["prefetch"][0]["filter"]) == (condition, condition)
    assert staged["prefetch"][0]["params"] == plain["params"]
    (group,) = server.bodies("POST", "/collections/c/points/query/groups")
    assert (group["group_by"], group["limit"], group["group_size"]) == ("album.id", 2, 3)
    assert group["params"] == plain["params"]


@pytest.mark.parametrize(
    ("version", "knows"),
    [("1.20.0", True), ("1.20.1-dev", True), ("v2.0.0", True), ("1.19.4", False), ("1.16.0", False)],
)
def test_the_version_of_a_server_decides_about_formulas(version: str, knows: bool) -> None:
    assert FORMULAS.known(version) is knows
    with rest_server() as server:
        QdrantStore.connect(url=server.url).create("c", CollectionSpec(size=2, metadata={}))
        server.version = version
        store = QdrantStore.connect(url=server.url)
        assert [store.open("c").formula for _ in range(3)] == [knows] * 3
        store.close()
    assert len(server.bodies("GET", "/")) == 2  # each store asks once


def test_a_vector_compared_in_another_way_is_none_of_ours() -> None:
    store = QdrantStore.connect()
    for distance in (models.Distance.COSINE, models.Distance.MANHATTAN):
        params = {"hysac": models.VectorParams(size=3, distance=distance)}
        store.client.create_collection(distance.value, params, metadata={METADATA_KEY: {}})
        opened = store.open(distance.value)
        assert (opened.size, opened.metric) == (None, None)
        assert read_collection(store.client.get_collection(distance.value)) == opened.__class__({}, None, None, False)
    store.close()


def test_memory_grows_with_the_points(tmp_path: Path) -> None:
    store = EdgeStore(tmp_path)
    fill(store)
    before = store.memory("c")
    rows = RNG.normal(size=(2000, 4)).astype(np.float32)
    texts = [{"text": RNG.bytes(100).hex()} for _ in range(2000)]
    store.upsert("c", list(range(1000, 3000)), rows, texts)
    store.optimize("c")
    after = store.memory("c")
    assert before is not None
    assert after is not None
    # At least the vectors and (half, as they are compressed) the texts; files made ahead of need are not counted.
    assert 2000 * (16 + 100) < after - before < 8_000_000
    store.close()


def test_a_server_tells_the_size_of_a_collection_and_may_refuse_to() -> None:
    shard = {"total_optimized_points": 0, "vectors_size_bytes": 4000, "payloads_size_bytes": 500}
    shards: list[dict[str, Any]] = [
        {"id": i, "local": local, "remote": [], "replicate_states": {}} for i, local in enumerate((shard, None))
    ]
    other = {"id": "other", "shards": [shards[0]] * 3}
    with rest_server() as server:
        store = QdrantStore.connect(url=server.url)
        store.create("c", CollectionSpec(size=2, metadata={}))
        assert store.memory("c") is None
        server.telemetry = {
            "id": "x",
            "collections": {"number_of_collections": 2, "collections": [other, {"id": "c", "shards": shards}]},
        }
        assert store.memory("c") == 4500
        store.close()
    memory = QdrantStore.connect()
    assert memory.memory("c") is None
    memory.close()


def test_requests_can_be_made_without_a_store() -> None:
    (request,) = query_requests(VectorQuery(VECTORS[:1], limit=2, ef=64, oversampling=2.0))
    assert request.params is not None
    assert request.params.hnsw_ef == 64
    assert request.params.quantization is not None
    assert request.params.quantization.rescore
    (local,) = query_requests(VectorQuery(VECTORS[:1], limit=2, ef=64), local=True)
    assert local.params is None
