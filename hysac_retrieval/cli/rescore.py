"""``hysac rescore``: give a collection the scores of a new calibration, without encoding anything again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hysac_retrieval.cli.common import FAILED_ITEMS, Command, print_json, progress_bar, read_profile
from hysac_retrieval.cli.options import Place, json_option, place_options
from hysac_retrieval.errors import SettingsError

if TYPE_CHECKING:
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.collection.rescore import RescoreReport
    from hysac_retrieval.safety.profile import SafetyProfile


@click.command("rescore", cls=Command)
@click.argument("name", metavar="[COLLECTION]", required=False)
@place_options(click.option("--collection", help="The collection, as `hysac index` names it."), bulk=True)
@click.option("--model", help="The model with its new calibration: bundled name, folder or hub repository.")
@click.option(
    "--profile",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A profile of `hysac calibrate --out` instead, for a collection of points that come from no bundle.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, name: str | None, place: Place, model: str | None, profile: Path | None, as_json: bool
) -> None:
    """Give the points of a collection the scores of a new calibration.

    Scores follow from the stored radii, so nothing is encoded again and no vector is written. Until all are rewritten,
    searches that were opened before go on with the old scores; later ones find what has its new score. A run that was
    stopped goes on when it is started again.

    \b
    hysac calibrate my-hysac --safe safe.jsonl --unsafe unsafe.jsonl --max-miss 0.01 --update
    hysac rescore photos --location ./data --model my-hysac
    """
    if (name is None) == (not place.collection):
        raise SettingsError("name one collection, as argument or by --collection")
    if (model is None) == (profile is None):
        hint = "Give --model for that of a bundle, or --profile for a file"
        raise SettingsError("which calibration is not clear", hint=hint)
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.encoder.bundle import Bundle

    bundle = None if model is None else Bundle.load(model)
    safety = bundle.manifest.safety if bundle else read_profile(profile or Path())
    with Index.open(name or place.collection, **place.connection()) as index:
        if bundle is None and not index.metadata.fingerprint.startswith("raw-"):
            what = f"collection {index.name!r} was indexed with a bundle, and would fit none with this profile"
            hint = "Put the profile into the bundle by `hysac calibrate --update`, then give that by --model"
            raise SettingsError(what, hint=hint)
        report = run_rescore(index, safety, bundle.fingerprint if bundle else None)
    show_report(report, as_json)
    ctx.exit(FAILED_ITEMS if report.left or report.differing else 0)


def run_rescore(index: Index, safety: SafetyProfile, fingerprint: str | None) -> RescoreReport:
    """Rescore with a progress bar."""
    from hysac_retrieval.collection.rescore import rescore

    with progress_bar() as bar:
        task = bar.add_task("Rescoring", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return rescore(index, safety, fingerprint=fingerprint, on_progress=show)


def show_report(report: RescoreReport, as_json: bool) -> None:
    """Print the outcome."""
    if as_json:
        print_json(report.to_dict())
        return
    click.echo(
        f"Rescored {report.rescored:,} points of {report.collection!r} in {report.seconds:.1f} s: "
        f"{report.withdrawn:,} no longer count as safe, {report.released:,} now do."
    )
    click.echo(f"Safe now: {report.safe:,} of {report.points:,}, threshold {report.thresholds}.")
    if report.unreadable:
        click.echo(f"{report.unreadable:,} carry no usable radius and count as unsafe; index them again.", err=True)
    if report.differing:
        words = "differ between their copies on the cluster; index them again, then run this again"
        click.echo(f"{report.differing:,} {words}.", err=True)
    if report.left:
        click.echo(f"{report.left:,} were written meanwhile with the earlier calibration; run this again.", err=True)
