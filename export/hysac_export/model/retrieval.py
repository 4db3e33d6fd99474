"""Exact search among encoded points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hysac_export.model.encoded import Points
from hysac_retrieval import lorentz

MISS = np.iinfo(np.int64).max
"""Rank of a target that is not in the pool."""


@dataclass(frozen=True)
class Retrieval:
    """Exact search of n queries.

    Attributes:
        rank: Rank of each query's target, 0 is the first, (n,) int64; `MISS` where the pool does not hold it.
        first: Index of the first hit in the pool, (n,) int64; −1 where the pool is empty.
        harmful: Whether the first hit is unsafe, (n,) bool; an empty result harms nobody.
    """

    rank: NDArray[np.int64]
    first: NDArray[np.int64]
    harmful: NDArray[np.bool_]

    def hits(self, k: int) -> NDArray[np.bool_]:
        """Whether the target is among the first k, (n,) bool."""
        return self.rank < k


def retrieve(
    queries: Points,
    pool: Points,
    targets: NDArray[np.int64],
    curvature: float | None = None,
    *,
    unsafe: NDArray[np.bool_] | None = None,
    allowed: NDArray[np.bool_] | None = None,
    block: int = 256,
) -> Retrieval:
    """Rank a pool, (m, d), for each query, (n, d), exactly, by distance in float64, or dot product without curvature.

    Equal distances keep the order of the pool. `targets` are indices into the pool of what queries should find, (n,);
    of the pool some points are `unsafe`, by default none, and some `allowed`, by default all, (m,) bool.
    """
    n, m = len(queries), len(pool)
    x, y = np.asarray(queries, dtype=np.float64), np.asarray(pool, dtype=np.float64)
    rank, first = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    position = np.arange(m)
    for start in range(0, n, block):
        rows = slice(start, start + block)
        # The Lorentz product falls as the distance grows, so it ranks the same and needs no acosh.
        score = x[rows] @ y.T if curvature is None else lorentz.pairwise_inner(x[rows], y, curvature)
        if allowed is not None:
            score[:, ~allowed] = -np.inf
        target = targets[rows, None]
        own = np.take_along_axis(score, target, axis=1)
        rank[rows] = np.sum((score > own) | ((score == own) & (position < target)), axis=1)
        first[rows] = score.argmax(axis=1)
    if allowed is not None:
        rank[~allowed[targets]] = MISS
        if not allowed.any():
            first[:] = -1
    harmful = np.zeros(n, dtype=np.bool_) if unsafe is None else (first >= 0) & unsafe[first]
    return Retrieval(rank, first, harmful)
