"""``hysac attach`` and ``hysac-index attach``: safe search for a collection that an application has already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hysac_retrieval.cli.common import (
    FAILED_ITEMS,
    Command,
    connection,
    connection_options,
    json_option,
    model_option,
    print_json,
)
from hysac_retrieval.cli.index import item_progress, print_faults, stop_on_interrupt
from hysac_retrieval.cli.sourcing import journal_path

if TYPE_CHECKING:
    from hysac_retrieval.ingest import FillReport
    from hysac_retrieval.results import IndexInfo


@click.command("attach", cls=Command)
@click.option("--collection", required=True, help="Name of the application's collection.")
@click.option("--text-field", metavar="NAME", help="Payload field with a text, such as title or meta.title.")
@click.option("--image-field", metavar="NAME", help="Payload field with the path or URL of an image.")
@click.option("--root", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the images.")
@click.option("--prefix", metavar="TEXT", help="What image values begin with that is no part of the path below --root.")
@connection_options
@model_option
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--workers", type=click.IntRange(min=0), help="Processes that decode images  [default: one per core, up to 8]"
)
@click.option("--resume/--no-resume", default=True, show_default=True, help="Skip points that are done, unchanged.")
@click.option("--journal", metavar="FILE", help="Journal of failed points  [default: beside the collection]")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    collection: str,
    text_field: str | None,
    image_field: str | None,
    root: Path | None,
    prefix: str | None,
    location: str | None,
    url: str | None,
    api_key: str | None,
    prefer_grpc: bool,
    model: str,
    batch_size: int,
    workers: int | None,
    resume: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    r"""Add safe search to a collection of an application.

    Its points get a further vector and a safety score, from what a field of their payload holds: a text, or the file of
    an image. Its own vectors and payload are not touched, and `hysac detach` takes everything away again.

    Points that are done are skipped, so a run that was stopped goes on when it is started again, and later runs take up
    what the application has added or changed. Points without a score are never in a safe result.

    \b
    hysac-index attach --collection products --text-field title --url http://localhost:6333
    hysac-index attach --collection photos --image-field file --root ./photos --location ./data
    hysac-index attach --collection photos --image-field url --root ./photos --prefix https://cdn.example.org/ \
        --url http://localhost:6333
    """
    place = connection(location, url, api_key, prefer_grpc)
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest import Content, attached_collection_for, fill

    content = Content(text_field, image_field, root, prefix)
    encoder = Encoder.load(model)
    with attached_collection_for(encoder, collection, content, **place) as index, stop_on_interrupt() as stopped:
        notes = journal_path(journal, location, collection)
        with item_progress("Attaching") as show:
            report = fill(
                index,
                encoder,
                content,
                batch_size=batch_size,
                workers=workers,
                resume=resume,
                journal=notes,
                on_progress=show,
                should_stop=stopped,
            )
        if location is not None and not report.interrupted:
            index.optimize()
        info = index.info()
    if as_json:
        print_json({"collection": info.to_dict(), "report": report.to_dict()})
    else:
        _print(report, info, notes)
    if report.interrupted:
        click.echo("Interrupted. What was done is stored; the same command goes on from there.", err=True)
        ctx.exit(1)
    ctx.exit(FAILED_ITEMS if report.failures else 0)


def _print(report: FillReport, info: IndexInfo, notes: Path | None) -> None:
    counts = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in report.indexed.items() if count]
    rate = f" ({report.total / report.seconds:.0f}/s)" if report.total else ""
    click.echo(f"Added vectors and scores to {', '.join(counts) or 'nothing'} in {report.seconds:.1f} s{rate}.")
    if report.skipped:
        click.echo(f"{report.skipped} points had theirs already.")
    if report.lacking:
        click.echo(f"{report.lacking} points have neither field; no safe search returns them.")
    print_faults(report, notes)
    click.echo(f"Collection {report.collection!r}: {info.points} points, {info.safe} safe, {info.unsafe} not.")
    if report.vectors != report.collection:
        click.echo(
            f"The vectors are in the collection {report.vectors!r}, because a Qdrant before 1.18 cannot add any to a "
            f"collection that exists. Search there; the ids are those of {report.collection!r}."
        )
