"""``hysac detach`` and ``hysac-index detach``: what ``attach`` has added is taken away."""

from __future__ import annotations

import click

from hysac_retrieval.cli.common import Command, connection, connection_options, json_option, print_json
from hysac_retrieval.cli.sourcing import journal_path


@click.command("detach", cls=Command)
@click.option("--collection", required=True, help="Name of the application's collection.")
@connection_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(
    collection: str,
    location: str | None,
    url: str | None,
    api_key: str | None,
    prefer_grpc: bool,
    yes: bool,
    as_json: bool,
) -> None:
    r"""Take vectors, scores, payload indexes and metadata away again that `hysac attach` has added.

    The application's own vectors, payload and metadata stay as they are.

    \b
    hysac-index detach --collection products --url http://localhost:6333
    """
    place = connection(location, url, api_key, prefer_grpc)
    from hysac_retrieval.collection.attach import open_attached
    from hysac_retrieval.stores import open_store

    store, _ = open_store(place)
    try:
        attachment = open_attached(store, collection)
        if not yes:
            click.confirm(f"Take all vectors and scores of hysac from collection {collection!r}?", abort=True, err=True)
        taken = attachment.detach()
        if journal := journal_path(None, location, collection):
            journal.unlink(missing_ok=True)
    finally:
        store.close()
    if as_json:
        print_json({"collection": collection, "points": taken})
    else:
        click.echo(f"Collection {collection!r} is as it was; {taken} points had scores.")
