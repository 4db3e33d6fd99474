"""Safe search without blocking: the core of `search`, another way of sending.

A server is asked through qdrant-client's asynchronous client. The embedded engine and the encoder compute in this
process, so they run in a worker thread.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from qdrant_client import AsyncQdrantClient

from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.plans import AskOptions, SearchOptions
from hysac_retrieval.errors import CollectionNotFoundError, SettingsError
from hysac_retrieval.results import GroupedResult, SearchResult
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.blocking import connect, load_encoder
from hysac_retrieval.search.engine import SearchCore
from hysac_retrieval.search.explain import ExplainOptions, Explanation, explain
from hysac_retrieval.search.permitted import permitted
from hysac_retrieval.search.queries import PointRef, Query, QueryEncoder
from hysac_retrieval.steps import Steps, arun
from hysac_retrieval.stores import Connection, HnswOptions, Retry, Store, retry_of
from hysac_retrieval.stores.qdrant.store import client_options, is_local, translated
from hysac_retrieval.stores.requests import (
    group_request,
    knows_formulas,
    query_requests,
    read_collection,
    read_groups,
    read_responses,
    stored,
)
from hysac_retrieval.stores.types import VECTOR_NAME, Group, GroupQuery, Opened, StoredPoint, VectorQuery
from hysac_retrieval.types import PointId

T = TypeVar("T")


@dataclass(frozen=True)
class _Session:
    core: SearchCore
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
        return await self._run(lambda core: core.search(queries, **options))

    async def similar(self, id: PointId, **options: Unpack[SearchOptions]) -> SearchResult:
        """See `SafeSearch.similar`."""
        return await self.search(PointRef(id), **options)

    async def search_groups(
        self, query: Query, by: str, *, groups: int = 10, size: int = 3, **options: Unpack[AskOptions]
    ) -> GroupedResult:
        """See `SafeSearch.search_groups`."""
        return await self._run(lambda core: core.groups(query, by, groups, size, **options))

    async def explain(self, query: Query, **options: Unpack[ExplainOptions]) -> Explanation:
        """See `SafeSearch.explain`."""
        return await self._run(lambda core: explain(core, query, **options))

    async def permitted(self, ids: Iterable[PointId]) -> frozenset[PointId]:
        """See `SafeSearch.permitted`."""
        return await self._run(lambda core: permitted(core, ids))

    async def _run(self, begin: Callable[[SearchCore], Steps[T]]) -> T:
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

    async def through_client(client: AsyncQdrantClient) -> _Session:
        encoder = await asyncio.to_thread(load_encoder, model)
        retry = Retry()

        async def opened() -> Opened:
            with translated(name):
                if not await client.collection_exists(name):
                    raise CollectionNotFoundError(f"no collection {name!r}; index something first, or create it")
                formula = is_local(client) or knows_formulas((await client.info()).version)
                return read_collection(await client.get_collection(name), formula=formula)

        core = SearchCore.make(Collection.read(name, await retry.acall(opened)), encoder, policy)
        return _Session(core, _Remote(client, retry), _nothing)

    async def through_connection() -> _Session:
        engine = await asyncio.to_thread(
            lambda: connect(
                name,
                model=model,
                policy=policy,
                create=create,
                hnsw=hnsw,
                **connection,
            )
        )
        url = connection.get("url")
        if url is None:
            return _Session(engine.core, _InThread(engine.index.store), lambda: asyncio.to_thread(engine.close))
        engine.close()  # it has done its part: opening, or making, the collection
        api_key, prefer_grpc = connection.get("api_key"), bool(connection.get("prefer_grpc"))
        client = AsyncQdrantClient(**client_options(url, api_key, prefer_grpc, connection.get("timeout")))
        return _Session(engine.core, _Remote(client, retry_of(connection)), client.close)

    if async_client is None:
        return AsyncSafeSearch(through_connection)
    if connection or create:
        raise SettingsError("async_client is a connection to a collection that exists; give no other, and no create")
    return AsyncSafeSearch(lambda: through_client(async_client))


class _Remote:
    """The methods of a store that a search asks, on an asynchronous client."""

    def __init__(self, client: AsyncQdrantClient, retry: Retry) -> None:
        self._client, self._retry, self._local = client, retry, is_local(client)

    async def _call(self, name: str, act: Callable[[], Awaitable[T]]) -> T:
        async def once() -> T:
            with translated(name):
                return await act()

        return await self._retry.acall(once)

    async def query(self, name: str, query: VectorQuery) -> list[list[StoredPoint]]:
        requests = query_requests(query, local=self._local)
        return read_responses(await self._call(name, lambda: self._client.query_batch_points(name, requests)))

    async def query_groups(self, name: str, query: VectorQuery, groups: GroupQuery) -> list[Group]:
        request = group_request(query, groups, local=self._local)
        return read_groups(await self._call(name, lambda: self._client.query_points_groups(name, **request)))

    async def retrieve(self, name: str, ids: Sequence[PointId]) -> list[StoredPoint]:
        records = await self._call(
            name, lambda: self._client.retrieve(name, list(ids), with_payload=True, with_vectors=[VECTOR_NAME])
        )
        return [stored(record) for record in records]


class _InThread:
    """A blocking store whose methods run in a worker thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(asyncio.to_thread, getattr(self._store, name))


async def _nothing() -> None:
    """Closing a client is up to the application whose client it is."""
