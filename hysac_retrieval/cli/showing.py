"""Texts and pictures in a terminal."""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import click

from hysac_retrieval.cli.common import warn
from hysac_retrieval.errors import ImageError

_TEXT = 4000  # characters of a text that are shown
_BESIDE = 8  # lines of the terminal that a picture leaves free


def show(content: Path | bytes | str) -> None:
    """Show a text; or a picture if the terminal can, else its path."""
    if isinstance(content, str):
        click.echo(content if len(content) <= _TEXT else f"{content[:_TEXT]}… ({len(content)} characters)", err=True)
        return
    if isinstance(content, Path):
        click.echo(str(content), err=True)
    drawn = _drawing()
    if drawn is None:
        click.echo("(a picture; o opens it)", err=True)
        return
    from rich.console import Console

    from hysac_retrieval.encoder.preprocess import load_image

    try:
        picture = load_image(content)
    except ImageError as error:
        warn(str(error))
        return
    # Past what makes texts of others fit to print: pixels are none.
    out = Console(file=sys.__stdout__)
    out.print(drawn(picture, width="auto", height=max(out.height - _BESIDE, 4)))


def open_content(content: Path | bytes | str) -> None:
    """Open a picture in the viewer of the desktop."""
    if isinstance(content, str):
        return
    if isinstance(content, bytes):
        number, name = tempfile.mkstemp(prefix="hysac-")
        with os.fdopen(number, "wb") as file:
            file.write(content)
        content = Path(name)
    if click.launch(str(content)):
        warn(f"There is no viewer for {content}.")


@cache
def _drawing() -> Any:
    """Return what draws pictures in this terminal, asked once; None where it cannot, or the package is not there."""
    if not (sys.stdout.isatty() and sys.stderr.isatty() and sys.stdin.isatty()):
        return None
    try:
        from textual_image.renderable import Image, SixelImage, TGPImage
    except ImportError:
        return None
    return Image if Image in (SixelImage, TGPImage) else None
