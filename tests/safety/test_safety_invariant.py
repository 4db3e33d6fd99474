"""The invariant: no search with ``safe=True`` returns a point whose stored score is above the threshold.

Points are written behind the index's back with every kind of missing, wrong and hostile score, and searched under
hostile filters. What the *store* returns is held to the invariant, before any check on the hits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models
from support.hostile import (
    ODD_MODELS,
    ODD_RECORDS,
    ODD_SCORES,
    ODD_VERDICTS,
    allowed,
    fill,
    held_to,
    modest,
    numbers,
    payloads,
    user_filters,
)
from support.spaces import CURVATURE, DIM, STORES, index_on, profile, random_points

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index, point_id
from hysac_retrieval.collection.plan import plan_search
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.errors import SettingsError, StoreError
from hysac_retrieval.results import Hit
from hysac_retrieval.safety.filters import safety_filter
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.queries import Examples, PointRef
from hysac_retrieval.stores import Store
from hysac_retrieval.types import Thresholds

pytestmark = pytest.mark.slow

Ask = Callable[[SafeSearch, Any, dict[str, Any]], Iterable[Hit]]


def penalised(engine: SafeSearch, point: Any, options: dict[str, Any]) -> Iterable[Hit]:
    try:
        return engine.search(point, penalty=0.7, candidates=3, **options)
    except StoreError as error:
        # The client's local mode cannot compute with a score that is a list, and then answers nothing at all.
        if "Value is not a number" not in str(error):
            raise
        return []


CALIBRATED = Thresholds(text=0.5, image=0.2)
thresholds = (
    st.none()
    | st.floats(0, 0.5)
    | st.fixed_dictionaries({}, optional={"text": st.floats(0, 0.5), "image": st.floats(0, 0.2)}).filter(bool)
)
"""Stricter thresholds of a call: for both modalities, or for some."""


def bound_of(threshold: Any) -> Thresholds:
    """The thresholds that a call's own leads to."""
    if threshold is None:
        return CALIBRATED
    if isinstance(threshold, float):
        return Thresholds(min(threshold, CALIBRATED.text), min(threshold, CALIBRATED.image))
    return Thresholds(threshold.get("text", CALIBRATED.text), threshold.get("image", CALIBRATED.image))


WAYS: dict[str, Ask] = {
    "search": lambda engine, point, options: engine.search(point, limit=40, **options),
    "a later page": lambda engine, point, options: engine.search(point, offset=2, limit=5, **options),
    "penalty": penalised,
    "exact": lambda engine, point, options: engine.search(point, rerank="exact", **options),
    "within a distance": lambda engine, point, options: engine.search(point, max_distance=3.0, **options),
    "similar": lambda engine, _, options: engine.similar(0, **options),
    "examples": lambda engine, point, options: engine.search(Examples([point, PointRef(0)], [PointRef(0)]), **options),
    "batch": lambda engine, point, options: [
        hit for result in engine.search_batch([PointRef(0), point], **options) for hit in result
    ],
    "groups": lambda engine, point, options: [
        hit for group in engine.search_groups(point, "k", groups=3, size=2, **options) for hit in group
    ],
    "explain": lambda engine, point, options: [
        hit for step in engine.explain(point, steps=3, **options).steps for hit in (*step.entailing, *step.nearest)
    ],
}
"""Everything that returns hits."""


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Index]]:
    """One index on each store, filled anew by every example: making one costs more than an example."""
    folder = tmp_path_factory.mktemp("invariant")
    two = {"safety": profile(CALIBRATED)}
    with index_on("edge", folder, **two) as edge, index_on("memory", folder, **two) as memory:
        yield {"edge": edge, "memory": memory}


@pytest.mark.parametrize("store", STORES)
@modest
@given(
    rows=st.lists(payloads(), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
    user=st.one_of(st.none(), user_filters()),
    threshold=thresholds,
    limit=st.integers(1, 40),
    modality=st.sampled_from([None, "image", "text"]),
)
def test_safe_search_returns_no_point_above_the_threshold(
    store: str,
    indexes: dict[str, Index],
    rows: list[dict[str, Any] | None],
    seed: int,
    user: models.Filter | None,
    threshold: Any,
    limit: int,
    modality: Any,
) -> None:
    index = indexes[store]
    there = fill(index, rows, seed)
    own, bound = index.metadata.fingerprint, bound_of(threshold)
    query = random_points(1, seed + 1)
    request = PageRequest(limit=limit, threshold=threshold, filter=user, modality=modality)
    plan = plan_search(index.collection, request)
    for found in index.store.query(index.name, plan.query(query))[0]:
        payload = there[int(found.id)][1]
        assert True in np.atleast_1d(payload["hysac"]["safe"][own]), payload
        # At the calibrated thresholds the verdict is the condition; what contradicts it is dropped below.
        assert bound == CALIBRATED or min(numbers(payload)) <= bound.loosest, payload
    strict = safety_filter(bound, own)
    for found in index.store.scroll(index.name, filter=strict)[0]:
        payload = there[int(found.id)][1]
        kinds = payload["hysac"].get("modality")
        # A list of one is no other to an engine than what is in it.
        kind = kinds[0] if isinstance(kinds, list) and len(kinds) == 1 else kinds
        assert max(numbers(payload)) <= held_to(kind, bound), payload
        assert set(np.atleast_1d(payload["hysac"]["model"])) == {own}, payload
        assert set(np.atleast_1d(payload["hysac"]["safe"][own])) == {True}, payload
    hits = index.query(query[0], limit=limit, threshold=threshold, filter=user, modality=modality)
    assert len(hits) <= limit
    for hit in hits:
        assert allowed(there[int(hit.id)][1], bound, own), there[int(hit.id)][1]
        assert hit.unsafe is not None
        assert hit.unsafe <= held_to(hit.modality, bound)


@pytest.mark.parametrize("traversal", ["geodesic", "adaptive", "none"])
@pytest.mark.parametrize("store", STORES)
@modest
@given(
    rows=st.lists(payloads(), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
    user=st.one_of(st.none(), user_filters()),
    threshold=thresholds,
    way=st.sampled_from(sorted(WAYS)),
)
def test_no_way_to_ask_gets_a_point_above_the_threshold(
    store: str,
    traversal: Any,
    indexes: dict[str, Index],
    rows: list[dict[str, Any] | None],
    seed: int,
    user: models.Filter | None,
    threshold: Any,
    way: str,
) -> None:
    index = indexes[store]
    there = fill(index, rows, seed)
    engine = SafeSearch(index, None, policy=SafetyPolicy(traversal=traversal, steps=3, top=2))
    bound = bound_of(threshold)
    for hit in WAYS[way](engine, random_points(1, seed + 1)[0], {"filter": user, "threshold": threshold}):
        payload = there[int(hit.id)][1]
        assert allowed(payload, bound, index.metadata.fingerprint), payload
        assert hit.unsafe is not None
        assert hit.unsafe <= held_to(hit.modality, bound)


@pytest.mark.parametrize("store", STORES)
def test_a_score_beyond_all_numbers_does_not_keep_a_penalised_search_from_its_probes(
    store: str, indexes: dict[str, Index]
) -> None:
    index = indexes[store]
    own = {"radius": 2.0, "modality": "image", "model": "own", "safe": {"own": True}}
    fill(index, [{"hysac": {"unsafe": 0.1, **own}}, {"hysac": {"unsafe": 1e300, **own}}], 0)
    engine = SafeSearch(index, None, policy=SafetyPolicy(traversal="adaptive", steps=3, top=2))
    far = random_points(1, 5, low=3.0, high=3.2)[0]
    result = engine.search(far, penalty=0.7)
    assert result.query.redirected
    assert [hit.id for hit in result] == [0]


@pytest.mark.parametrize("store", STORES)
@modest
@given(
    rows=st.lists(payloads(), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
    threshold=thresholds,
    limit=st.integers(1, 40),
)
def test_safe_search_returns_every_safe_point_in_order_of_distance(
    store: str, indexes: dict[str, Index], rows: list[dict[str, Any] | None], seed: int, threshold: Any, limit: int
) -> None:
    index = indexes[store]
    there = fill(index, rows, seed)
    query = random_points(1, seed + 1)[0]
    hits = index.query(query, limit=limit, threshold=threshold)
    safe = [i for i, (_, payload) in there.items() if allowed(payload, bound_of(threshold), index.metadata.fingerprint)]
    exact = {i: float(lorentz.dist(there[i][0], query, CURVATURE)) for i in safe}
    # A score in a list is refused even where it is low, and may take the place of one candidate of a full answer.
    assert {hit.id for hit in hits} <= set(safe)
    if limit >= len(rows):
        assert {hit.id for hit in hits} == set(safe)
    np.testing.assert_allclose([h.distance for h in hits], sorted(exact.values())[: len(hits)], atol=1e-5)
    np.testing.assert_allclose([h.distance for h in hits], [exact[int(h.id)] for h in hits], atol=1e-5)


@modest
@given(rows=st.lists(payloads(), min_size=1, max_size=30), seed=st.integers(0, 1000), user=user_filters())
def test_both_stores_return_the_same_hits(
    indexes: dict[str, Index], rows: list[dict[str, Any] | None], seed: int, user: models.Filter
) -> None:
    answers = []
    for index in indexes.values():
        fill(index, rows, seed)
        hits = index.query(random_points(1, seed + 1)[0], filter=user, limit=40)
        answers.append([(hit.id, hit.distance, hit.unsafe or 0) for hit in hits])
    assert [row[0] for row in answers[0]] == [row[0] for row in answers[1]]
    for one, other in zip(*answers, strict=True):  # scores are float32, and summed in another order
        assert one[1:] == pytest.approx(other[1:], abs=1e-4)


@pytest.mark.parametrize("store", STORES)
@modest
@given(rows=st.lists(payloads(), min_size=1, max_size=30), seed=st.integers(0, 1000), user=user_filters())
def test_a_user_filter_only_narrows(
    store: str, indexes: dict[str, Index], rows: list[dict[str, Any] | None], seed: int, user: models.Filter
) -> None:
    index = indexes[store]
    fill(index, rows, seed)
    query = random_points(1, seed + 1)[0]
    everything = {hit.id for hit in index.query(query, limit=40)}
    assert {hit.id for hit in index.query(query, limit=40, filter=user)} <= everything


@pytest.mark.parametrize("store", STORES)
def test_no_odd_record_passes_the_filter_of_the_search(store: str, tmp_path: Path) -> None:
    good = {"unsafe": 0.5, "radius": 2.0, "modality": "image", "model": "own", "safe": {"own": True}}
    odd = [
        *({"hysac": good | {"unsafe": score}} for score in ODD_SCORES),
        *({"hysac": good | {"model": name}} for name in ODD_MODELS),
        *({"hysac": good | {"safe": verdict}} for verdict in ODD_VERDICTS),
        *({"hysac": record} for record in ODD_RECORDS),
        {"hysac.unsafe": 0.1, "hysac.model": "own"},
        {},
    ]
    with index_on(store, tmp_path) as index:
        fill(index, [*odd, {"hysac": good}], 0)
        strict = safety_filter(Thresholds.both(0.5), index.metadata.fingerprint)
        assert [found.id for found in index.store.scroll(index.name, filter=strict)[0]] == [len(odd)]
        assert [hit.id for hit in index.query(random_points(1)[0], limit=50)] == [len(odd)]
        assert index.info().safe == 1
        assert index.info().points == len(odd) + 1
        assert len(index.query(random_points(1)[0], limit=50, safe=False)) == len(odd) + 1


def test_a_score_that_is_not_a_number_is_not_safe(tmp_path: Path) -> None:
    with index_on("memory", tmp_path) as index:
        # The embedded engine and a server refuse NaN in a payload; the client's local mode keeps it.
        own = index.metadata.fingerprint
        record = {"unsafe": math.nan, "radius": 2.0, "modality": "image", "model": own, "safe": {own: True}}
        there = fill(index, [{"hysac": record}, {"hysac": record | {"unsafe": 0.1}}], 0)
        query = random_points(1, 1)[0]
        assert [hit.id for hit in index.query(query)] == [1]
        assert {hit.id: hit.unsafe for hit in index.query(query, safe=False)} == {0: None, 1: 0.1}
        assert len(there) == 2


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("threshold", [math.nan, math.inf, -0.1, 0.50001, 1.0, True, "0.1"])
def test_a_threshold_that_would_loosen_the_calibration_is_refused(store: str, threshold: Any, tmp_path: Path) -> None:
    with index_on(store, tmp_path) as index, pytest.raises(SettingsError, match="threshold"):
        index.query(random_points(1)[0], threshold=threshold)


def test_a_store_that_ignores_the_filter_is_caught(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    class Leaky:
        def __init__(self, store: Store) -> None:
            self._store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

        def query(self, name: str, query: Any) -> Any:
            from dataclasses import replace

            return self._store.query(name, replace(query, filter=None, filters=None))

    with index_on("memory", tmp_path) as index:
        ids = [point_id("near"), point_id("far")]
        index.upsert(ids, random_points(2, low=1.5, high=1.6), modality="text")
        index.upsert([7], random_points(1, seed=3, low=3.4), modality="text")
        leaky = Index(index.collection, Leaky(index.store))  # type: ignore[arg-type]
        assert {hit.id for hit in leaky.query(np.zeros(DIM))} == set(ids)
        assert "point 7" in caplog.text
        assert {hit.id for hit in leaky.query(np.zeros(DIM), safe=False)} == {*ids, 7}
        assert index.metadata.safety == profile()
