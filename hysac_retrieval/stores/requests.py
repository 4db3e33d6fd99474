"""Requests to Qdrant and its replies: pure functions, shared by blocking and asynchronous code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from qdrant_client import models
from qdrant_client.local.payload_value_extractor import value_by_key

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores.types import (
    METADATA_KEY,
    VECTOR_NAME,
    CollectionSpec,
    Group,
    GroupQuery,
    IndexKind,
    Metric,
    Opened,
    Quantization,
    StoredPoint,
    VectorQuery,
    named_vector,
)
from hysac_retrieval.stores.versions import TURBO4, TURBO8, Feature

INDEX_TYPES: dict[IndexKind, models.PayloadSchemaType] = {
    kind: models.PayloadSchemaType(kind) for kind in get_args(IndexKind)
}
DISTANCES: dict[Metric, models.Distance] = {"Dot": models.Distance.DOT, "Euclid": models.Distance.EUCLID}
_METRICS = {distance: metric for metric, distance in DISTANCES.items()}


def collection_request(spec: CollectionSpec) -> dict[str, Any]:
    """Arguments of `QdrantClient.create_collection` that make a collection."""
    hnsw, storage = spec.hnsw, spec.storage
    vector = models.VectorParams(size=spec.size, distance=DISTANCES[spec.metric], on_disk=storage.on_disk)
    return {
        "vectors_config": {VECTOR_NAME: vector},
        "hnsw_config": models.HnswConfigDiff(
            m=hnsw.m, ef_construct=hnsw.ef_construct, full_scan_threshold=hnsw.full_scan_threshold
        ),
        "optimizers_config": models.OptimizersConfigDiff(indexing_threshold=hnsw.indexing_threshold),
        "quantization_config": None if spec.quantization is None else _quantization(spec.quantization),
        "on_disk_payload": storage.on_disk_payload,
        "shard_number": storage.shards,
        "sharding_method": None if storage.shard_by is None else models.ShardingMethod.CUSTOM,
        "replication_factor": storage.replication_factor,
        "write_consistency_factor": storage.write_consistency_factor,
        "metadata": {METADATA_KEY: dict(spec.metadata)},
    }


def _quantization(kind: Quantization) -> models.QuantizationConfig:
    # Quantized vectors stay in memory, whatever happens to the originals: they are what every search reads first.
    if kind == "int8":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        )
    if kind == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    bits = models.TurboQuantBitSize.BITS4 if kind == "turbo4" else models.TurboQuantBitSize.BITS8
    return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=bits, always_ram=True))


def needed(spec: CollectionSpec) -> list[Feature]:
    """Return what a server must be able to do for a collection."""
    return [feature for feature in (TURBO4, TURBO8) if feature.name == spec.quantization]


def read_collection(info: models.CollectionInfo, *, formula: bool = False, estimates: bool = False) -> Opened:
    """Read the description of a collection; `formula` says whether its engine computes geodesic distances."""
    vectors = info.config.params.vectors
    vector = vectors.get(VECTOR_NAME) if isinstance(vectors, Mapping) else None
    metric = _METRICS.get(vector.distance) if vector is not None and vector.multivector_config is None else None
    metadata = (info.config.metadata or {}).get(METADATA_KEY)
    return Opened(
        metadata=metadata if isinstance(metadata, Mapping) else None,
        size=vector.size if vector is not None and metric is not None else None,
        metric=metric,
        formula=formula,
        estimates=estimates,
        copies=info.config.params.replication_factor or 1,
        keyed=info.config.params.sharding_method == models.ShardingMethod.CUSTOM,
    )


def query_requests(query: VectorQuery, *, local: bool = False) -> list[models.QueryRequest]:
    """The searches as the requests of one batch."""
    # Local mode searches exactly and warns about parameters of a graph that it does not have; it gets none at all.
    params = None if local else search_params(query)
    if local and query.shard_key_selector is not None:
        raise SettingsError("shard_key_selector is for a Qdrant server, not for local mode", hint="Leave it out")
    vectors: list[list[float]] = query.vectors.tolist()
    requests = []
    for row, vector in enumerate(vectors):
        condition = query.condition(row)
        stage: dict[str, Any] = {"query": vector, "using": VECTOR_NAME, "filter": condition, "params": params}
        if query.formulas is not None:
            # The parameters belong to the stage that walks the graph. The condition stands in both stages, so that
            # neither can return what the other was told to leave out.
            first = models.Prefetch(**stage, limit=max(query.candidates or 0, query.limit))
            stage = {"query": query.formulas[row], "prefetch": [first], "filter": condition}
        shown = [VECTOR_NAME] if query.with_vectors else False
        stage |= {"limit": query.limit, "with_payload": True, "with_vector": shown}
        requests.append(models.QueryRequest(**stage, shard_key=query.shard_key_selector))
    return requests


def group_request(query: VectorQuery, groups: GroupQuery, *, local: bool = False) -> dict[str, Any]:
    """Arguments of `query_points_groups`, but for the name of the collection, for a query of a single vector."""
    (one,) = query_requests(query, local=local)
    return {
        "group_by": groups.key,
        "query": one.query,
        "prefetch": one.prefetch,
        "using": one.using,
        "query_filter": one.filter,
        "search_params": one.params,
        "limit": groups.groups,
        "group_size": groups.size,
        "with_payload": True,
        "with_vectors": one.with_vector,
        "shard_key_selector": one.shard_key,
    }


def members_query(query: VectorQuery, groups: GroupQuery, some: Sequence[Group]) -> VectorQuery:
    """Return searches, one for each of some groups, for the members of that group."""
    conditions = [models.FieldCondition(key=groups.key, match=models.MatchValue(value=group.value)) for group in some]
    before = [] if query.condition(0) is None else [query.condition(0)]
    return replace(
        query,
        vectors=query.vectors.repeat(len(some), axis=0),
        formulas=query.formulas and [*query.formulas] * len(some),
        filters=[models.Filter(must=[*before, condition]) for condition in conditions],
        limit=4 * groups.size,  # as some of them may be in no group
        least=groups.size,
    )


def group_values(payload: Mapping[str, Any], key: str) -> list[str | int]:
    """Return groups of a point; none for one with a value that is neither a word nor a whole number, as on a server."""
    values = value_by_key(dict(payload), key) or []
    if any(type(value) not in (str, int) for value in values):
        return []
    return list(dict.fromkeys(values))


def read_responses(responses: Sequence[models.QueryResponse]) -> list[list[StoredPoint]]:
    """The replies to `query_requests`."""
    return [[stored(point, point.score) for point in response.points] for response in responses]


def read_groups(result: models.GroupsResult) -> list[Group]:
    """The reply to `group_request`."""
    return [
        Group(value=group.id, points=[stored(point, point.score) for point in group.hits]) for group in result.groups
    ]


def read_memory(found: models.TelemetryData | None, name: str) -> int | None:
    """Bytes of vectors and payloads of a collection on the node that tells of its shards."""
    for collection in (found.collections.collections if found and found.collections else None) or []:
        if isinstance(collection, models.CollectionTelemetry) and collection.id == name:
            shards = [shard.local for shard in collection.shards or [] if shard.local is not None]
            return sum((s.vectors_size_bytes or 0) + (s.payloads_size_bytes or 0) for s in shards)
    return None


def stored(
    point: models.ScoredPoint | models.Record, score: float | None = None, *, vector: str = VECTOR_NAME
) -> StoredPoint:
    """A point of a reply, with its vector of that name, or with none."""
    found = named_vector(point.vector, vector)
    return StoredPoint(id=point.id, payload=point.payload or {}, score=score, vector=found)  # type: ignore[arg-type]


def search_params(query: VectorQuery) -> models.SearchParams | None:
    """Return the parameters of the stage that walks the graph; None where there are none."""
    if query.ef is None and query.oversampling is None:
        return None
    quantization = None
    if query.oversampling is not None:
        quantization = models.QuantizationSearchParams(rescore=True, oversampling=query.oversampling)
    return models.SearchParams(hnsw_ef=query.ef, quantization=quantization)
