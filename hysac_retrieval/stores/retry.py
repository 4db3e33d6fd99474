"""Trying again what a store could not do just now.

Everything sent to a store is idempotent (points are written under ids of their own), so a call that failed on the way
can simply be made again: a bounded number of times, after growing pauses with a random part, so that many clients do
not come back all at once.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from hysac_retrieval.errors import SettingsError, StoreError, StoreUnavailableError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and after which pauses, a call that ended in a `StoreUnavailableError` is made again.

    Attributes:
        retries: Further attempts, 0 or more.
        first: Seconds before the first of them; each pause is up to twice as long as the one before.
        longest: Longest pause in seconds. A server that asks for more is not waited for.
    """

    retries: int = 3
    first: float = 0.25
    longest: float = 30.0

    def __post_init__(self) -> None:
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise SettingsError(f"retries is {self.retries!r}; it must be an integer of 0 or more")

    def call(self, act: Callable[[], T]) -> T:
        """Do it, again if need be.

        Raises:
            StoreUnavailableError: The last attempt failed like those before.
        """
        attempt = 0
        while True:
            try:
                return act()
            except StoreUnavailableError as error:
                time.sleep(self._pause(attempt, error))
            attempt += 1

    async def acall(self, act: Callable[[], Awaitable[T]]) -> T:
        """As `call`, without blocking."""
        attempt = 0
        while True:
            try:
                return await act()
            except StoreUnavailableError as error:
                pause = self._pause(attempt, error)
            await asyncio.sleep(pause)
            attempt += 1

    def _pause(self, attempt: int, error: StoreUnavailableError) -> float:
        """Seconds until the next attempt; the error itself, if there is to be none."""
        asked = error.retry_after or 0.0
        if attempt >= self.retries or asked > self.longest:
            if attempt:
                error.message += f" (after {attempt + 1} attempts)"
            raise error
        # At least half of the pause is waited, so that attempts are spread over some time whatever the dice say.
        pause: float = min(self.longest, self.first * 2**attempt) * random.uniform(0.5, 1.0)
        return max(pause, asked)


def checked_timeout(timeout: float) -> float:
    """A time limit in seconds.

    Raises:
        SettingsError: It is no positive number.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise SettingsError(f"timeout is {timeout!r}; it must be a positive number of seconds")
    return float(timeout)


@contextmanager
def counted(written: int, total: int) -> Iterator[None]:
    """Have a `StoreError` say how many of the points of one call had been written before it."""
    try:
        yield
    except StoreError as error:
        error.written = written
        if total > 1:
            error.message += f"; {written} of {total} points had been written before"
        raise
