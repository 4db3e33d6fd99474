"""When to read the metadata of a collection again: what replies show, and what they lack."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.stores.types import StoredPoint

EVERY = 10.0
"""Seconds after which the metadata is read again, whatever replies say."""

AGAIN = 1.0
"""Seconds for which a reason that turned out to be none is no reason."""

_MOST_VAIN = 64

Reason: TypeAlias = tuple[str, ...]
"""Why to read it: a model and a stamp that are not the collection's, or a word."""

NOTHING: Reason = ("nothing was found",)
TIME: Reason = ("it was not read for long",)
FAILED: Reason = ("the request failed",)


class Watch:
    """Decides from replies when to read the metadata of a collection again."""

    def __init__(self) -> None:
        self.looked = time.monotonic()
        self._vain: set[Reason] = set()

    def doubts(self, answers: Iterable[Sequence[StoredPoint]], model: str, stamp: str | None) -> Reason | None:
        """Return the reason why a reply may be that of a collection that was replaced; None if there is none.

        Args:
            answers: Points, for each query.
            model: The model that points should name.
            stamp: The stamp that they should carry.
        """
        found = False
        for points in answers:
            for point in points:
                found, own = True, point.payload.get(PAYLOAD_KEY)
                if type(own) is not dict or (own.get("model") == model and own.get("stamp") == stamp):
                    continue
                strange = repr(own.get("model"))[:80], repr(own.get("stamp"))[:80]
                if strange not in self._vain or time.monotonic() - self.looked > AGAIN:
                    return strange
        return self.due(found)

    def due(self, found: bool) -> Reason | None:
        """Return the reason to look: because nothing was found, or the last look was long ago; None for neither."""
        since = time.monotonic() - self.looked
        if found:
            self._vain.discard(NOTHING)
        elif NOTHING not in self._vain or since > AGAIN:
            return NOTHING
        return TIME if since > EVERY else None

    def settled(self, reason: Reason) -> None:
        """Note that the metadata was read just now for a reason, and is as it was."""
        now = time.monotonic()
        if now - self.looked > AGAIN or len(self._vain) >= _MOST_VAIN:
            self._vain.clear()
        self.looked = now
        self._vain.add(reason)
