"""Time to build, bytes per point, latency and recall of collections that grow tenfold.

    python benchmarks/scale.py
    python benchmarks/scale.py --sizes 10000 --sizes 50000 --dim 256 --dim 768 --quantization turbo8

Points are random, made in blocks and forgotten, so that never more than one block is in memory beside the engine; exact
float64 search over all of them takes each block as it passes. The collections are then searched in turns, so that what
slows the machine slows all sizes alike. The graph has the default options: with d = 64 the engine searches up to some
40,000 points one by one, exactly, and walks the graph beyond. Queries are texts, half of them unsafe. Bytes are
those of the engine's files, as the file system counts them: give TMPDIR a folder on a disk, not in memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import RESULTS, ExactSearch, K, Points, interleaved, milliseconds, recall, show_table, write_report
from points import CURVATURE, Synthetic

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.plan import OVERSAMPLING
from hysac_retrieval.safety.redirect import redirect
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.stores.types import Quantization

SIZES = (10_000, 100_000, 1_000_000)
BLOCK = 10_000
GOAL = 2.0


@dataclass
class Built:
    """A collection of one size.

    Attributes:
        engine: Searches it.
        queries: Points asked for, (n, d).
        everything: What is nearest to them.
        safe: What is nearest among the safe points, to where a safe search looks.
        report: What its making cost.
    """

    engine: SafeSearch
    queries: Points
    everything: ExactSearch
    safe: ExactSearch
    report: dict[str, Any]


def build(stack: ExitStack, size: int, count: int, dim: int, lift: str, quantization: Quantization | None) -> Built:
    """Fill a collection block by block, with exact search beside it."""
    source = Synthetic(dim, clusters=max(size // 40, 1))
    safety = source.safety()
    asked = np.concatenate([source.draw(f"{kind}_text", count // 2, block=1) for kind in ("safe", "unsafe")])
    everything = ExactSearch(asked, K, CURVATURE)
    safe = ExactSearch(redirect(asked, "text", safety, CURVATURE)[0], K, CURVATURE)
    options: dict[str, Any] = {"lift": "poincare"} if lift == "poincare" else {"sample": source.images(2000, block=2)}
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    index = stack.enter_context(
        Index.create("points", **source.space(), **options, quantization=quantization, location=folder)
    )
    upsert = 0.0
    for block, first in enumerate(range(0, size, BLOCK)):
        points = source.images(min(BLOCK, size - first), block=10 + block)
        rows = np.arange(first, first + len(points))
        everything.add(points, rows)
        allowed = safety.unsafe(lorentz.dist0(points, CURVATURE), "image") <= safety.threshold.image
        safe.add(points[allowed], rows[allowed])
        start = time.perf_counter()
        index.upsert(rows.tolist(), points, modality="image", payloads=[{"path": f"{row}.jpg"} for row in rows])
        upsert += time.perf_counter() - start
    start = time.perf_counter()
    index.optimize()
    optimize = time.perf_counter() - start
    info = index.info()
    report = {
        "points": size,
        "seconds": {"upsert": round(upsert, 2), "optimize": round(optimize, 2)},
        "points_per_second": round(size / (upsert + optimize)),
        "bytes_per_point": info.bytes_per_point and round(info.bytes_per_point, 1),
        "indexed": info.indexed,
        "safe": info.safe,
    }
    return Built(SafeSearch(index, None), asked, everything, safe, report)


def found(built: Built, safe: bool) -> float:
    """Recall@10 of all queries."""
    results = built.engine.search_batch(built.queries, limit=K, safe=safe, query_modality="text")
    truth = built.safe if safe else built.everything
    return round(statistics.fmean(recall([[hit.id for hit in result] for result in results], truth, K)), 4)


def measure(
    sizes: Sequence[int], dim: int, lift: str, quantization: Quantization | None, queries: int, calls: int
) -> dict[str, Any]:
    """Collections of all sizes, of one dimension and quantization."""
    with ExitStack() as stack:
        collections = {}
        for size in sizes:
            collections[size] = build(stack, size, queries, dim, lift, quantization)
            click.echo(f"{size} points: {collections[size].report['seconds']}", err=True)

        def caller(built: Built, safe: bool) -> Any:
            asked = built.queries
            return lambda turn: built.engine.search(asked[turn % len(asked)], limit=K, safe=safe, query_modality="text")

        for safe in (True, False):
            times = interleaved({str(size): caller(built, safe) for size, built in collections.items()}, calls)
            for size, built in collections.items():
                at = {"recall_at_10": found(built, safe), **milliseconds(times[str(size)])}
                built.report["safe_search" if safe else "safe_false"] = at
    rows = [built.report for built in collections.values()]
    return {
        "dim": dim,
        "lift": lift,
        "quantization": quantization,
        "growth": [growth(*pair) for pair in pairwise(rows)],
        "sizes": rows,
    }


def growth(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What more points cost: p50 in terms of the smaller collection's, and bytes for each point more."""
    p50 = {name: round(after[name]["p50_ms"] / before[name]["p50_ms"], 3) for name in ("safe_search", "safe_false")}
    held = [row["points"] * (row["bytes_per_point"] or 0) for row in (before, after)]
    more = round((held[1] - held[0]) / (after["points"] - before["points"]), 1)
    return {"from": before["points"], "to": after["points"], "p50": p50, "bytes_per_further_point": more}


def show(run: dict[str, Any]) -> None:
    """Growth first, then what it grew from and to."""
    click.echo(f"d={run['dim']}, {run['lift']}, {run['quantization'] or 'float32'}")
    first = {"p50": {"safe_search": "", "safe_false": ""}, "bytes_per_further_point": ""}
    show_table(
        (
            "points",
            "p50 growth",
            "safe=False",
            "p50 ms",
            "safe=False",
            "recall@10",
            "safe=False",
            "build s",
            "bytes/point",
            "each further",
        ),
        [
            (
                row["points"],
                *grown["p50"].values(),
                *(row[name]["p50_ms"] for name in ("safe_search", "safe_false")),
                *(row[name]["recall_at_10"] for name in ("safe_search", "safe_false")),
                round(sum(row["seconds"].values()), 1),
                row["bytes_per_point"],
                grown["bytes_per_further_point"],
            )
            for row, grown in zip(run["sizes"], [first, *run["growth"]], strict=True)
        ],
    )


@click.command(help=__doc__)
@click.option("--sizes", default=SIZES, multiple=True, show_default=True, help="Points; may be repeated.")
@click.option("--dim", "dims", default=(64,), multiple=True, show_default=True, help="Space components; repeatable.")
@click.option("--lift", default="padded", show_default=True, type=click.Choice(("padded", "poincare")))
@click.option(
    "--quantization",
    "quantizations",
    default=("float32",),
    multiple=True,
    show_default=True,
    type=click.Choice(("float32", *OVERSAMPLING)),
    help="Repeatable; float32 for none.",
)
@click.option("--queries", default=100, show_default=True, help="Queries for the recall.")
@click.option("--calls", default=500, show_default=True, help="Calls that are timed at each size.")
@click.option("--quick", is_flag=True, help="A small run, to see that it works.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "scale.json", show_default=False)
def main(
    sizes: tuple[int, ...],
    dims: tuple[int, ...],
    lift: str,
    quantizations: tuple[str, ...],
    queries: int,
    calls: int,
    quick: bool,
    out: Path,
) -> None:
    if quick:
        sizes, dims, queries, calls = (200, 400), (8,), 10, 10
    runs = []
    for dim in dims:
        for name in quantizations:
            kind = next((kind for kind in OVERSAMPLING if kind == name), None)
            runs.append(measure(sorted(set(sizes)), dim, lift, kind, queries, calls))
            show(runs[-1])
    report = {
        "what": "a collection of random points as it grows; latency of SafeSearch.search, limit 10, embedded engine",
        "goal": {"p50_growth_from_100k_to_1m_at_most": GOAL},
        "runs": runs,
    }
    write_report(report, out)


if __name__ == "__main__":
    main()
