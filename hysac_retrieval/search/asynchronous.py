"""Safe search without blocking: the core of `search`, another way of sending.

A server is asked through qdrant-client's asynchronous client. The embedded engine and the encoder compute in this
process, so they run in a worker thread.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from qdrant_client import AsyncQdrantClient

from hysac_retrieval.collection.attach import open_collection
from hysac_retrieval.collection.collection import rule_indexes
from hysac_retrieval.collection.current import Current
from hysac_retrieval.errors import HysacError, SettingsError, StoreError
from hysac_retrieval.forks import Origin
from hysac_retrieval.results import GroupedResult, SearchResult
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.blocking import connect, load_encoder
from hysac_retrieval.search.engine import LiveSearch, SearchEngine
from hysac_retrieval.search.explain import Explanation, explain
from hysac_retrieval.search.loops import Once, PerLoop
from hysac_retrieval.search.permitted import permitted
from hysac_retrieval.search.queries import PointRef, Query, QueryEncoder, is_encoded, several
from hysac_retrieval.search.request import ExplainOptions, GroupOptions, SearchOptions
from hysac_retrieval.steps import Steps, arun
from hysac_retrieval.stores import Connection, HnswOptions, Store, server_options
from hysac_retrieval.stores.qdrant.client import is_local
from hysac_retrieval.stores.qdrant.store import AsyncQdrantStore
from hysac_retrieval.stores.types import Consistency
from hysac_retrieval.types import PointId

if TYPE_CHECKING:
    from hysac_retrieval.encoder.called import Encode

T = TypeVar("T")

_MOST_AT_ONCE = 100
"""Hits of a search that are made of a reply in the event loop itself."""


@dataclass(frozen=True)
class _Parts:
    """An open engine: the store of the running loop, the search, and how all of it is closed."""

    store: Callable[[], Awaitable[Any]]
    live: Callable[[Any], Awaitable[LiveSearch]]
    close: Callable[[], Awaitable[None]]


class AsyncSafeSearch:
    """`SafeSearch` for asynchronous code; made by `aconnect`.

    The collection is opened by the first search, by ``await engine`` or by ``async with engine``. Several event loops
    may use it, one after the other or at once, in threads of their own.
    """

    def __init__(self, open_parts: Callable[[], _Parts]) -> None:
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


def aconnect(
    name: str,
    *,
    model: str | Path | QueryEncoder | None = "hysac-mini",
    encode: Encode | None = None,
    policy: SafetyPolicy | None = None,
    create: bool = False,
    hnsw: HnswOptions | None = None,
    async_client: AsyncQdrantClient | None = None,
    **connection: Unpack[Connection],
) -> AsyncSafeSearch:
    """As `connect`, for asynchronous code; returns at once and opens the collection when it is first needed.

    Args:
        name: See `connect`, as for the other arguments.
        model: See there.
        encode: See there.
        policy: See there.
        create: See there; with `async_client` the collection must exist.
        hnsw: See there.
        async_client: The application's own asynchronous client, instead of a connection.
        **connection: See there; `consistency` goes with `async_client`, too.

    Raises:
        SettingsError: `async_client` together with a connection or with `create`.
    """
    if async_client is not None and (connection.keys() - {"consistency"} or create):
        raise SettingsError(
            "async_client is a connection to a collection that exists", hint="Give no other connection, and no create"
        )

    def open_parts() -> _Parts:
        if async_client is not None:
            return _of_client(async_client, name, load_encoder(model, encode), policy, connection.get("consistency"))
        engine = connect(name, model=model, encode=encode, policy=policy, create=create, hnsw=hnsw, **connection)

        async def live(_: Any) -> LiveSearch:
            return engine.live

        if connection.get("url") is None:
            store = _InThread(engine.index.store)

            async def shared() -> Any:
                return store

            return _Parts(shared, live, lambda: asyncio.to_thread(engine.close))
        engine.close()  # it has done its part: opening, or making, the collection
        stores = PerLoop(lambda: AsyncQdrantStore.connect(**server_options(connection)))
        return _Parts(stores.get, live, stores.close)

    return AsyncSafeSearch(open_parts)


def _of_client(
    client: AsyncQdrantClient,
    name: str,
    encoder: QueryEncoder | None,
    policy: SafetyPolicy | None,
    consistency: Consistency | None,
) -> _Parts:
    """Parts on an application's own client: for the first loop; others get one with the same options."""
    known: list[LiveSearch] = []
    used = False

    def store() -> AsyncQdrantStore:
        nonlocal used
        own, used = not used or is_local(client), True
        if own:
            return AsyncQdrantStore(client, consistency=consistency)
        options = {**client.init_options, "check_compatibility": False}
        return AsyncQdrantStore(AsyncQdrantClient(**options), owned=True, consistency=consistency)

    async def live(opened: Any) -> LiveSearch:
        if not known:
            collection = await arun(open_collection(name), opened)
            made = LiveSearch(Current(collection), encoder, policy)
            await opened.admit(collection.name, rule_indexes(policy))
            known.append(made)
        return known[0]

    stores = PerLoop(store)
    return _Parts(stores.get, live, stores.close)


class _InThread:
    """A blocking store whose methods run in a worker thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(asyncio.to_thread, getattr(self._store, name))
