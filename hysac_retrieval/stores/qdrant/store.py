"""Collections behind a `QdrantClient`: a server, a cloud cluster, or the client's local mode.

Building requests and reading replies are functions of their own, shared with the asynchronous search.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal
from qdrant_client.local.qdrant_local import QdrantLocal

from hysac_retrieval.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    SettingsError,
    StorageLockedError,
    StoreError,
)
from hysac_retrieval.stores.amend import Amendment, fitting
from hysac_retrieval.stores.faults import translated
from hysac_retrieval.stores.qdrant.extension import QdrantExtension
from hysac_retrieval.stores.requests import (
    INDEX_TYPES,
    collection_request,
    group_request,
    knows_formulas,
    query_requests,
    read_collection,
    read_groups,
    read_responses,
    stored,
)
from hysac_retrieval.stores.retry import Retry, counted
from hysac_retrieval.stores.types import (
    METADATA_KEY,
    UPSERT_CHUNK,
    VECTOR_NAME,
    CollectionSpec,
    Group,
    GroupQuery,
    Opened,
    StoredPoint,
    VectorQuery,
)
from hysac_retrieval.types import PointId

__all__ = [
    "QdrantStore",
    "client_options",
    "group_request",
    "is_local",
    "knows_formulas",
    "query_requests",
    "read_collection",
    "read_groups",
    "read_responses",
    "translated",
]

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds that a server of ours may take to answer, if the caller does not say."""

_OPTIMIZE_TIMEOUT = 3600.0
_TOO_LARGE = 413
_TELEMETRY_OF_SHARDS = 3  # the least level of detail at which a server describes the shards of its collections


def is_local(client: Any) -> bool:
    """Whether a client keeps its collections in this process."""
    return isinstance(getattr(client, "_client", None), QdrantLocal | AsyncQdrantLocal)


def client_options(
    url: str, api_key: str | None = None, prefer_grpc: bool = False, timeout: float | None = None
) -> dict[str, Any]:
    """Arguments of a client of our own, blocking or asynchronous; see `QdrantStore.connect`."""
    return {
        "url": url,
        "api_key": api_key,
        "prefer_grpc": prefer_grpc,
        "timeout": math.ceil(TIMEOUT if timeout is None else timeout),
        # The client's check of versions only warns, from a thread of its own. A server that is away or too old is found
        # out by the first request, as an error.
        "check_compatibility": False,
    }


class QdrantStore:
    """Collections of a `QdrantClient`.

    Args:
        client: The client to use.
        owned: Whether `close` closes the client; False for a client that belongs to the application.
        retry: What is done when a server cannot answer just now.
    """

    def __init__(self, client: QdrantClient, *, owned: bool = False, retry: Retry | None = None) -> None:
        self._client = client
        self._owned = owned
        self._retry = retry or Retry()
        self._local = is_local(client)
        self._knows_formulas: bool | None = None
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
        timeout: float | None = None,
        retry: Retry | None = None,
    ) -> QdrantStore:
        """Make a client of our own: for a server (`url`), a folder in local mode (`path`) or memory (neither).

        Args:
            url: See above.
            path: See above.
            api_key: Key for the server.
            prefer_grpc: Whether to speak gRPC to the server.
            timeout: Seconds that the server may take to answer, rounded up to whole ones; `TIMEOUT` by default.
            retry: See the class.

        Raises:
            StorageLockedError: Another client has the folder open.
        """
        try:
            if url is not None:
                client = QdrantClient(**client_options(url, api_key, prefer_grpc, timeout))
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
        return cls(client, owned=True, retry=retry)

    @property
    def client(self) -> QdrantClient:
        """The client behind this store."""
        return self._client

    def names(self) -> list[str]:
        """See `Store.names`."""
        collections = self._call(None, lambda: self._client.get_collections().collections)
        return sorted(collection.name for collection in collections)

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return self._call(name, lambda: self._client.collection_exists(name))

    def create(self, name: str, spec: CollectionSpec) -> None:
        """See `Store.create`."""
        storage = spec.storage
        if self._local and any((storage.shards, storage.replication_factor, storage.write_consistency_factor)):
            raise SettingsError(
                "shards, replication_factor and write_consistency_factor are for a Qdrant server (url=); "
                "this client keeps its collections in this process"
            )
        if self.exists(name):
            raise _exists(name)
        self._make(name, spec)
        try:
            if self.open(name).metadata is None:
                raise StoreError("this Qdrant server keeps no collection metadata; it needs version 1.16 or later")
            if not self._local:  # payload indexes have no effect in local mode, which warns about them
                for key, kind in spec.indexes.items():
                    self._call(name, partial(self._client.create_payload_index, name, key, INDEX_TYPES[kind]))
        except StoreError:
            with suppress(StoreError):  # the first error says what happened
                self.drop(name)
            raise

    def _make(self, name: str, spec: CollectionSpec) -> None:
        request, attempts = collection_request(spec), 0

        def make() -> None:
            nonlocal attempts
            attempts += 1
            # An attempt whose answer was lost may have made the collection, or another process may have.
            if attempts > 1 and self._client.collection_exists(name):
                if read_collection(self._client.get_collection(name)).metadata == _plain(spec.metadata):
                    return
                raise _exists(name)
            self._client.create_collection(name, **request)

        self._call(name, make)

    def open(self, name: str) -> Opened:
        """See `Store.open`."""
        if not self.exists(name):
            found = ", ".join(self.names()) or "none"
            raise CollectionNotFoundError(
                f"no collection {name!r}; there are: {found}. Index something first, or create it"
            )
        info = self._call(name, lambda: self._client.get_collection(name))
        return read_collection(info, formula=self._formulas())

    def drop(self, name: str) -> None:
        """See `Store.drop`."""
        self._call(name, lambda: self._client.delete_collection(name))

    def write_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """See `Store.write_metadata`."""
        ours = {METADATA_KEY: dict(metadata)}
        self._call(name, lambda: self._client.update_collection(name, metadata=ours))

    def upsert(
        self, name: str, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Store.upsert`."""
        rows = vectors.tolist()
        for start in range(0, len(ids), UPSERT_CHUNK):
            chunk = slice(start, start + UPSERT_CHUNK)
            with counted(start, len(ids)):
                points = [
                    models.PointStruct(id=i, vector={VECTOR_NAME: v}, payload=dict(p))
                    for i, v, p in zip(ids[chunk], rows[chunk], payloads[chunk], strict=True)
                ]
                self._upsert(name, points)

    def _upsert(self, name: str, points: list[models.PointStruct]) -> None:
        try:
            self._call(name, lambda: self._client.upsert(name, points, wait=True))
        except StoreError as error:
            cause, half = error.__cause__, len(points) // 2
            # Points with long texts can be more than a server takes at once (32 MB, or what a proxy allows).
            if half and isinstance(cause, UnexpectedResponse) and cause.status_code == _TOO_LARGE:
                self._upsert(name, points[:half])
                self._upsert(name, points[half:])
                return
            raise

    def amend(self, name: str, amendments: Sequence[Amendment]) -> None:
        """See `Store.amend`."""
        for start in range(0, len(amendments), UPSERT_CHUNK):
            few = amendments[start : start + UPSERT_CHUNK]
            self._call(name, partial(self._amend, name, few))

    def _amend(self, name: str, amendments: Sequence[Amendment]) -> None:
        # Local mode would look through all its points for each condition; it is ours alone while the lock is held.
        changes: Sequence[Any] = [change.operation() for change in amendments]
        if self._local:
            changes = fitting(amendments, self.retrieve(name, [change.id for change in amendments]))
        if changes:
            self._client.batch_update_points(name, changes, wait=True)

    def query(self, name: str, query: VectorQuery) -> list[list[StoredPoint]]:
        """See `Store.query`."""
        if not len(query.vectors):
            return []
        requests = query_requests(query, local=self._local)
        return read_responses(self._call(name, lambda: self._client.query_batch_points(name, requests)))

    def query_groups(self, name: str, query: VectorQuery, groups: GroupQuery) -> list[Group]:
        """See `Store.query_groups`."""
        request = group_request(query, groups, local=self._local)
        return read_groups(self._call(name, lambda: self._client.query_points_groups(name, **request)))

    def scroll(
        self,
        name: str,
        *,
        filter: models.Filter | None = None,
        limit: int = 1000,
        after: PointId | None = None,
        with_vectors: bool = False,
    ) -> tuple[list[StoredPoint], PointId | None]:
        """See `Store.scroll`."""
        records, following = self._call(
            name,
            lambda: self._client.scroll(
                name,
                scroll_filter=filter,
                limit=limit,
                offset=after,
                with_payload=True,
                with_vectors=[VECTOR_NAME] if with_vectors else False,
            ),
        )
        return [stored(record) for record in records], following  # type: ignore[return-value]

    def retrieve(self, name: str, ids: Sequence[PointId]) -> list[StoredPoint]:
        """See `Store.retrieve`."""
        found: list[StoredPoint] = []
        for start in range(0, len(ids), UPSERT_CHUNK):
            few = list(ids[start : start + UPSERT_CHUNK])
            read = partial(self._client.retrieve, name, few, with_payload=True, with_vectors=[VECTOR_NAME])
            found.extend(stored(record) for record in self._call(name, read))
        return found

    def count(self, name: str, filter: models.Filter | None = None) -> int:
        """See `Store.count`."""
        return self._call(name, lambda: self._client.count(name, count_filter=filter, exact=True).count)

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        """See `Store.delete`."""
        for start in range(0, len(ids), UPSERT_CHUNK):
            few = models.PointIdsList(points=list(ids[start : start + UPSERT_CHUNK]))
            self._call(name, partial(self._client.delete, name, few, wait=True))

    def extension(self, name: str) -> QdrantExtension:
        """See `Store.extension`."""
        self.open(name)
        return QdrantExtension(name, self._client, partial(self._call, name), local=self._local)

    def optimize(self, name: str) -> None:
        """Wait until a server has finished its graph, which it builds on its own; local mode has none."""
        deadline = time.monotonic() + _OPTIMIZE_TIMEOUT
        while not self._local:
            status = self._call(name, lambda: self._client.get_collection(name).status)
            if status in (models.CollectionStatus.GREEN, models.CollectionStatus.GREY):
                return
            if time.monotonic() > deadline:
                raise StoreError(f"collection {name!r} is still {status.value} after {_OPTIMIZE_TIMEOUT:.0f} seconds")
            time.sleep(0.5)

    def indexed(self, name: str) -> int:
        """See `Store.indexed`."""
        return self._call(name, lambda: self._client.get_collection(name).indexed_vectors_count or 0)

    def memory(self, name: str) -> int | None:
        """Bytes of vectors and payloads on the node that answers, as it estimates them; local mode does not know."""
        if self._local:
            return None
        level = _TELEMETRY_OF_SHARDS
        try:
            reply = self._call(name, lambda: self._client.http.service_api.telemetry(details_level=level))
        except StoreError:  # a key that may read the collection need not be allowed to read telemetry
            return None
        found = reply.result.collections.collections or [] if reply.result else []
        for collection in found:
            if isinstance(collection, models.CollectionTelemetry) and collection.id == name:
                shards = [shard.local for shard in collection.shards or [] if shard.local is not None]
                return sum((s.vectors_size_bytes or 0) + (s.payloads_size_bytes or 0) for s in shards)
        return None

    def close(self) -> None:
        """See `Store.close`."""
        if self._owned:
            with self._lock:
                self._client.close()

    def _call(self, name: str | None, act: Callable[[], T]) -> T:
        """Ask the client, again if need be; what fails is a `StoreError`."""

        def once() -> T:
            with self._lock, translated(name):
                return act()

        return self._retry.call(once)

    def _formulas(self) -> bool:
        """Whether the engine computes geodesic distances: found out once, by the server's version."""
        if self._knows_formulas is None:
            self._knows_formulas = self._local or knows_formulas(self._call(None, self._client.info).version)
        return self._knows_formulas


def _exists(name: str) -> CollectionExistsError:
    return CollectionExistsError(
        f"collection {name!r} exists already; open it, or recreate it (which removes its points)"
    )


def _plain(metadata: Mapping[str, Any]) -> Any:
    """Metadata as it comes back from a server: through JSON."""
    return json.loads(json.dumps(dict(metadata)))
