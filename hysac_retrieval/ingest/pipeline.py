"""Items to points in a collection: decode ahead in threads, encode in batches, write each batch when it is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import InputError, SettingsError
from hysac_retrieval.index import Index, point_id
from hysac_retrieval.ingest.journal import FailedItem, IndexReport, Journal
from hysac_retrieval.ingest.sources import Item, SourceOptions, read_sources
from hysac_retrieval.preprocess import DEFAULT_MAX_PIXELS, load_image, preprocess
from hysac_retrieval.results import Modality
from hysac_retrieval.safety import MODALITIES
from hysac_retrieval.stores import Connection

if TYPE_CHECKING:
    from hysac_retrieval.encoder import Encoder

OnProgress = Callable[[int, int], None]
"""Called with the number of items that are finished, whether indexed or not, and the number of all."""


def index_sources(
    sources: Sequence[str | os.PathLike[str]],
    index: Index,
    encoder: Encoder,
    *,
    options: SourceOptions | None = None,
    batch_size: int = 64,
    workers: int = 4,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    resume: bool = False,
    journal: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> IndexReport:
    """Index folders, images, text files and tables; see `hysac_retrieval.ingest.sources` for what they may be.

    An item that cannot be indexed is noted in the report and the rest goes on. Each batch is durable when it is
    written. Indexing a source again replaces its points.

    Args:
        sources: Paths of folders and files.
        index: The collection, indexed with the encoder's model.
        encoder: Encodes the items.
        options: How the sources are read.
        batch_size: Items encoded and written at once, at least 1.
        workers: Threads that decode images, at least 1.
        max_pixels: Largest width × height of an image.
        resume: Leave out items that are in the collection already.
        journal: JSON Lines file for failed items and texts that were cut, written as they occur.
        on_progress: See `OnProgress`.
        should_stop: Asked before each batch; True ends the run in good order.

    Returns:
        What was indexed and what was not.

    Raises:
        SourceError: A source is missing or cannot be read; nothing has been indexed.
        ModelMismatchError: The collection was indexed with another model.
        SettingsError: An option is out of range.
        StoreError: The store fails; what was written before stays.
    """
    for name, value in (("batch_size", batch_size), ("workers", workers), ("max_pixels", max_pixels)):
        if value < 1:
            raise SettingsError(f"{name} is {value}; expected at least 1")
    began = time.perf_counter()
    index.collection.expect(encoder.fingerprint)
    items, unusable = read_sources(sources, options or SourceOptions())
    with Journal(None if journal is None else Path(journal)) as notes:
        for failure in unusable:
            notes.fail(failure)
        run = _Run(index, encoder, notes, batch_size, max_pixels, resume)
        finished = len(unusable)
        total = finished + len(items)
        interrupted = False
        with ThreadPoolExecutor(workers, thread_name_prefix="hysac-decode") as pool:
            for batch in run.batches(items, pool, should_stop):
                if batch is None:
                    interrupted = True
                    break
                run.write(batch)
                finished += len(batch)
                if on_progress:
                    on_progress(finished, total)
        if not interrupted:
            index.optimize()
        return IndexReport(
            indexed=dict(run.indexed),
            skipped=run.skipped,
            failed=tuple(notes.failed),
            truncated=tuple(notes.truncated),
            seconds=time.perf_counter() - began,
            interrupted=interrupted,
        )


def collection_for(encoder: Encoder, name: str, *, recreate: bool = False, **connection: Unpack[Connection]) -> Index:
    """Open a collection for an encoder's points; make it if there is none.

    Args:
        encoder: Its space, calibration and lift become the collection's.
        name: Name of the collection.
        recreate: Remove a collection that exists, with all its points.
        **connection: Where it lives; see `Connection`.

    Raises:
        ModelMismatchError: It was indexed with another model.
        StorageLockedError: Another process has the folder.
    """
    return Index.create(
        name,
        dim=encoder.dim,
        curvature=encoder.curvature,
        safety=encoder.safety,
        fingerprint=encoder.fingerprint,
        lift=encoder.lift,
        exist_ok=not recreate,
        recreate=recreate,
        **connection,
    )


class _Run:
    def __init__(
        self, index: Index, encoder: Encoder, notes: Journal, batch_size: int, max_pixels: int, resume: bool
    ) -> None:
        self.index = index
        self.encoder = encoder
        self.notes = notes
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.resume = resume
        self.indexed: dict[str, int] = dict.fromkeys(MODALITIES, 0)
        self.skipped = 0

    def batches(
        self, items: Sequence[Item], pool: ThreadPoolExecutor, should_stop: Callable[[], bool] | None
    ) -> Iterator[list[tuple[Item, Future[Any] | None]] | None]:
        """Batches of one modality each, of which the next is being decoded already; None where the run is stopped."""
        ahead: list[tuple[Item, Future[Any] | None]] | None = None
        for modality in MODALITIES:
            of_kind = [item for item in items if item.modality == modality]
            for start in range(0, len(of_kind), self.batch_size):
                if should_stop is not None and should_stop():
                    yield None
                    return
                chunk = self._submit(of_kind[start : start + self.batch_size], pool)
                if ahead is not None:
                    yield ahead
                ahead = chunk
        if ahead is not None:
            yield ahead

    def _submit(self, items: list[Item], pool: ThreadPoolExecutor) -> list[tuple[Item, Future[Any] | None]]:
        """Start preparing the items; those that are in the collection already get no future."""
        present: set[Any] = set()
        if self.resume:
            present = {stored.id for stored in self.index.retrieve([point_id(item.key) for item in items])}
        return [(item, None if point_id(item.key) in present else pool.submit(self._prepare, item)) for item in items]

    def _prepare(self, item: Item) -> NDArray[np.uint8] | int:
        """Pixels of an image, (size, size, 3); number of tokens of a text. Runs in a thread."""
        if item.modality == "image":
            return preprocess(load_image(item.content, max_pixels=self.max_pixels), self.encoder.image_spec)
        return self.encoder.count_tokens(str(item.content))

    def write(self, batch: list[tuple[Item, Future[Any] | None]]) -> None:
        """Encode what could be prepared of a batch and write it; note what could not."""
        ready: list[tuple[Item, Any]] = []
        for item, future in batch:
            if future is None:
                self.skipped += 1
                continue
            try:
                ready.append((item, future.result()))
            except InputError as error:
                self.notes.fail(FailedItem.of(item.origin, error))
        if not ready:
            return
        modality = ready[0][0].modality
        items = [item for item, _ in ready]
        if modality == "image":
            points = self.encoder.encode_image(np.stack([pixels for _, pixels in ready]), batch_size=self.batch_size)
        else:
            limit = self.encoder.text_spec.context_length
            for item, tokens in ready:
                if tokens > limit:
                    self.notes.truncate(item.origin, tokens, limit)
            points = self.encoder.encode_text([str(item.content) for item in items], batch_size=self.batch_size)
        self._upsert(items, points, modality)

    def _upsert(self, items: list[Item], points: NDArray[np.float32], modality: Modality) -> None:
        ids = [point_id(item.key) for item in items]
        payloads = [item.payload for item in items]
        try:
            self.indexed[modality] += self.index.upsert(ids, points, modality=modality, payloads=payloads)
        except InputError:
            # Nothing of the batch was written; find the items that are to blame.
            for row, item in enumerate(items):
                try:
                    one = slice(row, row + 1)
                    written = self.index.upsert(ids[one], points[one], modality=modality, payloads=payloads[one])
                    self.indexed[modality] += written
                except InputError as error:
                    self.notes.fail(FailedItem.of(item.origin, error))
