"""Clients of Qdrant: how they are made, and calls that are made again and fail with errors of this package."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal
from qdrant_client.local.qdrant_local import QdrantLocal

from hysac_retrieval.errors import StorageLockedError, StoreError
from hysac_retrieval.forks import Origin
from hysac_retrieval.stores.faults import translated
from hysac_retrieval.stores.retry import Retry

Client = TypeVar("Client", bound=QdrantClient | AsyncQdrantClient)

_log = logging.getLogger(__name__)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

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
    **options: Any,
) -> Client:
    """Make a client for a server (`url`), a folder in local mode (`path`) or memory (neither).

    Args:
        kind: Class of the client.
        url: Address of a server.
        path: Folder of the local mode.
        **options: What `Connection` says of a server.

    Raises:
        StorageLockedError: Another client has the folder open.
        StoreError: The address, or the file of an authority, cannot be read.
    """
    try:
        if url is None:
            # To find out whether threads may share SQLite, the client opens a database that it never closes.
            return kind(":memory:") if path is None else kind(path=path, force_disable_check_same_thread=True)
        return kind(**_server_arguments(url, **options))
    except RuntimeError as error:
        if "already accessed" in str(error):
            hint = "Close that one, or run a Qdrant server and use url="
            raise StorageLockedError(f"the folder {path} is open in another client", hint=hint) from error
        raise
    except ValueError as error:
        raise StoreError(f"no client for url {url!r}: {error}") from error


def _server_arguments(
    url: str,
    *,
    api_key: str | None = None,
    timeout: float | None = None,
    grpc_port: int | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    headers: Mapping[str, str] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """Arguments of a client for a server."""
    if "://" not in url:
        url = f"{'http' if api_key is None else 'https'}://{url}"
    parts = urlsplit(url)
    # The client's check of versions only warns, from a thread of its own. A server that is away or too old is found
    # out by the first request, as an error.
    arguments = {"url": url, "check_compatibility": False, **others}
    arguments["timeout"] = math.ceil(TIMEOUT if timeout is None else timeout)  # the client takes whole seconds
    if parts.path.strip("/") and parts.netloc and parts.port is None:
        arguments["port"] = None  # a proxy, at the port of its scheme
    if grpc_port is not None:
        arguments["grpc_port"] = grpc_port
    if ca_file is not None:
        arguments |= _authority(Path(ca_file))
    # As a header the key is the same, and the client does not warn from inside, with the path of its source.
    given = {**(headers or {}), **({} if api_key is None else {"api-key": api_key})}
    if given:
        arguments["headers"] = given
    if api_key is not None and parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        _log.warning("the API key goes to %s in the clear: use https, or a network that nobody else reads", url)
    return arguments


def _authority(file: Path) -> dict[str, Any]:
    """Arguments of a client that trusts the authority in a file as well, over REST and gRPC."""
    try:
        context = ssl.create_default_context(cafile=file)
        return {"verify": context, "grpc_options": {"root_certificates": file.read_bytes()}}
    except (OSError, ssl.SSLError) as error:
        raise StoreError(f"{file} holds no certificates: {error}", hint="ca_file is a file in PEM form") from error


_AFTER_FORK = (
    "Call connect, or make the client, in each process after the fork; what location=':memory:' holds belongs to one "
    "process and is shared by a Qdrant server (url=) only"
)


class _Usable:
    """Says whether calls can be made: not when `closed`, and not in a process that was forked."""

    def __init__(self) -> None:
        self.closed = False
        self.origin = Origin("the connection to Qdrant", _AFTER_FORK)

    def expect(self) -> None:
        self.origin.expect()
        if self.closed:
            raise StoreError("this store is closed", hint="Open the collection again")


class _Patience(_Usable):
    """How long calls are made again: only a server that has answered before is waited for, so that a slip is said."""

    def __init__(self, client: Any, retry: Retry) -> None:
        super().__init__()
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
        self.expect()
        return self._repeated(attrgetter(method)(self._client))  # "http.service_api.telemetry" is a method, too

    def through(self, name: str, send: Callable[[QdrantClient], Any]) -> Any:
        """Send something about a collection through the client itself."""
        self.expect()
        return self._repeated(lambda _: send(self._client))(name)

    def _repeated(self, act: Callable[..., Any]) -> Callable[..., Any]:
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
        self.expect()
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
        self.expect()
        return self._repeated(attrgetter(method)(self._client))

    async def through(self, name: str, send: Callable[[AsyncQdrantClient], Awaitable[Any]]) -> Any:
        """See `Calls.through`."""
        self.expect()
        return await self._repeated(lambda _: send(self._client))(name)

    def _repeated(self, act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
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
        self.expect()
        _close_local(self._client, name)
        deleted: bool = await self.__getattr__("delete_collection")(name)
        return deleted

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
