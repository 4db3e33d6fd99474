"""The queue between two stages: it waits, it ends, and it carries errors both ways."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import pytest

from hysac_retrieval.ingest.pipeline.channel import Channel, ChannelClosedError


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_values_come_in_order_and_then_it_ends() -> None:
    channel: Channel[int] = Channel(2)

    def produce() -> None:
        for number in range(100):
            channel.put(number)
        channel.close()

    thread = in_thread(produce)
    assert list(channel) == list(range(100))
    thread.join(10)
    assert list(channel) == []


def test_a_producer_waits_while_the_channel_is_full() -> None:
    channel: Channel[int] = Channel(2)
    put: list[int] = []

    def produce() -> None:
        with contextlib.suppress(ChannelClosedError):
            for number in range(5):
                channel.put(number)
                put.append(number)

    thread = in_thread(produce)
    thread.join(0.2)
    assert put == [0, 1]
    values = iter(channel)
    assert next(values) == 0
    thread.join(0.2)
    assert put == [0, 1, 2]
    channel.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [None, ValueError("the consumer failed")])
def test_a_consumer_that_gives_up_frees_the_producer(error: Exception | None) -> None:
    channel: Channel[int] = Channel(1)
    seen: list[BaseException] = []

    def produce() -> None:
        try:
            while True:
                channel.put(0)
        except (ChannelClosedError, ValueError) as stopped:
            seen.append(stopped)

    thread = in_thread(produce)
    channel.close(error)
    thread.join(10)
    assert [type(one) for one in seen] == [type(error) if error else ChannelClosedError]


def test_an_error_of_the_producer_comes_after_what_it_put() -> None:
    channel: Channel[int] = Channel(5)
    channel.put(1)
    channel.close(ValueError("broken"))
    channel.close(ValueError("too late"))
    values = iter(channel)
    assert next(values) == 1
    with pytest.raises(ValueError, match="broken"):
        next(values)


def test_what_waits_can_be_taken_together() -> None:
    channel: Channel[int] = Channel(3)
    for number in range(3):
        channel.put(number)
    taken = channel.together()
    assert next(taken) == [0, 1, 2]
    channel.put(3)
    channel.close()
    assert list(taken) == [[3]]
