"""Vectors and scores for the points of an application, from the content that their payload holds or names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

from hysac_retrieval.collection.index import Index
from hysac_retrieval.ingest.indexing import RunOptions, encoding_for
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.plan import attached_tasks
from hysac_retrieval.ingest.pipeline.run import Run
from hysac_retrieval.ingest.pipeline.sinks import AttachedSink
from hysac_retrieval.ingest.report import IndexReport
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
        index = Index.attach_model(encoder, name, hnsw=hnsw, store=store)
    return Index(index.collection, store, owns_store=owned)


def fill(index: Index, encoder: Encoder, content: Content, **run: Unpack[RunOptions]) -> IndexReport:
    """Encode the content of an application's points, and give them vectors and scores.

    The application's vectors and payload stay as they are. Points with a score for the same content are skipped, so a
    run that is stopped or killed is continued by the same call. A point that cannot be indexed is noted in the report
    and loses the score that it had for other content; the rest goes on. On the embedded engine call `Index.optimize`
    then.

    Args:
        index: The collection that is attached to the application's; see `attached_collection_for`.
        encoder: The model it is attached with.
        content: Payload fields to encode.
        **run: See `RunOptions`.

    Raises:
        ModelMismatchError: Another model is attached.
        SettingsError: The collection is attached to none, or an option is out of range.
        StoreError: The store fails; what was written before stays.
    """
    encoding = encoding_for(encoder, run)
    index.collection.expect(encoder.fingerprint)
    sink, planner = AttachedSink(index), partial(attached_tasks, resume=run.get("resume", True))
    with Journal(run.get("journal")) as notes:
        source = AttachedSource(index, content, notes.noted, sink.withdraw)
        part = Run(source, planner, encoding, sink, notes, encoder.text_spec.context_length)
        return replace(part(run.get("on_progress"), run.get("should_stop")), lacking=source.lacking)
