"""``hysac explain``: show the path of a query to the origin, and what entails it there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import Command, print_json, shorten
from hysac_retrieval.cli.options import Place, json_option, model_option, place_options, root_option
from hysac_retrieval.cli.queries import filter_option, one_query_options, shard_key_option, warn_if_cut
from hysac_retrieval.cli.terminal import console

if TYPE_CHECKING:
    from hysac_retrieval.results import Hit
    from hysac_retrieval.search.explain import ExplainedStep, Explanation
    from hysac_retrieval.search.queries import Single


@click.command("explain", cls=Command)
@one_query_options
@place_options()
@click.option("--steps", default=9, show_default=True, type=click.IntRange(2, 64), help="Points of the path.")
@click.option(
    "--near", default=3, show_default=True, type=click.IntRange(1, 20), help="Texts and points to show at each."
)
@click.option("--unsafe", is_flag=True, help="Show unsafe points as well.")
@click.option("--strict-domain", is_flag=True, help="Refuse a query that is unlike anything the model knows.")
@filter_option
@shard_key_option
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw it too, as .html, .svg or .png.")
@root_option
@model_option
@json_option
def command(
    query: Single,
    place: Place,
    unsafe: bool,
    strict_domain: bool,
    plot: Path | None,
    roots: dict[str, str],
    model: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Show how unsafe a query is on its path to the origin, and which stored texts entail it there.

    A text entails a point that lies in its entailment cone; the nearer to the origin, the more general it is. Before it
    stands the relation, such as T<T* for a safe text and an unsafe one, and above the table how selective that is.

    \b
    hysac explain "a man with a gun" --collection photos --location ./data
    hysac explain photo.jpg --collection photos --location ./data --plot path.html --root photos=./photos
    """
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.safety.policy import SafetyPolicy
    from hysac_retrieval.search.connecting import connect
    from hysac_retrieval.search.figures.report import figures, pictures_in, save, section

    encoder = Encoder.load(model)
    policy = SafetyPolicy(unknown="refuse" if strict_domain else "redirect")
    with connect(place.collection, model=encoder, policy=policy, **place.connection()) as engine:
        explanation = engine.explain(query, safe=not unsafe, **options)
        if plot is not None:
            shown = section(explanation, picture=query if isinstance(query, Path) else None)
            save(figures(engine, pictures_in(roots), [shown], safe=not unsafe, limit=0), plot)
    warn_if_cut(encoder, query)
    if as_json:
        print_json(explanation.to_dict())
        return
    _print(explanation)
    if plot is not None:
        click.echo(f"Plot: {plot}")


def _print(explanation: Explanation) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    out = console()
    for number, note in enumerate(notes(explanation)):
        out.print(note, style="bold" if number == 0 else "dim")
    numbers = (Column(name, justify="right", no_wrap=True) for name in ("radius", "unsafe"))
    table = Table(
        *numbers, "where", "entailed by", "nearest", box=None, pad_edge=False, header_style="dim", padding=(0, 2, 1, 0)
    )
    for row, step in enumerate(explanation.steps):
        table.add_row(
            f"{step.radius:.3f}",
            Text(f"{step.unsafe:.3f}", style="red" if step.counts_unsafe else "green"),
            _where(row, step),
            Text("\n".join(map(_named, step.entailing, step.relations)) or "–"),
            Text("\n".join(map(_named, step.nearest)) or "–", style="dim"),
        )
    out.print(table)


def notes(explanation: Explanation) -> Iterator[str]:
    """Yield the sentences that help to read an explanation."""
    query = explanation.query
    yield f"{query}."
    if query.safe:
        yield f"Only points with an unsafe score of at most {query.thresholds} are shown."
    if not explanation.cones:
        yield (
            "No stored text entails the query: the collection has none, or the model has not learned entailment. "
            "The nearest points are shown instead."
        )
    if explanation.selectivity:
        shares = (
            f"{relation} {share.matched:.0%} and {share.unmatched:.0%}"
            for relation, share in explanation.selectivity.items()
        )
        yield (
            "Of what belongs to a text, and of all else, so much lay in its cone when the model was calibrated: "
            f"{'; '.join(shares)} (T safe text, T* unsafe text, I safe image, I* unsafe image)."
        )


def label(hit: Hit) -> str:
    """Name a point by its caption, else its text, else its file, else its id."""
    for name in ("caption", "text", "file"):
        if isinstance(value := hit.payload.get(name), str) and value.strip():
            return " ".join(value.split())
    return f"point {hit.id}"


def _named(hit: Hit, relation: str | None = None) -> str:
    whose = f"worst of {hit.views} views" if hit.views > 1 else "judged by"
    judged = "" if hit.worst is None else f" ({whose}: {hit.worst})"
    return (f"{relation}  " if relation else "") + shorten(label(hit), 60) + judged


def _where(row: int, step: ExplainedStep) -> str:
    names = ["the query"] if row == 0 else []
    if step.searched:
        names.append("searched")
    names.append("beyond the boundary" if step.beyond else "origin" if step.radius == 0 else "within")
    return ", ".join(names)
