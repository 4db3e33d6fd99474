"""Types of the columns of CSV, which holds only text, so that numbers and truth values can be filtered as such.

A type is inferred from the whole column, by the rules of Apache Arrow, so that a table means the same as CSV and as
Parquet. Where these would lose something the column stays text: leading zeros (007), integers of more than 64 bits, and
among decimals integers of more than 53. Dates stay as they are written, which Qdrant reads if it is RFC 3339.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest.sources.delimited import Remark
from hysac_retrieval.ingest.sources.rows import Check, Records

_EXACT = 2**53  # below it, every integer is a float
_INTEGER = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_DECIMAL = re.compile(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TRUTH = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_MISSING = frozenset(
    {"NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "#N/A", "#NA"}
    | {"1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"}
)
"""Cells that mean nothing among numbers and truth values, as in Arrow."""


def _integer(cell: str) -> int | None:
    found = _INTEGER.fullmatch(cell)
    return int(cell) if found and len(cell) <= 20 and -(2**63) <= int(cell) < 2**63 else None


def _decimal(cell: str) -> float | None:
    if not _DECIMAL.fullmatch(cell):
        return None
    number = float(cell)
    lossy = not math.isfinite(number) or (abs(number) >= _EXACT and _INTEGER.fullmatch(cell))
    return None if lossy else number


_READERS: Mapping[str, Callable[[str], Any]] = {"int": _integer, "float": _decimal, "bool": _TRUTH.get}
"""How a cell is read; None if it is none. In the order in which types are preferred."""

_NAMES = {
    **{name: "int" for name in ("int", "integer", "int32", "int64", "long")},
    **{name: "float" for name in ("float", "double", "float32", "float64", "decimal")},
    **{name: "bool" for name in ("bool", "boolean")},
    **{name: "string" for name in ("string", "str", "text", "utf8")},
}


def checked_types(types: Mapping[str, str]) -> dict[str, str]:
    """Return types of columns by the names that are used here; raises `SettingsError` for an unknown one."""
    for column, name in types.items():
        if name not in _NAMES:
            what = f"column {column!r} cannot be {name!r}"
            raise SettingsError(what, hint="Types are string, int, float and bool")
    return {column: _NAMES[name] for column, name in types.items()}


class Typed:
    """Records of CSV with typed values; the types are inferred once, before they are first read.

    Args:
        records: Reads them as text; see `TableSource.records`.
        texts: Columns that stay text: names of files, texts, and what identifies rows.
        types: Types of columns that are not to be inferred.
        remark: Told of types for columns that are not there.
    """

    def __init__(
        self, records: Callable[[Check], Records], texts: Collection[str], types: Mapping[str, str], remark: Remark
    ) -> None:
        self._records, self._remark = records, remark
        self._given = dict.fromkeys(texts, "string") | checked_types(types)
        self._named = list(types)
        self._types: dict[str, str] | None = None

    def __call__(self, check: Check) -> Records:
        """See `TableSource.records`."""
        if self._types is None:
            columns: list[str] = []

            def checked(names: Iterable[str]) -> None:
                columns.extend(names)
                check(columns)

            with closing(self._records(checked)) as records:
                self._types = infer(_readable(records), self._given)
            if lost := [name for name in self._named if name not in columns]:
                self._remark(f"types are given for columns that are not there: {', '.join(map(repr, lost))}")
        with closing(self._records(check)) as records:
            for origin, record in records:
                yield origin, typed(record, self._types) if isinstance(record, Mapping) else record


def _readable(records: Records) -> Iterator[Mapping[str, str]]:
    """Yield records as far as they can be read; where not, that is an error when they are read for their rows."""
    with suppress(SourceError):
        for _, record in records:
            if isinstance(record, Mapping):
                yield record


def infer(records: Iterable[Mapping[str, str]], given: Mapping[str, str]) -> dict[str, str]:
    """Return the types of columns: those that are given, else the first that all cells can be read as.

    A column of which nothing is known but missing values is ``missing``.
    """
    possible: dict[str, list[str]] = {}
    settled = dict(given)
    for record in records:
        for name, cell in record.items():
            if name in settled or cell in _MISSING:
                continue
            left = possible[name] = [kind for kind in possible.get(name, _READERS) if _read(kind, cell) is not None]
            if not left:
                settled[name] = "string"
    return {name: kinds[0] for name, kinds in possible.items() if kinds} | settled


def typed(record: Mapping[str, str], types: Mapping[str, str]) -> dict[str, Any] | SourceError:
    """Return a record with typed values, without those that are missing; an error where a cell is not of its type."""
    values: dict[str, Any] = {}
    for name, cell in record.items():
        kind = types.get(name, "missing")
        if kind == "string":
            values[name] = cell
        elif cell not in _MISSING:
            value = _read(kind, cell)
            if value is None:
                hint = f"Correct it, or give --types {name}=string"
                return SourceError(f"field {name!r} is {cell[:80]!r}, expected {kind}", hint=hint)
            values[name] = value
    return values


def _read(kind: str, cell: str) -> Any:
    return _READERS[kind](cell.strip())
