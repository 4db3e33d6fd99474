"""Collections behind a `QdrantClient`: a server, a cloud cluster, or the client's local mode.

Building requests and reading replies are functions of their own, shared with the asynchronous search.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal
from qdrant_client.local.qdrant_local import QdrantLocal

from hysac_retrieval.errors import CollectionExistsError, CollectionNotFoundError, StorageLockedError, StoreError
from hysac_retrieval.results import PointId
from hysac_retrieval.stores.base import (
    METADATA_KEY,
    UPSERT_CHUNK,
    VECTOR_NAME,
    CollectionSpec,
    IndexKind,
    Opened,
    StoredPoint,
    VectorQuery,
)

_INDEX_TYPES: dict[IndexKind, models.PayloadSchemaType] = {
    "float": models.PayloadSchemaType.FLOAT,
    "keyword": models.PayloadSchemaType.KEYWORD,
    "bool": models.PayloadSchemaType.BOOL,
}
_OPTIMIZE_TIMEOUT = 3600.0


@contextmanager
def translated(name: str | None = None) -> Iterator[None]:
    """Turn what a client raises into `StoreError`, with the name of the collection if there is one."""
    where = f"collection {name!r}: " if name else ""
    try:
        yield
    except UnexpectedResponse as error:
        kind = CollectionNotFoundError if error.status_code == 404 else StoreError
        detail = error.content.decode(errors="replace") if error.content else error.reason_phrase
        raise kind(f"{where}Qdrant answered {error.status_code}: {detail}") from error
    except grpc.RpcError as error:
        raise StoreError(f"{where}Qdrant answered over gRPC: {error}") from error
    except ApiException as error:
        raise StoreError(f"{where}Qdrant cannot be reached: {error}. Is it running at the url you gave?") from error
    except (ValueError, RuntimeError, KeyError) as error:  # what the client's local mode raises
        raise StoreError(f"{where}{error}") from error


def query_requests(query: VectorQuery, *, local: bool = False) -> list[models.QueryRequest]:
    """The searches as the requests of one batch."""
    # Local mode searches exactly and warns about parameters of a graph that it does not have.
    params = models.SearchParams(hnsw_ef=query.ef) if query.ef is not None and not local else None
    return [
        models.QueryRequest(
            query=vector,
            using=VECTOR_NAME,
            filter=query.filter,
            limit=query.limit,
            params=params,
            with_payload=True,
            with_vector=[VECTOR_NAME],
        )
        for vector in query.vectors.tolist()
    ]


def read_responses(responses: Sequence[models.QueryResponse]) -> list[list[StoredPoint]]:
    """The replies to `query_requests`."""
    return [[_stored(point, point.score) for point in response.points] for response in responses]


def read_collection(info: models.CollectionInfo) -> Opened:
    """What a collection's description says about it."""
    vectors = info.config.params.vectors
    ours = vectors.get(VECTOR_NAME) if isinstance(vectors, Mapping) else None
    fits = ours is not None and ours.distance == models.Distance.DOT and ours.multivector_config is None
    metadata = (info.config.metadata or {}).get(METADATA_KEY)
    return Opened(
        metadata=metadata if isinstance(metadata, Mapping) else None,
        size=ours.size if ours is not None and fits else None,
    )


def is_local(client: Any) -> bool:
    """Whether a client keeps its collections in this process."""
    return isinstance(getattr(client, "_client", None), QdrantLocal | AsyncQdrantLocal)


class QdrantStore:
    """Collections of a `QdrantClient`.

    Args:
        client: The client to use.
        owned: Whether `close` closes the client; False for a client that belongs to the application.
    """

    def __init__(self, client: QdrantClient, *, owned: bool = False) -> None:
        self._client = client
        self._owned = owned
        self._local = is_local(client)
        # The local mode changes plain Python containers while it writes; a server needs no lock of ours.
        self._lock: AbstractContextManager[Any] = threading.RLock() if self._local else nullcontext()

    @classmethod
    def connect(
        cls,
        *,
        url: str | None = None,
        path: str | None = None,
        api_key: str | None = None,
        prefer_grpc: bool = False,
    ) -> QdrantStore:
        """Make a client of our own: for a server (`url`), a folder in local mode (`path`) or memory (neither).

        Raises:
            StorageLockedError: Another client has the folder open.
        """
        try:
            if url is not None:
                # Without the client's check of versions, which only warns, from a thread of its own: a server that is
                # away or too old is found out by the first request, as an error.
                client = QdrantClient(url=url, api_key=api_key, prefer_grpc=prefer_grpc, check_compatibility=False)
            elif path is not None:
                client = QdrantClient(path=path)
            else:
                client = QdrantClient(":memory:")
        except RuntimeError as error:
            if "already accessed" in str(error):
                raise StorageLockedError(
                    f"the folder {path} is open in another client; close that one, or run a Qdrant server and use url="
                ) from error
            raise
        except ValueError as error:
            raise StoreError(f"no client for url {url!r}: {error}") from error
        return cls(client, owned=True)

    @property
    def client(self) -> QdrantClient:
        """The client behind this store."""
        return self._client

    def names(self) -> list[str]:
        """See `Store.names`."""
        with self._lock, translated():
            return sorted(collection.name for collection in self._client.get_collections().collections)

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        with self._lock, translated(name):
            return self._client.collection_exists(name)

    def create(self, name: str, spec: CollectionSpec) -> None:
        """See `Store.create`."""
        if self.exists(name):
            raise CollectionExistsError(
                f"collection {name!r} exists already; open it, or recreate it (which removes its points)"
            )
        hnsw = spec.hnsw
        with self._lock, translated(name):
            self._client.create_collection(
                name,
                vectors_config={VECTOR_NAME: models.VectorParams(size=spec.size, distance=models.Distance.DOT)},
                hnsw_config=models.HnswConfigDiff(
                    m=hnsw.m, ef_construct=hnsw.ef_construct, full_scan_threshold=hnsw.full_scan_threshold
                ),
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=hnsw.indexing_threshold),
                metadata={METADATA_KEY: dict(spec.metadata)},
            )
        try:
            if self.open(name).metadata is None:
                raise StoreError("this Qdrant server keeps no collection metadata; it needs version 1.16 or later")
            if not self._local:  # payload indexes have no effect in local mode, which warns about them
                with translated(name):
                    for key, kind in spec.indexes.items():
                        self._client.create_payload_index(name, key, _INDEX_TYPES[kind], wait=True)
        except StoreError:
            self.drop(name)
            raise

    def open(self, name: str) -> Opened:
        """See `Store.open`."""
        if not self.exists(name):
            found = ", ".join(self.names()) or "none"
            raise CollectionNotFoundError(
                f"no collection {name!r}; there are: {found}. Index something first, or create it"
            )
        with self._lock, translated(name):
            return read_collection(self._client.get_collection(name))

    def drop(self, name: str) -> None:
        """See `Store.drop`."""
        with self._lock, translated(name):
            self._client.delete_collection(name)

    def write_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """See `Store.write_metadata`."""
        with self._lock, translated(name):
            self._client.update_collection(name, metadata={METADATA_KEY: dict(metadata)})

    def upsert(
        self, name: str, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Store.upsert`."""
        rows = vectors.tolist()
        for start in range(0, len(ids), UPSERT_CHUNK):
            chunk = slice(start, start + UPSERT_CHUNK)
            points = [
                models.PointStruct(id=i, vector={VECTOR_NAME: v}, payload=dict(p))
                for i, v, p in zip(ids[chunk], rows[chunk], payloads[chunk], strict=True)
            ]
            with self._lock, translated(name):
                self._client.upsert(name, points, wait=True)

    def query(self, name: str, query: VectorQuery) -> list[list[StoredPoint]]:
        """See `Store.query`."""
        if not len(query.vectors):
            return []
        with self._lock, translated(name):
            responses = self._client.query_batch_points(name, query_requests(query, local=self._local))
        return read_responses(responses)

    def retrieve(self, name: str, ids: Sequence[PointId]) -> list[StoredPoint]:
        """See `Store.retrieve`."""
        with self._lock, translated(name):
            records = self._client.retrieve(name, list(ids), with_payload=True, with_vectors=[VECTOR_NAME])
        return [_stored(record) for record in records]

    def count(self, name: str, filter: models.Filter | None = None) -> int:
        """See `Store.count`."""
        with self._lock, translated(name):
            return self._client.count(name, count_filter=filter, exact=True).count

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        """See `Store.delete`."""
        with self._lock, translated(name):
            self._client.delete(name, models.PointIdsList(points=list(ids)), wait=True)

    def optimize(self, name: str) -> None:
        """Wait until a server has finished its graph, which it builds on its own; local mode has none."""
        deadline = time.monotonic() + _OPTIMIZE_TIMEOUT
        while not self._local:
            with translated(name):
                status = self._client.get_collection(name).status
            if status in (models.CollectionStatus.GREEN, models.CollectionStatus.GREY):
                return
            if time.monotonic() > deadline:
                raise StoreError(f"collection {name!r} is still {status.value} after {_OPTIMIZE_TIMEOUT:.0f} seconds")
            time.sleep(0.5)

    def indexed(self, name: str) -> int:
        """See `Store.indexed`."""
        with self._lock, translated(name):
            return self._client.get_collection(name).indexed_vectors_count or 0

    def close(self) -> None:
        """See `Store.close`."""
        if self._owned:
            with self._lock:
                self._client.close()


def _stored(point: models.ScoredPoint | models.Record, score: float | None = None) -> StoredPoint:
    vector = point.vector.get(VECTOR_NAME) if isinstance(point.vector, dict) else None
    return StoredPoint(id=point.id, payload=point.payload or {}, score=score, vector=vector)  # type: ignore[arg-type]
