"""Points whose copies on a cluster are not the same: a write reached some of its nodes and not the others."""

from __future__ import annotations

from collections.abc import Iterator

from hysac_retrieval.collection.index import Index
from hysac_retrieval.stores.base import Store, pages
from hysac_retrieval.stores.types import StoredPoint

_PAGE = 1000


def differing_points(
    store: Store, name: str, *, page: int = _PAGE, with_vectors: bool = False
) -> Iterator[list[StoredPoint]]:
    """Return the points of a collection whose copies differ, as one copy has them, a page at a time.

    Points are those of the copies that answer by themselves: what only others hold is found by way of their nodes. The
    store must have been opened with a `consistency`; vectors are compared where they are asked for.
    """
    if store.open(name).copies > 1:
        for points in pages(store, name, limit=page, with_vectors=with_vectors):
            if some := [point for point in points if point.differs]:
                yield some


def differing(index: Index, *, with_vectors: bool = False) -> int | None:
    """Count the points of an index whose copies differ, here and in the application's collection that it belongs to.

    None where there is one copy of each point.
    """
    names = collections_of(index)
    if all(index.store.open(name).copies < 2 for name in names):
        return None
    found = (differing_points(index.store, name, with_vectors=with_vectors) for name in names)
    return sum(len(points) for pages_of_one in found for points in pages_of_one)


def collections_of(index: Index) -> list[str]:
    """Return the collections with scores of an index: a companion, and the application's collection."""
    attached = index.metadata.attached
    return [*({attached.collection} - {index.name} if attached else ()), index.name]
