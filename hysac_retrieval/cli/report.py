"""``hysac report``: the explorer's figures of a collection, in files."""

from __future__ import annotations

from pathlib import Path

import click

from hysac_retrieval.cli.common import Command, print_json
from hysac_retrieval.cli.options import Place, json_option, model_option, place_options, root_option


@click.command("report", cls=Command)
@place_options()
@model_option
@click.option(
    "--out",
    default="report.html",
    show_default=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A page (.html), or a folder for every figure as SVG and PNG.",
)
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
    """Draw a collection: its map, its radii, and what happens to some queries.

    A page refers to no other file, and needs no server to be looked at. Figures need the extra `figures`.

    \b
    hysac report --collection photos --location ./data --query "a man with a gun" --root photos=./photos
    hysac report --collection photos --location ./data --out figures/
    """
    from hysac_retrieval.search.connecting import connect
    from hysac_retrieval.search.figures.report import NEAR, figures, pictures_in, save, section

    with connect(place.collection, model=model, **place.connection()) as engine:
        sections = [section(engine.explain(query, safe=not unsafe, near=NEAR)) for query in queries]
        save(figures(engine, pictures_in(roots), sections, safe=not unsafe, limit=points), out)
    if as_json:
        print_json({"report": str(out)})
    else:
        click.echo(f"Report: {out}")
