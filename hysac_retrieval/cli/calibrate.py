"""``hysac calibrate``: the safety profile of a trained run or of a bundle, from the validation split."""

from __future__ import annotations

from pathlib import Path

import click

from hysac_retrieval.cli.common import Command, console, json_option
from hysac_retrieval.safety import MODALITIES, SafetyProfile


@click.command("calibrate", cls=Command)
@click.argument("model")
@click.option("-n", "n", default=1000, show_default=True, type=click.IntRange(2), help="Validation quadruplets.")
@click.option("--seed", default=0, show_default=True, help="Seed of the quadruplets.")
@click.option(
    "--max-harmful",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Largest share of redirected unsafe queries whose first hit may be unsafe.",
)
@click.option(
    "--max-miss",
    default=0.02,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Largest share of unsafe points that may count as safe.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the profile here, as JSON.")
@json_option
def command(
    model: str, n: int, seed: int, max_harmful: float, max_miss: float, out: Path | None, as_json: bool
) -> None:
    """Calibrate MODEL, a run folder of `hysac train` or a bundle, on the validation split.

    The profile holds the radii of safe and unsafe samples, P(unsafe | radius) per modality, the radius that unsafe
    queries are moved to, and the score above which a point counts as unsafe.
    """
    from hysac_export.subjects import calibrated, load_subject
    from hysac_retrieval.cli.eval import counting

    with counting(n) as progress:
        subject = calibrated(
            load_subject(model), n, seed, max_harmful=max_harmful, max_miss=max_miss, progress=progress
        )
    profile = subject.profile
    if profile is None:  # `calibrated` gives one or raises
        return
    text = profile.model_dump_json(indent=1) + "\n"
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if as_json:
        click.echo(text, nl=False)
    else:
        _show(subject.name, profile)


def _show(name: str, profile: SafetyProfile) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title=f"Safety profile of {name}, threshold {profile.threshold:.4f}", box=box.SIMPLE_HEAD)
    for column in ("", "safe radius", "unsafe radius", "midpoint", "slope", "boundary"):
        table.add_column(column, justify="left" if not column else "right")
    for modality in MODALITIES:
        part = profile.of(modality)
        spans = (f"{stats.mean:.3f} ± {stats.std:.3f}" for stats in (part.safe, part.unsafe))
        table.add_row(modality, *spans, f"{part.midpoint:.3f}", f"{part.slope:.2f}", f"{part.boundary:.3f}")
    out = console()
    out.print(table)
    out.print(profile.source)
