"""``hysac report``: the explorer's figures of a collection, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from hysac_retrieval.cli.common import Command, print_json
from hysac_retrieval.cli.options import Place, json_option, model_option, place_options
from hysac_retrieval.cli.serve import require_serve, root_option


@click.command("report", cls=Command)
@place_options()
@model_option
@click.option("--out", default="report.html", show_default=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--query", "queries", multiple=True, metavar="TEXT", help="Text whose way is shown; repeatable.")
@root_option
@click.option("--unsafe", is_flag=True, help="Show unsafe points as well; their pictures are blurred until asked for.")
@click.option("--points", default=20_000, show_default=True, type=click.IntRange(1, 100_000), help="Points on the map.")
@json_option
def command(
    place: Place,
    model: str,
    out: Path,
    queries: tuple[str, ...],
    roots: dict[str, str],
    unsafe: bool,
    points: int,
    as_json: bool,
) -> None:
    """Draw a collection into one HTML file: its map, its radii, and what happens to some queries.

    It refers to no other file, and needs no server to be looked at.

    \b
    hysac report --collection photos --location ./data --query "a man with a gun" --root photos=./photos
    """
    require_serve("hysac report")
    from hysac_retrieval.search.connecting import connect
    from hysac_retrieval.service.pictures import Pictures
    from hysac_retrieval.service.report import write_report
    from hysac_retrieval.service.settings import Limits

    pictures = Pictures({name: Path(folder) for name, folder in roots.items()}, Limits().pixels)
    with connect(place.collection, model=model, **place.connection()) as engine:
        write_report(engine, out, pictures, queries, safe=not unsafe, limit=points)
    if as_json:
        print_json({"report": str(out)})
    else:
        click.echo(f"Report: {out}")
