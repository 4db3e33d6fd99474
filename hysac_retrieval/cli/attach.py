"""``hysac attach``: add safe search to a collection of an application."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import Command, load_model, print_json
from hysac_retrieval.cli.options import (
    Place,
    gathered,
    index_field_option,
    journal_option,
    json_option,
    place_options,
    run_options,
)
from hysac_retrieval.cli.progress import exit_after, followed, print_report
from hysac_retrieval.errors import SettingsError, StoreError

if TYPE_CHECKING:
    from hysac_retrieval.ingest import Content, StoredVectors


def _content(
    text_field: str | None,
    image_field: str | None,
    framework: str | None,
    root: Path | None,
    prefix: str | None,
    from_vector: str | None,
    modality: str | None,
) -> Content | StoredVectors | None:
    from hysac_retrieval.ingest import Content, StoredVectors

    if from_vector is not None:
        if any((text_field, image_field, framework, root, prefix)):
            raise SettingsError("--from-vector takes the vectors that are stored, and no fields", hint="Leave them out")
        return StoredVectors(from_vector, modality or "")
    if modality is not None:
        raise SettingsError("--modality says what stored vectors stand for", hint="Name them: --from-vector")
    if not any((text_field, image_field, framework, root, prefix)):
        return None  # what the collection was attached with
    if framework is None:
        return Content(text_field, image_field, root, prefix)
    if text_field or image_field:
        what = "--from names the fields, and so do --text-field and --image-field"
        raise SettingsError(what, hint="Give one of them")
    return Content.of_framework(framework, root=root, prefix=prefix)


_content_options = gathered(
    "content",
    _content,
    click.option(
        "--text-field",
        metavar="NAME",
        help="Payload field with a text, such as title or meta.title; a bar leads into JSON: '_node_content|text'.",
    ),
    click.option("--image-field", metavar="NAME", help="Payload field with the path or URL of an image."),
    click.option(
        "--from",
        "framework",
        type=click.Choice(["langchain", "llama-index", "haystack", "clip-retrieval"]),
        help="Take the fields in which a framework keeps its content.",
    ),
    click.option(
        "--from-vector",
        metavar="NAME",
        help="Map the vectors of this name that the points have, by a model with a head for them; '' for no name.",
    ),
    click.option(
        "--modality",
        metavar="MODALITY",
        help="What these vectors stand for: text, image, or the payload field that says which.",
    ),
    click.option("--root", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the images."),
    click.option(
        "--prefix", metavar="TEXT", help="Beginning of image values that is no part of the path below --root."
    ),
)

_way_options = gathered(
    "way",
    dict,
    click.option(
        "--scores-only",
        "vectors",
        flag_value="none",
        default=None,
        help="Add scores and no vectors: all that the guard needs. The default where the vector has no name.",
    ),
    click.option("--companion", "vectors", flag_value="companion", help="Keep the vectors in a collection beside it."),
    click.option(
        "--in-place",
        "vectors",
        flag_value="in-place",
        help="Add the vectors to the collection itself, even where that changes its configuration for good.",
    ),
    click.option(
        "--label",
        "labels",
        metavar="FIELD",
        multiple=True,
        help="Payload field that a companion gets a copy of, for rules and filters; repeatable.",
    ),
    index_field_option,
)


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Have an error say what takes away again what was attached before it."""
    try:
        yield
    except StoreError as error:
        error.hint += f"{'. ' if error.hint else ''}To take away what was attached: `hysac detach --collection {name}`"
        raise


@click.command("attach", cls=Command)
@place_options(bulk=True)
@_content_options
@_way_options
@click.option("--yes", is_flag=True, help="Do not ask whether the values of a field are meant.")
@run_options
@journal_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    place: Place,
    content: Content | StoredVectors | None,
    way: dict[str, Any],
    yes: bool,
    model: str,
    encoder: str | None,
    journal: str | None,
    as_json: bool,
    **run: Any,
) -> None:
    """Add safe search to a collection of an application.

    Its points get a further vector and a safety score, made from a field of their payload: a text, or the file of an
    image; or from a vector that they have, by a head that was fitted to such vectors. Its own vectors and payload are
    not touched, and `hysac detach` removes everything again. A collection whose vector has no name gets scores only,
    unless vectors are asked for (--companion, --in-place).

    Points that are done are skipped: a run that was stopped goes on when it is started again, and later runs take up
    what the application has added or changed; they need no fields. Points without a score are never in a safe result.

    \b
    hysac-index attach --collection products --text-field title --url http://localhost:6333
    hysac-index attach --collection photos --image-field file --root ./photos --location ./data
    hysac-index attach --collection documents --from langchain --url http://localhost:6333
    hysac-index attach --collection photos --image-field url --root ./photos --prefix https://cdn.example.org/ \\
        --url http://localhost:6333
    hysac-index attach --collection photos --from-vector clip --modality image --model ./fitted
    """
    from hysac_retrieval.ingest import attached_collection_for, fill
    from hysac_retrieval.ingest.memory import expect_memory

    expect_memory()
    notes, loaded = place.journal(journal), load_model(model, encoder)

    def confirm(doubt: str) -> bool:
        return yes or (sys.stdin.isatty() and click.confirm(f"{doubt}. Judge them all the same?", err=True))

    way["labels"] = way["labels"] or None
    opened = attached_collection_for(loaded, place.collection, content, confirm=confirm, **way, **place.connection())
    with opened as index:
        with followed("Attaching") as hooks, _said(place.collection):
            report = fill(index, loaded, content, journal=notes, **hooks, **run)
        if place.location is not None and not report.interrupted:
            index.optimize()
        info = index.info()
    if as_json:
        print_json({"collection": info.to_dict(), "report": report.to_dict()})
    else:
        scores_only = index.collection.scores_only
        added = "scores" if scores_only else "vectors and scores"
        print_report(report, notes, f"Added {added} to", "points had theirs already")
        click.echo(f"Collection {place.collection!r}: {info.points} points, {info.safe} safe, {info.unsafe} not.")
        if info.name != place.collection:
            click.echo(f"The vectors are in the collection {info.name!r}; the ids are those of {place.collection!r}.")
        if scores_only:
            click.echo("There are scores and no vectors: the guard needs no more, `hysac search` needs --companion.")
    exit_after(ctx, report)
