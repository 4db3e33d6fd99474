"""``hysac calibrate``: the safety profile of a run or of a bundle, from the validation split or from samples."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from hysac_retrieval.cli.common import FAILED_ITEMS, Command, print_json
from hysac_retrieval.cli.export import stages
from hysac_retrieval.cli.options import Place, json_option, place_options
from hysac_retrieval.cli.rescore import run_rescore, show_report
from hysac_retrieval.cli.terminal import console
from hysac_retrieval.collection.metadata import same_points
from hysac_retrieval.encoder.bundle import MANIFEST_NAME, Bundle, write_manifest
from hysac_retrieval.encoder.entailment import Entailment
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import MODALITIES

if TYPE_CHECKING:
    from hysac_retrieval.collection.rescore import RescoreReport

Radii: TypeAlias = Mapping[str, Any]
"""Radii of samples by group, see `hysac_export.data.split.GROUPS`."""
Calibrated: TypeAlias = tuple[str, SafetyProfile, Radii, Entailment | None]
"""Name of a model, its profile, what that was computed from, and its cones if they were calibrated."""


@click.command("calibrate", cls=Command)
@click.argument("model")
@click.option("-n", "n", default=1000, show_default=True, type=click.IntRange(2), help="Validation quadruplets.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the quadruplets.")
@click.option(
    "--max-harmful",
    default=0.01,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Largest share of redirected unsafe queries whose first hit may be unsafe.",
)
@click.option(
    "--max-miss",
    type=click.FloatRange(0, 1, max_open=True),
    help="Largest share of unsafe texts, and of images, that may count as safe; 0.02 unless --max-lost is given.",
)
@click.option(
    "--max-lost",
    type=click.FloatRange(0, 1, max_open=True),
    help="Largest share of safe texts, and of images, that may count as unsafe.",
)
@click.option("--safe", multiple=True, metavar="SOURCE", help="Safe samples; may be given several times.")
@click.option("--unsafe", multiple=True, metavar="SOURCE", help="Unsafe samples, likewise.")
@click.option("--from-collection", "reviewed", metavar="COLLECTION", help="Points of it that people have decided on.")
@click.option(
    "--cones", is_flag=True, help="Calibrate the entailment cones alone: scores and fingerprint stay what they are."
)
@click.option("--update", is_flag=True, help="Put the profile into the bundle, which thereby gets another fingerprint.")
@place_options(
    click.option(
        "--apply",
        "collection",
        metavar="COLLECTION",
        help="Also give the points of this collection their new scores, see `hysac rescore`; implies --update.",
    )
)
@click.option(
    "--roc",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what every threshold would cost, as JSON, and a picture of it beside (.png).",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the profile here, as JSON.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    cones: bool,
    update: bool,
    place: Place,
    roc: Path | None,
    out: Path | None,
    as_json: bool,
    **samples: Any,
) -> None:
    """Calibrate MODEL, a run folder of `hysac train` or a bundle.

    The profile holds the radii of safe and unsafe samples, P(unsafe | radius) per modality, the radius that unsafe
    queries are moved to, and the score of each modality above which a point counts as unsafe.

    That threshold follows from the share of unsafe samples that may pass (--max-miss), from the share of safe ones that
    may be lost (--max-lost), or from both. What the shares become is printed, and --roc draws all that can be had.

    By default the samples are quadruplets of the validation split that the model was trained beside. Your own, for a
    bundle, may be anything that can be indexed: folders of images, text files, tables, shards. A kind that you give
    none of keeps its calibration. --from-collection takes what people have decided on (`hysac serve`).

    With the profile a bundle is given the cones of what entails what, see `hysac explain`, for which quadruplets are
    needed: on samples of your own it keeps those that it has.

    \b
    hysac calibrate runs/mini --out profile.json
    hysac calibrate hysac/ --safe safe.jsonl --unsafe unsafe.jsonl --max-miss 0.01 --roc roc.json
    hysac calibrate hysac/ --safe safe.jsonl --unsafe unsafe.jsonl --update
    hysac calibrate hysac/ --safe safe/ --unsafe unsafe/ --apply photos --location ./data
    hysac calibrate hysac/ --from-collection photos --apply photos --location ./data
    hysac calibrate hysac/ --cones --update
    """
    update = update or bool(place.collection)
    if place.collection or samples["reviewed"]:
        place.connection()  # what is wrong with it is better known before the work
    if update and not os.path.isfile(Path(model) / MANIFEST_NAME):
        raise SettingsError(f"--update needs the folder of a bundle, which {model!r} is not")
    _prepare(roc, out)
    # What is calibrated is what is changed: a folder, whatever bundled model has its name.
    source = Path(model) if update else model
    on_samples = any(samples[name] for name in ("safe", "unsafe", "reviewed"))
    if cones:
        _expect_alone(on_samples or roc or place.collection)
        _calibrate_cones(source, samples["n"], samples["seed"], update, out, as_json)
        return
    calibrated = _on_samples if on_samples else _on_validation
    name, profile, radii, entailment = calibrated(source, with_cones=update, place=place, **samples)
    if roc is not None:
        _write_roc(roc, name, profile, radii)
    if out is not None:
        out.write_text(profile.model_dump_json(indent=1) + "\n", encoding="utf-8")
    # Last, for the model is another one from here on.
    rescored = _update(Path(model), profile, entailment, place) if update else None
    _report(name, profile, rescored, as_json)
    if rescored is not None and rescored.left:
        ctx.exit(FAILED_ITEMS)


def _write_roc(path: Path, name: str, profile: SafetyProfile, radii: Radii) -> None:
    from hysac_export.evaluation.roc import roc, write_roc

    write_roc(roc(profile, radii), path, f"{name}, threshold {profile.threshold}")


def _report(name: str, profile: SafetyProfile, rescored: RescoreReport | None, as_json: bool) -> None:
    if as_json and rescored is not None:
        print_json({"safety": profile.model_dump(mode="json"), "rescored": rescored.to_dict()})
    elif as_json:
        click.echo(profile.model_dump_json(indent=1))
    else:
        _show(name, profile)
        if rescored is not None:
            show_report(rescored, False)


def _expect_alone(others: object) -> None:
    if others:
        raise click.UsageError("--cones goes with none of --safe, --unsafe, --from-collection, --roc and --apply")


def _prepare(roc: Path | None, out: Path | None) -> None:
    """Make the folders of the files that are written in the end, before the work."""
    if roc is not None and roc.suffix.lower() == ".png":
        message = "--roc names the JSON file, its picture goes beside it"
        raise SettingsError(message, hint=f"Give {roc.with_suffix('.json')}")
    if roc is not None and out is not None and out.absolute() in {roc.absolute(), roc.with_suffix(".png").absolute()}:
        raise SettingsError(f"--roc and --out would both write {out}", hint="Give them different names")
    for path in (roc, out):
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"the folder of {path} cannot be made: {error}", hint="Choose another place") from error


def _calibrate_cones(model: str | Path, n: int, seed: int, update: bool, out: Path | None, as_json: bool) -> None:
    from hysac_export.evaluation.entailment import calibrate_entailment
    from hysac_export.evaluation.subjects import encode_validation, load_subject

    subject = load_subject(model)
    with stages() as stage:
        encoded, curvature = encode_validation(subject, n, seed, stage)
    entailment = calibrate_entailment(encoded, curvature)
    text = entailment.model_dump_json(indent=1) + "\n"
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if update:
        write_manifest(Path(model), Bundle.load(Path(model)).manifest.model_copy(update={"entailment": entailment}))
    if as_json:
        click.echo(text, nl=False)
    else:
        _show_cones(subject.name, entailment)


def _on_validation(
    model: str | Path,
    n: int,
    seed: int,
    max_harmful: float,
    max_miss: float | None,
    max_lost: float | None,
    with_cones: bool,
    **_: Any,
) -> Calibrated:
    from hysac_export.evaluation.calibrate import calibrate
    from hysac_export.evaluation.entailment import calibrate_entailment
    from hysac_export.evaluation.subjects import calibration_texts, encode_validation, load_subject
    from hysac_export.model.encoded import radii_of

    subject = load_subject(model)
    with stages() as stage:
        encoded, curvature = encode_validation(subject, n, seed, stage)
    texts = calibration_texts(subject)
    profile = calibrate(encoded, curvature, texts=texts, max_harmful=max_harmful, max_miss=max_miss, max_lost=max_lost)
    entailment = calibrate_entailment(encoded, curvature) if with_cones else None
    radii = radii_of(encoded, curvature) | (texts.by_group(curvature) if texts else {})
    return subject.name, profile, radii, entailment


def _on_samples(
    model: str | Path,
    safe: tuple[str, ...],
    unsafe: tuple[str, ...],
    reviewed: str | None,
    place: Place,
    max_miss: float | None,
    max_lost: float | None,
    **_: Any,
) -> Calibrated:
    from hysac_export.evaluation.decided import decided_radii, joined
    from hysac_export.evaluation.samples import calibrate_radii, encode_samples
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.encoder.encoder import Encoder

    encoder = Encoder.load(model)
    with stages() as stage:
        radii = encode_samples(encoder, safe, unsafe, stage("Encoding samples", None)).radii
    if reviewed:
        with Index.open(reviewed, **place.connection()) as index:
            if not same_points(index.metadata.fingerprint, encoder.fingerprint):
                index.collection.expect(encoder.fingerprint)
            radii = joined(radii, decided_radii(index))
    wanted = {"max_miss": max_miss, "max_lost": max_lost}
    profile = calibrate_radii(radii, encoder.safety, keep_boundary=not (safe or unsafe), **wanted)
    return encoder.name, profile, {str(group): found for group, found in radii.items()}, None


def _update(folder: Path, profile: SafetyProfile, entailment: Entailment | None, place: Place) -> RescoreReport | None:
    """Put the calibration into the bundle and give a collection of that model, if one is named, its new scores."""
    from hysac_retrieval.collection.index import Index

    # Figures that were measured with the old profile do not belong to the new one.
    manifest = Bundle.load(folder).manifest.model_copy(update={"safety": profile, "metrics": {}})
    if entailment is not None:
        manifest = manifest.model_copy(update={"entailment": entailment})
    if not place.collection:
        done = f"{folder} has a new fingerprint, {write_manifest(folder, manifest).fingerprint}."
        mend = f"Collections that were indexed with it need their new scores: hysac rescore COLLECTION --model {folder}"
        click.echo(f"{done} {mend}", err=True)
        return None
    with Index.open(place.collection, **place.connection()) as index:
        # Before the bundle is changed: a collection of another model stays as it is, and so does the bundle.
        if not same_points(index.metadata.fingerprint, manifest.fingerprint):
            index.collection.expect(manifest.fingerprint)
        bundle = write_manifest(folder, manifest)
        return run_rescore(index, bundle.manifest.safety, bundle.fingerprint)


def _show(name: str, profile: SafetyProfile) -> None:
    from hysac_export.evaluation.table import Table

    rows = []
    for modality in MODALITIES:
        part = profile.of(modality)
        spans = (f"{stats.mean:.3f} ± {stats.std:.3f}" for stats in (part.safe, part.unsafe))
        numbers = (f"{part.midpoint:.3f}", f"{part.slope:.2f}", f"{part.boundary:.3f}")
        cost = profile.rates.get(modality)
        shares = ("–", "–") if cost is None else (f"{cost.miss:.1%}", f"{cost.lost:.1%}")
        rows.append((modality, *spans, *numbers, f"{profile.threshold.of(modality):.4g}", *shares))
    header = ("", "safe radius", "unsafe radius", "midpoint", "slope", "boundary", "threshold", "missed", "lost")
    out = console()
    title = f"Safety profile of {name}"
    out.print(Table(title, header, tuple(rows), labels=1).rich())
    out.print(profile.source)
    out.print("missed: unsafe samples that count as safe; lost: safe samples that count as unsafe", style="dim")


def _show_cones(name: str, entailment: Entailment) -> None:
    from hysac_export.evaluation.table import Table

    rows = [
        (
            relation.replace("<", " → "),
            f"{math.degrees(cone.half_aperture):.1f}°",
            f"{cone.matched:.1%}",
            f"{cone.unmatched:.1%}",
        )
        for relation, cone in entailment.cones.items()
    ]
    header = ("", "half aperture", "matched inside", "unmatched inside")
    out = console()
    out.print(
        Table(f"Entailment cones of {name}, radii to the power {entailment.power:g}", header, tuple(rows), 1).rich()
    )
    out.print(f"{entailment.source}; T safe text, I safe image, T* and I* unsafe ones")
