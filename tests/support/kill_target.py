"""What `test_kill` kills: one indexing run in a process of its own, which tells how far it is."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnxruntime  # noqa: F401  loaded here so that a fork of this process starts in no time

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.ingest import Progress, index_sources
from hysac_retrieval.ingest.pipeline import encode

BATCH = 4


def index(model: Path, sources: list[Path], location: Path, journal: Path, progress: Connection) -> None:
    """Index into ``location``; sends the number of finished items now and then, and at last -1."""
    encode.DECODED_AT_ONCE["fast"] = BATCH  # small steps, so that a kill finds something begun at every stage
    encoder = Encoder.load(model, threads=1)
    progress.send(0)
    with Index.for_model(encoder, "things", exist_ok=True, location=location) as collection:
        index_sources(
            sources,
            collection,
            encoder,
            batch_size=BATCH,
            journal=journal,
            on_progress=lambda now: progress.send(now.done),
        )
    progress.send(-1)


def contents(location: Path) -> tuple[dict[Any, Any], dict[Any, list[float]]]:
    """Payloads and vectors of all points, by id."""
    from hysac_retrieval.collection.index import Index

    with Index.open("things", location=location) as collection:
        points, _ = collection.store.scroll("things", limit=100_000, with_vectors=True)
    return {point.id: point.payload for point in points}, {point.id: list(point.vector or ()) for point in points}


__all__ = ["BATCH", "Progress", "contents", "index"]
