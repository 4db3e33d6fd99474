"""Searches from many threads at once, while others write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from hysac_retrieval.stores import CollectionSpec, HnswOptions, Store, VectorQuery
from hysac_retrieval.stores.types import GroupQuery

SPEC = CollectionSpec(4, {}, hnsw=HnswOptions(full_scan_threshold=1, indexing_threshold=1))
N, THREADS, ROUNDS = 150, 8, 6
QUERY = np.array([[1, 0, 0, 0]], dtype=np.float32)
KEPT = models.Filter(must=[models.FieldCondition(key="kept", match=models.MatchValue(value=True))])
FORMULA = models.FormulaQuery(formula=models.MultExpression(mult=["$score", 2.0]))


def rows(n: int, seed: int) -> np.ndarray:
    """Points whose first coordinate is below 1/2."""
    made: np.ndarray = np.random.default_rng(seed).uniform(-0.5, 0.5, (n, 4)).astype(np.float32)
    return made


def test_eight_threads_search_while_others_write_remove_and_optimize(store: Store) -> None:
    store.create("c", SPEC)
    best = np.array([[1 - i / 100, 0, 0, 0] for i in range(10)], dtype=np.float32)
    store.upsert("c", list(range(10)), best, [{"kept": True, "g": i % 2} for i in range(10)])
    store.upsert("c", list(range(10, N)), rows(N - 10, 1), [{"kept": False, "g": i % 5} for i in range(10, N)])
    store.optimize("c")
    failures: list[BaseException] = []
    writing = threading.Event()

    def guarded(act: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            try:
                act()
            except BaseException as error:
                failures.append(error)

        return run

    def search() -> None:
        for _ in range(ROUNDS):
            found = store.query("c", VectorQuery(np.repeat(QUERY, 2, axis=0), limit=5, filter=KEPT, ef=64))
            assert [[p.id for p in answer] for answer in found] == [[0, 1, 2, 3, 4]] * 2
            (staged,) = store.query("c", VectorQuery(QUERY, limit=3, formulas=[FORMULA], candidates=6))
            assert {p.id: p.score for p in staged} == pytest.approx({i: 2 - i / 50 for i in range(3)})
            groups = store.query_groups("c", VectorQuery(QUERY, limit=1, filter=KEPT), GroupQuery("g", 2, 2))
            assert [[p.id for p in group.points] for group in groups] == [[0, 2], [1, 3]]
            assert store.count("c", KEPT) == 10

    def write() -> None:
        for i in range(ROUNDS):
            # Points that are searched for are written again, as they are; others come and go.
            store.upsert("c", list(range(10)), best, [{"kept": True, "g": i % 2} for i in range(10)])
            store.upsert("c", list(range(N + 20 * i, N + 20 * i + 20)), rows(20, i), [{"kept": False}] * 20)
            store.delete("c", [N + 20 * i])
        writing.set()

    def optimize() -> None:
        while not writing.wait(0.05):
            store.optimize("c")

    acts = [search] * THREADS + [write, optimize]
    threads = [threading.Thread(target=guarded(act)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads[: THREADS + 1]:
        thread.join()
    writing.set()
    threads[-1].join()
    assert failures == []
    assert store.count("c") == N + 19 * ROUNDS
