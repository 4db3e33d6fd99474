"""The Poincaré lift: what an index over Euclid returns gives the geodesic distance back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError, SettingsError
from hysac_retrieval.lift import PoincareLift, lift_from_dict

DIM = 6
seeds = st.integers(0, 2**32 - 1)
curvatures = st.floats(0.1, 10)
law = settings(max_examples=50, deadline=None)


def points_at(seed: int, radii: np.ndarray | float, curv: float = 1.0, n: int = 40) -> np.ndarray:
    """Points (n, DIM) at geodesic radii in units of 1/√c, in random directions; float64, to any radius."""
    directions = np.random.default_rng(seed).standard_normal((n, DIM))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.sinh(np.broadcast_to(radii, (n,)))[:, None] / curv**0.5


def spread(seed: int, curv: float, largest: float = 8.0, n: int = 40) -> np.ndarray:
    return points_at(seed, np.random.default_rng(seed + 1).uniform(0, largest, n), curv, n)


def scores(lift: PoincareLift, query: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The scores of a Euclid index: distances of float32 vectors, shape (n,)."""
    return np.linalg.norm(lift.lift(points) - lift.lift_query(query[None]), axis=1)


@law
@given(seeds, curvatures)
def test_stored_vectors_are_poincare_coordinates_of_the_unit_ball(seed, curv):
    points = spread(seed, curv)
    vectors = PoincareLift.make(DIM, curv).lift(points)
    assert vectors.dtype == np.float32
    radii = lorentz.dist0(points, curv)
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), np.tanh(radii * curv**0.5 / 2), 2e-7)
    along = np.einsum("nd,nd->n", vectors, points)
    np.testing.assert_allclose(along, np.linalg.norm(vectors, axis=1) * np.linalg.norm(points, axis=1), rtol=1e-5)


@law
@given(seeds, curvatures)
def test_distances_from_euclidean_scores_are_geodesic(seed, curv):
    points, query = spread(seed, curv), spread(seed + 7, curv, n=1)[0]
    lift = PoincareLift.make(DIM, curv)
    found = lift.distances(query, scores(lift, query, points), lift.extras(points))
    # At radius 8 the rounding of float32 is worth 6e-8 · e^8 / 4.
    np.testing.assert_allclose(found, lorentz.dist(points, query[None], curv), rtol=1e-4, atol=3e-4 / curv**0.5)


@law
@given(seeds, curvatures)
def test_distances_are_exact_where_the_score_is(seed, curv):
    # The formula itself, apart from float32: scores computed from float64 Poincaré coordinates, out to radius 12.
    points, query = spread(seed, curv, 12.0), spread(seed + 7, curv, 12.0, n=1)[0]
    p, q = (x * curv**0.5 / (1 + np.sqrt(1 + curv * (x**2).sum(-1, keepdims=True))) for x in (points, query))
    lift = PoincareLift.make(DIM, curv)
    found = lift.distances(query, np.linalg.norm(p - q, axis=1), lift.extras(points))
    np.testing.assert_allclose(found, lorentz.dist(points, query[None], curv), rtol=1e-8, atol=1e-8 / curv**0.5)


@pytest.mark.parametrize(
    ("radius", "worst", "typical"), [(1, 5e-7, 5e-8), (5, 1e-5, 2e-6), (10, 2e-3, 3e-4), (15, 0.3, 0.05)]
)
def test_errors_near_the_boundary_are_those_of_the_documentation(radius, worst, typical):
    # Neighbours of points at a radius: seen from the point, a step of 0.01 to 5 in a random direction.
    rng, n = np.random.default_rng(0), 400
    at = points_at(1, radius, n=n)
    steps = points_at(2, np.exp(rng.uniform(math.log(0.01), math.log(5), n)), n=n)
    along = np.einsum("nd,nd->n", at, steps) / (lorentz.time(at, 1.0) + 1) + lorentz.time(steps, 1.0)
    near = steps + along[:, None] * at
    lift = PoincareLift.make(DIM, 1.0)
    rows = zip(at, near, lift.extras(near), strict=True)
    found = np.array([lift.distances(query, scores(lift, query, x[None]), [extra])[0] for query, x, extra in rows])
    errors = np.abs(found - lorentz.dist0(steps, 1.0))
    assert errors.max() < worst
    assert np.median(errors) < typical


@law
@given(seeds, curvatures)
def test_the_nearest_are_among_few_euclidean_candidates(seed, curv):
    points, query = spread(seed, curv, 4.0, n=300), spread(seed + 7, curv, 4.0, n=1)[0]
    lift = PoincareLift.make(DIM, curv)
    found = scores(lift, query, points)
    first = np.argsort(found)[:150]
    ranked = first[np.argsort(lift.distances(query, found[first], lift.extras(points[first])))]
    exact = np.sort(lorentz.dist(points, query[None], curv))
    np.testing.assert_allclose(lorentz.dist(points[ranked[:1]], query[None], curv), exact[:1], atol=1e-4 / curv**0.5)


@law
@given(seeds, curvatures)
def test_unlift_inverts_lift_within_float32_and_keeps_a_known_radius_exactly(seed, curv):
    points = spread(seed, curv)
    lift = PoincareLift.make(DIM, curv)
    vectors, radii = lift.lift(points), lorentz.dist0(points, curv)
    for back in (lift.unlift(vectors), lift.unlift(vectors, radii)):
        assert np.all(lorentz.dist(back, points, curv) * curv**0.5 < 2e-7 * np.exp(radii * curv**0.5))
    np.testing.assert_allclose(lorentz.dist0(lift.unlift(vectors, radii), curv), radii, rtol=1e-12, atol=1e-12)


def test_unlift_ignores_radii_that_are_unknown_or_contradict_the_vector():
    points = points_at(0, 3.0, n=6)
    lift = PoincareLift.make(DIM, 1.0)
    vectors = lift.lift(points)
    wrong = np.array([np.nan, -3.0, np.inf, 1e300, 2.0, 4.0])
    np.testing.assert_array_equal(lift.unlift(vectors, wrong), lift.unlift(vectors))


def test_unlift_is_finite_on_and_beyond_the_boundary_and_exact_at_the_origin():
    lift = PoincareLift.make(2, 1.0)
    back = lift.unlift([[1.0, 0.0], [0.0, 1.2], [0.0, 0.0]], [30.0, np.nan, 0.0])
    assert np.isfinite(back).all()
    assert lorentz.dist0(back[0], 1.0) == pytest.approx(30.0)
    np.testing.assert_array_equal(back[2], 0)


def test_only_points_that_float32_displaces_are_beyond():
    radii = np.array([0.0, 5.0, 15.0, 15.2, 15.3, 20.0])
    for curv in (0.25, 1.0, 4.0):
        found = PoincareLift.make(DIM, curv).beyond(points_at(0, radii, curv, n=6))
        np.testing.assert_array_equal(found, [False, False, False, False, True, True])


def test_points_far_beyond_keep_finite_vectors_and_distances():
    far = points_at(0, 40.0, n=2)
    lift = PoincareLift.make(DIM, 1.0)
    found = lift.distances(far[0], scores(lift, far[0], far), lift.extras(far))
    assert np.isfinite(lift.lift(far)).all()
    # Two random directions: the distance is 2 · 40 less what the angle takes off; the same point is at 0.
    assert found[0] == 0
    assert found[1] == pytest.approx(lorentz.dist(far[0], far[1], 1.0), rel=1e-5)


def test_the_weight_is_one_at_the_origin_and_grows_as_a_quarter_of_the_exponential():
    lift = PoincareLift.make(DIM, 4.0)
    weights = [extra["scale"] for extra in lift.extras(points_at(0, np.array([0.0, 1.0, 12.0]), 4.0, n=3))]
    np.testing.assert_allclose(weights, [1, (1 + math.cosh(1)) / 2, (1 + math.cosh(12)) / 2], rtol=1e-12)
    assert weights[2] == pytest.approx(math.exp(12) / 4, rel=1e-4)


@pytest.mark.parametrize("scale", [None, "7", float("nan"), float("inf"), 0.0, 0.99, -3.0, True, [2.0]])
def test_a_point_without_a_valid_weight_is_infinitely_far(scale):
    lift = PoincareLift.make(DIM, 1.0)
    extras = [{"scale": 1.5}, {} if scale is None else {"scale": scale}]
    found = lift.distances(np.ones(DIM), [0.5, 0.5], extras)
    assert math.isfinite(found[0])
    assert found[1] == math.inf


def test_a_missing_score_is_infinitely_far_and_no_points_are_no_error():
    lift = PoincareLift.make(DIM, 1.0)
    assert lift.distances(np.zeros(DIM), [math.nan], [{"scale": 1.0}]) == [math.inf]
    assert lift.distances(np.zeros(DIM), [], []) == []
    assert lift.lift(np.empty((0, DIM))).shape == (0, DIM)
    assert lift.extras(np.empty((0, DIM))) == []


def test_says_what_it_is_and_survives_json():
    lift = PoincareLift.make(DIM, 0.26)
    assert (lift.kind, lift.dim, lift.size, lift.metric, lift.ranks) == ("poincare", DIM, DIM, "Euclid", False)
    back = lift_from_dict(json.loads(json.dumps(lift.to_dict())))
    assert back == lift
    points = spread(0, 0.26)
    np.testing.assert_array_equal(back.lift(points), lift.lift(points))


@pytest.mark.parametrize("change", [{"kind": "padded"}, {"kind": 3}, {"curvature": -1}, {"dim": 0}, {"surplus": 1}])
def test_a_damaged_description_is_refused(change):
    with pytest.raises(SettingsError):
        lift_from_dict(PoincareLift.make(3, 1.0).to_dict() | change)


def test_bad_input_is_refused_by_name():
    lift = PoincareLift.make(3, 1.0)
    rows: tuple[Callable[[Any], Any], ...] = (lift.lift, lift.lift_query, lift.beyond, lift.extras, lift.unlift)
    for method in rows:
        with pytest.raises(InvalidVectorError, match=r"expected \(n, 3\)"):
            method(np.ones((2, 4)))
        with pytest.raises(InvalidVectorError, match="row 1"):
            method([[0.0, 0.0, 0.0], [0.0, np.nan, 0.0]])
    one: tuple[Callable[[Any], Any], ...] = (lift.formula, lambda point: lift.distances(point, [1.0], [{}]))
    for method in one:
        with pytest.raises(InvalidVectorError, match=r"expected \(3,\)"):
            method(np.ones((1, 3)))
        with pytest.raises(InvalidVectorError, match="finite"):
            method([0.0, np.inf, 0.0])
    with pytest.raises(InvalidVectorError, match="extras of 2"):
        lift.distances(np.zeros(3), [1.0], [{}, {}])
    with pytest.raises(SettingsError, match="dim"):
        PoincareLift.make(0, 1.0)
    with pytest.raises(SettingsError, match="curvature"):
        PoincareLift.make(3, math.nan)
