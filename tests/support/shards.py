"""Small shards: archives of files that are rows of a data set."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


def shard(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive of files, packed unless its name ends in ``.tar``; return its path."""
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path
