"""``hysac status``: what of the sources is in a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import Command, connection, connection_options, console, json_option, print_json
from hysac_retrieval.cli.sourcing import journal_path, source_options, take_source_options

if TYPE_CHECKING:
    from hysac_retrieval.ingest import Status

_MEANING = {
    "present": "stored as they are",
    "missing": "not stored",
    "stale": "stored from other content or by another model",
    "failed": "failed when last tried, or cannot be read",
    "left": "points whose items have left the sources",
}


@click.command("status", cls=Command)
@source_options
@click.option("--collection", required=True, help="Name of the collection.")
@connection_options
@json_option
def command(
    sources: tuple[str, ...],
    collection: str,
    location: str | None,
    url: str | None,
    api_key: str | None,
    prefer_grpc: bool,
    journal: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    r"""Compare a collection with its sources.

    Give the sources and their options as to `hysac index`. Every file is read, nothing is changed.

    \b
    hysac status photos/ --collection photos --location ./data
    hysac index photos/ --collection photos --location ./data --only stale
    """
    place = connection(location, url, api_key, prefer_grpc)
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.ingest import status_of

    options = take_source_options(given)
    with Index.open(collection, **place) as index:
        status = status_of(sources, index, options=options, journal=journal_path(journal, location, collection))
    if as_json:
        print_json({"collection": collection, **status.to_dict()})
    else:
        print_status(status)


def print_status(status: Status) -> None:
    """Print a status as a table."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for state, meaning in _MEANING.items():
        count = getattr(status, state)
        table.add_row(state, "?" if count is None else f"{count:,}", meaning)
    console().print(table)
    for failure in status.unreadable[:20]:
        click.echo(f"  {failure.item}: {failure.error}", err=True)
