"""Points of items into a collection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import InputError
from hysac_retrieval.index import Index
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.plan import HASH, SOURCE
from hysac_retrieval.results import Modality
from hysac_retrieval.safety import MODALITIES


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
                    self._notes.fail(FailedItem.of_item(item, error))

    def _write(
        self, modality: Modality, items: Sequence[Item], hashes: Sequence[str], points: NDArray[np.float32]
    ) -> None:
        ids = [item.id for item in items]
        payloads = [item.payload for item in items]
        marks = [{SOURCE: item.source, HASH: found} for item, found in zip(items, hashes, strict=True)]
        self.indexed[modality] += self._index.upsert(ids, points, modality=modality, payloads=payloads, marks=marks)
        self._notes.indexed(ids)
