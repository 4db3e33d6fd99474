"""The Euclidean CLIP that the bundled model is compared with: the same towers, data, steps and seed, cosine logits.

    python benchmarks/baseline.py

Trains ``runs/clip-baseline`` (a finished run is taken as it is, an interrupted one is
resumed) and writes its encoders, rounded to float16 as the bundled model's are, to ``benchmarks/baseline/``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from hysac_export.config import TrainConfig
from hysac_export.run import CHECKPOINT, WEIGHTS, TrainedRun
from hysac_export.train import Trainer

OUT = Path(__file__).parent / "baseline"


@click.command(help=__doc__)
@click.option("--run", default="runs/clip-baseline", type=click.Path(path_type=Path), help="Run folder.")
@click.option("--out", default=OUT, type=click.Path(path_type=Path), help="Where the encoders go.")
def main(run: Path, out: Path) -> None:
    config = TrainConfig.load("mini", name="clip-baseline", **{"model.geometry": "euclidean"})
    if not (run / WEIGHTS).is_file():

        def show(step: int, metrics: dict[str, float]) -> None:
            if step % 100 == 0:
                click.echo(json.dumps({"step": step, **metrics}), err=True)

        Trainer(config, run, resume=(run / CHECKPOINT).is_file()).run(progress=show)
    size = TrainedRun.load(run).save(out, half=True)
    click.echo(f"Wrote {out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
