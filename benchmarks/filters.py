"""Recall@10 of a safe search when few or many of the points are safe, against exact search among the safe ones.

    python benchmarks/filters.py

The filter is part of the walk through the graph. For comparison, what searches that filter afterwards find: the safe
ones among the 100 nearest points, whatever those are. Every search walks the graph, as in `recall.py`; queries are safe
texts, and unsafe texts and images, which are redirected first. Unsafe texts are searched as they were asked too, as a
policy without traversal does: then what is nearest is unsafe, and what is wanted lies behind it.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import RESULTS, K, Points, exact, recall, show_table, write_report
from points import Data, stored, synthetic

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.safety.redirect import RedirectMode, redirect
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.stores.types import Quantization
from hysac_retrieval.types import Modality

SHARES = (0.01, 0.1, 0.5, 0.99)
COLLECTIONS: tuple[tuple[str, Quantization | None], ...] = (("padded", None), ("padded", "int8"), ("poincare", None))
AFTERWARDS = 100
TOGETHER = 400  # many unsafe points near every query, so that what is safe is not nearest by itself
GOAL = 0.99
# Name, group, modality, and whether unsafe queries are redirected.
KINDS: tuple[tuple[str, str, Modality, bool], ...] = (
    ("safe text", "safe_text", "text", True),
    ("unsafe text", "unsafe_text", "text", True),
    ("unsafe image", "unsafe_image", "image", True),
    ("unsafe text, as asked", "unsafe_text", "text", False),
)


def measure(index: Index, data: Data, safe: Points) -> dict[str, Any]:
    """Recall@10 of each kind of query."""
    found: dict[str, Any] = {}
    for name, group, modality, redirected in KINDS:
        mode: RedirectMode = "geodesic" if redirected else "none"
        engine = SafeSearch(index, None, policy=SafetyPolicy(traversal=mode))
        asked = data.queries[group]
        searched, moved = redirect(asked, modality, data.safety, data.curvature, mode)
        truth = exact(data.gallery, searched, K, data.curvature, safe)
        results = engine.search_batch(asked, limit=K, query_modality=modality)
        everything = engine.search_batch(searched, limit=AFTERWARDS, safe=False)
        allowed = set(safe.tolist())
        afterwards = [[hit.id for hit in result if hit.id in allowed] for result in everything]
        found[name] = {
            "recall": round(statistics.fmean(recall([[h.id for h in r] for r in results], truth, K, data.gallery)), 4),
            "filtered_afterwards": round(statistics.fmean(recall(afterwards, truth, K, data.gallery)), 4),
            "redirected": int(moved.sum()),
            "unsafe_returned": sum(hit.id not in allowed for result in results for hit in result),
        }
    return found


@click.command(help=__doc__)
@click.option("--points", default=20_000, show_default=True, help="Images in the gallery.")
@click.option("--queries", default=300, show_default=True, help="Queries of each kind.")
@click.option("--dim", default=128, show_default=True, help="Space components.")
@click.option("--quick", is_flag=True, help="A small run, to see that it works.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "filters.json", show_default=False)
def main(points: int, queries: int, dim: int, quick: bool, out: Path) -> None:
    if quick:
        points, queries, dim = 400, 8, 16
    collections = COLLECTIONS[:1] if quick else COLLECTIONS
    runs: dict[str, Any] = {}
    for share in SHARES:
        data = synthetic(points, queries, dim, safe=share, together=TOGETHER)
        scores = data.safety.unsafe(lorentz.dist0(data.gallery, data.curvature), "image")
        safe = np.flatnonzero(scores <= data.safety.threshold.image)
        report: dict[str, Any] = {"safe_points": len(safe)}
        for lift, kind in collections:
            with stored(data, lift, kind) as (index, _):
                report[f"{lift}, {kind or 'float32'}"] = measure(index, data, safe)
        runs[f"{100 * share:g} % safe"] = report
    names = [name for name, *_ in KINDS]
    for lift, kind in collections:
        name = f"{lift}, {kind or 'float32'}"
        rows = [
            (at, *(f"{row[name][n]['recall']:.4f} ({row[name][n]['filtered_afterwards']:.2f})" for n in names))
            for at, row in runs.items()
        ]
        show_table((f"{name}: recall@10 (filtered afterwards)", *names), rows)
    worst = min(
        row[f"{lift}, {kind or 'float32'}"][n]["recall"]
        for row in runs.values()
        for lift, kind in collections
        for n in names
    )
    report = {
        "what": "recall@10 of SafeSearch.search against exact float64 search among the safe points, embedded engine",
        "goal": {"at_least": GOAL, "met": worst >= GOAL, "worst": worst},
        "points": points,
        "dim": dim,
        "queries_of_each_kind": queries,
        "filtered_afterwards": f"the safe ones of the {AFTERWARDS} nearest",
        "runs": runs,
    }
    write_report(report, out)


if __name__ == "__main__":
    main()
