"""Rows of tables: how JSON Lines and CSV are read, and how a record of any table becomes a row."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.items import FailedItem
from hysac_retrieval.ingest.sources.options import Fields

ROW_SUFFIXES = frozenset({".jsonl", ".ndjson", ".csv", ".tsv"})

Check = Callable[[Iterable[str]], None]
"""Called with the columns of a table that names them; raises `SourceError` if none of them can be used."""

Records = Generator[tuple[str, Any], None, None]
"""Records as they are read, each with its origin; close it if it may not be read to its end."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        origin: ``file:line``.
        file: Name of an image file as written; with `data`, only a name.
        text: Text or caption.
        extra: All other fields.
        data: An encoded image that the row itself holds.
        id: Its identity within the table, if a field gives one.
    """

    origin: str
    file: str | None
    text: str | None
    extra: dict[str, Any] = field(default_factory=dict)
    data: bytes | None = None
    id: str | None = None


def read_records(path: Path, check: Check | None = None) -> Records:
    """Read a JSON Lines or CSV file record by record, each with its origin: ``file:line``.

    A record is the content of a line, usually a mapping of fields; one that is damaged is a `SourceError`.

    Raises:
        SourceError: The file is missing, of another kind, or not UTF-8; or what `check` raises.
    """
    suffix = path.suffix.lower()
    if suffix not in ROW_SUFFIXES:
        known = " ".join(sorted(ROW_SUFFIXES))
        raise SourceError(f"{path} is no table", hint=f"Give a file with one of the suffixes {known}")
    empty = True
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            records = _csv(stream, path, check) if suffix in (".csv", ".tsv") else _jsonl(stream)
            for number, record in records:
                empty = False
                yield f"{path}:{number}", record
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read: {error}", hint="Give a UTF-8 file of JSON Lines or CSV") from error
    if empty:
        raise SourceError(f"{path} holds no rows")


def row_of(origin: str, record: Any, fields: Fields) -> Row | FailedItem:
    """Turn a record into a row: a mapping of fields, or the error that kept it from being read.

    Binary fields other than the image are left out: no payload can hold them.
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
    wrong = None
    if image is not None and file is None and data is None:
        wrong = f"field {image_name!r} is {type(image).__name__}, expected a string"
    elif text is not None and not isinstance(text, str):
        wrong = f"field {text_name!r} is {type(text).__name__}, expected a string"
    elif fields.id is not None and (isinstance(identity, bool) or not isinstance(identity, str | int)):
        wrong = f"field {fields.id!r} identifies rows; it is {identity!r}, expected a string or a whole number"
    elif not file and data is None and text is None:
        known = ", ".join((*fields.images, *fields.texts))
        wrong = f"the row has none of the fields {known}; it has {', '.join(map(str, extra)) or 'nothing'}"
    if wrong is not None:
        return FailedItem.of(origin, SourceError(wrong))
    extra = {name: value for name, value in extra.items() if not _binary(value)}
    return Row(origin, file or None, text, extra, data, None if identity is None else str(identity))


def plain_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of a columnar table without nulls and NaN: missing values, as empty cells are in CSV."""
    return {name: value for name, value in record.items() if not _missing(value)}


def require_column(what: str, columns: Iterable[str], fields: Fields) -> None:
    """Check that a table has a column to index.

    Raises:
        SourceError: It has none.
    """
    known: Sequence[str] = (*fields.images, *fields.texts)
    found = list(columns)
    if not set(known) & set(found):
        raise SourceError(
            f"{what} has the columns {', '.join(found)}, none of which is {' or '.join(known)}",
            hint="Name them with --image-field and --text-field",
        )


def count_lines(path: Path) -> int:
    """Return the number of lines of a file, blank ones included."""
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _jsonl(stream: Any) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield number, SourceError(f"not JSON: {error}")


def _csv(stream: Any, path: Path, check: Check | None) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)  # the default ends a table at a text of 128 kB
    reader = csv.DictReader(stream, dialect="excel-tab" if path.suffix.lower() == ".tsv" else "excel")
    if check and reader.fieldnames is not None:
        check(reader.fieldnames)
    for record in reader:
        if None in record:
            yield (
                reader.line_num,
                SourceError("the row has more cells than the header", hint="Quote cells that hold commas"),
            )
        else:
            # An empty cell is a missing value, also in the payload.
            yield reader.line_num, {name: cell for name, cell in record.items() if cell not in ("", None)}


def _take(record: dict[str, Any], names: Sequence[str]) -> tuple[str | None, Any]:
    """Remove the first of the fields that has a value."""
    name = next((name for name in names if record.get(name) is not None), None)
    return name, (record.pop(name) if name else None)


def _image_of(value: Any) -> tuple[str | None, bytes | None]:
    """Return file name and bytes of an image field; Hugging Face keeps images as ``{"bytes": …, "path": …}``."""
    if isinstance(value, Mapping):
        file, data = value.get("path"), value.get("bytes")
        return (file if isinstance(file, str) else None), (data if isinstance(data, bytes) else None)
    if isinstance(value, bytes):
        return None, value
    return (value if isinstance(value, str) else None), None


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _binary(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes))
