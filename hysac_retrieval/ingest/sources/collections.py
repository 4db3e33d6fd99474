"""Points of an application as a source: their payload holds, or names, what is to be encoded.

What is done is a fact of the collection: a point that carries a score of this model, beside the hash of the content
that it was given for, needs nothing. So a run that is killed is continued by the same call, and later runs take up what
the application has added or changed.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self
from urllib.parse import unquote, unquote_plus, urlsplit

from qdrant_client import models

from hysac_retrieval.collection.attachment import Attachment
from hysac_retrieval.collection.collection import top_field
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.inline import is_data_url, picture_bytes
from hysac_retrieval.errors import InputError, SettingsError, SourceError
from hysac_retrieval.ingest.items import FailedItem, Item, Items, known_hash
from hysac_retrieval.ingest.sources.fields import FRAMEWORKS, doubt, stored_field, value_of
from hysac_retrieval.ingest.sources.names import folded, found_file
from hysac_retrieval.payload import PAYLOAD_KEY, own_payload
from hysac_retrieval.safety.views import ViewSetting, judge_of
from hysac_retrieval.stores.base import Store, found, pages
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import Modality, PointId

_PAGE = 500
_SAMPLE = 100  # points whose texts are looked at before anything is changed
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class PointContent(Protocol):
    """Part of an application's points that is judged.

    Attributes:
        vector: Name of the vector that is; None for payload fields.
        fields: Payload fields that are read.
    """

    @property
    def vector(self) -> str | None:
        """See above."""

    @property
    def fields(self) -> tuple[str, ...]:
        """See above."""

    def of_point(self, point: StoredPoint) -> tuple[Modality, Path | bytes | str] | None:
        """Return modality and content of a point, None if it has none; `InputError` if that is none."""

    def judge(self, modality: Modality, views: ViewSetting, second: str | None = None) -> str:
        """Return the name of what judges the content, which is stored with the score."""

    def kept(self) -> dict[str, Any]:
        """Return the description as JSON values."""


@dataclass(frozen=True, slots=True)
class Content:
    """Payload fields of an application's points to encode. A point that has an image and a text is an image.

    Args:
        text: Payload field with a text. Dots lead into objects, such as ``meta.title``, and a bar into JSON that is
            kept as text, such as ``_node_content|text``. Of several fields the first that a point has counts.
        image: Payload field, or several, with the file of an image: a path, a URL, or a data: URL.
        root: Folder of the images. The path of a URL is taken as a file below it; nothing outside of it is read.
        prefix: Beginning of the values that is not part of the path below `root`, such as
            ``https://cdn.example.org/images/``.

    Raises:
        SettingsError: There is neither field, or `root` is no folder.
    """

    text: str | tuple[str, ...] | None = None
    image: str | tuple[str, ...] | None = None
    root: Path | None = None
    prefix: str | None = None

    @classmethod
    def of_framework(cls, name: str, *, root: Path | None = None, prefix: str | None = None) -> Self:
        """Describe the content of points that a framework has written: one of `fields.FRAMEWORKS`."""
        if name not in FRAMEWORKS:
            raise SettingsError(f"unknown framework {name!r}; expected one of {', '.join(FRAMEWORKS)}")
        fields = FRAMEWORKS[name]
        return cls(fields.get("text"), fields.get("image"), root, prefix)

    @classmethod
    def of_kept(cls, kept: Mapping[str, Any]) -> Self:
        """Read what `kept` returned, as the metadata of a collection has it."""
        text, image = (tuple(kept[key]) if kept.get(key) else None for key in ("text", "image"))
        root, prefix = kept.get("root"), kept.get("prefix")
        return cls(text, image, None if root is None else Path(root), prefix)

    def kept(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        root = None if self.root is None else str(self.root.resolve())
        found = {"text": list(self.texts), "image": list(self.images), "root": root, "prefix": self.prefix}
        return {key: value for key, value in found.items() if value}

    def __post_init__(self) -> None:
        if not self.text and not self.image:
            hint = "Name a payload field with a text, one with an image, or both"
            raise SettingsError("it is not known what the points are about", hint=hint)
        if not self.image and (self.root is not None or self.prefix):
            raise SettingsError("root and prefix say where images are, but no payload field of images is named")
        if self.root is not None and not os.path.isdir(self.root):
            raise SettingsError(f"{self.root} is not a folder", hint="Give the one that holds the images")

    vector: ClassVar[None] = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The fields with a text."""
        return _several(self.text)

    @property
    def images(self) -> tuple[str, ...]:
        """The fields with the file of an image."""
        return _several(self.image)

    @property
    def fields(self) -> tuple[str, ...]:
        """The payload fields, the one that counts first."""
        return (*self.images, *self.texts)

    def of(self, payload: Mapping[str, Any]) -> tuple[Modality, Path | bytes | str] | None:
        """Return modality and content of a point, None if it has neither field; `InputError` if it is none."""
        for field in self.fields:
            value = value_of(payload, field)
            if value is None or value == "":
                continue
            if not isinstance(value, str):
                raise SourceError(f"field {field!r} is {type(value).__name__}, expected a string")
            if field not in self.images:
                return "text", value
            return "image", picture_bytes(value) if is_data_url(value) else self._file(value)
        return None

    def of_point(self, point: StoredPoint) -> tuple[Modality, Path | bytes | str] | None:
        """See `PointContent`."""
        return self.of(point.payload)

    def judge(self, modality: Modality, views: ViewSetting, second: str | None = None) -> str:
        """See `PointContent`."""
        return judge_of(modality, views, second)

    def _file(self, value: str) -> Path:
        written = self._written(value)
        paths = map(self._within_root, written)
        return next((path for path in paths if os.path.lexists(path)), self._within_root(written[0]))

    def _written(self, value: str) -> list[str]:
        """Return the names that a value may mean, the likeliest first: applications keep some of them URL-encoded."""
        rest = self._rest(value)
        if not _URL.match(value):
            return [rest, unquote(rest)]
        found = urlsplit(rest)
        names = [unquote(found.path), found.path, unquote_plus(found.path)]
        return names if found.scheme == "file" else [name.lstrip("/") for name in names]

    def _within_root(self, rest: str) -> Path:
        if self.root is None:
            if not Path(rest).is_absolute():
                raise SourceError(f"image {rest!r} is no whole path", hint="Name the folder that it is in (--root)")
            return found_file(Path(rest).parent, rest)
        path = found_file(self.root, rest).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise SourceError(f"image {rest!r} lies outside of {self.root}; nothing outside of the root is read")
        return path

    def _rest(self, value: str) -> str:
        """Return a value without the prefix, whose slashes, case and composition make no difference."""
        if not self.prefix or value.startswith(self.prefix):
            return value.removeprefix(self.prefix or "")
        whole, prefix = (unicodedata.normalize("NFC", text) for text in (value, self.prefix))
        return whole[len(prefix) :] if folded(whole[: len(prefix)]) == folded(prefix) else value


def expect_content(
    store: Store, name: str, content: Content, confirm: Callable[[str], bool] = lambda doubt: False
) -> None:
    """Check, before anything is changed, that there is content to judge.

    Args:
        store: Store of the collection.
        name: The application's collection.
        content: Its fields.
        confirm: Asked whether values that are hardly texts, which its argument says in words, are meant all the same.

    Raises:
        SettingsError: There are points and none of them has any of the fields; or the texts of a sample are hardly any.
    """
    present = {field: store.count(name, _having(field)) for field in content.fields}
    for field in content.texts:
        if present[field]:
            page, _ = store.scroll(name, filter=_having(field), limit=_SAMPLE)
            why = doubt(field, [value for point in page if isinstance(value := _maybe(point, field), str)])
            if why and not confirm(why):
                raise SettingsError(why, hint="Name another field, or say that this one is meant (--yes)")
    if any(present.values()):
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
        ids: Points to list; None for all.
        views: Views of an image that are judged; what has a score by fewer has none that counts.
        second: Name of the second judge, if there is one; likewise.
    """

    def __init__(
        self,
        index: Index,
        content: PointContent,
        noted: Collection[str],
        withdraw: Callable[[PointId], None],
        ids: Sequence[PointId] | None = None,
        views: ViewSetting = "fast",
        second: str | None = None,
    ) -> None:
        self.seen: set[str] = set()
        self.lacking = 0
        self._store, self._fingerprint = index.store, index.metadata.fingerprint
        self._attachment = Attachment.of(index.store, index.collection)
        self._content, self._noted, self._withdraw = content, noted, withdraw
        self._ids, self._views, self._second = ids, views, second
        labels = self._attachment.attached.labels
        self._shown: dict[str, Any] = {}
        if content.vector is not None:  # of payloads as little as possible
            fields = [PAYLOAD_KEY, *map(top_field, map(stored_field, (*content.fields, *labels)))]
            self._shown = {"with_vectors": content.vector, "fields": fields}

    @property
    def finished(self) -> tuple[str, ...]:
        """See `Source.finished`."""
        return (self._attachment.name,) if self._ids is None else ()

    def count(self, stop: Callable[[], bool] = lambda: False) -> int:
        """See `Source.count`."""
        return self._store.count(self._attachment.name) if self._ids is None else len(self._ids)

    def __iter__(self) -> Items:
        suspect = self._attachment.vectors_are_missing()
        for page in self._pages():
            self._attachment.copy_labels(page)
            bare = self._attachment.without_vector(page) if suspect else ()
            for point in page:
                found = self._item(point, has_vector=point.id not in bare)
                if found is not None:
                    if found.id in self._noted:
                        self.seen.add(found.id)
                    yield found

    def _pages(self) -> Iterator[list[StoredPoint]]:
        name = self._attachment.name
        if self._ids is None:
            yield from pages(self._store, name, limit=_PAGE, **self._shown)
            return
        for start in range(0, len(self._ids), _PAGE):
            few = list(self._ids[start : start + _PAGE])
            page = found(self._store, name, few, **self._shown)
            if self._attachment.companion:
                for gone in {*few} - {point.id for point in page}:
                    self._withdraw(gone)
            yield page

    def _item(self, point: StoredPoint, *, has_vector: bool) -> Item | FailedItem | None:
        key, source, origin = str(point.id), self._attachment.name, f"point {point.id}"
        try:
            found = self._content.of_point(point)
        except InputError as error:
            return FailedItem.of(origin, error, source=source, id=key)
        if found is None:
            self.lacking += 1
            if PAYLOAD_KEY in point.payload or point.differs:
                self._withdraw(point.id)
            return None
        modality, content = found
        if isinstance(content, Path):
            origin = f"{origin} ({content})"
        entries = own_payload(point.payload)
        scored = has_vector and not point.differs and entries.get("model") == self._fingerprint
        known = known_hash(entries, self._content.judge(modality, self._views, self._second)) if scored else None
        return Item(origin, key, source, modality, content, {}, "", point=point.id, known=known)


def _having(field: str) -> models.Filter:
    key = stored_field(field)
    return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key))])


def _maybe(point: StoredPoint, field: str) -> Any:
    with suppress(SourceError):
        return value_of(point.payload, field)
    return None


def _several(field: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (field,) if isinstance(field, str) and field else tuple(field or ())
