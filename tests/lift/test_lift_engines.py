"""Both lifts in engines: the formula of a second stage, the same computed here, and the geometry agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from hysac_retrieval import lorentz
from hysac_retrieval.lift import Lift, PaddedLift, PoincareLift
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.types import VECTOR_NAME, CollectionSpec, VectorQuery

DIM, N = 4, 25
LIFTS: dict[str, Callable[[np.ndarray, float], Lift]] = {
    "padded": PaddedLift.fit,
    "padded, rotated": lambda points, curv: PaddedLift.fit(points, curv, rotate_seed=3),
    "poincare": lambda points, curv: PoincareLift.make(points.shape[1], curv),
}
Search = Callable[[np.ndarray, models.FormulaQuery | None], dict[int, float]]


@contextmanager
def in_memory(lift: Lift, points: np.ndarray, payloads: list[dict[str, Any]]) -> Iterator[Search]:
    """qdrant-client's own engine, which computes formulas too."""
    client = QdrantClient(":memory:")
    metric = models.Distance(lift.metric)
    client.create_collection("c", {VECTOR_NAME: models.VectorParams(size=lift.size, distance=metric)})
    rows = zip(lift.lift(points).tolist(), payloads, strict=True)
    client.upsert("c", [models.PointStruct(id=i, vector={VECTOR_NAME: v}, payload=p) for i, (v, p) in enumerate(rows)])

    def search(point: np.ndarray, formula: models.FormulaQuery | None) -> dict[int, float]:
        vector = lift.lift_query(point[None])[0].tolist()
        if formula is None:
            found = client.query_points("c", query=vector, using=VECTOR_NAME, limit=N)
        else:
            first = models.Prefetch(query=vector, using=VECTOR_NAME, limit=N)
            found = client.query_points("c", prefetch=first, query=formula, limit=N)
        return {int(point.id): point.score for point in found.points}

    try:
        yield search
    finally:
        client.close()


@contextmanager
def embedded(lift: Lift, points: np.ndarray, payloads: list[dict[str, Any]]) -> Iterator[Search]:
    """Qdrant's embedded engine."""
    with TemporaryDirectory() as folder:
        store = EdgeStore(Path(folder))
        store.create("c", CollectionSpec(size=lift.size, metadata={}, metric=lift.metric))
        store.upsert("c", range(len(points)), lift.lift(points), payloads)

        def search(point: np.ndarray, formula: models.FormulaQuery | None) -> dict[int, float]:
            formulas = None if formula is None else [formula]
            query = VectorQuery(lift.lift_query(point[None]), N, formulas=formulas, candidates=N)
            return {int(hit.id): float(hit.score or 0) for hit in store.query("c", query)[0]}

        try:
            yield search
        finally:
            store.close()


def second_stage(lift: Lift, point: np.ndarray) -> models.FormulaQuery:
    return models.FormulaQuery(formula=models.NegExpression(neg=lift.formula(point)), defaults=lift.defaults())


@pytest.mark.parametrize("engine", [in_memory, embedded])
@pytest.mark.parametrize("kind", LIFTS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), curv=st.floats(0.1, 10))
def test_formula_and_distances_are_the_geodesic_distance(engine, kind, seed, curv):
    rng = np.random.default_rng(seed)
    points = lorentz.exp_map0(rng.standard_normal((N, DIM)) / curv**0.5, curv)
    query = points[0]  # a self-match among them: where the score of the padded lift loses most
    lift = LIFTS[kind](points, curv)
    extras = lift.extras(points)
    with engine(lift, points, [{"hysac": extra} for extra in extras]) as search:
        plain, staged = search(query, None), search(query, second_stage(lift, query))
    exact = lorentz.dist(points, query[None], curv) * curv**0.5
    scores = [plain[row] for row in range(N)]
    here = np.array(lift.distances(query, scores, extras)) * curv**0.5
    there = -np.array([staged[row] for row in range(N)]) * curv**0.5
    # The same number from the same score, but that an engine keeps the constants of a formula in float32.
    np.testing.assert_allclose(np.cosh(there), np.cosh(here), rtol=2e-6)
    if not lift.ranks:
        np.testing.assert_allclose(there, here, rtol=1e-6, atol=1e-6)
    # A float32 inner product of size T² leaves the root of its rounding at distance 0, and less beyond.
    largest = float(np.max(1 + curv * (points**2).sum(axis=1)))
    floor = 2e-3 * largest**0.5 if lift.ranks else 1e-5
    np.testing.assert_allclose(here, exact, atol=floor, rtol=1e-5)
    far = exact > 0.5
    np.testing.assert_allclose(here[far], exact[far], atol=2e-6 * largest, rtol=1e-5)


@pytest.mark.parametrize("engine", [in_memory, embedded])
def test_second_stage_puts_points_without_a_valid_weight_last(engine):
    points = np.random.default_rng(0).standard_normal((5, DIM))
    points[3] = points[4] = points[0]  # at distance 0, were it not for their payload
    lift = PoincareLift.make(DIM, 1.0)
    payloads = [{"hysac": extra} for extra in lift.extras(points)]
    payloads[3], payloads[4] = {}, {"hysac": {"scale": -5.0}}
    with engine(lift, points, payloads) as search:
        found = search(points[0], second_stage(lift, points[0]))
    assert next(iter(found)) == 0
    assert set(list(found)[3:]) == {3, 4}
    assert max(found[3], found[4]) <= -1e6


def test_lifts_say_what_a_second_stage_needs():
    padded, poincare = PaddedLift.default(DIM, 1.0), PoincareLift.make(DIM, 1.0)
    assert padded.extras(np.zeros((3, DIM))) == [{}, {}, {}]
    assert padded.defaults() == {}
    assert poincare.defaults().keys() == {f"hysac.{name}" for name in poincare.extras(np.zeros((1, DIM)))[0]}
    assert "$score" in repr(padded.formula(np.zeros(DIM)))
    assert "hysac.scale" in repr(poincare.formula(np.zeros(DIM)))
