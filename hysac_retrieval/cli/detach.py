"""``hysac detach``: take away what ``hysac attach`` has added."""

from __future__ import annotations

import click

from hysac_retrieval.cli.common import Command, print_json
from hysac_retrieval.cli.options import Place, json_option, place_options


@click.command("detach", cls=Command)
@place_options(bulk=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def command(place: Place, yes: bool, as_json: bool) -> None:
    """Take away the vectors, scores, payload indexes and metadata that `hysac attach` has added.

    The application's own vectors, payload and metadata stay as they are. Where vectors were added beside one without a
    name (--in-place), its configuration stays changed, which is said.

    \b
    hysac-index detach --collection products --url http://localhost:6333
    """
    from hysac_retrieval.collection.attach import open_attached
    from hysac_retrieval.stores import opening

    with opening(place.connection(), keep=False) as (store, _):
        attachment = open_attached(store, place.collection)
        stays = attachment.stays()
        if not yes:
            what = f"Take all vectors and scores of hysac from collection {place.collection!r}?"
            click.confirm(what, abort=True, err=True)
        taken = attachment.detach()
        if journal := place.journal():
            journal.unlink(missing_ok=True)
    if as_json:
        print_json({"collection": place.collection, "points": taken} | ({"stays": stays} if stays else {}))
    elif stays:
        click.echo(f"Nothing of hysac is left in collection {place.collection!r}; {taken} points had scores.")
        click.echo(f"One thing is not as it was: {stays}.")
    else:
        click.echo(f"Collection {place.collection!r} is as it was; {taken} points had scores.")
