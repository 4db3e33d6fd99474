"""Answers of a store to a planned search, made up for points that came back although they are not safe.

A value may be a list, of which engines match any element, and an index may outlive the payload. Such points are never
shown (`interpret.hits_of` drops them), and neither may they be noticed: the search is made once more without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.collection.current import ask
from hysac_retrieval.collection.plan import SearchPlan
from hysac_retrieval.payload import own_payload
from hysac_retrieval.safety.verdict import safe_score
from hysac_retrieval.steps import Steps
from hysac_retrieval.stores.types import Group, GroupQuery, StoredPoint
from hysac_retrieval.types import PointId

ROUNDS = 10
"""How often a search is made again; after that its answer is short."""


def answers_to(
    plan: SearchPlan,
    points: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    hidden: Sequence[Sequence[PointId]] = (),
) -> Steps[list[list[StoredPoint]]]:
    """Search with points.

    Args:
        plan: How the request is answered.
        points: Shape (n, d), or n points (d,); n ≥ 1.
        hidden: Ids that each search leaves out; empty where none does.

    Returns:
        What the store returned for each.
    """
    left_out = [[*ids] for ids in hidden] or [[] for _ in points]
    found: list[list[StoredPoint]] = [[] for _ in points]
    rows: Sequence[int] = range(len(points))
    for _ in range(ROUNDS):
        query = plan.query([points[row] for row in rows], [left_out[row] for row in rows])
        answers = yield from ask(plan.collection, "query", query)
        again = []
        for row, answer in zip(rows, answers, strict=True):
            found[row] = answer
            if fallen := _fallen(plan, answer):
                left_out[row] += fallen
                again.append(row)
        if not again:
            break
        rows = again
    return found


def groups_to(
    plan: SearchPlan, point: NDArray[np.float64], hidden: Sequence[PointId], grouping: GroupQuery
) -> Steps[list[Group]]:
    """Search with a point, (d,), for groups; see `answers_to`."""
    left_out, found = [*hidden], list[Group]()
    for _ in range(ROUNDS):
        answer: Any = yield from ask(plan.collection, "query_groups", plan.query([point], [left_out]), grouping)
        found = answer
        fallen = _fallen(plan, (one for group in found for one in group.points))
        if not fallen:
            break
        left_out += dict.fromkeys(fallen)
    return found


def _fallen(plan: SearchPlan, answer: Iterable[StoredPoint]) -> list[PointId]:
    """Return the ids of points that a safe search should not have found."""
    if plan.thresholds is None:
        return []
    held = partial(
        safe_score,
        fingerprint=plan.collection.metadata.fingerprint,
        thresholds=plan.thresholds,
        trust_reviews=plan.trust_reviews,
    )
    return [one.id for one in answer if held(own_payload(one.payload)) is None]
