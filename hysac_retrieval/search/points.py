"""Queries to points: texts and images are encoded, stored points fetched, examples made one point."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.current import ask
from hysac_retrieval.collection.interpret import hits_of
from hysac_retrieval.collection.metadata import CollectionMetadata
from hysac_retrieval.collection.plan import plan_search
from hysac_retrieval.collection.records import checked_point, checked_points, found_points
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.errors import InputError, InvalidVectorError, SettingsError
from hysac_retrieval.payload import own_payload
from hysac_retrieval.safety.policy import LEAST_KNOWN, SafetyPolicy
from hysac_retrieval.safety.redirect import boundary_of, radius_of
from hysac_retrieval.safety.views import Judged, of_vector, stored_views
from hysac_retrieval.search.queries import (
    Examples,
    JudgingEncoder,
    LorentzPoint,
    MappingEncoder,
    PointRef,
    Query,
    QueryEncoder,
    expect_no_url,
    is_pixels,
)
from hysac_retrieval.search.request import AnyRequest
from hysac_retrieval.steps import Steps
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import Modality, PointId, Thresholds

Point = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QueryPoint:
    """A query as a point.

    Attributes:
        point: Shape (d,).
        modality: Kind of the query; None if unknown.
        hidden: Ids that its hits leave out: those of the points it is made of.
        judged: What of it was judged where that is more than the point; the worst of it says how unsafe the query is.
    """

    point: Point
    modality: Modality | None
    hidden: tuple[PointId, ...] = ()
    judged: Judged | None = None


_Leaf: TypeAlias = tuple[Point, Modality | None, Judged | None]


NEGATIVE_WEIGHT = 0.5
"""How far negative examples turn a query: their direction counts half as much as that of the positive ones."""


def query_points(
    collection: Collection,
    encoder: QueryEncoder | None,
    policy: SafetyPolicy,
    queries: Sequence[Query],
    request: AnyRequest,
    bound: Thresholds,
) -> Steps[list[QueryPoint]]:
    """Turn queries into points; texts are encoded together, and images, and stored points are fetched together.

    Args:
        collection: The collection searched.
        encoder: Encodes texts and images.
        policy: Which stored points a caller may know of.
        queries: The queries.
        request: What is asked for.
        bound: Largest scores that count as safe.

    Raises:
        InputError: A query cannot be read.
        PointNotFoundError: A stored point is not there, or not one that the policy lets a caller know of.
        SettingsError: A text or an image is asked, and there is no encoder.
    """
    leaves = [leaf for query in queries for leaf in _leaves(query)]
    ids = _mentioned(leaves)
    points: dict[int, _Leaf] = {}
    if ids:
        stored = yield from _visible(collection, policy, ids, request, bound)
        found, kinds = found_points(collection, ids, stored)
        views = {point.id: stored_views(own_payload(point.payload)) for point in stored}
        known = {key: (point, kind, views[key]) for key, point, kind in zip(ids, found, kinds, strict=True)}
        points = {id(leaf): known[leaf.id] for leaf in leaves if isinstance(leaf, PointRef)}
    to_encode: dict[Modality, list[Any]] = {}
    for leaf in leaves:
        if isinstance(leaf, PointRef):
            continue
        if (kind := kind_of(leaf)) is None:
            points[id(leaf)] = _array_point(collection, encoder, leaf, request.query_modality)
        else:
            to_encode.setdefault(kind, []).append(leaf)
    for kind, some in to_encode.items():
        if encoder is None:
            raise SettingsError(f"a {kind} query needs a model; this engine has none", hint="Connect with model=")
        rows, judged = _encoded(encoder, kind, some)
        rows = checked_points(collection, rows)
        points |= {id(leaf): (row, kind, one) for leaf, row, one in zip(some, rows, judged, strict=True)}
    made = [_query_point(query, points, collection.metadata.curvature) for query in queries]
    if not request.safe:
        return made
    return [_meant(query, collection.metadata, ask_unknown=policy.unknown == "ask") for query in made]


def _array_point(collection: Collection, encoder: QueryEncoder | None, leaf: Any, modality: Modality | None) -> _Leaf:
    """Return the point of an array: a vector for the head of a model that has one, a point for others."""
    if isinstance(leaf, LorentzPoint):
        return checked_point(collection, leaf.x), modality, None
    if not (isinstance(encoder, MappingEncoder) and encoder.maps_vectors):
        return checked_point(collection, leaf), modality, None
    try:
        vector = np.asarray(leaf, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InvalidVectorError(f"the query cannot be read as a vector: {error}") from error
    if vector.ndim != 1:
        what = f"the query is an array of shape {vector.shape}; a vector has one axis"
        raise InvalidVectorError(what, hint="Give several vectors to a batch, and a picture as a PIL image")
    rows, (kind,), (unlike,) = encoder.map_vectors(vector[None], modality)
    return checked_points(collection, rows)[0], kind, None if unlike is None else of_vector(unlike)


def _encoded(encoder: QueryEncoder, kind: Modality, some: list[Any]) -> tuple[Any, Sequence[Judged | None]]:
    if isinstance(encoder, JudgingEncoder):
        return encoder.judge_text(some) if kind == "text" else encoder.judge_image(some)
    return encoder.encode_text(some) if kind == "text" else encoder.encode_image(some), [None] * len(some)


def kind_of(query: Any) -> Modality | None:
    """Return what a query is: text, image, or None for an array. A string is always a text; see `is_pixels` for arrays.

    Raises:
        InputError: It is none of them, or a URL.
    """
    if isinstance(query, np.ndarray | list | tuple | LorentzPoint):
        return "image" if is_pixels(query) else None
    if isinstance(query, str):
        expect_no_url(query)
        return "text"
    if isinstance(query, os.PathLike | bytes | Image.Image):
        return "image"
    raise InputError(f"a query is text, a path, bytes, a PIL image, a vector or a point, not {type(query).__name__}")


def examples_point(
    positive: NDArray[np.float64], negative: Sequence[NDArray[np.float64]], curvature: float
) -> NDArray[np.float64]:
    """Return one point for examples.

    With u the direction of the positive centroid as seen from the origin, and w that of the negative one, the result
    lies in the direction of u + λ(u − w), λ = `NEGATIVE_WEIGHT`: on the great circle from w through u, beyond u by at
    most asin(λ / (1 + λ)), 19.5°. Its radius is that of the positive centroid. Only directions enter, because what
    something is about is its direction, and how unsafe it is its radius.

    Args:
        positive: Points (n, d), n ≥ 1.
        negative: Points (d,), none or more.
        curvature: Curvature c > 0 of the space (−c).

    Returns:
        The point, (d,).
    """
    centre: NDArray[np.float64] = lorentz.centroid(positive, curvature)
    if not len(negative):
        return centre
    sought, shunned = _direction(centre), _direction(lorentz.centroid(np.stack(negative), curvature))
    # Never zero where u is a direction: |u + λ(u − w)| ≥ (1 + λ) − λ.
    turned = _direction(sought + NEGATIVE_WEIGHT * (sought - shunned))
    return turned * float(np.linalg.norm(centre)) if sought.any() else centre


def _visible(
    collection: Collection, policy: SafetyPolicy, ids: tuple[PointId, ...], request: AnyRequest, bound: Thresholds
) -> Steps[list[StoredPoint]]:
    """Fetch stored points, those of them that the policy lets a caller know of.

    What is near a point, and how near, tells what it is. So points that the rules exclude are no queries, and where
    unsafe points are out of reach altogether, neither are they.
    """
    stored: list[StoredPoint] = yield from ask(collection, "retrieve", ids)
    rules, safe = policy.rules_of(request.safe), not policy.allow_unsafe
    if not stored or not (rules or safe):
        return stored
    among = models.Filter(must=[models.HasIdCondition(has_id=[point.id for point in stored])])
    plan = plan_search(
        collection,
        PageRequest(limit=len(stored), safe=safe, threshold=bound, filter=among),
        rules=rules,
        trust_reviews=policy.trusts_reviews(request.threshold),
    )
    origin = np.zeros((1, collection.metadata.dim))
    (answer,) = yield from ask(collection, "query", plan.query(origin))
    found = {hit.id for hit in policy.admitted(hits_of(plan, origin[0], answer), request.safe)}
    return [point for point in stored if point.id in found]


def _leaves(query: Query) -> tuple[Any, ...]:
    return (*query.positive, *query.negative) if isinstance(query, Examples) else (query,)


def _mentioned(leaves: Sequence[Any]) -> tuple[PointId, ...]:
    """Ids of the stored points among single queries, each once."""
    return tuple(dict.fromkeys(leaf.id for leaf in leaves if isinstance(leaf, PointRef)))


def _query_point(query: Query, points: Mapping[int, _Leaf], curvature: float) -> QueryPoint:
    if not isinstance(query, Examples):
        point, kind, judged = points[id(query)]
        return QueryPoint(point, kind, (query.id,) if isinstance(query, PointRef) else (), judged)
    positive = [points[id(leaf)] for leaf in query.positive]
    negative = [points[id(leaf)][0] for leaf in query.negative]
    made = examples_point(np.stack([point for point, *_ in positive]), negative, curvature)
    kinds = {kind for _, kind, _ in positive}
    # An example that hides something worse than its point shows makes the query as unsafe as that.
    hiding = [one for point, _, one in positive if one is not None and one.hides(radius_of(point, curvature))]
    worst = max(hiding, key=lambda one: one.radius, default=None)
    return QueryPoint(made, kinds.pop() if len(kinds) == 1 else None, _mentioned(_leaves(query)), worst)


def _meant(query: QueryPoint, metadata: CollectionMetadata, *, ask_unknown: bool) -> QueryPoint:
    """Return what a query that asks for safe results is held to mean.

    A text that is unsafe in another reading, or farther on, is searched by that: the safe counterpart of what is meant
    is wanted. A text that the model does not know is as unsafe as can be, since its score says nothing.
    """
    judged = query.judged
    if judged is None:
        return query
    hiding = judged.hides(radius_of(query.point, metadata.curvature))
    elsewhere = query.modality == "text" and hiding and boundary_of(judged.radius, "text", metadata.safety) is not None
    if elsewhere and judged.point is not None:
        query = replace(query, point=judged.point.astype(np.float64))
    if judged.known is not None and judged.known < LEAST_KNOWN and not ask_unknown:
        query = replace(query, judged=replace(judged, radius=math.inf))
    return query


def _direction(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vector along v; zero for zero."""
    length = float(np.linalg.norm(v))
    return v / length if length > 0 else np.zeros_like(v)
