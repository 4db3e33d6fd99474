"""``hysac demo``: the whole path on the example gallery, with a report to look at."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hysac_retrieval.cli.common import Command, console, print_json, progress_bar, shorten
from hysac_retrieval.cli.options import json_option, model_option

if TYPE_CHECKING:
    from hysac_retrieval.demo import DemoSearch
    from hysac_retrieval.results import SearchResult


@click.command("demo", cls=Command)
@click.option("--out", default="demo", show_default=True, metavar="DIR", type=click.Path(path_type=Path))
@click.option("--no-open", is_flag=True, help="Do not show the report in a browser.")
@model_option
@json_option
def command(out: Path, no_open: bool, model: str, as_json: bool) -> None:
    r"""Index the example gallery and search it: a safe query, an unsafe one, an unsafe picture.

    Needs no server, no GPU and no download. Writes report.html and the collection to DIR.

    \b
    hysac demo
    hysac search "a man with a gun" --collection gallery --location demo/collections
    """
    from hysac_retrieval.demo import run_demo, write_report

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
        f"Indexed {info.points} pictures of the example gallery with {result.model} in {result.report.seconds:.1f} s: "
        f"{info.safe} safe, {info.unsafe} unsafe."
    )
    for search in result.searches:
        _print(search, result.safety.threshold)
    click.echo(f"\nReport: {path}")
    click.echo(
        f'Try your own: hysac search "…" --collection {info.name} --location {shlex.quote(str(out / "collections"))}'
    )
    # In a terminal without a desktop, a text browser would take over the screen.
    desktop = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not no_open and desktop and sys.stdout.isatty():
        webbrowser.open(path.resolve().as_uri())


def _print(search: DemoSearch, threshold: float) -> None:
    from hysac_retrieval.demo.report import shown

    out = console()
    out.print(f"\n{search.query.title}: {shown(search)}", style="bold", markup=False)
    _print_hits("safe=True ", search.safe, threshold)
    if search.as_asked is not None:
        _print_hits("safe=False", search.as_asked, threshold)


def _print_hits(label: str, result: SearchResult, threshold: float) -> None:
    from rich.text import Text

    from hysac_retrieval.cli.search import describe
    from hysac_retrieval.demo.report import is_safe

    out = console()
    out.print(f"  {label}  {describe(result.query)}", markup=False)
    for hit in result.hits[:3]:
        unsafe = "–" if hit.unsafe is None else f"{hit.unsafe:.3f}"
        line = Text(f"    {hit.distance:.3f}  unsafe ")
        line.append(unsafe, style="green" if is_safe(hit, threshold) else "red")
        line.append(f"  {shorten(hit.payload.get('caption', hit.payload.get('file', '')), 90)}")
        out.print(line)
