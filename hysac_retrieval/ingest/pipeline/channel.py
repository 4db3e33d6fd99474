"""A bounded queue between two threads that ends for both when either ends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from hysac_retrieval.errors import ResourceError

T = TypeVar("T")


class ChannelClosedError(Exception):
    """The consumer takes no more; raised by `Channel.put` and caught where the producer runs."""


class Channel(Generic[T]):
    """Values on their way from one thread to another, at most `size` of them.

    Either side may `close` it. The other side then gets the error, if one was given: the consumer after the values that
    were put before, the producer at once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None

    def put(self, value: T) -> None:
        """Add a value; waits while the channel is full, and raises the error it was closed with, if it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._values) < self._size)
            if self._closed:
                raise self._error or ChannelClosedError
            self._values.append(value)
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """Put nothing more, or take nothing more. Closing again changes nothing."""
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
                self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        for values in self._taken(1):
            yield from values

    def together(self) -> Iterator[list[T]]:
        """Take all waiting values at a time, so that a consumer that falls behind can catch up."""
        return self._taken(self._size)

    def _taken(self, most: int) -> Iterator[list[T]]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._values))
                if not self._values:
                    if self._error is not None:
                        raise self._error
                    return
                values = [self._values.popleft() for _ in range(min(most, len(self._values)))]
                self._changed.notify_all()
            yield values


@contextmanager
def in_thread(channel: Channel[Any], work: Callable[[], None]) -> Iterator[None]:
    """Work on the other side of a channel, in a thread that has ended when the context is left.

    An error of the work closes the channel, and so reaches this side, at the latest when the context is left. That
    closes the channel, too.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
            channel.close()
        except ChannelClosedError:
            pass
        except BaseException as error:
            errors.append(error)
            channel.close(error)

    thread = started(run, f"hysac{work.__name__}")
    try:
        yield
    finally:
        channel.close()
        thread.join()
        if errors:
            raise errors[0]


def started(work: Callable[[], None], name: str) -> threading.Thread:
    """Start a thread; raises `ResourceError` where the system gives no more of them."""
    thread = threading.Thread(target=work, name=name)
    with threads_are_short():
        thread.start()
    return thread


@contextmanager
def threads_are_short() -> Iterator[None]:
    """Turn what Python raises where no thread can be started into a `ResourceError`."""
    try:
        yield
    except RuntimeError as error:
        if "start new thread" not in str(error):
            raise
        hint = "Raise the limits of this process (ulimit -u, ulimit -v, pids of a container), or take fewer workers"
        raise ResourceError("the system starts no more threads for this process", hint=hint) from error
