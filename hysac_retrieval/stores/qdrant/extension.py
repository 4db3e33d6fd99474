"""`Extension` for collections behind a `QdrantClient`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.errors import PointNotFoundError
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.steps import run
from hysac_retrieval.stores.extension import Extension, Facts, inherited_quantization, write_present
from hysac_retrieval.stores.qdrant.client import Calls
from hysac_retrieval.stores.qdrant.layout import by_key, shard_keys, until_shown
from hysac_retrieval.stores.requests import DISTANCES, INDEX_TYPES
from hysac_retrieval.stores.types import METADATA_KEY, VECTOR_NAME, CollectionSpec, ShardKey
from hysac_retrieval.stores.versions import METADATA, NEW_VECTOR
from hysac_retrieval.types import PointId


class QdrantExtension(Extension):
    """The part of this package in one collection of an application; `local` as of `Operations`.

    Args:
        name: The collection.
        calls: Asks its client.
        local: As of `Operations`.
        keyed: Whether the application has divided the collection by shard keys.
    """

    def __init__(self, name: str, calls: Calls, *, local: bool, keyed: bool = False) -> None:
        self._name, self._calls, self._local, self._keyed = name, calls, local, keyed

    def facts(self) -> Facts:
        info = self._calls.get_collection(self._name)
        config, indexed = info.config, frozenset(info.payload_schema)
        dense, sparse = config.params.vectors, config.params.sparse_vectors
        named = dense if isinstance(dense, Mapping) else {} if dense is None else {"": dense}
        plain = {name: None if one.multivector_config else one.size for name, one in named.items()}
        sizes: dict[str, int | None] = dict.fromkeys(sparse or ()) | plain
        obstacle = ""
        if not self._local:
            version = self._calls.info().version
            if not NEW_VECTOR.known(version):
                obstacle = f"Qdrant {version} cannot add a vector to a collection that exists; 1.18 can"
        elif isinstance(dense, models.VectorParams):
            obstacle = "the client's local mode takes no unnamed vectors any more once there is a named one beside them"
        quantized = config.quantization_config
        inherited = inherited_quantization(quantized.model_dump(mode="json") if quantized else None)
        unnamed = isinstance(dense, models.VectorParams)
        mapped = "" in sizes and not unnamed
        return Facts(VECTOR_NAME in sizes, inherited, obstacle, unnamed, mapped, sizes, indexed)

    def extend(self, spec: CollectionSpec, *, vector: bool = True) -> None:
        if not self._local:
            METADATA.require(self._calls.info().version)
        indexed = {} if self._local else spec.indexes  # local mode has no use for indexes and warns about them
        for key, kind in indexed.items():
            self._calls.create_payload_index(self._name, key, INDEX_TYPES[kind])
        if vector:
            if self.facts().has_vector:  # left by a call that was killed, perhaps for another model
                self._calls.delete_vector_name(self._name, VECTOR_NAME)
            dense = models.DenseVectorConfig(size=spec.size, distance=DISTANCES[spec.metric])
            self._calls.create_vector_name(self._name, VECTOR_NAME, models.DenseVectorNameConfig(dense=dense))
        changes: dict[str, Any] = {"metadata": {METADATA_KEY: dict(spec.metadata)}}
        if vector and not self._local:
            hnsw = models.HnswConfigDiff(
                m=spec.hnsw.m,
                ef_construct=spec.hnsw.ef_construct,
                full_scan_threshold=spec.hnsw.full_scan_threshold,
            )
            changes["vectors_config"] = {VECTOR_NAME: models.VectorParamsDiff(hnsw_config=hnsw)}
        self._calls.update_collection(self._name, **changes)
        if not self._local:
            run(until_shown(self._name, spec.metadata), self._calls)

    def write(
        self, ids: Sequence[PointId], vectors: NDArray[np.float32] | None, payloads: Sequence[Mapping[str, Any]]
    ) -> int:
        def send(rows: Sequence[int]) -> None:
            operations: list[Any] = []
            for key, some in self._placed(ids, rows).items():
                if vectors is not None:
                    points = [models.PointVectors(id=ids[r], vector={VECTOR_NAME: vectors[r].tolist()}) for r in some]
                    update = models.UpdateVectors(points=points, shard_key=key)
                    operations.append(models.UpdateVectorsOperation(update_vectors=update))
                # The payload comes last: a point that has it has been done.
                changes = [models.SetPayload(payload=dict(payloads[r]), points=[ids[r]], shard_key=key) for r in some]
                operations += [models.SetPayloadOperation(set_payload=change) for change in changes]
            self._calls.batch_update_points(self._name, operations)

        return write_present(ids, send, self._there)

    def erase(self, ids: Sequence[PointId], *, vector: bool = True) -> None:
        def send(rows: Sequence[int]) -> None:
            operations: list[Any] = []
            for key, some in self._placed(ids, rows).items():
                few: dict[str, Any] = {"points": [ids[row] for row in some], "shard_key": key}
                # A null takes points out of the indexes below the key; deleting the key alone would leave them there.
                null, gone = models.SetPayload(payload={PAYLOAD_KEY: None}, **few), [PAYLOAD_KEY]
                operations += [
                    models.SetPayloadOperation(set_payload=null),
                    models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=gone, **few)),
                ]
                if vector:
                    dropped = models.DeleteVectors(vector=[VECTOR_NAME], **few)
                    operations.append(models.DeleteVectorsOperation(delete_vectors=dropped))
            self._calls.batch_update_points(self._name, operations)

        write_present(ids, send, self._there)

    def retract(self, indexes: Collection[str]) -> None:
        if not self._local:
            for key in indexes:
                self._calls.delete_payload_index(self._name, key)
        if self.facts().has_vector:
            self._calls.delete_vector_name(self._name, VECTOR_NAME)
        if METADATA_KEY in (self._calls.get_collection(self._name).config.metadata or {}):
            # A null removes a key; the application's own metadata stays.
            self._calls.update_collection(self._name, metadata={METADATA_KEY: None})
            if not self._local:
                run(until_shown(self._name, None), self._calls)

    def _placed(self, ids: Sequence[PointId], rows: Sequence[int]) -> Mapping[ShardKey | None, Sequence[int]]:
        """Gather rows by the shards that their points are in.

        Raises:
            PointNotFoundError: One is no longer there.
        """
        if not self._keyed:
            return {None: rows}
        places = run(shard_keys(self._name, [ids[row] for row in rows]), self._calls)
        if gone := [ids[row] for row in rows if ids[row] not in places]:
            raise PointNotFoundError(f"collection {self._name!r} has no point {gone[0]}")
        return by_key(rows, [places[ids[row]] for row in rows])

    def _there(self, ids: Sequence[PointId]) -> set[PointId]:
        found = self._calls.retrieve(self._name, list(ids), with_payload=False)
        return {record.id for record in found}
