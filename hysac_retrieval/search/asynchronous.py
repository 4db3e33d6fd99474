"""Safe search without blocking: the core of `search`, another way of sending.

A server is asked through qdrant-client's asynchronous client. The embedded engine and the encoder compute in this
process, so they run in a worker thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from hysac_retrieval.errors import HysacError, StoreError
from hysac_retrieval.forks import Origin
from hysac_retrieval.results import GroupedResult, SearchResult
from hysac_retrieval.search.engine import LiveSearch, SearchEngine
from hysac_retrieval.search.explain import Explanation, explain
from hysac_retrieval.search.loops import Once
from hysac_retrieval.search.permitted import permitted
from hysac_retrieval.search.queries import PointRef, Query, is_encoded, several
from hysac_retrieval.search.request import ExplainOptions, GroupOptions, SearchOptions
from hysac_retrieval.steps import Steps, arun
from hysac_retrieval.types import PointId

if TYPE_CHECKING:
    pass

T = TypeVar("T")

_MOST_AT_ONCE = 100
"""Hits of a search that are made of a reply in the event loop itself."""


@dataclass(frozen=True)
class Parts:
    """An open engine: the store of the running loop, the search, and how all of it is closed."""

    store: Callable[[], Awaitable[Any]]
    live: Callable[[Any], Awaitable[LiveSearch]]
    close: Callable[[], Awaitable[None]]


class AsyncSafeSearch:
    """`SafeSearch` for asynchronous code; made by `aconnect`.

    The collection is opened by the first search, by ``await engine`` or by ``async with engine``. Several event loops
    may use it, one after the other or at once, in threads of their own.
    """

    def __init__(self, open_parts: Callable[[], Parts]) -> None:
        self._parts = Once(open_parts)
        self._closed = False
        self._origin = Origin("the asynchronous engine", "Call aconnect after the fork, in each process")

    async def search(self, query: Query, **options: Unpack[SearchOptions]) -> SearchResult:
        """See `SafeSearch.search`."""
        return (await self.search_batch([query], **options))[0]

    async def search_batch(self, queries: Iterable[Query], **options: Unpack[SearchOptions]) -> list[SearchResult]:
        """See `SafeSearch.search_batch`."""
        asked = several(queries)
        return await self._run(lambda core: core.search(asked, options), in_thread=not _is_light(asked, options))

    async def similar(self, id: PointId, **options: Unpack[SearchOptions]) -> SearchResult:
        """See `SafeSearch.similar`."""
        return await self.search(PointRef(id), **options)

    async def search_groups(
        self, query: Query, by: str, *, groups: int = 10, size: int = 3, **options: Unpack[GroupOptions]
    ) -> GroupedResult:
        """See `SafeSearch.search_groups`."""
        return await self._run(lambda core: core.groups(query, {**options, "by": by, "groups": groups, "size": size}))

    async def explain(self, query: Query, **options: Unpack[ExplainOptions]) -> Explanation:
        """See `SafeSearch.explain`."""
        return await self._run(lambda core: explain(core, query, options))

    async def permitted(self, ids: Iterable[PointId]) -> frozenset[PointId]:
        """See `SafeSearch.permitted`."""
        known = list(ids)
        return await self._run(lambda core: permitted(core, known))

    async def refresh(self) -> bool:
        """See `SafeSearch.refresh`."""
        store, live = await self._opened()
        return await arun(live.refresh(), store)

    def only_safe(self) -> AsyncSafeSearch:
        """Return this engine for callers to whom unsafe points are out of reach, whatever its policy allows others.

        Nothing that it returns depends on unsafe points, and none of them is a query. Closing either closes both.
        """
        return _OnlySafe(self)

    async def _run(self, begin: Callable[[SearchEngine], Steps[T]], *, in_thread: bool = True) -> T:
        store, live = await self._opened()
        # A search encodes and computes between its questions, which must not hold up the event loop.
        return await arun(live.steps(begin), store, in_thread=in_thread)

    async def close(self) -> None:
        """Let go of the connection, unless it was the caller's. Closing twice is no error."""
        first, self._closed = not self._closed, True
        if first and self._parts.begun and not self._origin.left:
            with suppress(HysacError):  # of an opening that fails; there is nothing to close then
                await (await self._parts.get()).close()

    async def _opened(self) -> tuple[Any, LiveSearch]:
        if self._parts.begun:
            self._origin.expect()
        if self._closed:
            raise StoreError("this engine is closed", hint="Make another one with aconnect")
        parts = await self._parts.get()
        store = await parts.store()
        return store, await parts.live(store)

    async def _self(self) -> Self:
        await self._opened()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._self().__await__()

    async def __aenter__(self) -> Self:
        return await self._self()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _is_light(queries: Sequence[Query], options: Mapping[str, Any]) -> bool:
    """Whether a search computes for less time than it takes to wake a thread up: some points, for some hits."""
    counts = [options.get("limit", 10), options.get("offset", 0), options.get("candidates") or 0]
    return (
        all(is_encoded(query) for query in queries)
        and all(type(count) is int for count in counts)
        and len(queries) * sum(counts) <= _MOST_AT_ONCE
    )


class _OnlySafe(AsyncSafeSearch):
    def __init__(self, engine: AsyncSafeSearch) -> None:
        self._engine = engine

    async def _run(self, begin: Callable[[SearchEngine], Steps[T]], *, in_thread: bool = True) -> T:
        return await self._engine._run(lambda core: begin(core.only_safe), in_thread=in_thread)

    async def close(self) -> None:
        await self._engine.close()

    async def _opened(self) -> Any:
        return await self._engine._opened()
