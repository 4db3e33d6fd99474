"""Tables as sources: JSON Lines, CSV and Parquet; and any source that consists of records."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any, TypeAlias

from hysac_retrieval.errors import MissingExtraError, SourceError
from hysac_retrieval.ingest.items import FailedItem, Item, Items
from hysac_retrieval.ingest.sources.delimited import DELIMITERS, Remark, delimited_rows
from hysac_retrieval.ingest.sources.names import found_file, normal
from hysac_retrieval.ingest.sources.options import SourceOptions
from hysac_retrieval.ingest.sources.rows import (
    Check,
    Records,
    Row,
    Rows,
    image_item,
    image_key,
    plain_record,
    require_column,
    row_of,
    text_items,
)
from hysac_retrieval.ingest.sources.typed import Typed
from hysac_retrieval.payload import is_utf8

ROW_SUFFIXES = frozenset({".jsonl", ".ndjson", *DELIMITERS})
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
_ROWS_AT_ONCE = 64  # of a Parquet table, whose rows may hold images
_BUFFER = 1 << 20

UTF8 = "utf-8-sig"
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as that of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NO_VALUE = (ValueError, ArithmeticError, LookupError, TypeError, RecursionError)

_Placed: TypeAlias = tuple[int, Row | FailedItem, Path | None]


@dataclass(frozen=True)
class TableSource:
    """Records that name or hold an image, a text, or both (the text is then its caption).

    Rows of one image file stand together; they become one item with several captions.

    Attributes:
        name: Name for people.
        folder: Folder that file names are relative to.
        base: Beginning of the rows' ids; the namespace takes its place.
        options: How sources are read.
        records: Reads the records.
        count: Counts them; returns None if that takes too long.
        named: Whether the origins end with names, which then identify texts and images within the table.
        remarks: What its owner should look at, known once it has been read to its end.
    """

    name: str
    folder: Path
    base: str
    options: SourceOptions
    records: Callable[[Check], Records]
    count: Callable[[], int | None]
    named: bool = False
    remarks: list[str] = field(default_factory=list, compare=False)
    whole = True

    @property
    def source(self) -> str:
        """See `NamedSource.source`."""
        return self.options.namespace or self.base

    def rows(self) -> Rows:
        """Read the rows; raises `SourceError` if that cannot be done (any further) or there is no column to index."""
        fields = self.options.fields
        with closing(self.records(lambda columns: require_column(self.name, columns, fields))) as records:
            for origin, record in records:
                row = row_of(origin, record, fields)
                yield replace(row, source=self.source) if isinstance(row, FailedItem) else row

    def __iter__(self) -> Items:
        with closing(self.rows()) as all_rows:
            placed = (self._placed(number, row) for number, row in enumerate(all_rows))
            for (_, path), numbered in groupby(placed, key=_group):
                if path is None:
                    for number, row, file in numbered:
                        if isinstance(row, FailedItem):
                            yield row
                        else:
                            yield from self._items(number, row, file)
                else:
                    rows = [row for _, row, _ in numbered if isinstance(row, Row)]
                    name = self._named(path, rows[0])
                    yield image_item(path, name, rows, self.source, image_key(path, name, self.options))

    def _placed(self, number: int, row: Row | FailedItem) -> _Placed:
        """Return a row with its number and the image file that it names, if it names one."""
        if isinstance(row, FailedItem) or row.file is None or row.data is not None:
            return number, row, None
        try:
            return number, row, found_file(self.folder, row.file)
        except SourceError as error:
            return number, FailedItem.of(row.origin, error, source=self.source), None

    def _named(self, path: Path, row: Row) -> str:
        """Name of an image file for payloads: as the row has it or, where that is spelled otherwise, as it is."""
        written = normal(row.file or "")
        if self.folder / written == path or not path.is_relative_to(self.folder):
            return written if self.folder / written == path else path.as_posix()
        return path.relative_to(self.folder).as_posix()

    def _items(self, number: int, row: Row, path: Path | None) -> Iterator[Item | FailedItem]:
        name = row.origin.removeprefix(f"{self.name}:") if row.id is None and self.named else row.id
        namespace = self.options.namespace
        base = self.base if namespace is None else f"{namespace}/{Path(self.base).name}"
        key = f"{base}#{number if name is None else name}"
        if row.data is not None:
            yield image_item(row.data, row.file, [row], self.source, key)
        elif path is not None:
            yield image_item(path, self._named(path, row), [row], self.source, key)
        else:
            yield from text_items(row, self.source, key=None if name is None else key)


def table(path: Path, options: SourceOptions) -> TableSource:
    """Return a file of JSON Lines, CSV or Parquet as a source."""

    def count() -> int:
        if path.suffix.lower() not in PARQUET_SUFFIXES:
            return count_lines(path)
        with _parquet(path) as file:
            return int(file.metadata.num_rows)

    remarks: list[str] = []
    records: Callable[[Check], Records] = partial(table_records, path, remark=remarks.append)
    if path.suffix.lower() in DELIMITERS:
        fields = options.fields
        texts = {*fields.images, *fields.texts, *filter(None, [fields.id])}
        records = Typed(records, texts, options.types, remarks.append)
    base = path.resolve().as_posix()
    return TableSource(str(path), path.parent, base, options, records, count, remarks=remarks)


def table_records(path: Path, check: Check, remark: Remark = lambda _: None) -> Records:
    """Read the records of a table, a few at a time, each with its origin: ``file:line``.

    A record is the content of a row, usually a mapping of fields; one that is damaged is a `SourceError`.

    Raises:
        SourceError: The file cannot be read (any further), is of another kind, or has no rows; or what `check` raises.
        MissingExtraError: It is a Parquet table and pyarrow is not installed.
    """
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        yield from _parquet_records(path, check)
        return
    if suffix not in ROW_SUFFIXES:
        known = " ".join(sorted(ROW_SUFFIXES | PARQUET_SUFFIXES))
        raise SourceError(f"{path} is no table", hint=f"Give a file with one of the suffixes {known}")
    empty = True
    try:
        encoding = encoding_of(path)
        # Further down, what is not UTF-8 is found in its row, and harms no other.
        errors = "surrogateescape" if encoding == UTF8 else "strict"
        with path.open(encoding=encoding, errors=errors, newline="") as stream:
            delimiters = DELIMITERS.get(suffix)
            rows = delimited_rows(stream, delimiters, check, remark) if delimiters else _jsonl(stream)
            for number, record in rows:
                empty = False
                yield f"{path}:{number}", record
    except (OSError, UnicodeError, csv.Error) as error:
        hint = "Give JSON Lines or CSV in UTF-8; iconv, or a spreadsheet that saves as UTF-8, converts it"
        raise SourceError(f"{path} cannot be read: {error}", hint=hint) from error
    if empty:
        raise SourceError(f"{path} holds no rows")


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file: UTF-8, or what its byte order mark says.

    Raises:
        OSError: It cannot be read.
        UnicodeError: It is neither, as far as its first line shows.
    """
    with path.open("rb") as binary:
        line = binary.readline(_BUFFER)
    if marked := next((name for mark, name in _MARKS if line.startswith(mark)), None):
        return marked
    line.decode("utf-8")
    if b"\0" in line:
        raise UnicodeError("it looks like UTF-16 without a byte order mark")
    return UTF8


def count_lines(path: Path) -> int:
    """Return the number of lines of a file, blank ones included."""
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _jsonl(stream: IO[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(stream, start=1):
        if not line.isascii() and not is_utf8(line):
            yield number, SourceError("the line is not UTF-8", hint="Convert the file to UTF-8")
        elif line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:  # also of a number of thousands of digits
                yield number, SourceError(f"not JSON: {error}")


def _parquet_records(path: Path, check: Check) -> Records:
    number = 0
    with _parquet(path) as file:
        from pyarrow import ArrowException

        check(file.schema_arrow.names)
        if file.metadata.num_rows == 0:
            raise SourceError(f"{path} holds no rows")
        try:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for record in batch_records(batch):
                    number += 1
                    yield f"{path}:{number}", record
        except (OSError, ArrowException) as error:
            what = f"{path} is damaged after row {number}: {error}"
            raise SourceError(what, hint="Copy or download it again") from error


def batch_records(batch: Any) -> list[Any]:
    """Return the rows of a batch or table of Arrow; of one with a value that Python has not, an error that names it.

    Such a value is a date after 9999.
    """
    try:
        return [plain_record(record) for record in batch.to_pylist()]
    except _NO_VALUE:
        return [_batch_record(batch, row) for row in range(batch.num_rows)]


def _batch_record(batch: Any, row: int) -> dict[str, Any] | SourceError:
    record = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            record[name] = column[row].as_py()
        except _NO_VALUE as error:
            return SourceError(f"field {name!r} cannot be read: {error}", hint="Mend the value, or leave the row out")
    return plain_record(record)


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


def _group(placed: _Placed) -> tuple[int, Path | None]:
    """Return a group that rows of one image file share, and that every other row has alone."""
    number, row, path = placed
    if path is not None and isinstance(row, Row) and row.id is None:
        return -1, path
    return number, None
