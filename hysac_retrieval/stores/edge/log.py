"""The embedded engine's log of writes, as far as it is needed to cut off what the engine cannot read.

    wal/closed-<n>, wal/open-<n>     "wal", a version, a seed; then entries: length, content, padding, checksum

Each checksum covers those before it, so what follows an entry that is taken out cannot be kept.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

import qdrant_edge as edge

LOG = "wal"
_HEADER, _MAGIC, _ALIGNED = 8, b"wal\0", 8

Entry = tuple[Path, int, int]
"""File, beginning and end of an entry."""


def entries(log: Path) -> list[Entry]:
    """Return the entries of a log in the order in which they were written."""
    files = [path for path in log.iterdir() if path.name.startswith(("closed-", "open-"))]
    files.sort(key=lambda path: (path.name.startswith("open-"), int(path.name.rpartition("-")[2])))
    return [entry for path in files for entry in _of_file(path)]


def _of_file(path: Path) -> list[Entry]:
    found: list[Entry] = []
    with path.open("rb") as stream:
        if stream.read(_HEADER)[: len(_MAGIC)] != _MAGIC:
            return found
        at, size = _HEADER, path.stat().st_size
        while at + _ALIGNED <= size:
            stream.seek(at)
            (length,) = struct.unpack("<Q", stream.read(8))
            end = -(-(at + 8 + length + 4) // _ALIGNED) * _ALIGNED
            if not length or end > size:
                break
            found.append((path, at, end))
            at = end
    return found


def cut(written: list[Entry], kept: int) -> None:
    """Keep the first entries of a log only."""
    for path, start, end in written[kept:]:
        with path.open("r+b") as stream:
            stream.seek(start)
            stream.write(bytes(end - start))


def readable(shard: Path) -> int:
    """Return how many entries of a shard's log, from the first, the engine can read."""
    written = entries(shard / LOG)
    least, most = 0, len(written)
    while least < most:
        middle = (least + most + 1) // 2
        if _reads(shard, middle):
            least = middle
        else:
            most = middle - 1
    return least


def _reads(shard: Path, count: int) -> bool:
    """Whether the engine reads so many entries, in a folder that has nothing else to lose."""
    with tempfile.TemporaryDirectory(prefix=".reading-", dir=shard.parent, ignore_cleanup_errors=True) as folder:
        probe = Path(folder) / shard.name
        shutil.copytree(shard, probe, ignore=lambda folder, names: names if Path(folder).name == "segments" else [])
        cut(entries(probe / LOG), count)
        try:
            edge.EdgeShard.load(str(probe)).close()
        except Exception:  # the engine raises plain ones
            return False
    return True
