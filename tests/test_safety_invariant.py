"""The invariant: no search with ``safe=True`` returns a point whose stored score is above the threshold.

Points are written behind the index's back with every kind of missing, wrong and hostile score, and searched under
hostile filters. What the *store* returns is held to the invariant, before any check on the hits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import models
from spaces import CURVATURE, DIM, STORES, index_on, profile, random_points

from hysac_retrieval import lorentz
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.index import Index, point_id
from hysac_retrieval.stores import Store

OTHER = "another-model"
modest = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ABOVE = math.nextafter(0.5, 1)
ODD_SCORES = [None, True, False, 2, -0.25, 1e300, "0.1", "", [], {}, {"unsafe": 0.1}, ABOVE, [0.1, 0.9], [0.1, ABOVE]]
ODD_MODELS = [OTHER, None, 7, ["own", OTHER], [OTHER], []]
ODD_RECORDS = [None, "x", [], [{"unsafe": 0.1, "model": "own"}], {}, {"unsafe": 0.1}, {"model": "own"}]

scores = st.one_of(
    st.floats(0, 0.5),
    st.floats(0, 1),
    st.sampled_from([0, 1, -0.0, 0.5, [0.1], [0.1, "x"], *ODD_SCORES]),
    st.lists(st.one_of(st.floats(0, 1), st.none()), max_size=3),
)
models_named = st.one_of(st.just("own"), st.just("own"), st.just("own"), st.sampled_from([["own", "own"], *ODD_MODELS]))


@st.composite
def payloads(draw: st.DrawFn) -> dict[str, Any] | None:
    record = {"unsafe": draw(scores), "radius": 2.0, "modality": draw(st.sampled_from(["image", "text"]))}
    record["model"] = draw(models_named)
    shape = draw(st.integers(0, 9))
    if shape == 1:
        record.pop(draw(st.sampled_from(sorted(record))))
    ours = draw(st.sampled_from([[record], *ODD_RECORDS])) if shape == 0 else record
    rest: dict[str, Any] = {"k": draw(st.integers(0, 3)), "hysac.unsafe": 0.0, "hysac.model": "own"}
    return rest if shape == 2 else {**rest, "hysac": ours}


keys = st.sampled_from(["hysac.unsafe", "hysac.model", "hysac.modality", "hysac", "k", "nothing", "hysac[].unsafe"])


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> Any:
    key = draw(keys)
    choices: list[Any] = [
        models.FieldCondition(key=key, range=models.Range(gte=draw(st.sampled_from([0.0, 0.6, -1.0])))),
        models.FieldCondition(key=key, match=models.MatchValue(value=draw(st.sampled_from([OTHER, "image", 1, True])))),
        models.FieldCondition(key=key, match=models.MatchAny(any=[OTHER, "own", "text"])),
        models.FieldCondition(key=key, match=models.MatchExcept(**{"except": ["image"]})),
        models.FieldCondition(key=key, values_count=models.ValuesCount(gte=draw(st.integers(0, 2)))),
        models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
        models.IsNullCondition(is_null=models.PayloadField(key=key)),
        models.HasIdCondition(has_id=draw(st.lists(st.integers(0, 40), max_size=40))),
        models.HasVectorCondition(has_vector="hysac"),
        models.SliceCondition(slice=models.Slice(total=2, index=draw(st.integers(0, 1)))),
        models.Filter(),
    ]
    if depth:
        inner = draw(user_filters(depth - 1))
        choices += [inner, models.NestedCondition(nested=models.Nested(key="hysac", filter=inner))]
    return draw(st.sampled_from(choices))


@st.composite
def user_filters(draw: st.DrawFn, depth: int = 2) -> models.Filter:
    def clause() -> Any:
        return draw(st.one_of(st.none(), st.lists(conditions(depth), max_size=3)))

    least = None
    if draw(st.booleans()):
        least = models.MinShould(
            conditions=draw(st.lists(conditions(depth), min_size=1, max_size=3)), min_count=draw(st.integers(1, 2))
        )
    return models.Filter(must=clause(), should=clause(), must_not=clause(), min_should=least)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Index]]:
    """One index on each store, filled anew by every example: making one costs more than an example."""
    folder = tmp_path_factory.mktemp("invariant")
    with index_on("edge", folder) as edge, index_on("memory", folder) as memory:
        yield {"edge": edge, "memory": memory}


def fill(index: Index, rows: list[dict[str, Any] | None], seed: int) -> dict[int, tuple[np.ndarray, dict[str, Any]]]:
    """Write rows behind the index's back; return what is there."""
    own = index.metadata.fingerprint
    index.delete(range(50))
    points = random_points(len(rows), seed)
    stored = [_named(row, own) or {} for row in rows]
    index.store.upsert(index.name, list(range(len(rows))), index.collection.lift.lift(points), stored)
    return {i: (points[i], stored[i]) for i in range(len(rows))}


def _named(value: Any, own: str) -> Any:
    if isinstance(value, dict):
        return {key: _named(item, own) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, own) for item in value]
    return own if value == "own" else value


def allowed(payload: dict[str, Any], threshold: float, own: str) -> bool:
    """The invariant, spelled out from the payload alone."""
    ours = payload.get("hysac")
    if not isinstance(ours, dict):
        return False
    score = ours.get("unsafe")
    return (
        isinstance(score, int | float)
        and not isinstance(score, bool)
        and 0 <= score <= threshold
        and ours.get("model") == own
    )


def numbers(payload: dict[str, Any]) -> list[float]:
    """Every number that could pass for a score of a point."""
    ours = payload.get("hysac")
    found = ours.get("unsafe") if isinstance(ours, dict) else None
    values = found if isinstance(found, list) else [found]
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]


@pytest.mark.parametrize("store", STORES)
@modest
@given(
    rows=st.lists(payloads(), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
    user=st.one_of(st.none(), user_filters()),
    threshold=st.one_of(st.none(), st.floats(0, 0.5)),
    limit=st.integers(1, 40),
    modality=st.sampled_from([None, "image", "text"]),
)
def test_safe_search_returns_no_point_above_the_threshold(
    store: str,
    indexes: dict[str, Index],
    rows: list[dict[str, Any] | None],
    seed: int,
    user: models.Filter | None,
    threshold: float | None,
    limit: int,
    modality: Any,
) -> None:
    index = indexes[store]
    there = fill(index, rows, seed)
    own, bound = index.metadata.fingerprint, 0.5 if threshold is None else threshold
    query = random_points(1, seed + 1)
    plan = index.collection.plan(query, limit=limit, threshold=threshold, filter=user, modality=modality)
    for found in index.store.query(index.name, plan.query)[0]:
        payload = there[int(found.id)][1]
        assert numbers(payload), payload
        assert max(numbers(payload)) <= bound, payload
        assert set(np.atleast_1d(payload["hysac"]["model"])) == {own}, payload
    hits = index.query(query[0], limit=limit, threshold=threshold, filter=user, modality=modality)
    assert len(hits) <= limit
    for hit in hits:
        assert allowed(there[int(hit.id)][1], bound, own), there[int(hit.id)][1]
        assert hit.unsafe is not None
        assert hit.unsafe <= bound


@pytest.mark.parametrize("store", STORES)
@modest
@given(
    rows=st.lists(payloads(), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
    threshold=st.floats(0, 0.5),
    limit=st.integers(1, 40),
)
def test_safe_search_returns_every_safe_point_in_order_of_distance(
    store: str, indexes: dict[str, Index], rows: list[dict[str, Any] | None], seed: int, threshold: float, limit: int
) -> None:
    index = indexes[store]
    there = fill(index, rows, seed)
    query = random_points(1, seed + 1)[0]
    hits = index.query(query, limit=limit, threshold=threshold)
    safe = [i for i, (_, payload) in there.items() if allowed(payload, threshold, index.metadata.fingerprint)]
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
        answers.append([(hit.id, round(hit.distance, 5), round(hit.unsafe or 0, 12)) for hit in hits])
    assert answers[0] == answers[1]


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
    good = {"unsafe": 0.5, "radius": 2.0, "modality": "image", "model": "own"}
    odd = [
        *({"hysac": good | {"unsafe": score}} for score in ODD_SCORES),
        *({"hysac": good | {"model": name}} for name in ODD_MODELS),
        *({"hysac": record} for record in ODD_RECORDS),
        {"hysac.unsafe": 0.1, "hysac.model": "own"},
        {},
    ]
    with index_on(store, tmp_path) as index:
        fill(index, [*odd, {"hysac": good}], 0)
        plan = index.collection.plan(random_points(1), limit=50)
        assert [found.id for found in index.store.query(index.name, plan.query)[0]] == [len(odd)]
        assert index.info().safe == 1
        assert index.info().points == len(odd) + 1
        assert len(index.query(random_points(1)[0], limit=50, safe=False)) == len(odd) + 1


def test_a_score_that_is_not_a_number_is_not_safe(tmp_path: Path) -> None:
    with index_on("memory", tmp_path) as index:
        # The embedded engine and a server refuse NaN in a payload; the client's local mode keeps it.
        record = {"unsafe": math.nan, "radius": 2.0, "modality": "image", "model": index.metadata.fingerprint}
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

            return self._store.query(name, replace(query, filter=None))

    with index_on("memory", tmp_path) as index:
        ids = [point_id("near"), point_id("far")]
        index.upsert(ids, random_points(2, low=1.5, high=1.6), modality="text")
        index.upsert([7], random_points(1, seed=3, low=3.4), modality="text")
        leaky = Index(index.collection, Leaky(index.store))  # type: ignore[arg-type]
        assert {hit.id for hit in leaky.query(np.zeros(DIM))} == set(ids)
        assert "point 7" in caplog.text
        assert {hit.id for hit in leaky.query(np.zeros(DIM), safe=False)} == {*ids, 7}
        assert index.metadata.safety == profile()
