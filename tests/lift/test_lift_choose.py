"""The choice between the lifts is measured, and the measure is right."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.data_tree import REACH, random_tree
from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError, SettingsError
from hysac_retrieval.lift import PaddedLift, PoincareLift, choose_lift
from hysac_retrieval.lift.choose import exact_neighbours


def encoded(n: int, dim: int = 16, curv: float = 0.3) -> np.ndarray:
    """Points of narrow radii around a few directions, as an encoder makes them."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((10, dim))[rng.integers(0, 10, n)] + 0.5 * rng.standard_normal((n, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return lorentz.exp_map0(directions * rng.normal(2.5, 0.2, (n, 1)), curv)


def test_a_tree_takes_the_poincare_lift():
    points, _ = random_tree(2000)
    lift, report = choose_lift(points, 1.0)
    assert isinstance(lift, PoincareLift)
    assert report["chosen"] == "poincare"
    assert report["recall"]["poincare"] > 0.9
    assert report["recall"]["poincare"] > report["recall"]["padded"] + 0.01
    assert (report["points"], report["queries"], report["candidates"], report["k"]) == (1800, 200, 100, 10)


def test_points_of_an_encoder_take_the_padded_lift_fitted_on_all_of_them():
    points = encoded(1500)
    lift, report = choose_lift(points, 0.3, queries=points[:30], k=5)
    assert lift == PaddedLift.fit(points, 0.3)
    assert report["recall"]["padded"] > 0.98
    assert (report["points"], report["queries"], report["k"]) == (1500, 30, 5)
    json.dumps(report, allow_nan=False)


@pytest.mark.slow
def test_a_choice_is_the_same_every_time_on_the_same_sample():
    points, _ = random_tree(600)
    (one, first), (two, second) = (choose_lift(points, 1.0, seed=3) for _ in range(2))
    assert one == two
    # The engine builds its graph in several threads, so two graphs differ a little.
    assert first["recall"] == pytest.approx(second["recall"], abs=0.02)


def test_few_points_take_the_padded_lift_unmeasured():
    lift, report = choose_lift(encoded(99), 0.3)
    assert lift.kind == report["chosen"] == "padded"
    assert report["recall"] == {"padded": None, "poincare": None}


def test_points_that_the_padded_lift_cannot_hold_take_the_other():
    # Beyond radius 44 the norm of the padded vectors leaves float32.
    directions = np.random.default_rng(0).standard_normal((200, 4))
    points = directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.sinh(np.linspace(0, 95, 200))[:, None]
    lift, report = choose_lift(points, 1.0)
    assert lift.kind == "poincare"
    assert report["recall"]["padded"] is None


def test_bad_arguments_are_refused():
    with pytest.raises(InvalidVectorError, match="empty"):
        choose_lift(np.empty((0, 3)), 1.0)
    with pytest.raises(InvalidVectorError, match="row 0"):
        choose_lift([[np.nan, 0.0]], 1.0)
    with pytest.raises(InvalidVectorError, match="no queries"):
        choose_lift(np.ones((5, 3)), 1.0, queries=np.empty((0, 3)))
    with pytest.raises(InvalidVectorError, match="queries have shape"):
        choose_lift(np.ones((5, 3)), 1.0, queries=np.ones((1, 2)))
    with pytest.raises(SettingsError, match="curvature"):
        choose_lift(np.ones((5, 3)), 0.0)
    with pytest.raises(SettingsError, match="candidates"):
        choose_lift(np.ones((5, 3)), 1.0, candidates=5, k=10)


def test_exact_neighbours_are_those_of_the_accurate_distance_even_where_products_have_no_digits_left():
    # At radius 18 a product is of the size e^36 / 4 = 1e15, rounded to 0.1: as much as what tells neighbours apart.
    rng = np.random.default_rng(0)
    directions = np.array([1.0, 0, 0]) + 1e-8 * rng.standard_normal((300, 3))
    points = directions / np.linalg.norm(directions, axis=1, keepdims=True) * np.sinh(18.0)
    queries = points[:20]
    found = exact_neighbours(points, queries, 7, 1.0)
    for query, rows in zip(queries, found, strict=True):
        np.testing.assert_array_equal(rows, np.argsort(lorentz.dist(points, query[None], 1.0), kind="stable")[:7])


def test_the_tree_is_one_reproducible_and_reaches_the_radius():
    points, parents = random_tree(3000, seed=1)
    np.testing.assert_array_equal(points, random_tree(3000, seed=1)[0])
    assert points.dtype == np.float64
    assert np.all(parents[1:] < np.arange(1, 3000))
    radii = lorentz.dist0(points, 1.0)
    assert radii[0] == 0
    assert 0.8 * REACH < radii.max() <= REACH * (1 + 1e-12)
    edges = lorentz.dist(points[1:], points[parents[1:]], 1.0)
    inner = radii[1:] < REACH * (1 - 1e-9)
    assert np.all((edges[inner] > 1.1 - 1e-6) & (edges[inner] < 1.5 + 1e-6))
    # Neighbours are relatives: the nearest node of most is its parent, a child or a sibling.
    nearest = exact_neighbours(points, points[1:], 2, 1.0)[:, 1]
    rows = np.arange(1, 3000)
    related = (nearest == parents[1:]) | (parents[nearest] == rows) | (parents[nearest] == parents[1:])
    assert related.mean() > 0.9
