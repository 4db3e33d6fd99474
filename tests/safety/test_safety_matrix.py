"""The invariant over stores, lifts and quantizations: whatever a collection is made of, safe means safe.

Points are indexed as anyone would, then some records are spoiled behind the index's back. What every kind of collection
answers is held to the payloads, and to what the others answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models
from support.hostile import ODD_MODELS, ODD_SCORES, ODD_VERDICTS, allowed, modest, user_filters
from support.qdrant_server import QDRANT, known
from support.spaces import STORES, index_on, random_points

from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import StoreError
from hysac_retrieval.stores.versions import TURBO8

LIFTS = ("padded", "poincare")
QUANTIZATIONS = (None, "int8", "turbo8", "turbo4", "binary")
POINTS = 120
HOSTILE_EVERY = 3
Kind = tuple[str, str, str | None]


def spoiled(index: Index) -> dict[int, dict[str, Any]]:
    """Index points, then give a third of them hostile records; return all payloads."""
    points = random_points(POINTS, seed=1, low=1.2, high=3.6)
    index.upsert(range(POINTS), points, modality="image", payloads=[{"k": row % 4} for row in range(POINTS)])
    own = index.metadata.fingerprint
    there = {int(stored.id): dict(stored.payload) for stored in index.retrieve(range(POINTS))}
    hostile: list[Any] = [{"unsafe": score} for score in ODD_SCORES] + [
        {"model": [own if name == "own" else name for name in model] if isinstance(model, list) else model}
        for model in ODD_MODELS
    ]
    hostile += [
        {"safe": {own: verdict["own"]} if isinstance(verdict, dict) and "own" in verdict else verdict}
        for verdict in ODD_VERDICTS
    ]
    rows = list(range(0, POINTS, HOSTILE_EVERY))
    for row, change in zip(rows, hostile * (len(rows) // len(hostile) + 1), strict=False):
        there[row] = there[row] | {"hysac": there[row]["hysac"] | {"unsafe": 0.1, "safe": {own: True}} | change}
    index.store.upsert(index.name, rows, index.collection.lift.lift(points[rows]), [there[row] for row in rows])
    return there


@pytest.fixture(scope="module")
def collections(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[Kind, tuple[Index, dict[int, dict[str, Any]]]]:
    """Collections by store, lift and quantization, made when they are first asked for."""
    folder: Path = tmp_path_factory.mktemp("matrix")

    class Made(dict[Kind, tuple[Index, dict[int, dict[str, Any]]]]):
        def __missing__(self, kind: Kind) -> tuple[Index, dict[int, dict[str, Any]]]:
            store, lift, quantization = kind
            if quantization == "turbo8" and store.startswith("qdrant") and not known(TURBO8):
                pytest.skip(f"the server is too old for {TURBO8.name}")
            context = index_on(store, folder, f"{store}-{lift}-{quantization}", lift=lift, quantization=quantization)
            index = context.__enter__()
            request.addfinalizer(lambda: context.__exit__(None, None, None))
            self[kind] = (index, spoiled(index))
            index.optimize()
            return self[kind]

        def __repr__(self) -> str:  # hypothesis writes the arguments of a call; all payloads would be half a megabyte
            return f"{len(self)} collections"

    return Made()


asked = given(
    seed=st.integers(0, 10_000),
    user=st.one_of(st.none(), user_filters()),
    threshold=st.one_of(st.none(), st.floats(0, 0.5)),
    limit=st.integers(1, 40),
    offset=st.integers(0, 5),
    penalty=st.sampled_from([0.0, 0.0, 0.8]),
    rerank=st.sampled_from([None, "exact"]),
)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("store", [*STORES, *QDRANT])
@modest
@asked
def test_no_collection_returns_an_unsafe_point(
    store: str,
    lift: str,
    quantization: str | None,
    collections: dict[Kind, tuple[Index, dict[int, dict[str, Any]]]],
    seed: int,
    user: models.Filter | None,
    threshold: float | None,
    limit: int,
    offset: int,
    penalty: float,
    rerank: Any,
) -> None:
    index, there = collections[store, lift, quantization]
    bound = 0.5 if threshold is None else threshold
    try:
        hits = index.query(
            random_points(1, seed)[0],
            filter=user,
            threshold=threshold,
            limit=limit,
            offset=offset,
            penalty=penalty,
            rerank=rerank,
        )
    except StoreError as error:
        # Local mode cannot compute with a score that is a list, and then answers nothing at all.
        if store != "memory" or "Value is not a number" not in str(error):
            raise
        return
    assert len(hits) <= limit
    for hit in hits:
        assert allowed(there[int(hit.id)], bound, index.metadata.fingerprint), there[int(hit.id)]


@pytest.mark.slow
@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("store", ["memory", *QDRANT])
@modest
@given(seed=st.integers(0, 10_000), user=st.one_of(st.none(), user_filters()), safe=st.booleans())
def test_every_store_answers_as_the_embedded_engine_does(
    store: str,
    lift: str,
    collections: dict[Kind, tuple[Index, dict[int, dict[str, Any]]]],
    seed: int,
    user: models.Filter | None,
    safe: bool,
) -> None:
    answers = []
    for where in ("edge", store):
        index, _ = collections[where, lift, None]
        hits = index.query(random_points(1, seed)[0], filter=user, safe=safe, limit=POINTS, candidates=POINTS)
        # Where nothing is forbidden, a caller's condition decides over the hostile records too, and the engines differ
        # on some (a number where a keyword belongs is outside an `except` list in local mode): not ours to compare.
        answers.append(sorted((int(hit.id), hit.distance) for hit in hits if safe or int(hit.id) % HOSTILE_EVERY))
    assert [row for row, _ in answers[0]] == [row for row, _ in answers[1]]
    np.testing.assert_allclose([d for _, d in answers[0]], [d for _, d in answers[1]], atol=2e-3)
