"""How long a training step takes, and how much memory, against the published code.

    python benchmarks/train_step.py

*tiny* is the step that the published code was timed on: the towers of the tiny checkpoint (`TINY`), adapters with
dropout on everything that it adapts, eight quadruplets in float32, the data loader included. The published code needs
library versions of its own, so its times are not taken here but quoted: 166 to 180 ms as it is, for it leaves anomaly
detection on, and 39 to 43 ms without, on one thread of a 2-core Xeon with a load of 2 to 3. A fair comparison needs
that kind of machine. *mini* is the recipe `mini-scenes`, its main phase and the phase in which its stem learns
alone, without the drawing of pictures, which other processes do.

Ratios are of times by the clock; the time on the processor, beside them, is less disturbed by what else runs. Each kind
runs in a process of its own, so that its peak of memory is its own. `added` is what steps need beyond the imports,
the model and the data.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import numpy as np
from common import RESULTS, interleaved, milliseconds, show_table, write_report

if TYPE_CHECKING:
    from hysac_export.config import TrainConfig
    from hysac_export.data.batches import Batch
    from hysac_export.training.engine import Engine

Kind = Literal["tiny", "mini", "mini, stem"]
KINDS: tuple[Kind, ...] = ("tiny", "mini", "mini, stem")
PUBLISHED = {"as published": (166, 180), "without anomaly detection": (39, 43)}
"""Milliseconds of the published code's step, the medians of several runs."""
GOALS = {"as published": 4.0, "without anomaly detection": 1.2}
"""How many times faster a tiny step is to be than the faster of the published ones."""
TINY = {
    "dim": 24,
    "image": {"size": 32, "patch": 8, "width": 32, "layers": 2, "head_width": 8, "mlp_ratio": 2.0},
    "text": {"context_length": 77, "vocab_size": 256, "width": 32, "layers": 2, "heads": 4, "mlp_ratio": 2.0},
    "quick_gelu": True,
}


def tiny() -> tuple[Callable[[int], Any], int, str]:
    """A step of the tiny configuration, the quadruplets in it, and its precision."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from hysac_export.config import LoRAConfig, TrainConfig
    from hysac_export.data.batches import Batch
    from hysac_export.model.hysac import HySAC
    from hysac_export.model.lora import adapt
    from hysac_export.training.engine import Engine

    config = TrainConfig.model_validate(
        {
            "batch_size": 8,
            "model": TINY,
            "optim": {"warmup": 0.0, "schedule": "constant", "clip_norm": None},
        }
    )
    torch.manual_seed(0)
    model = HySAC(config.model)
    adapt(model, LoRAConfig())
    engine = Engine(config, model.train())
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 2, 32, 32, 3), dtype=np.uint8)
    tokens = np.full((64, 2, 77), 255)
    for row in tokens.reshape(-1, 77):
        length = rng.integers(8, 76)
        row[:length] = rng.integers(1, 255, length)
    quadruplets = TensorDataset(torch.from_numpy(pixels), torch.from_numpy(tokens))

    def batches() -> Iterator[Batch]:
        while True:
            for images, texts in DataLoader(quadruplets, batch_size=config.batch_size, shuffle=True):
                yield Batch(images.transpose(0, 1).flatten(0, 1), texts.transpose(0, 1).flatten(0, 1))

    loaded = batches()
    return (lambda step: engine.step(next(loaded), step)), config.batch_size, engine.precision


def mini(stem: bool) -> tuple[Callable[[int], Any], int, str]:
    """A step of the bundled model's recipe, the quadruplets in it, and its precision."""
    from hysac_export.config import TrainConfig

    engine, batch = prepared(TrainConfig.load("mini-scenes"))
    first = 0 if stem else engine.config.stem_steps
    return (lambda step: engine.step(batch, first + step)), engine.config.batch_size, engine.precision


def prepared(config: TrainConfig, device: str = "cpu") -> tuple[Engine, Batch]:
    """A recipe's engine on a device, its weights new and always the same, and a batch of noise for it."""
    import torch

    from hysac_export.data.batches import Batch
    from hysac_export.model.hysac import HySAC, WordHead
    from hysac_export.model.lora import adapt
    from hysac_export.model.towers import resolve
    from hysac_export.training.engine import Engine

    config = config.model_copy(update={"model": resolve(config.model)})
    torch.manual_seed(0)
    size, text, count = config.model.image.size, config.model.text, 2 * config.batch_size
    model = HySAC(config.model)
    if config.model.adapters:
        adapt(model, config.model.adapters)
    words = None
    if config.loss.words:  # as many as the captions of the scenes have, about
        words = WordHead(torch.arange(400, 800), text.vocab_size).to(device)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    tokens = rng.integers(1, text.vocab_size, (count, text.context_length))
    return Engine(config, model.train().to(device), words), Batch(torch.from_numpy(pixels), torch.from_numpy(tokens))


def measure(kind: Kind, steps: int, warmup: int, threads: int) -> dict[str, Any]:
    """Times and memory of a kind of step, to be run in a new process."""
    import torch

    torch.set_num_threads(threads)
    step, quadruplets, precision = tiny() if kind == "tiny" else mini(stem=kind == "mini, stem")
    ready = peak()
    used: list[float] = []

    def timed(number: int) -> None:
        began = time.process_time()
        step(number)
        used.append(time.process_time() - began)

    seconds = interleaved({kind: timed}, steps, warmup)[kind]
    return {
        **milliseconds(seconds),
        "cpu_p50_ms": round(1e3 * float(np.median(used[-steps:])), 4),
        "precision": precision,
        "quadruplets": quadruplets,
        "quadruplets_per_second": round(quadruplets / float(np.median(seconds)), 1),
        "memory_mb": {"peak": round(peak()), "added": round(peak() - ready)},
    }


def peak() -> float:
    """Most memory that this process has held so far, in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6 if sys.platform == "darwin" else used * 1024 / 1e6  # there in bytes, here in KiB


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """How many times faster a tiny step is than the published ones, taken at their fastest."""
    ratios = {name: round(fastest / found["p50_ms"], 2) for name, (fastest, _) in PUBLISHED.items()}
    return {
        "published_ms": {name: list(times) for name, times in PUBLISHED.items()},
        "times_faster": ratios,
        "goal": {**GOALS, "met": all(ratios[name] >= GOALS[name] for name in GOALS)},
    }


@click.command()
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), default=KINDS, show_default=True)
@click.option("--steps", default=200, show_default=True, help="Steps of the tiny configuration; a tenth of mini's.")
@click.option("--threads", default=1, show_default=True, help="The published figures are for one.")
@click.option("--quick", is_flag=True, help="A few steps, to see that it runs.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "train_step.json", show_default=False)
def main(kinds: tuple[Kind, ...], steps: int, threads: int, quick: bool, out: Path) -> None:
    """Time a training step of each kind, and compare the tiny one with the published code."""
    if quick:
        steps = 3
    runs = {}
    for kind in kinds:
        count = steps if kind == "tiny" else max(2, steps // 10)
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            runs[kind] = alone.apply(measure, (kind, count, 1 if quick else count // 10, threads))
        click.echo(f"{kind}: {runs[kind]['p50_ms']} ms", err=True)
    report: dict[str, Any] = {"torch": version("torch"), "threads": threads, "steps": runs}
    if "tiny" in runs:
        report["tiny_against_published"] = compared(runs["tiny"])
        ratios = report["tiny_against_published"]["times_faster"]
        show_table(
            ("tiny step", "published ms", "times faster", "goal"),
            [(name, "{}-{}".format(*PUBLISHED[name]), ratios[name], GOALS[name]) for name in PUBLISHED],
        )
    show_table(
        ("step", "p50 ms", "p95 ms", "CPU ms", "quadruplets/s", "peak MB", "added MB"),
        [
            (kind, r["p50_ms"], r["p95_ms"], r["cpu_p50_ms"], r["quadruplets_per_second"], *r["memory_mb"].values())
            for kind, r in runs.items()
        ],
    )
    write_report(report, out)


if __name__ == "__main__":
    main()
