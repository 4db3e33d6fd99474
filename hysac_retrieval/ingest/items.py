"""Items to index, and what could not become one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from hysac_retrieval.payload import point_id
from hysac_retrieval.safety.views import JUDGE, covers
from hysac_retrieval.types import Modality, PointId

SOURCE, HASH = "source", "hash"
"""Entries that indexing stores with a point under the payload key ``hysac``."""

_SALT_BYTES = 16


class Item(NamedTuple):
    """Something to index.

    Attributes:
        origin: Where it came from, for people: a path or ``file:line``.
        key: Identity; the point's id is made of it.
        source: The folder, table, shard, dataset or namespace it belongs to; stored with the point.
        modality: Text or image.
        content: Path or bytes of an image, or a text.
        payload: Stored with the point.
        place: Tells two items of the same key apart that are not the same thing listed twice.
        captions: Captions of an image.
        point: Id of the point where there is one already, in the collection of an application.
        known: Content hash that this point has a score for; None for no score of this model.
    """

    origin: str
    key: str
    source: str
    modality: Modality
    content: Path | bytes | str
    payload: Mapping[str, Any]
    place: str
    captions: tuple[str, ...] = ()
    point: PointId | None = None
    known: str | None = None

    @property
    def id(self) -> str:
        """Id of the point, as a string."""
        return point_id(self.key) if self.point is None else str(self.point)

    def salt(self) -> bytes:
        """Digest of all that the content hash covers besides the content: a new payload makes a new item."""
        described = json.dumps([self.modality, self.payload], sort_keys=True, default=str)
        return hashlib.blake2b(described.encode(), digest_size=_SALT_BYTES).digest()


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item that could not be indexed.

    Attributes:
        item: Where it came from: a path, or ``file:line``.
        error: What is wrong with it and what mends it.
        kind: Name of the error's class.
        source: The source it belongs to; see `Item.source`.
        id: Id of its point or, if it is too damaged to have one, an id made of where it came from.
    """

    item: str
    error: str
    kind: str
    source: str = ""
    id: str = ""

    @classmethod
    def of(cls, item: str, error: Exception, *, source: str = "", id: str = "") -> Self:
        """Record the error of something that did not become an item."""
        return cls(item, str(error), type(error).__name__, source, id or point_id(item))

    @classmethod
    def of_item(cls, item: Item, error: Exception) -> Self:
        """Record the error of an item."""
        return cls.of(item.origin, error, source=item.source, id=item.id)


Items = Generator[Item | FailedItem, None, None]
"""Items as a source lists them; close it (`contextlib.closing`) if it may not be read to its end."""


def known_hash(entries: Mapping[str, Any], judge: str) -> str | None:
    """Return the content hash of a stored point, by its entries under ``hysac``; None if it was judged by less."""
    return entries.get(HASH) if covers(entries.get(JUDGE), judge) else None
