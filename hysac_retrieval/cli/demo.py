"""``hysac demo``: index and search the example gallery, and write a report."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path

import click

from hysac_retrieval.cli.common import Command, print_json, progress_bar, shorten
from hysac_retrieval.cli.options import json_option, model_option
from hysac_retrieval.cli.terminal import console


@click.command("demo", cls=Command)
@click.option("--out", default="demo", show_default=True, metavar="DIR", type=click.Path(path_type=Path))
@click.option("--no-open", is_flag=True, help="Do not show the report in a browser.")
@model_option
@json_option
def command(out: Path, no_open: bool, model: str, as_json: bool) -> None:
    """Index the example gallery and search it: a safe query, two unsafe ones, an unsafe picture.

    Needs no server, no GPU and no download. Writes report.html and the collection to DIR.

    \b
    hysac demo
    hysac search "a man with a gun" --collection gallery --location demo/collections
    """
    from hysac_retrieval.cli.search import print_result
    from hysac_retrieval.demo import run_demo, write_report
    from hysac_retrieval.demo.report import shown

    with progress_bar() as bar:
        task = bar.add_task("Indexing the gallery", total=None)
        result = run_demo(
            out, model=model, on_progress=lambda now: bar.update(task, completed=now.done, total=now.total)
        )
    path = write_report(result, out / "report.html")
    if as_json:
        print_json(result.to_dict() | {"html": str(path)})
        return
    info = result.info
    click.echo(
        f"Indexed {info.points} pictures of the example gallery with {result.encoder.name} in "
        f"{result.report.seconds:.1f} s: {info.safe} safe, {info.unsafe} unsafe."
    )
    for search in result.searches:
        console().print(f"\n{search.query.title}: {shown(search)}", style="bold")
        for answer in filter(None, (search.safe, search.as_asked)):
            hits = [replace(hit, payload={"caption": shorten(hit.payload["caption"], 64)}) for hit in answer.hits[:3]]
            print_result(replace(answer, hits=tuple(hits)), result.encoder.safety.threshold)
        if (found := search.entailed_by) is not None:
            click.echo(
                f"entailed by “{shorten(found.caption, 64)}”, {found.relation}: {found.matched:.0%} of what belongs to "
                f"such a text lies in its cone, {found.unmatched:.0%} of all else"
            )
    click.echo(f"\nReport: {path}")
    click.echo(
        f'Try your own: hysac search "…" --collection {info.name} --location {shlex.quote(str(out / "collections"))}'
    )
    # In a terminal without a desktop, a text browser would take over the screen.
    desktop = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not no_open and desktop and sys.stdout.isatty():
        webbrowser.open(path.resolve().as_uri())
