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
    """Ids of the points that a query is made of, such as examples of a recommendation.

    Raises:
        SettingsError: It is no kind of query that is known here.
    """
    if query is None or isinstance(query, _WITHOUT_POINTS):
        return
    if isinstance(query, models.NearestQuery):
        yield from _point(query.nearest)
    elif isinstance(query, models.RecommendQuery):
        for example in (*(query.recommend.positive or ()), *(query.recommend.negative or ())):
            yield from _point(example)
    elif isinstance(query, models.DiscoverQuery):
        yield from _point(query.discover.target)
        yield from _pairs(query.discover.context)
    elif isinstance(query, models.ContextQuery):
        yield from _pairs(query.context)
    elif isinstance(query, models.RelevanceFeedbackQuery):
        yield from _point(query.relevance_feedback.target)
        for item in query.relevance_feedback.feedback:
            yield from _point(item.example)
    else:
        yield from _point(query)


def guarded_prefetch(guard: Guard, collection: str, prefetch: Any) -> tuple[Any, set[PointId]]:
    """A prefetch, or several, as `guarded_stages` makes them."""
    if prefetch is None:
        return None, set()
    stages = prefetch if isinstance(prefetch, list | tuple) else [prefetch]
    return guarded_stages(guard, collection, stages, models.Prefetch)


def guarded_stages(
    guard: Guard, collection: str, stages: Iterable[Any], kind: type[Stage]
) -> tuple[list[Stage], set[PointId]]:
    """Requests or prefetches with the condition in each of them and in the prefetches that they nest.

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
    """Check that points are looked up in the collection itself, where it is known which are safe.

    Raises:
        SettingsError: They are looked up in another one.
    """
    if lookup is None or (isinstance(lookup, models.LookupLocation) and lookup.collection == collection):
        return
    raise SettingsError(
        f"lookup_from names another place than collection {collection!r}; which of its points are safe is not known",
        hint="Look the vector up yourself and search with it",
    )


def checked_params(params: Any) -> models.SearchParams | None:
    """Parameters of a search, unless they choose the points over which the weights of words are counted.

    Raises:
        SettingsError: They do: the scores would tell what is in points that are not returned.
    """
    if params is None:
        return None
    if not isinstance(params, models.SearchParams):
        raise SettingsError(f"search parameters are {type(params).__name__}; expected models.SearchParams")
    if isinstance(params.idf, models.IdfCorpusParams):
        raise SettingsError("idf over a chosen corpus tells what is in points that are not safe", hint="Leave it out")
    return params


def _pairs(context: Any) -> Iterator[PointId]:
    for pair in context if isinstance(context, list | tuple) else [context]:
        if not isinstance(pair, models.ContextPair):
            raise SettingsError(f"a context pair is {type(pair).__name__}; expected a models.ContextPair")
        yield from _point(pair.positive)
        yield from _point(pair.negative)


def _point(value: Any) -> Iterator[PointId]:
    """The id, if this is one instead of a vector or something to make one of."""
    if isinstance(value, int | np.integer | str | uuid.UUID):
        yield from normal_ids([value])
    elif not isinstance(value, _VECTORS):
        raise SettingsError(
            f"a query is {type(value).__name__}; expected a vector, the id of a point, or one of qdrant_client.models"
        )
