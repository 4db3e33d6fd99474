"""Calls to a store that are made again when it could not serve them just now.

Everything sent to a store is idempotent (points are written by id), so a call that failed on the way
can simply be made again: a bounded number of times, after growing pauses with a random part, so that many clients do
not come back all at once.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from hysac_retrieval.errors import StoreError, StoreUnavailableError

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retry:
    """Number of further attempts, and pauses before them, of a call that ended in a `StoreUnavailableError`.

    Attributes:
        retries: Further attempts, 0 or more.
        first: Seconds before the first of them; each pause is up to twice as long as the one before.
        longest: Longest pause in seconds. A server that asks for more is not waited for.
        wait: Seconds that a call goes on being made again after its first attempt, whatever `retries` says. For bulk
            work, which outlives the restart of a server; searches do without.
    """

    retries: int = 3
    first: float = 0.25
    longest: float = 30.0
    wait: float = 0.0

    def call(self, act: Callable[[], T]) -> T:
        """Make a call, again if need be; raises the `StoreUnavailableError` of the last attempt."""
        try:
            return act()  # nearly always this is all, and costs no more than the call
        except StoreUnavailableError as error:
            first = [error]

        def again() -> T:
            if first:
                raise first.pop()
            return act()

        return Retrying(**self._rules())(again)

    async def acall(self, act: Callable[[], Awaitable[T]]) -> T:
        """As `call`, for a coroutine function."""
        try:
            return await act()
        except StoreUnavailableError as error:
            first = [error]

        async def again() -> T:
            if first:
                raise first.pop()
            return await act()

        return await AsyncRetrying(**self._rules())(again)

    def _rules(self) -> dict[str, Any]:
        return {
            "retry": retry_if_exception_type(StoreUnavailableError),
            "wait": self._pause,
            "stop": self._enough,
            "before_sleep": self._say,
            "retry_error_callback": _give_up,
        }

    def _enough(self, state: RetryCallState) -> bool:
        if (state.seconds_since_start or 0.0) + state.upcoming_sleep <= self.wait:
            return False
        return state.attempt_number > self.retries or state.upcoming_sleep > self.longest

    def _say(self, state: RetryCallState) -> None:
        """Log, once for each call, that its server is waited for."""
        if self.wait and state.attempt_number == self.retries + 1:
            since = datetime.now().astimezone() - timedelta(seconds=state.seconds_since_start or 0.0)
            _log.warning(
                "%s; waiting since %s, for up to %.0f seconds", _failure(state), f"{since:%H:%M:%S}", self.wait
            )

    def _pause(self, state: RetryCallState) -> float:
        """Seconds until the next attempt: a growing pause, or longer if the server asks for that."""
        # At least half of the pause is waited, so that attempts are spread over some time whatever the dice say.
        pause = wait_exponential(self.first, self.longest)(state) * random.uniform(0.5, 1.0)
        return max(pause, _failure(state).retry_after or 0.0)


def _failure(state: RetryCallState) -> StoreUnavailableError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, StoreUnavailableError)  # nothing else is retried
    return error


def _give_up(state: RetryCallState) -> None:
    error = _failure(state)
    if state.attempt_number > 1:
        error.message += f" (after {state.attempt_number} attempts)"
    raise error


@contextmanager
def counted(written: int, total: int) -> Iterator[None]:
    """Have a `StoreError` say how many of the points of one call had been written before it."""
    try:
        yield
    except StoreError as error:
        error.written = written
        if total > 1:
            error.message += f"; {written} of the {total} points of this call had been written before"
        raise
