"""Computations that ask a target give the same result, or the same error, blocking and awaited."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from hysac_retrieval.steps import Ask, Steps, arun, run


class Target:
    def double(self, value: int, *, plus: int = 0) -> int:
        return 2 * value + plus

    def fail(self, value: int) -> int:
        raise LookupError(f"no {value}")

    def stop(self) -> int:
        raise StopIteration(7)


class AsyncTarget:
    def __getattr__(self, name: str) -> Any:
        async def method(*arguments: Any, **keywords: Any) -> Any:
            await asyncio.sleep(0)
            return getattr(Target(), name)(*arguments, **keywords)

        return method


def blocking(steps: Steps[Any]) -> Any:
    return run(steps, Target())


def awaited(steps: Steps[Any]) -> Any:
    return asyncio.run(arun(steps, AsyncTarget()))


def in_thread(steps: Steps[Any]) -> Any:
    return asyncio.run(arun(steps, AsyncTarget(), in_thread=True))


every = pytest.mark.parametrize("drive", [blocking, awaited, in_thread])


@every
def test_answers_are_sent_and_the_result_is_returned(drive: Any) -> None:
    def steps() -> Steps[list[int]]:
        first = yield Ask("double", 4)
        second = yield Ask("double", first, plus=1)
        return [first, second]

    def nothing() -> Steps[int]:
        return 5
        yield Ask("double", 1)

    assert drive(steps()) == [8, 17]
    assert drive(nothing()) == 5


@every
def test_an_error_is_thrown_where_the_question_was_asked(drive: Any) -> None:
    def steps() -> Steps[str]:
        try:
            yield Ask("fail", 3)
        except LookupError as error:
            return f"{error.args[0]}, but {(yield Ask('double', 1))}"
        return "not reached"

    assert drive(steps()) == "no 3, but 2"


@every
def test_an_error_that_is_not_caught_comes_out_as_it_is(drive: Any) -> None:
    left = []

    def steps() -> Steps[None]:
        try:
            yield Ask("fail", 4)
        finally:
            left.append(True)

    with pytest.raises(LookupError, match="no 4"):
        drive(steps())
    assert left == [True]

    def stopped() -> Steps[None]:
        yield Ask("stop")

    with pytest.raises(RuntimeError, match="StopIteration"):
        drive(stopped())


def test_what_is_computed_between_the_questions_can_leave_the_event_loop_alone() -> None:
    def steps() -> Steps[set[int]]:
        before = threading.get_ident()
        yield Ask("double", 1)
        return {before, threading.get_ident()}

    assert blocking(steps()) == awaited(steps()) == {threading.get_ident()}
    assert threading.get_ident() not in in_thread(steps())
