"""When to read the metadata of a collection again: what replies show, and what they lack."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.stores.types import StoredPoint

EVERY = 10.0
"""Seconds after which the metadata is read again, whatever replies say."""

AGAIN = 1.0
"""Seconds for which a reason that turned out to be none is no reason."""

_MOST_STRANGE = 64


class Watch:
    """Decides from replies when to read the metadata of a collection again."""

    def __init__(self) -> None:
        self.looked = time.monotonic()
        self._idle = False
        self._strange: set[tuple[str, str]] = set()

    def doubts(self, answers: Iterable[Sequence[StoredPoint]], model: str, stamp: str | None) -> bool:
        """Whether a reply may be that of a collection that was replaced, or the metadata was not read for long.

        Args:
            answers: Points, for each query.
            model: The model that points should name.
            stamp: The stamp that they should carry.
        """
        since, found = time.monotonic() - self.looked, False
        for points in answers:
            for point in points:
                found, own = True, point.payload.get(PAYLOAD_KEY)
                if type(own) is not dict or (own.get("model") == model and own.get("stamp") == stamp):
                    continue
                mark = repr(own.get("model"))[:80], repr(own.get("stamp"))[:80]
                if since > AGAIN or mark not in self._strange:
                    if since > AGAIN or len(self._strange) >= _MOST_STRANGE:
                        self._strange.clear()
                    self._strange.add(mark)
                    return True
        if found:
            self._idle = False
        elif since > AGAIN or not self._idle:
            self._idle = True
            return True
        return since > EVERY

    def forget(self) -> None:
        """Forget the reasons that were none: this one was."""
        self._idle = False
        self._strange.clear()
