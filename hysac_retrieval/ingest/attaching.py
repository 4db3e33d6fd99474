"""Vectors and scores for the points of an application, from the content that their payload holds or names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.schema import model_options
from hysac_retrieval.encoder.preprocess import DEFAULT_MAX_PIXELS
from hysac_retrieval.ingest.indexing import encoding_for
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.plan import AttachedPlanner
from hysac_retrieval.ingest.pipeline.run import Run
from hysac_retrieval.ingest.pipeline.sinks import AttachedSink
from hysac_retrieval.ingest.report import IndexReport, OnProgress
from hysac_retrieval.ingest.sources.collections import AttachedSource, Content, expect_content
from hysac_retrieval.stores import Connection, HnswOptions, opening

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder


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
        content: Payload fields to encode; checked before anything is changed.
        hnsw: Options of the graph.
        **connection: Where it lives; see `Connection`.

    Raises:
        SettingsError: No point has the fields that `content` names.
        StoreError: See `Index.attach`.
    """
    with opening(connection) as (store, owned):
        store.open(name)
        expect_content(store, name, content)
        index = Index.attach(name, **model_options(encoder, {"hnsw": hnsw}), store=store)
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
) -> IndexReport:
    """Encode the content of an application's points, and give them vectors and scores.

    The application's vectors and payload stay as they are. Points with a score for the same content are skipped, so a
    run that is stopped or killed is continued by the same call. A point that cannot be indexed is noted in the report
    and loses the score that it had for other content; the rest goes on. On the embedded engine call `Index.optimize`
    then.

    Args:
        index: The collection that is attached to the application's; see `attached_collection_for`.
        encoder: The model it is attached with.
        content: Payload fields to encode.
        batch_size: Points encoded and written at once, at least 1.
        workers: Processes that decode images; see `index_sources`.
        max_pixels: Largest width × height of an image.
        resume: Whether to skip points that have a score already; False does everything again.
        journal: File of failed points and cut texts; see `Journal`.
        on_progress: See `OnProgress`.
        should_stop: Asked now and then; True ends the run in good order.

    Raises:
        ModelMismatchError: Another model is attached.
        SettingsError: The collection is attached to none, or an option is out of range.
        StoreError: The store fails; what was written before stays.
    """
    encoding = encoding_for(encoder, batch_size, workers, max_pixels)
    index.collection.expect(encoder.fingerprint)
    sink = AttachedSink(index)
    with Journal(journal) as notes:
        source = AttachedSource(index, content, notes.noted, sink.withdraw)
        run = Run(source, AttachedPlanner(resume), encoding, sink, notes, encoder.text_spec.context_length)
        return replace(run(on_progress, should_stop), lacking=source.lacking)
