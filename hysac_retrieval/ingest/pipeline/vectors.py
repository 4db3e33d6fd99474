"""From stored vectors to points, by a head: no file is opened and nothing is tokenized."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hysac_retrieval.encoder.vectors import unit_vectors
from hysac_retrieval.errors import InvalidVectorError, NoEncoderError
from hysac_retrieval.ingest.pipeline.channel import Channel, in_thread
from hysac_retrieval.ingest.pipeline.decode import content_hash
from hysac_retrieval.ingest.protocols import Groups, Outcome, Task
from hysac_retrieval.safety.views import of_vector
from hysac_retrieval.types import MODALITIES, Modality

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

_AHEAD = 16  # groups of tasks that are read while others are encoded
_LEAST = 1024  # vectors that the head gets at once


@dataclass(frozen=True, slots=True)
class VectorEncoding:
    """Maps vectors, which are the content of the items as float32 bytes; see `Encoding`."""

    encoder: Encoder

    def __call__(self, groups: Groups) -> Generator[list[Outcome], None, None]:
        """See `Encoding`."""
        read: Channel[list[Task]] = Channel(_AHEAD)

        def _feed() -> None:
            with closing(groups):
                for tasks in groups:
                    read.put(tasks)

        waiting: list[tuple[Task, str]] = []
        with in_thread(read, _feed):
            for tasks in read:
                hashed = [(task, self._hash(task)) for task in tasks]
                waiting += [(task, found) for task, found in hashed if found != task.known]
                yield [Outcome(task.item, found) for task, found in hashed if found == task.known]
                if len(waiting) >= _LEAST:
                    yield self._encoded(waiting)
                    waiting = []
        yield self._encoded(waiting)

    def _hash(self, task: Task) -> str:
        content = task.item.content
        assert isinstance(content, bytes)
        return content_hash(task.item.modality.encode(), content)

    def _encoded(self, waiting: Sequence[tuple[Task, str]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for modality in MODALITIES:
            if some := [each for each in waiting if each[0].item.modality == modality]:
                outcomes += self._of_modality(modality, some)
        return outcomes

    def _of_modality(self, modality: Modality, some: Sequence[tuple[Task, str]]) -> list[Outcome]:
        size = self.encoder.vector_spec.size
        data = b"".join(task.item.content for task, _ in some if isinstance(task.item.content, bytes))
        units, faults = unit_vectors(np.frombuffer(data, np.float32).reshape(len(some), size), size)
        good = [row for row in range(len(some)) if row not in faults]
        try:
            points = self.encoder.encode_vectors(units[good], modality)
        except NoEncoderError as error:
            return [Outcome(task.item, found, error=error) for task, found in some]
        marks = self.encoder.domain.unlike(units[good], modality)
        outcomes = [
            Outcome(some[row][0].item, some[row][1], point, of_vector(unlike) if unlike else None)
            for row, point, unlike in zip(good, points, marks, strict=True)
        ]
        for row, fault in faults.items():
            wrong = InvalidVectorError(f"its vector {fault}", hint="Encode it again; it stays without a score")
            outcomes.append(Outcome(some[row][0].item, some[row][1], error=wrong))
        return outcomes
