"""Progress and report of a run, whatever its source is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from hysac_retrieval.ingest.items import FailedItem


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


MOST_UNLIKE = 0.05
"""Share of a model's own pictures that may seem unlike them by accident: of each hundred, one does."""

OnProgress = Callable[[Progress], None]
"""Called in the thread that started the run."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """Outcome of `index_sources` or `fill`.

    Attributes:
        indexed: Points written, by modality: ``{"image": …, "text": …}``.
        skipped: Items that were there already, unchanged.
        left_out: Items that `only` did not select.
        lacking: Points of an application that have none of the fields to encode; no safe search returns them.
        failures: Number of items that could not be indexed.
        failed: The first 1,000 of them.
        unknown: Number of texts that are unlike what the model knows, so that their score says little.
        unlike: Number of pictures that are unlike anything the model knows, so that their score means nothing.
        cut: Number of texts longer than the model's context: all of each was judged, its vector is of the beginning.
        truncated: Origins of the first 1,000 of them.
        pruned: Points removed because they have left their source.
        unpruned: Why no point was removed although `prune` was given; empty otherwise.
        refused: Points that have left their sources and were not removed, because they are more than the limit.
        remarks: What should be looked at in tables that can be read, such as fields that span lines; pictures and films
            that were left out, and what would read them.
        differing: Points whose copies on a cluster are not the same, as the run leaves them.
        seconds: Duration.
        interrupted: Whether it was stopped before the end.
    """

    indexed: dict[str, int]
    skipped: int = 0
    left_out: int = 0
    lacking: int = 0
    failures: int = 0
    failed: tuple[FailedItem, ...] = ()
    unknown: int = 0
    unlike: int = 0
    cut: int = 0
    truncated: tuple[str, ...] = ()
    pruned: int = 0
    unpruned: str = ""
    refused: int = 0
    remarks: tuple[str, ...] = ()
    differing: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def total(self) -> int:
        """Points written."""
        return sum(self.indexed.values())

    @property
    def foreign(self) -> bool:
        """Whether so many pictures are unlike what the model knows that it is no accident."""
        return self.unlike > MOST_UNLIKE * self.indexed.get("image", 0)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        return asdict(self)
