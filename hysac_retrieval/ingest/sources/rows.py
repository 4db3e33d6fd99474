"""Rows of tables: how a record becomes a row, and rows become items."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from hysac_retrieval.errors import InputError, SourceError, TextError
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.ingest.sources.options import Fields, SourceOptions
from hysac_retrieval.payload import plain_fields

Check = Callable[[Iterable[str]], None]
"""Called with the columns of a table that names them; raises `SourceError` if none of them can be used."""

Rows = Generator["Row | FailedItem", None, None]
"""Rows as they are read; close it if it may not be read to its end."""

Records = Generator[tuple[str, Any], None, None]
"""Records as they are read, each with its origin; close it if it may not be read to its end."""


_LONGEST = 100_000  # bytes that are tried as text


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        origin: ``file:line``.
        file: Name of an image file as written; with `data`, only a name.
        texts: The text, or the captions, of which the first counts.
        extra: All other fields.
        data: An encoded image that the row itself holds.
        id: Its identity within the table, if a field gives one.
    """

    origin: str
    file: str | None
    texts: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    data: bytes | None = None
    id: str | None = None


def row_of(origin: str, record: Any, fields: Fields) -> Row | FailedItem:
    """Turn a record into a row: a mapping of fields, or the error that kept it from being read.

    Binary fields are texts, if they can be read as that. Others but the image are left out: no payload can hold them.
    """
    if isinstance(record, SourceError):
        return FailedItem.of(origin, record)
    if not isinstance(record, Mapping):
        return FailedItem.of(origin, SourceError(f"the row is {type(record).__name__}, expected an object with fields"))
    extra = dict(record)
    image_name, image = _take(extra, fields.images)
    text_name, text = _take(extra, fields.texts)
    identity = None if fields.id is None else record.get(fields.id)
    file, data = _image_of(image)
    texts = _texts_of(text)
    wrong = None
    if image is not None and file is None and data is None:
        wrong = f"field {image_name!r} is {type(image).__name__}, expected a string"
    elif texts is None:
        wrong = f"field {text_name!r} is {type(text).__name__}, expected a string or a list of strings"
    elif fields.id is not None and (isinstance(identity, bool) or not isinstance(identity, str | int)):
        wrong = f"field {fields.id!r} identifies rows; it is {identity!r}, expected a string or a whole number"
    elif not file and data is None and not texts:
        known = ", ".join((*fields.images, *fields.texts))
        wrong = f"the row has none of the fields {known}; it has {', '.join(map(str, extra)) or 'nothing'}"
    if wrong is not None:
        return FailedItem.of(origin, SourceError(wrong))
    extra = {name: _written(value) for name, value in extra.items()}
    extra = {name: value for name, value in extra.items() if _image_of(value)[1] is None}
    try:
        plain_fields(extra)
    except InputError as error:
        return FailedItem.of(origin, SourceError(error.message, hint=error.hint))
    return Row(origin, file or None, texts or (), extra, data, None if identity is None else str(identity))


def plain_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of a columnar table as values that Qdrant filters, without nulls and NaN.

    These are missing values, as empty cells are in CSV. Decimals become numbers, and durations numbers of seconds;
    dates and times are written in RFC 3339 when they are stored.
    """

    def missing(value: Any) -> bool:
        return value is None or (isinstance(value, float) and math.isnan(value))

    return {name: _filterable(value) for name, value in record.items() if not missing(value)}


def _filterable(value: Any) -> Any:
    if isinstance(value, Decimal):
        whole = value.is_finite() and value.as_tuple().exponent == 0
        return int(value) if whole else float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, list | tuple):
        return [_filterable(item) for item in value]
    if isinstance(value, dict):
        return {key: _filterable(item) for key, item in value.items()}
    return value


def require_column(what: str, columns: Iterable[str], fields: Fields) -> None:
    """Raise `SourceError` if a table has no column to index."""
    known, found = (*fields.images, *fields.texts), list(columns)
    if not {*known} & {*found}:
        lacking = f"{what} has the columns {', '.join(found)}, none of which is {' or '.join(known)}"
        raise SourceError(lacking, hint="Name them with --image-field and --text-field")


def text_items(row: Row, source: str, *, key: str | None = None) -> Iterator[Item | FailedItem]:
    """Yield the texts of a row as items. Without a key they are identified by their source and the texts themselves."""
    texts = [text for text in dict.fromkeys(row.texts) if text.strip()]
    if not texts:
        error = TextError("the text is empty", hint="Fill it in, or leave the row out")
        yield FailedItem.of(row.origin, error, source=source)
    for number, text in enumerate(texts):
        named = f"{source}#{text}" if key is None else f"{key}#{text}" if number else key
        yield Item(row.origin, named, source, "text", text, row.extra | {"text": text}, place=row.origin)


def image_item(
    content: Path | bytes, file: str | None, rows: Sequence[Row], source: str, key: str, *, place: str | None = None
) -> Item:
    """Return an image as an item, named `file` in its payload, with the rows that describe it.

    A file that is listed without rows has a `place`; for others, the origin of the first row tells them apart.
    """
    payload = {name: value for row in rows for name, value in row.extra.items()}
    if file:
        payload["file"] = file
    captions = tuple(dict.fromkeys(text for row in rows for text in row.texts if text.strip()))
    if captions:
        payload["caption"] = captions[0]
    if len(captions) > 1:
        payload["captions"] = list(captions)  # Qdrant filters a list as it does its members
    origin = rows[0].origin if place is None else str(content)
    return Item(origin, key, source, "image", content, payload, place or origin, captions)


def image_key(path: Path, file: str, options: SourceOptions) -> str:
    """Return the key of an image file: its path, or its name within the namespace."""
    return path.resolve().as_posix() if options.namespace is None else f"{options.namespace}/{file}"


def _take(record: dict[str, Any], names: Sequence[str]) -> tuple[str | None, Any]:
    """Remove the first of the fields that has a value, and those of them that have none."""
    name = next((name for name in names if record.get(name) is not None), None)
    for lacking in [name for name in names if record.get(name, "") is None]:
        del record[lacking]
    return name, (record.pop(name) if name else None)


def _texts_of(value: Any) -> tuple[str, ...] | None:
    """Return the texts of a field that holds one, several or none; None if it holds something else."""
    value = _written(value)
    if value is None or isinstance(value, str):
        return () if value is None else (value,)
    texts = tuple(text for text in value if text is not None) if isinstance(value, list | tuple) else (None,)
    return texts if all(isinstance(text, str) for text in texts) else None


def _image_of(value: Any) -> tuple[str | None, bytes | None]:
    """Return file name and bytes of an image field; Hugging Face keeps images as ``{"bytes": …, "path": …}``."""
    if isinstance(value, Mapping):
        file, data = value.get("path"), value.get("bytes")
        return (file if isinstance(file, str) else None), (data if isinstance(data, bytes) else None)
    value = _written(value)
    if isinstance(value, bytes):
        return None, value
    return (value if isinstance(value, str) else None), None


def _written(value: Any) -> Any:
    """Return a text in place of bytes that are one: older writers of Parquet know no texts. No encoded image is."""
    if isinstance(value, bytes) and len(value) <= _LONGEST:
        with suppress(UnicodeDecodeError):
            text = value.decode()
            return text if text.isprintable() and text else value
    return value
