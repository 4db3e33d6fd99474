"""`Extension` for collections of the embedded engine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from hysac_retrieval.errors import StoreError
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.stores.edge.requests import DISTANCES, INDEX_TYPES, point_id
from hysac_retrieval.stores.extension import Facts, inherited_quantization, write_present
from hysac_retrieval.stores.types import VECTOR_NAME, CollectionSpec
from hysac_retrieval.types import PointId

CONFIG = "edge_config.json"
"""The engine's own description of a shard, in its folder."""


def is_shard(folder: Path) -> bool:
    """Whether a folder holds the files of a shard."""
    return os.path.isfile(folder / CONFIG) and os.path.isdir(folder / "segments")


@dataclass(frozen=True)
class EdgeExtension:
    """Vector, payloads and metadata of this package in one collection of an application.

    Attributes:
        folder: Folder of the shard.
        shard: The shard, open.
        translated: Turns the engine's errors into a `StoreError`.
        check_space: Refuses to write so many bytes when the disk is nearly full.
        describe: Writes, or with None removes, the metadata beside the shard: see `EdgeStore`.
    """

    folder: Path
    shard: Any
    translated: Callable[[], AbstractContextManager[None]]
    check_space: Callable[[int], None]
    describe: Callable[[CollectionSpec | None], None]

    def facts(self) -> Facts:
        """See `Extension.facts`."""
        path = self.folder / CONFIG
        try:
            config = json.loads(path.read_text("utf-8"))
            dense = {name: _size(params) for name, params in (config.get("vectors") or {}).items()}
            sizes = dict.fromkeys(config.get("sparse_vectors") or ()) | dense
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"{path} cannot be read, so the contents of the shard are unknown: {error}") from error
        quantization = inherited_quantization(config.get("quantization_config"))
        indexed = frozenset(self.shard.info().payload_schema)
        return Facts(VECTOR_NAME in sizes, quantization, sizes=sizes, indexed=indexed)

    def extend(self, spec: CollectionSpec, *, vector: bool = True) -> None:
        """See `Extension.extend`."""
        with self.translated():
            self.check_space(0)
            if vector:
                if self.facts().has_vector:  # left by a call that was killed, perhaps for another model
                    self.shard.update(edge.UpdateOperation.delete_vector_name(VECTOR_NAME))
                self.shard.update(
                    edge.UpdateOperation.create_dense_vector(VECTOR_NAME, spec.size, DISTANCES[spec.metric])
                )
            for key, kind in spec.indexes.items():
                self.shard.update(edge.UpdateOperation.create_field_index(key, INDEX_TYPES[kind]))
            self.shard.flush()
        self.describe(spec)

    def write(
        self, ids: Sequence[PointId], vectors: NDArray[np.float32] | None, payloads: Sequence[Mapping[str, Any]]
    ) -> int:
        """See `Extension.write`."""

        def send(rows: Sequence[int]) -> None:
            with self.translated():
                self.check_space(sum(len(json.dumps(payloads[row])) for row in rows) + (_bytes(vectors) * len(rows)))
                if vectors is not None:
                    points = [edge.PointVectors(ids[row], {VECTOR_NAME: vectors[row].tolist()}) for row in rows]
                    self.shard.update(edge.UpdateOperation.update_vectors(points))
                # The payload comes last: a point that has it has been done.
                for row in rows:
                    self.shard.update(edge.UpdateOperation.set_payload([ids[row]], dict(payloads[row])))

        return write_present(ids, send, self._there)

    def erase(self, ids: Sequence[PointId], *, vector: bool = True) -> None:
        """See `Extension.erase`."""

        def send(rows: Sequence[int]) -> None:
            few: list[Any] = [ids[row] for row in rows]
            with self.translated():
                self.check_space(0)
                # A null takes the point out of the indexes below the key; deleting the key alone would leave it there.
                self.shard.update(edge.UpdateOperation.set_payload(few, {PAYLOAD_KEY: None}))
                self.shard.update(edge.UpdateOperation.delete_payload(few, [PAYLOAD_KEY]))
                if vector:
                    self.shard.update(edge.UpdateOperation.delete_vectors(few, [VECTOR_NAME]))

        write_present(ids, send, self._there)

    def retract(self, indexes: Collection[str]) -> None:
        """See `Extension.retract`."""
        has_vector = self.facts().has_vector
        with self.translated():
            for key in indexes:
                self.shard.update(edge.UpdateOperation.delete_field_index(key))
            if has_vector:
                self.shard.update(edge.UpdateOperation.delete_vector_name(VECTOR_NAME))
            self.shard.flush()
        self.describe(None)

    def _there(self, ids: Sequence[PointId]) -> set[PointId]:
        with self.translated():
            found = self.shard.retrieve(list(ids), with_payload=False, with_vector=False)
            return {point_id(record.id) for record in found}


def _size(params: Mapping[str, Any]) -> int | None:
    return None if params.get("multivector_config") else params.get("size")


def _bytes(vectors: NDArray[np.float32] | None) -> int:
    return 0 if vectors is None or not len(vectors) else vectors[0].nbytes
