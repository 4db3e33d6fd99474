"""Vectors and scores for the points of an application, from the content that their payload holds or names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from qdrant_client import AsyncQdrantClient

from hysac_retrieval.collection.attach import AttachOptions
from hysac_retrieval.collection.copies import collections_of, differing
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.metadata import CollectionMetadata, Vectors, read_metadata
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest.indexing import RunOptions, check_run, detector_of, encoding_for, remarks_on
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.plan import attached_tasks
from hysac_retrieval.ingest.pipeline.run import Run
from hysac_retrieval.ingest.pipeline.sinks import AttachedSink
from hysac_retrieval.ingest.pipeline.vectors import VectorEncoding
from hysac_retrieval.ingest.report import IndexReport
from hysac_retrieval.ingest.sources.collections import AttachedSource, Content, expect_content
from hysac_retrieval.ingest.sources.vectors import StoredVectors, expect_vectors
from hysac_retrieval.payload import normal_ids
from hysac_retrieval.stores import Connection, HnswOptions, Store, opening
from hysac_retrieval.stores.qdrant.bridge import BridgedStore
from hysac_retrieval.stores.types import IndexKind

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder


def attached_collection_for(
    encoder: Encoder,
    name: str,
    content: Content | StoredVectors | None,
    *,
    hnsw: HnswOptions | None = None,
    vectors: Vectors | None = None,
    labels: Sequence[str] | None = None,
    index_fields: Mapping[str, IndexKind] | None = None,
    confirm: Callable[[str], bool] = lambda doubt: False,
    **connection: Unpack[Connection],
) -> Index:
    """Attach an encoder's space to a collection of an application, or open what is attached; see `Index.attach`.

    Args:
        encoder: Its space, calibration and lift.
        name: The application's collection.
        content: Payload fields to encode, or vectors to map; checked before anything is changed. None for those that it
            is attached with.
        hnsw: Options of the graph.
        vectors: Where the vectors go; see `AttachOptions`.
        labels: Payload fields that a companion has copies of; see there.
        index_fields: Payload fields to index; see there.
        confirm: Asked whether to go on where the values of a field are hardly texts; by default that is an error.
        **connection: Where it lives; see `Connection`.

    Raises:
        SettingsError: No point has the fields or vectors that `content` names, or the values are hardly content.
        ModelMismatchError: The model has no head for such vectors.
        StoreError: See `Index.attach`.
    """
    with opening(connection) as (store, owned):
        opened = store.open(name)
        if content is None:
            content = _kept(None if opened.metadata is None else read_metadata(name, opened))
        if isinstance(content, StoredVectors):
            expect_vectors(store, name, content, encoder)
        else:
            expect_content(store, name, content, confirm)
        options: AttachOptions = {"vectors": vectors, "labels": labels, "content": content.kept()}
        options["index_fields"] = index_fields
        index = Index.attach_model(encoder, name, hnsw=hnsw, options=options, store=store)
    return Index(index.collection, store, owns_store=owned)


def fill(
    index: Index,
    encoder: Encoder,
    content: Content | StoredVectors | None = None,
    *,
    ids: Sequence[Any] | None = None,
    **run: Unpack[RunOptions],
) -> IndexReport:
    """Encode the content of an application's points, or map their vectors, and give them vectors and scores.

    The application's vectors and payload stay as they are. Points with a score for the same content are skipped, so a
    run that is stopped or killed is continued by the same call. A point that cannot be indexed is noted in the report
    and loses the score that it had for other content; the rest goes on. On the embedded engine call `Index.optimize`
    then.

    Args:
        index: The collection that is attached to the application's; see `attached_collection_for`.
        encoder: The model it is attached with.
        content: Payload fields to encode, or vectors to map; None for those that the collection was attached with.
        ids: Points to do, such as those that the application has just written; None for all. Those that it has removed
            are no error.
        **run: See `RunOptions`.

    Raises:
        ModelMismatchError: Another model is attached.
        SettingsError: The collection is attached to none, or an option is out of range; or the content is not known.
        StoreError: The store fails; what was written before stays.
    """
    check_run(run)
    index.collection.expect(encoder.fingerprint)
    few = None if ids is None else normal_ids(ids)
    content = content_of(index) if content is None else content
    views, detector = run.get("views", "fast"), detector_of(run)
    if detector is not None and content.vector is not None:
        raise SettingsError("a second judge looks at pictures, and here are vectors", hint="Leave out the judge")
    second = None if detector is None else detector.name
    encoding = encoding_for(encoder, run, detector) if content.vector is None else VectorEncoding(encoder)
    sink = AttachedSink(index, partial(content.judge, views=views, second=second), sweep=few is None)
    with Journal(run.get("journal")) as notes:
        notes.batches = any(index.store.open(one).copies > 1 for one in collections_of(index))
        planner = partial(attached_tasks, resume=run.get("resume", True), unsettled=notes.unsettled)
        source = AttachedSource(index, content, notes.noted, sink.withdraw, few, views, second)
        strict = run.get("strict_domain", False)
        part = Run(source, planner, encoding, sink, notes, encoder.context_length, strict)
        report = replace(part(run.get("on_progress"), run.get("should_stop")), lacking=source.lacking)
        if few is None and not report.interrupted:
            report = replace(report, differing=differing(index) or 0)
        return replace(report, remarks=remarks_on(report, encoder))


async def aattach(
    client: AsyncQdrantClient,
    encoder: Encoder,
    name: str,
    content: Content | StoredVectors,
    *,
    vectors: Vectors | None = None,
    labels: Sequence[str] | None = None,
    **run: Unpack[RunOptions],
) -> IndexReport:
    """As `attached_collection_for` and `fill`, over an application's asynchronous client, without blocking its loop."""

    def work(store: Store) -> IndexReport:
        index = attached_collection_for(encoder, name, content, vectors=vectors, labels=labels, store=store)
        return fill(index, encoder, content, **run)

    return await asyncio.to_thread(work, BridgedStore(client))


def content_of(index: Index) -> Content | StoredVectors:
    """Return the description of the content that a collection was attached with.

    Raises:
        SettingsError: None is kept with it, or it names a folder that is not there.
    """
    return _kept(index.metadata)


def _kept(metadata: CollectionMetadata | None) -> Content | StoredVectors:
    attached = None if metadata is None else metadata.attached
    if attached is None or not attached.content:
        what = "it is not known what the points are about, and nothing about it is kept with the collection"
        raise SettingsError(what, hint="Name a payload field with a text or an image: content=Content(text=…)")
    kept = attached.content
    return StoredVectors.of_kept(kept) if "vector" in kept else Content.of_kept(kept)
