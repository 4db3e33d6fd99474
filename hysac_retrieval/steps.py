"""Logic that asks something on its way, written once for blocking and asynchronous code.

A computation is a generator: it yields an `Ask`, is sent the answer, or thrown the error that came instead of one, and
returns its result. `run` carries each question out on a target that blocks, `arun` on one whose methods are awaited. A
search asks a store, a store asks a client of Qdrant, and a guarded client asks the client that it guards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


class Ask:
    """A question: a method of the target, with its arguments."""

    __slots__ = ("arguments", "keywords", "method")

    def __init__(self, method: str, *arguments: Any, **keywords: Any) -> None:
        self.method = method
        self.arguments = arguments
        self.keywords = keywords

    def of(self, target: Any) -> Any:
        """Call the method: the answer, or an awaitable of it."""
        return getattr(target, self.method)(*self.arguments, **self.keywords)


Steps: TypeAlias = Generator[Ask, Any, T]
"""A computation that asks a target on its way to a `T`."""


def run(steps: Steps[T], target: Any) -> T:
    """Drive a computation to its result, blocking: each question is a call of a method of `target`."""
    try:
        ask = next(steps)
        while True:
            try:
                answer = ask.of(target)
            except Exception as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def arun(steps: Steps[T], target: Any, *, in_thread: bool = False) -> T:
    """Drive a computation to its result, awaiting each answer.

    Args:
        steps: The computation.
        target: Its methods return awaitables.
        in_thread: Compute between the questions in a worker thread: for computations that encode, which must not hold
            up the event loop.
    """

    def advance(step: Callable[[], Ask]) -> tuple[Ask | None, Any]:
        # `StopIteration` cannot leave a future or a coroutine; here it becomes a value.
        try:
            return step(), None
        except StopIteration as end:
            return None, end.value

    step = partial(steps.send, None)
    while True:
        ask, result = await asyncio.to_thread(advance, step) if in_thread else advance(step)
        if ask is None:
            return result  # type: ignore[no-any-return]  # without a further question, it is the result
        try:
            step = partial(steps.send, await ask.of(target))
        except Exception as error:
            step = partial(steps.throw, error)
