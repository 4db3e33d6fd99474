"""``hysac search``: one query, by text or image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hysac_retrieval.cli.common import (
    Command,
    connection,
    connection_options,
    console,
    json_option,
    model_option,
    print_json,
    shorten,
)

if TYPE_CHECKING:
    from hysac_retrieval.results import QueryInfo, SearchResult


@click.command("search", cls=Command)
@click.argument("query", metavar="QUERY|IMAGE")
@click.option("--collection", required=True, help="Name of the collection.")
@connection_options
@click.option("--unsafe", is_flag=True, help="Answer the query as asked, with unsafe results.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--modality", type=click.Choice(["image", "text"]), help="Find only points of this kind.")
@click.option("--threshold", type=float, help="Stricter threshold of the unsafe score than the model's.")
@click.option("--filter", "condition", metavar="JSON", help="Qdrant filter on the payload; it can only narrow.")
@model_option
@json_option
def command(
    query: str,
    collection: str,
    location: str | None,
    url: str | None,
    api_key: str | None,
    prefer_grpc: bool,
    unsafe: bool,
    limit: int,
    modality: Literal["image", "text"] | None,
    threshold: float | None,
    condition: str | None,
    model: str,
    as_json: bool,
) -> None:
    r"""Search a collection by text or by image.

    An unsafe query is redirected to its safe counterpart and only safe points are returned, unless --unsafe is given.

    \b
    hysac search "a man with a gun" --collection photos --location ./data
    hysac search photo.jpg --collection photos --location ./data --modality text
    hysac search "a fight" --collection photos --url http://localhost:6333 --unsafe --json
    """
    place = connection(location, url, api_key, prefer_grpc)
    from hysac_retrieval.encoder import Encoder
    from hysac_retrieval.queries import IMAGE_SUFFIXES
    from hysac_retrieval.search import connect

    encoder = Encoder.load(model)
    # A name with the suffix of an image is meant as a file: one that is missing must not become a text query.
    is_image = Path(query).suffix.lower() in IMAGE_SUFFIXES and (Path(query).exists() or " " not in query)
    with connect(collection, model=encoder, **place) as engine:
        result = engine.search(
            Path(query) if is_image else query,
            safe=not unsafe,
            limit=limit,
            modality=modality,
            threshold=threshold,
            filter=_filter(condition),
        )
    if not is_image and encoder.count_tokens(query) > encoder.text_spec.context_length:
        click.echo("The query is longer than the model reads; only its beginning counts.", err=True)
    if as_json:
        print_json(result.to_dict())
    else:
        print_result(result, encoder.safety.threshold)


def describe(query: QueryInfo) -> str:
    """What was done to a query, in one line."""
    kind = query.modality or "point"
    line = f"{kind} query: radius {query.radius:.3f}, unsafe {query.unsafe:.3f}"
    if query.redirected:
        return f"{line} → redirected to radius {query.radius_searched:.3f}"
    return f"{line}, searched as asked" + ("" if query.safe else " (unsafe results allowed)")


def print_result(result: SearchResult, threshold: float) -> None:
    """Print a result as a table, with what was done to the query above it; scores up to the threshold in green."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(describe(result.query), style="bold", markup=False)
    if result.query.threshold is not None:
        out.print(f"safe results only (unsafe score ≤ {result.query.threshold:.3g})", style="dim", markup=False)
    if not result.hits:
        out.print("nothing found")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("#", "distance", "unsafe", "radius"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("payload")
    for rank, hit in enumerate(result.hits, start=1):
        is_safe = hit.unsafe is not None and hit.unsafe <= threshold
        table.add_row(
            str(rank),
            f"{hit.distance:.4f}",
            Text("–" if hit.unsafe is None else f"{hit.unsafe:.3f}", style="green" if is_safe else "red"),
            "–" if hit.radius is None else f"{hit.radius:.3f}",
            hit.modality or "–",
            Text(summary(hit.payload)),
        )
    out.print(table)


def summary(payload: Any) -> str:
    """A payload in one line: ``name=value`` pairs, the telling ones first."""
    first = [name for name in ("file", "caption", "text") if name in payload]
    names = [*first, *(name for name in payload if name not in first)]
    return shorten("  ".join(f"{name}={shorten(payload[name])}" for name in names), 160)


def _filter(condition: str | None) -> dict[str, Any] | None:
    if condition is None:
        return None
    try:
        value = json.loads(condition)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--filter") from error
    if not isinstance(value, dict):
        raise click.BadParameter(f"expected a JSON object, found {type(value).__name__}", param_hint="--filter")
    return value
