"""Which items are to be done: what is stored, compared with what the sources hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal, get_args

from qdrant_client import models

from hysac_retrieval.collection.index import Index
from hysac_retrieval.ingest.items import FailedItem, Item, known_hash
from hysac_retrieval.ingest.protocols import Source, Task, Unfinished
from hysac_retrieval.payload import SOURCE as SOURCE_KEY
from hysac_retrieval.payload import own_payload
from hysac_retrieval.safety.views import ViewSetting, judge_of
from hysac_retrieval.stores.base import pages
from hysac_retrieval.types import PointId

State = Literal["present", "missing", "stale", "failed"]
"""State of an item: stored as it is; or see `Unfinished`."""

_PAGE = 1000  # points
_LOOKED_UP = 128  # items at once
_BYTES = 4_000_000  # of images, in the tables and shards that hold them, listed at once


def item_groups(source: Source, fail: Callable[[FailedItem], None]) -> Generator[list[Item], None, None]:
    """Gather items to look up together, of which the last group may be empty; failures go to `fail`."""
    items: list[Item] = []
    size = 0
    with closing(iter(source)) as found:
        for item in found:
            if isinstance(item, FailedItem):
                fail(item)
                continue
            items.append(item)
            size += len(item.content) if isinstance(item.content, bytes) else 0
            if len(items) >= _LOOKED_UP or size >= _BYTES:
                yield items
                items, size = [], 0
    yield items


class CollectionPlanner:
    """Decides by what a collection holds (None: it does not exist yet) and by the ids of items that failed last time.

    Only items in some states are to be done, if these are given, and all of them again without `resume`. What is
    `unsettled`, because a run ended while it was written, counts as not stored.

    Attributes:
        unlike: Items so far whose points were unlike anything the model knows.
    """

    def __init__(
        self,
        index: Index | None,
        failed: Collection[str] = (),
        only: Collection[str] = (),
        *,
        resume: bool = True,
        views: ViewSetting = "fast",
        second: str | None = None,
        unsettled: Collection[str] = (),
    ) -> None:
        # Nothing can be found in an empty collection, and nobody else fills it meanwhile.
        self._index = index if index is not None and resume and index.count() else None
        self._failed, self._unsettled = failed, unsettled
        self._views, self._second = views, second
        self._only = frozenset(only or get_args(Unfinished))
        self.unlike = 0

    def __call__(self, items: Sequence[Item]) -> Iterator[Task]:
        """See `Planner`."""
        stored = {} if self._index is None else marks(self._index, [item.id for item in items])
        for item in items:
            state: Unfinished = "stale" if item.id in stored else "missing"
            self.unlike += stored.get(item.id, {}).get("unlike") is True
            if item.id in self._failed:
                state = "failed"
            if state in self._only:
                known = {} if item.id in self._unsettled else stored.get(item.id, {})
                yield Task(item, state, known_hash(known, judge_of(item.modality, self._views, self._second)))


def attached_tasks(items: Sequence[Item], *, resume: bool, unsettled: Collection[str] = ()) -> Iterator[Task]:
    """Decide about points by the content hash that they carry; without `resume` everything is done again."""
    for item in items:
        known = item.known if resume and item.id not in unsettled else None
        yield Task(item, "missing" if known is None else "stale", known)


def marks(index: Index, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """Look up, by id, the entries of stored points under the key ``hysac``.

    They are empty for points of another model, and for points whose copies differ: these are written again.
    """
    condition = models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
    page, _ = index.store.scroll(index.name, filter=condition, limit=max(len(ids), 1))
    found = {str(point.id): {} if point.differs else own_payload(point.payload) for point in page}
    model = index.metadata.fingerprint
    return {key: entries if entries.get("model") == model else {} for key, entries in found.items()}


def left_points(index: Index, sources: Sequence[str], seen: Container[Any]) -> Iterator[list[PointId]]:
    """Return the ids, a page at a time, of points that have left their source: those whose items were not seen.

    Points that carry another source, or none, are not looked at.
    """
    for source in sources:
        condition = models.FieldCondition(key=SOURCE_KEY, match=models.MatchValue(value=source))
        for page in pages(index.store, index.name, filter=models.Filter(must=[condition]), limit=_PAGE):
            if left := [point.id for point in page if point.id not in seen]:
                yield left
