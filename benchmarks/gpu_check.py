"""Check on one NVIDIA card what is written for GPUs, in eight minutes at most; without a card, say so and do nothing.

    make gpu-check
    python benchmarks/gpu_check.py --device cpu --quick      the same code at tiny sizes

*points*: ONNX Runtime on CUDA, and on TensorRT where it is installed, against the CPU, on the bundled model and on a
ViT-L/14 with random weights. *speed*: pictures per second with bound memory. *training*: a step of a recipe in bf16
against float32 on the CPU, from the same weights and batch, without dropout; then its throughput and memory. *two
processes*: two encoders on one card, against one alone.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
from common import RESULTS, interleaved, milliseconds, write_report
from encode import FP32, MODALITIES, Subject, vit
from torch import Tensor
from train_step import peak, prepared

from hysac_export.config import TrainConfig
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.devices import BoundRunner, DeviceOptions, runner
from hysac_retrieval.errors import DeviceError, MissingExtraError

Device = Literal["cpu", "cuda", "tensorrt"]
MINUTES = 8
POINTS = 1e-3
"""Largest difference of a coordinate of a point between a device and the CPU."""
LOSS, COSINE = 0.02, 0.98
"""Largest relative difference of the loss in bf16, and least cosine between its gradients and those in float32."""
TURNS = {1: 100, 32: 30, 256: 6}
RECIPES = {"mini-scenes": 32, "vit-b-16-24gb": 16}
"""The quadruplets that are compared with the CPU, which is slow; throughput is of the recipe's own batch."""
TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "head_width": 32, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 400, "width": 64, "heads": 2, "layers": 2},
}


def bundled() -> Subject:
    """The bundled model's graphs."""
    bundle = Bundle.load("hysac-mini")
    image, text = bundle.manifest.image, bundle.manifest.text
    files = {("image", FP32): bundle.file(image.file), ("text", FP32): bundle.file(text.file)}
    return Subject({}, files, image.size, text.context_length, text.end_id + 1)


def points(subject: Subject, device: Device, count: int) -> dict[str, Any]:
    """How far the points of a device lie from the CPU's: by coordinate, and by distance at curvature 1."""
    found = {}
    for modality in MODALITIES:
        rows = subject.inputs(modality, count)
        there, here = (
            runner(DeviceOptions(one).session(subject.files[modality, FP32]))(rows).astype(np.float64)
            for one in (device, "cpu")
        )
        apart = lorentz.dist(there, here, 1.0)
        found[modality] = {"difference": float(abs(there - here).max()), "distance": float(apart.max())}
    worst = max(row["difference"] for row in found.values())
    return {**found, "met": worst <= POINTS}


def speed(subject: Subject, device: Device, turns: dict[int, int]) -> dict[str, Any]:
    """Pictures per second by batch size, input and output bound to the device."""
    run = bound(subject.files["image", FP32], device)
    found = {}
    for batch, count in turns.items():
        rows = subject.inputs("image", batch)
        seconds = interleaved({"bound": lambda _, rows=rows: run(rows)}, count, warmup=3)["bound"]
        found[str(batch)] = {"per_second": round(batch / float(np.median(seconds)), 1), **milliseconds(seconds)}
    return found


def bound(path: Path, device: Device) -> BoundRunner:
    """A graph on a device, with bound memory."""
    return BoundRunner(DeviceOptions(device).session(path), device="cpu" if device == "cpu" else "cuda")


def training(recipe: str, device: Device, quick: bool) -> dict[str, Any]:
    """A step in bf16 on a device against float32 on the CPU, its throughput and its memory."""
    options: dict[str, Any] = {"optim.clip_norm": None}
    with tempfile.TemporaryDirectory(prefix="hysac-gpu-") as folder:
        if recipe == "vit-b-16-24gb":
            options |= {"model.open_clip.pretrained": None, "model.open_clip.lora": {"dropout": 0.0}}
            if quick:
                (tiny := Path(folder) / "tiny.json").write_text(json.dumps(TINY_CLIP))
                options["model.open_clip.name"] = str(tiny)
        batch = 8 if quick else RECIPES[recipe]
        one, loss = step(recipe, "cpu", {**options, "precision": "fp32", "batch_size": batch})
        other, loss_there = step(recipe, device, {**options, "precision": "bf16", "batch_size": batch})
        cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
        apart = abs(loss_there["loss"] - loss["loss"]) / abs(loss["loss"])
        if quick:
            options["batch_size"] = batch
        return {
            "loss": {name: [round(value, 5), round(loss_there[name], 5)] for name, value in loss.items()},
            "loss_difference": apart,
            "gradient_cosine": cosine,
            "gradient_norm_ratio": float(other.norm() / one.norm()),
            "met": apart <= LOSS and cosine >= COSINE,
            **throughput(TrainConfig.load(recipe, **options, precision="bf16"), device, 2 if quick else 20),
        }


def step(recipe: str, device: Device, options: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Gradients of the first step of the main phase, (p,) float64 on the CPU, and its losses."""
    engine, batch = prepared(TrainConfig.load(recipe, **options), device)
    metrics = engine.step(batch, engine.config.stem_steps)
    weights = [weight for module in engine.modules() for weight in module.parameters()]
    gradients = [weight.grad.flatten().double().cpu() for weight in weights if weight.grad is not None]
    return torch.cat(gradients), metrics


def throughput(config: TrainConfig, device: Device, steps: int) -> dict[str, Any]:
    """Quadruplets per second of a recipe's steps, and the most memory that they held, of the card if there is one."""
    engine, batch = prepared(config, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def timed(number: int) -> None:
        engine.step(batch, config.stem_steps + number)  # it reads the loss, so it waits for the card

    seconds = interleaved({"step": timed}, steps, warmup=1)["step"]
    held = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak()
    rate = config.batch_size / float(np.median(seconds))
    return {"quadruplets_per_second": round(rate, 1), **milliseconds(seconds), "memory_mb": round(held)}


def two_processes(subject: Subject, device: Device, batch: int, seconds: float) -> dict[str, Any]:
    """Pictures per second of one process, and of two at once; both must find the CPU's points."""
    path, rows = subject.files["image", FP32], subject.inputs("image", batch)
    ((single, _),) = together(1, path, device, rows, seconds)
    both = together(2, path, device, rows, seconds)
    here = runner(DeviceOptions("cpu").session(path))(rows)
    worst = max(float(abs(found - here).max()) for _, found in both)
    rates = [round(rate, 1) for rate, _ in both]
    return {"alone": round(single, 1), "both": rates, "difference": worst, "met": worst <= POINTS}


def together(count: int, path: Path, device: Device, rows: Any, seconds: float) -> list[tuple[float, Any]]:
    """Run processes that begin at the same time; returns the rate of each and its points."""
    context = get_context("spawn")
    begin, answers = context.Barrier(count), context.Queue()
    given = (path, device, rows, seconds, begin, answers)
    processes = [context.Process(target=alone, args=given, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=400) for _ in processes]
    for process in processes:
        process.join()
    return found


def alone(path: Path, device: Device, rows: Any, seconds: float, begin: Any, answers: Any) -> None:
    """Encode rows again and again, in a process of its own."""
    run = bound(path, device)
    found, turns = run(rows), 0
    begin.wait()
    start = time.perf_counter()
    while (took := time.perf_counter() - start) < seconds:
        run(rows)
        turns += 1
    answers.put((turns * len(rows) / took, found))


def sections(device: Device, quick: bool, folder: Path) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """What is checked, the most telling first; what TensorRT builds for a large model takes longest."""
    turns, count, seconds = ({1: 2, 2: 2}, 2, 0.2) if quick else (TURNS, 32, 5.0)
    models = {"hysac-mini": bundled(), "ViT-L-14": vit(folder, quick, "ViT-L-14", int8=False)}
    checks: list[tuple[str, Callable[[], dict[str, Any]]]] = []

    def graphs(name: str, on: Device) -> None:
        subject = models[name]
        checks.append((f"points, {name}, {on}", lambda: points(subject, on, count)))
        checks.append((f"speed, {name}, {on}", lambda: speed(subject, on, turns)))

    for name in models:
        graphs(name, device)
    for recipe in RECIPES:
        checks.append((f"training, {recipe}", lambda recipe=recipe: training(recipe, device, quick)))
    checks.append(("two processes", lambda: two_processes(models["hysac-mini"], device, max(turns) // 8 or 1, seconds)))
    if device == "cuda":
        for name in models:
            graphs(name, "tensorrt")
    return checks


def no_card(device: Device) -> str | None:
    """Return why there is nothing to check on; None if there is a card, or none is wanted."""
    if device == "cpu" or torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} finds no NVIDIA card; nothing was checked"


@click.command(help=__doc__)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--quick", is_flag=True, help="Tiny sizes, to see that it works.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: benchmarks/results/gpu-<card>.json.")
def main(device: Device, quick: bool, out: Path | None) -> None:
    if reason := no_card(device):
        click.echo(f"SKIPPED: {reason}", err=True)
        return
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    began, found, left_out = time.monotonic(), {}, {}
    with tempfile.TemporaryDirectory(prefix="hysac-gpu-") as folder:
        for name, check in sections(device, quick, Path(folder)):
            if "tensorrt" in name and time.monotonic() - began > 0.6 * MINUTES * 60:
                left_out[name] = "there was no time left to build its engines"
                continue
            try:
                found[name] = check()
            except (DeviceError, MissingExtraError) as error:
                if "tensorrt" not in name:
                    raise
                left_out[name] = str(error)
            click.echo(f"{name}: {json.dumps(found.get(name, left_out.get(name)))}")
    failed = [name for name, row in found.items() if not row.get("met", True)]
    goals = {"points": POINTS, "loss": LOSS, "cosine": COSINE}
    report = {"card": card, "torch": torch.__version__, "seconds": round(time.monotonic() - began), "goals": goals}
    write_report(
        {**report, "found": found, "left_out": left_out, "failed": failed},
        out or RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', card.lower())}.json",
    )
    if failed:
        sys.exit(f"NOT met: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
