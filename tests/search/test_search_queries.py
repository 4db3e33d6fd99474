"""Stored points, examples, pages, groups and the adaptive traversal, against brute force on both stores."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qdrant_client import AsyncQdrantClient, models
from support.rest_server import rest_server
from support.spaces import CURVATURE, DIM, STORES, index_on, match, nearest, profile, random_points

from hysac_retrieval import aconnect, connect, lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import InputError, PointNotFoundError, SettingsError
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.safety.redirect import redirect
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.points import NEGATIVE_WEIGHT, examples_point
from hysac_retrieval.search.queries import Examples, PointRef
from hysac_retrieval.stores import Store, VectorQuery
from hysac_retrieval.types import Modality

COUNT = 60
POINTS = random_points(COUNT, seed=5)
KINDS: list[Modality] = ["image" if row % 3 else "text" for row in range(COUNT)]
modest = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", params=STORES)
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Read only."""
    with index_on(request.param, tmp_path_factory.mktemp("queries")) as made:
        for kind in ("text", "image"):
            rows = [row for row in range(COUNT) if KINDS[row] == kind]
            payloads = [{"album": f"a{row % 4}", "tags": ["x", f"t{row % 2}"], "text": f"number {row}"} for row in rows]
            made.upsert(rows, POINTS[rows], modality=kind, payloads=payloads)  # type: ignore[arg-type]
        yield made


@pytest.fixture(scope="module")
def scores() -> NDArray[np.float64]:
    radius = lorentz.dist0(POINTS, CURVATURE)
    return np.array([profile().unsafe(radius[row], KINDS[row]) for row in range(COUNT)])


def engine_on(index: Index, **policy: Any) -> SafeSearch:
    return SafeSearch(index, None, policy=SafetyPolicy(**policy))


class Counted:
    """A store that counts what it is asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked: list[VectorQuery] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def query(self, name: str, query: VectorQuery) -> Any:
        self.asked.append(query)
        return self._store.query(name, query)


def ids(hits: Any) -> list[Any]:
    return [hit.id for hit in hits]


def angle(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return math.acos(np.clip(x @ y / np.linalg.norm(x) / np.linalg.norm(y), -1, 1))


# --- stored points ---------------------------------------------------------------------------------------------------


def test_similar_finds_what_is_near_a_stored_point_but_not_the_point(index: Index) -> None:
    expected = [row for row in nearest(POINTS[7], POINTS) if row != 7][:5]
    found = engine_on(index).similar(7, safe=False, limit=5)
    assert ids(found) == expected
    assert found.query.modality == KINDS[7]
    np.testing.assert_allclose(
        [h.distance for h in found], lorentz.dist(POINTS[expected], POINTS[7], CURVATURE), atol=1e-4
    )


def test_an_unsafe_stored_point_is_redirected_by_its_own_modality(index: Index, scores: NDArray[np.float64]) -> None:
    engine = engine_on(index)
    for kind in ("text", "image"):
        row = max((row for row in range(COUNT) if KINDS[row] == kind), key=lambda row: scores[row])
        info = engine.similar(row).query
        moved, _ = redirect(POINTS[[row]], kind, profile(), CURVATURE)  # type: ignore[arg-type]
        assert (info.modality, info.redirected) == (kind, True)
        assert info.radius == pytest.approx(float(lorentz.dist0(POINTS[row], CURVATURE)), abs=1e-5)
        assert info.radius_searched == pytest.approx(float(lorentz.dist0(moved[0], CURVATURE)), abs=1e-6)


def test_a_stored_point_is_a_query_like_any_other(index: Index) -> None:
    engine = engine_on(index)
    batch = engine.search_batch([POINTS[2], PointRef(7), PointRef(2)], limit=6, safe=False)
    assert batch[0].hits[0].id == 2
    assert ids(batch[1]) == ids(engine.similar(7, limit=6, safe=False))
    assert 2 not in ids(batch[2])


@pytest.mark.parametrize("query", [PointRef(999), Examples([PointRef(1)], [PointRef(999)])])
def test_a_point_that_is_not_there_is_a_typed_error(index: Index, query: Any) -> None:
    with pytest.raises(PointNotFoundError, match="999"):
        engine_on(index).search(query)


def test_an_id_that_no_point_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="UUID"):
        PointRef("seven")


# --- examples --------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), m=st.integers(0, 4))
def test_negative_examples_turn_a_query_and_never_change_its_radius(seed: int, n: int, m: int) -> None:
    points = random_points(n + m, seed, low=0.2, high=4.0)
    positive, negative = points[:n], points[n:]
    centre = lorentz.centroid(positive, CURVATURE)
    found = examples_point(positive, negative, CURVATURE)
    assert float(lorentz.dist0(found, CURVATURE)) == pytest.approx(float(lorentz.dist0(centre, CURVATURE)), rel=1e-9)
    if not m:
        np.testing.assert_array_equal(found, centre)
        return
    shunned = lorentz.centroid(negative, CURVATURE)
    assert angle(found, shunned) >= angle(centre, shunned) - 1e-7
    assert angle(found, centre) <= math.asin(NEGATIVE_WEIGHT / (1 + NEGATIVE_WEIGHT)) + 1e-7
    # On the great circle through both: no new direction comes in.
    basis = np.linalg.qr(np.stack([centre, shunned], axis=1))[0]
    np.testing.assert_allclose(basis @ (basis.T @ found), found, atol=1e-9 * float(np.linalg.norm(found)))


def test_negative_examples_have_no_say_where_nothing_has_a_direction() -> None:
    origin, points = np.zeros((1, DIM)), random_points(2)
    np.testing.assert_array_equal(examples_point(origin, points, CURVATURE), origin[0])
    np.testing.assert_allclose(
        examples_point(points, origin, CURVATURE), lorentz.centroid(points, CURVATURE), rtol=1e-12
    )
    assert np.isfinite(examples_point(points, points, CURVATURE)).all()


def test_examples_are_searched_by_their_centroid_and_left_out(index: Index) -> None:
    engine = engine_on(index)
    examples = Examples([PointRef(1), POINTS[2], PointRef(4)], negative=[PointRef(8)])
    found = engine.search(examples, safe=False, limit=10)
    point = examples_point(POINTS[[1, 2, 4]], POINTS[[8]], CURVATURE)
    assert ids(found) == [row for row in nearest(point, POINTS) if row not in (1, 4, 8)][:10]
    assert found.query.radius == pytest.approx(float(lorentz.dist0(point, CURVATURE)), abs=1e-5)


def test_examples_of_one_modality_have_it_and_mixed_ones_are_held_to_both_calibrations(index: Index) -> None:
    engine = engine_on(index)
    images, texts = ([row for row in range(COUNT) if KINDS[row] == kind] for kind in ("image", "text"))
    refs = [PointRef(row) for row in (*images[:2], texts[0])]
    assert engine.search(Examples(refs[:2], refs[2:])).query.modality == "image"
    mixed = engine.search(Examples(refs)).query
    assert mixed.modality is None
    assert mixed.unsafe == max(float(profile().unsafe(mixed.radius, kind)) for kind in ("text", "image"))


@pytest.mark.parametrize("positive", [[], "a dog", b"x", None, PointRef(1), [Examples([PointRef(1)])], [1.0, 2.0]])
def test_examples_that_cannot_be_read_are_refused(index: Index, positive: Any) -> None:
    with pytest.raises(InputError):
        engine_on(index).search(Examples(positive))


# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"safe": False}, {"rerank": "exact"}, {"penalty": 0.8}, {"safe": False, "penalty": 0.8}]
)
@pytest.mark.parametrize("traversal", ["geodesic", "adaptive"])
def test_pages_put_together_are_one_long_page(index: Index, options: dict[str, Any], traversal: str) -> None:
    engine = engine_on(index, traversal=traversal)
    query = random_points(1, 11, low=3.2)[0]
    whole = engine.search(query, limit=COUNT, **options).hits
    pages = [
        hit for offset in range(0, COUNT + 7, 7) for hit in engine.search(query, limit=7, offset=offset, **options)
    ]
    assert ids(pages) == ids(whole)
    np.testing.assert_allclose([h.distance for h in pages], [h.distance for h in whole], atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"offset": -1}, {"offset": 9_999, "limit": 10}, {"penalty": -1}, {"rerank": "fast"}]
)
def test_options_of_a_page_out_of_range_are_refused(index: Index, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        engine_on(index).search(POINTS[0], **options)


def test_a_penalty_orders_and_excludes_nothing(index: Index, scores: NDArray[np.float64]) -> None:
    query, weight = random_points(1, 3)[0], 2.5
    found = engine_on(index).search(query, safe=False, limit=COUNT, penalty=weight)
    cost = lorentz.dist(POINTS, query, CURVATURE) + weight * scores
    assert ids(found) == np.argsort(cost).tolist()
    distance = lorentz.dist(POINTS, query, CURVATURE)
    np.testing.assert_allclose([h.distance for h in found], distance[ids(found)], atol=1e-4)


# --- groups ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traversal", ["geodesic", "adaptive"])
@pytest.mark.parametrize("safe", [True, False])
def test_groups_are_those_of_the_long_result(index: Index, safe: bool, traversal: str) -> None:
    engine = engine_on(index, traversal=traversal)
    query = random_points(1, 12, low=3.0)[0]
    found = engine.search_groups(query, "album", groups=3, size=2, safe=safe, modality="image")
    whole = engine.search(query, limit=COUNT, safe=safe, modality="image")
    expected: dict[Any, list[Any]] = {}
    for hit in whole:
        expected.setdefault(hit.payload["album"], []).append(hit.id)
    assert [(g.value, ids(g)) for g in found] == [(value, rows[:2]) for value, rows in list(expected.items())[:3]]
    assert found.query == whole.query
    assert found.to_dict()["groups"][0]["hits"][0]["id"] == found.groups[0].hits[0].id
    assert len(found) == 3
    assert all(len(group) == 2 for group in found)


def test_a_point_with_several_values_is_in_several_groups_and_a_reference_in_none(index: Index) -> None:
    found = engine_on(index).search_groups(PointRef(7), "tags", size=COUNT, safe=False)
    groups = {group.value: set(ids(group)) for group in found}
    others = set(range(COUNT)) - {7}
    assert groups == {"x": others, "t0": {r for r in others if r % 2 == 0}, "t1": {r for r in others if r % 2}}


@pytest.mark.parametrize("options", [{"groups": 0}, {"size": 0}, {"limit": 5}, {"offset": 1}, {"by": ""}])
def test_options_of_groups_out_of_range_are_refused(index: Index, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        engine_on(index).search_groups(POINTS[0], **{"by": "album", **options})


# --- adaptive --------------------------------------------------------------------------------------------------------


def points_of_path(query: NDArray[np.float64], kind: Any, steps: int) -> NDArray[np.float64]:
    """Points at equal spacing from a query to where the geodesic traversal moves it, (steps, d); (1, d) if nowhere."""
    kinds: list[Any] = ["text", "image"] if kind is None else [kind]
    radii = [float(lorentz.dist0(redirect(query[None], each, profile(), CURVATURE)[0], CURVATURE)[0]) for each in kinds]
    here = float(lorentz.dist0(query, CURVATURE))
    if min(radii) >= here:
        return query[None]
    points: NDArray[np.float64] = lorentz.traverse(
        np.repeat(query[None], steps, axis=0), np.linspace(here, min(radii), steps), CURVATURE
    )
    return points


@modest
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["text", "image", None]),
    steps=st.integers(2, 9),
    top=st.integers(1, 8),
)
def test_adaptive_searches_the_least_moved_point_whose_results_are_safe(
    index: Index, scores: NDArray[np.float64], seed: int, kind: Any, steps: int, top: int
) -> None:
    query = random_points(1, seed)[0]
    engine = engine_on(index, traversal="adaptive", steps=steps, top=top)
    result = engine.search(query, query_modality=kind, limit=8)
    path_points = points_of_path(query, kind, steps)
    shares = [np.mean(scores[nearest(point, POINTS)[:top]] <= 0.5) for point in path_points]
    if len(shares) == 1:
        assert not result.query.redirected
        assert result.query.path == ()
        chosen = 0
    else:
        chosen = next((row for row, share in enumerate(shares) if share == 1), len(shares) - 1)
        path = result.query.path
        assert [step.safe_share for step in path] == pytest.approx(shares)
        assert [step.chosen for step in path] == [row == chosen for row in range(steps)]
        assert result.query.redirected == (chosen > 0)
        assert path[0].radius == result.query.radius
        assert path[0].unsafe == result.query.unsafe
        assert all(a.radius > b.radius and a.unsafe > b.unsafe for a, b in pairwise(path))
    assert result.query.radius_searched == pytest.approx(float(lorentz.dist0(path_points[chosen], CURVATURE)))
    safe = [row for row in nearest(path_points[chosen], POINTS) if scores[row] <= 0.5]
    assert ids(result) == safe[:8]


def test_an_adaptive_batch_probes_once_and_then_searches_once(index: Index) -> None:
    store = Counted(index.store)
    engine = SafeSearch(Index(index.collection, store), None, policy=SafetyPolicy(traversal="adaptive", steps=5))  # type: ignore[arg-type]
    queries = [*random_points(2, 1, low=3.3), *random_points(1, 2, high=1.6)]
    results = engine.search_batch(queries)
    assert [len(result.query.path) for result in results] == [5, 5, 0]
    assert [len(query.vectors) for query in store.asked] == [5 + 5, 3]
    for result, query in zip(results, queries, strict=True):
        assert result == engine.search(query)


def test_adaptive_moves_no_farther_than_geodesic_and_a_policy_that_redirects_nothing_not_at_all(index: Index) -> None:
    engines = {mode: engine_on(index, traversal=mode) for mode in ("none", "adaptive", "geodesic")}
    for query in random_points(20, 4, low=2.5):
        none, some, all_ = (engines[mode].search(query).query.radius_searched for mode in engines)
        assert none >= some >= all_ - 1e-9
        assert engines["adaptive"].search(query, safe=False).query.path == ()


def test_a_store_that_knows_no_conditions_of_single_searches_still_answers_safely(index: Index) -> None:
    class Old(Counted):
        def query(self, name: str, query: VectorQuery) -> Any:
            return super().query(name, replace(query, filters=None))

    engine = SafeSearch(Index(index.collection, Old(index.store)), None, policy=SafetyPolicy(traversal="adaptive"))  # type: ignore[arg-type]
    for query in random_points(10, 6, low=3.0):
        assert all(hit.unsafe is not None and hit.unsafe <= 0.5 for hit in engine.search(query))


def test_a_stored_point_and_a_filter_and_steps_go_together(index: Index) -> None:
    engine = engine_on(index, traversal="adaptive", steps=4)
    only = models.Filter(must=[match("album", "a1")])
    row = int(np.argmax(lorentz.dist0(POINTS, CURVATURE)))
    hits = engine.similar(row, filter=only, limit=COUNT, threshold=0.4).hits
    assert hits
    assert row not in ids(hits)
    assert {hit.payload["album"] for hit in hits} == {"a1"}
    assert max(hit.unsafe or 0 for hit in hits) <= 0.4


# --- both shells, threads --------------------------------------------------------------------------------------------

CALLS: dict[str, Any] = {
    "search": lambda engine: engine.search(POINTS[3], limit=7, offset=1, penalty=0.2),
    "search_batch": lambda engine: engine.search_batch([POINTS[3], PointRef(5)], modality="image"),
    "similar": lambda engine: engine.similar(9, rerank="exact"),
    "examples": lambda engine: engine.search(Examples([PointRef(1), POINTS[2]], [PointRef(3)])),
    "search_groups": lambda engine: engine.search_groups(PointRef(20), "album", groups=2, size=2),
    "explain": lambda engine: engine.explain(PointRef(20), steps=4),
}


@pytest.mark.parametrize("traversal", ["geodesic", "adaptive"])
def test_the_asynchronous_engine_answers_every_call_as_the_other_does(index: Index, traversal: str) -> None:
    policy = SafetyPolicy(traversal=traversal, steps=4)  # type: ignore[arg-type]
    expected = [call(SafeSearch(index, None, policy=policy)) for call in CALLS.values()]

    async def run() -> list[Any]:
        async with aconnect("points", model=None, store=index.store, policy=policy) as engine:
            with pytest.raises(PointNotFoundError):
                await engine.similar(999)
            return list(await asyncio.gather(*(call(engine) for call in CALLS.values())))

    assert asyncio.run(run()) == expected


def test_every_call_goes_through_an_asynchronous_client_of_a_server() -> None:
    async def run(url: str) -> list[Any]:
        client = AsyncQdrantClient(url, check_compatibility=False)
        async with aconnect("points", model=None, async_client=client, policy=policy) as engine:
            found = [await call(engine) for call in CALLS.values()]
        await client.close()
        return found

    policy = SafetyPolicy(traversal="adaptive", steps=4)
    with rest_server() as server:
        with Index.create("points", dim=DIM, curvature=CURVATURE, safety=profile(), url=server.url) as index:
            payloads = [{"album": f"a{row % 4}"} for row in range(COUNT)]
            index.upsert(range(COUNT), POINTS, modality="image", payloads=payloads)
        with connect("points", model=None, url=server.url, policy=policy) as engine:
            expected = [call(engine) for call in CALLS.values()]
        assert asyncio.run(run(server.url)) == expected


def test_eight_threads_may_ask_for_different_things_at_once(index: Index) -> None:
    engine = engine_on(index, traversal="adaptive", steps=4)
    calls = [lambda engine, row=row: engine.similar(row) for row in range(4)]
    calls += [CALLS[name] for name in ("search", "examples", "search_groups", "explain")]
    expected = [call(engine) for call in calls]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                assert calls[number](engine) == expected[number]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
