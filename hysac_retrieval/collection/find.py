"""Queries with points: requests planned, asked and read, of a collection that others may replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.current import ask
from hysac_retrieval.collection.interpret import groups_of, hits_of
from hysac_retrieval.collection.plan import plan_search
from hysac_retrieval.collection.records import checked_point, checked_points, found_points
from hysac_retrieval.collection.request import GroupRequest, PageRequest
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.results import GroupedResult, Hit
from hysac_retrieval.safety.redirect import query_info
from hysac_retrieval.steps import Steps
from hysac_retrieval.stores.types import GroupQuery
from hysac_retrieval.types import Modality


def pages_of_hits(collection: Collection, points: ArrayLike, options: Mapping[str, Any]) -> Steps[list[list[Hit]]]:
    """See `Index.query_batch`."""
    request, x = PageRequest.of(options), checked_points(collection, points)
    plan = plan_search(collection, request)
    answers = yield from ask(collection, "query", plan.query(x))
    pages = (hits_of(plan, point, answer) for point, answer in zip(x, answers, strict=True))
    return [hits[request.offset :][: request.limit] for hits in pages]


def groups_of_hits(collection: Collection, point: ArrayLike, options: Mapping[str, Any]) -> Steps[GroupedResult]:
    """See `Index.query_groups`."""
    request = GroupRequest.of(options)
    x = checked_point(collection, point)
    plan = plan_search(collection, request)
    grouping = GroupQuery(request.by, request.groups, request.size)
    answer = yield from ask(collection, "query_groups", plan.query(x[None, :]), grouping)
    info = query_info(x, None, x, collection.metadata.safety, collection.metadata.curvature, plan.thresholds)
    return GroupedResult(info, groups_of(plan, x, answer))


def stored_points_of(
    collection: Collection, ids: Sequence[Any]
) -> Steps[tuple[NDArray[np.float64], list[Modality | None]]]:
    """See `Index.points`."""
    keys = normal_ids(ids)
    return found_points(collection, keys, (yield from ask(collection, "retrieve", keys)))
