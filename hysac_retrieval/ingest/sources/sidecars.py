"""Files beside an image that share its name and describe it, as img2dataset and many tools write them.

000017.jpg  000017.txt  000017.json        an image, its caption, further fields
000017.jpg  000017.jpg.json                the same
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.items import FailedItem
from hysac_retrieval.ingest.sources.names import folded
from hysac_retrieval.ingest.sources.options import Fields, SourceOptions
from hysac_retrieval.ingest.sources.rows import Row, row_of

TEXT_SUFFIXES = (".txt", ".text", ".caption")
SUFFIXES = frozenset({".json", *TEXT_SUFFIXES})
_LARGEST = 1_000_000  # bytes; what is larger describes more than an image


class Sidecars:
    """The sidecars in one folder, by the names of its files."""

    def __init__(self, folder: Path, names: Iterable[str], options: SourceOptions) -> None:
        self._folder, self._fields = folder, options.fields
        self._by_stem: dict[str, list[str]] = {}
        for name in names:
            if (pure := PurePath(name)).suffix.lower() in SUFFIXES:
                self._by_stem.setdefault(folded(pure.stem), []).append(name)

    def row(self, image: str) -> Row | None:
        """Read what describes an image; None if there is nothing.

        Raises:
            SourceError: A sidecar cannot be read.
        """
        stems = (PurePath(image).stem, image)
        names = [name for stem in stems for name in self._by_stem.get(folded(stem), ())]
        names.sort(key=lambda name: PurePath(name).stem not in stems)  # the same spelling first
        if not names:
            return None
        record = described([(name, self._read(name)) for name in names], self._fields)
        record[self._fields.images[0]] = image  # a row of an image needs one
        row = row_of(str(self._folder / names[0]), record, self._fields)
        if isinstance(row, FailedItem):
            raise SourceError(f"{names[0]} beside it cannot be used: {row.error}")
        return row

    def _read(self, name: str) -> bytes:
        try:
            with (self._folder / name).open("rb") as stream:
                data = stream.read(_LARGEST + 1)
        except OSError as error:
            raise SourceError(f"{name} beside it cannot be read: {error}") from error
        if len(data) > _LARGEST:
            hint = "Move it elsewhere, or give --no-sidecars"
            raise SourceError(f"{name} beside it has more than {_LARGEST:,} bytes", hint=hint)
        return data


def described(files: Iterable[tuple[str, bytes]], fields: Fields) -> dict[str, Any]:
    """Return the fields of the JSON and the text among files that describe one image, without those of the image.

    Raises:
        SourceError: One is not JSON with an object, or not UTF-8.
    """
    record: dict[str, Any] = {}
    text = ""
    for name, data in files:
        suffix = PurePath(name).suffix.lower()
        try:
            if suffix == ".json":
                record = _object(data) | record
            elif suffix in TEXT_SUFFIXES:
                text = text or data.decode("utf-8-sig").strip()
        except (ValueError, RecursionError) as error:
            raise SourceError(f"file {name!r} cannot be read: {error}", hint="Give JSON and text as UTF-8") from error
    kept = {field: value for field, value in record.items() if field not in fields.images}
    if not text:
        return kept
    several = [value for name in fields.texts if isinstance(value := kept.pop(name, None), list)]
    return kept | {fields.texts[0]: [text, *(one for texts in several for one in texts)]}


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data.decode("utf-8-sig"))
    if not isinstance(value, dict):
        raise ValueError(f"the JSON is {type(value).__name__}, expected an object")
    return value
