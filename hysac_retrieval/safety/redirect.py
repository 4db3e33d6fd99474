"""Redirect of unsafe queries along the geodesic to the origin, onto the boundary of their modality."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval import lorentz
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.results import PathStep, QueryInfo
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.types import MODALITIES, Modality, Thresholds

Traversal = Literal["geodesic", "adaptive", "none"]
"""Redirect of a search's unsafe queries: onto the boundary, no farther than safe results need, or not at all."""

RedirectMode = Literal["geodesic", "reference", "none"]
"""Redirect in an evaluation; ``"reference"`` is the formula of the published code, `traverse_reference`."""

REFERENCE_ALPHA = 0.8
"""Default of the published traversal's offset α."""


def radius_of(point: NDArray[np.float64], curvature: float) -> float:
    """Return asinh(√c |x|) / √c of one point (d,): `lorentz.dist0` without the cost of arrays."""
    root = math.sqrt(curvature)
    return math.asinh(root * math.sqrt(float(point @ point))) / root


def boundary_of(
    radius: float, modality: Modality | None, profile: SafetyProfile, judged: Judged | None = None
) -> float | None:
    """Return the radius that a query is moved to; None if it stays.

    A query is moved if the score of the worst that was judged of it is above the threshold of its modality and its
    point lies beyond the boundary of that. Without a modality it is held to both, and the one that moves it farther in
    wins.
    """
    farthest = _farthest(radius, judged)
    found = [
        profile.of(kind).boundary
        for kind in (MODALITIES if modality is None else (modality,))
        if not profile.query_counts_safe(farthest, kind) and radius > profile.of(kind).boundary
    ]
    return min(found) if found else None


def _farthest(radius: float, judged: Judged | None) -> float:
    return radius if judged is None else max(radius, judged.radius)


def moved_to(point: NDArray[np.float64], radius: float, curvature: float) -> NDArray[np.float64]:
    """Return a point (d,) at a smaller radius, in the direction of a point other than the origin."""
    root = math.sqrt(curvature)
    scale = math.sinh(root * radius) / (root * math.sqrt(float(point @ point)))
    moved: NDArray[np.float64] = point * scale
    return moved


def query_info(
    point: NDArray[np.float64],
    modality: Modality | None,
    searched: NDArray[np.float64],
    profile: SafetyProfile,
    curvature: float,
    thresholds: Thresholds | None,
    path: tuple[PathStep, ...] = (),
    *,
    radius: float | None = None,
    judged: Judged | None = None,
    redirecting: bool = False,
) -> QueryInfo:
    """Return the description of a query and its redirect.

    Args:
        point: The query, (d,).
        modality: Its kind; None if unknown.
        searched: The point that was searched, (d,); `point` itself if it was not moved.
        profile: The model's calibration.
        curvature: Curvature c > 0 of the space (−c).
        thresholds: Largest scores of hits; None for a search that may return anything.
        path: Path of an adaptive traversal.
        radius: Radius of the query, if it is known.
        judged: What of it was judged where that is more than the point.
        redirecting: Whether unsafe queries are redirected.
    """
    radius = radius_of(point, curvature) if radius is None else radius
    moved, farthest = searched is not point, _farthest(radius, judged)
    hiding = judged is not None and judged.hides(radius)
    return QueryInfo(
        modality=modality,
        radius=radius,
        unsafe=profile.score(farthest, modality),
        # A point that is within the boundary already is where it would be moved to.
        redirected=moved or (redirecting and hiding and not profile.query_counts_safe(farthest, modality)),
        radius_searched=min(radius, radius_of(searched, curvature)) if moved else radius,
        safe=thresholds is not None,
        threshold=None if thresholds is None else thresholds.loosest,
        thresholds=thresholds,
        path=path,
        views=1 if judged is None else judged.views,
        worst=None if judged is None or judged.views == 1 else judged.worst,
        known=None if judged is None else judged.known,
        unlike=None if judged is None else judged.unlike,
    )


def redirect(
    points: NDArray[Any],
    modality: Modality,
    profile: SafetyProfile,
    curvature: float,
    mode: RedirectMode = "geodesic",
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Move unsafe query points toward the origin.

    Args:
        points: Space components, shape (n, d).
        modality: Kind of the queries; each has its own boundary.
        profile: The model's calibration.
        curvature: Curvature c > 0 of the space (−c).
        mode: ``"geodesic"`` puts a point whose score is above its threshold exactly onto the boundary, if it
            lies beyond it, and leaves a safe query as it is; ``"reference"`` is the formula of the published code (see
            `traverse_reference`); ``"none"`` moves nothing.

    Returns:
        The points to search with, (n, d) float64, and which of them were moved, (n,) bool. No point is ever
        farther from the origin than before.
    """
    x = np.asarray(points, dtype=np.float64)
    if mode == "none":
        return x, np.zeros(x.shape[0], dtype=np.bool_)
    calibration = profile.of(modality)
    if mode == "geodesic":
        radius = lorentz.dist0(x, curvature)
        moved = ~profile.counts_safe(radius, modality) & (radius > calibration.boundary)
        if not moved.any():
            return x, moved
        return np.where(moved[:, None], lorentz.traverse(x, calibration.boundary, curvature), x), moved
    if mode == "reference":
        # The published bounds: 95th percentile of safe images for image queries, of safe texts for the others.
        return traverse_reference(x, calibration.safe.percentiles[95], curvature)
    raise SettingsError(f"unknown redirection {mode!r}; expected one of {', '.join(get_args(RedirectMode))}")


def traverse_reference(
    points: NDArray[Any], bound: float, curvature: float, alpha: float = REFERENCE_ALPHA
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Move points as the published HySAC code does, number for number.

    B = b + 1 + tanh((b − α) / c). A point whose *geodesic* distance from the origin exceeds B has the *Euclidean*
    norm of its space components set to B, so that it ends up at radius asinh(√c B)/√c < B. Kept for comparison with
    published results; ``geodesic`` is exact.

    Args:
        points: Space components, shape (n, d).
        bound: The bound b, a percentile of the radii of safe samples.
        curvature: Curvature c > 0.
        alpha: The offset α.

    Returns:
        The points, (n, d) float64, and which of them were moved, (n,) bool.
    """
    x = np.asarray(points, dtype=np.float64)
    target = bound + 1.0 + math.tanh((bound - alpha) / curvature)
    norm = np.linalg.norm(x, axis=-1)
    # The norm is never increased: asinh(√c B)/√c < B, so whatever passes the first test has a larger norm.
    moved = lorentz.dist0(x, curvature) > target
    scale = np.where(moved, target / np.where(norm > 0, norm, 1.0), 1.0)
    return x * scale[:, None], moved
