"""What the commands share that read sources: ``index`` and ``status``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hysac_retrieval.ingest import SourceOptions

F = TypeVar("F", bound=Callable[..., Any])


def source_options(function: F) -> F:
    """Add the arguments and options that say what the sources are; `take_source_options` makes one object of them."""
    for option in (
        click.option("--journal", metavar="FILE", help="Journal of failed items  [default: beside the collection]"),
        click.option("--subset", metavar="NAME", help="Subset (configuration) of a Hugging Face dataset."),
        click.option("--split", metavar="NAME", help="Split of a Hugging Face dataset  [default: all of them]"),
        click.option("--namespace", help="Stands for the source's path in ids, which then survive a move of it."),
        click.option("--id-field", metavar="NAME", help="Field that identifies the rows of a table."),
        click.option("--image-field", metavar="NAME", help="Field of the image in tables  [default: file, image]"),
        click.option("--text-field", metavar="NAME", help="Field of the text in tables  [default: caption, text]"),
        click.option("--index-captions", is_flag=True, help="Index captions also as texts of their own."),
        click.option("--captions", metavar="FILE", help="Table of file, caption and fields for the payload."),
        click.argument("sources", metavar="SOURCE...", nargs=-1, required=True),
    ):
        function = option(function)
    return function


def take_source_options(given: dict[str, Any]) -> SourceOptions:
    """Take the options of `source_options`, but for sources and journal, out of a command's arguments."""
    from hysac_retrieval.ingest import Fields, SourceOptions

    return SourceOptions(
        captions=given.pop("captions"),
        fields=Fields(given.pop("image_field"), given.pop("text_field"), given.pop("id_field")),
        index_captions=given.pop("index_captions"),
        namespace=given.pop("namespace"),
        split=given.pop("split"),
        subset=given.pop("subset"),
    )


def journal_path(journal: str | None, location: str | None, collection: str) -> Path | None:
    """The journal asked for, else the one beside a collection of the embedded engine; None for a server."""
    from hysac_retrieval.ingest.journal import JOURNAL_NAME

    if journal is not None:
        return Path(journal).expanduser()
    return None if location is None else Path(location).expanduser() / collection / JOURNAL_NAME
