"""Questions to stores, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.types import PointId

VECTOR_NAME = "hysac"
"""Name of the vector in every collection."""

METADATA_KEY = "hysac"
"""The one key of this package in a collection's metadata; an application's metadata beside it is left alone."""

UPSERT_CHUNK = 500
"""Points sent to an engine at once: a few megabytes, far below the limit of a Qdrant server (32 MB)."""

IndexKind = Literal["keyword", "integer", "float", "bool", "datetime", "uuid", "text", "geo"]
"""Kinds of payload indexes, as Qdrant names them."""
Consistency = int | Literal["majority", "quorum", "all"]
"""Copies on a cluster that a read asks: what so many of them, or all, agree on is returned."""
ShardKey = int | str
"""Name of the shards of a tenant, in a collection that is divided by tenants."""
Metric = Literal["Dot", "Euclid"]
"""Comparison of stored vectors. Dot: larger is nearer; Euclid: smaller is nearer."""
Quantization = Literal["int8", "turbo4", "turbo8", "binary"]
"""Compression of the vectors that a graph search compares; the originals stay for rescoring."""


@dataclass(frozen=True, slots=True)
class HnswOptions:
    """Options of an engine's graph. The defaults are Qdrant's but for `ef_construct`.

    Attributes:
        m: Edges of a node, 2 or more.
        ef_construct: Candidates considered while building, 4 or more, and while searching when a search names none.
            Points of a trained model need more than Qdrant's 100 for a recall@10 above 0.995 (benchmarks/recall.py).
        full_scan_threshold: Segments, or filtered parts of one, below this many kilobytes of vectors are searched
            exactly instead of through the graph.
        indexing_threshold: Segments above this many kilobytes of vectors get a graph; None for the engine's own.
    """

    m: int = 16
    ef_construct: int = 256
    full_scan_threshold: int = 10_000
    indexing_threshold: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("m", 2), ("ef_construct", 4), ("full_scan_threshold", 0), ("indexing_threshold", 0)):
            value = getattr(self, name)
            if name == "indexing_threshold" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SettingsError(f"hnsw option {name} is {value!r}; it must be an integer of {least} or more")


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Options of an engine's storage. None leaves the choice to the engine.

    Attributes:
        on_disk: Keep the vectors on disk and read them when needed; quantized ones stay in memory.
        on_disk_payload: Keep payloads on disk.
        shards: Shards of a cluster's collection, 1 or more; for a server only.
        replication_factor: Copies of each shard, 1 or more; for a server only.
        write_consistency_factor: Copies that must confirm a write, 1 to `replication_factor`; for a server only.
        shard_by: Payload field whose value, a word or a whole number, names the shards of a point (a tenant); for a
            server only. `shards` then counts for each value.
    """

    on_disk: bool | None = None
    on_disk_payload: bool | None = None
    shards: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    shard_by: str | None = None

    @property
    def of_clusters(self) -> list[str]:
        """Names of the options that are given and are for a server only."""
        names = ("shards", "replication_factor", "write_consistency_factor", "shard_by")
        return [name for name in names if getattr(self, name) is not None]

    def __post_init__(self) -> None:
        for name in ("shards", "replication_factor", "write_consistency_factor"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SettingsError(f"storage option {name} is {value!r}; it must be an integer of 1 or more")
        if (self.write_consistency_factor or 1) > (self.replication_factor or 1):
            raise SettingsError(
                f"write_consistency_factor is {self.write_consistency_factor}, but there are only "
                f"{self.replication_factor or 1} copies of a shard",
                hint="Raise replication_factor, or lower write_consistency_factor",
            )


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """A collection to make.

    Attributes:
        size: Length of the stored vectors.
        metadata: JSON values to keep with the collection.
        metric: Comparison of the vectors.
        indexes: Payload fields to index, made before the first point arrives.
        hnsw: Options of the graph.
        quantization: Compression of the graph's vectors; None for none.
        storage: Options of the storage.
    """

    size: int
    metadata: Mapping[str, Any]
    metric: Metric = "Dot"
    indexes: Mapping[str, IndexKind] = field(default_factory=dict)
    hnsw: HnswOptions = HnswOptions()
    quantization: Quantization | None = None
    storage: StorageOptions = StorageOptions()


@dataclass(frozen=True, slots=True)
class Opened:
    """Facts about a collection that exists.

    Attributes:
        metadata: Metadata under `METADATA_KEY`; None when the collection has none.
        size: Length of the vectors named `VECTOR_NAME`; None when there is no such vector.
        metric: Comparison of the vectors; None when there is no such vector, or another comparison.
        formula: Whether the engine can compute a geodesic distance in a second stage (acosh in formulas).
        estimates: Whether counts are estimates, because strict mode allows no exact ones.
        copies: Copies of each shard, on a cluster.
        keyed: Whether its shards are chosen by a key, such as a tenant.
    """

    metadata: Mapping[str, Any] | None
    size: int | None
    metric: Metric | None = "Dot"
    formula: bool = False
    estimates: bool = False
    copies: int = 1
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """Searches of one request.

    They differ in their vector, in the formula of their second stage if they have one, and perhaps in their condition.
    Without formulas a point's score is the engine's own, and points come best first. With them, the first stage finds
    `candidates` points by vector and the second scores those by the formula, highest first.

    Attributes:
        vectors: Shape (n, size), float32.
        limit: Points to return for each, 1 or more.
        least: How many of them are wanted; a store in strict mode may return so many only. None for all.
        shard_key_selector: Tenants to search, in a collection that is divided by them; None for all.
        filter: Condition on every point, applied inside the search: in the first stage and, with formulas, at the
            root as well.
        filters: One condition for each vector, which takes the place of `filter`; a store asks `condition`.
        ef: Candidates that the graph search keeps; None for the engine's own.
        formulas: One for each vector, in terms of ``$score`` (the first stage's) and of payload fields.
        candidates: Points that the first stage hands to the formula; at least `limit`.
        oversampling: Factor, 1 or more, of the quantized candidates that are compared again by their original vectors;
            None without quantization.
        with_vectors: Whether stored vectors are returned.
    """

    vectors: NDArray[np.float32]
    limit: int
    filter: models.Filter | None = None
    ef: int | None = None
    formulas: Sequence[models.FormulaQuery] | None = None
    candidates: int | None = None
    oversampling: float | None = None
    with_vectors: bool = True
    filters: Sequence[models.Filter | None] | None = None
    least: int | None = None
    shard_key_selector: models.ShardKeySelector | None = None

    def condition(self, row: int) -> models.Filter | None:
        """Return the condition on the points found for one of the vectors."""
        return self.filter if self.filters is None else self.filters[row]


@dataclass(frozen=True, slots=True)
class GroupQuery:
    """Grouping of the points that one search finds by the value of a payload field.

    Attributes:
        key: Field to group by (a path such as ``album.id``); a point with several values is in several groups.
        groups: Groups to return, 1 or more.
        size: Points of each group, 1 or more.
    """

    key: str
    groups: int
    size: int


class StoredPoint(NamedTuple):
    """A point as the engine returned it; `score` and `vector` are None if not asked for.

    `differs` says that its copies on a cluster are not the same, so that this is what one of them has.
    """

    id: PointId
    payload: Mapping[str, Any]
    score: float | None = None
    vector: Sequence[float] | None = None
    differs: bool = False


def named_vector(vectors: Any, name: str) -> Any:
    """Return the vector of a name among those of a point, "" for the one that has none; None if it is not there."""
    return vectors.get(name) if isinstance(vectors, dict) else vectors if name == "" else None


@dataclass(frozen=True, slots=True)
class Group:
    """Points that share a value of the field grouped by, best first."""

    value: str | int
    points: Sequence[StoredPoint]
