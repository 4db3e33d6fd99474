"""The guards of the collections that a guarded client has been asked for, read anew when they may be out of date.

A collection may be rescored, or an alias moved: the condition then finds nothing any more, or less and less. So what
finds nothing reads the metadata again, and so does any call every few seconds.
"""

from __future__ import annotations

import logging
from typing import Any

from hysac_retrieval.collection.watch import Watch
from hysac_retrieval.forks import Origin
from hysac_retrieval.guard.condition import Guard
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.stores.qdrant.strict import limits_of
from hysac_retrieval.stores.requests import read_collection

_HELD = ("points", "groups", "hits", "pairs", "ids", "count")
"""Fields of replies that hold what was found."""

_log = logging.getLogger(__name__)


class Guards:
    """Finds the guard of a collection: from its metadata and a policy, or the one that was given for all of them."""

    def __init__(self, policy: SafetyPolicy | None, fixed: Guard | None) -> None:
        self._policy, self._fixed = policy, fixed
        self._known: dict[str, tuple[Guard, Watch]] = {}
        self._origin: Origin | None = None

    def __call__(self, collection: str) -> Steps[Guard]:
        """Return the guard of a collection.

        Raises:
            ForkedError: The client was used before this process was forked.
        """
        if self._origin is None:
            self._origin = Origin("the guarded client", "Make it, and the client in it, after the fork")
        self._origin.expect()
        if self._fixed is not None:
            return self._fixed
        if collection not in self._known:
            self._known[collection] = (yield from self._read(collection)), Watch()
        return self._known[collection][0]

    def confirmed(self, collection: str, guard: Guard, *, found: bool) -> Steps[Guard]:
        """Return the guard again, or the one that has taken its place.

        Args:
            collection: The collection.
            guard: The guard under which it was asked.
            found: Whether there was anything in the reply.
        """
        known, watch = self._known.get(collection, (guard, Watch()))
        if self._fixed is not None or (reason := watch.due(found)) is None:
            return known
        new = yield from self._read(collection)
        if new == known:
            watch.settled(reason)
            return known
        _log.warning(
            "collection %r was rescored or replaced; the guard goes on with model %s", collection, new.fingerprint
        )
        self._known[collection] = new, Watch()
        return new

    def forget(self) -> None:
        """Read the metadata of all collections again when they are next asked."""
        self._known.clear()

    def _read(self, collection: str) -> Steps[Guard]:
        info = yield Ask("get_collection", collection_name=collection)
        guard = Guard.read(collection, read_collection(info), self._policy)
        limits_of(info).expect_indexed(collection, (rule.key for rule in guard.labels))
        return guard


def holds_anything(answer: Any) -> bool:
    """Whether there is anything in the reply to one of `METHODS`."""
    if isinstance(answer, tuple):  # a page, and where the next begins
        answer = answer[0]
    if isinstance(answer, list):
        return any(holds_anything(one) for one in answer)
    return all(getattr(answer, field, True) for field in _HELD)
