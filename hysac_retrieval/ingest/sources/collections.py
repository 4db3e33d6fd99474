"""Points of an application as things to index: their payload says what they are about.

What is done is a fact of the collection: a point that carries a score of this model, beside the hash of the content
that it was given for, needs nothing. So a run that is killed is continued by the same call, and later runs take up what
the application has added or changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.collection.attach import Attachment
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.plan import HASH, Planner, Task
from hysac_retrieval.ingest.pipeline.write import Writer
from hysac_retrieval.payload import PAYLOAD_KEY, own_payload
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.types import VECTOR_NAME, StoredPoint
from hysac_retrieval.types import Modality, PointId

_PAGE = 500
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, slots=True)
class Content:
    """Where the points of an application say what they are about. A point that has an image and a text is an image.

    Args:
        text: Payload field with a text; dots lead into objects, such as ``meta.title``.
        image: Payload field with the file of an image: a path, or a URL.
        root: Folder of the images. Of a URL, its path is the file below it; nothing outside of it is read.
        prefix: What the values begin with that is not part of the path below `root`, such as
            ``https://cdn.example.org/images/``.

    Raises:
        SettingsError: There is neither field, or `root` is no folder.
    """

    text: str | None = None
    image: str | None = None
    root: Path | None = None
    prefix: str | None = None

    def __post_init__(self) -> None:
        if not self.text and not self.image:
            raise SettingsError("say what the points are about: a payload field with a text, with an image, or both")
        if not self.image and (self.root is not None or self.prefix):
            raise SettingsError("root and prefix say where images are, but no payload field of images is named")
        if self.root is not None and not self.root.is_dir():
            raise SettingsError(f"{self.root} is not a folder; give the one that holds the images")

    @property
    def fields(self) -> tuple[str, ...]:
        """The payload fields, the one that counts first."""
        return tuple(field for field in (self.image, self.text) if field)

    def of(self, payload: Mapping[str, Any]) -> tuple[Modality, Path | str] | None:
        """What a point is about; None where it has neither field.

        Raises:
            SourceError: The field holds something else.
        """
        kinds: tuple[tuple[Modality, str | None], ...] = (("image", self.image), ("text", self.text))
        for modality, field in kinds:
            value = None if field is None else _value(payload, field)
            if value is None or value == "":
                continue
            if not isinstance(value, str):
                raise SourceError(f"field {field!r} is {type(value).__name__}, expected a string")
            return modality, self._file(value) if modality == "image" else value
        return None

    def _file(self, value: str) -> Path:
        is_url = _URL.match(value) is not None
        rest = value.removeprefix(self.prefix) if self.prefix else value
        if is_url:
            found = urlsplit(rest)
            rest = unquote(found.path)
            if found.scheme != "file":
                rest = rest.lstrip("/")
        path = Path(rest)
        if self.root is None:
            if not path.is_absolute():
                raise SourceError(f"image {value!r} is no whole path; name the folder that it is in (--root)")
            return path
        path = (self.root / path).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise SourceError(f"image {value!r} lies outside of {self.root}; nothing outside of the root is read")
        return path


def expect_content(store: Store, name: str, content: Content) -> None:
    """Check that points have the fields, before anything is changed.

    Raises:
        SettingsError: There are points, and none has any of the fields.
    """
    for field in content.fields:
        if store.count(name, _having(field)):
            return
    page, _ = store.scroll(name, limit=10)
    if page:
        known = sorted({key for point in page for key in point.payload} - {PAYLOAD_KEY})
        raise SettingsError(
            f"no point of collection {name!r} has a field {' or '.join(map(repr, content.fields))}; "
            f"their payload has {', '.join(known) or 'no fields'}"
        )


@dataclass(frozen=True, slots=True)
class PointItem(Item):
    """What a point is about.

    Attributes:
        point: Its id.
        known: Hash of the content that it has a score for; None where it has none of this model.
    """

    point: PointId = 0
    known: str | None = None

    @property
    def id(self) -> str:
        """Id of the point, as a string."""
        return str(self.point)


class PointListing:
    """The points of the application's collection, a page at a time.

    Args:
        index: What is attached to it.
        content: See `Content`.
        notes: Keeps what cannot be indexed.
        should_stop: Asked between pages.

    Attributes:
        lacking: Points that have neither field.
        met: Of the points that the journal of earlier runs knows, those that are there.
    """

    def __init__(self, index: Index, content: Content, notes: PointNotes) -> None:
        self.lacking = 0
        self.met: set[str] = set()
        self._index = index
        self._attachment = Attachment.of(index.store, index.collection)
        self._content = content
        self._notes = notes

    def count(self) -> int:
        """See `Listed.count`."""
        return self._index.store.count(self._attachment.name)

    def __iter__(self) -> Iterator[Item | FailedItem]:
        store, name = self._index.store, self._attachment.name
        # An application that reads a point and writes it back whole takes the score along and leaves the vector.
        suspect = not self._attachment.companion and self._vectors_are_missing()
        after: PointId | None = None
        while True:
            page, after = store.scroll(name, limit=_PAGE, after=after, with_vectors=suspect)
            for point in page:
                if str(point.id) in self._notes.noted:
                    self.met.add(str(point.id))
                found = self._item(point, suspect)
                if found is not None:
                    yield found
            if after is None:
                return

    def _item(self, point: StoredPoint, suspect: bool) -> Item | FailedItem | None:
        ours, source = own_payload(point.payload), self._attachment.name
        origin = f"point {point.id}"
        try:
            found = self._content.of(point.payload)
        except SourceError as error:
            return FailedItem(origin, str(error), type(error).__name__, source, str(point.id))
        if found is None:
            self.lacking += 1
            if PAYLOAD_KEY in point.payload:
                self._notes.withdraw(point.id)
            return None
        modality, content = found
        if isinstance(content, Path):
            origin = f"{origin} ({content})"
        scored = ours.get("model") == self._index.metadata.fingerprint and not (suspect and point.vector is None)
        known = ours.get(HASH) if scored else None
        return PointItem(origin, str(point.id), source, modality, content, {}, "", point=point.id, known=known)

    def _vectors_are_missing(self) -> bool:
        held = models.HasVectorCondition(has_vector=VECTOR_NAME)
        scored = _having(PAYLOAD_KEY)
        both = models.Filter(must=[held], must_not=scored.must_not)
        count = self._index.store.count
        return count(self._attachment.name, scored) != count(self._attachment.name, both)


class PointPlanner(Planner):
    """Decides about points by what they carry.

    Args:
        resume: Whether that counts; otherwise everything is done again.
    """

    def __init__(self, resume: bool) -> None:
        super().__init__(None)
        self._resume = resume

    def tasks(self, items: Sequence[Item]) -> Iterator[Task]:
        """See `Planner.tasks`."""
        for item in items:
            known = item.known if self._resume and isinstance(item, PointItem) else None
            yield Task(item, "missing" if known is None else "stale", known)


class PointNotes(Journal):
    """A journal that takes the score from every point that fails: it was given for what the point no longer holds.

    Args:
        path: See `Journal`.
        erase: Takes scores from points.
    """

    def __init__(self, path: Path | None, erase: Callable[[Sequence[PointId]], None]) -> None:
        super().__init__(path)
        self.noted: Collection[str] = frozenset(self._entries)
        self._erase = erase
        self._withdrawn: list[PointId] = []

    def fail(self, failure: FailedItem) -> None:
        """See `Journal.fail`."""
        super().fail(failure)
        self.withdraw(int(failure.id) if failure.id.isdecimal() else failure.id)

    def withdraw(self, point: PointId) -> None:
        """Take the score from a point, now or soon."""
        with self._lock:
            self._withdrawn.append(point)
            full = len(self._withdrawn) >= _PAGE
        if full:
            self.withdraw_all()

    def withdraw_all(self) -> None:
        """Take the scores that are still to be taken."""
        with self._lock:
            points, self._withdrawn = self._withdrawn, []
        self._erase(points)


class PointWriter(Writer):
    """Writes vectors and scores to points that exist."""

    def reject(self, failure: FailedItem, found: str) -> None:
        """See `Writer.reject`; the notes take the score from a point that fails."""
        self._notes.fail(failure)

    def _write(
        self, modality: Modality, items: Sequence[Item], hashes: Sequence[str], points: NDArray[np.float32]
    ) -> None:
        ids = [item.point for item in items if isinstance(item, PointItem)]
        marks = [{HASH: found} for found in hashes]
        self.indexed[modality] += self._index.annotate(ids, points, modality=modality, marks=marks)
        self._notes.indexed([item.id for item in items])


def _having(field: str) -> models.Filter:
    return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=field))])


def _value(payload: Mapping[str, Any], field: str) -> Any:
    """Value of a field, whose name leads into objects where it has dots."""
    if field in payload:
        return payload[field]
    value: Any = payload
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
