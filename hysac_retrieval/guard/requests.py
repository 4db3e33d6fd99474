"""Requests of an application, with the guard's condition in every place that could return or use a point.

What is not known here is refused: a part of a request that is left alone may be one that returns points. The requests
are made of values already; see `values`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, TypeVar

from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.types import PointId

Stage = TypeVar("Stage", models.QueryRequest, models.Prefetch)
Condition: TypeAlias = Callable[[models.Filter | None], models.Filter]
"""Joins the guard's condition to a filter of the caller's."""

_WITHOUT_POINTS = (
    models.OrderByQuery,
    models.FusionQuery,
    models.RrfQuery,
    models.FormulaQuery,
    models.SampleQuery,
    models.TextQuery,
)
_VECTORS = (list, models.SparseVector, models.Document, models.Image, models.InferenceObject)


def guarded(stage: Stage, condition: Condition) -> Stage:
    """Return a request or prefetch with the condition in it, and in all that it nests.

    Raises:
        SettingsError: The scores of the search would tell of points that are not returned.
    """
    params = stage.params
    if params is not None and isinstance(params.idf, models.IdfCorpusParams):  # weights of words, over chosen points
        raise SettingsError("idf over a chosen corpus tells what is in points that are not safe", hint="Leave it out")
    nested: Any = None if stage.prefetch is None else [guarded(one, condition) for one in _prefetches(stage)]
    return stage.model_copy(update={"filter": condition(stage.filter), "prefetch": nested})


def mentioned(stage: models.QueryRequest | models.Prefetch, collection: str) -> Iterator[tuple[str, PointId]]:
    """Points, each with its collection, that the queries of a request or prefetch are made of, such as examples.

    Raises:
        SettingsError: A query is of an unknown kind.
    """
    place = collection if stage.lookup_from is None else stage.lookup_from.collection
    for identity in _used(stage.query):
        yield place, identity
    for one in _prefetches(stage):
        yield from mentioned(one, collection)


def _prefetches(stage: models.QueryRequest | models.Prefetch) -> list[models.Prefetch]:
    found = stage.prefetch
    return [] if found is None else found if isinstance(found, list) else [found]


def _used(query: Any) -> Iterator[PointId]:
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


def _pairs(context: models.ContextPair | Iterable[models.ContextPair] | None) -> Iterator[PointId]:
    for pair in [context] if isinstance(context, models.ContextPair) else context or ():
        yield from _points(pair.positive, pair.negative)


def _points(*values: Any) -> Iterator[PointId]:
    """The ids among values; others must be vectors, or something to make one of."""
    for value in values:
        if isinstance(value, _VECTORS):
            continue
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise SettingsError(f"a query is {type(value).__name__}; expected a vector, or the id of a point")
        yield from normal_ids([value])
