"""From tasks to points: the steps, which are the same on a cluster, and their order on this machine.

    feeder thread     takes the tasks, and with that lists the sources; hands images to the decoder
    decoder           worker processes, or a thread
    calling thread    gathers what is decoded into batches and encodes them

The channel between them is short, so what is under way is bounded however large the sources are.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hysac_retrieval.errors import EncoderError, InputError, NoEncoderError, TextError
from hysac_retrieval.ingest.pipeline.channel import Channel, in_thread
from hysac_retrieval.ingest.pipeline.decode import Decoded, Decoding, Job
from hysac_retrieval.ingest.pipeline.workers import Decoder, Ticket
from hysac_retrieval.ingest.protocols import Groups, Outcome, Task
from hysac_retrieval.safety.views import Second
from hysac_retrieval.types import MODALITIES, Modality

if TYPE_CHECKING:
    from hysac_retrieval.encoder.detectors import Detector
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.encoder.views import Views

DECODED_AT_ONCE = {"fast": 16, "thorough": 2}
"""Images that a worker process takes at a time; their views are in memory together."""


Ready = tuple[Task, Decoded]
"""A task to encode: a text, or an image with its pixels."""


def job_of(task: Task) -> Job:
    """Return the decoder's part of a task."""
    return Job(task.item.content, task.item.salt(), task.known)


def after_decoding(task: Task, decoded: Decoded) -> Ready | Outcome:
    """Return what is ready to be encoded, or the outcome of a task that failed or that was done before."""
    if task.item.modality == "image":  # its encoded content is not needed any more
        task = task._replace(item=task.item._replace(content=b""))
    if decoded.error is None and (task.known is None or decoded.hash != task.known):
        return task, decoded
    return Outcome(task.item, decoded.hash, error=decoded.error)


def encode(
    encoder: Encoder, batch: Sequence[Ready], batch_size: int, detector: Detector | None = None
) -> Generator[None, None, list[Outcome]]:
    """Encode images and texts, with a stop after each step.

    A text that the tokenizer refuses fails alone, and so does an image on which the second judge, a `detector`, fails.
    """
    outcomes: list[Outcome] = []
    waiting: dict[Modality, list[tuple[Outcome, Views, Second | None]]] = {modality: [] for modality in MODALITIES}
    for task, decoded in batch:
        item, views, tokens = task.item, decoded.views, 0
        second: Second | None = None
        try:
            encoder.expect_encoder(item.modality)
            if views is None:
                text = str(item.content)
                views, tokens = encoder.text_views(text), encoder.count_tokens(text)
            if detector is not None and decoded.views is not None:
                second = detector.judge(decoded.seen or decoded.views)
        except (TextError, NoEncoderError) as error:
            outcomes.append(Outcome(item, decoded.hash, error=error))
        except EncoderError as error:
            failed = InputError(f"the judge {error.message}", hint="It is not stored without its judgement; try again")
            # A score of the same content that was given without this judge does not stand for one with it.
            outcomes.append(Outcome(item, f"{decoded.hash} not judged", error=failed))
        else:
            waiting[item.modality].append((Outcome(item, decoded.hash, tokens=tokens), views, second))
            if len(views.names) > batch_size:
                yield
    for modality, some in waiting.items():
        points, judged = yield from encoder.judging(modality, [views for _, views, _ in some], batch_size=batch_size)
        for (outcome, _, second), point, one in zip(some, points, judged, strict=True):
            outcomes.append(outcome._replace(point=point, judged=replace(one, second=second)))
    return outcomes


@dataclass(frozen=True, slots=True)
class LocalEncoding:
    """Decodes in worker processes, or a thread (see `Decoder`), and encodes in the calling thread; see `Encoding`."""

    encoder: Encoder
    batch_size: int
    workers: int | None
    decoding: Decoding
    detector: Detector | None = None

    def __call__(self, groups: Groups) -> Generator[list[Outcome], None, None]:
        """See `Encoding`."""
        waiting: dict[Modality, list[Ready]] = {modality: [] for modality in MODALITIES}
        with Decoder(self.workers, self.decoding) as decoder:
            chunks: Channel[tuple[list[Task], Ticket]] = Channel(decoder.ahead)

            def _feed() -> None:
                with closing(groups):
                    for tasks in groups:
                        self._submit(tasks, decoder, chunks)

            with in_thread(chunks, _feed):
                for tasks, ticket in chunks:
                    found = list(map(after_decoding, tasks, ticket.result()))
                    for ready in found:
                        if not isinstance(ready, Outcome):
                            waiting[ready[0].item.modality].append(ready)
                    yield [outcome for outcome in found if isinstance(outcome, Outcome)]
                    yield from self._encoded(waiting, self.batch_size)
                yield from self._encoded(waiting, 1)

    def _submit(self, tasks: list[Task], decoder: Decoder, chunks: Channel[tuple[list[Task], Ticket]]) -> None:
        texts = [task for task in tasks if task.item.modality == "text"]
        hashes: Ticket = Ticket()
        hashes.set_result(self.decoding([job_of(task) for task in texts]))
        chunks.put((texts, hashes))  # even when empty: a run that has little to do can still be stopped
        images = [task for task in tasks if task.item.modality == "image"]
        step = DECODED_AT_ONCE[self.decoding.views]
        for start in range(0, len(images), step):
            some = images[start : start + step]
            chunks.put((some, decoder.submit([job_of(task) for task in some])))

    def _encoded(self, waiting: dict[Modality, list[Ready]], least: int) -> Generator[list[Outcome], None, None]:
        """Encode batches while at least so many views wait."""
        for ready in waiting.values():
            while sum(map(_views, ready)) >= least:
                held = np.cumsum([_views(one) for one in ready])
                count = int(np.searchsorted(held, self.batch_size)) + 1
                batch = ready[:count]
                del ready[:count]
                steps = encode(self.encoder, batch, self.batch_size, self.detector)
                while True:
                    try:
                        next(steps)
                    except StopIteration as end:
                        yield end.value
                        break
                    yield []  # so that a text of many windows can be followed, and stopped


def _views(ready: Ready) -> int:
    """Return how many views wait with a task, as far as that is known: texts are read later."""
    views = ready[1].views
    return 1 if views is None else len(views.names)
