"""Tables as sources: JSON Lines, CSV and Parquet; and how a row becomes an item."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from hysac_retrieval.errors import MissingExtraError, SourceError, TextError
from hysac_retrieval.ingest.items import FailedItem, Item, Items
from hysac_retrieval.ingest.sources.options import Fields, SourceOptions
from hysac_retrieval.ingest.sources.rows import (
    Check,
    Records,
    Row,
    count_lines,
    plain_record,
    read_records,
    require_column,
    row_of,
)

PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
_ROWS_AT_ONCE = 64  # of a Parquet table, whose rows may hold images
_BUFFER = 1 << 20

Rows = Generator[Row | FailedItem, None, None]
"""Rows as they are read; close it if it may not be read to its end."""


class TableSource:
    """A table whose rows name or hold an image, a text, or both (the text is then its caption).

    Rows of one image stand together; they become one item with several captions.

    Args:
        name: Name for people.
        folder: Folder that file names are relative to.
        base: Beginning of the rows' ids; the namespace takes its place.
        read: Reads the rows.
        count: Counts them; returns None if that is not known beforehand.
        options: How sources are read.
    """

    whole = True

    def __init__(
        self,
        name: str,
        folder: Path,
        base: str,
        read: Callable[[], Rows],
        count: Callable[[], int | None],
        options: SourceOptions,
    ) -> None:
        self.name = name
        self.source = options.namespace or base
        self.count = count
        self._folder = folder
        self._rows_base = base if options.namespace is None else f"{options.namespace}/{Path(base).name}"
        self._read = read
        self._options = options

    def __iter__(self) -> Items:
        with closing(self._read()) as all_rows:
            for (_, file), rows in groupby(enumerate(all_rows), key=_group):
                if file is None:
                    for number, row in rows:
                        yield self._item(number, row)
                else:
                    together = [row for _, row in rows if isinstance(row, Row)]
                    yield image_item(self._folder, file, together, self._options, self.source)

    def _item(self, number: int, row: Row | FailedItem) -> Item | FailedItem:
        if isinstance(row, FailedItem):
            return replace(row, source=self.source)
        identity = f"{self._rows_base}#{number if row.id is None else row.id}"
        if row.data is not None:
            return embedded_item(row, identity, self.source)
        if row.file is not None:
            return image_item(self._folder, normal(row.file), [row], self._options, self.source, key=identity)
        return text_item(row, self.source, key=None if row.id is None else identity)


def table(path: Path, options: SourceOptions) -> TableSource:
    """Return a file of JSON Lines, CSV or Parquet as a source."""

    def read() -> Rows:
        return read_table(path, options.fields)

    def count() -> int:
        if path.suffix.lower() not in PARQUET_SUFFIXES:
            return count_lines(path)
        with _parquet(path) as file:
            return int(file.metadata.num_rows)

    return TableSource(str(path), path.parent, path.resolve().as_posix(), read, count, options)


def read_table(path: Path, fields: Fields) -> Rows:
    """Read the rows of any table, a few at a time.

    Raises:
        SourceError: The table cannot be read, or has no column to index.
        MissingExtraError: It is a Parquet table and pyarrow is not installed.
    """
    with closing(table_records(path, lambda columns: require_column(str(path), columns, fields))) as records:
        for origin, record in records:
            yield row_of(origin, record, fields)


def table_records(path: Path, check: Check | None = None) -> Records:
    """Read the records of any table, a few at a time; see `rows.read_records`.

    Raises:
        SourceError: The table cannot be read; or what `check` raises.
        MissingExtraError: It is a Parquet table and pyarrow is not installed.
    """
    if path.suffix.lower() not in PARQUET_SUFFIXES:
        yield from read_records(path, check)
        return
    number = 0
    with _parquet(path) as file:
        from pyarrow import ArrowException

        if check:
            check(file.schema_arrow.names)
        if file.metadata.num_rows == 0:
            raise SourceError(f"{path} holds no rows")
        try:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", plain_record(record)
        except (OSError, ArrowException) as error:
            raise SourceError(
                f"{path} is damaged after row {number}: {error}", hint="Copy or download it again"
            ) from error


def text_item(row: Row, source: str, *, key: str | None = None) -> Item | FailedItem:
    """Return a row of text as an item. Without a key it is identified by its source and the text itself."""
    if row.text is None or not row.text.strip():
        error = TextError("the text is empty", hint="Fill it in, or leave the row out")
        return FailedItem.of(row.origin, error, source=source)
    payload = row.extra | {"text": row.text}
    return Item(row.origin, key or f"{source}#{row.text}", source, "text", row.text, payload, place=row.origin)


def image_item(
    root: Path,
    file: str,
    rows: Sequence[Row],
    options: SourceOptions,
    source: str,
    *,
    key: str | None = None,
    origin: str | None = None,
    place: str | None = None,
) -> Item:
    """Return an image file, with the rows that describe it, as an item. Without a key its path identifies it."""
    path = root / file  # an absolute file stays what it is
    origin = origin or rows[0].origin
    key = key or (path.resolve().as_posix() if options.namespace is None else f"{options.namespace}/{file}")
    payload, captions = _described(rows, file)
    return Item(origin, key, source, "image", path, payload, place or origin, captions)


def embedded_item(row: Row, key: str, source: str) -> Item:
    """Return an image that its row holds as an item."""
    payload, captions = _described([row], row.file)
    return Item(row.origin, key, source, "image", row.data or b"", payload, row.origin, captions)


def normal(file: str) -> str:
    """Return a file name as payloads have it: with forward slashes and without ``./``."""
    return Path(file.replace("\\", "/")).as_posix()


def _described(rows: Sequence[Row], file: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return payload and captions of an image."""
    payload = {name: value for row in rows for name, value in row.extra.items()}
    if file:
        payload["file"] = file
    captions = tuple(dict.fromkeys(row.text for row in rows if row.text))
    if captions:
        # Qdrant filters a list as it does its members, so one name serves both.
        payload["caption"] = captions[0] if len(captions) == 1 else list(captions)
    return payload, captions


def _group(numbered: tuple[int, Row | FailedItem]) -> tuple[int, str | None]:
    """Return a group that rows of one image file share, and that every other row has alone."""
    number, row = numbered
    if isinstance(row, Row) and row.file is not None and row.data is None and row.id is None:
        return -1, normal(row.file)
    return number, None


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables", f"reading {path}") from error
    try:
        # By default whole row groups are read, which may be the whole table; so it is a piece of a column at a time.
        return ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER)
    except (OSError, ArrowException) as error:
        raise SourceError(f"{path} is no Parquet table: {error}", hint="Copy or download it again") from error
