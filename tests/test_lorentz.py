"""Laws of the geometry, over seed x dtype x curvature, and exactness where float arithmetic is treacherous.

Expected values of the exactness tests come from 60-digit decimal arithmetic on the very inputs.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hysac_retrieval import lorentz
from hysac_retrieval.errors import SettingsError

DIM = 6
seeds = st.integers(0, 2**32 - 1)
curvatures = st.floats(0.1, 10)
dtypes = st.sampled_from(["float32", "float64"])
law = settings(max_examples=60, deadline=None)


def tolerance(dtype: str, scale: float = 1.0) -> float:
    return scale * (2e-5 if dtype == "float32" else 1e-12)


def sample(seed: int, curv: float, dtype: str, n: int = 7, max_radius: float = 4.0) -> np.ndarray:
    """Points with radii up to max_radius / sqrt(c) in random directions, shape (n, DIM)."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((n, DIM))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radii = rng.uniform(0, max_radius / curv**0.5, (n, 1))
    return lorentz.exp_map0((directions * radii), curv).astype(dtype)


def boost(x: np.ndarray, by: np.ndarray, curv: float) -> np.ndarray:
    """Boost that carries ``by`` to the origin, as the (d+1) x (d+1) matrix of special relativity."""
    u, gamma = by * curv**0.5, np.sqrt(1 + curv * by @ by)
    matrix = np.block([[np.eye(len(u)) + np.outer(u, u) / (gamma + 1), -u[:, None]], [-u[None], np.array([[gamma]])]])
    full = np.concatenate([x, lorentz.time(x, curv)[:, None]], axis=1)
    return (full @ matrix.T)[:, :-1]


def exact_distance(x: np.ndarray, y: np.ndarray, curv: float) -> float:
    """Geodesic distance of two vectors in 60-digit arithmetic."""
    with localcontext() as context:
        context.prec = 60
        c = Decimal(curv)
        a, b = ([Decimal(float(value)) for value in vector] for vector in (x, y))
        tx, ty = ((1 / c + sum(value * value for value in vector)).sqrt() for vector in (a, b))
        cosh = c * (tx * ty - sum(p * q for p, q in zip(a, b, strict=True)))
        return float((cosh + (cosh * cosh - 1).sqrt()).ln() / c.sqrt()) if cosh > 1 else 0.0


# Laws


@law
@given(seeds, curvatures, dtypes)
def test_distance_is_symmetric(seed, curv, dtype):
    x, y = sample(seed, curv, dtype), sample(seed + 1, curv, dtype)
    np.testing.assert_allclose(
        lorentz.dist(x, y, curv), lorentz.dist(y, x, curv), rtol=tolerance(dtype), atol=tolerance(dtype)
    )


@law
@given(seeds, curvatures, dtypes)
def test_distance_is_zero_exactly_for_identical_points_only(seed, curv, dtype):
    x = sample(seed, curv, dtype)
    assert np.all(lorentz.dist(x, x, curv) == 0)
    different = lorentz.dist(x[:, None], x[None], curv) + np.eye(len(x))
    assert np.all(different > 0)


@law
@given(seeds, curvatures, dtypes)
def test_triangle_inequality(seed, curv, dtype):
    x = sample(seed, curv, dtype)
    d = lorentz.dist(x[:, None], x[None], curv)
    assert np.all(d[:, None, :] <= d[:, :, None] + d[None] + tolerance(dtype, 1 / curv**0.5))


@law
@given(seeds, curvatures)
def test_boosts_are_isometries(seed, curv):
    x, y = sample(seed, curv, "float64"), sample(seed + 1, curv, "float64")
    by = sample(seed + 2, curv, "float64", n=1, max_radius=2.0)[0]
    moved = lorentz.dist(boost(x, by, curv), boost(y, by, curv), curv)
    np.testing.assert_allclose(moved, lorentz.dist(x, y, curv), rtol=1e-9, atol=1e-9)


@law
@given(seeds, curvatures, dtypes)
def test_distance_to_the_origin_is_the_radius(seed, curv, dtype):
    x = sample(seed, curv, dtype)
    np.testing.assert_allclose(
        lorentz.dist(x, np.zeros_like(x), curv), lorentz.dist0(x, curv), rtol=tolerance(dtype), atol=0
    )


@law
@given(seeds, curvatures, dtypes, st.floats(-12, 0.9))
def test_exp_and_log_are_inverse_and_the_radius_is_the_tangent_norm(seed, curv, dtype, exponent):
    v = np.random.default_rng(seed).standard_normal((5, DIM))
    v = (v / np.linalg.norm(v, axis=1, keepdims=True) * 10.0**exponent / curv**0.5).astype(dtype)
    x = lorentz.exp_map0(v, curv)
    np.testing.assert_allclose(lorentz.log_map0(x, curv), v, rtol=tolerance(dtype))
    np.testing.assert_allclose(lorentz.dist0(x, curv), np.linalg.norm(v, axis=1), rtol=tolerance(dtype))


@law
@given(seeds, curvatures, dtypes, st.floats(0.5, 12))
def test_the_radial_angle_is_that_of_the_flat_triangle_and_knows_no_unit(seed, curv, dtype, power):
    x, y = (sample(at, curv, dtype, max_radius=3.0) for at in (seed, seed + 1))
    found = lorentz.radial_angle(x, y, curv, power)
    assert found.dtype == x.dtype
    vx, vy = (np.asarray(lorentz.log_map0(each, curv), dtype=np.float64) for each in (x, y))
    radii = [np.linalg.norm(each, axis=1, keepdims=True) for each in (vx, vy)]
    apex, point = vx / radii[0], vy / radii[1] * (radii[1] / radii[0]) ** power
    behind = point - apex
    cosine = (apex * behind).sum(1) / np.linalg.norm(behind, axis=1)
    bound = 1e-4 if dtype == "float32" else 1e-7
    np.testing.assert_allclose(np.cos(found), cosine, atol=bound * (1 + power))


@law
@given(seeds, st.floats(0.2, 2))
def test_the_radial_angle_is_the_limit_of_the_exterior_angle_near_the_origin(seed, curv):
    x, y = (sample(at, curv, "float64", max_radius=3.0) for at in (seed, seed + 1))
    near_x, near_y = (lorentz.exp_map0(0.01 * lorentz.log_map0(each, curv), curv) for each in (x, y))
    a, b = (lorentz.dist0(each, curv) * curv**0.5 for each in (near_x, near_y))
    d = lorentz.dist(near_x, near_y, curv) * curv**0.5
    inner_angle = np.arccos((np.cosh(a) * np.cosh(d) - np.cosh(b)) / (np.sinh(a) * np.sinh(d)))  # law of cosines
    np.testing.assert_allclose(lorentz.radial_angle(x, y, curv), np.pi - inner_angle, atol=2e-3)


def test_the_radial_angle_of_points_on_one_ray_and_at_the_origin():
    x = lorentz.exp_map0(np.array([1.0, 0.0]), 1.0)
    for power in (1.0, 8.0, 1e6):
        assert lorentz.radial_angle(x, x * 1.5, 1.0, power) == pytest.approx(0, abs=1e-7)
        assert lorentz.radial_angle(x, x * 0.5, 1.0, power) == pytest.approx(np.pi)
        assert lorentz.radial_angle(x, x * 0, 1.0, power) == pytest.approx(np.pi)
        assert lorentz.radial_angle(x * 0, x, 1.0, power) == pytest.approx(np.pi)  # the origin entails nothing
    turned = lorentz.exp_map0(np.array([1.01 * np.cos(0.3), 1.01 * np.sin(0.3)]), 1.0)
    assert lorentz.radial_angle(x, turned, 1.0, 1e4) == pytest.approx(0.3)


def test_gradients_of_the_radial_angle_are_finite_where_it_has_an_edge():
    torch = pytest.importorskip("torch")
    base = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.1, 0.0], [0.0, 0.0, 0.0]])
    for other in (base * 2, base * 0.5, base, -base, base * 0):
        x, y = base.clone().requires_grad_(), other.clone().requires_grad_()
        lorentz.radial_angle(x, y, torch.tensor(0.5), 8.0).sum().backward()
        assert torch.isfinite(x.grad).all()
        assert torch.isfinite(y.grad).all()


@law
@given(seeds, curvatures, dtypes)
def test_half_aperture_narrows_with_the_radius(seed, curv, dtype):
    x = sample(seed, curv, dtype, n=20)
    aperture = lorentz.half_aperture(x[np.argsort(lorentz.dist0(x, curv))], curv)
    assert np.all(np.diff(aperture) <= 0)
    assert np.all((aperture > 0) & (aperture < np.pi / 2))


@law
@given(seeds, curvatures, st.floats(0.3, 3), st.floats(0.05, 1))
def test_points_behind_x_on_its_geodesic_are_in_its_cone_and_points_before_it_are_not(seed, curv, radius, step):
    direction = sample(seed, curv, "float64", n=1)
    direction /= np.linalg.norm(direction)
    before, x, behind = (
        lorentz.exp_map0(direction * r / curv**0.5, curv) for r in (radius - 0.04, radius, radius + step)
    )
    aperture = lorentz.half_aperture(x, curv)
    assert lorentz.exterior_angle(x, behind, curv) < aperture
    assert lorentz.exterior_angle(x, before, curv) > aperture
    assert lorentz.exterior_angle(x, -x, curv) > aperture


@law
@given(seeds, curvatures, dtypes, st.floats(0, 3))
def test_traverse_lands_on_the_radius_and_never_moves_outward(seed, curv, dtype, radius):
    radius /= curv**0.5
    x = sample(seed, curv, dtype, n=20)
    moved = lorentz.traverse(x, radius, curv)
    beyond = lorentz.dist0(x, curv) > np.asarray(radius, dtype)
    np.testing.assert_array_equal(moved[~beyond], x[~beyond])
    np.testing.assert_allclose(lorentz.dist0(moved[beyond], curv), radius, rtol=tolerance(dtype), atol=1e-30)
    assert np.all(np.linalg.norm(moved, axis=1) <= np.linalg.norm(x, axis=1))
    # It stays on the geodesic: the two legs add up.
    legs = lorentz.dist0(moved, curv) + lorentz.dist(moved, x, curv)
    np.testing.assert_allclose(legs, lorentz.dist0(x, curv), rtol=tolerance(dtype, 10), atol=tolerance(dtype))


@law
@given(seeds, curvatures)
def test_centroid_moves_with_the_points_and_keeps_to_their_symmetry(seed, curv):
    x = sample(seed, curv, "float64", max_radius=2.0)
    by = sample(seed + 1, curv, "float64", n=1, max_radius=1.0)[0]
    np.testing.assert_allclose(
        lorentz.centroid(boost(x, by, curv), curv), boost(lorentz.centroid(x, curv)[None], by, curv)[0], atol=1e-9
    )
    np.testing.assert_allclose(lorentz.centroid(np.concatenate([x, -x]), curv), 0, atol=1e-12)
    np.testing.assert_allclose(lorentz.centroid(np.repeat(x[:1], 5, axis=0), curv), x[0], rtol=1e-9)


@law
@given(seeds, curvatures, st.integers(2, 9))
def test_path_to_the_origin_is_evenly_spaced(seed, curv, steps):
    x = sample(seed, curv, "float64")
    path = lorentz.geodesic_to_origin(x, steps, curv)
    assert path.shape == (steps, *x.shape)
    np.testing.assert_allclose(path[0], x, rtol=1e-12)
    assert np.all(path[-1] == 0)
    spacing = lorentz.dist(path[1:], path[:-1], curv)
    np.testing.assert_allclose(spacing, np.broadcast_to(lorentz.dist0(x, curv) / (steps - 1), spacing.shape), rtol=1e-9)


@law
@given(seeds, curvatures, dtypes)
def test_numpy_and_torch_agree(seed, curv, dtype):
    torch = pytest.importorskip("torch")
    x, y = sample(seed, curv, dtype), sample(seed + 1, curv, dtype)
    tx, ty, tc = torch.tensor(x), torch.tensor(y), torch.tensor(curv, dtype=torch.float64)
    calls = {
        "time": lambda a, b, c: lorentz.time(a, c),
        "exp_map0": lambda a, b, c: lorentz.exp_map0(a / 20, c),
        "log_map0": lambda a, b, c: lorentz.log_map0(a, c),
        "dist0": lambda a, b, c: lorentz.dist0(a, c),
        "radial_angle": lambda a, b, c: lorentz.radial_angle(a, b, c, 3.0),
        "inner": lorentz.inner,
        "dist": lorentz.dist,
        "half_aperture": lambda a, b, c: lorentz.half_aperture(a, c),
        "exterior_angle": lorentz.exterior_angle,
        "pairwise_inner": lorentz.pairwise_inner,
        "pairwise_dist": lorentz.pairwise_dist,
        "centroid": lambda a, b, c: lorentz.centroid(a, c),
        "traverse": lambda a, b, c: lorentz.traverse(a, 0.7, c),
        "geodesic_to_origin": lambda a, b, c: lorentz.geodesic_to_origin(a, 3, c),
    }
    assert set(calls) == set(lorentz.__all__)
    for name, call in calls.items():
        ours, theirs = call(x, y, curv), call(tx, ty, tc)
        assert str(ours.dtype) == dtype == str(theirs.dtype).removeprefix("torch."), name
        np.testing.assert_allclose(
            theirs.numpy(), ours, rtol=tolerance(dtype, 10), atol=tolerance(dtype, 50), err_msg=name
        )


# Exactness


@pytest.mark.parametrize("curv", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-6)])
@pytest.mark.parametrize("gap", [1e-6, 1e-4, 1e-2, 1.0])
def test_distance_is_exact_for_close_points(curv, dtype, bound, gap):
    rng = np.random.default_rng(11)
    for radius in (0.0, 1e-3, 0.5, 3.0):
        x = rng.standard_normal(DIM)
        x = (x / np.linalg.norm(x) * radius).astype(dtype)
        y = (x + gap * rng.standard_normal(DIM)).astype(dtype)
        assert lorentz.dist(x, y, curv) == pytest.approx(exact_distance(x, y, curv), rel=bound)


@pytest.mark.parametrize("curv", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(("dtype", "norm"), [("float64", 1e3), ("float64", 1e6), ("float32", 1e2), ("float32", 1e4)])
def test_distance_is_accurate_at_large_radius(curv, dtype, norm):
    # No formula can beat the input: one rounding of x sideways is a distance of up to eps |x|.
    rng = np.random.default_rng(5)
    x = rng.standard_normal(DIM)
    x = (x / np.linalg.norm(x) * norm).astype(dtype)
    for y in (x / 2, x * 1.001, -x, x + rng.standard_normal(DIM), x[::-1], np.zeros(DIM), x * 1e-5):
        y = np.asarray(y).astype(dtype)
        exact = exact_distance(x, y, curv)
        eps = float(np.finfo(dtype).eps)
        assert lorentz.dist(x, y, curv) == pytest.approx(exact, rel=16 * eps, abs=4 * eps * norm)
        product = -np.cosh(exact * curv**0.5) / curv
        assert lorentz.inner(x, y, curv) == pytest.approx(product, rel=16 * eps * max(1, eps * norm**2 * curv))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pairwise_distance_keeps_the_stated_error(dtype):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, DIM)).astype(dtype)
    y = (x + 10.0 ** rng.uniform(-8, 0, (40, 1)) * rng.standard_normal((40, DIM))).astype(dtype)
    got = lorentz.pairwise_dist(x, y, 1.0).astype(np.float64)
    exact = lorentz.dist(x[:, None].astype(np.float64), y[None].astype(np.float64), 1.0)
    sizes = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
    eps = float(np.finfo(dtype).eps)
    allowed = 4 * np.minimum(eps * sizes / np.maximum(exact, eps), np.sqrt(eps * sizes)) + 8 * eps * exact
    assert np.all(np.abs(got - exact) <= allowed)


def test_hand_calculated_values():
    # cosh 1, sinh 1 on the unit hyperboloid; a right angle at the origin: cosh d = cosh 1 cosh 1.
    x, y = np.array([np.sinh(1.0), 0.0]), np.array([0.0, np.sinh(1.0)])
    assert lorentz.time(x, 1.0) == pytest.approx(np.cosh(1))
    assert lorentz.dist0(x, 1.0) == pytest.approx(1)
    assert lorentz.inner(x, y, 1.0) == pytest.approx(-(np.cosh(1) ** 2))
    assert lorentz.dist(x, y, 1.0) == pytest.approx(np.arccosh(np.cosh(1) ** 2))
    # The angles of that triangle: tan(interior) = tanh(1) / sinh(1).
    assert lorentz.exterior_angle(x, y, 1.0) == pytest.approx(np.pi - np.arctan(np.tanh(1) / np.sinh(1)), abs=1e-4)
    assert lorentz.half_aperture(np.array([0.4, 0.0]), 1.0) == pytest.approx(np.pi / 6, abs=1e-4)


# Gradients


def test_gradients_are_those_of_finite_differences():
    torch = pytest.importorskip("torch")
    x, y = (torch.tensor(sample(seed, 0.7, "float64", n=3), requires_grad=True) for seed in (1, 2))
    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for pair in (lorentz.inner, lorentz.dist, lorentz.exterior_angle, lorentz.pairwise_inner, lorentz.pairwise_dist):
        assert torch.autograd.gradcheck(pair, (x, y, c)), pair
    points = (lorentz.time, lorentz.exp_map0, lorentz.log_map0, lorentz.dist0, lorentz.half_aperture, lorentz.centroid)
    for point in points:
        assert torch.autograd.gradcheck(point, (x, c)), point


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_finite_everywhere(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    base = rng.standard_normal((8, DIM)) * np.array([0, 1e-20, 1e-8, 1e-3, 1, 30, 1e3, 1e4])[:, None]
    partners = [base, -base, 0 * base, base[::-1], base * (1 + 1e-6), base + 1e-7]
    for partner in partners:
        for op in (lorentz.inner, lorentz.dist, lorentz.exterior_angle, lorentz.pairwise_inner, lorentz.pairwise_dist):
            x, y = (torch.tensor(a.copy(), dtype=getattr(torch, dtype), requires_grad=True) for a in (base, partner))
            c = torch.tensor(0.3, dtype=x.dtype, requires_grad=True)
            result = op(x, y, c)
            result.sum().backward()
            for tensor in (result, x.grad, y.grad, c.grad):
                assert bool(torch.isfinite(tensor).all()), op
    for unary in (lorentz.exp_map0, lorentz.log_map0, lorentz.dist0, lorentz.half_aperture, lorentz.time):
        x = torch.tensor(base, dtype=getattr(torch, dtype), requires_grad=True)
        c = torch.tensor(0.3, dtype=x.dtype, requires_grad=True)
        unary(x, c).sum().backward()
        assert bool(torch.isfinite(x.grad).all()), unary
        assert bool(torch.isfinite(c.grad)), op


def test_distance_pulls_a_point_at_the_origin_with_unit_force():
    # At the origin the metric is flat, so the gradient of the distance is the unit vector away from y.
    torch = pytest.importorskip("torch")
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([3.0, 4.0], dtype=torch.float64)
    lorentz.dist(x, y, 2.0).backward()
    np.testing.assert_allclose(x.grad, [-0.6, -0.8], rtol=1e-12)


def test_exp_map0_has_the_identity_as_its_derivative_at_the_origin():
    torch = pytest.importorskip("torch")
    jacobian = torch.autograd.functional.jacobian(lambda v: lorentz.exp_map0(v, 2.0), torch.zeros(3))
    np.testing.assert_array_equal(jacobian, np.eye(3))


# Arguments


def test_exp_map0_saturates_in_norm_and_keeps_direction():
    x = lorentz.exp_map0(np.array([[3e3, 4e3]]), 4.0)
    np.testing.assert_allclose(x, [[0.6 * 2**15 / 2, 0.8 * 2**15 / 2]], rtol=1e-9)


def test_traverse_takes_one_radius_for_each_point():
    x = lorentz.exp_map0(np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]), 1.0)
    moved = lorentz.traverse(x, np.array([1.0, 5.0, 0.0, 0.0]), 1.0)
    np.testing.assert_allclose(lorentz.dist0(moved, 1.0), [1, 2, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(lorentz.traverse(x, np.inf, 1.0), x)


@pytest.mark.parametrize("radius", [-1.0, np.nan, np.array([1.0, -1e-9])])
def test_traverse_refuses_a_radius_that_would_flip_or_lose_a_point(radius):
    with pytest.raises(SettingsError, match="negative or NaN"):
        lorentz.traverse(np.ones((2, 3)), radius, 1.0)


@pytest.mark.parametrize("curv", [0.0, -1.0, np.nan, np.inf])
def test_curvature_must_be_positive(curv):
    with pytest.raises(SettingsError, match="curvature"):
        lorentz.dist0(np.ones(3), curv)


def test_curvature_may_be_a_zero_dimensional_array_and_does_not_widen_the_dtype():
    x = np.ones((2, 3), dtype=np.float32)
    result = lorentz.pairwise_dist(x, x * 2, np.array(0.5))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, lorentz.pairwise_dist(x, x * 2, 0.5))
