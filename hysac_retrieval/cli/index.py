"""``hysac index`` and ``hysac-index``: folders, images, texts and tables into a collection."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import (
    FAILED_ITEMS,
    Command,
    connection,
    connection_options,
    json_option,
    model_option,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from hysac_retrieval.ingest import IndexReport

_SHOWN = 20


@click.command("index", cls=Command)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--collection", required=True, help="Name of the collection; made if it does not exist.")
@connection_options
@click.option("--captions", metavar="FILE", help="JSONL or CSV of file, caption and fields for the payload.")
@click.option("--index-captions", is_flag=True, help="Index captions also as texts of their own.")
@click.option("--text-field", help="Field of the text in tables  [default: caption, text]")
@click.option("--image-field", help="Field of the image file in tables  [default: file, image]")
@click.option("--namespace", help="Stands for the source's folder in ids, which then survive a move of the folder.")
@model_option
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--workers", default=4, show_default=True, type=click.IntRange(min=1), help="Threads decoding images.")
@click.option("--max-pixels", type=click.IntRange(min=1), help="Largest width × height of an image.")
@click.option("--recreate", is_flag=True, help="Remove the collection first, with all its points.")
@click.option("--resume", is_flag=True, help="Leave out what is in the collection already.")
@click.option("--journal", metavar="FILE", help="Write failed items and cut texts to FILE as JSON Lines.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    sources: tuple[str, ...],
    collection: str,
    location: str | None,
    url: str | None,
    api_key: str | None,
    prefer_grpc: bool,
    captions: str | None,
    index_captions: bool,
    text_field: str | None,
    image_field: str | None,
    namespace: str | None,
    model: str,
    batch_size: int,
    workers: int,
    max_pixels: int | None,
    recreate: bool,
    resume: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    r"""Index images and texts into a collection.

    SOURCE is a folder of images (searched recursively), an image, a text file (one text per line), or a JSONL or CSV
    table with a field for an image file, a text, or both; further fields go into the payload. Indexing a source again
    replaces its points. An item that fails is reported, the rest goes on, and the exit code is 3.

    \b
    hysac-index photos/ --collection photos --location ./data
    hysac-index photos/ --captions captions.jsonl --collection photos --url http://localhost:6333
    hysac-index captions.txt --collection photos --location ./data --json
    """
    place = connection(location, url, api_key, prefer_grpc)
    from hysac_retrieval.encoder import Encoder
    from hysac_retrieval.ingest.pipeline import collection_for, index_sources
    from hysac_retrieval.ingest.rows import Fields
    from hysac_retrieval.ingest.sources import SourceOptions

    encoder = Encoder.load(model)
    options = SourceOptions(captions, Fields(image_field, text_field), index_captions, namespace)
    limit: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    with collection_for(encoder, collection, recreate=recreate, **place) as index, _stop_on_interrupt() as stopped:
        with progress_bar("rate") as bar:
            task = bar.add_task("Indexing", total=None, rate="")

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)
                speed = bar.tasks[0].speed
                bar.update(task, rate=f"{speed:.0f}/s" if speed else "")

            report = index_sources(
                sources,
                index,
                encoder,
                options=options,
                batch_size=batch_size,
                workers=workers,
                resume=resume,
                journal=journal,
                on_progress=show,
                should_stop=stopped,
                **limit,
            )
        info = index.info()
    if as_json:
        print_json({"collection": info.to_dict(), "report": report.to_dict()})
    else:
        _print_report(report)
        click.echo(f"Collection {info.name!r}: {info.points} points, {info.safe} safe, {info.unsafe} unsafe.")
        if info.beyond:
            click.echo(f"{info.beyond} points lie beyond the lift of the collection; --recreate fits a new one.")
    if report.interrupted:
        click.echo("Interrupted. What was indexed is stored; go on with --resume.", err=True)
        ctx.exit(1)
    ctx.exit(FAILED_ITEMS if report.failed else 0)


def _print_report(report: IndexReport) -> None:
    counts = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in report.indexed.items() if count]
    rate = f" ({report.total / report.seconds:.0f}/s)" if report.total else ""
    click.echo(f"Indexed {', '.join(counts) or 'nothing'} in {report.seconds:.1f} s{rate}.")
    if report.skipped:
        click.echo(f"{report.skipped} were in the collection already.")
    if report.truncated:
        some = ", ".join(report.truncated[:3]) + (", …" if len(report.truncated) > 3 else "")
        cut = len(report.truncated)
        click.echo(f"{cut} texts are longer than the model reads; only their beginning counts: {some}")
    if report.failed:
        click.echo(f"Failed: {len(report.failed)}", err=True)
        for failure in report.failed[:_SHOWN]:
            click.echo(f"  {failure.item}: {failure.error}", err=True)
        if len(report.failed) > _SHOWN:
            click.echo(f"  … and {len(report.failed) - _SHOWN} more; --journal FILE writes all of them", err=True)


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C lets the current batch finish, a second one interrupts at once."""
    stopped = threading.Event()
    # Signals belong to the main thread; elsewhere (a test, a notebook) nothing is changed.
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, previous)
        stopped.set()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield stopped.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
