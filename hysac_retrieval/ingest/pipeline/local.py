"""Encoding on this machine.

    feeder thread     takes the tasks, and with that lists the sources; hands images to the decoder
    decoder           worker processes, or a thread
    calling thread    gathers what is decoded into batches and encodes them

The channel between them is short, so what is under way is bounded however large the sources are.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from hysac_retrieval.ingest.pipeline.channel import Channel, in_thread
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.pipeline.encode import Ready, after_decoding, encode, job_of
from hysac_retrieval.ingest.pipeline.workers import Decoder, Ticket
from hysac_retrieval.ingest.protocols import Groups, Outcome, Task
from hysac_retrieval.types import MODALITIES, Modality

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

DECODED_AT_ONCE = 16
"""Images that a worker process takes at a time."""


class LocalEncoding:
    """Decodes in worker processes and encodes in the calling thread.

    Args:
        encoder: Encodes the items.
        batch_size: Items encoded at once.
        workers: See `Decoder`.
        decoding: How images are decoded.
    """

    def __init__(self, encoder: Encoder, batch_size: int, workers: int | None, decoding: Decoding) -> None:
        self._encoder = encoder
        self._batch_size = batch_size
        self._workers = workers
        self._decoding = decoding

    def __call__(self, groups: Groups) -> Generator[list[Outcome], None, None]:
        """See `Encoding`."""
        waiting: dict[Modality, list[Ready]] = {modality: [] for modality in MODALITIES}
        with Decoder(self._workers, self._decoding) as decoder:
            chunks: Channel[tuple[list[Task], Ticket]] = Channel(decoder.ahead)

            def _feed() -> None:
                with closing(groups):
                    for tasks in groups:
                        self._submit(tasks, decoder, chunks)

            with in_thread(chunks, _feed):
                for tasks, ticket in chunks:
                    outcomes = []
                    for task, decoded in zip(tasks, ticket.result(), strict=True):
                        found = after_decoding(task, decoded)
                        if isinstance(found, Ready):
                            waiting[task.item.modality].append(found)
                        else:
                            outcomes.append(found)
                    yield outcomes
                    yield from self._encoded(waiting, self._batch_size)
                yield from self._encoded(waiting, 1)

    def _submit(self, tasks: list[Task], decoder: Decoder, chunks: Channel[tuple[list[Task], Ticket]]) -> None:
        texts = [task for task in tasks if task.item.modality == "text"]
        hashes: Ticket = Ticket()
        hashes.set_result(self._decoding([job_of(task) for task in texts]))
        chunks.put((texts, hashes))  # even when empty: a run that has little to do can still be stopped
        images = [task for task in tasks if task.item.modality == "image"]
        for start in range(0, len(images), DECODED_AT_ONCE):
            some = images[start : start + DECODED_AT_ONCE]
            chunks.put((some, decoder.submit([job_of(task) for task in some])))

    def _encoded(self, waiting: dict[Modality, list[Ready]], least: int) -> Generator[list[Outcome], None, None]:
        """Encode batches while at least so many items wait."""
        for ready in waiting.values():
            while len(ready) >= least:
                batch = ready[: self._batch_size]
                del ready[: self._batch_size]
                yield encode(self._encoder, batch, self._batch_size)
