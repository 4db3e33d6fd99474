"""A calibrated space with the radii of a real model, random points in it, and exact search by brute force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile
from hysac_retrieval.types import Thresholds
from support.grpc_server import grpc_server
from support.qdrant_server import own_client

DIM, CURVATURE = 6, 0.26
STORES = ("edge", "memory")


def profile(threshold: float | Thresholds = 0.5) -> SafetyProfile:
    def modality(safe: float, unsafe: float) -> ModalityProfile:
        stats = [RadiusStats.of(mean + 0.1 * np.array([-1.0, 0.0, 1.0])) for mean in (safe, unsafe)]
        return ModalityProfile(
            safe=stats[0], unsafe=stats[1], slope=8.0, midpoint=(safe + unsafe) / 2, boundary=safe + 0.1
        )

    return SafetyProfile(text=modality(1.94, 2.78), image=modality(2.42, 3.16), threshold=threshold)


def random_points(n: int, seed: int = 0, dim: int = DIM, low: float = 1.5, high: float = 3.5) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(n, dim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points: NDArray[np.float64] = lorentz.exp_map0(direction * rng.uniform(low, high, (n, 1)), CURVATURE)
    return points


def nearest(query: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Rows of `points` by exact geodesic distance."""
    return np.argsort(lorentz.dist(points, query[None, :], CURVATURE), kind="stable")


@contextmanager
def index_on(store: str, folder: Path, name: str = "points", **options: Any) -> Iterator[Index]:
    """A new index on the embedded engine, in memory, or on the server at ``QDRANT_URL`` (and removed from it after).

    `store` is one of `STORES`, or of `qdrant_server.QDRANT`, or one of the interfaces of a stub: ``rest``, ``grpc``.
    """
    settings = {"dim": DIM, "curvature": CURVATURE, "safety": profile()} | options
    with ExitStack() as stack:
        if store.startswith("qdrant"):
            place: dict[str, Any] = {"client": stack.enter_context(own_client(store))}
        elif store in ("rest", "grpc"):
            server = stack.enter_context(grpc_server())
            client = server.client(prefer_grpc=store == "grpc")
            stack.callback(client.close)
            place = {"client": client}
        else:
            place = {"location": ":memory:" if store == "memory" else str(folder)}
        yield stack.enter_context(Index.create(name, **place, **settings))


def match(key: str, value: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))
