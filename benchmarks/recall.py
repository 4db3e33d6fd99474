"""Recall of searches against exact float64 hyperbolic search, in the embedded engine.

    python benchmarks/recall.py                          # default settings: scenes encoded by the bundled model
    python benchmarks/recall.py --synthetic              # the same on random points
    python benchmarks/recall.py --grid                   # every lift, quantization and L, on the scenes
    python benchmarks/recall.py --grid --points 200000
    python benchmarks/recall.py --grid --synthetic       # three spreads of radius, d = 64, 256, 768

The gallery holds as many safe as unsafe images; queries are safe and unsafe texts (also redirected) and unsafe images.
The thresholds of the engine are lowered so that every search walks the graph; a collection of this size would otherwise
be searched point by point, which is exact by construction.

L is the number of candidates: what the engine's first stage hands on to be ranked by geodesic distance. With the padded
lift and no quantization the engine's score is that ranking, and L = 10 means ten hits and nothing behind them. The
effort of the graph search, `ef`, is the larger of L and 256, what collections are made with. With quantization the
engine compares L (and 8 spare ones) times the oversampling by their original vectors. The grid measures other efforts
(on scenes) and other oversamplings too, at L = 10 with the padded lift and L = 100 with the Poincaré lift.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
from common import RESULTS, ExactSearch, K, Points, exact, machine, recall, show_table, write_report
from points import SPREADS, Data, encoded, stored, synthetic

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.interpret import hits_of
from hysac_retrieval.collection.plan import OVERSAMPLING, plan_search
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.errors import InvalidVectorError
from hysac_retrieval.stores.types import Quantization

__all__ = ["RESULTS", "K", "Points", "machine"]

LIFTS = ("padded", "poincare")
QUANTIZATIONS: tuple[Quantization | None, ...] = (None, *get_args(Quantization))
CANDIDATES = (10, 50, 100, 200)
DEPTHS = (1, 10, 100)
USUAL = 100
EFFORT = 256
EFFORTS = (16, 32, 64, 128, 256, 512)
OVERSAMPLINGS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 48.0, 96.0)
DIMS = (64, 256, 768)
_BATCH = 100


def one_by_one(index: Index, data: Data, truth: ExactSearch, *, safe: bool, ef: int | None) -> dict[str, float]:
    """Recall@10 and time of one kind of query with default settings."""
    found, seconds = [], []
    for query in truth.queries:
        start = time.perf_counter()
        hits = index.query(query, limit=K, safe=safe, ef=ef)
        seconds.append(time.perf_counter() - start)
        found.append([hit.id for hit in hits])
    shares = recall(found, truth, K, data.gallery)
    return {
        "recall": round(statistics.fmean(shares), 5),
        "perfect": round(statistics.fmean(r == 1.0 for r in shares), 5),
        "median_ms": round(1e3 * statistics.median(seconds), 3),
    }


def cost_of_ranking(index: Index, queries: Points) -> dict[str, float]:
    """Median milliseconds of the parts of a query: the engine's, and the reading of its answer here."""
    engine, ranking = [], []
    plan = plan_search(index.collection, PageRequest(limit=K, safe=False))
    for query in queries:
        request = plan.query(query[None])
        start = time.perf_counter()
        (answer,) = index.store.query(index.name, request)
        middle = time.perf_counter()
        hits_of(plan, query, answer)
        engine.append(middle - start)
        ranking.append(time.perf_counter() - middle)
    found = {"engine_ms": engine, "ranking_ms": ranking}
    return {name: round(1e3 * statistics.median(each), 3) for name, each in found.items()}


def by_default(data: Data) -> dict[str, Any]:
    """Recall@10 of every kind of query with default settings."""
    kinds, rows = data.kinds(), np.arange(len(data.gallery))
    scores = data.safety.unsafe(lorentz.dist0(data.gallery, data.curvature), "image")
    safe = np.flatnonzero(scores <= data.safety.threshold.image)
    with stored(data) as (index, seconds):
        all_points, safe_points = (
            {name: exact(data.gallery, queries, K, data.curvature, chosen) for name, queries in kinds.items()}
            for chosen in (rows, safe)
        )
        return {
            "gallery": index.info().to_dict(),
            "traversed": int((kinds["unsafe text"] != kinds["unsafe text, traversed"]).any(axis=1).sum()),
            "seconds": seconds,
            "recall_at_10": {
                name: {
                    f"ef={ef or 'default'}": one_by_one(index, data, truth, safe=False, ef=ef)
                    for ef in (32, 64, None, 256)
                }
                for name, truth in all_points.items()
            },
            "recall_at_10_safe_true": {
                name: one_by_one(index, data, truth, safe=True, ef=None) for name, truth in safe_points.items()
            },
            "cost": cost_of_ranking(index, kinds["unsafe text"]),
        }


def search(index: Index, queries: Points, candidates: int, ef: int, oversampling: float | None = None) -> list[Any]:
    """Ids of the L hits of each query, nearest first."""
    found = []
    plan = plan_search(index.collection, PageRequest(limit=candidates, candidates=candidates, ef=ef, safe=False))
    if oversampling is not None:
        plan = replace(plan, oversampling=oversampling)
    for start in range(0, len(queries), _BATCH):
        part = queries[start : start + _BATCH]
        answers = index.store.query(index.name, plan.query(part))
        for query, answer in zip(part, answers, strict=True):
            found.append([hit.id for hit in hits_of(plan, query, answer)[:candidates]])
    return found


def cell(
    index: Index,
    data: Data,
    truths: Mapping[str, ExactSearch],
    candidates: Sequence[int],
    efforts: Sequence[int],
) -> dict[str, Any]:
    """Recall of one collection: by kind and L, by effort, and by oversampling where it is quantized."""
    at: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for number in candidates:
        start, count = time.perf_counter(), 0
        for name, truth in truths.items():
            found = search(index, truth.queries, number, max(number, EFFORT))
            count += len(found)
            at.setdefault(name, {})[f"L={number}"] = [
                _mean(recall(found, truth, k, data.gallery)) if k <= number else None for k in DEPTHS
            ]
        seconds[f"L={number}"] = round(1e3 * (time.perf_counter() - start) / count, 3)

    # Where the engine's score does not rank, the searches that vary something else have the usual candidates.
    usual = K if index.collection.lift.ranks else USUAL

    def at_10(**options: Any) -> list[float]:
        options = {"ef": EFFORT} | options
        searched = ((search(index, truth.queries, usual, **options), truth) for truth in truths.values())
        return [_mean(recall(found, truth, K, data.gallery)) for found, truth in searched]

    info = index.info()
    report = {
        "bytes_per_point": info.bytes_per_point and round(info.bytes_per_point, 1),
        "beyond": info.beyond,
        "indexed": info.indexed,
        "recall_at_1_10_100": at,
        "batched_ms_per_query": seconds,
    }
    if efforts:
        report["recall_at_10_by_ef"] = {str(ef): at_10(ef=ef) for ef in efforts}
    if index.metadata.quantization is not None:
        report["recall_at_10_by_oversampling"] = {f"{x:g}": at_10(oversampling=x) for x in OVERSAMPLINGS}
    return report


def grid(
    data: Data,
    lifts: Sequence[str],
    kinds: Sequence[Quantization | None],
    candidates: Sequence[int],
    efforts: Sequence[int] = EFFORTS,
) -> dict[str, Any]:
    """Recall of every lift and quantization on one gallery; each collection is made once."""
    truths = {name: exact(data.gallery, asked, max(DEPTHS), data.curvature) for name, asked in data.kinds().items()}
    report: dict[str, Any] = {
        "points": len(data.gallery),
        "dim": data.gallery.shape[1],
        "queries_of_each_kind": len(next(iter(truths.values())).queries),
        "kinds": list(truths),
        "collections": {},
    }
    for lift in lifts:
        for kind in kinds:
            name = f"{lift}, {kind or 'float32'}"
            try:
                with stored(data, lift, kind) as (index, seconds):
                    report["collections"][name] = {"seconds": seconds} | cell(index, data, truths, candidates, efforts)
            except InvalidVectorError as error:
                report["collections"][name] = {"refused": str(error)}
    return report


def show_grid(label: str, report: Mapping[str, Any], candidates: Sequence[int]) -> None:
    """Recall@10 of the worst kind of query by L, and the least oversampling that finds 0.99."""
    click.echo(f"{label}: {report['points']} points; recall@10 of the worst kind of query")
    rows = []
    for name, found in report["collections"].items():
        if "refused" in found:
            rows.append([name, found["refused"]])
            continue
        worst = [min(at[f"L={n}"][1] for at in found["recall_at_1_10_100"].values()) for n in candidates]
        by_oversampling = found.get("recall_at_10_by_oversampling")
        needed = "" if by_oversampling is None else next((x for x, r in by_oversampling.items() if min(r) >= 0.99), "-")
        rows.append([name, *(f"{r:.4f}" for r in worst), needed, found["bytes_per_point"]])
    show_table(("", *(f"L={n}" for n in candidates), "oversampling for 0.99", "bytes/point"), _even(rows))


def _even(rows: list[list[Any]]) -> list[list[Any]]:
    longest = max(map(len, rows))
    return [row + [""] * (longest - len(row)) for row in rows]


def _mean(shares: Sequence[float]) -> float:
    return round(statistics.fmean(shares), 4)


def _kind(name: str) -> Quantization | None:
    return next(kind for kind in QUANTIZATIONS if (kind or "float32") == name)


@click.command(help=__doc__)
@click.option("--grid", "use_grid", is_flag=True, help="Every lift, quantization and L.")
@click.option("--synthetic", "use_synthetic", is_flag=True, help="Random points instead of encoded scenes.")
@click.option("--model", default="hysac-mini", show_default=True, help="Bundled name, folder or hub repository.")
@click.option("--points", type=int, help="Images in the gallery. Default: 20000; 5000 for the synthetic grid.")
@click.option("--queries", type=int, help="Queries of each kind. Default: 300; 60 for the synthetic grid.")
@click.option("--lift", "lifts", multiple=True, default=LIFTS, type=click.Choice(LIFTS), help="For the grid.")
@click.option(
    "--quantization",
    "quantizations",
    multiple=True,
    default=[kind or "float32" for kind in QUANTIZATIONS],
    type=click.Choice([kind or "float32" for kind in QUANTIZATIONS]),
    help="For the grid.",
)
@click.option("--dim", "dims", multiple=True, default=DIMS, help="For the synthetic grid.")
@click.option("--spread", "spreads", multiple=True, default=tuple(SPREADS), type=click.Choice(tuple(SPREADS)))
@click.option("--candidates", multiple=True, default=CANDIDATES, help="L, for the grid; from 10.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps the encoded scenes between runs.")
@click.option("--quick", is_flag=True, help="A small run, to see that it works.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: benchmarks/results/recall[-…].json.")
def main(
    use_grid: bool,
    use_synthetic: bool,
    model: str,
    points: int | None,
    queries: int | None,
    lifts: tuple[str, ...],
    quantizations: tuple[str, ...],
    dims: tuple[int, ...],
    spreads: tuple[str, ...],
    candidates: tuple[int, ...],
    cache: Path | None,
    quick: bool,
    out: Path | None,
) -> None:
    if min(candidates) < K:
        raise click.UsageError(f"L is {min(candidates)}; recall@{K} needs {K} candidates or more")
    many = use_grid and use_synthetic  # galleries, so that each is a small one
    count, asked = points or (5_000 if many else 20_000), queries or (60 if many else 300)
    if quick:
        count, asked, dims, spreads, candidates = 200, 8, (16,), ("narrow",), (10, 100)
    if use_grid:
        kinds = [_kind(name) for name in quantizations]
        if use_synthetic:
            sets = [synthetic(count, asked, dim, spread) for spread in spreads for dim in dims]
        else:
            sets = [encoded(model, count, asked, cache)]
        runs = {}
        for data in sets:
            runs[data.label] = grid(data, lifts, kinds, candidates, () if many else EFFORTS)
            show_grid(data.label, runs[data.label], candidates)
        what = "recall@1, @10, @100 against exact float64 search, embedded engine, by number of candidates L"
        report = {"what": what, "ef": f"max(L, {EFFORT})", "oversampling": OVERSAMPLING, "runs": runs}
        size = "" if count in (5_000, 20_000) else f"-{count}"
        name = f"recall-grid{'-synthetic' if use_synthetic else ''}{size}.json"
    else:
        data = synthetic(count, asked) if use_synthetic else encoded(model, count, asked, cache)
        found = by_default(data)
        report = {
            "what": "recall@10 of Index.query against exact float64 search, embedded engine, boosted padded lift",
            "points": data.label,
            "queries_of_each_kind": asked,
            **found,
        }
        rows = [
            (name, *(f"{row['recall']:.4f}" for row in by_ef.values())) for name, by_ef in found["recall_at_10"].items()
        ]
        show_table(("recall@10", *next(iter(found["recall_at_10"].values()))), rows)
        safe = found["recall_at_10_safe_true"].items()
        show_table(("safe=True", "recall@10", "ms"), [(name, f"{r['recall']:.4f}", r["median_ms"]) for name, r in safe])
        name = "recall-synthetic.json" if use_synthetic else "recall.json"
    write_report(report, out or RESULTS / name)


if __name__ == "__main__":
    main()
