"""What became of the items of an indexing run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from hysac_retrieval.errors import SourceError


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item that could not be indexed.

    Attributes:
        item: Where it came from: a path, or ``file:line``.
        error: What is wrong with it and what mends it.
        kind: Name of the error's class.
    """

    item: str
    error: str
    kind: str

    @classmethod
    def of(cls, item: str, error: Exception) -> Self:
        """Record an error."""
        return cls(item, str(error), type(error).__name__)


@dataclass(frozen=True, slots=True)
class IndexReport:
    """Outcome of `index_sources`.

    Attributes:
        indexed: Points written, by modality: ``{"image": …, "text": …}``.
        skipped: Items that were in the collection already (with ``resume=True``).
        failed: Items that could not be indexed.
        truncated: Texts longer than the model's context, of which only the beginning was encoded (by origin).
        seconds: Time that it took.
        interrupted: Whether it was stopped before the end.
    """

    indexed: dict[str, int]
    skipped: int
    failed: tuple[FailedItem, ...]
    truncated: tuple[str, ...]
    seconds: float
    interrupted: bool = False

    @property
    def total(self) -> int:
        """Points written."""
        return sum(self.indexed.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-serialisable values."""
        return asdict(self)


class Journal:
    """Collects failures and cut texts, and writes each to a JSON Lines file as it happens.

    Args:
        path: File to write, replaced if it exists; None to collect only.

    Raises:
        SourceError: The file cannot be written.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.failed: list[FailedItem] = []
        self.truncated: list[str] = []
        self._stream: IO[str] | None = None
        if path is not None:
            try:
                self._stream = Path(path).open("w", encoding="utf-8")  # noqa: SIM115  closed by __exit__
            except OSError as error:
                raise SourceError(f"the journal {path} cannot be written: {error}; choose another file") from error

    def fail(self, failure: FailedItem) -> None:
        """Note an item that could not be indexed."""
        self.failed.append(failure)
        self._write({"event": "failed", **asdict(failure)})

    def truncate(self, item: str, tokens: int, limit: int) -> None:
        """Note a text that is longer than the model reads."""
        self.truncated.append(item)
        self._write({"event": "truncated", "item": item, "tokens": tokens, "limit": limit})

    def _write(self, event: dict[str, Any]) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(event, ensure_ascii=False) + "\n")
            self._stream.flush()  # a run that is killed leaves its journal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
