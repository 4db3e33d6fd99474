"""The lift changes no score: what a Dot index computes is the Lorentzian inner product."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError, SettingsError
from hysac_retrieval.lift import PaddedLift, lift_from_dict

DIM = 12
seeds = st.integers(0, 2**32 - 1)
curvatures = st.floats(0.1, 10)
rotations = st.sampled_from([None, 0, 7])
law = settings(max_examples=50, deadline=None)
GOLDEN_ROTATED = [-21.797497, 4.91359, -8.5737467, -30.293493]


def cloud(seed: int, curv: float, n: int = 60, radius: float = 1.5, off: float = 1.0) -> np.ndarray:
    """Points around a place away from the origin, as encoders put them; float64, shape (n, DIM)."""
    rng = np.random.default_rng(seed)
    tangents = rng.standard_normal((n, DIM)) / DIM**0.5 * radius
    tangents[:, 0] += off
    return lorentz.exp_map0(tangents / curv**0.5, curv)


def products(lift: PaddedLift, queries: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The scores of an ideal Dot index, in float64 over the stored float32 vectors."""
    return lift.lift_query(queries).astype(np.float64) @ lift.lift(points).astype(np.float64).T


@law
@given(seeds, curvatures, rotations)
def test_scores_are_lorentz_inner_products(seed, curv, rotate_seed):
    points, queries = cloud(seed, curv), cloud(seed + 1, curv, n=20)
    lift = PaddedLift.fit(points, curv, rotate_seed=rotate_seed)
    exact = lorentz.inner(queries[:, None], points[None], curv)
    np.testing.assert_allclose(products(lift, queries, points), exact, atol=1e-5 / curv, rtol=1e-5)


@law
@given(seeds, curvatures, rotations)
def test_all_stored_vectors_have_the_norm_m(seed, curv, rotate_seed):
    points = cloud(seed, curv)
    lift = PaddedLift.fit(points, curv, rotate_seed=rotate_seed)
    assert not lift.beyond(points).any()
    np.testing.assert_allclose(np.linalg.norm(lift.lift(points).astype(np.float64), axis=1), lift.norm, rtol=1e-6)


@law
@given(seeds, curvatures, rotations)
def test_products_among_stored_vectors_rank_as_their_cosine(seed, curv, rotate_seed):
    points = cloud(seed, curv)
    stored = PaddedLift.fit(points, curv, rotate_seed=rotate_seed).lift(points).astype(np.float64)
    gram = stored @ stored.T
    norms = np.linalg.norm(stored, axis=1)
    np.testing.assert_allclose(gram, gram / np.outer(norms, norms) * np.mean(norms) ** 2, rtol=1e-5)
    assert np.all(gram.argmax(axis=1) == np.arange(len(points)))


@law
@given(seeds, curvatures, rotations)
def test_unlift_inverts_lift_and_lift_query(seed, curv, rotate_seed):
    points = cloud(seed, curv)
    lift = PaddedLift.fit(points, curv, rotate_seed=rotate_seed)
    for vectors in (lift.lift(points), lift.lift_query(points)):
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(points), lift.size) == (len(points), DIM + 2)
        np.testing.assert_allclose(lift.unlift(vectors), points, rtol=1e-5, atol=1e-5 / curv**0.5)


@law
@given(seeds, curvatures)
def test_the_boost_is_an_isometry_that_centres_the_sample(seed, curv):
    points = cloud(seed, curv)
    lift = PaddedLift.fit(points, curv)
    boosted = lift.lift(points)[:, :DIM].astype(np.float64)
    distances = lorentz.dist(boosted[:, None], boosted[None], curv)
    np.testing.assert_allclose(
        distances, lorentz.dist(points[:, None], points[None], curv), rtol=1e-5, atol=1e-6 / curv**0.5
    )
    np.testing.assert_allclose(lorentz.centroid(boosted, curv), 0, atol=1e-6 / curv**0.5)
    assert lorentz.dist0(np.array(lift.centroid), curv) > 0.5 / curv**0.5  # there was something to centre


@law
@given(seeds, curvatures, rotations)
def test_points_beyond_the_norm_keep_exact_scores(seed, curv, rotate_seed):
    lift = PaddedLift.fit(cloud(seed, curv, radius=0.5), curv, rotate_seed=rotate_seed)
    far, queries = cloud(seed + 1, curv, n=20, radius=6.0), cloud(seed + 2, curv, n=5)
    outside = lift.beyond(far)
    assert outside.any()
    stored = lift.lift(far).astype(np.float64)
    assert np.all(np.linalg.norm(stored[outside], axis=1) > lift.norm)
    exact = lorentz.inner(queries[:, None], far[None], curv)
    np.testing.assert_allclose(products(lift, queries, far), exact, rtol=1e-5, atol=1e-5 / curv)


@law
@given(seeds, curvatures, rotations)
def test_ranking_and_distances_are_the_exact_ones(seed, curv, rotate_seed):
    points, queries = cloud(seed, curv, n=200), cloud(seed + 1, curv, n=10)
    lift = PaddedLift.fit(points, curv, rotate_seed=rotate_seed)
    scores = products(lift, queries, points)
    exact = lorentz.dist(queries[:, None], points[None], curv)
    found = np.stack([lift.distances(q, row, lift.extras(points)) for q, row in zip(queries, scores, strict=True)])
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4 / curv**0.5)
    # Along the returned ranking the exact distance never falls, but for ties at float32 resolution.
    along = np.take_along_axis(exact, np.argsort(-scores, axis=1), axis=1)
    assert np.all(np.diff(along, axis=1) >= -1e-4 / curv**0.5)


def test_the_published_formula_of_the_boost_is_what_is_stored():
    # In units where c = 1: t' = γ t − u·x,  x' = x + ((u·x)/(γ + 1) − t) u, divided by sqrt(c) afterwards.
    curv = 0.26
    points = cloud(3, curv)
    lift = PaddedLift.fit(points, curv)
    x, u = points * curv**0.5, np.array(lift.centroid) * curv**0.5
    t, gamma = np.sqrt(1 + (x**2).sum(1)), np.sqrt(1 + u @ u)
    stored = lift.lift(points)
    moved = x + ((x @ u / (gamma + 1)) - t)[:, None] * u
    np.testing.assert_allclose(stored[:, :DIM], moved / curv**0.5, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stored[:, DIM], (gamma * t - x @ u) / curv**0.5, rtol=1e-6)
    np.testing.assert_allclose(lift.lift_query(points)[:, DIM], -stored[:, DIM], rtol=1e-6)
    assert np.all(lift.lift_query(points)[:, DIM + 1] == 0)


def test_the_rotation_is_orthogonal_fixed_by_its_seed_and_spreads_the_large_coordinates():
    points = cloud(0, 1.0, n=200)
    plain, one, again, other = (PaddedLift.fit(points, 1.0, rotate_seed=seed).lift(points) for seed in (None, 1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_allclose(one @ one.T, plain @ plain.T, rtol=1e-5)
    typical = [np.abs(vectors).max() / np.median(np.abs(vectors)) for vectors in (plain, one)]
    assert typical[1] < typical[0] / 2
    # A value of the first version: a rotation that changed with a library would make stored vectors unreadable.
    assert PaddedLift.default(2, 1.0, rotate_seed=5).lift(np.array([[0.3, -0.2]]))[0] == pytest.approx(
        GOLDEN_ROTATED, rel=1e-5
    )


def test_default_makes_room_for_the_radius_it_is_given():
    lift = PaddedLift.default(DIM, 0.5, max_radius=2.0)
    direction = np.eye(DIM)[:1]
    inside, outside = (lorentz.exp_map0(direction * radius, 0.5) for radius in (1.999, 2.001))
    assert not lift.beyond(inside)[0]
    assert lift.beyond(outside)[0]
    assert lift.centroid == (0.0,) * DIM
    assert (lift.dim, lift.size, lift.metric, lift.ranks) == (DIM, DIM + 2, "Dot", True)


def test_without_margin_the_outermost_point_of_the_sample_is_just_within():
    points = cloud(1, 2.0)
    assert not PaddedLift.fit(points, 2.0, margin=0.0).beyond(points).any()
    ratio = PaddedLift.fit(points, 2.0, margin=0.5).norm / PaddedLift.fit(points, 2.0, margin=0.0).norm
    assert ratio == pytest.approx(1.5)


@pytest.mark.parametrize("rotate_seed", [None, 3])
def test_survives_json_with_the_same_vectors(rotate_seed):
    points = cloud(2, 0.7)
    lift = PaddedLift.fit(points, 0.7, rotate_seed=rotate_seed)
    back = lift_from_dict(json.loads(json.dumps(lift.to_dict())))
    assert back == lift
    np.testing.assert_array_equal(back.lift(points), lift.lift(points))


@pytest.mark.parametrize(
    "change",
    [{"kind": "poincare"}, {"norm": -1.0}, {"curvature": 0}, {"centroid": []}, {"centroid": ["a"]}, {"surplus": 1}],
)
def test_a_damaged_description_is_refused(change):
    with pytest.raises(SettingsError):
        lift_from_dict(PaddedLift.default(3, 1.0).to_dict() | change)


def test_distances_take_self_matches_that_rounding_put_above_minus_one_over_c():
    lift = PaddedLift.default(3, 4.0)
    distances = lift.distances(
        np.zeros(3), np.array([-0.25, -0.2499999, -0.25 * np.cosh(2 * 1.5)], dtype=np.float32).tolist(), [{}] * 3
    )
    np.testing.assert_allclose(distances, [0, 0, 1.5], rtol=1e-6)
    assert all(type(distance) is float for distance in distances)


def test_an_empty_batch_is_no_error():
    assert PaddedLift.default(3, 1.0).lift(np.empty((0, 3))).shape == (0, 5)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.ones(3), r"points\[None\]"),
        (np.ones((2, 4)), r"expected \(n, 3\)"),
        (np.ones((1, 2, 3)), "shape"),
        (np.array([[0.0, 1.0, 2.0], [0.0, np.nan, 0.0]]), "row 1"),
        (np.array([[np.inf, 0.0, 0.0]]), "row 0"),
        ([[1.0, 2.0, 3.0], [1.0]], "cannot be read"),
        ("a dog", "dtype"),
        (None, "dtype"),
        (np.ones((1, 3), dtype=complex), "dtype"),
    ],
)
def test_bad_points_are_refused_by_name(points, message):
    lift = PaddedLift.default(3, 1.0)
    for method in (lift.lift, lift.lift_query, lift.beyond):
        with pytest.raises(InvalidVectorError, match=message):
            method(points)


def test_other_bad_input_is_refused():
    lift = PaddedLift.default(3, 1.0)
    with pytest.raises(InvalidVectorError, match=r"expected \(n, 5\)"):
        lift.unlift(np.ones((1, 3)))
    with pytest.raises(InvalidVectorError, match="float32"):
        lift.lift(np.full((1, 3), 1e60))
    with pytest.raises(InvalidVectorError, match="empty"):
        PaddedLift.fit(np.empty((0, 3)), 1.0)
    with pytest.raises(SettingsError, match="curvature"):
        PaddedLift.fit(np.ones((2, 3)), -1.0)
    with pytest.raises(SettingsError, match="margin"):
        PaddedLift.fit(np.ones((2, 3)), 1.0, margin=-0.1)
    with pytest.raises(SettingsError, match="max_radius"):
        PaddedLift.default(3, 1.0, max_radius=float("nan"))
    with pytest.raises(SettingsError, match="centroid"):
        PaddedLift.default(0, 1.0)
    with pytest.raises(SettingsError, match="rotate_seed"):
        PaddedLift.default(3, 1.0, rotate_seed=-1)
