"""Parts of an asynchronous engine that are opened once for all event loops, or once for each."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

from hysac_retrieval.errors import ResourceError

T = TypeVar("T")


class Once(Generic[T]):
    """Something that blocks while it is made: made once, in a thread, whoever asks first and is perhaps cancelled."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Future[T] | None = None

    @property
    def begun(self) -> bool:
        """Whether anybody has asked for it."""
        return self._made is not None

    async def get(self) -> T:
        """Return it. If making it fails, the next call tries again."""
        with self._lock:
            future = self._made
            if future is None:
                future = self._made = self._started()
        if future.done() and not future.exception():
            return future.result()
        return await asyncio.wrap_future(future)

    def _started(self) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()  # so that a caller who is cancelled does not cancel it for the others

        def run() -> None:
            try:
                made = self._make()
            except BaseException as error:
                with self._lock:
                    self._made = None
                future.set_exception(error)
            else:
                future.set_result(made)

        try:
            threading.Thread(target=run, name="hysac-open").start()
        except RuntimeError as error:
            raise ResourceError(
                f"no thread can be started: {error}", hint="Raise the limits of this process"
            ) from error
        return future


class PerLoop:
    """A store for each event loop that uses it, closed with its loop: connections belong to the loop that made them.

    Args:
        make: Makes a store, whose `close` is awaited.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._held: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[None]]] = {}

    async def get(self) -> Any:
        """Return the store of the running loop."""
        loop = asyncio.get_running_loop()
        if (held := self._held.get(loop)) is not None:
            return held[0]
        store = self._make()
        # A loop that ends closes the asynchronous generators that were begun in it; this one closes the store.
        closing = self._closing(loop, store)
        with self._lock:
            for ended in [other for other in self._held if other.is_closed()]:
                del self._held[ended]
            self._held[loop] = store, closing
        await anext(closing)
        return store

    async def close(self) -> None:
        """Close the stores of all loops, each in its own; one that does not run any more closes its own as it ends."""
        here = asyncio.get_running_loop()
        with self._lock:
            held, self._held = self._held, {}
        for loop, (_, closing) in held.items():
            with suppress(RuntimeError):  # it is closing, or ends just now
                if loop is here:
                    await closing.aclose()
                elif loop.is_running():
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(closing.aclose(), loop))

    async def _closing(self, loop: asyncio.AbstractEventLoop, store: Any) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(loop, None)
            await store.close()
