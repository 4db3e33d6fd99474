"""Recall@10 of `Index.query` against exact float64 hyperbolic search, in the embedded engine.

    python benchmarks/recall.py                      # scenes encoded by the bundled model
    python benchmarks/recall.py --synthetic          # random points with the radii of a small HySAC model

The gallery holds as many safe as unsafe images. The thresholds of the engine are lowered so that every search walks
the graph; a collection of this size would otherwise be searched point by point, which is exact by construction.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from hysac_retrieval import lorentz
from hysac_retrieval.index import Index
from hysac_retrieval.safety import ModalityProfile, RadiusStats, SafetyProfile, redirect
from hysac_retrieval.stores import HnswOptions

Points = NDArray[np.float64]
K = 10
RESULTS = Path(__file__).parent / "results"
# Mean and deviation of the radii of safe and unsafe texts and images, of a small model trained on scenes.
RADII = {
    "safe_text": (1.94, 0.06),
    "safe_image": (2.42, 0.15),
    "unsafe_text": (2.78, 0.04),
    "unsafe_image": (3.16, 0.10),
}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    packages = ("hysac-retrieval", "qdrant-edge-py", "qdrant-client", "numpy", "onnxruntime")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


def synthetic(n: int, queries: int, dim: int = 128, curvature: float = 0.26) -> tuple[dict[str, Any], Points, Any]:
    """A gallery of clustered points and queries near them, with the radii of a real model."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(n // 40, 1), dim))

    def draw(group: str, count: int) -> Points:
        direction = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.normal(size=(count, dim))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        points: Points = lorentz.exp_map0(direction * rng.normal(*RADII[group], (count, 1)), curvature)
        return points

    def modality(name: str) -> ModalityProfile:
        (safe, spread), (unsafe, width) = RADII[f"safe_{name}"], RADII[f"unsafe_{name}"]
        groups = [RadiusStats.of(rng.normal(mean, std, 1000)) for mean, std in ((safe, spread), (unsafe, width))]
        return ModalityProfile(
            safe=groups[0], unsafe=groups[1], slope=20.0, midpoint=(safe + unsafe) / 2, boundary=groups[0].mean
        )

    gallery = np.concatenate([draw("safe_image", n // 2), draw("unsafe_image", n - n // 2)])
    safety = SafetyProfile(text=modality("text"), image=modality("image"), threshold=0.5, source="synthetic")
    space = {"dim": dim, "curvature": curvature, "safety": safety, "sample": gallery[:: max(n // 2000, 1)]}
    return space, gallery, {group: draw(group, queries) for group in RADII}


def encoded(model: str, n: int, queries: int) -> tuple[dict[str, Any], Points, Any]:
    """A gallery of scenes of the test split, and queries from other scenes of it, encoded by a model."""
    from hysac_export.encoded import GROUPS, encode_split
    from hysac_retrieval.encoder import Encoder

    encoder = Encoder.load(model)
    scenes: Any = encoder
    size = encoder.image_spec.size
    gallery = encode_split(scenes, "test", math.ceil(n / 2), 0, size)
    asked = encode_split(scenes, "test", queries, 1, size)
    images = np.concatenate([gallery.safe_image, gallery.unsafe_image]).astype(np.float64)[:n]
    space = {
        "dim": encoder.dim,
        "curvature": encoder.curvature,
        "safety": encoder.safety,
        "fingerprint": encoder.fingerprint,
        "lift": encoder.lift,
    }
    return space, images, {group: getattr(asked, group).astype(np.float64) for group in GROUPS}


def exact(gallery: Points, queries: Points, rows: NDArray[np.intp], curvature: float) -> list[set[int]]:
    """The K nearest of `rows` for each query, in float64."""
    found = []
    # One matrix product finds candidates with room to spare; their order is that of the accurate distance.
    products = lorentz.pairwise_inner(queries, gallery[rows], curvature)
    for query, inner in zip(queries, products, strict=True):
        near = rows[np.argpartition(-inner, min(10 * K, len(rows) - 1))[: 10 * K]]
        found.append(set(near[np.argsort(lorentz.dist(gallery[near], query[None], curvature), kind="stable")[:K]]))
    return found


def measure(index: Index, queries: Points, truth: list[set[int]], *, safe: bool, ef: int | None) -> dict[str, float]:
    """Recall@10 and time of one kind of query."""
    recall, seconds = [], []
    for query, wanted in zip(queries, truth, strict=True):
        start = time.perf_counter()
        hits = index.query(query, limit=K, safe=safe, ef=ef)
        seconds.append(time.perf_counter() - start)
        recall.append(len({hit.id for hit in hits} & wanted) / K)
    return {
        "recall": round(statistics.fmean(recall), 5),
        "perfect": round(statistics.fmean(r == 1.0 for r in recall), 5),
        "median_ms": round(1e3 * statistics.median(seconds), 3),
    }


def cost_of_ranking(index: Index, queries: Points) -> dict[str, float]:
    """Median milliseconds of the parts of a query: the engine's, and the float64 distances computed here."""
    engine, ranking = [], []
    for query in queries:
        plan = index.collection.plan(query[None], limit=K, safe=False)
        start = time.perf_counter()
        answer = index.store.query(index.name, plan.query)
        middle = time.perf_counter()
        index.collection.interpret(plan, answer)
        engine.append(middle - start)
        ranking.append(time.perf_counter() - middle)
    return {"engine_ms": 1e3 * statistics.median(engine), "ranking_ms": 1e3 * statistics.median(ranking)}


def run(space: Mapping[str, Any], gallery: Points, asked: Mapping[str, Points]) -> dict[str, Any]:
    """Index the gallery and measure every kind of query."""
    safety, curvature = space["safety"], space["curvature"]
    traversed, moved = redirect(asked["unsafe_text"], "text", safety, curvature)
    kinds = {
        "safe text": asked["safe_text"],
        "unsafe text": asked["unsafe_text"],
        "unsafe text, traversed": traversed,
        "unsafe image": asked["unsafe_image"],
    }
    with tempfile.TemporaryDirectory() as folder:
        options = HnswOptions(full_scan_threshold=10, indexing_threshold=10)
        with Index.create("gallery", **space, hnsw=options, location=folder) as index:
            start = time.perf_counter()
            for at in range(0, len(gallery), 2000):
                part = gallery[at : at + 2000]
                index.upsert(range(at, at + len(part)), part, modality="image")
            uploaded = time.perf_counter()
            index.optimize()
            built = time.perf_counter()
            info = index.info().to_dict()
            scores = safety.unsafe(lorentz.dist0(gallery, curvature), "image")
            everything, safe = np.arange(len(gallery)), np.flatnonzero(scores <= safety.threshold)
            recall: dict[str, Any] = {}
            recall_safe: dict[str, Any] = {}
            for name, queries in kinds.items():
                truth = exact(gallery, queries, everything, curvature)
                recall[name] = {
                    f"ef={ef or 'default'}": measure(index, queries, truth, safe=False, ef=ef)
                    for ef in (32, 64, None, 256)
                }
                truth = exact(gallery, queries, safe, curvature)
                recall_safe[name] = measure(index, queries, truth, safe=True, ef=None)
            return {
                "gallery": info,
                "traversed": int(moved.sum()),
                "seconds": {"upsert": round(uploaded - start, 2), "optimize": round(built - uploaded, 2)},
                "recall_at_10": recall,
                "recall_at_10_safe_true": recall_safe,
                "cost": {key: round(ms, 3) for key, ms in cost_of_ranking(index, kinds["unsafe text"]).items()},
            }


@click.command(help=__doc__)
@click.option("--model", default="hysac-mini", show_default=True, help="Bundled name, folder or hub repository.")
@click.option("--points", default=20_000, show_default=True, help="Images in the gallery.")
@click.option("--queries", default=300, show_default=True, help="Queries of each kind.")
@click.option("--synthetic", "use_synthetic", is_flag=True, help="Random points instead of encoded scenes.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: benchmarks/results/recall[-synthetic].json.")
def main(model: str, points: int, queries: int, use_synthetic: bool, out: Path | None) -> None:
    data = synthetic(points, queries) if use_synthetic else encoded(model, points, queries)
    report = {
        "what": "recall@10 of Index.query against exact float64 search, embedded engine, boosted padded lift",
        "points": "synthetic" if use_synthetic else f"scenes of the test split, encoded by {model}",
        "queries_of_each_kind": queries,
        **run(*data),
        "machine": machine(),
    }
    path = out or RESULTS / ("recall-synthetic.json" if use_synthetic else "recall.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    for name, by_ef in report["recall_at_10"].items():
        click.echo(f"{name:24}" + "  ".join(f"{ef} {found['recall']:.4f}" for ef, found in by_ef.items()))
    for name, found in report["recall_at_10_safe_true"].items():
        click.echo(f"{name:24}safe=True {found['recall']:.4f}  {found['median_ms']} ms")
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
