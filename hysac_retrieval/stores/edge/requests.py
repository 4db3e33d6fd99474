"""Requests to the embedded engine, and how its answers are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import qdrant_edge as edge
from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores.edge.filter import edge_filter
from hysac_retrieval.stores.edge.formula import edge_formula
from hysac_retrieval.stores.types import (
    VECTOR_NAME,
    CollectionSpec,
    IndexKind,
    Metric,
    Quantization,
    StoredPoint,
    VectorQuery,
    named_vector,
)
from hysac_retrieval.types import PointId

INDEX_TYPES: dict[IndexKind, Any] = {
    kind: getattr(edge.PayloadSchemaType, kind.capitalize()) for kind in get_args(IndexKind)
}
DISTANCES: dict[Metric, Any] = {"Dot": edge.Distance.Dot, "Euclid": edge.Distance.Euclid}


def shard_config(spec: CollectionSpec) -> Any:
    """How the engine is to keep a collection.

    Raises:
        SettingsError: The options are those of a cluster.
    """
    hnsw, storage = spec.hnsw, spec.storage
    if given := storage.of_clusters:
        raise SettingsError(
            f"{' and '.join(given)} are for a Qdrant server (url=); the embedded engine has one folder for a collection"
        )
    return edge.EdgeConfig(
        vectors={
            VECTOR_NAME: edge.EdgeVectorParams(size=spec.size, distance=DISTANCES[spec.metric], on_disk=storage.on_disk)
        },
        on_disk_payload=storage.on_disk_payload,
        hnsw_config=edge.HnswIndexConfig(
            m=hnsw.m, ef_construct=hnsw.ef_construct, full_scan_threshold=hnsw.full_scan_threshold
        ),
        quantization_config=None if spec.quantization is None else _quantization(spec.quantization),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=hnsw.indexing_threshold),
    )


def _quantization(kind: Quantization) -> Any:
    # Quantized vectors stay in memory, whatever happens to the originals: they are what every search reads first.
    if kind == "int8":
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, always_ram=True)
    if kind == "binary":
        return edge.BinaryQuantizationConfig(always_ram=True)
    bits = edge.TurboQuantBitSize.Bits4 if kind == "turbo4" else edge.TurboQuantBitSize.Bits8
    return edge.TurboQuantQuantizationConfig(always_ram=True, bits=bits)


def query_requests(query: VectorQuery, translate: Callable[[models.Filter], Any] = edge_filter) -> list[Any]:
    """Return the searches as requests to the engine.

    Args:
        query: The searches.
        translate: Makes a condition of the engine's of a filter; a store remembers what it made.
    """
    if query.shard_key_selector is not None:
        raise SettingsError("shard_key_selector is for a Qdrant server (url=)", hint="Leave it out")
    params = _params(query)
    vectors: list[Any] = [VECTOR_NAME] if query.with_vectors else False  # type: ignore[assignment]  # or a boolean
    filters = query.filters or [query.filter] * len(query.vectors)
    conditions = [None if filter is None else translate(filter) for filter in filters]
    nearest = [edge.Query.Nearest(vector, using=VECTOR_NAME) for vector in query.vectors.tolist()]
    if query.formulas is None:
        return [
            edge.QueryRequest(
                query=each, params=params, filter=condition, limit=query.limit, with_payload=True, with_vector=vectors
            )
            for each, condition in zip(nearest, conditions, strict=True)
        ]
    candidates = max(query.candidates or 0, query.limit)
    return [
        edge.QueryRequest(
            query=edge_formula(formula),
            prefetches=[edge.Prefetch(limit=candidates, query=each, params=params, filter=condition)],
            filter=condition,
            limit=query.limit,
            with_payload=True,
            with_vector=vectors,
        )
        for each, formula, condition in zip(nearest, query.formulas, conditions, strict=True)
    ]


def _params(query: VectorQuery) -> Any:
    if query.ef is None and query.oversampling is None:
        return None
    quantization = None
    if query.oversampling is not None:
        quantization = edge.QuantizationSearchParams(rescore=True, oversampling=query.oversampling)
    return edge.SearchParams(hnsw_ef=query.ef, quantization=quantization)


def point_id(identity: Any) -> PointId:
    """An id as the rest of the package writes it: the engine answers with UUID objects."""
    return identity if isinstance(identity, int) else str(identity)


def stored(point: Any, score: float | None = None, *, with_vector: bool | str = True) -> StoredPoint:
    """Return a point of an answer. Each access to the engine's own converts anew, so nothing is read twice."""
    identity, vector = point.id, None
    if with_vector is not False:
        vector = named_vector(point.vector, VECTOR_NAME if with_vector is True else with_vector)
    return StoredPoint(identity if type(identity) is int else str(identity), point.payload or {}, score, vector)
