"""Targets of bundles: built in a folder beside the target and moved there whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hysac_export.folders import file_in_the_way
from hysac_retrieval.encoder.bundle import MANIFEST_NAME
from hysac_retrieval.errors import SettingsError


@contextmanager
def building(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Provide an empty folder that becomes `out` when all has gone well, and vanishes otherwise; see `check_target`."""
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


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse to write over anything but a bundle that may be replaced (`SettingsError`)."""
    if (file := file_in_the_way(out.parent)) is not None:
        raise SettingsError(f"{file} is a file, so that {out} cannot be a folder", hint="Choose another")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_NAME).is_file():
        raise SettingsError(f"{out} exists and is no bundle", hint="Choose another folder")
    if not overwrite:
        raise SettingsError(f"{out} holds a bundle already", hint="Choose another folder or ask to overwrite it")


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
