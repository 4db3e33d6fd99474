"""``hysac export``: a model bundle from a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hysac_retrieval.cli.common import Command, json_option, print_json, progress_bar, require_training
from hysac_retrieval.errors import SettingsError

if TYPE_CHECKING:
    from hysac_export.encoded import EncodedSplit
    from hysac_export.run import TrainedRun
    from hysac_retrieval.safety import SafetyProfile


@click.command("export", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Bundle folder to write.")
@click.option("--name", help="Name of the model  [default: the run's]")
@click.option("--description", default="", help="What the model is, in words.")
@click.option("--licence", default="", help="Licence of the weights.")
@click.option("--weights", default="float16", show_default=True, type=click.Choice(["float16", "float32"]))
@click.option("--safety", metavar="FILE", type=click.Path(path_type=Path), help="Profile of `hysac calibrate --out`.")
@click.option("--metrics", metavar="FILE", type=click.Path(path_type=Path), help="Test metrics, JSON, to put along.")
@click.option("-n", "n", default=1000, show_default=True, type=click.IntRange(2), help="Validation quadruplets.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@json_option
def command(
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
    as_json: bool,
) -> None:
    r"""Write a model bundle: ONNX graphs, tokenizer and manifest, verified against the trained model.

    The safety profile, the lift and the metrics in the manifest are computed on the validation split, after the weights
    have been rounded to what the bundle stores.

    \b
    hysac export runs/mini --out mini
    hysac export runs/mini --out mini --weights float32 --overwrite
    """
    require_training("export")
    from hysac_export.calibrate import calibrate
    from hysac_export.evaluate import metrics as measure
    from hysac_export.onnx import export_bundle, round_weights
    from hysac_export.run import TrainedRun
    from hysac_retrieval.lift import PaddedLift

    given = None if safety is None else _read_profile(safety)
    test_metrics = {} if metrics is None else {"test": _read_json(metrics)}
    trained = TrainedRun.load(run)
    if weights == "float16":
        round_weights(trained.model)
    encoded = _validation(trained, n)
    profile = given or calibrate(encoded, trained.curvature)
    bundle = export_bundle(
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
        metrics={
            "validation": {key: figure.value for key, figure in measure(encoded, trained.curvature, profile).items()}
        }
        | test_metrics,
        description=description,
        licence=licence,
        weights=weights,
        overwrite=overwrite,
    )
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
        return
    click.echo(f"Wrote {bundle.path}: {manifest.name}, {size / 1e6:.1f} MB, fingerprint {bundle.fingerprint}")
    click.echo(f"Try it: hysac index photos/ --collection photos --location ./data --model {bundle.path}")


def _validation(trained: TrainedRun, n: int) -> EncodedSplit:
    from hysac_export.encoded import draw_split, encode_drawn

    with progress_bar() as bar:
        task = bar.add_task("Drawing", total=n)
        drawn = draw_split("validation", n, 0, trained.config.model.image.size, lambda done: bar.advance(task, done))
        task = bar.add_task("Encoding", total=2 * n)
        return encode_drawn(trained, drawn, lambda done: bar.advance(task, done))


def _points(encoded: EncodedSplit) -> Any:
    import numpy as np

    from hysac_export.encoded import GROUPS

    return np.concatenate([getattr(encoded, group) for group in GROUPS])


def _provenance(trained: TrainedRun, run: Path) -> dict[str, Any]:
    """Config, last metrics and versions: what somebody needs to train the model again."""
    from importlib.metadata import version

    from hysac_export.run import METRICS
    from hysac_retrieval import __version__

    path = run / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {
        "config": trained.config.model_dump(mode="json"),
        "last": json.loads(lines[-1]) if lines else {},
        "parameters": sum(parameter.numel() for parameter in trained.model.parameters()),
        "versions": {package: version(package) for package in ("torch", "open_clip_torch")}
        | {"hysac-retrieval": __version__},
    }


def _read_profile(path: Path) -> SafetyProfile:
    from pydantic import ValidationError

    from hysac_retrieval.safety import SafetyProfile

    try:
        return SafetyProfile.model_validate(_read_json(path))
    except ValidationError as error:
        raise SettingsError(f"{path} is no safety profile: {error}; `hysac calibrate --out` writes one") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read as JSON: {error}") from error
