"""Figures for Prometheus: requests, times, redirects, and what unsafe results were given to whom in number."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from hysac_retrieval.results import QueryInfo
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.search.queries import JudgingEncoder, QueryEncoder
from hysac_retrieval.service.traces import span
from hysac_retrieval.types import Modality

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WORKERS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of prometheus-client: the folder in which several workers add their figures up."""


class Metrics:
    """The figures of one service."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"hysac_{name}", what, labels, registry=own)

        def seconds(name: str, what: str, label: str) -> Histogram:
            return Histogram(f"hysac_{name}_seconds", what, [label], buckets=_SECONDS, registry=own)

        self.requests = counter("requests", "Requests", "route", "method", "status")
        self.redirected = counter("redirected", "Queries moved to their safe counterpart")
        self.unsafe_allowed = counter("unsafe_allowed", "Queries answered with safe=false")
        self.filtered = counter("filtered", "Queries answered with safe points only")
        self.refused = counter("refused", "Requests refused for their key or scope", "status")
        self.seconds = seconds("request", "Time to answer", "route")
        self.encoder = seconds("encoder", "Time of one call of the encoder", "modality")
        self.store = seconds("store", "Time of one call of the store", "call")
        waiting = "Requests that wait for a thread"
        self.waiting = Gauge("hysac_waiting", waiting, registry=own, multiprocess_mode="livesum")

    def query(self, info: QueryInfo) -> None:
        """Count a query that was answered."""
        (self.filtered if info.safe else self.unsafe_allowed).inc()
        if info.redirected:
            self.redirected.inc()

    def text(self) -> bytes:
        """Return all figures in Prometheus' format; those of all workers, where there are several."""
        if WORKERS_FOLDER not in os.environ:
            return generate_latest(self._registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)

    @contextmanager
    def timed(self, histogram: Histogram, name: str, label: str) -> Iterator[None]:
        """Note how long something takes, and trace it by a name."""
        began = time.perf_counter()
        try:
            with span(name, of=label):
                yield
        finally:
            histogram.labels(label).observe(time.perf_counter() - began)


class TimedStore:
    """A store whose calls are timed."""

    def __init__(self, store: Any, metrics: Metrics) -> None:
        self._store, self._metrics = store, metrics

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self._metrics.timed(self._metrics.store, "store", name):
                return method(*arguments, **keywords)

        return timed


def timed_encoder(encoder: QueryEncoder | None, metrics: Metrics) -> QueryEncoder | None:
    """Return an encoder whose calls are timed; as it is, where it does not judge what it encodes."""
    return TimedEncoder(encoder, metrics) if isinstance(encoder, JudgingEncoder) else encoder


class TimedEncoder:
    """An encoder whose calls are timed."""

    def __init__(self, encoder: Any, metrics: Metrics) -> None:
        self._encoder, self._metrics = encoder, metrics

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    @property
    def dim(self) -> int:
        """Number of space components."""
        return int(self._encoder.dim)

    @property
    def fingerprint(self) -> str:
        """Identity of the model."""
        return str(self._encoder.fingerprint)

    @property
    def maps_vectors(self) -> bool:
        """Whether it has heads for vectors of another encoder."""
        return bool(getattr(self._encoder, "maps_vectors", False))

    def map_vectors(
        self, vectors: NDArray[Any], modality: Modality | None, /
    ) -> tuple[NDArray[Any], list[Modality], list[bool | None]]:
        """Vectors to points."""
        with self._metrics.timed(self._metrics.encoder, "encode", "vector"):
            return self._encoder.map_vectors(vectors, modality)  # type: ignore[no-any-return]

    def encode_text(self, texts: list[str], /) -> NDArray[np.float32]:
        """Texts to points."""
        return self.judge_text(texts)[0]

    def encode_image(self, images: list[Any], /) -> NDArray[np.float32]:
        """Pictures to points."""
        return self.judge_image(images)[0]

    def judge_text(self, texts: list[str], /) -> tuple[NDArray[np.float32], list[Judged]]:
        """Texts to points, judged."""
        with self._metrics.timed(self._metrics.encoder, "encode", "text"):
            return self._encoder.judge_text(texts)  # type: ignore[no-any-return]

    def judge_image(self, images: list[Any], /) -> tuple[NDArray[np.float32], list[Judged]]:
        """Pictures to points, judged."""
        with self._metrics.timed(self._metrics.encoder, "encode", "image"):
            return self._encoder.judge_image(images)  # type: ignore[no-any-return]
