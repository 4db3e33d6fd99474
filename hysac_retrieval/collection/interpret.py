"""Answers of a store as hits: distances, a last look at their safety, order."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval import lorentz
from hysac_retrieval.collection.plan import SearchPlan
from hysac_retrieval.collection.records import is_foreign, stored_points
from hysac_retrieval.payload import PAYLOAD_KEY, finite_number, own_payload, stored_modality
from hysac_retrieval.results import Hit, ResultGroup
from hysac_retrieval.safety.verdict import reviewed_score, safe_score, valid_score
from hysac_retrieval.safety.views import Second, stored_views
from hysac_retrieval.stores.types import Group, StoredPoint

_SAME = 1e-9
_log = logging.getLogger(__name__)


def hits_of(plan: SearchPlan, point: NDArray[np.float64], answer: Sequence[StoredPoint]) -> list[Hit]:
    """Return the points that a store found for one query as hits, nearest first (with the penalty, if there is one).

    The search itself keeps unsafe points out; one that came back all the same is dropped.

    Args:
        plan: How the request was answered.
        point: The point searched with, (d,).
        answer: What the store returned.
    """
    metadata, request, bound = plan.collection.metadata, plan.request, plan.thresholds
    fingerprint, farthest, penalty = metadata.fingerprint, request.max_distance, request.penalty
    records = [own_payload(stored.payload) for stored in answer]
    found: list[Hit] = []
    ordered = penalty == 0
    for stored, own, distance in zip(answer, records, _distances(plan, point, answer, records), strict=True):
        if is_foreign(own, plan.collection):
            _log.warning("point %s of %r was stored by another lift; left out", stored.id, plan.collection.name)
            continue
        unsafe = valid_score(own, fingerprint) if bound is None else safe_score(own, fingerprint, bound)
        decided = bound is not None and unsafe is None and plan.trust_reviews
        if decided:
            unsafe = reviewed_score(own, fingerprint)
        if bound is not None and unsafe is None:
            # A value in a list, or an index that outlived its payload.
            _log.warning(
                "point %s of %r passed the safety filter, but its payload does not say that it is safe; dropped",
                stored.id,
                plan.collection.name,
            )
            continue
        if farthest is not None and not distance <= farthest:
            continue
        payload = {key: value for key, value in stored.payload.items() if key != PAYLOAD_KEY}
        ordered = ordered and (not found or found[-1].distance < distance)
        judged = stored_views(own)
        radius, kind = finite_number(own.get("radius")), stored_modality(own)
        views: tuple[int, str | None] = (1, None) if judged is None else (judged.views, judged.worst)
        second = Second.stored(own)
        if second is not None and unsafe is not None:
            # The score is the second judge's if its own, on the model's scale, is no better.
            decides = second.scaled(metadata.safety.threshold.of(kind)) >= unsafe - _SAME
            views = (views[0], second.judge if decides else views[1])
        found.append(Hit(stored.id, distance, unsafe, radius, kind, payload, *views, decided))
    if not ordered:  # an engine's ties are in any order
        found.sort(key=lambda hit: (_rank(hit, penalty), str(hit.id)))
    return found


def groups_of(plan: SearchPlan, point: NDArray[np.float64], answer: Sequence[Group]) -> tuple[ResultGroup, ...]:
    """Return a store's groups, the one with the nearest hit first, and the hits of each, nearest first."""
    read = [ResultGroup(group.value, tuple(hits_of(plan, point, group.points))) for group in answer]
    found = [group for group in read if group.hits]
    return tuple(sorted(found, key=lambda group: _rank(group.hits[0], plan.request.penalty)))


def _distances(
    plan: SearchPlan, point: NDArray[np.float64], answer: Sequence[StoredPoint], records: Sequence[Mapping[str, Any]]
) -> list[float]:
    if not answer:
        return []
    collection = plan.collection
    if plan.recomputed:
        found, _ = stored_points(collection, answer)
        distances: list[float] = lorentz.dist(found, point[None, :], collection.metadata.curvature).tolist()
        return distances
    scores = [math.nan if stored.score is None else stored.score for stored in answer]
    if plan.candidates is None:
        return collection.lift.distances(point, scores, records)
    # A second stage scored them: the distance with the penalty, negative.
    added = (plan.request.penalty * _risk(finite_number(own.get("unsafe"))) for own in records)
    return [max(-score - more, 0.0) for score, more in zip(scores, added, strict=True)]


def _rank(hit: Hit, penalty: float) -> float:
    """Key that hits are ordered by; a distance that could not be computed comes last."""
    value = hit.distance + penalty * _risk(hit.unsafe) if penalty > 0 else hit.distance
    return math.inf if math.isnan(value) else value


def _risk(unsafe: float | None) -> float:
    """A stored score, or the worst there is for a point without one."""
    return 1.0 if unsafe is None else unsafe
