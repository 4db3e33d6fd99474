"""Threads in which requests are computed, off the event loop: so many at once, so many that wait, and no more.

Encoding a text costs nearly the same alone as with others, so safe searches by text that ask for the same are gathered
while all threads are busy, and answered by one call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from hysac_retrieval.errors import HysacError
from hysac_retrieval.service.problems import BusyError, TooSlowError

T = TypeVar("T")
Many = Callable[[Sequence[Any]], Sequence[Any]]
"""Answers several requests of one kind at once."""

MOST_AT_ONCE = 32
"""Texts that are encoded together at most."""


@dataclass(eq=False)
class _Job:
    run: Many
    kind: Hashable | None
    asked: Any
    answer: asyncio.Future[Any]
    context: Context = field(default_factory=copy_context)  # what is traced in a thread belongs to the request


class Pool:
    """Computes for one event loop.

    Args:
        threads: Requests computed at once.
        waiting: Requests that wait for a thread.
        seconds: Time that a caller is kept waiting. A thread goes on after it, and is not given anything meanwhile.
    """

    def __init__(self, threads: int, waiting: int, seconds: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="hysac-serve")
        self._free, self._waiting, self._seconds = threads, waiting, seconds
        self._jobs: deque[_Job] = deque()

    async def run(self, compute: Callable[[], T]) -> T:
        """Compute in a thread.

        Raises:
            BusyError: Too many wait already.
            TooSlowError: It takes too long.
        """
        found: T = await self._answer(_Job(lambda _: [compute()], None, None, _future()))
        return found

    async def gather(self, kind: Hashable, asked: Any, run: Many) -> Any:
        """Compute together with others of the same kind that wait; `run` takes all of them. See `run`."""
        return await self._answer(_Job(run, kind, asked, _future()))

    @property
    def load(self) -> int:
        """Requests that wait."""
        return len(self._jobs)

    def close(self) -> None:
        """Let threads end; what they compute is still answered."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _answer(self, job: _Job) -> Any:
        if not self._free and len(self._jobs) >= self._waiting:
            raise BusyError("too many requests wait already")
        self._jobs.append(job)
        self._start()
        try:
            return await asyncio.wait_for(job.answer, self._seconds)
        except TimeoutError:
            raise TooSlowError(f"no answer within {self._seconds:g} s") from None

    def _start(self) -> None:
        while self._free and self._jobs:
            if jobs := self._next():
                self._free -= 1
                loop = asyncio.get_running_loop()
                computed = loop.run_in_executor(self._executor, jobs[0].context.run, _compute, jobs)
                computed.add_done_callback(partial(self._done, jobs))

    def _next(self) -> list[_Job]:
        """Take the first that still has somebody waiting, and those of its kind."""
        first = self._jobs.popleft()
        if first.answer.done():
            return []
        jobs = [first]
        if first.kind is not None:
            for job in list(self._jobs):
                if len(jobs) < MOST_AT_ONCE and job.kind == first.kind:
                    self._jobs.remove(job)
                    if not job.answer.done():
                        jobs.append(job)
        return jobs

    def _done(self, jobs: list[_Job], done: asyncio.Future[list[Any]]) -> None:
        self._free += 1
        outcomes = [done.exception()] * len(jobs) if done.exception() else done.result()
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.answer.done():
                continue
            if isinstance(outcome, BaseException):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)
        self._start()


def _compute(jobs: Sequence[_Job]) -> list[Any]:
    """Answer jobs: together, or one by one where one of them is wrong."""
    try:
        return list(jobs[0].run([job.asked for job in jobs]))
    except HysacError as error:
        if len(jobs) == 1:
            return [error]
    except Exception as error:
        return [error] * len(jobs)
    return [_compute([job])[0] for job in jobs]


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()
