"""How fast points and pictures get into a collection, against what the engine and the encoder do alone.

    python benchmarks/upload.py
    python benchmarks/upload.py --dims 768 --points 100000 --images 0

Points: `Index.upsert` against the engine's own call with the very vectors and payloads that it writes: upserts of an
`EdgeShard`, and `QdrantClient.upload_points` in ``:memory:``. `Index.upsert` checks points, computes radii and scores
and lifts them; this is what the ratio shows. Both sides write batches of the same size into new collections of the same
settings, and take turns.

Pictures: `index_sources`, as ``hysac index`` runs it (decoding, encoding, upload, journal), against the encoder alone
on the same views (``views="fast"``) of the same pictures: on pixels that are decoded already, which is the goal to
measure against, and on files, one batch after the other, which is what a loop of one's own would do. Building the graph
is not in these times; it is given. One core is left to decoding and writing, also where the encoder is alone: the
question is whether it ever waits, not whether decoding costs something.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import click
import numpy as np
import qdrant_edge as edge
from common import RESULTS, Points, show_table, write_report
from points import Synthetic
from qdrant_client import QdrantClient, models

from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.records import records
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.views import picture_views
from hysac_retrieval.ingest import index_sources
from hysac_retrieval.lift import PaddedLift
from hysac_retrieval.safety.views import ViewSetting
from hysac_retrieval.stores.types import VECTOR_NAME

BATCH = 500
GOAL = 0.9
VIEWS: ViewSetting = "fast"
Records = tuple[list[Any], Any, list[dict[str, Any]]]


def payload(row: int) -> dict[str, Any]:
    """What an application keeps with a picture."""
    return {"path": f"photos/{row // 1000:04}/{row:08}.jpg", "caption": f"a picture of thing number {row}"}


def batches(count: int) -> list[slice]:
    """Parts of so many points."""
    return [slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def through_index(points: Points, make: Callable[[Path], Index], folder: Path) -> float:
    """Seconds of `Index.upsert`."""
    payloads = [payload(row) for row in range(len(points))]

    def work() -> None:
        for part in batches(len(points)):
            index.upsert(range(part.start, part.stop), points[part], modality="image", payloads=payloads[part])

    with make(folder) as index:
        return timed(work)


def through_shard(made: Records, make: Callable[[Path], Index], folder: Path) -> float:
    """Seconds of the embedded engine's own upserts, into a collection of the same settings."""
    ids, vectors, payloads = made
    make(folder).close()
    shard = edge.EdgeShard.load(str(folder / "points" / "shard"))

    def work() -> None:
        for part in batches(len(ids)):
            rows = zip(ids[part], vectors[part].tolist(), payloads[part], strict=True)
            shard.update(edge.UpdateOperation.upsert_points([edge.Point(i, {VECTOR_NAME: v}, p) for i, v, p in rows]))

    try:
        return timed(work)
    finally:
        shard.close()


def through_client(made: Records, make: Callable[[QdrantClient], Index]) -> float:
    """Seconds of `QdrantClient.upload_points`, into a collection of the same settings."""
    ids, vectors, payloads = made
    client = QdrantClient(":memory:")
    make(client)

    def work() -> None:
        points = (
            models.PointStruct(id=i, vector={VECTOR_NAME: v}, payload=p)
            for i, v, p in zip(ids, vectors.tolist(), payloads, strict=True)
        )
        client.upload_points("points", points, batch_size=BATCH, wait=True)

    return timed(work)


def measure_points(dim: int, count: int, rounds: int) -> dict[str, Any]:
    """Points per second of both sides, in the embedded engine and in the client's local mode."""
    source = Synthetic(dim)
    points, space = source.images(count), source.space()
    lift = PaddedLift.fit(source.images(2000, block=2), space["curvature"])

    def embedded(folder: Path) -> Index:
        return Index.create("points", **space, lift=lift, location=folder)

    def local(client: QdrantClient) -> Index:
        return Index.create("points", **space, lift=lift, client=client)

    with tempfile.TemporaryDirectory() as scratch, embedded(Path(scratch)) as index:
        made: Records = records(index.collection, range(count), points, "image", [payload(i) for i in range(count)])
    seconds: dict[str, list[float]] = {
        "Index.upsert": [],
        "EdgeShard": [],
        "Index.upsert, :memory:": [],
        "upload_points": [],
    }
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            seconds["Index.upsert"].append(through_index(points, embedded, Path(one)))
            seconds["EdgeShard"].append(through_shard(made, embedded, Path(other)))
        seconds["Index.upsert, :memory:"].append(
            through_index(points, lambda _: local(QdrantClient(":memory:")), Path())
        )
        seconds["upload_points"].append(through_client(made, local))
    rates = {name: count / float(np.median(all_)) for name, all_ in seconds.items()}
    return {
        "dim": dim,
        "points": count,
        "ratio": {
            "Index.upsert / EdgeShard": round(rates["Index.upsert"] / rates["EdgeShard"], 3),
            "Index.upsert / upload_points, both in :memory:": round(
                rates["Index.upsert, :memory:"] / rates["upload_points"], 3
            ),
        },
        "points_per_second": {name: round(rate) for name, rate in rates.items()},
        "seconds": {name: [round(one, 3) for one in all_] for name, all_ in seconds.items()},
    }


def pictures(folder: Path, count: int) -> list[Path]:
    """So many files: the pictures of the example gallery, over and over."""
    originals = sorted((Path(str(resources.files("hysac_retrieval"))) / "demo" / "gallery" / "images").iterdir())
    folder.mkdir()
    copies = [folder / f"{row:06}{originals[row % len(originals)].suffix}" for row in range(count)]
    for row, copy in enumerate(copies):
        shutil.copyfile(originals[row % len(originals)], copy)
    return copies


def end_to_end(folder: Path, encoder: Encoder, workers: int | None, batch_size: int) -> tuple[float, float]:
    """Seconds of indexing a folder without building the graph, and of building it."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Index.for_model(encoder, "pictures", exist_ok=True, location=scratch) as index,
    ):
        building: list[float] = []
        optimize = index.optimize
        index.optimize = lambda: building.append(timed(optimize))  # type: ignore[method-assign]
        total = timed(
            lambda: index_sources([folder], index, encoder, workers=workers, batch_size=batch_size, views=VIEWS)
        )
        return total - building[0], building[0]


def measure_images(
    model: str, count: int, rounds: int, workers: Sequence[int | None], batch_size: int, threads: int | None
) -> dict[str, Any]:
    """Images per second of indexing and of the encoder alone."""
    encoder = Encoder.load(model, threads=threads or max((os.cpu_count() or 2) - 1, 1))
    with tempfile.TemporaryDirectory() as scratch:
        files = pictures(Path(scratch) / "pictures", count)
        views = [picture_views(file, encoder.image_spec, VIEWS) for file in files]
        encoder.judge_views("image", views[:batch_size])  # loads the graph

        def of_files() -> None:
            for start in range(0, count, batch_size):
                encoder.judge_image(files[start : start + batch_size], views=VIEWS, batch_size=batch_size)

        names = {number: f"hysac-index, workers={'auto' if number is None else number}" for number in workers}
        seconds: dict[str, list[float]] = {"encoder, pixels": [], "encoder, files": []} | {
            n: [] for n in names.values()
        }
        graph = []
        for _ in range(rounds):
            seconds["encoder, pixels"].append(timed(lambda: encoder.judge_views("image", views, batch_size=batch_size)))
            seconds["encoder, files"].append(timed(of_files))
            for number, name in names.items():
                indexing, building = end_to_end(files[0].parent, encoder, number, batch_size)
                seconds[name].append(indexing)
                graph.append(building)
    rates = {name: count / float(np.median(all_)) for name, all_ in seconds.items()}
    return {
        "model": model,
        "images": count,
        "views": VIEWS,
        "batch_size": batch_size,
        "ratio_to_encoder_on_pixels": {n: round(r / rates["encoder, pixels"], 3) for n, r in rates.items()},
        "ratio_to_encoder_on_files": {n: round(r / rates["encoder, files"], 3) for n, r in rates.items()},
        "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "seconds": {name: [round(one, 3) for one in all_] for name, all_ in seconds.items()},
        "seconds_of_building_the_graph": round(float(np.median(graph)), 3),
    }


@click.command(help=__doc__)
@click.option("--dims", default=[64, 256, 768], multiple=True, show_default=True, help="Space components.")
@click.option("--points", default=20_000, show_default=True, help="Points of each collection; 0 leaves this part out.")
@click.option("--images", default=10_000, show_default=True, help="Pictures to index; 0 leaves this part out.")
@click.option("--model", default="hysac-mini", show_default=True, help="Bundled name, folder or hub repository.")
@click.option("--workers", multiple=True, type=int, help="Decoding processes; repeatable  [default: as hysac-index]")
@click.option("--threads", type=int, help="Threads of the encoder, on both sides; default: one per core but one.")
@click.option("--batch-size", default=64, show_default=True, help="Pictures encoded at once.")
@click.option("--rounds", default=3, show_default=True, help="Rounds in which the sides take turns; medians count.")
@click.option("--quick", is_flag=True, help="A small run, to see that it works.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "upload.json", show_default=False)
def main(
    dims: tuple[int, ...],
    points: int,
    images: int,
    model: str,
    workers: tuple[int, ...],
    threads: int | None,
    batch_size: int,
    rounds: int,
    quick: bool,
    out: Path,
) -> None:
    if quick:
        dims, points, images, rounds = (16,), min(points, 300), min(images, 20), 1
    report: dict[str, Any] = {
        "what": "points per second of Index.upsert against the engines' own calls; images per second of hysac-index "
        "against the encoder alone",
        "goal": {"ratios_at_least": GOAL},
    }
    if points:
        runs = report["points"] = [measure_points(dim, points, rounds) for dim in dims]
        rows = [(f"d={run['dim']}", *run["ratio"].values(), *run["points_per_second"].values()) for run in runs]
        show_table((f"{points} points", "ratio, embedded", "ratio, :memory:", *runs[0]["points_per_second"]), rows)
    if images:
        found = report["images"] = measure_images(model, images, rounds, workers or (None,), batch_size, threads)
        show_table(
            (f"{images} images", "ratio to pixels", "ratio to files", "per second"),
            [
                (name, ratio, found["ratio_to_encoder_on_files"][name], found["images_per_second"][name])
                for name, ratio in found["ratio_to_encoder_on_pixels"].items()
            ],
        )
    write_report(report, out)


if __name__ == "__main__":
    main()
