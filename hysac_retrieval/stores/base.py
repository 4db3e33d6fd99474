"""Protocol of the vector stores, whichever engine is behind them.

A store keeps named collections. Each holds one vector per point under the name `VECTOR_NAME`, a JSON
payload, and metadata that says how the vectors are to be read. Filters are `qdrant_client.models.Filter`
everywhere; a store whose engine has types of its own translates them whole or refuses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.stores.extension import Extension
from hysac_retrieval.stores.types import (
    CollectionSpec,
    Group,
    GroupQuery,
    IndexKind,
    Opened,
    StoredPoint,
    VectorQuery,
)
from hysac_retrieval.types import PointId


class Store(Protocol):
    """Named collections of vectors with payloads.

    Every method raises `StoreError`, or one of its kinds, when the engine refuses or fails. Searches may run
    from several threads at once.
    """

    def names(self) -> list[str]:
        """Names of the collections, sorted."""

    def version(self) -> str:
        """Version of the server, asked once; empty for an engine in this process."""

    def exists(self, name: str) -> bool:
        """Whether there is a collection of that name, made by this package or not."""

    def create(self, name: str, spec: CollectionSpec) -> None:
        """Make a collection, whole or not at all.

        Raises:
            CollectionExistsError: There is one of that name.
        """

    def open(self, name: str) -> Opened:
        """Make a collection ready for use and say what it is.

        Raises:
            CollectionNotFoundError: There is none of that name.
            StorageLockedError: Another process holds it.
        """

    def drop(self, name: str) -> None:
        """Remove a collection with all its points."""

    def aliases(self) -> dict[str, str]:
        """Names that stand for a collection, and that collection's own name.

        Raises:
            SettingsError: Collections of this engine have no aliases.
        """

    def point_alias(self, alias: str, name: str) -> None:
        """Have an alias stand for a collection, from one moment to the next; it is made if need be."""

    def write_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata under `METADATA_KEY`."""

    def upsert(
        self, name: str, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        """Insert points, or replace those with the same id. Durable when it returns."""

    def amend(self, name: str, amendments: Sequence[Amendment], *, looked_after: bool = False) -> None:
        """Change `hysac` entries of points that still are what they were. Durable when it returns.

        Args:
            name: The collection.
            amendments: The changes.
            looked_after: Whether the caller looks afterwards for points that were left as they were, so that a server
                need not confirm each change.
        """

    def strip(self, name: str, keys: Sequence[str], filter: models.Filter) -> None:
        """Take payload fields from the points that match. Durable when it returns."""

    def add_index(self, name: str, key: str, kind: IndexKind) -> None:
        """Index a payload field; one that is indexed already is no error."""

    def admit(self, name: str, fields: Mapping[str, IndexKind]) -> None:
        """Make sure that searches may have conditions on some fields: strict mode takes none without an index.

        Raises:
            StoreError: An index is needed, and this connection may not make one.
        """

    def drop_index(self, name: str, key: str) -> None:
        """Index a payload field no longer; one that is not indexed is no error."""

    def query(self, name: str, query: VectorQuery) -> list[list[StoredPoint]]:
        """Return the best points for each vector, best first, with payload and score, and vector if asked for."""

    def query_groups(self, name: str, query: VectorQuery, groups: GroupQuery) -> list[Group]:
        """Return the best groups for a query of a single vector: the one with the best point first."""

    def scroll(
        self,
        name: str,
        *,
        filter: models.Filter | None = None,
        limit: int = 1000,
        after: PointId | None = None,
        with_vectors: bool | str = False,
        fields: Sequence[str] | None = None,
    ) -> tuple[list[StoredPoint], PointId | None]:
        """Return a page of points by id, with payload, and the `after` of the next page (None at the end).

        Args:
            name: The collection.
            filter: Condition on the points.
            limit: Points of a page.
            after: Where to go on: what the last page returned. None for the beginning.
            with_vectors: Whether vectors are returned; or the name of others of an application, "" for the one that
                has no name.
            fields: Payload fields to return; None for all.
        """

    def retrieve(self, name: str, ids: Sequence[PointId]) -> list[StoredPoint]:
        """Return points with payload and vector, in no particular order; ids that are not there are left out."""

    def count(self, name: str, filter: models.Filter | None = None) -> int:
        """Exact number of points that match."""

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        """Remove points by id; ids that are not there are no error."""

    def extension(self, name: str) -> Extension:
        """Return what adds vectors and scores to a collection of an application, and takes them away again.

        Raises:
            CollectionNotFoundError: There is none of that name.
            StorageLockedError: Another process holds it.
        """

    def optimize(self, name: str) -> None:
        """Have the engine finish its graph; call after bulk loads."""

    def indexed(self, name: str) -> int:
        """Number of vectors that the graph covers; the rest are searched exactly."""

    def memory(self, name: str) -> int | None:
        """Bytes that the collection's vectors, graph and payloads take, in memory or on disk; None if unknown."""

    def close(self) -> None:
        """Let go of files and connections. Closing twice is no error."""


def found(
    store: Store, name: str, ids: Sequence[PointId], condition: models.Filter | None = None, **options: Any
) -> list[StoredPoint]:
    """Return those of some points that are there and meet a condition; the options are those of `Store.scroll`."""
    these = models.Filter(must=[models.HasIdCondition(has_id=[*ids]), *([condition] if condition else ())])
    return [point for page in pages(store, name, filter=these, limit=max(len(ids), 1), **options) for point in page]


def pages(store: Store, name: str, **options: Any) -> Iterator[list[StoredPoint]]:
    """Scroll through the points of a collection to the end; the options are those of `Store.scroll`."""
    after: PointId | None = None
    while True:
        page, after = store.scroll(name, after=after, **options)
        if page:
            yield page
        if after is None:
            return
