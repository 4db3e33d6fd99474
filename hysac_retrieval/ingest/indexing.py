"""Indexing of folders, files, tables, shards and datasets into a collection of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Unpack, get_args

from pydantic import ConfigDict, Field, SkipValidation, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from hysac_retrieval.collection.copies import differing
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.detectors import Detector, open_detector
from hysac_retrieval.encoder.pictures import DEFAULT_MAX_PIXELS
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.memory import expect_memory
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.pipeline.encode import LocalEncoding
from hysac_retrieval.ingest.pipeline.plan import CollectionPlanner
from hysac_retrieval.ingest.pipeline.run import Run
from hysac_retrieval.ingest.pipeline.sinks import CollectionSink
from hysac_retrieval.ingest.protocols import Encoding, Unfinished
from hysac_retrieval.ingest.pruning import DEFAULT_LIMIT, PruneLimit
from hysac_retrieval.ingest.pruning import prune as prune_points
from hysac_retrieval.ingest.report import IndexReport, OnProgress
from hysac_retrieval.ingest.sources.chunks import Spans
from hysac_retrieval.ingest.sources.open import Listing
from hysac_retrieval.ingest.sources.options import SourceOptions
from hysac_retrieval.safety.views import ViewSetting

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest.ray import RayOptions


@with_config(ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class RunOptions(TypedDict, total=False):
    """Options of every run.

    Attributes:
        batch_size: Items encoded and written at once, at least 1. Default 64.
        workers: Processes that decode images; 0 decodes in a thread. None, the default, takes as many as there are
            cores, up to 8, and decodes the first 64 images in threads.
        max_pixels: Largest width × height of an image.
        views: Views of an image that are judged, ``"fast"`` (the default) or ``"thorough"``; what is stored from fewer
            is done again.
        judge: A second judge of pictures beside the model: ``"opennsfw"``, ``"nudenet"``, ``"module:function"`` or a
            `Detector`. The worse of the two scores counts; a picture on which it fails is an item that failed.
        resume: Whether to skip what is stored already (the default); False does everything again.
        strict_domain: Whether what is unlike anything the model knows fails (False).
        journal: File of failed items and cut texts; see `Journal`.
        on_progress: See `OnProgress`.
        should_stop: Asked now and then; True ends the run in good order.
    """

    batch_size: Annotated[int, Field(ge=1)]
    workers: Annotated[int | None, Field(ge=0)]
    max_pixels: Annotated[int, Field(ge=1)]
    views: ViewSetting
    judge: SkipValidation[str | Detector | None]
    resume: bool
    strict_domain: bool
    journal: SkipValidation[str | os.PathLike[str] | None]
    on_progress: OnProgress | None
    should_stop: Callable[[], bool] | None


_RUN_OPTIONS: TypeAdapter[Any] = TypeAdapter(RunOptions)


def index_sources(
    sources: Sequence[str | os.PathLike[str]],
    index: Index,
    encoder: Encoder,
    *,
    options: SourceOptions | None = None,
    only: Collection[str] = (),
    prune: bool = False,
    prune_limit: int | str | None = DEFAULT_LIMIT,
    ray: RayOptions | None = None,
    **run: Unpack[RunOptions],
) -> IndexReport:
    """Index folders, files, tables, shards and datasets; `hysac_retrieval.ingest.sources.open` lists the kinds.

    Items that are stored already, with the same content and from the same model, are skipped. An item that cannot be
    indexed is noted in the report and the rest goes on. Each batch is durable when it is written, so a run that is
    stopped or killed is continued by the same call.

    Args:
        sources: Paths of folders and files, names of datasets.
        index: The collection, indexed with the encoder's model.
        encoder: Encodes the items.
        options: How the sources are read.
        only: States to do: ``missing``, ``stale`` (stored from other content), ``failed`` (by the journal); empty: all.
        prune: Remove the points of the sources whose items are no longer there. Nothing is removed unless every source
            could be read whole, and never a point of another source, or one that was not indexed from a source.
        prune_limit: Points of each source that may be removed: a number, or a percentage such as ``"10%"`` (the
            default); None for any. Beyond it nothing is removed, and the report says so.
        ray: Decode and encode on a Ray cluster, which must reach image files by the same paths; `workers` is ignored.
        **run: See `RunOptions`.

    Raises:
        SourceError: A source is missing or cannot be read from its beginning; nothing has been indexed.
        MissingExtraError: A source, or `ray`, needs a package that is not installed.
        ModelMismatchError: The collection was indexed with another model.
        SettingsError: An option is out of range, or worker processes cannot be started.
        StoreError: The store fails; what was written before stays.
    """
    began, limit = time.perf_counter(), PruneLimit.of(prune_limit)
    detector = detector_of(run)
    judges: dict[str, Any] = {"views": run.get("views", "fast"), "second": detector and detector.name}
    encoding, journal, resume = encoding_for(encoder, run, detector, ray), run.get("journal"), run.get("resume", True)
    index.collection.expect(encoder.fingerprint)
    with _open(sources, options, only, resume, journal, encoder.text_spans) as listing, Journal(journal) as notes:
        notes.batches = index.store.open(index.name).copies > 1
        if notes.unremoved:  # some copies may still have them
            index.delete([*notes.unremoved])
            notes.removed()
        planner = CollectionPlanner(index, notes.earlier, only, resume=resume, unsettled=notes.unsettled, **judges)
        strict, sink = run.get("strict_domain", False), CollectionSink(index, **judges)
        part = Run(listing, planner, encoding, sink, notes, encoder.context_length, strict)
        report = part(run.get("on_progress"), run.get("should_stop"))
        if not report.interrupted:
            if prune:
                report = prune_points(report, index, listing, limit, notes)
            report = replace(report, differing=differing(index) or 0)
            index.optimize()
    remarks = (*listing.remarks, *remarks_on(report, encoder))
    return replace(report, remarks=remarks, seconds=time.perf_counter() - began)


def check_sources(
    sources: Sequence[str | os.PathLike[str]],
    *,
    options: SourceOptions | None = None,
    only: Collection[str] = (),
    resume: bool = True,
    journal: str | os.PathLike[str] | None = None,
) -> None:
    """Raise what `index_sources` with these arguments would before it looks at the collection."""
    _open(sources, options, only, resume, journal).close()


def detector_of(run: RunOptions) -> Detector | None:
    """Return the second judge of a run; see `open_detector` for errors."""
    judge = run.get("judge")
    if judge is not None and not isinstance(judge, str | Detector):
        raise SettingsError(f"judge is {type(judge).__name__}, expected the name of a detector, or a Detector")
    return open_detector(judge) if isinstance(judge, str) else judge


def encoding_for(
    encoder: Encoder, run: RunOptions, detector: Detector | None = None, ray: RayOptions | None = None
) -> Encoding:
    """Return what decodes, encodes and judges in a run; see `check_run` for errors."""
    check_run(run)
    expect_memory()
    batch_size = run.get("batch_size", 64)
    max_pixels, views = run.get("max_pixels", DEFAULT_MAX_PIXELS), run.get("views", "fast")
    spec = encoder.image_spec if encoder.reads("image") else None
    decoding = Decoding(spec, max_pixels, views, detector is not None)
    if ray is None:
        return LocalEncoding(encoder, batch_size, run.get("workers"), decoding, detector)
    if detector is not None:
        raise SettingsError("a second judge does not work on a Ray cluster", hint="Leave out one of the two")
    from hysac_retrieval.ingest.ray import RayEncoding

    return RayEncoding(encoder, batch_size, decoding, ray)


def remarks_on(report: IndexReport, encoder: Encoder) -> tuple[str, ...]:
    """Return what is to be said of pictures that the model does not know."""
    return (encoder.domain.remark(encoder.name, report.unlike),) if report.foreign else ()


def check_run(run: RunOptions) -> None:
    """Raise `SettingsError` for an option that is unknown or out of range."""
    try:
        _RUN_OPTIONS.validate_python(run)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"option {first['loc'][0]} is {first['input']!r}: {first['msg']}") from None


def _open(
    sources: Sequence[str | os.PathLike[str]],
    options: SourceOptions | None,
    only: Collection[str],
    resume: bool,
    journal: str | os.PathLike[str] | None,
    spans: Spans | None = None,
) -> Listing:
    if "failed" in only and journal is None:
        what = "only='failed' does what the journal lists, and no journal is given"
        raise SettingsError(what, hint="Name that of the earlier run")
    if unknown := set(only) - set(get_args(Unfinished)):
        raise SettingsError(f"unknown state {sorted(unknown)[0]!r}; expected {', '.join(get_args(Unfinished))}")
    if only and not resume:
        raise SettingsError("only chooses among unfinished items, but without resume everything is done again")
    return Listing(sources, options, spans)
