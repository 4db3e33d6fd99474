"""Which files of a folder are pictures, by their content where the name does not say so; and which are left out."""

from __future__ import annotations

import mimetypes
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePath

from hysac_retrieval.encoder.formats import HEAD, IMAGE_SUFFIXES, OTHER_SUFFIXES, extra_of, remedy
from hysac_retrieval.encoder.pictures import has_picture_header

_NO_PICTURES = frozenset({".csv", ".db", ".gz", ".ini", ".jsonl", ".log", ".parquet", ".py", ".tar", ".xmp", ".yaml"})
_WORDS = ("text/", "audio/", "font/", "application/json", "application/xml", "application/javascript")


def is_picture(path: Path, left: Counter[str]) -> bool:
    """Whether a file is a picture that can be read here; pictures and films that cannot are counted by their suffix."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    kind, _ = mimetypes.guess_type(f"_{suffix}")
    if suffix in _NO_PICTURES or (kind is not None and kind.startswith(_WORDS)):
        return False
    head = _head(path)
    extra = extra_of(head, "")
    if extra is not None and not extra.installed:
        left[suffix if suffix in OTHER_SUFFIXES else sorted(extra.suffixes)[0]] += 1
        return False
    if extra is not None or has_picture_header(path, head):
        return True
    if suffix in OTHER_SUFFIXES:
        left[suffix] += 1
    return False


def left_out(left: Mapping[str, int]) -> str:
    """Return what was left out in words, and what would read it; empty for nothing."""
    if not left:
        return ""
    groups: dict[str, list[str]] = {}
    for suffix, count in sorted(left.items()):
        groups.setdefault(remedy(suffix), []).append(f"{count:,} {suffix}")
    parts = [", ".join(some) + (f", {mend}" if mend else ", which are not read") for mend, some in groups.items()]
    return f"left out: {'; '.join(parts)}"


def unread(path: PurePath) -> str:
    """Return what would read a file whose name says that it is a picture or film that is not read; empty for others."""
    suffix = path.suffix.lower()
    return (remedy(suffix) or "Convert it first") if suffix in OTHER_SUFFIXES else ""


def _head(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block
            return b""
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except OSError:
        return b""
