"""Rows of JSON Lines and CSV tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.journal import FailedItem

ROW_SUFFIXES = frozenset({".jsonl", ".ndjson", ".csv", ".tsv"})
IMAGE_FIELDS = ("file", "image")
TEXT_FIELDS = ("caption", "text")


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields that hold the image file and the text; None takes the first of the usual ones.

    Attributes:
        image: Default ``file``, else ``image``.
        text: Default ``caption``, else ``text``.
    """

    image: str | None = None
    text: str | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """Candidates for the image field, in order."""
        return IMAGE_FIELDS if self.image is None else (self.image,)

    @property
    def texts(self) -> tuple[str, ...]:
        """Candidates for the text field, in order."""
        return TEXT_FIELDS if self.text is None else (self.text,)


USUAL_FIELDS = Fields()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        origin: ``file:line``.
        file: Name of an image file as written.
        text: Text or caption.
        extra: All other fields.
    """

    origin: str
    file: str | None
    text: str | None
    extra: dict[str, Any] = field(default_factory=dict)


def read_rows(path: Path, fields: Fields) -> Iterator[Row | FailedItem]:
    """Read a table; a row that is damaged or has neither field becomes a `FailedItem`.

    Raises:
        SourceError: The file is missing, of another kind, not UTF-8, or a CSV without either column.
    """
    suffix = path.suffix.lower()
    if suffix not in ROW_SUFFIXES:
        raise SourceError(f"{path} is no table; give a file with one of the suffixes {' '.join(sorted(ROW_SUFFIXES))}")
    empty = True
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            records = _csv(stream, path, fields) if suffix in (".csv", ".tsv") else _jsonl(stream)
            for number, record in records:
                empty = False
                yield _row(f"{path}:{number}", record, fields)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read: {error}; give a UTF-8 file of JSON Lines or CSV") from error
    if empty:
        raise SourceError(f"{path} holds no rows")


def _jsonl(stream: Any) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield number, SourceError(f"not JSON: {error}")


def _csv(stream: Any, path: Path, fields: Fields) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(stream, dialect="excel-tab" if path.suffix.lower() == ".tsv" else "excel")
    known = (*fields.images, *fields.texts)
    if reader.fieldnames is not None and not set(known) & set(reader.fieldnames):
        raise SourceError(
            f"{path} has the columns {', '.join(reader.fieldnames)}, none of which is {' or '.join(known)}; "
            "name them with --image-field and --text-field"
        )
    for record in reader:
        if None in record:
            yield reader.line_num, SourceError("the row has more cells than the header; quote cells that hold commas")
        else:
            # An empty cell is a missing value, also in the payload.
            yield reader.line_num, {name: cell for name, cell in record.items() if cell not in ("", None)}


def _row(origin: str, record: Any, fields: Fields) -> Row | FailedItem:
    if isinstance(record, SourceError):
        return FailedItem.of(origin, record)
    if not isinstance(record, Mapping):
        return FailedItem.of(origin, SourceError(f"the row is {type(record).__name__}, expected an object with fields"))
    extra = dict(record)
    values: list[str | None] = []
    for names in (fields.images, fields.texts):
        name = next((name for name in names if extra.get(name) is not None), None)
        value = extra.pop(name) if name else None
        if value is not None and not isinstance(value, str):
            error = SourceError(f"field {name!r} is {type(value).__name__}, expected a string")
            return FailedItem.of(origin, error)
        values.append(value)
    file, text = values
    if not file and text is None:
        known = ", ".join((*fields.images, *fields.texts))
        return FailedItem.of(
            origin, SourceError(f"the row has none of the fields {known}; it has {', '.join(extra) or 'nothing'}")
        )
    return Row(origin, file or None, text, extra)
