"""Clients of Qdrant: how they are made, and calls that are made again and fail with errors of this package."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeVar

from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal
from qdrant_client.local.qdrant_local import QdrantLocal

from hysac_retrieval.errors import StorageLockedError, StoreError
from hysac_retrieval.stores.faults import translated
from hysac_retrieval.stores.retry import Retry

Client = TypeVar("Client", bound=QdrantClient | AsyncQdrantClient)

TIMEOUT = 30.0
"""Seconds that a server may take to answer, if the caller does not say."""


def is_local(client: Any) -> bool:
    """Whether a client keeps its collections in this process."""
    return isinstance(getattr(client, "_client", None), QdrantLocal | AsyncQdrantLocal)


def _close_local(client: Any, name: str) -> None:
    """Close the database of a collection in local mode, which leaves it open when it deletes the collection."""
    if is_local(client) and name in client._client.collections:
        client._client.collections[name].close()


def make_client(
    kind: type[Client],
    *,
    url: str | None = None,
    path: str | None = None,
    timeout: float | None = None,
    **options: Any,
) -> Client:
    """Make a client for a server (`url`), a folder in local mode (`path`) or memory (neither).

    A server may take `timeout` seconds to answer, rounded up to whole ones, and `options` are further arguments of the
    client. Raises `StorageLockedError` if another client has the folder open.
    """
    try:
        if url is None:
            # To find out whether threads may share SQLite, the client opens a database that it never closes.
            return kind(":memory:") if path is None else kind(path=path, force_disable_check_same_thread=True)
        seconds = math.ceil(TIMEOUT if timeout is None else timeout)
        # The client's check of versions only warns, from a thread of its own. A server that is away or too old is found
        # out by the first request, as an error.
        return kind(url=url, timeout=seconds, check_compatibility=False, **options)
    except RuntimeError as error:
        if "already accessed" in str(error):
            hint = "Close that one, or run a Qdrant server and use url="
            raise StorageLockedError(f"the folder {path} is open in another client", hint=hint) from error
        raise
    except ValueError as error:
        raise StoreError(f"no client for url {url!r}: {error}") from error


class _Patience:
    """How long calls are made again: only a server that has answered before is waited for, so that a slip is said."""

    def __init__(self, client: Any, retry: Retry) -> None:
        self._client, self._known = client, retry
        self._retry = replace(retry, wait=0.0)

    def _reached(self) -> None:
        self._retry = self._known


class Calls(_Patience):
    """The methods of a client, called again if need be, and `sleep`; what fails is a `StoreError`.

    The methods take the name of a collection, if any, as their first argument.
    """

    def __init__(self, client: QdrantClient, retry: Retry) -> None:
        super().__init__(client, retry)
        # The local mode changes plain Python containers while it writes; a server needs no lock.
        self.lock: AbstractContextManager[Any] = threading.RLock() if is_local(client) else nullcontext()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        act = attrgetter(method)(self._client)  # "http.service_api.telemetry" is a method, too

        def call(*arguments: Any, **keywords: Any) -> Any:
            def once() -> Any:
                with self.lock, translated(*arguments[:1]):
                    return act(*arguments, **keywords)

            answer = self._retry.call(once)
            self._reached()
            return answer

        return call

    def delete_collection(self, name: str) -> bool:
        """Delete a collection, and close what local mode has open of it."""
        with self.lock:
            _close_local(self._client, name)
            deleted: bool = self.__getattr__("delete_collection")(name)
        return deleted

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class AsyncCalls(_Patience):
    """As `Calls`, for the methods of an asynchronous client, which are awaited."""

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        act = attrgetter(method)(self._client)

        async def call(*arguments: Any, **keywords: Any) -> Any:
            async def once() -> Any:
                with translated(*arguments[:1]):
                    return await act(*arguments, **keywords)

            answer = await self._retry.acall(once)
            self._reached()
            return answer

        return call

    async def delete_collection(self, name: str) -> bool:
        """As `Calls.delete_collection`."""
        _close_local(self._client, name)
        deleted: bool = await self.__getattr__("delete_collection")(name)
        return deleted

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
