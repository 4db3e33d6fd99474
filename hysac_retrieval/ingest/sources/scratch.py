"""Memory for millions of items: temporary databases that spill to disk.

SQLite keeps a database without a name in memory up to its cache and in a deleted file beyond; nothing is left behind.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hysac_retrieval.errors import SourceError
from hysac_retrieval.ingest.sources.names import folded, found_file
from hysac_retrieval.ingest.sources.rows import Row
from hysac_retrieval.payload import plain_fields

_CACHE = -64_000  # KiB


class _Scratch:
    """A temporary database; it must be closed (`contextlib.closing`)."""

    def __init__(self, *tables: str) -> None:
        # Used by one thread at a time, but not always the same one.
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        for statement in (f"PRAGMA cache_size={_CACHE}", "PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", *tables):
            self._db.execute(statement)

    def close(self) -> None:
        """Remove the database. Closing twice is no error."""
        self._db.close()


class Seen(_Scratch):
    """Ids that a run has met."""

    def __init__(self) -> None:
        super().__init__("CREATE TABLE seen (id BLOB PRIMARY KEY, place BLOB, times INT) WITHOUT ROWID")

    def add(self, identity: str, place: str) -> tuple[int, bool]:
        """Note a UUID and what it stands for; see `Item.place`.

        Returns:
            How often it has been met before, and whether it then stood for the same thing.
        """
        key, here = uuid.UUID(identity).bytes, hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=8)
        found = self._db.execute("SELECT place, times FROM seen WHERE id = ?", (key,)).fetchone()
        if found is None:
            self._db.execute("INSERT INTO seen VALUES (?, ?, 1)", (key, here.digest()))
            return 0, False
        same = found[0] == here.digest()
        if not same:
            self._db.execute("UPDATE seen SET times = times + 1 WHERE id = ?", (key,))
        return int(found[1]), same

    def __contains__(self, identity: Any) -> bool:
        try:
            key = uuid.UUID(identity).bytes
        except (ValueError, AttributeError, TypeError):  # ids of an application may be numbers
            return False
        return self._db.execute("SELECT 1 FROM seen WHERE id = ?", (key,)).fetchone() is not None


class Captions(_Scratch):
    """Rows of captions by the name of their image's file."""

    def __init__(self) -> None:
        super().__init__(
            "CREATE TABLE captions (file TEXT, folded TEXT, origin TEXT, described TEXT)",
            "CREATE INDEX by_name ON captions (folded)",
            "CREATE TABLE matched (file TEXT PRIMARY KEY) WITHOUT ROWID",
        )

    def add(self, file: str, row: Row) -> None:
        """Keep a row."""
        described = json.dumps([row.texts, plain_fields(row.extra)])
        self._db.execute("INSERT INTO captions VALUES (?, ?, ?, ?)", (file, folded(file), row.origin, described))

    def of(self, root: Path, *files: str) -> list[Row]:
        """Return the rows of the first of a file's names, within its root or whole, that has any."""
        query = "SELECT file, origin, described FROM captions WHERE folded = ? ORDER BY rowid"
        for file in files:
            found = self._db.execute(query, (folded(file),)).fetchall()
            same = {written for written in {row[0] for row in found} if _means(root, written, file)}
            self._db.executemany("INSERT OR IGNORE INTO matched VALUES (?)", [(written,) for written in same])
            rows = [(origin, *json.loads(described)) for written, origin, described in found if written in same]
            if rows:
                return [Row(origin, file, tuple(texts), extra) for origin, texts, extra in rows]
        return []

    def unmatched(self) -> Iterator[tuple[str, str]]:
        """Yield origin and file of the rows whose image was in no source."""
        query = "SELECT origin, file FROM captions WHERE file NOT IN (SELECT file FROM matched) ORDER BY rowid"
        yield from self._db.execute(query)


def _means(root: Path, written: str, file: str) -> bool:
    """Whether a name as written means a file."""
    try:
        return written == file or found_file(root, written) == root / file
    except SourceError:
        return False
