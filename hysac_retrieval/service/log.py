"""The audit log: JSON lines, each with the hash of the line before, appended and never changed.

Who changes or removes a line breaks the chain from there on. What a hash cannot show is that the newest lines are
missing: send the file on as it grows, or note its last hash elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hysac_retrieval.errors import HysacError, SettingsError
from hysac_retrieval.service.files import locked

START = "0" * 64
"""Hash that the first line names."""

_TAIL = 1 << 16


class AuditError(HysacError, RuntimeError):
    """The audit log cannot be written, so what had to go there is not answered."""


class AuditLog:
    """Appends to a log; several processes may, to the same one.

    Raises:
        SettingsError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with locked(path):
            pass

    def write(self, event: str, facts: Mapping[str, Any]) -> None:
        """Append a line, and return when it is on the disk.

        Raises:
            AuditError: It is not; nothing of it is left in the file.
        """
        try:
            with self._lock, locked(self.path) as descriptor:
                before = os.fstat(descriptor).st_size
                line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
                text = json.dumps({**line, "prev": _last_hash(descriptor, before)}, ensure_ascii=True)
                data = ("" if _ends(descriptor, before) else "\n").encode() + text.encode() + b"\n"
                try:
                    if os.write(descriptor, data) != len(data):
                        raise OSError(28, "no space is left")
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, before)
                    raise
        except (OSError, SettingsError, ValueError) as error:
            raise AuditError("the audit log cannot be written, so this is not answered") from error


@dataclass(frozen=True, slots=True)
class Checked:
    """Outcome of reading a log: its lines, the first that is not what the chain says (None for none), its last hash."""

    lines: int
    broken: int | None
    last: str


def check_log(path: Path) -> Checked:
    """Follow the chain of a log from its beginning.

    Raises:
        SettingsError: It cannot be read.
    """
    number, last, broken = 0, START, None
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if broken is None and _prev(raw) != last:
                    broken = number
                last = hashlib.sha256(raw.rstrip(b"\n")).hexdigest()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    return Checked(number, broken, last)


def _prev(raw: bytes) -> str | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    found = line.get("prev") if isinstance(line, dict) else None
    return found if isinstance(found, str) else None


def _ends(descriptor: int, size: int) -> bool:
    """Whether the last line is whole: a machine that fell over may have left a part of one."""
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _last_hash(descriptor: int, size: int) -> str:
    """Return the hash of the last line, torn or not."""
    if size == 0:
        return START
    reach = _TAIL
    while True:
        start = max(0, size - reach)
        lines = os.pread(descriptor, size - start, start).rstrip(b"\n").split(b"\n")
        if len(lines) > 1 or start == 0:
            return hashlib.sha256(lines[-1]).hexdigest()
        reach *= 4
