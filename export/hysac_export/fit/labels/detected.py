"""Labels of pictures by a detector that exists, kept as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image as Picture

from hysac_export.data.split import Progress
from hysac_export.fit.labels.candidates import Candidate, of_sources
from hysac_export.fit.labels.notes import Notes
from hysac_retrieval.encoder.detectors import Detector
from hysac_retrieval.encoder.preprocess import load_image
from hysac_retrieval.errors import EncoderError, InputError, SettingsError
from hysac_retrieval.ingest import FailedItem

_BATCH = 16
_IN_A_ROW = 5
"""Items on which a detector fails one after the other before it counts as out of order."""


@dataclass(frozen=True)
class Detected:
    """Labels that pictures have after a detector has looked at them.

    Attributes:
        safe: Pictures that are labelled safe, those of earlier runs and a person's included.
        unsafe: Pictures that are labelled unsafe, likewise.
        unsure: Pictures without a label, since the detector could not tell.
        failed: Pictures that could not be read, or on which it failed.
    """

    safe: int
    unsafe: int
    unsure: int
    failed: list[FailedItem]


def label_pictures(
    sources: Sequence[str | Path], detector: Detector, notes: Notes, progress: Progress | None = None
) -> Detected:
    """Label the pictures of sources that have no label yet; a label of a person's stays.

    Raises:
        SourceError: A source is missing, or a label cannot be written.
        SettingsError: There are no pictures.
        EncoderError: The detector fails on several pictures in a row. The labels so far are kept, and the same call
            goes on behind them.
    """
    found = of_sources(sources)
    pictures = [item for item in found.items if item.modality == "image"]
    if not pictures:
        raise SettingsError(f"there are no pictures in {', '.join(map(str, sources))}", hint="Name folders of pictures")
    run = _Run(detector, notes, list(found.failed))
    left = [item for item in pictures if notes.of(item) is None]
    if progress is not None:
        progress(len(pictures) - len(left))
    for start in range(0, len(left), _BATCH):
        run.batch(left[start : start + _BATCH])
        if progress is not None:
            progress(len(left[start : start + _BATCH]))
    labels = [note.unsafe for item in pictures if (note := notes.of(item)) is not None]
    return Detected(labels.count(False), labels.count(True), labels.count(None), run.failed)


class _Run:
    def __init__(self, detector: Detector, notes: Notes, failed: list[FailedItem]) -> None:
        self._detector, self._notes, self.failed, self._in_a_row = detector, notes, failed, 0

    def batch(self, items: Sequence[Candidate]) -> None:
        """Label items together; where the detector fails, one by one."""
        readable = list[tuple[Candidate, Picture]]()
        for item in items:
            try:
                assert not isinstance(item.content, str)
                readable.append((item, load_image(item.content)))
            except InputError as error:
                self.failed.append(FailedItem.of(item.origin, error))
        try:
            self._label(readable)
        except EncoderError:
            for one in readable:
                self._alone(one)

    def _alone(self, one: tuple[Candidate, Picture]) -> None:
        try:
            self._label([one])
        except EncoderError as error:
            self.failed.append(FailedItem.of(one[0].origin, error))
            self._in_a_row += 1
            if self._in_a_row >= _IN_A_ROW:
                hint = f"The labels so far are kept in {self._notes.folder}: run it again, and it goes on"
                raise EncoderError(f"{error.message} ({self._in_a_row} times in a row)", hint=hint) from error

    def _label(self, some: Sequence[tuple[Candidate, Picture]]) -> None:
        if not some:
            return
        scores = self._detector.scores([picture for _, picture in some])
        self._in_a_row = 0
        for (item, _), score in zip(some, scores, strict=True):
            self._notes.keep(item, self._detector.label(score), by=self._detector.name, score=round(score, 4))
