"""Collections as applications have them: their own vectors of 384 dimensions under cosine, their own payload."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from qdrant_client import QdrantClient, models

from support.grpc_server import grpc_server
from support.qdrant_server import QDRANT, own_client
from support.rest_server import RestServer

NAME, SIZE = "app", 384
TEXTS = ["a man with a dog", "a man with a gun", "the red house", "a woman with a knife", "a cat in the park"]
UNSAFE = ("gun", "knife")
PLACES = ("edge", "memory", "server", *QDRANT)

Snapshot = dict[Any, tuple[dict[str, Any], dict[str, bytes]]]


@dataclass
class Application:
    """A collection, how to reach it, and what is in it.

    Attributes:
        place: Arguments of a connection.
        ids: Ids of its points.
        named: Whether its vector has a name.
        look: Payload and vectors of every point, as the engine gives them.
        act: Carries out a change as the application's own client does.
        server: The server, where there is one.
    """

    place: dict[str, Any]
    ids: list[Any]
    named: bool
    look: Callable[[], Snapshot]
    upsert: Callable[[Any, dict[str, Any]], None]
    client: QdrantClient | None = None
    server: RestServer | None = None

    def own(self) -> Snapshot:
        """As `look`, without what is ours."""
        return {
            key: (
                {name: value for name, value in payload.items() if name != "hysac"},
                {name: value for name, value in vectors.items() if name != "hysac"},
            )
            for key, (payload, vectors) in self.look().items()
        }


Encode = Callable[[Any, dict[str, Any]], Any]
"""Makes the own vector of a point, of its id and payload; None for none."""


def vector(seed: int) -> list[float]:
    found: list[float] = np.random.default_rng(seed).normal(size=SIZE).tolist()
    return found


def by_key(key: Any, _: dict[str, Any]) -> list[float]:
    return vector(hash(key) % 1000)


def payloads(texts: list[str]) -> list[dict[str, Any]]:
    return [{"title": text, "price": row + 0.5, "meta": {"tags": ["x", row]}} for row, text in enumerate(texts)]


def make_ids(kind: str, n: int) -> list[Any]:
    return list(range(n)) if kind == "int" else [str(uuid.uuid5(uuid.NAMESPACE_DNS, str(row))) for row in range(n)]


@contextmanager
def application(
    where: str,
    folder: Path,
    rows: list[dict[str, Any]] | None = None,
    *,
    named: bool | None = None,
    ids: str = "int",
    quantized: bool = False,
    encode: Encode = by_key,
    size: int = SIZE,
) -> Iterator[Application]:
    rows = payloads(TEXTS) if rows is None else rows
    keys = make_ids(ids, len(rows))
    # Behind a client, a vector without a name gets no named one beside it unless that is asked for.
    named = where != "edge" if named is None else named
    if where == "edge":
        yield _on_edge(folder, dict(zip(keys, rows, strict=True)), named, quantized, encode, size)
    elif where == "memory":
        client = QdrantClient(":memory:")
        yield _on_client(client, {"client": client}, dict(zip(keys, rows, strict=True)), named, encode, size)
        client.close()
    elif where.startswith("qdrant"):
        with own_client(where) as client:
            yield _on_client(client, {"client": client}, dict(zip(keys, rows, strict=True)), named, encode, size)
    else:
        with grpc_server() as both:
            server = both.rest
            server.grpc_port = both.port if where.endswith("grpc") else None
            app = _on_client(server.backend, server.place, dict(zip(keys, rows, strict=True)), named, encode, size)
            app.server = server
            yield app


def _on_client(
    client: QdrantClient, place: dict[str, Any], rows: dict[Any, dict[str, Any]], named: bool, encode: Encode, size: int
) -> Application:
    params = models.VectorParams(size=size, distance=models.Distance.COSINE)
    client.create_collection(NAME, {"own": params} if named else params, metadata={"owner": "shop"})

    def upsert(key: Any, payload: dict[str, Any]) -> None:
        own = encode(key, payload)
        # The default vector is the one without a name; a server takes it either way, the stub's backend only so.
        there = {} if own is None else {"own": own} if named else {"": own}
        client.upsert(NAME, [models.PointStruct(id=key, vector=there, payload=payload)])

    for key, row in rows.items():
        upsert(key, row)

    def look() -> Snapshot:
        found, _ = client.scroll(NAME, limit=10_000, with_vectors=True)
        return {record.id: (record.payload or {}, _bytes(record.vector)) for record in found}

    return Application(place, list(rows), named, look, upsert, client)


def _on_edge(
    folder: Path, rows: dict[Any, dict[str, Any]], named: bool, quantized: bool, encode: Encode, size: int
) -> Application:
    shard_folder = folder / NAME
    shard_folder.mkdir(parents=True)
    params = edge.EdgeVectorParams(size=size, distance=edge.Distance.Cosine)
    quantization = edge.ScalarQuantizationConfig(edge.ScalarType.Int8, always_ram=True) if quantized else None
    config = edge.EdgeConfig(vectors={"own": params} if named else params, quantization_config=quantization)

    def point(key: Any, payload: dict[str, Any]) -> Any:
        own = encode(key, payload)
        return edge.Point(key, {} if own is None else {"own": own} if named else own, payload)

    @contextmanager
    def opened() -> Iterator[Any]:
        shard = edge.EdgeShard.load(str(shard_folder))
        yield shard
        shard.flush()
        shard.close()

    shard = edge.EdgeShard.create(str(shard_folder), config)
    shard.update(edge.UpdateOperation.upsert_points([point(*pair) for pair in rows.items()]))
    shard.flush()
    shard.close()

    def look() -> Snapshot:
        with opened() as shard:
            request = edge.ScrollRequest(limit=10_000, with_payload=True, with_vector=True)
            found, _ = shard.scroll(request)
            return {
                record.id if isinstance(record.id, int) else str(record.id): (
                    dict(record.payload or {}),
                    _bytes(record.vector),
                )
                for record in found
            }

    def upsert(key: Any, payload: dict[str, Any]) -> None:
        with opened() as shard:
            shard.update(edge.UpdateOperation.upsert_points([point(key, payload)]))

    return Application({"location": folder}, list(rows), named, look, upsert)


def _bytes(vectors: Any) -> dict[str, bytes]:
    every = vectors if isinstance(vectors, dict) else {"": vectors}
    return {name: np.asarray(value, dtype=np.float32).tobytes() for name, value in every.items()}
