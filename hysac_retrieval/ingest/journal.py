"""A journal of failures, cut texts and batches that were left half-way, of a run and across runs."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from hysac_retrieval.errors import InputError, RequestTooLargeError, SourceError
from hysac_retrieval.ingest.items import FailedItem, Item
from hysac_retrieval.types import PointId

LISTED = 1000
"""Failures and cut texts that a report lists; all of them are counted, and are in the file."""

JOURNAL_NAME = "journal.jsonl"
"""File beside a collection of the embedded engine."""

_CHOOSE = "Choose another file"
_START = '{"event"'
_FAILED, _TRUNCATED, _MENDED = "failed", "truncated", "mended"
_WRITING, _REMOVING = "writing", "removing"


@dataclass
class Journal:
    """Failures and cut texts, written as they happen and kept until they are mended.

    So are, if `batches` is set, the ids of a batch while it is written or removed: where that fails or the run is
    killed, some copies on a cluster may have what others lack, and the next run does it again.

    The file holds one JSON object per line, of which the last about an item counts; a run that ends in good order
    leaves one line per item. Use it as a context manager; several threads may write.

    Args:
        path: The file, read at once; made with the first entry. None keeps nothing. The other fields are those of
            `IndexReport`, for this run.

    Raises:
        SourceError: The file cannot be read or written, or is no journal.
    """

    path: str | os.PathLike[str] | None = None
    failed: list[FailedItem] = field(default_factory=list)
    failures: int = 0
    truncated: list[str] = field(default_factory=list)
    cut: int = 0
    batches: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: IO[str] | None = None
        self._file = None if self.path is None else Path(self.path)
        self._entries = {} if self._file is None else read_journal(self._file)
        self._new: set[str] = set()

    @property
    def noted(self) -> frozenset[str]:
        """Ids of the items that have an entry."""
        return frozenset(self._entries) | self.unsettled

    @property
    def earlier(self) -> frozenset[str]:
        """Ids of the items that failed when they were last tried."""
        return frozenset(key for key, entry in self._entries.items() if entry["event"] == _FAILED)

    @property
    def unsettled(self) -> frozenset[str]:
        """Ids of points that a run before this one may have left half-written."""
        return self._left(_WRITING)

    @property
    def unremoved(self) -> frozenset[str]:
        """Ids of points that a run before this one may have left half-removed."""
        return self._left(_REMOVING)

    def _left(self, event: str) -> frozenset[str]:
        entries = [entry for key, entry in self._entries.items() if key not in self._new]
        return frozenset(one for entry in entries if entry["event"] == event for one in entry.get("ids", ()))

    @contextmanager
    def writing(self, ids: Sequence[PointId], *, removing: bool = False) -> Iterator[None]:
        """Remember points until they are written, or removed."""
        if not self.batches:
            yield
            return
        batch = {"id": f"batch {uuid.uuid4().hex}", "ids": [str(one) for one in ids]}
        with self._lock:
            self._write({"event": _REMOVING if removing else _WRITING, **batch})
        try:
            yield
        except (InputError, RequestTooLargeError):  # which the points are then tried without, one by one
            self._settled(batch["id"])
            raise
        self._settled(batch["id"])

    def _settled(self, batch: Any) -> None:
        with self._lock:
            self._write({"event": _MENDED, "id": batch})

    def removed(self) -> None:
        """Note that what was left half-removed has been removed."""
        with self._lock:
            for key in [key for key, entry in self._entries.items() if entry["event"] == _REMOVING]:
                self._write({"event": _MENDED, "id": key})

    def failure(self, key: str) -> FailedItem | None:
        """Return what an earlier run noted about an item that failed; None if it did not, or is mended."""
        entry = self._entries.get(key, {})
        if entry.get("event") != _FAILED:
            return None
        return FailedItem(**{name: str(entry.get(name, "")) for name in ("item", "error", "kind", "source", "id")})

    def fail(self, failure: FailedItem) -> None:
        """Note an item that could not be indexed."""
        with self._lock:
            self.failures += 1
            if len(self.failed) < LISTED:
                self.failed.append(failure)
            self._write({"event": _FAILED, **asdict(failure)})

    def truncate(self, item: Item, tokens: int, limit: int) -> None:
        """Note a text that is longer than the model reads."""
        with self._lock:
            self.cut += 1
            if len(self.truncated) < LISTED:
                self.truncated.append(item.origin)
            found = {"item": item.origin, "source": item.source, "id": item.id, "tokens": tokens, "limit": limit}
            self._write({"event": _TRUNCATED, **found})

    def indexed(self, ids: Iterable[str]) -> None:
        """Note items that were indexed: their entries of earlier runs no longer hold."""
        with self._lock:
            for key in ids:
                if key in self._entries and key not in self._new:
                    self._write({"event": _MENDED, "id": key})

    def unchanged(self, ids: Collection[str]) -> None:
        """Note items that are stored as they are: they do not fail."""
        self.indexed(key for key in ids if self._entries.get(key, {}).get("event") == _FAILED)

    def settle(self, sources: Collection[str], seen: Container[str]) -> None:
        """Forget, after sources were listed to their end, the earlier entries of items that were not seen in them."""
        with self._lock:
            for key, entry in list(self._entries.items()):
                if key in self._new:
                    continue
                if entry["event"] == _WRITING:
                    entry["ids"] = [one for one in entry.get("ids", ()) if one not in seen]
                    if not entry["ids"]:
                        del self._entries[key]
                elif entry.get("source") in sources and key not in seen:
                    del self._entries[key]

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            if self._stream is None:
                self._tidy()
                self._stream = self._file.open("a", encoding="utf-8")
            self._stream.write(json.dumps(entry, ensure_ascii=True) + "\n")
            self._stream.flush()  # a run that is killed leaves its journal
        except OSError as error:
            raise SourceError(f"the journal {self._file} cannot be written: {error}", hint=_CHOOSE) from error
        if entry["event"] == _MENDED:
            self._entries.pop(entry["id"], None)
        else:
            self._entries[entry["id"]] = entry
            self._new.add(entry["id"])

    def __enter__(self) -> Self:
        if self._file is not None and not os.access(self._file if self._file.exists() else self._file.parent, os.W_OK):
            raise SourceError(f"the journal {self._file} cannot be written", hint=_CHOOSE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        self._tidy()

    def _tidy(self) -> None:
        """Leave one line per item in place of all that happened; the file is replaced whole or not at all."""
        if self._file is not None and self._file.exists():
            fresh = self._file.with_name(self._file.name + ".new")
            fresh.write_text("".join(json.dumps(entry) + "\n" for entry in self._entries.values()), encoding="utf-8")
            fresh.replace(self._file)


def read_journal(path: Path) -> dict[str, dict[str, Any]]:
    """Return the last entry about each item that is not mended, by id; raises `SourceError` for another file."""
    entries: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"the journal {path} cannot be read: {error}", hint=_CHOOSE) from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            key, event = entry["id"], entry["event"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) and _START.startswith(line[: len(_START)]):
                break  # a run that was killed may have written half of its last line
            raise SourceError(f"{path} is no journal of hysac index (line {number})", hint=_CHOOSE) from error
        entries.pop(key, None)
        if event != _MENDED:
            entries[key] = entry
    return entries
