"""Points into a collection: one that `hysac index` made, or one of an application."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.collection.attachment import Attachment
from hysac_retrieval.collection.index import Index
from hysac_retrieval.ingest.items import HASH, SOURCE, FailedItem
from hysac_retrieval.ingest.protocols import Outcome
from hysac_retrieval.payload import finite_number, own_payload
from hysac_retrieval.safety.views import JUDGE, ViewSetting, judge_of
from hysac_retrieval.stores.amend import Amendment, stored_worst
from hysac_retrieval.stores.base import found
from hysac_retrieval.types import Modality, PointId

_REJECTED = 128  # items whose points are looked up at once
_ERASED = 500  # points that lose their scores at once
_WITHDRAWN = {"unsafe": None, "radius": None, "safe": None, "earlier": None, HASH: None}
"""Without a radius, no new calibration gives the point a score either."""


def _points(outcomes: Sequence[Outcome]) -> NDArray[np.float32]:
    return np.stack([outcome.point for outcome in outcomes if outcome.point is not None])


class CollectionSink:
    """Writes whole points to a collection that `hysac index` made.

    Its pictures are judged by some `views`, and perhaps by a `second` judge.
    """

    def __init__(self, index: Index, views: ViewSetting = "fast", second: str | None = None) -> None:
        self._index = index
        self._views, self._second = views, second
        self._lock = threading.Lock()
        self._rejected: dict[str, str] = {}

    def write(self, modality: Modality, outcomes: Sequence[Outcome]) -> int:
        """See `Sink.write`."""
        items = [outcome.item for outcome in outcomes]
        return self._index.upsert(
            [item.id for item in items],
            _points(outcomes),
            modality=modality,
            payloads=[item.payload for item in items],
            marks=[
                {SOURCE: outcome.item.source, HASH: outcome.hash, JUDGE: judge_of(modality, self._views, self._second)}
                for outcome in outcomes
            ],
            judged=[outcome.judged for outcome in outcomes],
        )

    def reject(self, failure: FailedItem, found: str) -> None:
        """See `Sink.reject`. What is stored stays as it is if the content could not be read."""
        if not found:
            return
        with self._lock:
            self._rejected[failure.id] = found
            full = len(self._rejected) >= _REJECTED
        if full:
            self.finish()

    def finish(self) -> None:
        """Withdraw the scores of rejected items that were given for other content.

        The points stay, for those who may see everything, and until the item is mended.
        """
        with self._lock:
            rejected, self._rejected = self._rejected, {}
        if not rejected:
            return
        index = self._index
        amendments = []
        for point in found(index.store, index.name, [*rejected]):
            own, content = own_payload(point.payload), rejected[str(point.id)]
            if point.differs:  # some copy may still have the score, whatever this one says
                amendments.append(Amendment(point.id, _WITHDRAWN, None))
            elif own.get("model") == index.metadata.fingerprint and own.get(HASH, content) != content:
                radius = finite_number(own.get("radius"))
                amendments.append(Amendment(point.id, _WITHDRAWN, own["model"], radius, stored_worst(own)))
        if amendments:
            index.store.amend(index.name, amendments)


class AttachedSink:
    """Writes vectors and scores to the points of an application that a collection is attached to, and nothing else.

    `judge` names what judges the content of a modality.
    """

    def __init__(self, index: Index, judge: Callable[[Modality], str], *, sweep: bool = True) -> None:
        self._index, self._judge, self._sweep = index, judge, sweep
        self._attachment = Attachment.of(index.store, index.collection)
        self._lock = threading.Lock()
        self._withdrawn: list[PointId] = []

    def write(self, modality: Modality, outcomes: Sequence[Outcome]) -> int:
        """See `Sink.write`. Points that the application has removed meanwhile are left out."""
        return self._index.annotate(
            [outcome.item.point for outcome in outcomes],
            _points(outcomes),
            modality=modality,
            marks=[{HASH: outcome.hash, JUDGE: self._judge(modality)} for outcome in outcomes],
            judged=[outcome.judged for outcome in outcomes],
        )

    def reject(self, failure: FailedItem, found: str) -> None:
        """See `Sink.reject`. The score goes in any case: it says nothing of what the point holds now."""
        self.withdraw(int(failure.id) if failure.id.isdecimal() else failure.id)

    def withdraw(self, point: PointId) -> None:
        """Take vector and score from a point, now or soon."""
        with self._lock:
            self._withdrawn.append(point)
            full = len(self._withdrawn) >= _ERASED
        if full:
            self._erase()

    def finish(self) -> None:
        """Take the vectors and scores that are still to be taken, and those of points that are gone."""
        self._erase()
        if self._sweep:
            self._attachment.sweep()

    def _erase(self) -> None:
        with self._lock:
            points, self._withdrawn = self._withdrawn, []
        self._attachment.erase(points)
