"""Where an unsafe query is searched: at one point, or at the least moved of several that finds what is safe.

`safety.redirect` knows one target per query. The adaptive traversal goes the same way in steps: every point from the
query itself to its boundary is searched, twice in the same request, once for what a safe search may return and once for
what is nearest whatever its score. The second decides, and never leaves this process; the first answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.collection.plans import SearchPlan
from hysac_retrieval.results import Hit, PathStep
from hysac_retrieval.safety.profile import SafetyProfile, Traversal, redirect
from hysac_retrieval.stores.types import VectorQuery
from hysac_retrieval.types import MODALITIES, Modality, PointId


@dataclass(frozen=True)
class Route:
    """Where one query may be searched.

    Attributes:
        points: (s, d) float64, least moved first; a single one unless what is found decides.
        modality: Kind of the query; None if unknown.
    """

    points: NDArray[np.float64]
    modality: Modality | None

    @property
    def undecided(self) -> bool:
        """Whether what is found decides where the query is searched."""
        return len(self.points) > 1


def routes(
    points: NDArray[np.float64],
    kinds: Sequence[Modality | None],
    profile: SafetyProfile,
    curvature: float,
    mode: Traversal,
    steps: int,
) -> list[Route]:
    """Where queries may be searched.

    Args:
        points: The queries, (n, d) float64.
        kinds: Their modalities; a point of unknown kind is held to both calibrations.
        profile: The model's calibration.
        curvature: Curvature c > 0 of the space (−c).
        mode: How unsafe queries are redirected.
        steps: Points of an adaptive route, 2 or more.
    """
    searched = points
    for kind in MODALITIES:
        # A point of unknown kind is held to both calibrations; the one that moves it farther in wins.
        rows = [row for row, found in enumerate(kinds) if found in (kind, None)]
        if not rows:
            continue
        nearer, moved = redirect(points[rows], kind, profile, curvature, "geodesic" if mode == "adaptive" else mode)
        if not moved.any():
            continue
        searched = searched.copy()
        # The radius grows with the norm.
        wins = (nearer**2).sum(axis=1) < (searched[rows] ** 2).sum(axis=1)
        searched[rows] = np.where(wins[:, None], nearer, searched[rows])
    if mode != "adaptive":
        return [Route(point[None, :], kind) for point, kind in zip(searched, kinds, strict=True)]
    return [
        Route(_path(point, end, curvature, steps), kind)
        for point, end, kind in zip(points, searched, kinds, strict=True)
    ]


def _path(point: NDArray[np.float64], end: NDArray[np.float64], curvature: float, steps: int) -> NDArray[np.float64]:
    """Points at equal spacing from one to another that lies on its way to the origin, both included."""
    if np.array_equal(point, end):
        return point[None, :]
    radii = np.linspace(float(lorentz.dist0(point, curvature)), float(lorentz.dist0(end, curvature)), steps)
    path: NDArray[np.float64] = lorentz.traverse(np.repeat(point[None, :], steps, axis=0), radii, curvature)
    # The ends exactly, so that a route of several points ends where the geodesic traversal does.
    path[0], path[-1] = point, end
    return path


def choose(
    route: Route, nearest: Sequence[Sequence[Hit]], threshold: float, profile: SafetyProfile, curvature: float
) -> tuple[int, tuple[PathStep, ...]]:
    """The least moved point of a route around which everything is safe; the most moved if there is none.

    Args:
        route: The route.
        nearest: What is nearest to each of its points, whatever its score.
        threshold: Largest score that counts as safe.
        profile: The model's calibration.
        curvature: Curvature c > 0.

    Returns:
        Index of the point, and the whole path.
    """
    shares = [_safe_share(hits, threshold) for hits in nearest]
    chosen = next((step for step, share in enumerate(shares) if share == 1.0), len(shares) - 1)
    radii = lorentz.dist0(route.points, curvature)
    return chosen, tuple(
        PathStep(float(radius), profile_score(float(radius), route.modality, profile), share, step == chosen)
        for step, (radius, share) in enumerate(zip(radii, shares, strict=True))
    )


def profile_score(radius: float, modality: Modality | None, profile: SafetyProfile) -> float:
    """P(unsafe | radius, modality); for an unknown modality the larger of both."""
    kinds = MODALITIES if modality is None else (modality,)
    return max(float(profile.unsafe(radius, kind)) for kind in kinds)


def _safe_share(hits: Sequence[Hit], threshold: float) -> float:
    safe = sum(hit.unsafe is not None and hit.unsafe <= threshold for hit in hits)
    return safe / len(hits) if hits else 1.0


def without(condition: models.Filter | None, ids: Sequence[PointId]) -> models.Filter | None:
    """A condition that also leaves out some points."""
    if not ids:
        return condition
    hidden: Any = models.HasIdCondition(has_id=list(ids))
    return models.Filter(must=None if condition is None else [condition], must_not=[hidden])


def joined(plan: SearchPlan, probes: SearchPlan | None, hidden: Sequence[Sequence[PointId]]) -> VectorQuery:
    """A plan and its probes in one request.

    Args:
        plan: Searches that answer.
        probes: Searches that only decide; None if nothing is to be decided.
        hidden: Ids that each search leaves out, those of the plan first.
    """
    query = plan.query
    conditions = [query.filter] * len(query.vectors)
    if probes is not None:
        other = probes.query
        conditions += [other.filter] * len(other.vectors)
        query = replace(
            query,
            vectors=np.concatenate([query.vectors, other.vectors]),
            limit=max(query.limit, other.limit),
            ef=_larger(query.ef, other.ef),
            candidates=_larger(query.candidates, other.candidates),
            formulas=None if query.formulas is None else [*query.formulas, *(other.formulas or ())],
        )
    if probes is None and not any(hidden):
        return query
    # `filter` stays that of the plan: a store that knew no conditions of single searches would still be safe.
    return replace(query, filters=[without(base, ids) for base, ids in zip(conditions, hidden, strict=True)])


def _larger(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)
