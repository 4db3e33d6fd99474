"""The stages of indexing, which run beside each other so that the encoder never waits.

    feeder thread     lists the sources, looks up what is stored, hands images to the decoder
    decoder           worker processes
    calling thread    gathers what is decoded into batches and encodes them
    upload thread     writes points

The channels between them are short, so what is under way is bounded however large the sources are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import TextError
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.channel import Channel, ChannelClosedError
from hysac_retrieval.ingest.pipeline.decode import Decoded, Job
from hysac_retrieval.ingest.pipeline.plan import Planner, Task, grouped
from hysac_retrieval.ingest.pipeline.workers import Decoder, Ticket
from hysac_retrieval.ingest.pipeline.write import Writer
from hysac_retrieval.types import MODALITIES, Modality

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

_DECODED = 16  # images at once
_UPLOADS = 4  # batches that wait for the store, which are then written together


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Items that are finished, whether indexed, skipped or failed.
        total: About how many there are; None while that is unknown.
        failed: Items that failed.
    """

    done: int
    total: int | None
    failed: int


class Listed(Protocol):
    """What there is to do: a `Listing`, or anything else that lists items."""

    def __iter__(self) -> Iterator[Item | FailedItem]:
        """The items, once, and what turned out to be none."""

    def count(self) -> int | None:
        """About how many there are; None if that takes too long to find out."""


OnProgress = Callable[[Progress], None]
"""Called in the thread that asked for the run."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """An item to encode, with its content hash and, of an image, its pixels."""

    item: Item
    hash: str
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class _Batch:
    """Points to write."""

    modality: Modality
    items: list[_Ready]
    points: NDArray[np.float32]


class Stages:
    """One run of the pipeline.

    Args:
        encoder: Encodes the items.
        writer: Writes points.
        notes: Keeps failures.
        planner: Decides what is to be done.
        decoder: Decodes images.
        batch_size: Items encoded and written at once.

    Attributes:
        skipped: Items that were there already.
        left_out: Items that were not asked for.
    """

    def __init__(
        self, encoder: Encoder, writer: Writer, notes: Journal, planner: Planner, decoder: Decoder, batch_size: int
    ) -> None:
        self.skipped = 0
        self.left_out = 0
        self._encoder = encoder
        self._writer = writer
        self._notes = notes
        self._planner = planner
        self._decoder = decoder
        self._batch_size = batch_size
        self._total: int | None = None
        self._chunks: Channel[tuple[list[Task], Ticket]] = Channel(decoder.ahead)
        self._uploads: Channel[_Batch] = Channel(_UPLOADS)
        self._waiting: dict[Modality, list[_Ready]] = {modality: [] for modality in MODALITIES}
        self._errors: list[BaseException] = []

    def run(
        self, listing: Listed, on_progress: OnProgress | None = None, should_stop: Callable[[], bool] | None = None
    ) -> bool:
        """Do everything that is listed.

        Args:
            listing: The items.
            on_progress: Called as items are finished.
            should_stop: Asked now and then; True ends the run: what is encoded by then is written.

        Returns:
            Whether the run was stopped before its end.
        """
        threads = [
            self._thread(self._chunks, self._feed, listing),
            self._thread(self._uploads, self._upload),
        ]
        if on_progress:
            threading.Thread(target=self._count, args=(listing,), name="hysac-count", daemon=True).start()
        stopped = False
        try:
            for tasks, ticket in self._chunks:
                stopped = should_stop is not None and should_stop()
                if stopped:
                    break
                self._gather(tasks, ticket)
                if on_progress:
                    on_progress(self._progress())
            if not stopped:
                self._encode_waiting(1)
        finally:
            self._chunks.close()
            self._uploads.close()
            for thread in threads:
                thread.join()
        if self._errors:
            raise self._errors[0]
        if on_progress and not stopped:
            on_progress(Progress(self._progress().done, self._progress().done, self._notes.failures))
        return stopped

    def _thread(self, channel: Channel[Any], work: Callable[..., None], *arguments: Any) -> threading.Thread:
        """Start a stage; its error closes its channel, and so reaches the stage at the other end."""

        def run() -> None:
            try:
                work(*arguments)
                channel.close()
            except ChannelClosedError:
                pass
            except BaseException as error:
                self._errors.append(error)
                channel.close(error)

        thread = threading.Thread(target=run, name=f"hysac{work.__name__}")
        thread.start()
        return thread

    def _feed(self, listing: Listed) -> None:
        for items in grouped(listing, self._notes.fail):
            tasks = list(self._planner.tasks(items))
            self.left_out += len(items) - len(tasks)
            texts = [task for task in tasks if task.item.modality == "text"]
            hashes: Ticket = Ticket()
            hashes.set_result([Decoded(task.item.text_hash()) for task in texts])
            self._chunks.put((texts, hashes))  # even when empty: a run that has little to do can still be stopped
            images = [task for task in tasks if task.item.modality == "image"]
            for start in range(0, len(images), _DECODED):
                some = images[start : start + _DECODED]
                jobs = [Job(task.item.content, task.item.salt(), task.known) for task in some]  # type: ignore[arg-type]
                self._chunks.put((some, self._decoder.submit(jobs)))

    def _count(self, listing: Listed) -> None:
        self._total = listing.count()

    def _gather(self, tasks: list[Task], ticket: Ticket) -> None:
        """Take what is decoded, and encode as soon as there is enough of it."""
        unchanged = []
        for task, found in zip(tasks, ticket.result(), strict=True):
            if found.error is not None:
                self._writer.reject(FailedItem.of_item(task.item, found.error), found.hash)
            elif task.known is not None and found.hash == task.known:
                unchanged.append(task.item.id)
            else:
                self._waiting[task.item.modality].append(_Ready(task.item, found.hash, found.pixels))
        self.skipped += len(unchanged)
        self._notes.unchanged(unchanged)
        self._encode_waiting(self._batch_size)

    def _encode_waiting(self, least: int) -> None:
        """Encode batches while at least so many items wait."""
        for modality, waiting in self._waiting.items():
            while len(waiting) >= least:
                batch = waiting[: self._batch_size]
                del waiting[: self._batch_size]
                points = self._images(batch) if modality == "image" else self._texts(batch)
                if len(batch):
                    self._uploads.put(_Batch(modality, batch, points))

    def _images(self, batch: Sequence[_Ready]) -> NDArray[np.float32]:
        pixels = np.stack([ready.pixels for ready in batch if ready.pixels is not None])
        return self._encoder.encode_image(pixels, batch_size=self._batch_size)

    def _texts(self, batch: list[_Ready]) -> NDArray[np.float32]:
        """Points of texts; those that the tokenizer refuses leave the batch."""
        limit = self._encoder.text_spec.context_length
        for ready in list(batch):
            try:
                tokens = self._encoder.count_tokens(str(ready.item.content))
            except TextError as error:
                self._writer.reject(FailedItem.of_item(ready.item, error), ready.hash)
                batch.remove(ready)
                continue
            if tokens > limit:
                self._notes.truncate(ready.item, tokens, limit)
        return self._encoder.encode_text([str(ready.item.content) for ready in batch], batch_size=self._batch_size)

    def _upload(self) -> None:
        for batches in self._uploads.together():
            for modality in MODALITIES:
                some = [batch for batch in batches if batch.modality == modality]
                if some:
                    ready = [one for batch in some for one in batch.items]
                    points = np.concatenate([batch.points for batch in some])
                    self._writer.write(modality, [one.item for one in ready], [one.hash for one in ready], points)

    def _progress(self) -> Progress:
        done = sum(self._writer.indexed.values()) + self.skipped + self.left_out + self._notes.failures
        return Progress(done, None if self._total is None else max(self._total, done), self._notes.failures)
