"""Labels in a folder, a line each as they come, in files that are samples: `hysac fit --safe F/safe.jsonl --unsafe …`.

    safe.jsonl      what counts as safe
    unsafe.jsonl    what counts as unsafe
    unsure.jsonl    what a detector could not tell; nothing is fitted to it, and a person may go through it
    pictures/       pictures that came out of tables, shards or payloads, by their hash

A line is a row with the field ``text`` or ``file``, and whose label it is under ``by``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hysac_export.fit.labels.candidates import Candidate
from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.payload import is_utf8

FILES: dict[bool | None, str] = {False: "safe.jsonl", True: "unsafe.jsonl", None: "unsure.jsonl"}
"""File of each label; None for what could not be told."""
_PICTURES = "pictures"


@dataclass(frozen=True, slots=True)
class Note:
    """A label that is kept: unsafe or not, None for what could not be told, and whose it is."""

    unsafe: bool | None
    by: str


class Notes:
    """Labels of items by their content: a text itself, or the path of a picture.

    A line that a killed run left unfinished is taken away. A decision outranks what could not be told.

    Args:
        folder: The folder; it is made with the first label.

    Raises:
        SettingsError: There is something else at this place, a file there cannot be read or holds no labels, or an item
            is labelled both ways.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"{folder} is no folder", hint="Name one for the labels, new or of an earlier run")
        self._known: dict[tuple[str, str], Note] = {}
        self._written: list[tuple[Path, int, Note | None]] = []
        for unsafe in (None, False, True):
            for key, by in _rows(folder / FILES[unsafe]):
                before = self._known.get(key)
                if before is not None and before.unsafe not in (None, unsafe):
                    what = f"{key[1]!r:.200} is labelled safe and unsafe in {folder}"
                    raise SettingsError(what, hint="Decide which it is, and remove the other line")
                self._known[key] = Note(unsafe, by)

    def of(self, item: Candidate) -> Note | None:
        """Return what is noted of an item; None for nothing."""
        return self._known.get(self._key(item))

    def count(self, unsafe: bool | None) -> int:
        """Return how many items have a label."""
        return sum(note.unsafe is unsafe for note in self._known.values())

    def samples(self) -> tuple[list[Path], list[Path]]:
        """Return the files with safe and with unsafe items, those that hold any."""
        files = ([self.folder / FILES[unsafe]] if self.count(unsafe) else [] for unsafe in (False, True))
        safe, unsafe = files
        return safe, unsafe

    def keep(self, item: Candidate, unsafe: bool | None, by: str = "person", **more: Any) -> None:
        """Write down a label; it is on disk when this returns.

        Raises:
            SourceError: The name of a file is not UTF-8, as a table's have to be, or nothing can be written.
        """
        kind, value = self._key(item)
        if not is_utf8(value):
            raise SourceError(f"{value!r} is not UTF-8, so no table can name it", hint="Rename it")
        path = self.folder / FILES[unsafe]
        point = {} if item.point is None else {"point": item.point}
        line = json.dumps({kind: value, "by": by, **more, **point}, ensure_ascii=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if isinstance(item.content, bytes) and not os.path.exists(value):
                Path(value).parent.mkdir(exist_ok=True)
                Path(value).write_bytes(item.content)
            with path.open("a", encoding="utf-8") as file:
                self._written.append((path, file.tell(), self._known.get((kind, value))))
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SourceError(f"the label cannot be written to {path}: {error}") from error
        self._known[kind, value] = Note(unsafe, by)

    def take_back(self, item: Candidate) -> None:
        """Take away the label that was written last, which has to be this item's."""
        path, size, before = self._written.pop()
        os.truncate(path, size)
        del self._known[self._key(item)]
        if before is not None:
            self._known[self._key(item)] = before

    def _key(self, item: Candidate) -> tuple[str, str]:
        if isinstance(item.content, str):
            return "text", item.content
        if isinstance(item.content, Path):
            return "file", os.path.abspath(item.content)
        name = hashlib.blake2b(item.content, digest_size=16).hexdigest()
        return "file", os.path.abspath(self.folder / _PICTURES / name)


def _rows(path: Path) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the keys and labellers of a file, which is cut to its whole lines."""
    number = 0
    try:
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
        for line in data[:whole].decode().split("\n")[:-1]:
            number += 1
            row = json.loads(line)
            kind = "text" if "text" in row else "file"
            yield (kind, row[kind]), str(row.get("by", ""))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise SettingsError(f"{path}, line {number}, is no label: {error!r}", hint="Mend or remove it") from error
