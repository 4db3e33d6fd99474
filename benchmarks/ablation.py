"""The ablation and the baselines: the same trained CLIP, fine-tuned by each recipe, and set side by side.

    python benchmarks/ablation.py                          # about a seventh of the time of `make mini` for each
    python benchmarks/ablation.py --seed 0 --seed 1 --recipe published-losses --recipe mini-on-clip

Trains a run folder for each recipe and seed (a finished one is taken as it is, an interrupted one resumed), calibrates
each on the validation split, and writes the tables of `hysac eval` to ``benchmarks/results/ablation.md``. All start
from ``benchmarks/baselines/clip``, as the paper starts from a trained CLIP, and take the same steps on the same data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from common import RESULTS, machine

from hysac_export.config import TrainConfig
from hysac_export.evaluation.paper import paper_table
from hysac_export.evaluation.report import quality_table
from hysac_export.evaluation.subjects import evaluate_subjects, load_subject, with_profile
from hysac_export.training.run import CONFIG, WEIGHTS
from hysac_export.training.train import Trainer

RECIPES = (
    "published-losses",
    "no-safety-entailment",
    "joint",
    "radius",
    "mini-on-clip",
    "no-cones",
    "fixed-curvature",
    "meru",
    "safe-clip",
)
"""Files of ``benchmarks/recipes/``, the rungs of the ablation in their order and then the baselines."""


def recipe_path(name: str) -> Path:
    """The config of a recipe."""
    return Path(__file__).parent / "recipes" / f"{name}.yaml"


def train(recipe: str, seed: int, folder: Path, changes: dict[str, Any]) -> None:
    """Train one recipe with one seed, unless that was done."""
    if (folder / WEIGHTS).is_file():
        return
    config = TrainConfig.load(recipe_path(recipe), **(changes | {"seed": seed, "name": f"{recipe}, seed {seed}"}))

    def show(step: int, metrics: dict[str, float]) -> None:
        if step % 100 == 0:
            click.echo(f"{config.name}: step {step}, loss {metrics['loss']:.3f}", err=True)

    Trainer(config, folder, resume=(folder / CONFIG).is_file()).run(show)


@click.command(help=__doc__)
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(RECIPES), help="[default: all]")
@click.option(
    "--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True, help="Seeds of the training."
)
@click.option("--split", "splits", multiple=True, default=("validation",), show_default=True, help="Splits to measure.")
@click.option("-n", "n", default=1000, show_default=True, help="Quadruplets of each split.")
@click.option("--set", "changes", multiple=True, metavar="KEY=JSON", help="A setting for all of them.")
@click.option("--runs", default="runs/ablation", type=click.Path(path_type=Path), help="Where run folders go.")
@click.option("--out", default=RESULTS / "ablation.md", type=click.Path(path_type=Path), help="Report to write.")
def main(
    recipes: tuple[str, ...],
    seeds: tuple[int, ...],
    splits: tuple[str, ...],
    n: int,
    changes: tuple[str, ...],
    runs: Path,
    out: Path,
) -> None:
    settings = {key: json.loads(value) for key, _, value in (change.partition("=") for change in changes)}
    folders = {runs / f"{recipe}-{seed}": (recipe, seed) for recipe in recipes or RECIPES for seed in seeds}
    for folder, (recipe, seed) in folders.items():
        train(recipe, seed, folder, settings)
    evaluations = evaluate_subjects([with_profile(load_subject(folder), n) for folder in folders], splits, n)
    tables = [quality_table(evaluations), quality_table(evaluations, "image")]
    tables += [paper_table([e for e in evaluations if e.split == split]) for split in splits]
    found = machine()
    how = "".join(f" --set {change}" for change in changes)
    head = (
        f"# Ablation and baselines\n\n`python benchmarks/ablation.py{how}`, on "
        f"{found['cores']} cores of {found['cpu']}. Every model is calibrated on the validation split. What a recipe "
        "is stands in its file in `benchmarks/recipes/`. A dash is what a model does not have: a radius, or "
        "a safety profile."
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n\n".join([head, *(table.markdown() for table in tables)]) + "\n", encoding="utf-8")
    click.echo(f"Wrote {out}")


if __name__ == "__main__":
    main()
