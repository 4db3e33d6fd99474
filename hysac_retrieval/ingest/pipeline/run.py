"""One run: from a source, by way of a planner and an encoding, into a sink.

What is decoded and encoded, and where, is the encoding's business. Points are written in a thread beside it, so that
the encoder never waits; the batches that wait for a slow store are few, and are then written together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

from hysac_retrieval.errors import DomainError, HysacError, InputError, RequestTooLargeError, StoreError
from hysac_retrieval.ingest.items import FailedItem
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.channel import Channel, in_thread, started
from hysac_retrieval.ingest.pipeline.plan import item_groups
from hysac_retrieval.ingest.protocols import Encoding, Groups, Outcome, Planner, Sink, Source
from hysac_retrieval.ingest.report import IndexReport, OnProgress, Progress
from hysac_retrieval.types import MODALITIES, Modality

UNLIKE = "it is unlike anything the model knows"
_UPLOADS = 4  # batches that wait for the store


@dataclass
class Run:
    """A run with its parts, and the number of tokens of a text that the model reads."""

    source: Source
    planner: Planner
    encoding: Encoding
    sink: Sink
    journal: Journal
    context_length: int
    strict_domain: bool = False
    _indexed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0), init=False)
    _skipped: int = field(default=0, init=False)
    _left_out: int = field(default=0, init=False)
    _unknown: int = field(default=0, init=False)
    _unlike: int = field(default=0, init=False)
    _total: int | None = field(default=None, init=False)

    def __call__(
        self, on_progress: OnProgress | None = None, should_stop: Callable[[], bool] | None = None
    ) -> IndexReport:
        """Do everything that is listed; when it is stopped, what is encoded by then is written. See `RunOptions`."""
        began = time.perf_counter()
        uploads: Channel[list[Outcome]] = Channel(_UPLOADS)
        stopped = False

        def _upload() -> None:
            for batches in uploads.together():
                self._write([outcome for batch in batches for outcome in batch])

        with (
            self._counting(on_progress),
            self._counted(),
            in_thread(uploads, _upload),
            closing(self.encoding(self._tasks())) as encoded,
        ):
            for outcomes in encoded:
                if points := self._sort(outcomes):
                    uploads.put(points)
                if on_progress:
                    on_progress(self._progress())
                stopped = should_stop is not None and should_stop()
                if stopped:
                    break
        self.sink.finish()
        if not stopped:
            self.journal.settle(self.source.finished, self.source.seen)
            if on_progress:
                self._total = 0  # what was estimated is known now
                on_progress(self._progress())
        return IndexReport(
            indexed=dict(self._indexed),
            skipped=self._skipped,
            left_out=self._left_out,
            failures=self.journal.failures,
            failed=tuple(self.journal.failed),
            unknown=self._unknown,
            unlike=self._unlike,
            cut=self.journal.cut,
            truncated=tuple(self.journal.truncated),
            seconds=time.perf_counter() - began,
            interrupted=stopped,
        )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Have the error of a store say how many points of the run are stored."""
        try:
            yield
        except StoreError as error:
            stored = sum(self._indexed.values())
            error.message += f"; this run has stored {stored:,} points, and the next goes on from there"
            raise

    def _tasks(self) -> Groups:
        with closing(item_groups(self.source, self._fail)) as groups:
            for items in groups:
                tasks = list(self.planner(items))
                self._left_out += len(items) - len(tasks)
                yield tasks

    def _fail(self, failure: FailedItem, found: str = "") -> None:
        self.journal.fail(failure)
        self.sink.reject(failure, found)

    def _sort(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Note failures, cut texts and items that are unchanged; return the points."""
        points, unchanged = [], []
        for outcome in outcomes:
            if outcome.error is not None:
                self._fail(FailedItem.of_item(outcome.item, outcome.error), outcome.hash)
            elif outcome.point is None:
                unchanged.append(outcome.item.id)
            elif self.strict_domain and outcome.judged is not None and outcome.judged.unlike:
                self._fail(FailedItem.of_item(outcome.item, DomainError(UNLIKE)), outcome.hash)
            else:
                points.append(outcome)
                if outcome.judged is not None and outcome.judged.unlike:
                    self._unknown += outcome.item.modality == "text"
                    self._unlike += outcome.item.modality == "image"
                if outcome.tokens > self.context_length:
                    self.journal.truncate(outcome.item, outcome.tokens, self.context_length)
        self._skipped += len(unchanged)
        self.journal.unchanged(unchanged)
        return points

    def _write(self, outcomes: Sequence[Outcome]) -> None:
        for modality in MODALITIES:
            some = [outcome for outcome in outcomes if outcome.item.modality == modality]
            try:
                self._write_batch(modality, some)
            except (InputError, RequestTooLargeError):
                # Find the items that are to blame; the others are written, a second time perhaps.
                for outcome in some:
                    try:
                        self._write_batch(modality, [outcome])
                    except (InputError, RequestTooLargeError) as error:
                        self._fail(FailedItem.of_item(outcome.item, error), outcome.hash)

    def _write_batch(self, modality: Modality, batch: Sequence[Outcome]) -> None:
        if batch:
            ids = [outcome.item.id for outcome in batch]
            with self.journal.writing(ids):
                self._indexed[modality] += self.sink.write(modality, batch)
            self.journal.indexed(ids)

    @contextmanager
    def _counting(self, on_progress: OnProgress | None) -> Iterator[None]:
        """Count what is listed in a thread that has ended when the context is left, however it is left."""
        ended = threading.Event()

        def count() -> None:
            with suppress(HysacError):  # of a store that fails meanwhile; it is an estimate only
                self._total = self.source.count(ended.is_set)

        thread = started(count, "hysac-count") if on_progress else None
        try:
            yield
        finally:
            ended.set()
            if thread is not None:
                thread.join()

    def _progress(self) -> Progress:
        failed = self.journal.failures
        done = sum(self._indexed.values()) + self._skipped + self._left_out + failed
        return Progress(done, None if self._total is None else max(self._total, done), failed)
