"""How fast the vectors that an application has stored are given points and scores by a head.

    python benchmarks/foreign.py
    python benchmarks/foreign.py --points 1000000 --no-write

Vectors of the embedded engine, under cosine, with a payload beside them; a head that is fitted to labels of some. "Up
to writing" is all of ``hysac-index attach --from-vector`` but the engine's own writes: reading pages, hashes, the head,
records with vectors, scores and verdicts. "With writing" is the whole run; a second one then finds that all is done.
Memory is what the process has of its own at most, beyond what it had with the collection open; pages of files that the
engine maps are not counted.

Points per second of processor time, all threads together, are given beside those of the clock: the latter mean little
on a machine that has other work, as its load tells.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import qdrant_edge as edge
from common import RESULTS, show_table, write_report

from hysac_export.fit.graph import head_graph
from hysac_export.fit.radial import fit_heads, profile_of
from hysac_export.fit.scores import Labelled
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.records import records
from hysac_retrieval.encoder.bundle import Manifest, VectorSpec, entry_of, write_manifest
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.ingest import StoredVectors, attached_collection_for, fill
from hysac_retrieval.ingest.items import FailedItem
from hysac_retrieval.ingest.journal import Journal
from hysac_retrieval.ingest.pipeline.plan import attached_tasks
from hysac_retrieval.ingest.pipeline.run import Run
from hysac_retrieval.ingest.pipeline.vectors import VectorEncoding
from hysac_retrieval.ingest.protocols import Outcome
from hysac_retrieval.ingest.sources.collections import AttachedSource
from hysac_retrieval.types import Modality

GOAL = {"points_per_second": 20_000, "megabytes": 500}
CONTENT = StoredVectors("clip", "image")
NAME = "photos"
_BATCH = 500


def some_vectors(rng: np.random.Generator, count: int, size: int) -> tuple[Any, Any]:
    """Vectors (count, size) float32 and whether they are unsafe: one in ten, along one direction."""
    unsafe = rng.random(count) < 0.1
    vectors = rng.normal(size=(count, size)).astype(np.float32)
    vectors[:, 0] += np.where(unsafe, 8.0, -8.0)
    return vectors, unsafe


def fitted(folder: Path, size: int) -> Encoder:
    """A bundle with a head for images, fitted to 400 labels."""
    vectors, unsafe = some_vectors(np.random.default_rng(1), 400, size)
    fits = fit_heads({"image": Labelled.of(vectors, unsafe)})
    folder.mkdir()
    onnx.save(head_graph(fits["image"].head), folder / "head-image.onnx")
    manifest = Manifest(
        name="fitted",
        dim=size,
        curvature=1.0,
        vectors=VectorSpec(size=size, image="head-image.onnx"),
        files={"head-image.onnx": entry_of(folder / "head-image.onnx")},
        safety=profile_of(fits, "labels of the benchmark"),
    )
    return Encoder(write_manifest(folder, manifest), device="cpu")


def filled(folder: Path, count: int, size: int) -> None:
    """Make the collection of an application."""
    folder.mkdir(parents=True)
    params = edge.EdgeVectorParams(size=size, distance=edge.Distance.Cosine, on_disk=True)
    shard = edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors={"clip": params}))
    rng = np.random.default_rng(0)
    for start in range(0, count, _BATCH):
        vectors, _ = some_vectors(rng, min(_BATCH, count - start), size)
        points = [
            edge.Point(row, {"clip": vector}, {"path": f"photos/{row:08}.jpg", "caption": f"thing number {row}"})
            for row, vector in enumerate(vectors.tolist(), start=start)
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.flush()
    shard.close()


class Discarding:
    """A sink that makes what is to be written, and throws it away."""

    def __init__(self, index: Index) -> None:
        self._collection = index.collection

    def write(self, modality: Modality, outcomes: Sequence[Outcome]) -> int:
        """Make the records."""
        points = np.stack([outcome.point for outcome in outcomes if outcome.point is not None])
        marks = [{"hash": outcome.hash, "judge": CONTENT.judge(modality, "fast")} for outcome in outcomes]
        keys, _, _ = records(self._collection, [o.item.point for o in outcomes], points, modality, None, marks)
        return len(keys)

    def reject(self, failure: FailedItem, found: str) -> None:
        """Nothing fails here."""
        raise AssertionError(failure)

    def finish(self) -> None:
        """Nothing is left."""


def own_memory() -> float:
    """Megabytes that are the process's own, not those of mapped files."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


@contextmanager
def watched(found: dict[str, float]) -> Iterator[None]:
    """Note seconds of clock and processor, and the largest growth of memory."""
    ended, before, peak = threading.Event(), own_memory(), [0.0]

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], own_memory() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    clock, processor = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        found |= {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - processor}
        ended.set()
        watcher.join()
        found["megabytes"] = peak[0]


def measured(work: Callable[[], int]) -> dict[str, float]:
    """Points per second of a run, and its memory."""
    found: dict[str, float] = {}
    with watched(found):
        count = work()
    return {
        "points": count,
        "points_per_second": round(count / found["seconds"]),
        "points_per_processor_second": round(count / found["processor_seconds"]),
        "megabytes": round(found["megabytes"], 1),
    }


def mapped(index: Index, encoder: Encoder) -> int:
    """Do all of a run but writing."""
    with Journal(None) as notes:
        source = AttachedSource(index, CONTENT, notes.noted, lambda point: None)
        planner = partial(attached_tasks, resume=True)
        return Run(source, planner, VectorEncoding(encoder), Discarding(index), notes, 0)().total


@click.command()
@click.option("--points", default=100_000, show_default=True, type=click.IntRange(1000))
@click.option("--size", default=512, show_default=True, type=click.IntRange(2))
@click.option("--write/--no-write", default=True, show_default=True, help="Measure writing as well.")
@click.option("--out", default=RESULTS / "foreign.json", show_default=True, type=click.Path(path_type=Path))
def main(points: int, size: int, write: bool, out: Path) -> None:
    """Measure how fast stored vectors are mapped."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        encoder = fitted(folder / "model", size)
        filled(folder / "data" / NAME, points, size)
        sides: dict[str, dict[str, float]] = {}
        with attached_collection_for(encoder, NAME, CONTENT, location=folder / "data") as index:
            sides["up to writing"] = measured(lambda: mapped(index, encoder))
            if write:
                sides["with writing"] = measured(lambda: fill(index, encoder).total)
                sides["again, all done"] = measured(lambda: fill(index, encoder).skipped)
    names = ("points_per_second", "points_per_processor_second", "megabytes")
    show_table(("", *names), [(side, *(found[name] for name in names)) for side, found in sides.items()])
    write_report({"points": points, "size": size, "goal": GOAL, "sides": sides}, out)


if __name__ == "__main__":
    main()
