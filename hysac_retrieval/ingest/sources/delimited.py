"""CSV and TSV, read so that a damaged row harms no other.

A stray quote opens a field that swallows all lines up to the next quote, or to the end of the file. So a row that spans
lines must be quoted by the letter; where it is not, its first line alone is damaged, and reading goes on with the next.
Rows that span lines in good order are said.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any

from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.sources.rows import Check
from hysac_retrieval.payload import is_utf8

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|"}
"""What may stand between cells, by the suffix of the file: the first by which the header has a column to index."""

_LISTED = 5  # rows that span lines
_AGAIN = 1_000_000  # lines that are read a second time, in all
_ENDS = ("\n", "\r")
_STRAY = "Close the quote, or double it where it belongs to the text"

Remark = Callable[[str], None]
"""Called with something that a table's owner should look at, although it can be read."""


def delimited_rows(stream: IO[str], delimiters: str, check: Check, remark: Remark) -> Iterator[tuple[int, Any]]:
    """Read the rows below the header, each with the number of its first line; see `table_records` for their form."""
    csv.field_size_limit(2**31 - 1)  # the default ends a table at a text of 128 kB
    lines = _Lines(stream)
    dialect = _dialect(lines, delimiters, check)
    names: list[str] | None = None
    spans: list[str] = []
    spanning = 0
    for number, cells in _rows(lines, dialect):
        if names is None:
            if isinstance(cells, SourceError) or not all(map(is_utf8, cells)):
                raise SourceError(f"the header (line {number}) cannot be read", hint="Give UTF-8, quotes in pairs")
            names = cells
            check(names)
            continue
        yield number, _record(names, cells)
        if lines.number > number and not isinstance(cells, SourceError):
            spanning += 1
            spans += [f"{number} to {lines.number}"] if spanning <= _LISTED else []
    if spanning:
        more = f" and {spanning - _LISTED} more" if spanning > _LISTED else ""
        what = "a field spans lines" if spanning == 1 else f"fields of {spanning} rows span lines"
        remark(f"{what}: {', '.join(spans)}{more}; if that is not meant, a quote is missing or too many there")


def _record(names: list[str], cells: list[str] | SourceError) -> dict[str, str] | SourceError:
    if isinstance(cells, SourceError):
        return cells
    if len(cells) > len(names):
        return SourceError("the row has more cells than the header", hint="Quote cells that hold commas")
    # An empty cell is a missing value, also in the payload.
    record = {name: cell for name, cell in zip(names, cells, strict=False) if cell != ""}
    wrong = next((name for name, cell in record.items() if not cell.isascii() and not is_utf8(cell)), None)
    return record if wrong is None else SourceError(f"field {wrong!r} is not UTF-8", hint="Convert the file to UTF-8")


def _dialect(lines: _Lines, delimiters: str, check: Check) -> type[csv.Dialect]:
    """Return how the cells of a table are divided; the first where its first line shows nothing."""
    line = next(lines, "")
    lines.give_back(all_of_it=True)
    for delimiter in delimiters if line else ():
        with suppress(SourceError, csv.Error):
            check(next(csv.reader([line], delimiter=delimiter), []))
            return _divided(delimiter)
    return _divided(delimiters[0])


def _divided(by: str) -> type[csv.Dialect]:
    return type("Dialect", (csv.excel,), {"delimiter": by})


class _Lines:
    """Lines of a stream with the number of the last one; those of a record can be given back."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._back = stream, deque[str]()
        self.number, self.of_record = 0, list[str]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._stream)
        self.number += 1
        self.of_record.append(line)
        return line

    def give_back(self, *, all_of_it: bool = False) -> int:
        """Give back all lines of the record, or all but the first; returns how many."""
        again = self.of_record[0 if all_of_it else 1 :]
        self._back.extendleft(reversed(again))
        self.number -= len(again)
        return len(again)


def _rows(lines: _Lines, dialect: type[csv.Dialect]) -> Iterator[tuple[int, list[str] | SourceError]]:
    reader, again = csv.reader(lines, dialect), 0
    while True:
        lines.of_record.clear()
        first = lines.number + 1
        cells = next(reader, None)
        if cells is None:
            return
        # One line that ends as a line does, outside of a quoted field, has swallowed nothing.
        raw, last = lines.of_record, cells[-1] if cells else ""
        plain = len(raw) == 1 and raw[0].endswith(_ENDS) and not last.endswith(_ENDS)
        wrong = "" if plain else _damage(raw, dialect)
        if wrong:
            again += lines.give_back()
            if again > _AGAIN:
                raise SourceError(f"there are too many stray quotes (after line {first})", hint=_STRAY)
            yield first, SourceError(f"a quote that opens in this line is not closed: {wrong}", hint=_STRAY)
        elif cells:
            yield first, cells


def _damage(raw: list[str], dialect: type[csv.Dialect]) -> str:
    """Return what is wrong with the quotes of a record that may have swallowed others; empty for nothing."""
    try:
        next(csv.reader(raw, dialect, strict=True), None)
    except csv.Error as error:
        return str(error)
    return ""
