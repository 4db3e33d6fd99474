"""What sources consist of: items to index, and what turned out to be none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hysac_retrieval.ingest.pipeline.decode import content_hash
from hysac_retrieval.payload import point_id
from hysac_retrieval.types import Modality


@dataclass(frozen=True, slots=True)
class Item:
    """Something to index.

    Attributes:
        origin: Where it came from, for people: a path or ``file:line``.
        key: Identity; the point's id is made of it.
        source: The folder, table, shard, dataset or namespace it belongs to; stored with the point.
        modality: What it is.
        content: Path or bytes of an image, or a text.
        payload: What is stored with the point.
        place: Tells two items of the same key apart that are not the same thing listed twice.
        captions: Captions of an image.
    """

    origin: str
    key: str
    source: str
    modality: Modality
    content: Path | bytes | str
    payload: Mapping[str, Any]
    place: str
    captions: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Id of the point."""
        return point_id(self.key)

    def salt(self) -> bytes:
        """What the content hash covers besides an image's bytes: a change of the payload is a change of the item."""
        described = json.dumps([self.modality, self.payload], sort_keys=True, default=str)
        return hashlib.blake2b(described.encode(), digest_size=16).digest()

    def text_hash(self) -> str:
        """Content hash of a text, as `decode` computes that of an image."""
        return content_hash(self.salt(), str(self.content).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item that could not be indexed.

    Attributes:
        item: Where it came from: a path, or ``file:line``.
        error: What is wrong with it and what mends it.
        kind: Name of the error's class.
        source: What it belongs to; see `Item.source`.
        id: Id of its point or, if it is too damaged to have one, an id made of where it came from.
    """

    item: str
    error: str
    kind: str
    source: str = ""
    id: str = ""

    @classmethod
    def of(cls, item: str, error: Exception, *, source: str = "") -> Self:
        """Record the error of something that did not become an item."""
        return cls(item, str(error), type(error).__name__, source, point_id(item))

    @classmethod
    def of_item(cls, item: Item, error: Exception) -> Self:
        """Record the error of an item."""
        return cls(item.origin, str(error), type(error).__name__, item.source, item.id)
