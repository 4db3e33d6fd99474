"""Geometry of the hyperboloid (Lorentz model) of curvature -c, over any array-API library.

One invariant: every function takes and returns the *space components* ``x`` of points, shape ``(..., d)``; the time
component is always ``time(x) = sqrt(1/c + |x|²)``. ``curv`` is c > 0, a float or a 0-d array (a learned tensor keeps
its gradient). Leading axes broadcast. Results have the dtype of ``x``. NumPy and torch are served by the same code;
through torch every function has finite gradients everywhere, identical points and zero vectors included: where a
distance has no gradient (at distance 0) its subgradient 0 is used.

Names are those of MERU (arXiv 2304.09172) and HySAC (arXiv 2503.12127). ``half_aperture`` and ``exterior_angle`` keep
the small offsets of the published code, so that losses agree with it number for number; all else is exact. In
particular nothing computes ``acosh`` near 1 or subtracts ``t(x) t(y)`` from ``x·y``: both lose every digit for close
points, and in float32 a clamp at 1 + 1e-8 protects nothing, because it *is* 1.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

from array_api_compat import array_namespace, device, is_torch_array

from hysac_retrieval.errors import SettingsError

__all__ = [
    "centroid",
    "dist",
    "dist0",
    "exp_map0",
    "exterior_angle",
    "geodesic_to_origin",
    "half_aperture",
    "inner",
    "log_map0",
    "pairwise_dist",
    "pairwise_inner",
    "radial_angle",
    "time",
    "traverse",
]

Array: TypeAlias = Any
"""An array of any array-API library: ``numpy.ndarray`` or ``torch.Tensor``."""

# The published code stops exp_map0 here, at a norm of 2^15 / sqrt(c), long before sinh overflows.
_MAX_SINH_ARGUMENT = math.asinh(2.0**15)
# Published offset of the aperture and angle formulas; bounds the gradients of asin and acos.
_OFFSET = 1e-5


def _curvature(curv: Array, like: Array) -> Array:
    """Curvature as a number, or as a tensor of the dtype and device of ``like`` with its gradient."""
    if is_torch_array(curv) and is_torch_array(like):
        return curv.to(dtype=like.dtype, device=like.device)
    value = float(curv)
    if not (value > 0 and math.isfinite(value)):
        raise SettingsError(f"curvature is {value}; it must be a finite number above 0 (the space has curvature -c)")
    return value


def _dot(x: Array, y: Array, xp: Any) -> Array:
    return xp.sum(x * y, axis=-1)


def _safe_sqrt(square: Array, xp: Any) -> Array:
    """Square root with gradient 0 at 0, where autograd would give inf · 0 = NaN."""
    if not is_torch_array(square):
        return xp.sqrt(square)
    zero = square == 0
    return xp.where(zero, square, xp.sqrt(xp.where(zero, xp.ones_like(square), square)))


def _norm(x: Array, xp: Any) -> Array:
    return _safe_sqrt(_dot(x, x, xp), xp)


def _gram(x: Array, y: Array, xx: Array, xp: Any) -> Array:
    """Gram determinant |x|²|y|² − (x·y)² ≥ 0, from the part of y across x, so that nothing cancels."""
    # Where |x|² nears underflow (|x| < 3e-10 in float32) the whole term is nothing, but 1/|x|⁴ in its gradient is not.
    along = _dot(x, y, xp) / xp.where(xx < float(xp.finfo(x.dtype).smallest_normal) ** 0.5, xp.ones_like(xx), xx)
    across = y - x * along[..., None]
    return xx * _dot(across, across, xp)


def _minus_inner(x: Array, y: Array, curv: Array, xp: Any) -> Array:
    """−⟨x, y⟩ to full relative accuracy.

    For x·y > 0 the difference t(x) t(y) − x·y is taken as
    (1/c² + (|x|² + |y|²)/c + |x|²|y|² − (x·y)²) / (t(x) t(y) + x·y), a quotient of sums of positive terms.
    """
    xx, yy, xy = _dot(x, x, xp), _dot(y, y, xp), _dot(x, y, xp)
    times = xp.sqrt(1 / curv + xx) * xp.sqrt(1 / curv + yy)
    positive = xy > 0
    total = times + xp.where(positive, xy, xp.zeros_like(xy))
    return xp.where(positive, (1 / curv**2 + (xx + yy) / curv + _gram(x, y - x, xx, xp)) / total, times - xy)


def time(x: Array, curv: Array) -> Array:
    """Time component t(x) = sqrt(1/c + |x|²).

    Args:
        x: Points, shape (..., d).
        curv: Curvature c > 0.

    Returns:
        Shape (...), at least 1/sqrt(c).
    """
    xp = array_namespace(x)
    return xp.sqrt(1 / _curvature(curv, x) + _dot(x, x, xp))


def exp_map0(v: Array, curv: Array) -> Array:
    """Exponential map at the origin: sinh(√c |v|) v / (√c |v|).

    The argument of sinh stops at asinh(2^15) as in the published code: longer vectors keep their
    direction and land at norm 2^15 / √c.

    Args:
        v: Tangent vectors at the origin, shape (..., d).
        curv: Curvature c > 0.

    Returns:
        Points, shape (..., d), with ``dist0`` equal to ``|v|``.
    """
    xp = array_namespace(v)
    r = _curvature(curv, v) ** 0.5 * _norm(v, xp)
    one = xp.ones_like(r)
    factor = xp.where(r == 0, one, xp.sinh(xp.clip(r, max=_MAX_SINH_ARGUMENT)) / xp.where(r == 0, one, r))
    return v * factor[..., None]


def log_map0(x: Array, curv: Array) -> Array:
    """Logarithmic map at the origin, the inverse of :func:`exp_map0`: asinh(√c |x|) x / (√c |x|).

    Args:
        x: Points, shape (..., d).
        curv: Curvature c > 0.

    Returns:
        Tangent vectors at the origin, shape (..., d), with norm ``dist0(x)``.
    """
    xp = array_namespace(x)
    r = _curvature(curv, x) ** 0.5 * _norm(x, xp)
    one = xp.ones_like(r)
    return x * xp.where(r == 0, one, xp.asinh(r) / xp.where(r == 0, one, r))[..., None]


def dist0(x: Array, curv: Array) -> Array:
    """Geodesic distance to the origin, the *radius*: asinh(√c |x|) / √c.

    Args:
        x: Points, shape (..., d).
        curv: Curvature c > 0.

    Returns:
        Shape (...), at least 0.
    """
    xp = array_namespace(x)
    root = _curvature(curv, x) ** 0.5
    return xp.asinh(root * _norm(x, xp)) / root


def inner(x: Array, y: Array, curv: Array) -> Array:
    """Lorentzian inner product ⟨x, y⟩ = x·y − t(x) t(y), to full relative accuracy.

    Args:
        x: Points, shape (..., d).
        y: Points, shape (..., d); leading axes broadcast.
        curv: Curvature c > 0.

    Returns:
        Broadcast leading shape, at most −1/c.
    """
    xp = array_namespace(x, y)
    return -_minus_inner(x, y, _curvature(curv, x), xp)


def dist(x: Array, y: Array, curv: Array) -> Array:
    """Geodesic distance acosh(−c⟨x, y⟩) / √c, accurate from 0 to the largest radii.

    Both points are seen from the rest frame of their midpoint. There they have the same time
    component, so their difference ``w`` is purely spatial and the distance is 2 asinh(√c |w| / 2) / √c.

    Args:
        x: Points, shape (..., d).
        y: Points, shape (..., d); leading axes broadcast.
        curv: Curvature c > 0.

    Returns:
        Broadcast leading shape, at least 0, exactly 0 for identical points. The gradient there is 0.
    """
    xp = array_namespace(x, y)
    curv = _curvature(curv, x)
    times = time(x, curv) + time(y, curv)
    contraction = xp.sqrt(2 / curv + 2 * _minus_inner(x, y, curv, xp)) / times  # 1/γ of the midpoint, in (0, 1]
    delta, velocity = x - y, (x + y) / times[..., None]
    w = delta - velocity * (_dot(delta, velocity, xp) / (1 + contraction))[..., None]
    root = curv**0.5
    return xp.asinh(_norm(w, xp) * (root / 2)) * (2 / root)


def half_aperture(x: Array, curv: Array, min_radius: float = 0.1) -> Array:
    """Half aperture of the entailment cone at x: asin(2K / (√c |x|)).

    As published (MERU, eq. 5), 1e-5 is added to √c |x| and the argument is clipped at 1 − 1e-5: the
    value saturates at 1.5663 inside √c |x| < 2K, where it has no gradient.

    Args:
        x: Apexes, shape (..., d).
        curv: Curvature c > 0.
        min_radius: K, sets how fast cones narrow with the radius.

    Returns:
        Shape (...), radians in (0, π/2).
    """
    xp = array_namespace(x)
    r = _curvature(curv, x) ** 0.5 * _norm(x, xp)
    return xp.asin(xp.clip(2 * min_radius / (r + _OFFSET), max=1 - _OFFSET))


def exterior_angle(x: Array, y: Array, curv: Array) -> Array:
    """Exterior angle at x of the triangle (origin, x, y): 0 when y lies straight behind x.

    acos((t(y) + c⟨x,y⟩ t(x)) / (|x| sqrt((c⟨x,y⟩)² − 1))) (MERU, eq. 6), with the published clamps: 1e-5
    inside the root, added to the denominator, and off the ends of acos, so values lie in [0.00447, π − 0.00447]
    and coinciding points or an apex at the origin give π/2. Numerator and root are taken from forms
    that do not cancel.

    Args:
        x: Apexes, shape (..., d).
        y: Points, shape (..., d); leading axes broadcast.
        curv: Curvature c > 0.

    Returns:
        Broadcast leading shape, radians.
    """
    xp = array_namespace(x, y)
    curv = _curvature(curv, x)
    delta = y - x
    xx, xy = _dot(x, x, xp), _dot(x, y, xp)
    gram = _gram(x, delta, xx, xp)
    along, fall = time(x, curv) * xy, xx * time(y, curv)
    # t(y) + c⟨x,y⟩ t(x) = c (t(x) x·y − |x|² t(y)); for x·y > 0 the difference of squares replaces the difference,
    # but not where both terms are minute: nothing is lost there, and a tiny divisor would spoil the gradient.
    positive = curv * xy > 1e-4
    total = xp.where(positive, along + fall, xp.ones_like(along))
    mended = (_dot(x, delta, xp) * (xx + xy) - curv * xx * gram) / total
    numerator = xp.where(positive, mended, curv * (along - fall))
    # |x|² ((c⟨x,y⟩)² − 1) = c · gram + numerator²
    square = xp.maximum(curv * gram + numerator**2, _OFFSET * xx)
    cosine = numerator / (_safe_sqrt(square, xp) + _OFFSET)
    return xp.acos(xp.clip(cosine, min=-1 + _OFFSET, max=1 - _OFFSET))


def radial_angle(x: Array, y: Array, curv: Array, power: float = 1.0) -> Array:
    """Exterior angle at x of y in the tangent space at the origin, radii raised to a power.

    With q = (r(y) / r(x))^p and θ the angle between the directions, atan2(q sin θ, q cos θ − 1). With p = 1 it is the
    limit of :func:`exterior_angle` for a space that is shrunk to the origin; as p grows it goes to θ where y lies
    farther out than x, and to π where it lies nearer.

    Args:
        x: Apexes, shape (..., d); one at the origin holds nothing.
        y: Points, shape (..., d); leading axes broadcast.
        curv: Curvature c > 0.
        power: p > 0.

    Returns:
        Broadcast leading shape, radians in [0, π].
    """
    xp = array_namespace(x, y)
    curv = _curvature(curv, x)
    xx, yy = _dot(x, x, xp), _dot(y, y, xp)
    tiny = float(xp.finfo(x.dtype).smallest_normal) ** 0.5
    norms = xp.clip(_safe_sqrt(xx * yy, xp), min=tiny)
    cosine, sine = _dot(x, y, xp) / norms, _safe_sqrt(_gram(x, y - x, xx, xp), xp) / norms
    apex, point = (xp.log(xp.clip(dist0(each, curv), min=tiny)) for each in (x, y))
    ratio = xp.exp(xp.clip(power * (point - apex), min=-40.0, max=40.0))
    return xp.atan2(ratio * sine, ratio * cosine - 1)


def _pairwise_excess(x: Array, y: Array, curv: Array, xp: Any) -> Array:
    """−⟨x_i, y_j⟩ − 1/c as one matrix product, shape (n, m).

    With k = 1/√c and τ = t − k = |x|²/(t + k), t(x) t(y) − x·y − k² = τ(x) τ(y) + k (τ(x) + τ(y)) − x·y:
    three more columns do the whole sum inside the product, and the 1/c that would swamp it never appears.
    """
    k = 1 / curv**0.5
    xx, yy = xp.sum(x * x, axis=-1, keepdims=True), xp.sum(y * y, axis=-1, keepdims=True)
    rise_x, rise_y = xx / (xp.sqrt(1 / curv + xx) + k), yy / (xp.sqrt(1 / curv + yy) + k)
    left = xp.concat([-x, rise_x, rise_x, xp.ones_like(rise_x) * k], axis=-1)
    right = xp.concat([y, rise_y, xp.ones_like(rise_y) * k, rise_y], axis=-1)
    return left @ right.T


def pairwise_inner(x: Array, y: Array, curv: Array) -> Array:
    """Lorentzian inner products of all pairs, as one matrix product.

    The absolute error is that of the product, about ε(1/c + t(x) t(y)) with ε that of the dtype.

    Args:
        x: Points, shape (n, d).
        y: Points, shape (m, d).
        curv: Curvature c > 0.

    Returns:
        Shape (n, m), at most −1/c up to rounding.
    """
    xp = array_namespace(x, y)
    curv = _curvature(curv, x)
    return -1 / curv - _pairwise_excess(x, y, curv, xp)


def pairwise_dist(x: Array, y: Array, curv: Array) -> Array:
    """Geodesic distances of all pairs, as one matrix product.

    The product carries an absolute error of about ε|x||y|, so a distance D has error ε|x||y|/D, at
    most √ε |x|: 3e-4 |x| in float32 and 1.5e-8 |x| in float64, for nearly identical points. Use
    :func:`dist` where such distances must be exact. Keep it out of mixed precision: a half-precision
    product has ε = 1e-3.

    Args:
        x: Points, shape (n, d).
        y: Points, shape (m, d).
        curv: Curvature c > 0.

    Returns:
        Shape (n, m). The floor, where the gradient is 0, is the root of the smallest normal number, not 0.
    """
    xp = array_namespace(x, y)
    curv = _curvature(curv, x)
    root = curv**0.5
    excess = xp.clip(_pairwise_excess(x, y, curv, xp), min=float(xp.finfo(x.dtype).smallest_normal))
    return xp.asinh(xp.sqrt(excess) * (root / math.sqrt(2))) * (2 / root)


def centroid(x: Array, curv: Array) -> Array:
    """Lorentzian centroid: the sum of [x, t(x)] over the points, normalised back onto the hyperboloid.

    It minimises the sum of the squared Lorentzian distances (Law et al., ICML 2019, eq. 12).

    Args:
        x: Points, shape (..., n, d) with n ≥ 1.
        curv: Curvature c > 0.

    Returns:
        One point for each leading index, shape (..., d).
    """
    xp = array_namespace(x)
    curv = _curvature(curv, x)
    space, height = xp.sum(x, axis=-2), xp.sum(time(x, curv), axis=-1)
    length = _norm(space, xp)
    return space / (curv * (height - length) * (height + length))[..., None] ** 0.5


def traverse(x: Array, radius: Array, curv: Array) -> Array:
    """Move points beyond a radius along their geodesic to the origin, onto that radius.

    Points at or within the radius are returned bit for bit: nothing ever moves outward. The radius
    of a moved point equals ``radius`` to the last digits of the dtype.

    Args:
        x: Points, shape (..., d).
        radius: Geodesic distance to the origin, ≥ 0; a number or an array that broadcasts to shape (...).
        curv: Curvature c > 0.

    Returns:
        Points, shape (..., d), none with ``dist0`` beyond ``radius`` but for rounding.

    Raises:
        SettingsError: A radius is negative or NaN.
    """
    xp = array_namespace(x)
    target = xp.asarray(radius, dtype=x.dtype, device=device(x))
    if not bool(xp.all(target >= 0)):
        raise SettingsError(
            "the radius to traverse to is negative or NaN", hint="Give a geodesic distance of 0 or more"
        )
    root = _curvature(curv, x) ** 0.5
    r = root * _norm(x, xp)
    here = xp.asinh(r)
    beyond = here > root * target
    # The inner minimum keeps sinh from overflowing for points whose scale is not used.
    scale = xp.sinh(xp.minimum(here, root * target)) / xp.where(beyond, r, xp.ones_like(r))
    return x * xp.where(beyond, scale, xp.ones_like(scale))[..., None]


def geodesic_to_origin(x: Array, steps: int, curv: Array) -> Array:
    """Points at equal geodesic spacing from x to the origin, both included.

    Args:
        x: Points, shape (..., d).
        steps: Number of points on each path, at least 1; a path of one point is x itself.
        curv: Curvature c > 0.

    Returns:
        Shape (steps, ..., d): index 0 is x, the last is the origin.
    """
    xp = array_namespace(x)
    weights = xp.linspace(1.0, 0.0, steps, dtype=x.dtype, device=device(x))
    return exp_map0(log_map0(x, curv) * xp.reshape(weights, (steps,) + (1,) * x.ndim), curv)
