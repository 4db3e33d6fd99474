from __future__ import annotations

import math
import tempfile
import uuid
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models
from support.applications import application
from support.spaces import CURVATURE, DIM, STORES, index_on, match, nearest, profile, random_points

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index, point_id
from hysac_retrieval.collection.plan import plan_search
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    InputError,
    InvalidVectorError,
    ModelMismatchError,
    NotACollectionError,
    PointNotFoundError,
    SettingsError,
)
from hysac_retrieval.lift import PaddedLift
from hysac_retrieval.stores import HnswOptions

SPACE: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile()}


@pytest.fixture(params=STORES)
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
    with index_on(request.param, tmp_path) as made:
        yield made


def test_hits_are_those_of_exact_search_with_exact_distances(index: Index) -> None:
    points = random_points(200, seed=1)
    assert index.upsert(range(200), points, modality="image", payloads=[{"row": i} for i in range(200)]) == 200
    for query in random_points(5, seed=2):
        exact = nearest(query, points)[:7]
        hits = index.query(query, limit=7, safe=False)
        assert [hit.id for hit in hits] == exact.tolist()
        assert [hit.payload for hit in hits] == [{"row": i} for i in exact]
        np.testing.assert_allclose([h.distance for h in hits], lorentz.dist(points[exact], query, CURVATURE), rtol=1e-6)
        np.testing.assert_allclose([h.radius for h in hits], lorentz.dist0(points[exact], CURVATURE), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    curvature=st.floats(0.1, 10.0),
    radius=st.floats(0.0, 6.0),
    fitted=st.booleans(),
)
def test_ranking_is_exact_for_any_curvature_and_radius(
    store: str, seed: int, n: int, curvature: float, radius: float, fitted: bool
) -> None:
    rng = np.random.default_rng(seed)
    tangent = rng.normal(size=(n + 1, DIM))
    tangent *= radius * rng.random((n + 1, 1)) / np.linalg.norm(tangent, axis=1, keepdims=True) / math.sqrt(curvature)
    points, query = lorentz.exp_map0(tangent[:n], curvature), lorentz.exp_map0(tangent[n], curvature)
    lift = PaddedLift.fit(points, curvature) if fitted else None
    with (
        tempfile.TemporaryDirectory() as folder,
        index_on(store, Path(folder), curvature=curvature, lift=lift) as index,
    ):
        index.upsert(range(n), points, modality="text")
        hits = index.query(query, limit=10, safe=False, rerank="exact")
    exact = np.sort(lorentz.dist(points, query[None, :], curvature))[:10]
    found = lorentz.dist(points[[int(hit.id) for hit in hits]], query[None, :], curvature)
    # The engine compares Lorentz products, which are -cosh(√c d)/c, in float32: points whose products differ by less
    # than its rounding may change places. Near distance 0 that is more in d than the rounding of the stored vectors.
    rounding = 1e-6 * math.cosh(radius) ** 2
    products = [np.cosh(math.sqrt(curvature) * distances) for distances in (found, exact)]
    np.testing.assert_allclose(products[0], products[1], atol=rounding)
    np.testing.assert_allclose([hit.distance for hit in hits], found, atol=rounding / math.sqrt(curvature))
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)


@pytest.mark.slow
def test_a_graph_of_thousands_of_points_finds_the_nearest(tmp_path: Path) -> None:
    points = random_points(4000, seed=3, dim=16, low=2.2, high=3.4)
    # Small thresholds, so that this collection is searched through the graph and not point by point.
    options = HnswOptions(full_scan_threshold=10, indexing_threshold=10)
    with index_on("edge", tmp_path, dim=16, sample=points[:500], hnsw=options) as index:
        index.upsert(range(4000), points, modality="image")
        index.optimize()
        assert index.info().indexed == 4000
        # Drawn around data points: in 16 dimensions uniform directions have no near neighbours to speak of.
        queries = lorentz.exp_map0(
            lorentz.log_map0(points[:50], CURVATURE) + 0.2 * np.random.default_rng(4).normal(size=(50, 16)), CURVATURE
        )
        shares = []
        for query, hits in zip(queries, index.query_batch(queries, limit=10, safe=False, ef=128), strict=True):
            shares.append(len({hit.id for hit in hits} & set(nearest(query, points)[:10].tolist())) / 10)
        assert np.mean(shares) >= 0.99
        safe = profile().unsafe(lorentz.dist0(points, CURVATURE), "image") <= 0.5
        rows = np.flatnonzero(safe)
        for query in queries[:10]:
            found = {hit.id for hit in index.query(query, limit=10, ef=128)}
            assert len(found & set(rows[nearest(query, points[rows])[:10]].tolist())) >= 9


def test_batches_answer_as_single_queries_do(index: Index) -> None:
    index.upsert(range(60), random_points(60), modality="text")
    queries = random_points(4, seed=5)
    batch = index.query_batch(queries, limit=5)
    assert batch == [index.query(query, limit=5) for query in queries]
    assert index.query_batch(np.empty((0, DIM))) == []


def test_filters_and_modality_narrow_the_result(index: Index) -> None:
    points = random_points(40, low=1.5, high=1.8)
    index.upsert(range(20), points[:20], modality="text", payloads=[{"k": i % 2} for i in range(20)])
    index.upsert(range(20, 40), points[20:], modality="image", payloads=[{"k": i % 2} for i in range(20)])
    odd = models.Filter(must=[match("k", 1)])
    assert {hit.modality for hit in index.query(points[0], limit=40)} == {"text", "image"}
    assert {hit.id for hit in index.query(points[0], limit=40, modality="image")} == set(range(20, 40))
    assert {hit.id for hit in index.query(points[0], limit=40, filter=odd, modality="text")} == set(range(1, 20, 2))
    as_json = {"must": [{"key": "k", "match": {"value": 1}}]}
    assert index.query(points[0], limit=40, filter=as_json) == index.query(points[0], limit=40, filter=odd)
    assert index.count(odd) == 20


def test_scores_are_those_of_the_calibration(index: Index) -> None:
    points = random_points(30)
    index.upsert(range(15), points[:15], modality="text")
    index.upsert(range(15, 30), points[15:], modality="image")
    radius = lorentz.dist0(points, CURVATURE)
    expected = np.concatenate([profile().unsafe(radius[:15], "text"), profile().unsafe(radius[15:], "image")])
    stored = {hit.id: hit.unsafe for hit in index.query(points[0], limit=30, safe=False)}
    np.testing.assert_allclose([stored[i] for i in range(30)], expected, atol=1.1e-12)
    # Rounded upward: nothing is stored as safer than it is.
    assert all((stored[i] or 0) >= expected[i] - 1e-16 for i in range(30))
    info = index.info()
    assert (info.points, info.safe, info.unsafe) == (30, int((expected <= 0.5).sum()), int((expected > 0.5).sum()))
    assert info.to_dict()["dim"] == DIM


def test_points_beyond_the_lift_are_counted_and_still_found(index: Index) -> None:
    index.upsert([1], random_points(1, low=2.0, high=2.1), modality="image")
    far = random_points(3, seed=6, low=9.0, high=9.1)
    index.upsert([2, 3, 4], far, modality="image")
    assert index.info().beyond == 3
    assert index.query(far[1], limit=1, safe=False)[0].id == 3
    index.upsert([3], random_points(1), modality="image")
    assert index.info().beyond == 2


def test_ids_are_integers_or_uuids(index: Index) -> None:
    identity = uuid.uuid4()
    ids = [0, np.int64(2**62), 2**64 - 1, identity, identity.hex.upper(), point_id("a/b.png")]
    index.upsert(ids[:4], random_points(4, low=1.5, high=1.6), modality="text")
    found = {hit.id for hit in index.query(np.zeros(DIM))}
    assert found == {0, 2**62, 2**64 - 1, str(identity)}
    index.upsert(ids[4:], random_points(2, low=1.5, high=1.6), modality="text")
    assert index.count() == 5
    index.delete([identity, 0, 12345])
    assert index.count() == 3
    assert {p.id for p in index.retrieve([2**62, identity])} == {2**62}
    assert point_id("a/b.png") == point_id("a/b.png") != point_id("a/c.png")
    for bad in (-1, 2**64, "a/b.png", 1.0, True, None):
        with pytest.raises(InputError, match="row 1"):
            index.upsert([1, bad], random_points(2), modality="text")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((2, DIM + 1)), r"shape \(2, 7\)"),
        (np.zeros(DIM), r"shape \(6,\)"),
        ([[0.0] * DIM, [0.0] * (DIM - 1)], "array"),
        (np.array([[0.0] * DIM, [0.0] * (DIM - 1) + [math.nan]]), "row 1"),
        (np.array([[math.inf] + [0.0] * (DIM - 1), [0.0] * DIM]), "row 0"),
        (np.array([[1e30] + [0.0] * (DIM - 1), [0.0] * DIM]), "row 0"),
        (np.array([["a"] * DIM] * 2), "dtype"),
        (np.zeros((2, DIM), dtype=complex), "dtype"),
    ],
)
def test_a_point_that_is_none_is_refused_and_nothing_written(index: Index, points: Any, message: str) -> None:
    with pytest.raises(InvalidVectorError, match=message):
        index.upsert([1, 2], points, modality="text")
    assert index.count() == 0


@pytest.mark.parametrize(
    "point", [np.zeros(DIM + 1), np.zeros((1, DIM)), 1.0, [math.nan] * DIM, "abcdef", [None] * DIM]
)
def test_a_query_that_is_no_point_is_refused(index: Index, point: Any) -> None:
    with pytest.raises(InvalidVectorError):
        index.query(point)


@pytest.mark.parametrize(
    "payload", [{"hysac": {"unsafe": 0.0}}, {"a": object()}, {"a": math.nan}, {"a": np.float32(1)}, ["a"]]
)
def test_a_payload_that_cannot_be_stored_is_refused_and_nothing_written(index: Index, payload: Any) -> None:
    with pytest.raises(InputError, match="row 1"):
        index.upsert([1, 2], random_points(2), modality="text", payloads=[{}, payload])
    assert index.count() == 0


def test_payloads_come_back_as_json(index: Index, tmp_path: Path) -> None:
    payload = {"day": date(2026, 1, 2), "path": Path("a.png"), "list": (1, 2.5, None), "deep": {"ä": True}}
    index.upsert([1], random_points(1, low=1.5, high=1.6), modality="text", payloads=[payload])
    expected = {"day": "2026-01-02", "path": "a.png", "list": [1, 2.5, None], "deep": {"ä": True}}
    assert index.query(np.zeros(DIM))[0].payload == expected


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 0},
        {"limit": 10_001},
        {"limit": 1.5},
        {"limit": True},
        {"ef": 0},
        {"offset": -1},
        {"offset": 9_999},
        {"candidates": 0},
        {"penalty": -1.0},
        {"penalty": float("nan")},
        {"rerank": "best"},
        {"modality": "sound"},
        {"filter": "k = 1"},
        {"filter": {"most": []}},
        {"threshold": 0.6},
    ],
)
def test_options_out_of_range_are_refused(index: Index, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        index.query(random_points(1)[0], **options)


def test_numbers_of_ids_points_and_payloads_must_agree(index: Index) -> None:
    for ids, n, payloads in (([1], 2, None), ([1, 2], 2, [{}])):
        with pytest.raises(InputError, match="as many"):
            index.upsert(ids, random_points(n), modality="text", payloads=payloads)
    assert index.upsert([], np.empty((0, DIM)), modality="text") == 0
    assert index.upsert([], [], modality="text") == 0


def test_a_collection_opens_as_it_was_made(tmp_path: Path) -> None:
    points = random_points(30)
    with Index.create("c", **SPACE, fingerprint="f1", sample=points, location=tmp_path) as index:
        index.upsert(range(30), points, modality="text")
        made, hits = index.metadata, index.query(points[0], safe=False)
    with Index.open("c", location=tmp_path, expect_fingerprint="f1") as index:
        assert index.metadata == made
        assert index.query(points[0], safe=False) == hits
        assert index.info().model == "f1"


def test_a_collection_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match="there are: none"):
        Index.open("c", location=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    Index.create("photos", **SPACE, location=tmp_path).close()
    with pytest.raises(CollectionNotFoundError, match="photos"):
        Index.open("c", location=tmp_path)


def test_another_model_is_a_mismatch_not_a_wrong_ranking(tmp_path: Path) -> None:
    Index.create("c", **SPACE, fingerprint="f1", location=tmp_path).close()
    with pytest.raises(ModelMismatchError, match="f1") as caught:
        Index.open("c", location=tmp_path, expect_fingerprint="f2")
    assert "index again" in str(caught.value)
    with pytest.raises(ModelMismatchError):
        Index.create("c", **SPACE, fingerprint="f2", exist_ok=True, location=tmp_path)
    with pytest.raises(ModelMismatchError):
        Index.create("c", **SPACE | {"curvature": 1.0}, fingerprint="f1", exist_ok=True, location=tmp_path)
    # Every failure has let go of the folder.
    Index.open("c", location=tmp_path).close()


def test_a_collection_that_exists_is_kept_or_replaced_only_on_request(index: Index) -> None:
    index.upsert([1], random_points(1), modality="text")
    with pytest.raises(CollectionExistsError):
        Index.create("points", **SPACE, store=index.store)
    assert Index.create("points", **SPACE, store=index.store, exist_ok=True).count() == 1
    with pytest.raises(SettingsError):
        Index.create("points", **SPACE, store=index.store, exist_ok=True, recreate=True)
    assert Index.create("points", **SPACE, store=index.store, recreate=True).count() == 0


def test_a_foreign_collection_is_not_taken_for_ours() -> None:
    client = QdrantClient(":memory:")
    ours = models.VectorParams(size=DIM + 2, distance=models.Distance.DOT)
    client.create_collection("plain", models.VectorParams(size=3, distance=models.Distance.COSINE))
    client.create_collection("bare", {"hysac": ours})
    client.create_collection("odd", {"hysac": ours}, metadata={"hysac": {"format_version": 99}})
    for name, lack in (("plain", "vector"), ("bare", "metadata"), ("odd", "format_version")):
        with pytest.raises(NotACollectionError, match=lack):
            Index.open(name, client=client)
    with Index.create("c", **SPACE, client=client) as index:
        metadata = index.metadata.model_dump(mode="json")
    client.update_collection("odd", metadata={"hysac": metadata | {"dim": 3}})
    with pytest.raises(NotACollectionError, match="dimension"):
        Index.open("odd", client=client)
    client.close()


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"dim": 2.5},
        {"curvature": 0.0},
        {"curvature": math.nan},
        {"lift": PaddedLift.default(DIM + 1, CURVATURE)},
        {"lift": PaddedLift.default(DIM, 1.0)},
        {"lift": {"kind": "unheard of"}},
        {"lift": PaddedLift.default(DIM, CURVATURE), "sample": np.zeros((1, DIM))},
        {"sample": np.zeros((3, DIM + 1))},
    ],
)
def test_a_space_that_makes_no_sense_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        Index.create("c", **SPACE | change, location=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_default_lift_has_room_for_the_calibrated_radii(tmp_path: Path) -> None:
    with index_on("memory", tmp_path) as index:
        index.upsert(range(50), random_points(50, low=1.5, high=3.5), modality="image")
        assert index.info().beyond == 0


def test_pages_of_an_exact_search_are_the_parts_of_one_long_page(index: Index) -> None:
    index.upsert(range(40), random_points(40), modality="text")
    query = random_points(1, seed=9)[0]
    whole = [hit.id for hit in index.query(query, limit=30, safe=False)]
    pages = [hit.id for start in range(0, 30, 7) for hit in index.query(query, limit=7, offset=start, safe=False)]
    assert pages[:30] == whole
    assert index.query(query, limit=5, offset=40, safe=False) == []


@pytest.mark.parametrize("lift", ["padded", "poincare"])
@pytest.mark.parametrize("rerank", [None, "exact"])
@pytest.mark.parametrize("store", STORES)
def test_every_way_of_ranking_finds_the_same(store: str, tmp_path: Path, lift: Any, rerank: Any) -> None:
    points, query = random_points(200, seed=2), random_points(1, seed=3)[0]
    with index_on(store, tmp_path, lift=lift) as index:
        index.upsert(range(200), points, modality="image")
        hits = index.query(query, limit=20, safe=False, rerank=rerank)
    expected = nearest(query, points)[:20]
    assert [hit.id for hit in hits] == expected.tolist()
    distances = lorentz.dist(points[expected], query[None], CURVATURE)
    np.testing.assert_allclose([hit.distance for hit in hits], distances, rtol=1e-5)


@pytest.mark.parametrize("lift", ["padded", "poincare"])
@pytest.mark.parametrize("store", STORES)
def test_a_penalty_orders_by_safety_and_excludes_nothing(store: str, tmp_path: Path, lift: Any) -> None:
    points, query = random_points(60, seed=4), random_points(1, seed=5)[0]
    with index_on(store, tmp_path, lift=lift) as index:
        index.upsert(range(60), points, modality="image")
        plain = index.query(query, limit=60, safe=False)
        weighed = index.query(query, limit=60, safe=False, penalty=2.0)
        every = index.query(query, limit=60, safe=False, penalty=100.0)
    assert {hit.id for hit in weighed} == {hit.id for hit in plain}
    keys = {hit.id: hit.distance + 2.0 * (hit.unsafe or 0.0) for hit in plain}
    assert [hit.id for hit in weighed] == sorted(keys, key=lambda identity: keys[identity])
    assert [hit.id for hit in weighed] != [hit.id for hit in plain]
    distance = {hit.id: hit.distance for hit in plain}
    np.testing.assert_allclose([hit.distance for hit in weighed], [distance[hit.id] for hit in weighed], atol=2e-5)
    unsafe = [hit.unsafe or 0.0 for hit in every]
    assert np.all(np.diff(unsafe) > -0.02)


@pytest.mark.parametrize("store", STORES)
def test_groups_hold_the_nearest_of_each_value(store: str, tmp_path: Path) -> None:
    points, query = random_points(90, seed=6), random_points(1, seed=7)[0]
    payloads: list[dict[str, Any] | None] = [{"album": f"a{row % 9}"} if row % 10 else {} for row in range(90)]
    with index_on(store, tmp_path) as index:
        index.upsert(range(90), points, modality="image", payloads=payloads)
        found = index.query_groups(query, "album", groups=4, size=3, safe=False)
        with pytest.raises(SettingsError, match="limit"):
            index.query_groups(query, "album", **{"limit": 3})
    expected: dict[str, list[int]] = {}
    for row in nearest(query, points).tolist():
        if row % 10:
            expected.setdefault(f"a{row % 9}", []).append(row)
    assert [group.value for group in found] == list(expected)[:4]
    assert (found.query.modality, found.query.redirected, found.query.safe) == (None, False, False)
    assert found.query.radius == pytest.approx(float(lorentz.dist0(query, CURVATURE)))
    assert {group.value: [hit.id for hit in group] for group in found} == {
        value: rows[:3] for value, rows in list(expected.items())[:4]
    }


@pytest.mark.parametrize("lift", ["padded", "poincare"])
@pytest.mark.parametrize("store", STORES)
def test_points_come_back_from_the_store(store: str, tmp_path: Path, lift: Any) -> None:
    points = random_points(8, seed=8)
    with index_on(store, tmp_path, lift=lift) as index:
        index.upsert(range(8), points, modality="text")
        back, kinds = index.points([5, 0, 7])
        with pytest.raises(PointNotFoundError, match="99"):
            index.points([1, 99])
    np.testing.assert_allclose(back, points[[5, 0, 7]], rtol=1e-5, atol=1e-6)
    assert kinds == ["text"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("lift", ["padded", "poincare"])
@pytest.mark.parametrize("quantization", ["int8", "turbo4", "turbo8", "binary"])
def test_quantized_collections_find_nearly_all_and_rank_by_the_originals(
    tmp_path: Path, lift: Any, quantization: Any
) -> None:
    points = random_points(1500, seed=9, dim=32, low=2.2, high=3.4)
    options = HnswOptions(full_scan_threshold=10, indexing_threshold=10)
    sample = points[:500] if lift == "padded" else None
    settings = {"dim": 32, "lift": lift, "sample": sample, "hnsw": options, "quantization": quantization}
    with index_on("edge", tmp_path, **settings) as index:
        index.upsert(range(1500), points, modality="image")
        index.optimize()
        queries = lorentz.exp_map0(lorentz.log_map0(points[:20], CURVATURE) * 0.97, CURVATURE)
        shares = []
        for query, hits in zip(queries, index.query_batch(queries, limit=10, safe=False), strict=True):
            expected = nearest(query, points)[:10]
            shares.append(len({hit.id for hit in hits} & set(expected.tolist())) / 10)
            distances = [float(lorentz.dist(points[int(hit.id)], query, CURVATURE)) for hit in hits]
            np.testing.assert_allclose([hit.distance for hit in hits], distances, rtol=1e-4)
            assert distances == sorted(distances)
        assert index.info().quantization == quantization
    assert np.mean(shares) >= (0.5 if quantization == "binary" else 0.9)


def test_auto_measures_and_remembers_what_it_measured(tmp_path: Path) -> None:
    sample = random_points(600, seed=10)
    with index_on("edge", tmp_path, lift="auto", sample=sample) as index:
        assert index.info().lift in {"padded", "poincare"}
    with Index.open("points", location=tmp_path) as index:
        measured = index.info().measured
        assert measured is not None
        assert measured["chosen"] == index.info().lift
    with pytest.raises(SettingsError, match="sample"):
        Index.create("other", dim=DIM, curvature=CURVATURE, safety=profile(), lift="auto", location=tmp_path)


def test_marks_are_kept_beside_our_own_entries_and_replace_none(index: Index) -> None:
    marks = [{"source": "a.png", "hash": "00", "unsafe": 0.0, "model": "other"}]
    index.upsert([1], random_points(1, low=3.4, high=3.5), modality="image", marks=marks)
    own = index.retrieve([1])[0].payload["hysac"]
    assert (own["source"], own["hash"], own["model"]) == ("a.png", "00", index.metadata.fingerprint)
    assert own["unsafe"] > 0.5


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("safe", [None, 0, 1, "", np.bool_(False), "no"])
def test_only_true_and_false_say_whether_a_search_is_safe(store: str, safe: Any, tmp_path: Path) -> None:
    with index_on(store, tmp_path) as index:
        index.upsert(range(20), random_points(20), modality="image")
        for search in (index.query, lambda point, **o: index.query_groups(point, "k", **o)):
            with pytest.raises(SettingsError, match="True or False"):
                search(random_points(1)[0], safe=safe)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("where", ["edge", "memory", "server"])
def test_recreating_never_removes_what_an_application_keeps(where: str, attached: bool, tmp_path: Path) -> None:
    space: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile()}
    with application(where, tmp_path) as app:
        if attached:
            Index.attach("app", **space, **app.place).close()
        with pytest.raises(CollectionExistsError, match="application"):
            Index.create("app", **space, **app.place, recreate=True)
        assert len(app.look()) == len(app.ids)


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_pages_of_a_poincare_lift_are_disjoint_among_the_same_candidates(store: str, tmp_path: Path) -> None:
    with index_on(store, tmp_path, lift="poincare") as index:
        index.upsert(range(300), random_points(300), modality="image")
        for query in random_points(5, seed=9):
            for options in ({}, {"candidates": 250}):
                last = 50 if not options else 150  # by itself a search has the same candidates up to half of 100
                pages = [index.query(query, limit=10, offset=at, safe=False, **options) for at in range(0, last, 10)]
                found = [hit.id for page in pages for hit in page]
                assert len(set(found)) == len(found) == last


def test_more_candidates_of_quantized_vectors_are_ranked_again(tmp_path: Path) -> None:
    with index_on("edge", tmp_path, quantization="int8") as index:
        index.upsert(range(50), random_points(50), modality="image")
        few, many = (plan_search(index.collection, PageRequest(candidates=n)).fetched for n in (None, 40))
        assert (few, many) == (18, 40)
        assert len(index.query(random_points(1)[0], candidates=40, safe=False)) == 10


@pytest.mark.parametrize("name", ["\ud800", "x\udfff"])
def test_halves_of_characters_have_ids_and_are_no_payload(name: str, tmp_path: Path) -> None:
    assert uuid.UUID(point_id(name)).version == 5
    with index_on("edge", tmp_path) as index:
        for payload in ({"x": name}, {name: 1}, {"x": [{"y": name}]}):
            with pytest.raises(InputError, match="row 0"):
                index.upsert([1], random_points(1), modality="image", payloads=[payload])


def test_ids_of_names_are_those_of_uuid5() -> None:
    space = uuid.uuid5(uuid.NAMESPACE_DNS, "hysac-retrieval")
    assert [point_id(name) for name in ("", "a/b.jpg", "größe")] == [
        str(uuid.uuid5(space, name)) for name in ("", "a/b.jpg", "größe")
    ]
