"""A random tree in 5-dimensional hyperbolic space, and the recall of both lifts on it.

    python benchmarks/data_tree.py --nodes 20000

Such data, like the nouns of WordNet, is what hyperbolic space is known for, and the opposite of an encoder's points:
radii from 0 to 15, so that the sizes of coordinates span six orders of magnitude. Queries are nodes held out of the
collection; their neighbours are parents, siblings and children. The engine's thresholds are lowered so that every
search walks the graph; the first stage hands L candidates to the formula of the geodesic distance in the same request.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.lift import Lift, PaddedLift, PoincareLift, choose_lift
from hysac_retrieval.lift.choose import exact_neighbours
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.types import CollectionSpec, HnswOptions, VectorQuery

Points = NDArray[np.float64]
K = 10
DIM, REACH, LEVELS, EDGE = 5, 15.0, 12, (1.1, 1.5)
CANDIDATES = (10, 100, 1000)


def random_tree(nodes: int, seed: int = 0, dim: int = DIM) -> tuple[Points, NDArray[np.intp]]:
    """Nodes of a random tree on the hyperboloid of curvature −1, the root at the origin.

    Levels hold numbers of nodes in the proportions of a binomial distribution; parents are drawn from the level above
    with weights of a heavy tail, so that some have hundreds of children. A child lies 1.1 to 1.5 from its parent, away
    from the origin and from its siblings; the few that would come to lie beyond radius 15 are moved back to it.

    Args:
        nodes: n ≥ 2.
        seed: The same tree for the same seed.
        dim: d ≥ 2.

    Returns:
        Space components (n, d), float64, with radii of at most 15, and the row of each node's parent (n,); the root,
        row 0, is its own.
    """
    rng = np.random.default_rng(seed)
    depths = 1 + np.sort(rng.binomial(LEVELS - 1, 0.6, nodes - 1))
    points, parents = np.zeros((nodes, dim)), np.zeros(nodes, dtype=np.intp)
    above = np.zeros(1, dtype=np.intp)
    for depth in np.unique(depths):
        rows = 1 + np.flatnonzero(depths == depth)
        weights = rng.pareto(1.5, len(above)) + 0.1
        parents[rows] = np.sort(rng.choice(above, len(rows), p=weights / weights.sum()))
        edges = rng.uniform(*EDGE, (len(rows), 1))
        steps = np.sinh(edges) * _directions(points[parents[rows]], parents[rows], rng)
        points[rows] = lorentz.traverse(_seen_from(points[parents[rows]], steps), REACH, 1.0)
        above = rows
    return points, parents


def _directions(at: Points, parents: NDArray[np.intp], rng: np.random.Generator) -> Points:
    """Unit vectors (n, d) in the frames of the parents `at`: outward, and for children of one parent far apart."""
    found = np.empty_like(at)
    starts = np.flatnonzero(np.diff(parents, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(parents)], strict=True):
        norm = np.linalg.norm(at[start])
        outward = at[start] / norm if norm > 0 else at[start]
        pool = rng.standard_normal((4 * (stop - start), at.shape[1]))
        pool /= np.linalg.norm(pool, axis=1, keepdims=True)
        pool += 2 * outward
        pool /= np.linalg.norm(pool, axis=1, keepdims=True)
        # Each takes the direction of the pool that is farthest from those taken.
        nearest = np.full(len(pool), np.inf)
        chosen = 0
        for row in range(start, stop):
            found[row] = pool[chosen]
            nearest = np.minimum(nearest, np.linalg.norm(pool - pool[chosen], axis=1))
            chosen = int(nearest.argmax())
    return found


def _seen_from(origins: Points, steps: Points) -> Points:
    """Points of the hyperboloid given in frames whose origins are others: the boost from 0 to `origins`."""
    along = np.einsum("nd,nd->n", origins, steps)
    factor = along / (lorentz.time(origins, 1.0) + 1) + lorentz.time(steps, 1.0)
    return steps + factor[:, None] * origins


def measure(lift: Lift, stored: Points, asked: Points, truth: NDArray[np.intp]) -> dict[str, Any]:
    """Recall@10 and time of a query at each number of candidates."""
    report: dict[str, Any] = {"beyond": int(lift.beyond(stored).sum())}
    hnsw = HnswOptions(full_scan_threshold=1, indexing_threshold=1)
    vectors, extras, queries = lift.lift(stored), lift.extras(stored), lift.lift_query(asked)
    with tempfile.TemporaryDirectory() as folder:
        store = EdgeStore(folder)
        store.create("tree", CollectionSpec(size=lift.size, metadata={}, metric=lift.metric, hnsw=hnsw))
        store.upsert("tree", range(len(stored)), vectors, [{"hysac": extra} for extra in extras])
        store.optimize("tree")
        report["indexed"] = store.indexed("tree")
        for candidates in CANDIDATES:
            found, start = [], time.perf_counter()
            for query, point in zip(queries, asked, strict=True):
                nearness = models.NegExpression(neg=lift.formula(point))
                formula = models.FormulaQuery(formula=nearness, defaults=lift.defaults())
                request = VectorQuery(query[None], K, formulas=[formula], candidates=candidates, with_vectors=False)
                found.append({hit.id for hit in store.query("tree", request)[0]})
            seconds = time.perf_counter() - start
            shares = [len(ids & set(wanted)) / K for ids, wanted in zip(found, truth.tolist(), strict=True)]
            report[f"L={candidates}"] = {
                "recall": round(float(np.mean(shares)), 4),
                "mean_ms": round(1e3 * seconds / len(asked), 3),
            }
        store.close()
    return report


@click.command(help=__doc__)
@click.option("--nodes", default=20_000, show_default=True, help="Nodes of the tree; WordNet has 82,000 nouns.")
@click.option("--queries", default=300, show_default=True, help="Nodes held out as queries.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Default: benchmarks/results/tree.json.")
def main(nodes: int, queries: int, seed: int, out: Path | None) -> None:
    from recall import RESULTS, machine  # type: ignore[import-not-found]  # beside this script

    path = out or RESULTS / "tree.json"
    points, parents = random_tree(nodes, seed)
    radii = lorentz.dist0(points, 1.0)
    mixed = np.random.default_rng(seed).permutation(points)
    asked, stored = mixed[:queries], mixed[queries:]
    truth = exact_neighbours(stored, asked, K, 1.0)
    start = time.perf_counter()
    chosen, choice = choose_lift(stored, 1.0)
    choice["seconds"] = round(time.perf_counter() - start, 1)
    lifts: list[Lift] = [PaddedLift.fit(stored, 1.0), PoincareLift.make(DIM, 1.0)]
    report = {
        "what": "recall@10 of held-out nodes against exact float64 search, embedded engine, one request",
        "tree": {
            "nodes": nodes,
            "dim": DIM,
            "seed": seed,
            "queries": queries,
            "radius": {"median": round(float(np.median(radii)), 3), "max": round(float(radii.max()), 3)},
            "most_children": int(np.bincount(parents).max()),
            "distance_to_10th": round(float(np.median(lorentz.dist(asked, stored[truth[:, -1]], 1.0))), 3),
        },
        "recall_at_10": {lift.kind: measure(lift, stored, asked, truth) for lift in lifts},
        "auto": choice,
        "machine": machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    for kind, found in report["recall_at_10"].items():
        click.echo(f"{kind:10}" + "  ".join(f"L={n} {found[f'L={n}']['recall']:.4f}" for n in CANDIDATES))
    click.echo(f"auto picks {chosen.kind}: {choice}")
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
