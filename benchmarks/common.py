"""What the benchmarks share: the machine, exact search, timing, tables and reports."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from hysac_retrieval import lorentz
from hysac_retrieval.stores import HnswOptions

Points = NDArray[np.float64]
"""Space components of points on the hyperboloid, (n, d)."""

K = 10
PERCENTILES = (50, 95, 99)
RESULTS = Path(__file__).parent / "results"
WALKED = HnswOptions(full_scan_threshold=10, indexing_threshold=10)
"""Options that have every search walk the graph, however small the collection; small ones would be searched exactly."""


def machine() -> dict[str, Any]:
    """What the numbers were measured on; a load above 0 means that something else ran beside them."""
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
    except PackageNotFoundError:
        return None


class ExactSearch:
    """The k nearest points of each query by geodesic distance in float64, of points that arrive in blocks.

    A float32 matrix product rules out all points that its rounding, bounded from above, cannot let be among the
    nearest; the accurate float64 distance decides between the others.

    Args:
        queries: Shape (m, d).
        k: Neighbours of each.
        curvature: c > 0.
    """

    _BLOCK = 8192

    def __init__(self, queries: Points, k: int, curvature: float) -> None:
        self.queries, self.k, self.curvature = queries, k, curvature
        self.times = lorentz.time(queries, curvature)
        self.rows = np.full((len(queries), k), -1, dtype=np.int64)
        self.distances = np.full((len(queries), k), np.inf)
        self._single = self.queries.astype(np.float32)
        # Rounding of the factors, of d products and of their sum, relative to the product of the times.
        self._relative = np.float32(2 * (queries.shape[1] + 8) * np.finfo(np.float32).eps)

    def add(self, points: Points, rows: NDArray[np.integer[Any]]) -> None:
        """Take in points (n, d), known as `rows` (n,)."""
        for start in range(0, len(points), self._BLOCK):
            part = slice(start, start + self._BLOCK)
            self._add(points[part], np.asarray(rows[part], dtype=np.int64))

    def _add(self, points: Points, rows: NDArray[np.int64]) -> None:
        scale = np.outer(self.times, lorentz.time(points, self.curvature)).astype(np.float32)
        products = scale - self._single @ points.astype(np.float32).T
        scale *= self._relative
        # A point is out when its least possible product is above the greatest possible one of the k-th nearest.
        highest = products + scale
        products -= scale
        if len(points) > self.k:
            bound = np.partition(highest, self.k - 1, axis=1)[:, self.k - 1]
        else:
            bound = np.full(len(self.queries), np.inf, dtype=np.float32)
        known = (np.cosh(self.distances[:, -1] * self.curvature**0.5) / self.curvature).astype(np.float32)
        bound = np.minimum(bound, known * np.float32(1 + 1e-5))
        for row, query in enumerate(self.queries):
            near = np.flatnonzero(products[row] <= bound[row])
            if not near.size:
                continue
            distances = np.concatenate([self.distances[row], lorentz.dist(points[near], query[None], self.curvature)])
            order = np.argsort(distances, kind="stable")[: self.k]
            self.distances[row] = distances[order]
            self.rows[row] = np.concatenate([self.rows[row], rows[near]])[order]


def exact(
    points: Points, queries: Points, k: int, curvature: float, rows: NDArray[np.integer[Any]] | None = None
) -> ExactSearch:
    """Exact search among points (n, d), or among some of their `rows`."""
    search = ExactSearch(queries, k, curvature)
    chosen = np.arange(len(points)) if rows is None else rows
    for start in range(0, len(chosen), 1 << 16):  # so that the copies stay small
        part = chosen[start : start + (1 << 16)]
        search.add(points[part], part)
    return search


def recall(found: Sequence[Sequence[Any]], truth: ExactSearch, k: int, points: Points | None = None) -> list[float]:
    """Share of the k nearest that each query found.

    Any of several points at the distance of the k-th is right, which is seen where `points` are given; otherwise the
    ids decide.

    Args:
        found: Ids (rows) of the first k hits of each query, or of more.
        truth: Exact search for at least k.
        k: Neighbours that count, or as many as there are.
        points: All points, by row.
    """
    shares = []
    for row, ids in enumerate(found):
        wanted = truth.rows[row][:k]
        wanted = wanted[wanted >= 0]
        if not len(wanted):
            continue
        first = np.asarray(ids[:k], dtype=np.int64)
        right = len(np.intersect1d(first, wanted))
        if points is not None and right < len(wanted) and len(first):
            furthest = truth.distances[row][len(wanted) - 1] * (1 + 1e-9) + 1e-12
            distances = lorentz.dist(points[first], truth.queries[row][None], truth.curvature)
            right = int(np.count_nonzero(distances <= furthest))
        shares.append(right / len(wanted))
    return shares


def interleaved(sides: Mapping[str, Callable[[int], Any]], count: int, warmup: int = 20) -> dict[str, Points]:
    """Times in seconds, (count,), of each side's call with 0 to count − 1, taken in turns.

    What slows the machine for a while slows all sides alike. Who begins changes from turn to turn, so that none always
    follows the same other.
    """
    names = list(sides)
    for turn in range(min(warmup, count)):
        for name in names:
            sides[name](turn)
    seconds = {name: np.empty(count) for name in names}
    for turn in range(count):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            call = sides[name]
            start = time.perf_counter()
            call(turn)
            seconds[name][turn] = time.perf_counter() - start
    return seconds


def in_blocks(sides: Mapping[str, Callable[[int], Any]], count: int, rounds: int = 8) -> dict[str, Points]:
    """Times in seconds, (count,), of each side's call with 0 to count − 1, in blocks of its own that take turns.

    A call that follows another side's finds the caches full of that side's data, and pays for it; no application
    searches two collections in turns. A fifth of a block is run before it, untimed.
    """
    size = max(1, count // rounds)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for start in range(0, count, size):
        turns = range(start, min(start + size, count))
        for name, call in sides.items():
            for turn in turns[: 1 + size // 5]:
                call(turn)
            for turn in turns:
                begin = time.perf_counter()
                call(turn)
                seconds[name].append(time.perf_counter() - begin)
    return {name: np.array(each) for name, each in seconds.items()}


def milliseconds(seconds: Points) -> dict[str, float]:
    """p50, p95 and p99 of times."""
    return {f"p{q}_ms": round(1e3 * float(np.percentile(seconds, q)), 4) for q in PERCENTILES}


def ratios(seconds: Points, base: Points) -> dict[str, float]:
    """p50, p95 and p99 of times in terms of those of another side."""
    found, other = np.percentile(seconds, PERCENTILES), np.percentile(base, PERCENTILES)
    return {f"p{q}": round(float(share), 3) for q, share in zip(PERCENTILES, found / other, strict=True)}


def show_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, columns aligned, numbers as they are given."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        first, *others = zip(line, widths, strict=True)
        click.echo("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip())


def _bracket(found: re.Match[str]) -> str:
    return found[0].strip()


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write a report, with the machine, as JSON; lists of plain values on one line each."""
    text = json.dumps({**report, "machine": machine()}, indent=2)
    text = re.sub(
        r"\[[^\[\]{}]*\]", lambda found: re.sub(r",\s+", ", ", re.sub(r"^\[\s+|\s+\]$", _bracket, found[0])), text
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    click.echo(f"wrote {path}")
