"""Where bundles are written: built in a folder beside the target and moved there whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hysac_retrieval.encoder.bundle import MANIFEST_NAME
from hysac_retrieval.errors import SettingsError


@contextmanager
def building(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder that becomes `out` when all has gone well, and vanishes otherwise.

    Raises:
        SettingsError: There is something at `out` that may not be replaced.
    """
    check_target(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder = work / "bundle"
        folder.mkdir()
        yield folder
        _put(folder, out, work / "replaced")
    finally:
        shutil.rmtree(work)


def file_in_the_way(folder: Path) -> Path | None:
    """What keeps a folder from being made: a file of that name, or of the name of a folder that it would be in."""
    return next((path for path in (folder, *folder.parents) if path.is_file()), None)


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse to write over anything but a bundle that may be replaced.

    Raises:
        SettingsError: There is something at `out`.
    """
    if (file := file_in_the_way(out.parent)) is not None:
        raise SettingsError(f"{file} is a file, so that {out} cannot be a folder; choose another")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_NAME).is_file():
        raise SettingsError(f"{out} exists and is no bundle; choose another folder")
    if not overwrite:
        raise SettingsError(f"{out} holds a bundle already; choose another folder or ask to overwrite it")


def _put(folder: Path, out: Path, replaced: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    out.rename(replaced)
    try:
        folder.rename(out)
    except OSError:
        replaced.rename(out)
        raise
