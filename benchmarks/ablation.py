"""The ablation and the baselines: trained by the same code on the same towers, data and steps, and set side by side.

    python benchmarks/ablation.py                          # about the time of one `make mini` for each recipe
    python benchmarks/ablation.py --share 0.25 --seed 0 --seed 1 --recipe ablation-published --recipe mini

Trains a run folder for each recipe and seed (a finished one is taken as it is, an interrupted one resumed), calibrates
each on the validation split, and writes the tables of `hysac eval` to ``benchmarks/results/ablation.md``. The stem
phase, which knows nothing of what is ablated, is trained once for each seed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import click
from common import RESULTS, machine

from hysac_export.config import TrainConfig
from hysac_export.paper import paper_table
from hysac_export.report import quality_table
from hysac_export.run import CHECKPOINT, WEIGHTS
from hysac_export.subjects import evaluate_subjects, load_subject
from hysac_export.train import Trainer
from hysac_retrieval.cli.eval import with_profile

RECIPES = (
    "ablation-published",
    "ablation-no-safety-entailment",
    "ablation-joint",
    "ablation-radius",
    "mini",
    "ablation-no-cones",
    "ablation-fixed-curvature",
    "clip",
    "meru",
    "safe-clip",
)
"""Bundled configs, the rungs of the ablation in their order and then the baselines; each file says what it is."""


def train(recipe: str, seed: int, folder: Path, share: float, changes: dict[str, Any]) -> None:
    """Train one recipe with one seed, unless that was done."""
    if (folder / WEIGHTS).is_file():
        return
    whole = TrainConfig.load(recipe, **changes)
    own: dict[str, Any] = {"seed": seed, "name": f"{whole.name}, seed {seed}"}
    own["steps"] = max(1, round(share * whole.steps))
    config = TrainConfig.load(recipe, **(changes | own))

    def show(step: int, metrics: dict[str, float]) -> None:
        if step % 100 == 0:
            click.echo(f"{config.name}: step {step}, loss {metrics['loss']:.3f}", err=True)

    trainer = Trainer(config, folder, resume=(folder / CHECKPOINT).is_file())
    if trainer.step < config.stem_steps:
        stem = _stem(config, folder)
        if stem.is_file():
            shutil.copyfile(stem, folder / CHECKPOINT)
            trainer = Trainer(config, folder, resume=True)
        else:
            trainer.run(show, stop_after=config.stem_steps - trainer.step)
            shutil.copyfile(folder / CHECKPOINT, stem)
    trainer.run(show)


def _stem(config: TrainConfig, folder: Path) -> Path:
    """Where the state after the stem phase is kept: one file for all recipes to which that phase is the same."""
    ablated = {"name": True, "loss": True, "model": {"geometry"}}
    same = hashlib.sha256(config.model_dump_json(exclude=ablated).encode()).hexdigest()
    return folder.parent / f"stem-{same[:16]}.pt"


@click.command(help=__doc__)
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(RECIPES), help="[default: all]")
@click.option(
    "--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True, help="Seeds of the training."
)
@click.option("--split", "splits", multiple=True, default=("validation",), show_default=True, help="Splits to measure.")
@click.option("--share", default=1.0, show_default=True, help="Share of the recipes' steps after the stem phase.")
@click.option("-n", "n", default=1000, show_default=True, help="Quadruplets of each split.")
@click.option("--set", "changes", multiple=True, metavar="KEY=JSON", help="A setting for all of them.")
@click.option("--runs", default="runs/ablation", type=click.Path(path_type=Path), help="Where run folders go.")
@click.option("--out", default=RESULTS / "ablation.md", type=click.Path(path_type=Path), help="Report to write.")
def main(
    recipes: tuple[str, ...],
    seeds: tuple[int, ...],
    splits: tuple[str, ...],
    share: float,
    n: int,
    changes: tuple[str, ...],
    runs: Path,
    out: Path,
) -> None:
    settings = {key: json.loads(value) for key, _, value in (change.partition("=") for change in changes)}
    folders = {runs / f"{recipe}-{seed}": (recipe, seed) for recipe in recipes or RECIPES for seed in seeds}
    for folder, (recipe, seed) in folders.items():
        train(recipe, seed, folder, share, settings)
    evaluations = evaluate_subjects([with_profile(load_subject(folder), n) for folder in folders], splits, n)
    tables = [quality_table(evaluations), quality_table(evaluations, "image")]
    tables += [paper_table([e for e in evaluations if e.split == split]) for split in splits]
    found = machine()
    how = "".join([f" --share {share:g}" if share != 1 else "", *(f" --set {change}" for change in changes)])
    head = (
        f"# Ablation and baselines\n\n`python benchmarks/ablation.py{how}`, on "
        f"{found['cores']} cores of {found['cpu']}. Every model is calibrated on the validation split. What a recipe "
        "is stands in its file in `export/hysac_export/configs/`. A dash is what a model does not have: a radius, or "
        "a safety profile."
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join([head, *(table.markdown() for table in tables)]) + "\n", encoding="utf-8")
    click.echo(f"Wrote {out}")


if __name__ == "__main__":
    main()
