"""Which stored points a safe search may return: the policy, for results that were ranked elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from qdrant_client import models

from hysac_retrieval.payload import normal_ids
from hysac_retrieval.search.engine import SearchEngine
from hysac_retrieval.steps import Steps
from hysac_retrieval.types import PointId

BATCH = 500
"""Points asked after in one request."""


def permitted(engine: SearchEngine, ids: Iterable[PointId]) -> Steps[frozenset[PointId]]:
    """Return those of some points that a safe search may return, by score, model and every rule of the policy.

    It is a safe search among these points alone, so that nothing is decided here that is not decided there. A point
    that is not in the collection, or that the search should miss, is not permitted.

    Args:
        engine: The search.
        ids: Ids of points, stored or not.

    Raises:
        InputError: An id is neither an integer from 0 to 2⁶⁴ − 1 nor a UUID.
    """
    # From the origin, the safest point of the space: nothing is redirected, whatever the policy's traversal.
    origin = np.zeros(engine.collection.metadata.dim)
    found: set[PointId] = set()
    known = list(dict.fromkeys(normal_ids(ids)))
    for start in range(0, len(known), BATCH):
        some = known[start : start + BATCH]
        among = models.Filter(must=[models.HasIdCondition(has_id=[*some])])
        (result,) = yield from engine.search([origin], {"filter": among, "limit": len(some), "safe": True})
        found.update(hit.id for hit in result)
    return frozenset(found)
