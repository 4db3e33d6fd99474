"""The parts of a run: `pipeline.run.Run` takes one of each.

    Source ──items──▶ Planner ──tasks──▶ Encoding ──outcomes──▶ Sink

Files, tables, shards, datasets and an application's collection are sources. A collection is a sink, whether it was made
by `hysac index` or belongs to an application. This machine or a Ray cluster encodes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Generator, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import InputError, NoEncoderError
from hysac_retrieval.ingest.items import FailedItem, Item, Items
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.types import Modality

Unfinished = Literal["missing", "stale", "failed"]
"""State of an item that may need work: not stored; stored from other content or by another model; failed last time."""


class Task(NamedTuple):
    """An item to do.

    Attributes:
        item: The item.
        state: ``stale`` also stands for one that is stored and whose hash has not been compared yet.
        known: Content hash of the stored point; None if there is none, or if it is to be replaced in any case.
    """

    item: Item
    state: Unfinished
    known: str | None = None


class Outcome(NamedTuple):
    """Result of a task: a point, an error, or neither for an item that is stored already, unchanged.

    Attributes:
        item: The item.
        hash: Content hash; empty for content that cannot be read.
        point: Shape (d,), float32.
        judged: What of the content was judged.
        error: Why the item cannot be encoded.
        tokens: Length of a text in tokens; 0 for an image.
    """

    item: Item
    hash: str
    point: NDArray[np.float32] | None = None
    judged: Judged | None = None
    error: InputError | NoEncoderError | None = None
    tokens: int = 0


class Source(Protocol):
    """Items to index, listed once."""

    @property
    def seen(self) -> Container[str]:
        """Ids of what was listed so far; an id that an earlier run noted and that is not here has left the source."""

    @property
    def finished(self) -> Collection[str]:
        """Names, as in `Item.source`, of all that was listed to its end."""

    def __iter__(self) -> Items:
        """List the items, and what could not become one."""

    def count(self, stop: Callable[[], bool] = lambda: False) -> int | None:
        """About how many items there are; None if that takes too long to find out, or once `stop` returns True."""


Planner = Callable[[Sequence[Item]], Iterator[Task]]
"""Selects those of the items that are to be done, or compared by their hash."""

Groups = Generator[list[Task], None, None]
"""Tasks that were planned together."""


Encoding = Callable[[Groups], Generator[list[Outcome], None, None]]
"""Decodes and encodes tasks. It takes the groups in another thread, a bounded number of them ahead, and closes them
there. It yields what is finished, in any order, and now and then nothing, so that the run can be stopped."""


class Sink(Protocol):
    """Takes points. Several threads may call it."""

    def write(self, modality: Modality, outcomes: Sequence[Outcome]) -> int:
        """Write the points of outcomes that have one, with their content hashes. Durable when it returns.

        Returns:
            The number of points written.

        Raises:
            InputError: One cannot be stored; none was written.
        """

    def reject(self, failure: FailedItem, found: str) -> None:
        """Withdraw, now or soon, the score that the point of a failed item has for content of another hash.

        The hash `found` is empty if the content could not be read.
        """

    def finish(self) -> None:
        """Do what is left to be done."""
