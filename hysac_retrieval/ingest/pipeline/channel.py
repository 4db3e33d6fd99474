"""A bounded queue between two threads that ends for both when either ends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosedError(Exception):
    """Nobody takes any more; raised by `Channel.put` and caught where the producer runs."""


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
        """Add a value; waits while the channel is full.

        Raises:
            ChannelClosedError: The channel is closed, without an error.
            BaseException: The error it was closed with.
        """
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
        """All values that wait, as often as some do: a consumer that falls behind takes more at a time."""
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
