"""Choice of the lift that serves some data better: measured, in the engine itself.

No lift wins everywhere, and what decides, whether float32 products tell neighbours apart and whether a graph built
from them can be walked, is not seen from the points alone. So a small collection of each kind is made in the embedded
engine, in a temporary folder, and searched as it would be later.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hysac_retrieval import lorentz
from hysac_retrieval.errors import InvalidVectorError, SettingsError
from hysac_retrieval.lift.checks import checked_matrix
from hysac_retrieval.lift.padded import PaddedLift
from hysac_retrieval.lift.poincare import PoincareLift

if TYPE_CHECKING:
    from hysac_retrieval.lift.base import Lift

__all__ = ["choose_lift", "exact_neighbours"]

_POINTS, _QUERIES = 5000, 200  # as many as tell the lifts apart, and take seconds
_FEWEST = 100  # points below which brute force serves either lift, and there is nothing to measure
_TIE = 0.01


def choose_lift(
    sample: ArrayLike,
    curvature: float,
    *,
    queries: ArrayLike | None = None,
    candidates: int = 100,
    k: int = 10,
    seed: int = 0,
) -> tuple[Lift, dict[str, Any]]:
    """Measure the recall of both lifts on a sample and keep the better.

    The padded lift is kept unless the other finds more than 1 % more: its search needs no second stage. A sample
    thinner than the data flatters the Poincaré lift a little, since `candidates` are a larger part of it.

    Args:
        sample: Points (n, d), space components, of the data to come; of more than 5,000 a random part is used.
        curvature: c > 0.
        queries: Points (m, d) like those to be searched with, of which 200 are used; None holds out some of the sample.
        candidates: Points that a search through the Poincaré lift ranks by distance; at least k.
        k: Neighbours that count.
        seed: Of the random choices. The engine's graphs differ a little each time, and recall with them.

    Returns:
        The lift, fitted on the whole sample, and a JSON-serialisable report: ``chosen`` kind, ``recall`` at k of each
        kind (None if it could not be measured: fewer than 100 points, or too far out for float32), and what was
        measured with: ``points``, ``queries``, ``candidates``, ``k``.

    Raises:
        InvalidVectorError: The sample or the queries are empty, not of shape (n, d), or not finite.
        SettingsError: The curvature, `candidates` or `k` is out of range.
    """
    if not 1 <= k <= candidates:
        raise SettingsError(f"k is {k} and candidates {candidates}; expected 1 ≤ k ≤ candidates")
    points = checked_matrix(sample, None, "points")
    lifts = (PaddedLift.fit(points, curvature), PoincareLift.make(points.shape[1], curvature))
    mixed = np.random.default_rng(seed).permutation(points)
    if queries is None:
        held_out = min(_QUERIES, len(mixed) // 10)
        asked, stored = mixed[:held_out], mixed[held_out:][:_POINTS]
    else:
        asked, stored = checked_matrix(queries, points.shape[1], "queries"), mixed[:_POINTS]
        asked = np.random.default_rng(seed).permutation(asked)[:_QUERIES]
        if not len(asked):
            raise InvalidVectorError("there are no queries", hint="Give one, or None to hold out some of the sample")
    recall: dict[str, float | None] = {lift.kind: None for lift in lifts}
    if len(points) >= _FEWEST:
        wanted = min(k, len(stored))
        truth = exact_neighbours(stored, asked, wanted, curvature)
        for lift in lifts:
            recall[lift.kind] = _recall(lift, stored, asked, truth, wanted if lift.ranks else candidates, curvature)
    padded, poincare = (recall[lift.kind] or 0.0 for lift in lifts)
    chosen = lifts[1] if poincare > padded + _TIE else lifts[0]
    measured = {"points": len(stored), "queries": len(asked), "candidates": candidates, "k": k}
    return chosen, {"chosen": chosen.kind, "recall": recall} | measured


def exact_neighbours(
    points: NDArray[np.float64], queries: NDArray[np.float64], k: int, curvature: float
) -> NDArray[np.intp]:
    """Return the k nearest points of each query by geodesic distance in float64, nearest first.

    One matrix product finds all points that its rounding lets be among the nearest; the accurate distance orders them.

    Args:
        points: Shape (n, d), n ≥ k.
        queries: Shape (m, d).
        k: Neighbours of each query.
        curvature: c > 0.

    Returns:
        Rows of `points`, shape (m, k).
    """
    found = np.empty((len(queries), k), dtype=np.intp)
    largest = float(np.max(lorentz.time(points, curvature)))
    for row, query in enumerate(queries):
        products = -lorentz.pairwise_inner(query[None], points, curvature)[0]
        rounding = 16 * np.finfo(np.float64).eps * largest * float(lorentz.time(query, curvature))
        near = np.flatnonzero(products <= np.partition(products, k - 1)[k - 1] + rounding)
        order = np.argsort(lorentz.dist(points[near], query[None], curvature), kind="stable")
        found[row] = near[order[:k]]
    return found


def _recall(
    lift: Lift,
    points: NDArray[np.float64],
    queries: NDArray[np.float64],
    truth: NDArray[np.intp],
    fetched: int,
    curvature: float,
) -> float | None:
    """Return the mean share of the nearest points that a search finds; None if the lift cannot store the points."""
    from hysac_retrieval.stores.edge.store import EdgeStore
    from hysac_retrieval.stores.types import CollectionSpec, HnswOptions, VectorQuery

    try:
        vectors, asked = lift.lift(points), lift.lift_query(queries)
    except InvalidVectorError:
        return None
    k, extras = truth.shape[1], lift.extras(points)
    # So small a collection would be searched point by point; a large one will not be.
    hnsw = HnswOptions(full_scan_threshold=1, indexing_threshold=1)
    with tempfile.TemporaryDirectory(prefix="hysac-lift-") as folder:
        store = EdgeStore(folder)
        try:
            store.create("sample", CollectionSpec(size=lift.size, metadata={}, metric=lift.metric, hnsw=hnsw))
            store.upsert("sample", range(len(points)), vectors, [{}] * len(points))
            store.optimize("sample")
            answers = store.query("sample", VectorQuery(asked, limit=fetched, with_vectors=False))
        finally:
            store.close()
    shares = []
    for query, answer, nearest in zip(queries, answers, truth, strict=True):
        ids = np.array([int(hit.id) for hit in answer])
        scores = [np.nan if hit.score is None else hit.score for hit in answer]
        ranked = ids[np.argsort(lift.distances(query, scores, [extras[i] for i in ids]), kind="stable")[:k]]
        # By distance, not by id: any of several points at the distance of the last is right.
        furthest = lorentz.dist(points[nearest[-1]], query, curvature) * (1 + 1e-9)
        shares.append(np.count_nonzero(lorentz.dist(points[ranked], query[None], curvature) <= furthest) / k)
    return round(float(np.mean(shares)), 4)
