"""Where a query is searched: settled before the search itself.

A geodesic traversal knows one target per query. An adaptive one goes the same way in steps: every point from the query
to its boundary is probed in one request, for what is nearest whatever its score, and the least moved one around which
everything is safe is searched. Where unsafe points are out of a caller's reach, so are they out of the probes': how far
a query is moved, and the shares on its path, would tell what they are. Safe points alone are probed then, and the least
moved point is searched around which they are as safe as ordinary safe samples of the calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hysac_retrieval import lorentz
from hysac_retrieval.collection.answers import answers_to
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.interpret import hits_of
from hysac_retrieval.collection.plan import plan_search
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.results import Hit, PathStep, QueryInfo
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.redirect import boundary_of, moved_to, query_info, radius_of
from hysac_retrieval.search.points import Point, QueryPoint
from hysac_retrieval.search.request import AnyRequest
from hysac_retrieval.steps import Steps
from hysac_retrieval.types import MODALITIES, Thresholds

ORDINARY = 75
"""Percentile of the radii of a calibration's safe samples up to which one is ordinary."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A query whose point to search with is known.

    Attributes:
        asked: The query as a point, (d,).
        point: The point to search with, (d,); `asked` itself where it was not moved.
        info: What was done to the query.
        hidden: Ids that its hits leave out.
    """

    asked: Point
    point: Point
    info: QueryInfo
    hidden: tuple[int | str, ...]


def settle(
    collection: Collection, policy: SafetyPolicy, queries: Sequence[QueryPoint], request: AnyRequest, bound: Thresholds
) -> Steps[list[Settled]]:
    """Assess queries, and redirect those that are unsafe; an adaptive traversal asks the store once more.

    Args:
        collection: The collection searched.
        policy: How unsafe queries are redirected.
        queries: The queries.
        request: What is asked for.
        bound: Largest scores of hits that count as safe.
    """
    profile, curvature = collection.metadata.safety, collection.metadata.curvature
    thresholds = bound if request.safe else None
    settled: list[Settled] = []
    paths: dict[int, Point] = {}
    redirecting = request.safe and policy.traversal != "none"
    for row, query in enumerate(queries):
        searched, radius = query.point, radius_of(query.point, curvature)
        if redirecting:
            target = boundary_of(radius, query.modality, profile, judged=query.judged)
            if target is not None:
                searched = moved_to(query.point, target, curvature)
                if policy.traversal == "adaptive":
                    paths[row] = _path(query.point, searched, curvature, policy.steps)
        settled.append(_settled(query, searched, collection, thresholds, redirecting))
    if not paths:
        return settled
    nearest = yield from _probed(collection, policy, request, bound, [queries[row] for row in paths], [*paths.values()])
    counted = bound if policy.allow_unsafe else _ordinary(profile, bound)
    for row, path in paths.items():
        step, seen = _choose(path, queries[row], nearest[: len(path)], counted, collection)
        nearest = nearest[len(path) :]
        searched = queries[row].point if step == 0 else path[step]
        settled[row] = _settled(queries[row], searched, collection, thresholds, redirecting, seen)
    return settled


def _settled(
    query: QueryPoint,
    searched: Point,
    collection: Collection,
    thresholds: Thresholds | None,
    redirecting: bool,
    path: tuple[PathStep, ...] = (),
) -> Settled:
    profile, curvature = collection.metadata.safety, collection.metadata.curvature
    info = query_info(
        query.point,
        query.modality,
        searched,
        profile,
        curvature,
        thresholds,
        path,
        judged=query.judged,
        redirecting=redirecting,
    )
    return Settled(query.point, searched, info, query.hidden)


def _path(point: Point, end: Point, curvature: float, steps: int) -> Point:
    """Points at equal spacing from one to another that lies on its way to the origin, both included, (steps, d)."""
    radii = np.linspace(radius_of(point, curvature), radius_of(end, curvature), steps)
    path: Point = lorentz.traverse(np.repeat(point[None, :], steps, axis=0), radii, curvature)
    # The ends exactly, so that a path of several points ends where the geodesic traversal does.
    path[0], path[-1] = point, end
    return path


def _probed(
    collection: Collection,
    policy: SafetyPolicy,
    request: AnyRequest,
    bound: Thresholds,
    queries: Sequence[QueryPoint],
    paths: Sequence[Point],
) -> Steps[list[list[Hit]]]:
    """Points nearest to each point of some paths, whatever their score if the policy lets a caller see all."""
    probe = PageRequest(
        safe=not policy.allow_unsafe,
        threshold=None if policy.allow_unsafe else bound,
        limit=policy.top,
        filter=request.filter,
        modality=request.modality,
        ef=request.ef,
        shard_key_selector=request.shard_key_selector,
    )
    rules, trusts = policy.rules_of(request.safe), policy.trusts_reviews(request.threshold)
    plan = plan_search(collection, probe, rules=rules, trust_reviews=trusts)
    points = np.concatenate(paths)
    hidden = [query.hidden for query, path in zip(queries, paths, strict=True) for _ in path]
    answers = yield from answers_to(plan, points, hidden)
    return [hits_of(plan, point, answer)[: policy.top] for point, answer in zip(points, answers, strict=True)]


def _choose(
    path: Point, query: QueryPoint, nearest: Sequence[Sequence[Hit]], bound: Thresholds, collection: Collection
) -> tuple[int, tuple[PathStep, ...]]:
    """The least moved point of a path around which everything is safe, the most moved if there is none; the path."""
    profile, curvature = collection.metadata.safety, collection.metadata.curvature
    shares = [_safe_share(hits, bound) for hits in nearest]
    chosen = next((step for step, share in enumerate(shares) if share == 1.0), len(shares) - 1)
    radii = [radius_of(point, curvature) for point in path]
    return chosen, tuple(
        PathStep(radius, profile.score(radius, query.modality), share, step == chosen)
        for step, (radius, share) in enumerate(zip(radii, shares, strict=True))
    )


def _ordinary(profile: SafetyProfile, bound: Thresholds) -> Thresholds:
    """Return the score of an ordinary safe sample of each modality, where that is stricter than the bound."""
    radii = {kind: profile.of(kind).safe.percentiles[ORDINARY] for kind in MODALITIES}
    return Thresholds(**{kind: min(bound.of(kind), profile.score(radii[kind], kind)) for kind in MODALITIES})


def _safe_share(hits: Sequence[Hit], bound: Thresholds) -> float:
    safe = sum(bound.passes(hit.unsafe, hit.modality) for hit in hits)
    return safe / len(hits) if hits else 1.0
