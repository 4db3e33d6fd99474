"""Price of a safe search beside a plain cosine query of the same dimension in the same engine.

    python benchmarks/latency.py
    python benchmarks/latency.py --dim 768 --points 100000 --safe 0.95

The plain query is what an application pays today: a vector of the same length under Cosine, asked of the embedded
engine itself, without any code of this package. Both sides have the same number of points, the same graph options, the
same effort (ef), the same payloads, and return ten hits with their payloads (which the plain query does not read; a
further side does). Each side runs in blocks of its own, and the blocks take turns. Queries are points, half of them
unsafe, so the encoder is not in these times; redirection, safety filter, the check of what comes back and the distances
are.

L is the number of candidates of the first stage: 10 where the engine's own score ranks, 100 where a second stage does.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import qdrant_edge as edge
from common import RESULTS, WALKED, K, Points, in_blocks, milliseconds, ratios, show_table, write_report
from points import Data, stored, synthetic

from hysac_retrieval.collection.collection import payload_indexes
from hysac_retrieval.collection.plan import plan_search
from hysac_retrieval.collection.records import records
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.stores.edge.requests import INDEX_TYPES
from hysac_retrieval.stores.types import Quantization

THREADS = (1, 2, 8)
SHARES = (0.5, 0.95)
MEDIAN_GOAL, RATE_GOAL = 1.15, 0.85
"""Goals with 95 % of the points safe: median of a safe search over that of the plain query, and calls per second."""
Call = Callable[[int], Any]


def payload(row: int) -> dict[str, Any]:
    """What an application keeps with a picture."""
    return {
        "path": f"photos/{row // 1000:04}/{row:08}.jpg",
        "caption": f"a picture of thing number {row}",
        "year": 2024,
    }


@contextmanager
def plain(data: Data, payloads: list[dict[str, Any]], fingerprint: str) -> Iterator[Any]:
    """The same points as an application without safety keeps them: directions under Cosine, raw engine."""
    hnsw = edge.HnswIndexConfig(
        m=WALKED.m, ef_construct=WALKED.ef_construct, full_scan_threshold=WALKED.full_scan_threshold
    )
    config = edge.EdgeConfig(
        vectors={"": edge.EdgeVectorParams(size=data.gallery.shape[1], distance=edge.Distance.Cosine)},
        hnsw_config=hnsw,
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=WALKED.indexing_threshold),
    )
    with tempfile.TemporaryDirectory() as folder:
        shard = edge.EdgeShard.create(folder, config)
        for key, kind in payload_indexes(fingerprint).items():
            shard.update(edge.UpdateOperation.create_field_index(key, INDEX_TYPES[kind]))
        for start in range(0, len(data.gallery), 500):
            rows = data.gallery[start : start + 500].astype(np.float32).tolist()
            points = [edge.Point(start + i, row, payloads[start + i]) for i, row in enumerate(rows)]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.optimize()
        yield shard
        shard.close()


def sides(stack: ExitStack, data: Data, queries: Points) -> dict[str, Call]:
    """Everything that is timed, by name; the plain query first."""

    def engine(lift: str = "padded", quantization: Quantization | None = None) -> SafeSearch:
        return SafeSearch(stack.enter_context(stored(data, lift, quantization, payload))[0], None)

    padded, poincare, int8 = engine(), engine("poincare"), engine(quantization="int8")
    collection = padded.index.collection
    # The very payloads that the collection holds, so that both sides return as much.
    rows = range(len(data.gallery))
    _, _, payloads = records(collection, rows, data.gallery, "image", [payload(row) for row in rows])
    shard = stack.enter_context(plain(data, payloads, collection.metadata.fingerprint))
    single = queries.astype(np.float32)

    def cosine(turn: int) -> Any:
        vector = single[turn % len(single)].tolist()
        return shard.query(edge.QueryRequest(query=edge.Query.Nearest(vector), limit=K, with_payload=True))

    def search(engine: SafeSearch, **options: Any) -> Call:
        return lambda turn: engine.search(queries[turn % len(queries)], limit=K, query_modality="text", **options)

    plan = plan_search(collection, PageRequest(limit=K))
    requests = [plan.query(query[None]) for query in queries]
    return {
        "plain cosine": cosine,
        "plain cosine, payloads read": lambda turn: [point.payload for point in cosine(turn)],
        "safe search": search(padded),
        "safe search, float64 distances": search(padded, rerank="exact"),
        "safe=False": search(padded, safe=False),
        "safe search, poincare lift, L=100": search(poincare),
        "safe search, int8": search(int8),
        "store's share of a safe search": lambda turn: padded.index.store.query(
            "gallery", requests[turn % len(requests)]
        ),
    }


def per_second(call: Call, threads: int, seconds: float) -> float:
    """Calls per second from several threads."""
    counts = [0] * threads
    begin, end = threading.Barrier(threads + 1), threading.Event()

    def work(number: int) -> None:
        begin.wait()
        turn = number * 37
        while not end.is_set():
            call(turn)
            turn += 1
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    start = time.perf_counter()
    time.sleep(seconds)
    end.set()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - start)


def throughput(calls: dict[str, Call], base: str, seconds: float, rounds: int = 3) -> dict[str, Any]:
    """Queries per second by number of threads: the median of several rounds, in which the sides take turns."""
    found: dict[str, dict[str, list[float]]] = {name: {str(n): [] for n in THREADS} for name in calls}
    for _ in range(rounds):
        for threads in THREADS:
            for name, call in calls.items():
                found[name][str(threads)].append(per_second(call, threads, seconds / rounds))
    rates = {name: {n: float(np.median(each)) for n, each in by_threads.items()} for name, by_threads in found.items()}
    return {
        name: {
            "ratio": {n: round(rate / rates[base][n], 3) for n, rate in by_threads.items()},
            "per_second": {n: round(rate, 1) for n, rate in by_threads.items()},
        }
        for name, by_threads in rates.items()
    }


def measure(data: Data, count: int, seconds: float) -> dict[str, Any]:
    """Latency and throughput of all sides on one gallery."""
    queries = np.stack([data.queries["safe_text"], data.queries["unsafe_text"]], axis=1).reshape(
        -1, data.gallery.shape[1]
    )
    with ExitStack() as stack:
        calls = sides(stack, data, queries)
        times = in_blocks(calls, count)
        base = times["plain cosine"]
        latency = {name: {"ratio": ratios(each, base)} | milliseconds(each) for name, each in times.items()}
        compared = {name: calls[name] for name in ("plain cosine", "safe search", "safe=False")}
        rates = throughput(compared, "plain cosine", seconds)
    return {
        "points": len(data.gallery),
        "dim": data.gallery.shape[1],
        "queries": count,
        "latency": latency,
        "queries_per_second_by_threads": rates,
        "goals": {
            "median": {"at_most": MEDIAN_GOAL, "met": latency["safe search"]["ratio"]["p50"] <= MEDIAN_GOAL},
            "per_second": {
                "at_least": RATE_GOAL,
                "met": all(ratio >= RATE_GOAL for ratio in rates["safe search"]["ratio"].values()),
            },
        },
    }


@click.command(help=__doc__)
@click.option("--dim", "dims", default=[256, 768], multiple=True, show_default=True, help="Space components.")
@click.option("--points", default=20_000, show_default=True, help="Points of each collection.")
@click.option("--safe", "shares", default=SHARES, multiple=True, show_default=True, help="Share of safe points.")
@click.option("--queries", default=2000, show_default=True, help="Calls of each side.")
@click.option("--seconds", default=6.0, show_default=True, help="Time for each number of threads and side.")
@click.option("--quick", is_flag=True, help="A small run, to see that it works.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "latency.json", show_default=False)
def main(
    dims: tuple[int, ...],
    points: int,
    shares: tuple[float, ...],
    queries: int,
    seconds: float,
    quick: bool,
    out: Path,
) -> None:
    if quick:
        dims, points, shares, queries, seconds = (16,), 500, (0.95,), 20, 0.3
    runs = []
    for dim, share in itertools.product(dims, shares):
        found = {"safe": share} | measure(synthetic(points, max(queries // 4, 10), dim, safe=share), queries, seconds)
        runs.append(found)
        click.echo(f"{points} points, d={dim}, {share:.0%} safe")
        show_table(
            ("", "p50 ratio", "p95 ratio", "p99 ratio", "p50 ms", "p95 ms", "p99 ms"),
            [
                (name, *row.pop("ratio").values(), *row.values())
                for name, row in copy.deepcopy(found["latency"]).items()
            ],
        )
        rates = found["queries_per_second_by_threads"]
        show_table(
            ("queries per second", *(f"ratio, {n} threads" for n in THREADS), *(f"{n} threads" for n in THREADS)),
            [(name, *row["ratio"].values(), *row["per_second"].values()) for name, row in rates.items()],
        )
    what = "SafeSearch.search without encoding against a plain cosine query, embedded engine, limit 10; each in blocks"
    write_report({"what": what, "runs": runs}, out)


if __name__ == "__main__":
    main()
