"""Points of an application as a source: their payload holds, or names, what is to be encoded.

What is done is a fact of the collection: a point that carries a score of this model, beside the hash of the content
that it was given for, needs nothing. So a run that is killed is continued by the same call, and later runs take up what
the application has added or changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from qdrant_client import models

from hysac_retrieval.collection.attach import Attachment
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest.items import HASH, FailedItem, Item, Items
from hysac_retrieval.payload import PAYLOAD_KEY, own_payload
from hysac_retrieval.stores.base import Store, pages
from hysac_retrieval.stores.types import VECTOR_NAME, StoredPoint
from hysac_retrieval.types import Modality, PointId

_PAGE = 500
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, slots=True)
class Content:
    """Payload fields of an application's points to encode. A point that has an image and a text is an image.

    Args:
        text: Payload field with a text; dots lead into objects, such as ``meta.title``.
        image: Payload field with the file of an image: a path, or a URL.
        root: Folder of the images. The path of a URL is taken as a file below it; nothing outside of it is read.
        prefix: Beginning of the values that is not part of the path below `root`, such as
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
            hint = "Name a payload field with a text, one with an image, or both"
            raise SettingsError("it is not known what the points are about", hint=hint)
        if not self.image and (self.root is not None or self.prefix):
            raise SettingsError("root and prefix say where images are, but no payload field of images is named")
        if self.root is not None and not self.root.is_dir():
            raise SettingsError(f"{self.root} is not a folder", hint="Give the one that holds the images")

    @property
    def fields(self) -> tuple[str, ...]:
        """The payload fields, the one that counts first."""
        return tuple(field for field in (self.image, self.text) if field)

    def of(self, payload: Mapping[str, Any]) -> tuple[Modality, Path | str] | None:
        """Return modality and content of a point, None if it has neither field; `SourceError` if it holds no string."""
        for field in self.fields:
            value = _value(payload, field)
            if value is None or value == "":
                continue
            if not isinstance(value, str):
                raise SourceError(f"field {field!r} is {type(value).__name__}, expected a string")
            return ("image", self._file(value)) if field == self.image else ("text", value)
        return None

    def _file(self, value: str) -> Path:
        rest = value.removeprefix(self.prefix) if self.prefix else value
        if _URL.match(value):
            found = urlsplit(rest)
            rest = unquote(found.path)
            if found.scheme != "file":
                rest = rest.lstrip("/")
        path = Path(rest)
        if self.root is None:
            if not path.is_absolute():
                raise SourceError(f"image {value!r} is no whole path", hint="Name the folder that it is in (--root)")
            return path
        path = (self.root / path).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise SourceError(f"image {value!r} lies outside of {self.root}; nothing outside of the root is read")
        return path


def expect_content(store: Store, name: str, content: Content) -> None:
    """Raise `SettingsError` if there are points and none of them has any of the fields."""
    if any(store.count(name, _having(field)) for field in content.fields):
        return
    page, _ = store.scroll(name, limit=10)
    if page:
        known = sorted({key for point in page for key in point.payload} - {PAYLOAD_KEY})
        what = f"no point of collection {name!r} has a field {' or '.join(map(repr, content.fields))}"
        raise SettingsError(f"{what}; their payload has {', '.join(known) or 'no fields'}")


class AttachedSource:
    """Points of an application's collection, a page at a time; see `Source`.

    Args:
        index: A collection that is attached to it.
        content: Fields to encode.
        noted: Ids that the journal of earlier runs knows; `seen` has those of them that were listed.
        withdraw: Takes vector and score from a point that has none of the fields any longer; `lacking` counts these.
    """

    def __init__(
        self, index: Index, content: Content, noted: Collection[str], withdraw: Callable[[PointId], None]
    ) -> None:
        self.seen: set[str] = set()
        self.lacking = 0
        self._store, self._fingerprint = index.store, index.metadata.fingerprint
        self._attachment = Attachment.of(index.store, index.collection)
        self._content, self._noted, self._withdraw = content, noted, withdraw

    @property
    def finished(self) -> tuple[str]:
        """See `Source.finished`."""
        return (self._attachment.name,)

    def count(self) -> int:
        """See `Source.count`."""
        return self._store.count(self._attachment.name)

    def __iter__(self) -> Items:
        # An application that reads a point and writes it back whole takes the score along and leaves the vector.
        suspect = not self._attachment.companion and self._vectors_are_missing()
        for page in pages(self._store, self._attachment.name, limit=_PAGE, with_vectors=suspect):
            for point in page:
                found = self._item(point, suspect)
                if found is not None:
                    if found.id in self._noted:
                        self.seen.add(found.id)
                    yield found

    def _item(self, point: StoredPoint, suspect: bool) -> Item | FailedItem | None:
        key, source, origin = str(point.id), self._attachment.name, f"point {point.id}"
        try:
            found = self._content.of(point.payload)
        except SourceError as error:
            return FailedItem.of(origin, error, source=source, id=key)
        if found is None:
            self.lacking += 1
            if PAYLOAD_KEY in point.payload:
                self._withdraw(point.id)
            return None
        modality, content = found
        if isinstance(content, Path):
            origin = f"{origin} ({content})"
        entries = own_payload(point.payload)
        scored = entries.get("model") == self._fingerprint and not (suspect and point.vector is None)
        known = entries.get(HASH) if scored else None
        return Item(origin, key, source, modality, content, {}, "", point=point.id, known=known)

    def _vectors_are_missing(self) -> bool:
        scored = _having(PAYLOAD_KEY)
        held = models.HasVectorCondition(has_vector=VECTOR_NAME)
        both = models.Filter(must=[held], must_not=scored.must_not)
        name = self._attachment.name
        return self._store.count(name, scored) != self._store.count(name, both)


def _having(field: str) -> models.Filter:
    return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=field))])


def _value(payload: Mapping[str, Any], field: str) -> Any:
    """Value of a field, whose name leads into objects if it has dots."""
    if field in payload:
        return payload[field]
    value: Any = payload
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
