"""Price of a safe search on a Qdrant server, beside the same client's plain cosine query; needs ``QDRANT_URL``.

    QDRANT_URL=http://localhost:6333 python benchmarks/server.py
    QDRANT_URL=… python benchmarks/server.py --points 100000 --no-grpc

The plain side is what an application does today through qdrant-client: one vector under Cosine, upserted with
`upload_collection`, queried for ten points with their payloads. Ours is `SafeSearch.search` with points, half of them
unsafe, through a client of the same kind: redirection, safety filter, the check of what comes back and distances are
in its times, the encoder is not. Each side runs in blocks of its own, which take turns, and both collections are in the
server all the while. Collections that this makes have names of their own and are removed again.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from common import RESULTS, K, Points, exact, recall, show_table, write_report
from latency import Call, payload, per_second
from points import Data, synthetic
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from hysac_retrieval import aconnect, lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.lift import PaddedLift
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.stores.qdrant.client import make_client

THREADS = (1, 4, 16)
GOALS = {"1 thread": 0.9, "4 threads": 0.85, "16 threads": 0.85, "asyncio, 32 at once": 0.85, "upload": 0.9}
"""Least share of the plain side's rate; a batch of 50 may take 1.15 times as long, and recall is 0.999 or more."""
AT_ONCE, BATCH, ROUNDS = 32, 50, 3
RESCORED = 10_000
"""Goal for rescoring, points per second."""


def where(*, grpc: bool) -> dict[str, Any]:
    """Arguments that reach the server."""
    return {
        "url": os.environ["QDRANT_URL"],
        "api_key": os.environ.get("QDRANT_API_KEY"),
        "prefer_grpc": grpc,
        "grpc_port": int(os.environ.get("QDRANT_GRPC_PORT", "6334")),
    }


def wait(client: QdrantClient, name: str) -> None:
    """Wait until the graph is built."""
    while client.get_collection(name).status != models.CollectionStatus.GREEN:
        time.sleep(0.5)


@contextmanager
def plain(client: QdrantClient, data: Data) -> Iterator[tuple[str, float]]:
    """The points as an application without safety keeps them; yields the name and the seconds of the upload."""
    name, dim = f"plain-{uuid.uuid4().hex}", data.gallery.shape[1]
    vectors = models.VectorParams(size=dim, distance=models.Distance.COSINE)
    client.create_collection(name, vectors, hnsw_config=models.HnswConfigDiff(ef_construct=256))
    try:
        rows = range(len(data.gallery))
        start = time.perf_counter()
        client.upload_collection(
            name, data.gallery.astype(np.float32), [payload(row) for row in rows], rows, batch_size=500, wait=True
        )
        seconds = time.perf_counter() - start
        yield name, seconds
    finally:
        client.delete_collection(name)


@contextmanager
def ours(client: QdrantClient, data: Data) -> Iterator[tuple[Index, float]]:
    """The points as this package keeps them; yields the index and the seconds of the upload."""
    name, rows = f"hysac-{uuid.uuid4().hex}", range(len(data.gallery))
    lift = PaddedLift.fit(data.sample, data.curvature)
    with Index.create(name, **data.space, lift=lift, client=client) as index:
        try:
            start = time.perf_counter()
            index.upsert(rows, data.gallery, modality="image", payloads=[payload(row) for row in rows])
            seconds = time.perf_counter() - start
            yield index, seconds
        finally:
            client.delete_collection(name)


def rates(bare: Call, safe: Call, seconds: float) -> dict[str, float]:
    """Calls per second of a safe search in terms of a plain one's, by number of threads; blocks take turns."""
    found = {}
    for threads in THREADS:
        each = [[per_second(call, threads, seconds) for call in (bare, safe)] for _ in range(ROUNDS)]
        base, rate = np.median(each, axis=0)
        found[f"{threads} thread{'' if threads == 1 else 's'}"] = round(float(rate / base), 3)
    return found


async def at_once(call: Callable[[int], Awaitable[Any]], seconds: float) -> float:
    """Calls per second with so many under way."""
    done, end = 0, time.perf_counter() + seconds

    async def work(number: int) -> None:
        nonlocal done
        turn = number
        while time.perf_counter() < end:
            await call(turn)
            turn, done = turn + AT_ONCE, done + 1

    await asyncio.gather(*(work(number) for number in range(AT_ONCE)))
    return done / seconds


async def asynchronous(names: tuple[str, str], queries: Points, seconds: float, *, grpc: bool) -> float:
    """Rate of ours in terms of the plain one's, with many calls under way."""
    client = make_client(AsyncQdrantClient, **where(grpc=grpc))
    single = queries.astype(np.float32)

    async def cosine(turn: int) -> Any:
        return await client.query_points(names[0], query=single[turn % len(single)].tolist(), limit=K)

    async with aconnect(names[1], model=None, **where(grpc=grpc)) as engine:

        async def search(turn: int) -> Any:
            return await engine.search(queries[turn % len(queries)], limit=K, query_modality="text")

        shares = []
        for _ in range(ROUNDS):
            base = await at_once(cosine, seconds)
            shares.append(await at_once(search, seconds) / base)
    await client.close()
    return round(float(np.median(shares)), 3)


def times_of(bare: Callable[[], Any], safe: Callable[[], Any]) -> float:
    """Time of one call in terms of another's: the medians of blocks that take turns."""
    times: dict[Callable[[], Any], list[float]] = {bare: [], safe: []}
    for _ in range(ROUNDS):
        for act in (bare, safe):
            act()
            for _ in range(8):
                start = time.perf_counter()
                act()
                times[act].append(time.perf_counter() - start)
    return float(np.median(times[safe]) / np.median(times[bare]))


def measure(data: Data, seconds: float, *, grpc: bool) -> dict[str, Any]:
    """All figures over one interface."""
    queries = np.stack([data.queries["safe_text"], data.queries["unsafe_text"]], axis=1).reshape(
        -1, data.gallery.shape[1]
    )
    single = queries.astype(np.float32)
    client = make_client(QdrantClient, **where(grpc=grpc))
    uploads: list[tuple[float, float]] = []
    for _ in range(ROUNDS - 1):
        with plain(client, data) as (_, bare_seconds):
            pass
        with ours(client, data) as (_, seconds_of_ours):
            uploads.append((bare_seconds, seconds_of_ours))
    with ExitStack() as stack:
        bare, bare_seconds = stack.enter_context(plain(client, data))
        wait(client, bare)
        index, seconds_of_ours = stack.enter_context(ours(client, data))
        wait(client, index.name)
        uploads.append((bare_seconds, seconds_of_ours))
        engine = SafeSearch(index, None)

        def cosine(turn: int) -> Any:
            return client.query_points(bare, query=single[turn % len(single)].tolist(), limit=K)

        def search(turn: int) -> Any:
            return engine.search(queries[turn % len(queries)], limit=K, query_modality="text")

        asked = [models.QueryRequest(query=v.tolist(), limit=K, with_payload=True) for v in single[:BATCH]]
        found: dict[str, Any] = rates(cosine, search, seconds)
        click.echo(f"{'gRPC' if grpc else 'REST'}: {found}")
        found["asyncio, 32 at once"] = asyncio.run(asynchronous((bare, index.name), queries, seconds, grpc=grpc))
        found["batch of 50, time"] = round(
            times_of(
                lambda: client.query_batch_points(bare, asked),
                lambda: engine.search_batch(list(queries[:BATCH]), limit=K, query_modality="text"),
            ),
            3,
        )
        found["upload"] = round(float(np.divide(*np.median(uploads, axis=0))), 3)
        found["recall@10, safe"] = found_share(engine, data, safe=True)
        found["recall@10, as asked"] = found_share(engine, data, safe=False)
        click.echo(str(found))
        image = data.safety.image.model_copy(update={"midpoint": data.safety.image.midpoint * 1.01})
        report = rescore(index, data.safety.model_copy(update={"image": image}))
        if report.rescored != len(data.gallery) or report.left:
            raise click.ClickException(f"rescoring is not complete: {report}")
        found["rescored per second"] = round(report.rescored / report.seconds)
    client.close()
    return found


def found_share(engine: SafeSearch, data: Data, *, safe: bool) -> float:
    """Recall@10 of safe texts among the points that may be found."""
    queries = data.queries["safe_text"]
    unsafe = data.safety.unsafe(lorentz.dist0(data.gallery, data.curvature), "image")
    rows = np.flatnonzero(unsafe <= data.safety.threshold.image) if safe else np.arange(len(data.gallery))
    truth = exact(data.gallery, queries, K, data.curvature, rows)
    results = engine.search_batch(list(queries), limit=K, safe=safe, query_modality="text")
    return round(float(np.mean(recall([[hit.id for hit in hits] for hits in results], truth, K, data.gallery))), 4)


@click.command(help=__doc__)
@click.option("--dim", default=256, show_default=True, help="Space components.")
@click.option("--points", default=20_000, show_default=True, help="Points of each collection.")
@click.option("--seconds", default=4.0, show_default=True, help="Time of each block.")
@click.option("--grpc/--no-grpc", default=True, show_default=True, help="Whether to measure gRPC as well.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "server.json", show_default=False)
def main(dim: int, points: int, seconds: float, grpc: bool, out: Path) -> None:
    if "QDRANT_URL" not in os.environ:
        raise click.UsageError("QDRANT_URL is not set: this measures a Qdrant server")
    data = synthetic(points, 200, dim, safe=0.5)
    runs = {name: measure(data, seconds, grpc=name == "gRPC") for name in ("REST", *(["gRPC"] if grpc else []))}
    rows = [(what, *(run[what] for run in runs.values()), GOALS.get(what, "")) for what in runs["REST"]]
    show_table(("share of the plain client's", *runs, "goal"), rows)
    version = make_client(QdrantClient, **where(grpc=False)).info().version
    write_report({"what": "SafeSearch on a Qdrant server against plain cosine queries of the same client",
                  "server": version, "points": points, "dim": dim, "goals": GOALS, "runs": runs}, out)  # fmt: skip


if __name__ == "__main__":
    main()
