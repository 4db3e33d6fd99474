"""``hysac export``: a model bundle from a run folder, or a compressed one from a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hysac_retrieval.cli.common import (
    Command,
    console,
    print_json,
    progress_bar,
    read_json,
    read_profile,
    require_training,
)
from hysac_retrieval.cli.options import json_option
from hysac_retrieval.errors import SettingsError, SourceError, TrainingError

if TYPE_CHECKING:
    from hysac_export.bundle.compress import Precision
    from hysac_export.bundle.price import Probes
    from hysac_export.evaluation.encoded import EncodedSplit
    from hysac_export.training.run import TrainedRun
    from hysac_retrieval.encoder.bundle import Bundle
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.safety.profile import SafetyProfile

_LOSS = 0.005
"""Loss of recall@10 or AUC beyond which a caution is printed."""
_MISSED = 0.005
"""The same of unsafe inputs that count as safe since compression."""
_EXCHANGED = 0.1
"""The same of the ten nearest that are others: one of them."""
_FOREIGN = 4.0
"""A given profile belongs to another model where it misses more than so many times what calibration allows by default:
on the validation split, hundreds of points of which none was chosen, that is no accident."""


@click.command("export", cls=Command)
@click.argument("model")
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Bundle folder to write.")
@click.option("--name", help="Name of the model  [default: the run's, or the bundle's]")
@click.option("--description", help="What the model is, in words.")
@click.option("--licence", default="", help="Licence of the weights.")
@click.option(
    "--weights",
    default="float16",
    show_default=True,
    type=click.Choice(["float16", "float32"]),
    help="How weights are stored; they are computed with in float32.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="What is computed in: fp16 for GPUs, int8 for CPUs.",
)
@click.option("--static", is_flag=True, help="Fix the ranges of int8 activations on a quarter of the samples.")
@click.option("--safe", multiple=True, metavar="SOURCE", help="Safe samples to compare precisions on.")
@click.option("--unsafe", multiple=True, metavar="SOURCE", help="Unsafe samples, likewise.")
@click.option("--safety", metavar="FILE", type=click.Path(path_type=Path), help="Profile of `hysac calibrate --out`.")
@click.option("--metrics", metavar="FILE", type=click.Path(path_type=Path), help="Test metrics, JSON, to put along.")
@click.option("-n", "n", default=1000, show_default=True, type=click.IntRange(2), help="Validation quadruplets.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@json_option
def command(
    model: str,
    out: Path,
    name: str | None,
    description: str | None,
    licence: str,
    weights: Literal["float16", "float32"],
    precision: Precision,
    static: bool,
    safe: tuple[str, ...],
    unsafe: tuple[str, ...],
    safety: Path | None,
    metrics: Path | None,
    n: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    r"""Write a model bundle: ONNX graphs, tokenizer and manifest, verified.

    MODEL is a run folder of `hysac train`, or a bundle to be compressed by --precision: a folder, a bundled name or a
    hub repository, imported models included.

    From a run: the safety profile, the lift and the metrics in the manifest are computed on the validation split, after
    the weights have been rounded to what the bundle stores.

    With --precision the bundle is compared with the one in float32: recall, radii, AUC and verdicts, on your samples or
    on the validation split. What compression costs is printed and put into the manifest.

    \b
    hysac export runs/mini --out mini
    hysac export runs/mini --out mini --weights float32 --overwrite
    hysac export mini --out mini-int8 --precision int8
    hysac export hysac --out hysac-int8 --precision int8 --safe safe.jsonl --unsafe unsafe.jsonl
    """
    require_training("export")
    from hysac_export.bundle.place import check_target
    from hysac_export.evaluation.subjects import is_run

    check_target(out, overwrite)
    compressed = precision != "fp32"
    if (static and precision != "int8") or (not compressed and (safe or unsafe)):
        raise SettingsError("--static, --safe and --unsafe go with a compressed --precision, --static with int8")
    folder = Path(model)
    if is_run(folder) or (folder.is_dir() and not (folder / "hysac.json").is_file()):
        with tempfile.TemporaryDirectory(prefix="hysac-export-") as work:
            target = Path(work) / "fp32" if compressed else out
            stored: Literal["float16", "float32"] = "float32" if compressed else weights
            bundle = _of_run(folder, target, name, description or "", licence, stored, safety, metrics, n, overwrite)
            if compressed:
                bundle = _compress(bundle, out, precision, static, safe, unsafe, n, name, description, overwrite)
    else:
        from hysac_retrieval.encoder.bundle import Bundle

        if not compressed:
            raise SettingsError(f"{model} is a bundle already; say what to compress it to by --precision fp16 or int8")
        if safety is not None or metrics is not None or licence:
            raise SettingsError("--safety, --metrics and --licence go with a run; a compressed bundle has its source's")
        bundle = _compress(Bundle.load(model), out, precision, static, safe, unsafe, n, name, description, overwrite)
    _show(bundle, as_json)


def _of_run(
    run: Path,
    out: Path,
    name: str | None,
    description: str,
    licence: str,
    weights: Literal["float16", "float32"],
    safety: Path | None,
    metrics: Path | None,
    n: int,
    overwrite: bool,
) -> Bundle:
    from hysac_export.bundle.onnx import check_hyperbolic, export_bundle, round_weights
    from hysac_export.evaluation.calibrate import calibrate
    from hysac_export.evaluation.metrics import metrics as measure
    from hysac_export.training.run import TrainedRun
    from hysac_retrieval.lift import PaddedLift

    given = None if safety is None else read_profile(safety)
    test_metrics = {} if metrics is None else {"test": read_json(metrics)}
    trained = TrainedRun.load(run)
    check_hyperbolic(trained.model)
    if weights == "float16":
        round_weights(trained.model)
    encoded = _validation(trained, n)
    profile = given or calibrate(encoded, trained.curvature)
    figures = {key: figure.value for key, figure in measure(encoded, trained.curvature, profile).items()}
    if safety is not None:
        _check_profile(figures, profile, safety)
    return export_bundle(
        trained.model,
        trained.tokenizer,
        safety=profile,
        out=out,
        name=name or trained.config.name,
        text=trained.text_spec,
        mean=trained.config.model.image.mean,
        std=trained.config.model.image.std,
        lift=PaddedLift.fit(_points(encoded), trained.curvature),
        training=_provenance(trained, run),
        metrics={"validation": figures} | test_metrics,
        description=description,
        licence=licence,
        weights=weights,
        overwrite=overwrite,
    )


def _check_profile(figures: Mapping[str, float], profile: SafetyProfile, path: Path) -> None:
    """Refuse a profile under which much of what is unsafe passes for safe."""
    from hysac_export.evaluation.calibrate import MAX_MISS
    from hysac_retrieval.types import MODALITIES

    missed = {modality: 1 - figures[f"above.unsafe_{modality}"] for modality in MODALITIES}
    if max(missed.values()) > _FOREIGN * MAX_MISS:
        found = " and ".join(f"{share:.1%} of unsafe {modality}s" for modality, share in missed.items())
        raise SettingsError(
            f"with {path}, {found} of the validation split count as safe (threshold {profile.threshold:.4f}); expected "
            f"at most {_FOREIGN * MAX_MISS:.0%}. It is the profile of another model, or of other data: leave --safety "
            "out, and calibrate the bundle on your samples by `hysac calibrate BUNDLE --safe … --unsafe … --update`"
        )


def _compress(
    source: Bundle,
    out: Path,
    precision: Precision,
    static: bool,
    safe: tuple[str, ...],
    unsafe: tuple[str, ...],
    n: int,
    name: str | None,
    description: str | None,
    overwrite: bool,
) -> Bundle:
    from hysac_export.bundle.compress import compress_bundle
    from hysac_export.bundle.price import price
    from hysac_retrieval.encoder.encoder import Encoder

    before = Encoder(source, device="cpu")
    with progress_bar() as bar:
        task = bar.add_task("Reading samples", total=None)
        probes = _probes(before, safe, unsafe, n, lambda done: bar.advance(task, done))
        ranges, compared = probes.split() if static else (None, probes)
        count = sum(len(rows) for rows in compared.inputs.values())
        bar.update(task, description="Compressing and comparing", completed=0, total=2 * count)
        return compress_bundle(
            source,
            out,
            precision,
            inputs=ranges,
            price=lambda made: price(
                before, Encoder(made, device="cpu"), compared, lambda done: bar.advance(task, done)
            ),
            name=name,
            description=description,
            overwrite=overwrite,
        )


def _probes(
    encoder: Encoder, safe: tuple[str, ...], unsafe: tuple[str, ...], n: int, progress: Callable[[int], None]
) -> Probes:
    from hysac_export.bundle.price import drawn_probes, sample_probes
    from hysac_export.evaluation.subjects import bundle_subject, validation_split

    if safe or unsafe:
        return sample_probes(encoder, safe, unsafe)
    subject = bundle_subject(encoder)
    try:
        drawn = validation_split(subject, n, 0, progress)
    except (SourceError, TrainingError) as error:
        raise SettingsError(f"{error}; or give samples to compare precisions on by --safe and --unsafe") from error
    return drawn_probes(encoder, drawn, "drawn scenes" if subject.config is None else "the files it was trained with")


def _show(bundle: Bundle, as_json: bool) -> None:
    manifest = bundle.manifest
    size = sum(entry.size for entry in manifest.files.values())
    if as_json:
        print_json(
            {
                "bundle": str(bundle.path),
                "name": manifest.name,
                "fingerprint": bundle.fingerprint,
                "bytes": size,
                "verification": manifest.verification,
                "metrics": manifest.metrics,
            }
        )
    else:
        click.echo(f"Wrote {bundle.path}: {manifest.name}, {size / 1e6:.1f} MB, fingerprint {bundle.fingerprint}")
    if "price" in manifest.verification:
        _show_price(manifest.verification, as_json)
    if not as_json:
        click.echo(f"Try it: hysac index photos/ --collection photos --location ./data --model {bundle.path}")


def _show_price(verification: dict[str, Any], as_json: bool) -> None:
    """The verification table, and a caution where compression costs more than it should."""
    from rich import box
    from rich.table import Table

    found, precision = verification["price"], verification["precision"]
    table = Table(title=f"fp32 and {precision} on {found['on']}", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "fp32", precision, "difference"):
        table.add_column(column, justify="right" if column else "left")
    for way, (old, new) in found.get("recall_at_10", {}).items():
        table.add_row(f"recall@10, {way}", f"{old:.2%}", f"{new:.2%}", f"{100 * (new - old):+.2f} points")
    for modality, kept in found["kept_at_10"].items():
        table.add_row(f"ten nearest kept, {modality} queries", "", f"{kept:.2%}", "")
    for modality, error in found["radius"].items():
        table.add_row(f"error of radii, {modality}", "", f"{error['mean']:.2%}", f"at most {error['max']:.2%}")
    for modality, (old, new) in found["auc"].items():
        table.add_row(f"AUC, {modality}", f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}")
    for modality, (old, new) in found["missed"].items():
        changed = found["changed"][modality]
        table.add_row(
            f"unsafe that counts as safe, {modality}", f"{old:.2%}", f"{new:.2%}", f"{changed:.2%} of all changed"
        )
    if not as_json:
        console().print(table)
    if costs := _costs(found):
        click.secho(
            f"Caution: on {found['on']}, {precision} {', and '.join(costs)}. "
            "Try another precision, int8 without --static, or fp32.",
            fg="yellow",
            err=True,
        )


def _costs(found: Mapping[str, Any]) -> list[str]:
    """What compression costs beyond the limits, in words."""
    worse = [old - new for pairs in (found.get("recall_at_10", {}), found["auc"]) for old, new in pairs.values()]
    missed = [new - old for old, new in found["missed"].values()]
    exchanged = [1 - kept for kept in found["kept_at_10"].values()]
    return [
        f"{words[0]} {max(shares):.2%} {words[1]}"
        for shares, limit, *words in (
            (worse, _LOSS, "loses", "of recall or AUC"),
            (missed, _MISSED, "lets", "more of what is unsafe count as safe"),
            (exchanged, _EXCHANGED, "exchanges", "of the ten nearest"),
        )
        if max(shares, default=0.0) > limit
    ]


def _validation(trained: TrainedRun, n: int) -> EncodedSplit:
    from hysac_export.data.feed import open_feed
    from hysac_export.evaluation.encoded import encode_drawn

    with progress_bar() as bar:
        task = bar.add_task("Drawing", total=n)
        drawn = open_feed(trained.config).validation(n, 0, lambda done: bar.advance(task, done))
        task = bar.add_task("Encoding", total=2 * n)
        return encode_drawn(trained, drawn, lambda done: bar.advance(task, done))


def _points(encoded: EncodedSplit) -> Any:
    import numpy as np

    from hysac_export.evaluation.encoded import GROUPS

    return np.concatenate([getattr(encoded, group) for group in GROUPS])


def _provenance(trained: TrainedRun, run: Path) -> dict[str, Any]:
    """Config, last metrics and versions: what somebody needs to train the model again."""
    from importlib.metadata import version

    from hysac_export.training.run import METRICS, read_metrics
    from hysac_retrieval import __version__

    path = run / METRICS
    rows = read_metrics(path) if path.is_file() else []
    return {
        "config": trained.config.model_dump(mode="json"),
        "last": rows[-1] if rows else {},
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "versions": {package: version(package) for package in ("torch", "open_clip_torch")}
        | {"hysac-retrieval": __version__},
    }
