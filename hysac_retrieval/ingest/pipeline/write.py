"""Points of items into a collection."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import InputError
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.plan import HASH, SOURCE, marks
from hysac_retrieval.payload import finite_number
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.types import MODALITIES, Modality

_REJECTED = 128  # items whose points are looked up at once
_WITHDRAWN = {"unsafe": None, "radius": None, HASH: None}
"""Without a radius, no new calibration gives the point a score either."""


class Writer:
    """Writes batches; an item that cannot be stored fails alone.

    Args:
        index: The collection.
        notes: Keeps failures.

    Attributes:
        indexed: Points written, by modality.
    """

    def __init__(self, index: Index, notes: Journal) -> None:
        self.indexed: dict[str, int] = dict.fromkeys(MODALITIES, 0)
        self._index = index
        self._notes = notes
        self._lock = threading.Lock()
        self._rejected: dict[str, str] = {}

    def write(
        self, modality: Modality, items: Sequence[Item], hashes: Sequence[str], points: NDArray[np.float32]
    ) -> None:
        """Write the points (n, d) of n items with their content hashes. Durable when it returns."""
        try:
            self._write(modality, items, hashes, points)
        except InputError:
            # Nothing of the batch was written; find the items that are to blame.
            for row, item in enumerate(items):
                try:
                    self._write(modality, [item], hashes[row : row + 1], points[row : row + 1])
                except InputError as error:
                    self.reject(FailedItem.of_item(item, error), hashes[row])

    def reject(self, failure: FailedItem, found: str) -> None:
        """Note that an item cannot be indexed; what is stored for other content of it loses its score.

        Args:
            failure: What is wrong.
            found: Hash of the content; empty where it cannot be read, and then what is stored stays.
        """
        self._notes.fail(failure)
        if not found:
            return
        with self._lock:
            self._rejected[failure.id] = found
            full = len(self._rejected) >= _REJECTED
        if full:
            self.finish()

    def finish(self) -> None:
        """Take the scores from points of rejected items that were given for other content: they say nothing of this.

        The points stay, for those who may see everything, and until the item is mended.
        """
        with self._lock:
            rejected, self._rejected = self._rejected, {}
        stored = marks(self._index, list(rejected)) if rejected else {}
        amendments = [
            Amendment(key, _WITHDRAWN, ours["model"], finite_number(ours.get("radius")))
            for key, ours in stored.items()
            if ours.get(HASH, rejected[key]) != rejected[key]
        ]
        if amendments:
            self._index.store.amend(self._index.name, amendments)

    def _write(
        self, modality: Modality, items: Sequence[Item], hashes: Sequence[str], points: NDArray[np.float32]
    ) -> None:
        ids = [item.id for item in items]
        payloads = [item.payload for item in items]
        marks = [{SOURCE: item.source, HASH: found} for item, found in zip(items, hashes, strict=True)]
        self.indexed[modality] += self._index.upsert(ids, points, modality=modality, payloads=payloads, marks=marks)
        self._notes.indexed(ids)
