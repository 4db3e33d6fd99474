"""A collection that is searched while others may replace it.

An alias may be moved, a collection made anew with another lift or of another model, or rescored. What was read when it
was opened is then out of date, and would rank wrongly or find nothing. Replies tell: every point names the model that
scored it and the lift that stored it, and a search that finds nothing may ask for a verdict that is no longer given. In
doubt the metadata is read again. Nothing is asked for as long as replies are as expected, but every few seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from hysac_retrieval.collection.attach import open_collection
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.metadata import same_points
from hysac_retrieval.collection.watch import AGAIN, FAILED, TIME, Reason
from hysac_retrieval.errors import ModelMismatchError, StoreError, StoreUnavailableError
from hysac_retrieval.steps import Ask, Steps

T = TypeVar("T")

_MOST_REPLACED = 5  # times during one search

_log = logging.getLogger(__name__)


class ReplacedError(Exception):
    """The collection is no longer what it was opened as; caught where a search begins."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection


def ask(collection: Collection, method: str, *arguments: Any) -> Steps[Any]:
    """Ask a store for points of a collection: ``query``, ``query_groups`` or ``retrieve``.

    Raises:
        ReplacedError: The reply shows that the collection was replaced.
    """
    try:
        answer = yield Ask(method, collection.name, *arguments)
    except StoreUnavailableError:
        raise
    except StoreError:  # such as that of vectors of another length
        yield from _look(collection, FAILED)
        raise
    answers = [answer] if method == "retrieve" else answer
    if method == "query_groups":
        answers = [group.points for group in answer]
    reason = collection.watch.doubts(answers, collection.metadata.fingerprint, collection.metadata.stamp)
    if reason is not None:
        yield from _look(collection, reason)
    return answer


def _look(collection: Collection, reason: Reason) -> Steps[None]:
    """Read the metadata again, and raise `ReplacedError` if the collection is another."""
    found = yield from open_collection(collection.asked)
    mine = collection.metadata.fingerprint
    # A rescore that is under way leaves the verdicts of the calibration before until it is done.
    served = any(known.served for known in found.metadata.earlier if known.fingerprint == mine)
    if found != collection and not served:
        raise ReplacedError(found)
    collection.watch.settled(reason)


class Current:
    """A collection as it was last read, shared by all that search it; safe to use from several threads."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._lock = threading.Lock()

    def steps(self, begin: Callable[[Collection], Steps[T]]) -> Steps[T]:
        """Search; and again, if the reply shows that the collection was replaced.

        Raises:
            ModelMismatchError: It is of another model now.
        """
        for _ in range(_MOST_REPLACED):
            try:
                return (yield from begin(self.collection))
            except ReplacedError as error:
                found = error.collection
            self._adopt(found)  # outside, so that its error does not show the whole of the metadata as its context
        raise StoreError(f"collection {self.collection.asked!r} is replaced again and again")

    def refresh(self) -> Steps[bool]:
        """Read the metadata again; returns whether it was another.

        Raises:
            StoreError: The collection is no longer there, or has no metadata.
            ModelMismatchError: It is of another model now.
        """
        known = self.collection
        found = yield from open_collection(known.asked)
        known.watch.settled(TIME)
        return self._adopt(found)

    def confirm(self) -> Steps[None]:
        """Read the metadata again before something is written, unless that was done a moment ago."""
        if time.monotonic() - self.collection.watch.looked > AGAIN:
            yield from self.refresh()

    def _adopt(self, found: Collection) -> bool:
        with self._lock:
            known, new = self.collection.metadata, found.metadata
            if found == self.collection:
                return False
            space = (known.dim, known.curvature) == (new.dim, new.curvature)
            if not space or not same_points(known.fingerprint, new.fingerprint):
                raise ModelMismatchError(
                    f"collection {found.asked!r} was replaced while it was open: it holds points of model "
                    f"{new.fingerprint} now, and was opened for model {known.fingerprint}",
                    hint="Connect again with the model it was indexed with",
                )
            changed = {
                "its calibration": new.fingerprint != known.fingerprint,
                "the way its points are stored": new.lift != known.lift or new.quantization != known.quantization,
                "its name": found.name != self.collection.name,
            }
            what = " and ".join(part for part, other in changed.items() if other) or "its metadata"
            _log.warning(
                "collection %r was replaced while it was open: %s changed; going on with it", found.asked, what
            )
            self.collection = found
            return True
