"""Price of HTTP: searches by text through `hysac serve` beside the same engine called in a process.

    python benchmarks/serve.py
    python benchmarks/serve.py --points 2000 --requests 200 --seconds 10

The bundled model, 20,000 points with its radii in random directions, on the embedded engine. Queries are captions, a
new one each time, safe and unsafe. In the process, so many threads call `engine.search`; over loopback, so many
connections of a client that does nothing else send `POST /v1/search` and read the answer, one after the other. The
service is a process of its own; client and service share the machine. Then 80 % of the largest rate that the service
reached is sent for a while: errors, and the memory of the service at the beginning and the end.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import PERCENTILES, RESULTS, show_table, write_report

from hysac_retrieval import Encoder, Index, SafeSearch, connect, lorentz

CLIENTS = (1, 8, 64)
MEDIAN_GOAL, RATE_GOAL = 1.8, 0.8
"""Goals: the median at one client over that in the process, and the share of its largest rate."""
SHARE = 0.8
COLLECTION = "bench"
_THINGS = ("dog", "cat", "gun", "pizza", "castle", "wolf", "knife", "painter", "bride", "school", "bomb", "cookie")
_PLACES = ("in a forest", "on a beach", "in the snow", "at night", "in a desert", "in a city", "on a wheat field")


def captions(seed: int) -> Iterator[str]:
    """Endless captions of two things in a place."""
    rng = random.Random(seed)
    while True:
        one, other, place = rng.choice(_THINGS), rng.choice(_THINGS), rng.choice(_PLACES)
        yield f"a {one} close to a {other} {place} number {rng.randrange(10**6)}"


def fill(folder: Path, encoder: Encoder, count: int) -> None:
    """Store points with the radii of the model's pictures, half of them unsafe."""
    rng = np.random.default_rng(0)
    profile = encoder.safety.image
    radii = np.where(rng.random(count) < 0.5, profile.safe.mean, profile.unsafe.mean)
    directions = rng.normal(size=(count, encoder.dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = lorentz.exp_map0(directions * radii[:, None], encoder.curvature)
    with Index.for_model(encoder, COLLECTION, location=folder) as index:
        payloads = [{"file": f"{row:06}.jpg", "caption": f"picture number {row}"} for row in range(count)]
        index.upsert(range(count), points, modality="image", payloads=payloads)
        index.optimize()


def summary(seconds: list[float], wall: float) -> dict[str, float]:
    """Requests per second, and percentiles in milliseconds."""
    found = {f"p{p}_ms": float(np.percentile(seconds, p)) * 1e3 for p in PERCENTILES}
    return {"rate": len(seconds) / wall, **found}


def in_process(engine: SafeSearch, clients: int, requests: int) -> dict[str, float]:
    """Search from so many threads at once."""
    times: list[list[float]] = [[] for _ in range(clients)]

    def work(row: int) -> None:
        for text in itertools.islice(captions(row), requests // clients):
            began = time.perf_counter()
            engine.search(text)
            times[row].append(time.perf_counter() - began)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return summary(list(itertools.chain(*times)), time.perf_counter() - began)


@contextmanager
def served(folder: Path, model: str, threads: int) -> Iterator[tuple[int, int]]:
    """Run the service; yields its port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "from hysac_retrieval.cli import main; main()"
    arguments = ["serve", "--collection", COLLECTION, "--location", str(folder), "--model", model, "--port", str(port)]
    arguments += ["--limit", "rate=0", "--limit", f"threads={threads}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, env=environment)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Connection:
    """A connection that is kept; as little of a client as will do."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> Connection:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def search(self, text: str) -> int:
        """Send a search, read the whole answer, return its status."""
        body = json.dumps({"text": text}).encode()
        head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length"))
        await self._reader.readexactly(length)
        return int(lines[0].split()[1])

    def close(self) -> None:
        """Let go."""
        self._writer.close()


async def over_http(port: int, clients: int, requests: int) -> tuple[dict[str, float], int]:
    """Search over so many connections at once; returns the summary and the number of answers that are no result."""
    connections = [await Connection(port).open() for _ in range(clients)]
    times: list[float] = []
    wrong = 0

    async def work(row: int, connection: Connection) -> None:
        nonlocal wrong
        for text in itertools.islice(captions(row), requests // clients):
            began = time.perf_counter()
            wrong += await connection.search(text) != 200
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work(row, one) for row, one in enumerate(connections)))
    wall = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return summary(times, wall), wrong


async def steadily(port: int, rate: float, seconds: float, clients: int = 16) -> dict[str, Any]:
    """Send at a rate for a while; a connection that is late sends the next at once."""
    connections = [await Connection(port).open() for _ in range(clients)]
    wrong, sent, times = 0, 0, list[float]()
    began = time.perf_counter()

    async def work(row: int, connection: Connection) -> None:
        nonlocal wrong, sent
        for turn, text in enumerate(captions(1000 + row)):
            due = began + (turn * clients + row) / rate
            if due > began + seconds:
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            at = time.perf_counter()
            wrong += await connection.search(text) != 200
            times.append(time.perf_counter() - at)
            sent += 1

    await asyncio.gather(*(work(row, one) for row, one in enumerate(connections)))
    for connection in connections:
        connection.close()
    return {
        "wanted_rate": rate,
        "seconds": seconds,
        "sent": sent,
        "errors": wrong,
        **summary(times, time.perf_counter() - began),
    }


def resident(pid: int) -> float:
    """Memory of a process, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@click.command()
@click.option("--points", default=20_000, show_default=True)
@click.option("--requests", default=3000, show_default=True, help="Requests of each measurement.")
@click.option("--seconds", default=300.0, show_default=True, help="How long the steady load is sent.")
@click.option("--threads", default=4, show_default=True, help="Threads of the service.")
@click.option("--model", default="hysac-mini", show_default=True)
@click.option("--out", default=RESULTS / "serve.json", type=click.Path(path_type=Path), show_default=True)
def main(points: int, requests: int, seconds: float, threads: int, model: str, out: Path) -> None:
    """Measure what the service adds to a search."""
    encoder, rows = Encoder.load(model), []
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), encoder, points)
        with connect(COLLECTION, model=encoder, location=folder) as engine:
            in_process(engine, 1, 50)
            inside = {clients: in_process(engine, clients, requests) for clients in CLIENTS}
        with served(Path(folder), model, threads) as (port, pid):
            asyncio.run(over_http(port, 8, 400))
            outside, errors = {}, 0
            for clients in CLIENTS:
                outside[clients], wrong = asyncio.run(over_http(port, clients, requests))
                errors += wrong
            before = resident(pid)
            best = max(found["rate"] for found in outside.values())
            steady = asyncio.run(steadily(port, SHARE * best, seconds))
            steady |= {"resident_mb_before": before, "resident_mb_after": resident(pid)}
    for clients in CLIENTS:
        for side, found in (("in process", inside[clients]), ("service", outside[clients])):
            rows.append((side, clients, f"{found['rate']:.0f}", *(f"{found[f'p{p}_ms']:.2f}" for p in PERCENTILES)))
    show_table(("side", "clients", "requests/s", *(f"p{p} ms" for p in PERCENTILES)), rows)
    median = outside[1]["p50_ms"] / inside[1]["p50_ms"]
    rate = best / max(found["rate"] for found in inside.values())
    click.echo(f"median at one client: {median:.2f} × in process (goal ≤ {MEDIAN_GOAL})")
    click.echo(f"largest rate: {rate:.2f} × in process (goal ≥ {RATE_GOAL})")
    click.echo(
        f"{steady['rate']:.0f} requests/s for {seconds:.0f} s: {steady['errors']} errors, memory "
        f"{steady['resident_mb_before']:.0f} → {steady['resident_mb_after']:.0f} MB"
    )
    report = {
        "settings": {
            "points": points,
            "requests": requests,
            "threads": threads,
            "model": encoder.fingerprint,
        },
        "in_process": inside,
        "service": outside,
        "errors": errors,
        "median_ratio": median,
        "rate_ratio": rate,
        "goals": {"median_ratio": MEDIAN_GOAL, "rate_ratio": RATE_GOAL},
        "steady": steady,
    }
    write_report(report, out)


if __name__ == "__main__":
    main()
