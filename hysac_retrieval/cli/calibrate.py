"""``hysac calibrate``: the safety profile of a run or of a bundle, from the validation split or from samples."""

from __future__ import annotations

from pathlib import Path

import click

from hysac_retrieval.bundle import MANIFEST_NAME, Bundle, write_manifest
from hysac_retrieval.cli.common import Command, console, json_option, progress_bar
from hysac_retrieval.errors import SettingsError
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
@click.option("--safe", multiple=True, metavar="SOURCE", help="Safe samples; may be given several times.")
@click.option("--unsafe", multiple=True, metavar="SOURCE", help="Unsafe samples, likewise.")
@click.option("--update", is_flag=True, help="Put the profile into the bundle, which thereby becomes another model.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the profile here, as JSON.")
@json_option
def command(
    model: str,
    n: int,
    seed: int,
    max_harmful: float,
    max_miss: float,
    safe: tuple[str, ...],
    unsafe: tuple[str, ...],
    update: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    r"""Calibrate MODEL, a run folder of `hysac train` or a bundle.

    The profile holds the radii of safe and unsafe samples, P(unsafe | radius) per modality, the radius that unsafe
    queries are moved to, and the score above which a point counts as unsafe.

    By default the samples are quadruplets of the validation split. Your own, for a bundle, may be anything that can be
    indexed: folders of images, text files, tables, shards. A kind that you give none of keeps its calibration.

    \b
    hysac calibrate runs/mini --out profile.json
    hysac calibrate hysac/ --safe safe.jsonl --unsafe unsafe.jsonl --update
    """
    if update and not (Path(model) / MANIFEST_NAME).is_file():
        raise SettingsError(f"--update needs the folder of a bundle, which {model!r} is not")
    if safe or unsafe:
        name, profile = _on_samples(model, safe, unsafe, max_miss)
    else:
        name, profile = _on_validation(model, n, seed, max_harmful, max_miss)
    if update:
        _update(Path(model), profile)
    text = profile.model_dump_json(indent=1) + "\n"
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if as_json:
        click.echo(text, nl=False)
    else:
        _show(name, profile)


def _on_validation(model: str, n: int, seed: int, max_harmful: float, max_miss: float) -> tuple[str, SafetyProfile]:
    from hysac_export.subjects import calibrated, load_subject
    from hysac_retrieval.cli.eval import counting

    with counting(n) as progress:
        subject = calibrated(
            load_subject(model), n, seed, max_harmful=max_harmful, max_miss=max_miss, progress=progress
        )
    if subject.profile is None:
        raise SettingsError(f"{subject.name} has no safety profile")  # `calibrated` gives one or raises
    return subject.name, subject.profile


def _on_samples(
    model: str, safe: tuple[str, ...], unsafe: tuple[str, ...], max_miss: float
) -> tuple[str, SafetyProfile]:
    from hysac_export.samples import calibrate_radii, encode_samples
    from hysac_retrieval.encoder import Encoder

    encoder = Encoder.load(model)
    with progress_bar() as bar:
        task = bar.add_task("Encoding samples", total=None)
        samples = encode_samples(encoder, safe, unsafe, lambda done: bar.advance(task, done))
    return encoder.name, calibrate_radii(samples.radii, encoder.safety, max_miss=max_miss)


def _update(folder: Path, profile: SafetyProfile) -> None:
    manifest = Bundle.load(folder).manifest
    # Figures that were measured with the old profile do not belong to the new one.
    bundle = write_manifest(folder, manifest.model_copy(update={"safety": profile, "metrics": {}}))
    click.echo(
        f"{folder} has a new fingerprint, {bundle.fingerprint}: collections that were indexed with it before must be "
        "indexed again.",
        err=True,
    )


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
