"""A search as it is asked for, and as it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.stores.types import VectorQuery
from hysac_retrieval.types import Modality

Rerank = Literal["exact", "formula"]
"""Where hits get their order and distance, instead of from the engine's own score: in float64 from the stored points,
or in a second stage of the engine."""


class QueryOptions(TypedDict, total=False):
    """Options of a search with points.

    Attributes:
        limit: Hits to return at most, from 1; with `offset` 10,000 at most. Default 10.
        offset: Hits to leave out before them. Default 0.
        safe: Whether every hit must have an unsafe score of at most the threshold (the default). This holds inside the
            search and whatever `filter` says; a point without a valid score of this collection's model is not safe.
        threshold: Stricter threshold than the calibration's, from 0 to that one.
        filter: The caller's own condition, as a Qdrant filter or its JSON form; it can only narrow the result.
        rules: A further condition, of a policy.
        modality: Kind of points to find; None for both.
        ef: Candidates that the graph search keeps; None for the engine's own. Raised to what `limit` needs.
        candidates: Points that the first stage of the search hands to the ranking, where the engine's own score does
            not rank by itself (a Poincaré lift, a penalty, quantized vectors). Default: for quantized vectors a few
            more than hits are asked for, else 100, doubled until they are twice as many as the hits. Pages of one query
            are disjoint if all name the same number.
        rerank: ``"exact"`` computes distances in float64 from the stored points, and orders by them; always so where
            vectors are quantized. ``"formula"`` has the engine compute them in a second stage, where it can. None takes
            them from the engine's score: the same numbers to float32 accuracy, at the least cost.
        penalty: What a hit's unsafe score, in [0, 1], adds to its distance in the ranking, in units of distance: order
            instead of exclusion. Default 0.
    """

    limit: int
    offset: int
    safe: bool
    threshold: float | None
    filter: models.Filter | Mapping[str, Any] | None
    rules: models.Filter | None
    modality: Modality | None
    ef: int | None
    candidates: int | None
    rerank: Rerank | None
    penalty: float


class AskOptions(TypedDict, total=False):
    """Options that every kind of search has.

    Attributes:
        safe: Redirect an unsafe query toward its safe counterpart and return only hits whose unsafe score is at most
            the threshold (the default). With False the query is answered as asked.
        modality: Kind of points to find, ``"image"`` or ``"text"``; None for both.
        filter: The caller's own Qdrant filter or its JSON form; it can only narrow the result.
        threshold: Threshold for this search, no looser than the engine's policy allows.
        ef: Candidates that the graph search keeps; None for the engine's own.
        candidates: Points that a first stage hands to the ranking, where there is one; see `plans.QueryOptions`.
        rerank: ``"exact"`` for distances in float64 from the stored points; see `plans.QueryOptions`.
        penalty: What a hit's unsafe score adds to its distance in the ranking; see `plans.QueryOptions`.
        query_modality: What a point was encoded from. Without it a point is held to both calibrations.
        context: Who asked, and what else an audit should know; goes into the `AuditRecord` as it is.
    """

    safe: bool
    modality: Modality | None
    filter: models.Filter | Mapping[str, Any] | None
    threshold: float | None
    ef: int | None
    candidates: int | None
    rerank: Rerank | None
    penalty: float
    query_modality: Modality | None
    context: Mapping[str, Any] | None


class SearchOptions(AskOptions, total=False):
    """Options of a search.

    Attributes:
        limit: Hits at most, from 1; with `offset` 10,000 at most. Default 10.
        offset: Hits to leave out before them. Default 0.
    """

    limit: int
    offset: int


ASK_OPTIONS, SEARCH_OPTIONS = (tuple(kind.__annotations__) for kind in (AskOptions, SearchOptions))


@dataclass(frozen=True)
class SearchPlan:
    """A search ready to be sent.

    Attributes:
        query: What goes to the store.
        points: The points searched with, (n, d) float64.
        limit: Hits to return for each, at most.
        offset: Hits to leave out before them.
        threshold: Largest unsafe score of a hit; None for a search that may return anything.
        penalty: What a hit's unsafe score adds to its distance in the ranking.
        exact: Whether distances are computed from the stored points, in float64.
    """

    query: VectorQuery
    points: NDArray[np.float64]
    limit: int
    offset: int
    threshold: float | None
    penalty: float
    exact: bool
