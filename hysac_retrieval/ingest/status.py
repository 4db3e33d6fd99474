"""Comparison of a collection with its sources; nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from hysac_retrieval.collection.copies import differing
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest.items import FailedItem
from hysac_retrieval.ingest.journal import LISTED, Journal
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.pipeline.encode import job_of
from hysac_retrieval.ingest.pipeline.plan import CollectionPlanner, State, item_groups
from hysac_retrieval.ingest.protocols import Task
from hysac_retrieval.ingest.pruning import departed_points
from hysac_retrieval.ingest.sources.open import Listing
from hysac_retrieval.ingest.sources.options import SourceOptions
from hysac_retrieval.payload import PAYLOAD_KEY, own_payload
from hysac_retrieval.safety.views import Second
from hysac_retrieval.stores.base import pages

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder

_THREADS = 8  # reading files; hashing lets other threads run


@dataclass(frozen=True, slots=True)
class Status:
    """Numbers of items in each state.

    Attributes:
        present: Stored as they are.
        missing: Not stored.
        stale: Stored from other content, or by another model.
        failed: Failed when last tried, by the journal, or cannot be read now.
        left: Points of the sources whose items are no longer there; None if a source cannot be read whole.
        unreadable: The first 1,000 that cannot be read now.
        failures: The first 1,000 that failed when last tried, and why.
        departed: Number of points that have left, and of all points, of each source that has lost any.
        differing: Points whose copies on a cluster are not the same; None where there is one copy of each.
        remarks: See `IndexReport.remarks`.
        unlike: Items that are stored and were unlike anything the model knows, so that their scores mean nothing.
        judged: Points that a second judge has looked at, and those that are unsafe to it, by its name.
    """

    present: int
    missing: int
    stale: int
    failed: int
    left: int | None
    unreadable: tuple[FailedItem, ...] = ()
    failures: tuple[FailedItem, ...] = ()
    departed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    differing: int | None = None
    remarks: tuple[str, ...] = ()
    unlike: int = 0
    judged: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        return asdict(self)


def status_of(
    sources: Sequence[str | os.PathLike[str]],
    index: Index | None,
    *,
    options: SourceOptions | None = None,
    journal: str | os.PathLike[str] | None = None,
    encoder: Encoder | None = None,
) -> Status:
    """Compare a collection with its sources, which are all read and hashed.

    Args:
        sources: As for `index_sources`, with the same `options`.
        index: The collection; None for one that is not there yet.
        options: How the sources are read.
        journal: Journal of the runs that indexed them.
        encoder: The model, which says where texts are parted; needed with the option ``chunk`` only.

    Raises:
        SettingsError: The sources are read in chunks, and there is no encoder.
        SourceError: A source is missing or cannot be read from its beginning, or the journal cannot be read.
        MissingExtraError: A source needs a package that is not installed.
        StoreError: The store fails.
    """
    if options is not None and options.chunk and encoder is None:
        raise SettingsError("where texts are parted is not known without the model", hint="Give the encoder")
    unreadable: list[FailedItem] = []
    counts: dict[State, int] = {"present": 0, "missing": 0, "stale": 0, "failed": 0}

    def fail(failure: FailedItem) -> None:
        counts["failed"] += 1
        if len(unreadable) < LISTED:
            unreadable.append(failure)

    with (
        Listing(sources, options, encoder.text_spans if encoder else None) as listing,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="hysac-hash") as pool,
        closing(item_groups(listing, fail)) as groups,
    ):
        notes, failures = Journal(journal), list[FailedItem]()
        planner = CollectionPlanner(index, notes.earlier)
        for items in groups:
            tasks = list(planner(items))
            for task, state in zip(tasks, pool.map(_state, tasks), strict=True):
                counts[state] += 1
                noted = notes.failure(task.item.id) if state == "failed" and len(failures) < LISTED else None
                failures += [] if noted is None else [noted]
        departed = departed_points(index, listing) if listing.complete and index is not None else {}
        left = sum(count for count, _ in departed.values()) if listing.complete else None
    return Status(
        **counts,
        left=left,
        departed=departed,
        unreadable=tuple(unreadable),
        failures=tuple(failures),
        differing=None if index is None else differing(index, with_vectors=True),
        remarks=listing.remarks,
        unlike=planner.unlike,
        judged={} if index is None else _judged(index),
    )


def _judged(index: Index) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for page in pages(index.store, index.name, fields=[PAYLOAD_KEY]):
        for point in page:
            if (second := Second.stored(own_payload(point.payload))) is not None:
                looked, unsafe = found.get(second.judge, (0, 0))
                found[second.judge] = (looked + 1, unsafe + second.unsafe)
    return found


def _state(task: Task) -> State:
    if task.state != "stale" or task.known is None:
        return task.state
    (found,) = Decoding(spec=None, max_pixels=1)([job_of(task)])
    return "present" if found.hash == task.known else "stale"
