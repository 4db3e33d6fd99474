"""Folders to be made."""

from __future__ import annotations

from pathlib import Path


def file_in_the_way(folder: Path) -> Path | None:
    """The file that keeps a folder from being made: it has its name, or that of a folder above it."""
    return next((path for path in (folder, *folder.parents) if path.is_file()), None)
