"""Queries to points: texts and images are encoded, stored points fetched, examples made one point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.records import checked_point, checked_points
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.search.queries import Examples, PointRef, Query, QueryEncoder, examples_point, kind_of
from hysac_retrieval.types import MODALITIES, Modality, PointId

Point = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QueryPoint:
    """A query as a point.

    Attributes:
        point: Shape (d,).
        modality: Kind of the query; None if unknown.
        hidden: Ids that its hits leave out: those of the points it is made of.
    """

    point: Point
    modality: Modality | None
    hidden: tuple[PointId, ...] = ()


Stored = Mapping[PointId, tuple[Point, Modality | None]]
"""Points of the collection by id, with what they were encoded from."""


def mentioned(queries: Sequence[Query]) -> tuple[PointId, ...]:
    """Return the ids of stored points that queries are made of, each once."""
    return tuple(dict.fromkeys(leaf.id for query in queries for leaf in _leaves(query) if isinstance(leaf, PointRef)))


def query_points(
    collection: Collection,
    encoder: QueryEncoder | None,
    queries: Sequence[Query],
    stored: Stored,
    modality: Modality | None,
) -> list[QueryPoint]:
    """Turn queries into points; texts are encoded together, and images.

    Args:
        collection: The collection searched.
        encoder: Encodes texts and images.
        queries: The queries.
        stored: The points that `mentioned` names.
        modality: What points that are given as such were encoded from.

    Raises:
        InputError: A query cannot be read.
        SettingsError: A text or an image is asked, and there is no encoder.
    """
    found: dict[int, tuple[Point, Modality | None]] = {}
    to_encode: dict[Modality, list[Any]] = {}
    for leaf in (leaf for query in queries for leaf in _leaves(query)):
        if isinstance(leaf, PointRef):
            found[id(leaf)] = stored[leaf.id]
        elif (kind := kind_of(leaf)) is None:
            found[id(leaf)] = checked_point(collection, leaf), modality
        else:
            to_encode.setdefault(kind, []).append(leaf)
    for kind in MODALITIES:
        if leaves := to_encode.get(kind):
            if encoder is None:
                raise SettingsError(
                    f"a {kind} query needs a model, and this engine has none", hint="Connect with model="
                )
            encoded = encoder.encode_text(leaves) if kind == "text" else encoder.encode_image(leaves)
            rows = checked_points(collection, encoded)
            found |= {id(leaf): (row, kind) for leaf, row in zip(leaves, rows, strict=True)}
    return [_made(collection, query, found) for query in queries]


def _leaves(query: Query) -> tuple[Any, ...]:
    return (*query.positive, *query.negative) if isinstance(query, Examples) else (query,)


def _made(collection: Collection, query: Query, found: Mapping[int, tuple[Point, Modality | None]]) -> QueryPoint:
    if not isinstance(query, Examples):
        return QueryPoint(*found[id(query)], (query.id,) if isinstance(query, PointRef) else ())
    positive = [found[id(leaf)] for leaf in query.positive]
    negative = [found[id(leaf)][0] for leaf in query.negative]
    made = examples_point(
        np.stack([point for point, _ in positive]),
        np.stack(negative) if negative else np.empty((0, collection.metadata.dim)),
        collection.metadata.curvature,
    )
    kinds = {kind for _, kind in positive}
    return QueryPoint(made, kinds.pop() if len(kinds) == 1 else None, mentioned([query]))
