"""How fast texts and images become points: ONNX Runtime in float32 and int8 against eager open_clip, on the same CPU.

    python benchmarks/encode.py
    python benchmarks/encode.py --threads 2 --bundle runs/hysac-mini-float

Models: open_clip's ViT-B/32 with random weights, on which speed does not depend, or a bundle in float32, such as
``make mini`` leaves. Each side turns the same token ids, or the same pixels, into points: towers, projection,
exponential map, and for images the normalisation. Tokenizing and decoding are not in these times; they are the same for
all. Sides take turns, with the same number of threads.

int8 is what ``hysac export --precision int8`` makes. What that costs a bundle is measured on validation
scenes: `hysac_export.bundle.price`, which the command prints for any model.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import open_clip
import torch
from common import RESULTS, interleaved, milliseconds, show_table, write_report
from numpy.typing import NDArray
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

from hysac_export.bundle.compress import compress_bundle, quantized
from hysac_export.bundle.graphs import load_graph, save_graph
from hysac_export.bundle.onnx import ImageGraph, TextGraph, write_graph
from hysac_export.bundle.price import price, scene_probes
from hysac_export.config import ModelConfig
from hysac_export.data.batches import normalise
from hysac_export.model.hysac import HySAC
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.devices import DeviceOptions, runner
from hysac_retrieval.encoder.encoder import Encoder

MODALITIES = ("text", "image")
EAGER, FP32, INT8 = "eager", "onnx fp32", "onnx int8"
TURNS = {1: 60, 8: 20, 32: 6}
"""Calls of each side, by batch size."""
GOALS = {FP32: {1: 2.0, 32: 1.03}, INT8: {1: 4.1, 32: 3.0}}
"""Least speed of ViT-B/32 in terms of eager, by batch size."""
MAX_LOSS = 0.005
"""Largest loss of recall@10 by int8."""

Rows = NDArray[Any]
Side = Callable[[Rows], Any]


class ClipGraph(nn.Module):
    """A tower of open_clip and the exponential map: token ids or pixels to points, at curvature 1."""

    def __init__(self, clip: nn.Module, modality: str) -> None:
        super().__init__()
        self.clip = clip
        self.modality = modality

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of inputs to points (n, d)."""
        clip = cast(Any, self.clip)
        features = clip.encode_text(rows) if self.modality == "text" else clip.encode_image(normalise(rows))
        return cast(Tensor, lorentz.exp_map0(features * features.shape[-1] ** -0.5, torch.ones(())))


@dataclass(frozen=True)
class Subject:
    """A model in all its forms.

    Attributes:
        modules: By modality, the eager form.
        files: By modality and side, graphs.
        size: Side of its images in pixels.
        length: Tokens of its texts.
        vocabulary: Token ids, of which the last ends a text.
    """

    modules: dict[str, nn.Module]
    files: dict[tuple[str, str], Path]
    size: int
    length: int
    vocabulary: int

    def inputs(self, modality: str, n: int) -> Rows:
        """Random token ids or pixels: what is in them changes no speed."""
        rng = np.random.default_rng(n)
        if modality == "image":
            return rng.integers(0, 256, (n, self.size, self.size, 3), dtype=np.uint8)
        rows = rng.integers(1, self.vocabulary - 1, (n, self.length))
        rows[:, -1] = self.vocabulary - 1
        return rows

    def sides(self, modality: str, threads: int) -> dict[str, Side]:
        """What takes turns."""
        module = self.modules[modality].eval()

        @torch.inference_mode()
        def eager(rows: Rows) -> Any:
            return module(torch.from_numpy(rows)).numpy()

        options = DeviceOptions("cpu", threads=threads)
        graphs = {side: runner(options.session(self.files[modality, side])) for side in (FP32, INT8)}
        return {EAGER: eager, **graphs}


def vit(folder: Path, quick: bool, name: str = "ViT-B-32", int8: bool = True) -> Subject:
    """One of open_clip's models with random weights, or a tiny one of their kind."""
    torch.manual_seed(0)
    if quick:
        image = CLIPVisionCfg(image_size=32, patch_size=16, width=64, head_width=32, layers=1)
        text = CLIPTextCfg(context_length=16, vocab_size=400, width=64, heads=2, layers=1)
        clip: nn.Module = CLIP(32, image, text)
        size, length, vocabulary = 32, 16, 400
    else:
        clip = open_clip.create_model(name, pretrained=None)
        size, length, vocabulary = 224, 77, 49408
    modules: dict[str, nn.Module] = {modality: ClipGraph(clip, modality).eval() for modality in MODALITIES}
    subject = Subject(modules, {}, size, length, vocabulary)
    for modality, module in modules.items():
        path = folder / f"{modality}.onnx"
        write_graph(module, "rows", torch.from_numpy(subject.inputs(modality, 2)), path)
        subject.files[modality, FP32] = path
        if int8:
            subject.files[modality, INT8] = packed = folder / f"{modality}.int8.onnx"
            save_graph(quantized(load_graph(path), folder / "work"), packed)
    return subject


def packed(source: Bundle, folder: Path, threads: int, n: int) -> tuple[Subject, dict[str, Any]]:
    """A bundle, and what int8 costs it; the eager form has its architecture and random weights."""
    before = Encoder(source, device="cpu", threads=threads)
    probes = scene_probes(before, n)
    made = compress_bundle(source, folder / "int8", "int8")
    cost = price(before, Encoder(made, device="cpu", threads=threads), probes)
    config = ModelConfig.model_validate(source.manifest.training["config"]["model"])
    model = HySAC(config).eval()
    spec, text = before.image_spec, before.text_spec
    names = {"text": text.file, "image": spec.file}
    files = {
        (modality, side): bundle.file(name)
        for modality, name in names.items()
        for side, bundle in ((FP32, source), (INT8, made))
    }
    modules: dict[str, nn.Module] = {"text": TextGraph(model), "image": ImageGraph(model, spec.mean, spec.std)}
    return Subject(modules, files, spec.size, text.context_length, text.end_id + 1), cost


def measure(subject: Subject, threads: int, turns: dict[int, int]) -> dict[str, Any]:
    """Items per second of every side, modality and batch size, and in terms of eager."""
    found: dict[str, Any] = {}
    for modality in MODALITIES:
        sides = subject.sides(modality, threads)
        for batch, count in turns.items():
            rows = subject.inputs(modality, batch)
            calls = {name: lambda _, side=side, rows=rows: side(rows) for name, side in sides.items()}
            seconds = interleaved(calls, count, warmup=3)
            eager = float(np.median(seconds[EAGER]))
            found.setdefault(modality, {})[str(batch)] = {
                name: {
                    "per_second": round(batch / float(np.median(taken)), 2),
                    "ratio": round(eager / float(np.median(taken)), 3),
                    **milliseconds(taken),
                }
                for name, taken in seconds.items()
            }
    return found


def judged(speeds: dict[str, Any]) -> dict[str, Any]:
    """Whether ViT-B/32 reaches its goals; a batch size that was not measured has none."""
    return {
        f"{side}, batch {batch}, {modality}": {
            "at_least": goal,
            "found": speeds[modality][str(batch)][side]["ratio"],
            "met": speeds[modality][str(batch)][side]["ratio"] >= goal,
        }
        for side, goals in GOALS.items()
        for batch, goal in goals.items()
        for modality in MODALITIES
        if str(batch) in speeds[modality]
    }


def judged_packed(speeds: dict[str, Any], cost: dict[str, Any]) -> dict[str, Any]:
    """Whether int8 is no slower than float32, and loses no recall to speak of."""
    slower = [
        f"{modality}, batch {batch}"
        for modality, batches in speeds.items()
        for batch, sides in batches.items()
        if sides[INT8]["per_second"] < sides[FP32]["per_second"]
    ]
    loss = max(old - new for old, new in cost["recall_at_10"].values())
    return {
        "int8 not slower than fp32": {"slower": slower, "met": not slower},
        "recall@10 lost by int8": {"at_most": MAX_LOSS, "found": round(loss, 5), "met": loss <= MAX_LOSS},
    }


@click.command(help=__doc__)
@click.option("--bundle", type=click.Path(path_type=Path), help="One in float32, to take in place of ViT-B/32.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True, help="Of every side.")
@click.option("--pairs", default=1000, show_default=True, help="Validation quadruplets for the cost of int8.")
@click.option("--quick", is_flag=True, help="A small run with a tiny model, to see that it works.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "encode.json", show_default=False)
def main(bundle: Path | None, threads: int, pairs: int, quick: bool, out: Path) -> None:
    torch.set_num_threads(threads)
    turns = {1: 2, 2: 2} if quick else TURNS
    report: dict[str, Any] = {
        "what": "texts and images to points: ONNX Runtime against eager open_clip; ratios of medians",
        "threads": threads,
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory(prefix="hysac-encode-") as folder:
        if bundle is None:
            name, speeds = "ViT-B-32", measure(vit(Path(folder), quick), threads, turns)
            goals = judged(speeds)
        else:
            source = Bundle.load(bundle)
            subject, cost = packed(source, Path(folder), threads, 12 if quick else pairs)
            name, speeds = source.manifest.name, measure(subject, threads, turns)
            report["int8_costs"], goals = cost, judged_packed(speeds, cost)
    report |= {"models": {name: speeds}, "goals": {name: goals}}
    click.echo(f"{name}, {threads} threads")
    rows = [
        (f"{modality}, batch {batch}, {side}", row["ratio"], row["per_second"])
        for modality, batches in speeds.items()
        for batch, sides in batches.items()
        for side, row in sides.items()
    ]
    show_table(("", "ratio to eager", "per second"), rows)
    for goal, row in goals.items():
        click.echo(f"{name}: {goal}: {'met' if row['met'] else 'NOT met'}")
    write_report(report, out)


if __name__ == "__main__":
    main()
