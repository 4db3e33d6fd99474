"""``hysac attach``: add safe search to a collection of an application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hysac_retrieval.cli.common import Command, print_json
from hysac_retrieval.cli.options import Place, journal_option, json_option, place_options, run_options
from hysac_retrieval.cli.progress import exit_after, followed, print_report


@click.command("attach", cls=Command)
@place_options(bulk=True)
@click.option("--text-field", metavar="NAME", help="Payload field with a text, such as title or meta.title.")
@click.option("--image-field", metavar="NAME", help="Payload field with the path or URL of an image.")
@click.option("--root", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the images.")
@click.option("--prefix", metavar="TEXT", help="Beginning of image values that is no part of the path below --root.")
@run_options
@journal_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    place: Place,
    text_field: str | None,
    image_field: str | None,
    root: Path | None,
    prefix: str | None,
    model: str,
    journal: str | None,
    as_json: bool,
    **run: Any,
) -> None:
    """Add safe search to a collection of an application.

    Its points get a further vector and a safety score, made from a field of their payload: a text, or the file of an
    image. Its own vectors and payload are not touched, and `hysac detach` removes everything again.

    Points that are done are skipped: a run that was stopped goes on when it is started again, and later runs take up
    what the application has added or changed. Points without a score are never in a safe result.

    \b
    hysac-index attach --collection products --text-field title --url http://localhost:6333
    hysac-index attach --collection photos --image-field file --root ./photos --location ./data
    hysac-index attach --collection photos --image-field url --root ./photos --prefix https://cdn.example.org/ \\
        --url http://localhost:6333
    """
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest import Content, attached_collection_for, fill

    content, notes = Content(text_field, image_field, root, prefix), place.journal(journal)
    encoder = Encoder.load(model)
    opened = attached_collection_for(encoder, place.collection, content, **place.connection())
    with opened as index:
        with followed("Attaching") as hooks:
            report = fill(index, encoder, content, journal=notes, **hooks, **run)
        if place.location is not None and not report.interrupted:
            index.optimize()
        info = index.info()
    if as_json:
        print_json({"collection": info.to_dict(), "report": report.to_dict()})
    else:
        print_report(report, notes, "Added vectors and scores to", "points had theirs already")
        click.echo(f"Collection {place.collection!r}: {info.points} points, {info.safe} safe, {info.unsafe} not.")
        if info.name != place.collection:
            click.echo(
                f"The vectors are in the collection {info.name!r}, because a Qdrant before 1.18 cannot add any to a "
                f"collection that exists. The ids are those of {place.collection!r}."
            )
    exit_after(ctx, report)
