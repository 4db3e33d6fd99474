"""From decoded contents to points: the same step on this machine and on those of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import TextError
from hysac_retrieval.ingest.items import Item
from hysac_retrieval.ingest.pipeline.decode import Decoded, Job
from hysac_retrieval.ingest.protocols import Outcome, Task

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder


@dataclass(frozen=True, slots=True)
class Ready:
    """An item to encode: a text, or an image with its pixels (size, size, 3), uint8.

    Attributes:
        item: The item.
        hash: Content hash.
        pixels: Of an image; None for a text.
    """

    item: Item
    hash: str
    pixels: NDArray[np.uint8] | None


def job_of(task: Task) -> Job:
    """Return the decoder's part of a task."""
    return Job(task.item.content, task.item.salt(), task.known)


def after_decoding(task: Task, decoded: Decoded) -> Ready | Outcome:
    """Return what is ready to be encoded, or the outcome of a task that failed or that was done before."""
    if decoded.error is None and (task.known is None or decoded.hash != task.known):
        return Ready(task.item, decoded.hash, decoded.pixels)
    return Outcome(task.item, decoded.hash, error=decoded.error)


def encode(encoder: Encoder, batch: Sequence[Ready], batch_size: int) -> list[Outcome]:
    """Encode images and texts; a text that the tokenizer refuses fails alone."""
    outcomes: list[Outcome] = []
    images = [ready for ready in batch if ready.pixels is not None]
    if images:
        pixels = np.stack([ready.pixels for ready in images if ready.pixels is not None])
        points = encoder.encode_image(pixels, batch_size=batch_size)
        outcomes += [Outcome(ready.item, ready.hash, point) for ready, point in zip(images, points, strict=True)]
    texts: list[tuple[Ready, int]] = []
    for ready in batch:
        if ready.pixels is None:
            try:
                texts.append((ready, encoder.count_tokens(str(ready.item.content))))
            except TextError as error:
                outcomes.append(Outcome(ready.item, ready.hash, error=error))
    if texts:
        points = encoder.encode_text([str(ready.item.content) for ready, _ in texts], batch_size=batch_size)
        outcomes += [
            Outcome(ready.item, ready.hash, point, tokens=tokens)
            for (ready, tokens), point in zip(texts, points, strict=True)
        ]
    return outcomes
