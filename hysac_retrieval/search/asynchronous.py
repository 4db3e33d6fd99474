"""Safe search without blocking: the core of `search`, another way of sending.

A server is asked through qdrant-client's asynchronous client. The embedded engine and the encoder compute in this
process, so they run in a worker thread.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from qdrant_client import AsyncQdrantClient

from hysac_retrieval.collection.attach import open_collection
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.results import GroupedResult, SearchResult
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.blocking import connect, load_encoder
from hysac_retrieval.search.engine import SearchEngine
from hysac_retrieval.search.explain import Explanation, explain
from hysac_retrieval.search.permitted import permitted
from hysac_retrieval.search.queries import PointRef, Query, QueryEncoder, several
from hysac_retrieval.search.request import ExplainOptions, GroupOptions, SearchOptions
from hysac_retrieval.steps import Steps, arun
from hysac_retrieval.stores import Connection, HnswOptions, Store, server_options
from hysac_retrieval.stores.qdrant.store import AsyncQdrantStore
from hysac_retrieval.types import PointId

T = TypeVar("T")


@dataclass(frozen=True)
class _Session:
    core: SearchEngine
    store: Any
    close: Callable[[], Awaitable[None]]


class AsyncSafeSearch:
    """`SafeSearch` for asynchronous code; made by `aconnect`.

    The collection is opened by the first search, by ``await engine`` or by ``async with engine``.
    """

    def __init__(self, open_session: Callable[[], Awaitable[_Session]]) -> None:
        self._open_session = open_session
        self._session: _Session | None = None
        self._lock = asyncio.Lock()

    async def search(self, query: Query, **options: Unpack[SearchOptions]) -> SearchResult:
        """See `SafeSearch.search`."""
        return (await self.search_batch([query], **options))[0]

    async def search_batch(self, queries: Iterable[Query], **options: Unpack[SearchOptions]) -> list[SearchResult]:
        """See `SafeSearch.search_batch`."""
        asked = several(queries)
        return await self._run(lambda core: core.search(asked, options))

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
        return await self._run(lambda core: permitted(core, ids))

    async def _run(self, begin: Callable[[SearchEngine], Steps[T]]) -> T:
        session = await self._opened()
        # A search encodes and computes between its questions, which must not hold up the event loop.
        return await arun(begin(session.core), session.store, in_thread=True)

    async def close(self) -> None:
        """Let go of the connection, unless it was the caller's. Closing twice is no error."""
        async with self._lock:
            session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _opened(self) -> _Session:
        async with self._lock:
            if self._session is None:
                self._session = await self._open_session()
            return self._session

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


def aconnect(
    name: str,
    *,
    model: str | Path | QueryEncoder | None = "hysac-mini",
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
        policy: See there.
        create: See there; with `async_client` the collection must exist.
        hnsw: See there.
        async_client: The application's own asynchronous client, instead of a connection.
        **connection: See there.

    Raises:
        SettingsError: `async_client` together with a connection or with `create`.
    """
    if async_client is not None and (connection or create):
        raise SettingsError(
            "async_client is a connection to a collection that exists", hint="Give no other connection, and no create"
        )

    async def open_session() -> _Session:
        if async_client is not None:
            encoder = await asyncio.to_thread(load_encoder, model)
            store = AsyncQdrantStore(async_client)
            core = SearchEngine.make(await arun(open_collection(name), store), encoder, policy)
            return _Session(core, store, store.close)
        engine = await asyncio.to_thread(
            lambda: connect(name, model=model, policy=policy, create=create, hnsw=hnsw, **connection)
        )
        if connection.get("url") is None:
            return _Session(engine.core, _InThread(engine.index.store), lambda: asyncio.to_thread(engine.close))
        engine.close()  # it has done its part: opening, or making, the collection
        store = AsyncQdrantStore.connect(**server_options(connection))
        return _Session(engine.core, store, store.close)

    return AsyncSafeSearch(open_session)


class _InThread:
    """A blocking store whose methods run in a worker thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(asyncio.to_thread, getattr(self._store, name))
