"""``hysac label``: a person says of items whether they are unsafe, those first that tell most."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import FAILED_ITEMS, Command, print_json, tell_failed, warn
from hysac_retrieval.cli.export import stages
from hysac_retrieval.cli.options import Place, gathered, json_option, place_options
from hysac_retrieval.errors import HysacError, MissingExtraError, SettingsError

if TYPE_CHECKING:
    from hysac_export.fit.labels.asking import Asking
    from hysac_export.fit.labels.candidates import Candidates
    from hysac_export.fit.labels.notes import Notes
    from hysac_retrieval.stores.base import Store

KEYS = {"y": "unsafe", "n": "safe", "s": "skip", "u": "undo", "o": "open", "q": "quit"}
_END = ("", "\x03", "\x04", "\x1b")

_points = gathered(
    "points",
    dict,
    click.option("--vector", metavar="NAME", help="Vector of the points to choose by; '' for one without a name."),
    click.option("--text-field", metavar="NAME", help="Payload field with a text."),
    click.option("--image-field", metavar="NAME", help="Payload field with the path or URL of an image."),
    click.option("--root", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the images."),
    click.option("--prefix", metavar="TEXT", help="Beginning of image values that is no part of the path below."),
    click.option("--label-field", metavar="FIELD", help="Payload field to write to: true for unsafe, or false."),
)


@click.command("label", cls=Command)
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option(
    "--out", metavar="DIR", type=click.Path(path_type=Path), help="Folder of the labels, new or to go on with."
)
@click.option("--encoder", metavar="KIND:NAME", help="Encoder to choose by, as of `hysac fit`; or a bundle.")
@place_options(click.option("--collection", metavar="NAME", help="Label the points of a collection instead."))
@_points
@click.option("--limit", type=click.IntRange(1), default=2000, show_default=True, help="Items to choose among.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of that choice.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    sources: tuple[str, ...],
    out: Path | None,
    encoder: str | None,
    place: Place,
    points: dict[str, Any],
    as_json: bool,
    **choice: int,
) -> None:
    """Label texts and pictures as unsafe or safe, by a key each.

    Keys: y unsafe, n safe, s skip, u undo, o open the picture in its viewer, q quit. Pictures are shown where the
    terminal can (sixel, kitty; extra `labels`), else their path is.

    With an encoder, or the vectors of a collection, the items come first that tell most: to begin with what differs
    most from all before, then what a regression on the labels is least sure of; until there are eight of each kind,
    what the head is least sure of, if the encoder is a fitted bundle or the points are scored.

    Each label is kept at once, in safe.jsonl and unsafe.jsonl in the folder --out, or in a payload field; the same
    command goes on where it was stopped.

    \b
    hysac label photos/ --encoder fastembed:Qdrant/clip-ViT-B-32 --out labels
    hysac label --collection photos --vector clip --image-field file --root photos/ --label-field nsfw --path ./qdrant
    hysac fit --encoder fastembed:Qdrant/clip-ViT-B-32 --labels labels --out fitted
    """
    for package in ("sklearn", "onnx"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "fit", "hysac label")
    from hysac_export.fit.labels.asking import Asking
    from hysac_export.fit.labels.notes import Notes

    _expect(sources, out, place, points, encoder)
    notes = None if out is None else Notes(out)
    with ExitStack() as opened:
        if place.collection:
            store = _opened(place, opened)
            found = _of_collection(store, place.collection, points, choice)
            fields = [] if points["label_field"] is None else [_field(store, place.collection, points["label_field"])]
        else:
            found, fields = _of_sources(sources, encoder, choice), []
        asking = Asking(_labelled(found, notes), [*filter(None, [notes]), *fields], choice["seed"])
        _ask(asking)
    counts = {"unsafe": asking.count(True), "safe": asking.count(False), "left": asking.left}
    if as_json:
        failed = [{"item": one.item, "error": one.error} for one in found.failed]
        print_json({**counts, "out": None if out is None else str(out), "failed": failed})
    else:
        click.echo(f"{counts['unsafe']} unsafe and {counts['safe']} safe, {counts['left']} left.")
        _next(out, place, points)
    tell_failed(found.failed, as_json)
    if found.failed:
        ctx.exit(FAILED_ITEMS)


def _expect(
    sources: tuple[str, ...], out: Path | None, place: Place, points: dict[str, Any], encoder: str | None
) -> None:
    if bool(sources) == bool(place.collection):
        raise SettingsError("it is not clear what to label", hint="Give sources, or points by --collection")
    if out is None and points["label_field"] is None:
        raise SettingsError(
            "there is no place for the labels", hint="Give --out DIR, or --label-field with --collection"
        )
    if place.collection and encoder is not None:
        raise SettingsError("points are chosen by vectors that they have", hint="Give --vector in place of --encoder")
    wrong = [name for name, value in points.items() if value is not None]
    if sources and wrong:
        raise SettingsError(f"--{wrong[0].replace('_', '-')} is for points of a --collection")


def _opened(place: Place, opened: ExitStack) -> Store:
    from hysac_retrieval.stores import opening

    store, _ = opened.enter_context(opening(place.connection(), keep=False))
    return store


def _of_sources(sources: tuple[str, ...], encoder: str | None, choice: dict[str, int]) -> Candidates:
    from hysac_export.fit.labels.candidates import encoded, of_sources

    found = of_sources(sources, **choice)
    if encoder is None:
        return found
    with stages() as stage:
        return encoded(found, encoder, stage("Encoding", len(found.items)))


def _of_collection(store: Store, name: str, points: dict[str, Any], choice: dict[str, int]) -> Candidates:
    from hysac_export.fit.labels.candidates import of_collection
    from hysac_retrieval.ingest import Content

    content = Content(points["text_field"], points["image_field"], points["root"], points["prefix"])
    return of_collection(store, name, content, vector=points["vector"], label_field=points["label_field"], **choice)


def _field(store: Store, name: str, field: str) -> Any:
    from hysac_export.fit.labels.field import LabelField

    return LabelField(store, name, field)


def _labelled(found: Candidates, notes: Notes | None) -> list[Any]:
    """Return the items with the labels that are kept in a folder."""
    from dataclasses import replace

    if notes is None:
        return found.items
    kept = [(item, notes.of(item)) for item in found.items]
    return [item if note is None or note.unsafe is None else replace(item, label=note.unsafe) for item, note in kept]


def _ask(asking: Asking) -> None:
    """Ask until all is labelled, or the person has had enough."""
    from hysac_retrieval.cli.showing import open_content, show

    row = asking.next()
    while row is not None:
        item = asking.items[row]
        click.echo(
            f"\n[{asking.count(True)} unsafe, {asking.count(False)} safe, {asking.left} left]  {item.origin}", err=True
        )
        show(item.content)
        click.echo("Unsafe? " + "  ".join(f"{key} {word}" for key, word in KEYS.items()), err=True)
        while (key := _key()) not in KEYS and key not in _END:
            pass
        if key == "q" or key in _END:
            return
        if key == "o":
            open_content(item.content)
            continue
        if key == "u":
            row = _undone(asking, row)
            continue
        if key == "s":
            asking.skip(row)
        else:
            asking.answer(row, key == "y")
        row = asking.next()


def _undone(asking: Asking, row: int) -> int:
    before = asking.undo()
    if before is None:
        warn("There is nothing to undo.")
        return row
    return before


def _key() -> str:
    try:
        return click.getchar().lower()
    except (EOFError, KeyboardInterrupt):
        return ""
    except OSError as error:
        raise HysacError("there is no terminal to read keys from", hint="Run it in one") from error


def _next(out: Path | None, place: Place, points: dict[str, Any]) -> None:
    if points["label_field"] is not None:
        where = f"--from-collection {place.collection} --vector {points['vector'] or '…'}"
        click.echo(f"Fit: hysac fit {where} --label-field {points['label_field']} --out …")
    elif out is not None:
        click.echo(f"Fit: hysac fit --encoder … --labels {out} --out …")
