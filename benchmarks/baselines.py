"""What the bundled model is compared with: a Euclidean CLIP, and what recipes of others make of it.

    python benchmarks/baselines.py                         # the time of `make mini`, and a seventh of it for each other
    python benchmarks/baselines.py meru                    # on the CLIP that is there

Trains them (a finished run is taken as it is, an interrupted one resumed) and writes their encoders, rounded to float16
as the bundled model's are, to ``benchmarks/baselines/``, where `hysac eval` finds them. What each is stands in its file
in ``benchmarks/recipes/``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from ablation import train

from hysac_export.training.run import TrainedRun

BASELINES = ("clip", "meru", "safe-clip", "published-losses", "no-safety-entailment")
"""Recipes; the first is what the others start from."""

OUT = Path(__file__).parent / "baselines"


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(BASELINES))
@click.option("--runs", default="runs/ablation", type=click.Path(path_type=Path), help="Where run folders go.")
@click.option("--out", default=OUT, type=click.Path(path_type=Path), help="Where the encoders go.")
def main(names: tuple[str, ...], runs: Path, out: Path) -> None:
    for name in names or BASELINES:
        train(name, 0, runs / f"{name}-0", {})
        run = TrainedRun.load(runs / f"{name}-0")
        named = replace(run, config=run.config.model_copy(update={"name": name}))
        size = named.save(out / name, half=True)
        click.echo(f"Wrote {out / name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
