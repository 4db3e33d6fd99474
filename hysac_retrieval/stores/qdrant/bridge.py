"""A blocking store over an asynchronous client, for threads beside its event loop.

To attach, encode and write is long and blocks, so it runs in a thread. The client that it asks may exist in one event
loop only, as one in memory does; each question goes there, and the thread waits for the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from qdrant_client import AsyncQdrantClient

from hysac_retrieval.errors import SettingsError, StoreError
from hysac_retrieval.stores.qdrant.client import AsyncCalls
from hysac_retrieval.stores.qdrant.store import QdrantStore
from hysac_retrieval.stores.retry import Retry


class BridgedCalls:
    """As `Calls`, for a client that lives in the event loop that runs now."""

    def __init__(self, client: AsyncQdrantClient, retry: Retry) -> None:
        if not isinstance(client, AsyncQdrantClient):
            raise SettingsError(f"client is {type(client).__name__}; expected an AsyncQdrantClient")
        self._calls, self._loop = AsyncCalls(client, retry), asyncio.get_running_loop()
        self.lock: AbstractContextManager[Any] = nullcontext()  # local mode answers in the loop, one call at a time
        self.origin, self.closed = self._calls.origin, False

    def __getattr__(self, method: str) -> Callable[..., Any]:
        act = getattr(self._calls, method)

        def call(*arguments: Any, **keywords: Any) -> Any:
            if _running_loop() is self._loop:
                what = "this index is over an asynchronous client, and would wait here for the loop that it holds up"
                raise SettingsError(what, hint="Call it in a thread: await asyncio.to_thread(index.info)")
            if not self._loop.is_running():
                raise StoreError("the event loop of the client has ended", hint="Attach again in the one that runs")
            return asyncio.run_coroutine_threadsafe(act(*arguments, **keywords), self._loop).result()

        return call


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class BridgedStore(QdrantStore):
    """As `QdrantStore`, for threads; made in the event loop of the client, which stays the application's."""

    _calls_kind: ClassVar[Any] = BridgedCalls

    def __init__(self, client: AsyncQdrantClient, *, retry: Retry | None = None) -> None:
        super().__init__(client, retry=retry)  # type: ignore[arg-type]  # asked by way of the bridge only
