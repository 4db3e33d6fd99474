"""``hysac status``: compare a collection with its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hysac_retrieval.cli.common import Command, print_json
from hysac_retrieval.cli.options import (
    Place,
    Sources,
    json_option,
    model_option,
    place_options,
    source_options,
)
from hysac_retrieval.cli.terminal import console
from hysac_retrieval.errors import printable

if TYPE_CHECKING:
    from hysac_retrieval.ingest import Status

_SHOWN = 20  # items that failed
_MEANING = {
    "present": "stored as they are",
    "missing": "not stored",
    "stale": "stored from other content or by another model",
    "failed": "failed when last tried, or cannot be read",
    "left": "points whose items have left the sources",
}


@click.command("status", cls=Command)
@source_options
@place_options(bulk=True)
@model_option
@json_option
def command(sources: Sources, place: Place, model: str, as_json: bool) -> None:
    """Compare a collection with its sources.

    Give the sources and their options as to `hysac index`. Every file is read, nothing is changed.

    \b
    hysac status photos/ --collection photos --location ./data
    hysac index photos/ --collection photos --location ./data --only stale
    """
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest import status_of

    encoder = Encoder.load(model) if sources.options.chunk else None
    with Index.open(place.collection, **place.connection()) as index:
        notes = place.journal(sources.journal)
        status = status_of(sources.paths, index, options=sources.options, journal=notes, encoder=encoder)
    if as_json:
        print_json({"collection": place.collection, **status.to_dict()})
    else:
        print_status(status)


def print_status(status: Status) -> None:
    """Print a status as a table."""
    from rich.table import Column, Table

    table = Table("", Column(justify="right"), "", box=None, show_header=False, padding=(0, 2, 0, 0))
    for state, meaning in _MEANING.items():
        count = getattr(status, state)
        table.add_row(state, "?" if count is None else f"{count:,}", meaning)
    console().print(table)
    if status.differing is not None:
        click.echo(f"{status.differing:,} points differ between their copies on the cluster.")
    if status.unlike:
        click.echo(f"{status.unlike:,} are unlike anything the model knows: their scores mean nothing.")
    for judge, (looked, unsafe) in status.judged.items():
        click.echo(f"{looked:,} pictures were judged by {judge} as well; {unsafe:,} are unsafe to it.")
    for remark in status.remarks:
        click.echo(f"Note: {remark}", err=True)
    shown = (*status.unreadable, *status.failures)[:_SHOWN]
    for failure in shown:
        click.echo(printable(f"  {failure.item}: {failure.error}"), err=True)
    if status.failed > len(shown):
        click.echo(f"  … and {status.failed - len(shown):,} more", err=True)
