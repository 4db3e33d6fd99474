"""Names of files as people and their programs write them, and the files that they mean.

A Mac writes "é" as two characters where others write one; Windows writes backslashes, and takes ``A`` for ``a``. A file
that has a name exactly as written is always that file; only where there is none, another spelling counts, if it is the
only one.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hysac_retrieval.errors import SourceError
from hysac_retrieval.payload import is_utf8

_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\[^\\]")
_FOLDERS = 64  # whose names are remembered


def normal(file: str) -> str:
    """Return a file name as payloads have it: with forward slashes and without ``./``."""
    return Path(file.replace("\\", "/")).as_posix()


def folded(name: str) -> str:
    """Return what all spellings of a name have in common: composition, case and slashes make no difference."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.replace("\\", "/")).casefold())


def found_file(folder: Path, written: str) -> Path:
    """Return the file that a written name means, within a folder or anywhere if it is absolute.

    That is the file of exactly this name, or the only one that differs in nothing but spelling (see `folded`); where
    there is none, the path as it is written, with forward slashes.

    Raises:
        SourceError: No file can have that name, or it is a path of Windows with a drive, read elsewhere.
    """
    if not written.isprintable() and ("\0" in written or not is_utf8(written)):
        raise SourceError(f"no file has a name like {written!r}", hint="Give its path, in UTF-8")
    path = folder / written
    if os.path.lexists(path):
        return path
    if os.name != "nt" and _DRIVE.match(written):
        hint = "Give paths relative to the table. For `hysac attach`, name their folder by --root, and by --prefix"
        raise SourceError(f"{written!r} is a path of Windows", hint=f"{hint} what stands for it in the values")
    path = folder / normal(written)
    return path if os.path.lexists(path) else _respelled(path) or path


def _respelled(path: Path) -> Path | None:
    """Return the only existing path that differs from one in spelling; None if there is none or several."""
    parts: list[str] = []
    while not os.path.isdir(path) and path.parent != path:
        parts.append(path.name)
        path = path.parent
    for part in reversed(parts):
        try:
            names = _names(os.fspath(path), os.stat(path).st_mtime_ns).get(folded(part), ())
        except OSError:
            return None
        if len(names) != 1:
            return None
        path /= part if part in names else names[0]
    return path


@lru_cache(_FOLDERS)
def _names(folder: str, changed: int) -> dict[str, Sequence[str]]:
    """Names in a folder by their common form; `changed` is when the folder last was."""
    names: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        names.setdefault(folded(name), []).append(name)
    return names  # type: ignore[return-value]  # nobody changes them
