"""Files that the embedded store keeps beside the engine's, and the room that they need."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_retrieval.errors import StorageFullError
from hysac_retrieval.stores.types import CollectionSpec, Opened

SIDECAR = "collection.json"
SPACE = 64 * 2**20
"""Free bytes that the engine needs to work in."""

SCARCE = 4 * 2**30
"""Free bytes from which on the size of a write does not matter."""


def check_space(root: Path, name: str, size: Callable[[], int]) -> None:
    """Refuse to write when the disk is nearly full.

    The engine writes through memory maps of files that it makes ahead of need. Where the disk has no page left for one,
    the operating system ends the process (SIGBUS); no error could be raised any more.

    Args:
        root: Folder of the collections.
        name: The collection.
        size: Bytes to be written; only asked for when space is scarce.

    Raises:
        StorageFullError: There is too little room.
    """
    free = shutil.disk_usage(root).free
    # Points are written twice, to the log and to a segment, and both round up.
    if free < SCARCE and free < (needed := SPACE + 4 * size()):
        raise StorageFullError(
            f"collection {name!r}: the disk of {root} has {free / 2**20:.0f} MB left, and writing needs "
            f"{needed / 2**20:.0f} MB",
            hint="Free some space, or move the folder to a larger disk",
        )


def bytes_of(vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]) -> int:
    """Return about how many bytes points take."""
    return vectors.nbytes + sum(len(json.dumps(payload, default=str)) for payload in payloads)


def allocated(status: os.stat_result) -> int:
    """Return the bytes that the file system has given a file."""
    # The engine makes files of 32 MB ahead of need.
    blocks: int | None = getattr(status, "st_blocks", None)  # not on every platform
    return status.st_size if blocks is None else blocks * 512


def identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from one that has taken its place."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def close_files(folder: Path) -> None:
    """Close the files of a folder that this process has open; where the system does not list them, they stay open."""
    inside = os.path.join(folder.resolve(), "")
    with suppress(OSError):
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the one that lists them is gone by now
                if os.readlink(f"/proc/self/fd/{descriptor}").startswith(inside):
                    os.close(int(descriptor))


def sidecar_of(kept: CollectionSpec | Opened) -> dict[str, Any]:
    """Return the file beside a collection, which says how its vectors are read."""
    return {"size": kept.size, "metric": kept.metric, "metadata": dict(kept.metadata or {})}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write so that a reader finds the old file or the new one, whole, even after a power cut."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, allow_nan=False, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
