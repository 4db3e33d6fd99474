"""Requests of an application, with the guard's condition in every place that could return or use a point.

What is not known here is refused: a part of a request that is left alone may be one that returns points.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.guard.condition import Guard
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.types import PointId

Stage = TypeVar("Stage", models.QueryRequest, models.Prefetch)
_WITHOUT_POINTS = (
    models.OrderByQuery,
    models.FusionQuery,
    models.RrfQuery,
    models.FormulaQuery,
    models.SampleQuery,
    models.TextQuery,
)
_VECTORS = (list, tuple, np.ndarray, models.SparseVector, models.Document, models.Image, models.InferenceObject)


def mentioned(query: Any) -> Iterator[PointId]:
    """Ids of the points that a query is made of, such as examples; `SettingsError` for an unknown kind of query."""
    if query is None or isinstance(query, _WITHOUT_POINTS):
        return
    if isinstance(query, models.NearestQuery):
        yield from _points(query.nearest)
    elif isinstance(query, models.RecommendQuery):
        yield from _points(*(query.recommend.positive or ()), *(query.recommend.negative or ()))
    elif isinstance(query, models.DiscoverQuery):
        yield from _points(query.discover.target)
        yield from _pairs(query.discover.context)
    elif isinstance(query, models.ContextQuery):
        yield from _pairs(query.context)
    elif isinstance(query, models.RelevanceFeedbackQuery):
        feedback = query.relevance_feedback
        yield from _points(feedback.target, *(item.example for item in feedback.feedback))
    else:
        yield from _points(query)


def guarded_prefetch(guard: Guard, collection: str, prefetch: Any) -> tuple[Any, set[PointId]]:
    """A prefetch, or several, as `guarded_stages` makes them."""
    if prefetch is None:
        return None, set()
    stages = prefetch if isinstance(prefetch, list | tuple) else [prefetch]
    return guarded_stages(guard, collection, stages, models.Prefetch)


def guarded_stages(
    guard: Guard, collection: str, stages: Iterable[Any], kind: type[Stage]
) -> tuple[list[Stage], set[PointId]]:
    """Put the condition into requests or prefetches, and into the prefetches that they nest.

    Returns:
        The stages, and the ids of the points that their queries are made of.

    Raises:
        SettingsError: There is something in them that is not known here, or that reaches another collection.
    """
    ids: set[PointId] = set()
    made = []
    for one in stages:
        if not isinstance(one, kind):
            raise SettingsError(f"a stage of a query is {type(one).__name__}; expected a models.{kind.__name__}")
        nested, inner = guarded_prefetch(guard, collection, one.prefetch)
        expect_here(collection, one.lookup_from)
        ids |= inner | set(mentioned(one.query))
        changes = {"filter": guard.filter(one.filter), "prefetch": nested, "params": checked_params(one.params)}
        made.append(one.model_copy(update=changes))
    return made, ids


def expect_here(collection: str, lookup: Any) -> None:
    """Raise `SettingsError` if points are looked up in another collection, where it is not known which are safe."""
    if lookup is None or (isinstance(lookup, models.LookupLocation) and lookup.collection == collection):
        return
    what = f"lookup_from names another place than collection {collection!r}; which of its points are safe is not known"
    raise SettingsError(what, hint="Look the vector up yourself and search with it")


def checked_params(params: Any) -> models.SearchParams | None:
    """Return the parameters of a search; raise `SettingsError` if their scores would tell of points not returned."""
    if params is not None and not isinstance(params, models.SearchParams):
        raise SettingsError(f"search parameters are {type(params).__name__}; expected models.SearchParams")
    if params is not None and isinstance(params.idf, models.IdfCorpusParams):  # weights of words, over chosen points
        raise SettingsError("idf over a chosen corpus tells what is in points that are not safe", hint="Leave it out")
    return params


def _pairs(context: Any) -> Iterator[PointId]:
    for pair in context if isinstance(context, list | tuple) else [context]:
        if not isinstance(pair, models.ContextPair):
            raise SettingsError(f"a context pair is {type(pair).__name__}; expected a models.ContextPair")
        yield from _points(pair.positive, pair.negative)


def _points(*values: Any) -> Iterator[PointId]:
    """The ids among values; others must be vectors, or something to make one of."""
    for value in values:
        if isinstance(value, int | np.integer | str | uuid.UUID):
            yield from normal_ids([value])
        elif not isinstance(value, _VECTORS):
            expected = "a vector, the id of a point, or one of qdrant_client.models"
            raise SettingsError(f"a query is {type(value).__name__}; expected {expected}")
