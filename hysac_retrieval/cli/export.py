"""``hysac export``: a model bundle from a run folder, or a compressed one from a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hysac_retrieval.cli.common import (
    Command,
    print_json,
    progress_bar,
    read_json,
    read_profile,
    require_training,
    warn,
)
from hysac_retrieval.cli.options import json_option
from hysac_retrieval.cli.terminal import console

if TYPE_CHECKING:
    from hysac_export.data.split import Stages
    from hysac_retrieval.encoder.bundle import Bundle


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
def command(model: str, out: Path, safety: Path | None, metrics: Path | None, as_json: bool, **options: Any) -> None:
    """Write a model bundle: ONNX graphs, tokenizer and manifest, verified.

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
    from hysac_export.bundle.build import ExportOptions, export_model

    profile = None if safety is None else read_profile(safety)
    tested = None if metrics is None else read_json(metrics)
    with stages() as stage:
        bundle = export_model(model, out, ExportOptions(safety=profile, metrics=tested, **options), stage)
    show_bundle(bundle, as_json, metrics=bundle.manifest.metrics)


@contextmanager
def stages() -> Iterator[Stages]:
    """Show the stages of a long work on stderr, one after the other."""
    with progress_bar() as bar:
        task = bar.add_task("")

        def stage(label: str, total: int | None) -> Callable[[int], None]:
            bar.reset(task, description=label, total=total)
            return partial(bar.advance, task)

        yield stage


def show_bundle(bundle: Bundle, as_json: bool, **more: Any) -> None:
    """Print what was written, with the price of its compression; `more` is for JSON."""
    from hysac_export.bundle.price import caution, price_table

    manifest, verification = bundle.manifest, bundle.manifest.verification
    size = sum(entry.size for entry in manifest.files.values())
    if as_json:
        facts = {"bundle": str(bundle.path), "name": manifest.name, "fingerprint": bundle.fingerprint, "bytes": size}
        print_json(facts | {"verification": verification} | more)
    else:
        click.echo(f"Wrote {bundle.path}: {manifest.name}, {size / 1e6:.1f} MB, fingerprint {bundle.fingerprint}")
        if "price" in verification:
            console().print(price_table(verification).rich())
        click.echo(f"Try it: hysac index photos/ --collection photos --location ./data --model {bundle.path}")
    if "price" in verification and (costs := caution(verification)):
        mend = "Try another precision, int8 without --static, or fp32."
        warn(f"Caution: {costs}. {mend}")
