"""Which items are to be done: what is stored, beside what the sources hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from qdrant_client import models

from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.ingest.scratch import Seen
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.payload import SOURCE as SOURCE_KEY
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import PointId

State = Literal["present", "missing", "stale", "failed"]
"""Of an item: stored as it is; not stored; stored from other content or by another model; failed when last tried."""

Unfinished = Literal["missing", "stale", "failed"]

SOURCE, HASH = "source", "hash"
"""What `hysac-index` stores with a point under our payload key."""

_PAGE = 1000  # points
_LOOKED_UP = 128  # items at once
_BYTES = 4_000_000  # of images, in the tables and shards that hold them, listed at once


@dataclass(frozen=True, slots=True)
class Task:
    """An item to do.

    Attributes:
        item: The item.
        state: ``missing`` or ``failed``; ``stale`` for one that is stored, which is so only if its hash has changed.
        known: Content hash of the point that is stored; None where there is none or it counts for nothing.
    """

    item: Item
    state: Unfinished
    known: str | None = None


def chosen(only: Collection[str]) -> frozenset[str]:
    """The states asked for; all of them where none is.

    Raises:
        SettingsError: One is unknown.
    """
    unknown = set(only) - set(get_args(Unfinished))
    if unknown:
        raise SettingsError(f"unknown state {sorted(unknown)[0]!r}; expected {', '.join(get_args(Unfinished))}")
    return frozenset(only or get_args(Unfinished))


def expect_choice(only: Collection[str], resume: bool) -> None:
    """Check that states can be chosen.

    Raises:
        SettingsError: One is unknown, or some are chosen although everything is to be done.
    """
    if chosen(only) and only and not resume:
        raise SettingsError("only chooses among unfinished items, but without resume everything is done again")


def grouped(listing: Iterable[Item | FailedItem], fail: Callable[[FailedItem], None]) -> Iterator[list[Item]]:
    """Items to look up together, of which the last group may be empty; what is no item goes to `fail`."""
    items: list[Item] = []
    size = 0
    for found in listing:
        if isinstance(found, FailedItem):
            fail(found)
            continue
        items.append(found)
        size += len(found.content) if isinstance(found.content, bytes) else 0
        if len(items) >= _LOOKED_UP or size >= _BYTES:
            yield items
            items, size = [], 0
    yield items


Lookup = Callable[[Sequence[str]], Mapping[str, Mapping[str, Any]]]
"""What is stored about points by id, for those that are there; see `marks`."""


class Planner:
    """Decides about items by what is stored.

    Args:
        lookup: Says what is stored; None for nothing.
        failed: Ids of the items that failed when last tried.
        only: States to do; see `chosen`.
    """

    def __init__(self, lookup: Lookup | None, failed: Collection[str] = (), only: Collection[str] = ()) -> None:
        self._lookup = lookup
        self._failed = failed
        self._only = chosen(only)

    @classmethod
    def of(
        cls, index: Index | None, failed: Collection[str], only: Collection[str] = (), *, resume: bool = True
    ) -> Self:
        """A planner for a collection, or for one that does not exist yet.

        Args:
            index: The collection.
            failed: Ids of the items that failed when last tried.
            only: States to do.
            resume: Whether what is stored counts; otherwise everything is to be done again.

        Raises:
            SettingsError: A state is unknown, or some are chosen although everything is to be done.
        """
        expect_choice(only, resume)
        # Nothing can be found in an empty collection, and nobody else fills it meanwhile.
        if index is None or not resume or not index.count():
            return cls(None, failed, only)
        return cls(lambda ids: marks(index, ids), failed, only)

    def tasks(self, items: Sequence[Item]) -> Iterator[Task]:
        """Those of the items that are to be done, or looked at."""
        stored = {} if self._lookup is None else self._lookup([item.id for item in items])
        for item in items:
            known = stored.get(item.id)
            task = Task(item, self._state(item.id, known is not None), (known or {}).get(HASH))
            if task.state in self._only:
                yield task

    def _state(self, identity: str, is_stored: bool) -> Unfinished:
        if identity in self._failed:
            return "failed"
        return "stale" if is_stored else "missing"


def marks(index: Index, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """What is stored about points: those that are there, with an empty mapping where our model did not make it."""
    page, _ = index.store.scroll(
        index.name, filter=models.Filter(must=[models.HasIdCondition(has_id=list(ids))]), limit=max(len(ids), 1)
    )
    return {str(point.id): _marks(point, index.metadata.fingerprint) for point in page}


def all_marks(index: Index) -> dict[str, Mapping[str, Any]]:
    """As `marks`, for all points that were indexed from a source: only their source and hash."""
    found: dict[str, Mapping[str, Any]] = {}
    after: PointId | None = None
    while True:
        page, after = index.store.scroll(index.name, limit=_PAGE, after=after)
        for point in page:
            ours = _marks(point, index.metadata.fingerprint)
            found[str(point.id)] = {HASH: ours[HASH]} if HASH in ours else {}
        if after is None:
            return found


def left_points(index: Index, sources: Sequence[str], seen: Seen) -> Iterator[list[PointId]]:
    """Ids, a page at a time, of the points of sources whose items were not seen: they have left their source.

    Points that carry another source, or none, are not looked at.
    """
    for source in sources:
        condition = models.FieldCondition(key=SOURCE_KEY, match=models.MatchValue(value=source))
        after: PointId | None = None
        while True:
            page, after = index.store.scroll(
                index.name, filter=models.Filter(must=[condition]), limit=_PAGE, after=after
            )
            if left := [point.id for point in page if point.id not in seen]:
                yield left
            if after is None:
                break


def _marks(point: StoredPoint, fingerprint: str) -> Mapping[str, Any]:
    ours = point.payload.get(PAYLOAD_KEY)
    if not isinstance(ours, Mapping) or ours.get("model") != fingerprint:
        return {}
    return ours
