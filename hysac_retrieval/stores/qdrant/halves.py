"""Requests that are sent in halves where a server takes less at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hysac_retrieval.errors import RequestTooLargeError
from hysac_retrieval.steps import Ask, Steps


def halved(rows: Sequence[Any], ask: Callable[[Sequence[Any]], Ask]) -> Steps[list[Any]]:
    """Ask something of all rows at once or, where that is more than a server takes at once, of each half.

    A server takes 32 MB over REST, a proxy before it perhaps less, and no more points than a rate limit has room for.

    Raises:
        RequestTooLargeError: A single row is too large.
    """
    try:
        return [(yield ask(rows))]
    except RequestTooLargeError as error:
        if len(rows) < 2:
            point = rows[0].get("id") if isinstance(rows[0], dict) else getattr(rows[0], "id", None)
            error.message += "" if point is None else f" (point {point})"
            raise
    half = len(rows) // 2
    return [*(yield from halved(rows[:half], ask)), *(yield from halved(rows[half:], ask))]
