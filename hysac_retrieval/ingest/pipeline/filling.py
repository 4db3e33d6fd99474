"""Vectors and scores for the points of an application, from what their payload holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hysac_retrieval.collection.attach import Attachment
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.preprocess import DEFAULT_MAX_PIXELS
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest.items import FailedItem
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.pipeline.stages import OnProgress, Stages
from hysac_retrieval.ingest.pipeline.workers import Decoder
from hysac_retrieval.ingest.sources.collections import (
    Content,
    PointListing,
    PointNotes,
    PointPlanner,
    PointWriter,
    expect_content,
)
from hysac_retrieval.stores import Connection, HnswOptions, opening

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder


@dataclass(frozen=True, slots=True)
class FillReport:
    """Outcome of `fill`.

    Attributes:
        collection: The application's collection.
        vectors: The collection that holds the vectors: the same, or a companion.
        indexed: Points that were given a vector and a score, by modality: ``{"image": …, "text": …}``.
        skipped: Points that had theirs already, for the same content.
        lacking: Points that have neither field; no safe search returns them.
        failures: Number of points that could not be indexed; no safe search returns them either.
        failed: The first 1,000 of them.
        cut: Number of texts longer than the model's context, of which only the beginning was encoded.
        truncated: Where the first 1,000 of them are.
        seconds: Time that it took.
        interrupted: Whether it was stopped before the end.
    """

    collection: str
    vectors: str
    indexed: dict[str, int]
    skipped: int
    lacking: int
    failures: int
    failed: tuple[FailedItem, ...]
    cut: int
    truncated: tuple[str, ...]
    seconds: float
    interrupted: bool

    @property
    def total(self) -> int:
        """Points that were given a vector and a score."""
        return sum(self.indexed.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-serialisable values."""
        return asdict(self)


def attached_collection_for(
    encoder: Encoder,
    name: str,
    content: Content,
    *,
    hnsw: HnswOptions | None = None,
    **connection: Unpack[Connection],
) -> Index:
    """Attach an encoder's space to a collection of an application, or open what is attached; see `Index.attach`.

    Args:
        encoder: Its space, calibration and lift.
        name: The application's collection.
        content: What its points are about; checked before anything is changed.
        hnsw: Options of the graph.
        **connection: Where it lives; see `Connection`.

    Raises:
        SettingsError: No point has the fields that `content` names.
        StoreError: See `Index.attach`.
    """
    with opening(connection) as (store, owned):
        store.open(name)
        expect_content(store, name, content)
        index = Index.attach(
            name,
            dim=encoder.dim,
            curvature=encoder.curvature,
            safety=encoder.safety,
            fingerprint=encoder.fingerprint,
            lift=encoder.lift,
            hnsw=hnsw,
            store=store,
        )
    return Index(index.collection, store, owns_store=owned)


def fill(
    index: Index,
    encoder: Encoder,
    content: Content,
    *,
    batch_size: int = 64,
    workers: int | None = 0,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    resume: bool = True,
    journal: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FillReport:
    """Encode what the points of an application are about, and give them vectors and scores.

    The application's vectors and payload stay as they are. What has a score for the same content is skipped, so a run
    that is stopped or killed is continued by the same call. A point that cannot be indexed is noted in the report and
    loses the score that it had for other content; the rest goes on. On the embedded engine call `Index.optimize` then.

    Args:
        index: What is attached to the application's collection; see `attached_collection_for`.
        encoder: The model it is attached with.
        content: What the points are about.
        batch_size: Points encoded and written at once, at least 1.
        workers: Processes that decode images; see `index_sources`.
        max_pixels: Largest width × height of an image.
        resume: Whether to skip what has a score already; False does everything again.
        journal: File of failed points and cut texts; see `Journal`.
        on_progress: See `OnProgress`.
        should_stop: Asked now and then; True ends the run in good order.

    Raises:
        ModelMismatchError: Another model is attached.
        SettingsError: Nothing is attached, or an option is out of range.
        StoreError: The store fails; what was written before stays.
    """
    for name, value, smallest in (
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
        ("max_pixels", max_pixels, 1),
    ):
        if value is not None and value < smallest:
            raise SettingsError(f"{name} is {value}; expected at least {smallest}")
    began = time.perf_counter()
    index.collection.expect(encoder.fingerprint)
    attachment = Attachment.of(index.store, index.collection)
    with PointNotes(None if journal is None else Path(journal), attachment.erase) as notes:
        listing = PointListing(index, content, notes)
        writer = PointWriter(index, notes)
        with Decoder(workers, Decoding(encoder.image_spec, max_pixels)) as decoder:
            stages = Stages(encoder, writer, notes, PointPlanner(resume), decoder, batch_size)
            interrupted = stages.run(listing, on_progress, should_stop)
        notes.withdraw_all()
        attachment.sweep()
        if not interrupted:
            notes.settle({attachment.name}, listing.met - notes.earlier)
        return FillReport(
            collection=attachment.name,
            vectors=index.name,
            indexed=dict(writer.indexed),
            skipped=stages.skipped,
            lacking=listing.lacking,
            failures=notes.failures,
            failed=tuple(notes.failed),
            cut=notes.cut,
            truncated=tuple(notes.truncated),
            seconds=time.perf_counter() - began,
            interrupted=interrupted,
        )
