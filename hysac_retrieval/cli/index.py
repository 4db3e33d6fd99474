"""``hysac index``: index folders, images, texts, tables, shards and datasets into a collection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import Command, load_model, print_json
from hysac_retrieval.cli.options import (
    Place,
    Sources,
    index_field_option,
    json_option,
    place_options,
    run_options,
    source_options,
)
from hysac_retrieval.cli.progress import exit_after, followed, print_report
from hysac_retrieval.errors import CollectionNotFoundError, SettingsError

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest import IndexReport
    from hysac_retrieval.results import IndexInfo

_STORAGE = ("on_disk", "shards", "replication_factor", "write_consistency_factor", "shard_by")


@click.command("index", cls=Command)
@source_options
@place_options(click.option("--collection", help="Name of the collection  [required without --alias]"), bulk=True)
@run_options
@click.option("--recreate", is_flag=True, help="Remove the collection first, with all its points.")
@click.option(
    "--alias", metavar="NAME", help="Build a new collection, and move this alias to it when it is complete (server)."
)
@click.option("--keep", default=0, show_default=True, type=click.IntRange(min=0), help="Older ones that --alias keeps.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(("missing", "stale", "failed")),
    help="Do only what is not stored, has changed, or failed before; may be given several times.",
)
@click.option("--prune", is_flag=True, help="Remove the points whose items have left the sources.")
@click.option(
    "--prune-limit",
    default="10%",
    show_default=True,
    metavar="N",
    help="Points of a source that --prune may remove: a number, or a percentage (and at least 1). If more are to go, "
    "none is removed.",
)
@click.option("--yes", is_flag=True, help="Let --prune remove any number of points.")
@click.option(
    "--quantization",
    type=click.Choice(("int8", "turbo8", "turbo4", "binary")),
    help="Compress the vectors that the graph compares, in a collection that is made.",
)
@click.option("--on-disk/--in-memory", default=None, help="Where a new collection keeps its vectors.")
@click.option("--shards", type=click.IntRange(min=1), help="Shards of a new collection, on a cluster.")
@click.option("--replication-factor", type=click.IntRange(min=1), help="Copies of each shard, on a cluster.")
@click.option(
    "--write-consistency-factor", type=click.IntRange(min=1), help="Copies that confirm a write, on a cluster."
)
@click.option(
    "--shard-by", metavar="FIELD", help="Payload field that divides a new collection into shards for each tenant."
)
@index_field_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--ray", is_flag=True, help="Encode on a Ray cluster, by --workers actors; the sources lie there by the same paths."
)
@click.option(
    "--ray-address", metavar="ADDRESS", help="Address of the Ray cluster  [default: RAY_ADDRESS, else this machine]"
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, /, sources: Sources, place: Place, model: str, dry_run: bool, as_json: bool, **given: Any
) -> None:
    """Index images and texts into a collection.

    SOURCE is a folder of images (searched recursively, links followed, hidden ones left out), an image, a text file
    (one text per line), a table (.jsonl, .csv, .parquet) with a field for an image, a text, or both, whose further
    fields go into the payload, a webdataset shard (.tar; {000..010} stands for a range), or a Hugging Face dataset
    (hf:NAME, or a folder).

    What is stored already and has not changed is skipped, so a run that was stopped goes on when it is started again.
    An item that fails is reported and kept in the journal, the rest goes on, and the exit code is 3.

    \b
    hysac-index photos/ --collection photos --location ./data
    hysac-index photos/ --captions captions.jsonl --collection photos --url http://localhost:6333
    hysac-index 'shards/{000..127}.tar' --collection web --location ./data --workers 8
    hysac-index photos/ --alias photos --keep 1 --url http://localhost:6333
    hysac-index photos/ --collection photos --location ./data --prune --only failed
    hysac-index photos/ --collection photos --url http://localhost:6333 --quantization int8 --shards 6
    hysac-index hf:beans --split train --collection beans --url http://localhost:6333 --ray
    hysac-index attach --help     (a collection that an application has already)
    """
    from hysac_retrieval.ingest.memory import expect_memory

    expect_memory()
    if given["recreate"] and given["only"]:
        what = "--recreate leaves nothing stored among which --only could choose"
        raise SettingsError(what, hint="Give one of the two")
    alias, keep = given.pop("alias"), given.pop("keep")
    place = _named(place, alias)
    encoder, notes = load_model(model, given.pop("encoder")), place.journal(sources.journal)
    yes, limit = given.pop("yes"), given.pop("prune_limit")
    given["prune_limit"] = None if yes else limit
    if dry_run:
        _dry_run(sources, place, encoder, notes, given, as_json)
        return
    report, info = _index(sources, place, encoder, notes, given)
    removed = None if alias is None or report.interrupted else _moved(place, alias, keep)
    if as_json:
        print_json({"collection": info.to_dict(), "report": report.to_dict(), "alias": alias, "removed": removed})
    else:
        print_report(report, notes, "Indexed", "were in the collection already")
        click.echo(f"Collection {info.name!r}: {info.points} points, {info.safe} safe, {info.unsafe} unsafe.")
        if info.beyond:
            click.echo(f"{info.beyond} points lie beyond the lift of the collection; --recreate fits a new one.")
        if removed is not None:
            click.echo(f"The alias {alias!r} points to it" + (f"; {', '.join(removed)} removed." if removed else "."))
        elif alias is not None:
            click.echo(f"To go on: the same command with --collection {info.name}.", err=True)
    exit_after(ctx, report)


def _named(place: Place, alias: str | None) -> Place:
    """Return a place with the name of the collection, which an alias makes if none is given."""
    from hysac_retrieval.collection.alias import expect_alias, name_under
    from hysac_retrieval.stores import opening

    if alias is not None:
        with opening(place.connection(), keep=False) as (store, _):
            expect_alias(store, alias)
        return place if place.collection else replace(place, collection=name_under(alias))
    if not place.collection:
        raise SettingsError("no collection is named", hint="Give --collection NAME, or --alias NAME")
    return place


def _moved(place: Place, alias: str, keep: int) -> list[str]:
    """Move an alias to the collection that was built for it; return the names of those that were removed."""
    from hysac_retrieval.collection.alias import switch
    from hysac_retrieval.stores import opening

    with opening(place.connection(), keep=False) as (store, _):
        return switch(store, alias, place.collection, keep)


def _index(
    sources: Sources, place: Place, encoder: Encoder, notes: Path | None, given: dict[str, Any]
) -> tuple[IndexReport, IndexInfo]:
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.ingest import check_sources, index_sources
    from hysac_retrieval.ingest.indexing import detector_of
    from hysac_retrieval.ingest.pruning import PruneLimit
    from hysac_retrieval.stores import StorageOptions

    made: dict[str, Any] = {name: given.pop(name) for name in ("recreate", "quantization", "index_fields")}
    made["exist_ok"] = not made["recreate"]
    made["storage"] = StorageOptions(**{name: given.pop(name) for name in _STORAGE})
    ray, address = given.pop("ray"), given.pop("ray_address")
    if ray or address:
        from hysac_retrieval.ingest.ray import RayOptions

        given["ray"] = RayOptions(address=address, actors=given["workers"] or None)
    PruneLimit.of(given["prune_limit"])
    # A slip is noticed before a collection is made, or removed.
    given["judge"] = detector_of(given)  # type: ignore[arg-type]  # of all options
    check_sources(sources.paths, options=sources.options, only=given["only"], resume=given["resume"], journal=notes)
    given |= {"options": sources.options, "journal": notes}
    opened = Index.for_model(encoder, place.collection, **made, **place.connection())
    with opened as index:
        with followed("Indexing") as hooks:
            report = index_sources(sources.paths, index, encoder, **hooks, **given)
        return report, index.info()


def _dry_run(
    sources: Sources, place: Place, encoder: Encoder, notes: Path | None, given: dict[str, Any], as_json: bool
) -> None:
    from hysac_retrieval.cli.status import print_status
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.ingest import status_of
    from hysac_retrieval.ingest.pruning import PruneLimit

    anew = given["recreate"] or not given["resume"]
    try:
        with Index.open(place.collection, expect_fingerprint=encoder.fingerprint, **place.connection()) as index:
            status = status_of(
                sources.paths, None if anew else index, options=sources.options, journal=notes, encoder=encoder
            )
    except CollectionNotFoundError:
        status = status_of(sources.paths, None, options=sources.options, journal=notes, encoder=encoder)
    limit = PruneLimit.of(given["prune_limit"])
    refusal = limit.refusal(dict(status.departed)) if limit and given["prune"] else ""
    would = {
        "index": sum(getattr(status, state) for state in given["only"] or ("missing", "stale", "failed")),
        "prune": (status.left or 0) if given["prune"] and not refusal else 0,
    }
    if as_json:
        print_json({"dry_run": True, "would": would, "refused": refusal, "status": status.to_dict()})
        return
    print_status(status)
    click.echo(f"Would index {would['index']:,} and remove {would['prune']:,}; nothing was done.")
    if refusal:
        click.echo(f"Without --yes, nothing would be removed: {refusal}.", err=True)
