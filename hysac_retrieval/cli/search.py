"""``hysac search``: by text, image, stored point or examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import Command, load_model, print_json, shorten
from hysac_retrieval.cli.options import Place, encoder_option, json_option, model_option, place_options
from hysac_retrieval.cli.queries import filter_option, query_options, shard_key_option, threshold_option, warn_if_cut
from hysac_retrieval.cli.terminal import console
from hysac_retrieval.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from hysac_retrieval.results import GroupedResult, Hit, SearchResult
    from hysac_retrieval.safety.redirect import Traversal
    from hysac_retrieval.search.queries import Query
    from hysac_retrieval.types import Thresholds


@click.command("search", cls=Command)
@query_options
@place_options()
@click.option("--unsafe", is_flag=True, help="Answer the query as asked, with unsafe results.")
@click.option(
    "--limit", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Hits, or groups, at most."
)
@click.option("--offset", default=0, type=click.IntRange(0), help="Hits to leave out before them.")
@click.option("--modality", type=click.Choice(["image", "text"]), help="Find only points of this kind.")
@click.option("--max-distance", type=click.FloatRange(0), help="Leave out hits that are farther away than this.")
@threshold_option
@filter_option
@shard_key_option
@click.option("--group-by", metavar="KEY", help="Group the hits by a payload field.")
@click.option("--group-size", default=3, show_default=True, type=click.IntRange(1), help="Hits of each group at most.")
@click.option(
    "--traversal",
    type=click.Choice(["geodesic", "adaptive", "none"]),
    default="geodesic",
    show_default=True,
    help="How an unsafe query is redirected.",
)
@click.option("--strict-domain", is_flag=True, help="Refuse a query that is unlike anything the model knows.")
@click.option("--rerank", type=click.Choice(["exact"]), help="Compute distances anew, in float64.")
@click.option(
    "--penalty", default=0.0, type=click.FloatRange(0), help="Distance that an unsafe score of 1 adds in the ranking."
)
@model_option
@encoder_option
@json_option
def command(
    query: Query,
    place: Place,
    unsafe: bool,
    limit: int,
    offset: int,
    group_by: str | None,
    group_size: int,
    traversal: Traversal,
    strict_domain: bool,
    model: str,
    encoder: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Search a collection by text or by image, by a stored point (--similar) or by examples (--positive, --negative).

    An unsafe query is redirected to its safe counterpart and only safe points are returned, unless --unsafe is given.

    \b
    hysac search "a man with a gun" --collection photos --location ./data
    hysac search photo.jpg --collection photos --location ./data --modality text
    hysac search "a fight" --collection photos --url http://localhost:6333 --unsafe --json
    hysac search --positive beach.jpg --positive "a dog" --negative "a cat" --collection photos --location ./data
    """
    if group_by is not None and offset:
        raise SettingsError("--offset is for single hits", hint="Leave it out with --group-by")
    from hysac_retrieval.safety.policy import SafetyPolicy
    from hysac_retrieval.search.connecting import connect

    loaded = load_model(model, encoder)
    policy = SafetyPolicy(traversal=traversal, unknown="refuse" if strict_domain else "redirect")
    with connect(place.collection, model=loaded, policy=policy, **place.connection()) as engine:
        options["safe"] = not unsafe
        result: SearchResult | GroupedResult
        if group_by is None:
            result = engine.search(query, limit=limit, offset=offset, **options)
        else:
            result = engine.search_groups(query, group_by, groups=limit, size=group_size, **options)
    warn_if_cut(loaded, query)
    if as_json:
        print_json(result.to_dict())
    else:
        print_result(result, loaded.safety.threshold, first=offset + 1)


def print_result(result: SearchResult | GroupedResult, thresholds: Thresholds, *, first: int = 1) -> None:
    """Print a result as a table, or one for each group, ranked from `first`; scores that count as safe are green."""
    from hysac_retrieval.results import GroupedResult

    out = console()
    query = result.query
    out.print(str(query), style="bold")
    if query.path:
        steps = (f"{step.radius:.2f} ({step.safe_share:.0%} safe)" for step in query.path)
        out.print(f"nearest points on the path: {' → '.join(steps)}", style="dim")
    if query.thresholds is not None:
        out.print(f"safe results only (unsafe score ≤ {query.thresholds})", style="dim")
    if not len(result):
        out.print("nothing found")
    elif isinstance(result, GroupedResult):
        for group in result:
            out.print(f"\n{shorten(group.value)}", style="bold")
            out.print(_table(group.hits, thresholds, 1))
    else:
        out.print(_table(result.hits, thresholds, first))


def _table(hits: Sequence[Hit], thresholds: Thresholds, first: int) -> Table:
    from rich.table import Column, Table
    from rich.text import Text

    numbers = (Column(name, justify="right", no_wrap=True) for name in ("#", "distance", "unsafe", "radius"))
    table = Table(*numbers, Column("kind", no_wrap=True), "payload", box=None, pad_edge=False, header_style="dim")
    for rank, hit in enumerate(hits, start=first):
        is_safe = thresholds.passes(hit.unsafe, hit.modality)
        table.add_row(
            str(rank),
            f"{hit.distance:.4f}",
            Text("–" if hit.unsafe is None else f"{hit.unsafe:.3f}", style="green" if is_safe else "red"),
            "–" if hit.radius is None else f"{hit.radius:.3f}",
            hit.modality or "–",
            Text(summary(hit.payload)),
        )
    return table


def summary(payload: Any) -> str:
    """Put a payload on one line: ``name=value`` pairs, file, caption and text first."""
    first = [name for name in ("file", "caption", "text") if name in payload]
    names = [*first, *(name for name in payload if name not in first)]
    return shorten("  ".join(f"{name}={shorten(payload[name])}" for name in names), 160)
