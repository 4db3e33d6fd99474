"""Safe search without blocking: the core of `search`, another way of sending.

A server is asked through qdrant-client's asynchronous client. The embedded engine and the encoder compute in this
process, so they run in a worker thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, Unpack

from qdrant_client import AsyncQdrantClient

from hysac_retrieval.collection import Collection
from hysac_retrieval.errors import CollectionNotFoundError, SettingsError
from hysac_retrieval.queries import Query, QueryEncoder
from hysac_retrieval.results import SearchResult
from hysac_retrieval.safety import Traversal
from hysac_retrieval.search import SearchCore, SearchOptions, connect, load_encoder
from hysac_retrieval.stores import Connection, HnswOptions, StoredPoint, VectorQuery
from hysac_retrieval.stores.qdrant import is_local, query_requests, read_collection, read_responses, translated

_Send: TypeAlias = Callable[[VectorQuery], Awaitable[list[list[StoredPoint]]]]


@dataclass(frozen=True)
class _Session:
    core: SearchCore
    send: _Send
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
        session = await self._opened()
        prepared = await asyncio.to_thread(session.core.prepare, queries, **options)
        answers = await session.send(prepared.plan.query)
        return session.core.interpret(prepared, answers)

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
    traversal: Traversal = "geodesic",
    threshold: float | None = None,
    allow_unsafe: bool = True,
    create: bool = False,
    hnsw: HnswOptions | None = None,
    async_client: AsyncQdrantClient | None = None,
    **connection: Unpack[Connection],
) -> AsyncSafeSearch:
    """As `connect`, for asynchronous code; returns at once and opens the collection when it is first needed.

    Args:
        name: See `connect`, as for the other arguments.
        model: See there.
        traversal: See there.
        threshold: See there.
        allow_unsafe: See there.
        create: See there; with `async_client` the collection must exist.
        hnsw: See there.
        async_client: The application's own asynchronous client, instead of a connection.
        **connection: See there.

    Raises:
        SettingsError: `async_client` together with a connection or with `create`.
    """

    async def through_client(client: AsyncQdrantClient) -> _Session:
        encoder = await asyncio.to_thread(load_encoder, model)
        with translated(name):
            if not await client.collection_exists(name):
                raise CollectionNotFoundError(f"no collection {name!r}; index something first, or create it")
            opened = read_collection(await client.get_collection(name))
        core = SearchCore.make(Collection.read(name, opened), encoder, traversal, threshold, allow_unsafe)
        return _Session(core, _sender(client, name), _nothing)

    async def through_connection() -> _Session:
        engine = await asyncio.to_thread(
            lambda: connect(
                name,
                model=model,
                traversal=traversal,
                threshold=threshold,
                allow_unsafe=allow_unsafe,
                create=create,
                hnsw=hnsw,
                **connection,
            )
        )
        url = connection.get("url")
        if url is None:
            store = engine.index.store
            return _Session(
                engine.core,
                lambda query: asyncio.to_thread(store.query, name, query),
                lambda: asyncio.to_thread(engine.close),
            )
        engine.close()  # it has done its part: opening, or making, the collection
        client = AsyncQdrantClient(
            url=url,
            api_key=connection.get("api_key"),
            prefer_grpc=bool(connection.get("prefer_grpc")),
            check_compatibility=False,
        )
        return _Session(engine.core, _sender(client, name), client.close)

    if async_client is None:
        return AsyncSafeSearch(through_connection)
    if connection or create:
        raise SettingsError("async_client is a connection to a collection that exists; give no other, and no create")
    return AsyncSafeSearch(lambda: through_client(async_client))


def _sender(client: AsyncQdrantClient, name: str) -> _Send:
    async def send(query: VectorQuery) -> list[list[StoredPoint]]:
        with translated(name):
            responses = await client.query_batch_points(name, query_requests(query, local=is_local(client)))
        return read_responses(responses)

    return send


async def _nothing() -> None:
    """Closing a client is up to the application whose client it is."""
