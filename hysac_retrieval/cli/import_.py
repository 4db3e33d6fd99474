"""``hysac import``: a model bundle from a published checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hysac_retrieval.cli.common import Command, require_training
from hysac_retrieval.cli.export import show_bundle, stages
from hysac_retrieval.cli.options import json_option


@click.command("import", cls=Command)
@click.argument("source")
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Bundle folder to write.")
@click.option(
    "--safe", multiple=True, metavar="SOURCE", help="Safe samples to calibrate on; may be given several times."
)
@click.option("--unsafe", multiple=True, metavar="SOURCE", help="Unsafe samples to calibrate on, likewise.")
@click.option(
    "--max-miss",
    default=0.02,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Largest share of unsafe samples that may count as safe.",
)
@click.option("--revision", help="Branch, tag or commit of a hub repository.")
@click.option("--name", help="Name of the model  [default: the source's]")
@click.option("--description", default="", help="What the model is, in words.")
@click.option("--licence", default="", help="Terms of the weights, to be noted in the bundle.")
@click.option("--weights", default="float32", show_default=True, type=click.Choice(["float16", "float32"]))
@click.option(
    "--lora-alpha", default=1.0, show_default=True, help="α of the LoRA adapters; ranks come from the shapes."
)
@click.option(
    "--tokenizer",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="tokenizer.json of a checkpoint whose vocabulary is not CLIP's  [default: the one beside it]",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@json_option
def command(source: str, out: Path, as_json: bool, **options: Any) -> None:
    """Write a model bundle from a checkpoint of the published HySAC code.

    SOURCE is a folder with hysac_model.pth and hysac_bounds.json, the path of such a .pth, or a repository owner/name
    on the Hugging Face hub. LoRA adapters are merged, and the bundle is verified against the merged model.

    Samples are anything that can be indexed: folders of images, text files, tables, shards. Without them the scores are
    derived from the published percentiles, which is a stopgap: see docs/published-model.md.

    \b
    hysac import aimagelab/HySAC --out hysac
    hysac import aimagelab/HySAC --out hysac --safe safe.jsonl --unsafe unsafe.jsonl
    """
    require_training("import")
    from hysac_export.published.checkpoint import import_published

    with stages() as stage:
        imported = import_published(source, out, stages=stage, **options)
    bundle = imported.bundle
    show_bundle(bundle, as_json, derived=list(imported.derived), training=bundle.manifest.training)
    if imported.derived:
        kinds = " and of ".join(f"{modality}s" for modality in imported.derived)
        click.echo(
            f"Caution: the scores of {kinds} are derived from published percentiles, not calibrated. Before relying on "
            f"safe=True, run: hysac calibrate {bundle.path} --safe … --unsafe … --update",
            err=True,
        )
    if not options["licence"]:
        click.echo("The weights come under their authors' terms, which the bundle does not hold: check them.", err=True)
