"""Engines that stay open while their collection is replaced: as one opened anew, or an error."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from support.rest_server import rest_server
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval import Index, SafeSearch, aconnect
from hysac_retrieval.collection import watch
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.errors import CollectionNotFoundError, ModelMismatchError
from hysac_retrieval.stores.qdrant.store import QdrantStore

N = 40
POINTS = random_points(N, low=1.5, high=2.2)
QUERIES = random_points(6, seed=5, low=1.5, high=2.2)
SAMPLE = random_points(60, seed=8, low=2.5, high=3.5)
MODEL, OTHER = "a" * 32, "b" * 32
LIFTS: dict[str, dict[str, Any]] = {
    "another boost": {"sample": SAMPLE},
    "poincare": {"lift": "poincare"},
    "rotated": {"quantization": "int8"},
}


def make(client: QdrantClient, name: str, fingerprint: str = MODEL, points: Any = POINTS, **options: Any) -> Index:
    options = {"sample": POINTS} | options if "lift" not in options else options
    made = Index.create(
        name, dim=DIM, curvature=CURVATURE, safety=profile(), fingerprint=fingerprint, client=client, **options
    )
    made.upsert(range(N), points, modality="image", payloads=[{"g": i % 3} for i in range(N)])
    return made


def point_alias(client: QdrantClient, name: str) -> None:
    there = [alias.alias_name for alias in client.get_aliases().aliases]
    remove = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="photos"))] * ("photos" in there)
    new = models.CreateAlias(collection_name=name, alias_name="photos")
    client.update_collection_aliases([*remove, models.CreateAliasOperation(create_alias=new)])


def opened(client: QdrantClient) -> SafeSearch:
    return SafeSearch(Index.open("photos", client=client), None)


@pytest.fixture(params=["memory", "rest"])
def client(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    if request.param == "memory":
        made = QdrantClient(":memory:")
        yield made
        made.close()
        return
    with rest_server() as server:
        store = QdrantStore.connect(url=server.url)
        yield store.client
        store.close()


Found = list[tuple[Any, float]]


def pairs(hits: Any) -> Found:
    return [(hit.id, pytest.approx(hit.distance, abs=1e-6)) for hit in hits]  # type: ignore[misc]


ASKED: dict[str, Callable[[SafeSearch], list[Found]]] = {
    "safe": lambda e: [pairs(e.search(q, limit=5)) for q in QUERIES],
    "unsafe": lambda e: [pairs(e.search(q, limit=5, safe=False)) for q in QUERIES],
    "exact": lambda e: [pairs(e.search(q, limit=5, rerank="exact")) for q in QUERIES],
    "batch": lambda e: [pairs(result) for result in e.search_batch(list(QUERIES), limit=5)],
    "similar": lambda e: [pairs(e.similar(3, limit=5))],
    "groups": lambda e: [pairs(group) for group in e.search_groups(QUERIES[0], "g")],
    "explain": lambda e: [pairs(step.nearest) for step in e.explain(QUERIES[0]).steps],
    "penalty": lambda e: [pairs(e.search(q, limit=5, penalty=0.5)) for q in QUERIES],
    "query": lambda e: [pairs(e.index.query(q, limit=5)) for q in QUERIES],
    "points": lambda e: [[(0, pytest.approx(float(x))) for x in e.index.points([3])[0][0]]],  # type: ignore[misc]
}


@pytest.mark.parametrize("client", ["memory"], indirect=True)
@pytest.mark.parametrize(("kind", "lift"), [*zip(ASKED, cycle(LIFTS))])
def test_a_moved_alias_and_a_collection_made_anew_are_searched_as_they_are_now(
    client: QdrantClient, lift: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask = ASKED[kind]
    make(client, "blue")
    make(client, "green", **LIFTS[lift])
    point_alias(client, "blue")
    engine = opened(client)
    assert ask(engine) == ask(opened(client))
    point_alias(client, "green")
    with caplog.at_level(logging.WARNING):
        assert ask(engine) == ask(opened(client))
    assert len([record for record in caplog.records if "was replaced" in record.message]) == 1
    client.delete_collection("blue")
    make(client, "blue", sample=POINTS[:9])
    point_alias(client, "blue")
    assert ask(engine) == ask(opened(client))


@pytest.mark.parametrize("kind", ["safe", "unsafe", "similar", "groups", "query"])
def test_points_of_another_model_are_an_error_again_and_again(client: QdrantClient, kind: str) -> None:
    make(client, "photos")
    engine = opened(client)
    ASKED[kind](engine)
    client.delete_collection("photos")
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
    make(client, "photos", OTHER, POINTS @ rotation)
    for _ in range(3):
        with pytest.raises(ModelMismatchError, match="replaced while it was open") as caught:
            ASKED[kind](engine)
        assert "centroid" not in "".join(traceback.format_exception(caught.value))  # a page of numbers
    with pytest.raises(ModelMismatchError):
        engine.refresh()


@pytest.mark.parametrize(("kind", "threshold"), [("safe", 0.3), ("safe", 0.7), ("unsafe", 0.3), ("groups", 0.7)])
def test_a_rescore_by_another_process_is_followed(client: QdrantClient, kind: str, threshold: float) -> None:
    make(client, "photos", MODEL, random_points(N, low=1.5, high=3.5))
    engine = opened(client)
    ASKED[kind](engine)
    rescore(Index.open("photos", client=client), profile(threshold), fingerprint=MODEL[:16] + "c" * 16)
    assert ASKED[kind](engine) == ASKED[kind](opened(client))
    assert (
        engine.core.collection.metadata.safety.threshold
        == Index.open("photos", client=client).metadata.safety.threshold
    )


def test_what_a_rescore_finds_unsafe_is_not_shown_for_longer_than_the_metadata_is_kept(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where replies show nothing: every few seconds the metadata is read again."""
    make(client, "photos")
    engine = opened(client)
    engine.search(QUERIES[0])
    opened_ = client.get_collection("photos").config.metadata
    assert opened_ is not None
    changed = opened_["hysac"] | {"measured": {"note": 1}}
    client.update_collection("photos", metadata={"hysac": changed})
    engine.search(QUERIES[0])
    assert engine.core.collection.metadata.measured is None
    monkeypatch.setattr(watch, "EVERY", 0.0)
    engine.search(QUERIES[0])
    assert engine.core.collection.metadata.measured == {"note": 1}


@pytest.mark.parametrize("client", ["memory"], indirect=True)
def test_stray_points_cost_one_look_a_second_and_are_left_out(client: QdrantClient) -> None:
    """A writer that kept the old lift, or a hostile record, neither ranks wrongly nor slows every search down."""
    make(client, "photos")
    engine = opened(client)
    nearest = engine.search(POINTS[0], limit=1, safe=False)[0].id
    client.set_payload("photos", {"stamp": "00000000"}, [nearest], key="hysac")
    other = engine.search(POINTS[0], limit=5, safe=False)[2].id
    client.set_payload("photos", {"model": ["x"] * 3}, [other], key="hysac")
    asked: list[str] = []
    read = client.get_collection
    client.get_collection = lambda *args, **kwargs: (asked.append("look"), read(*args, **kwargs))[1]  # type: ignore[func-returns-value, method-assign]
    for _ in range(5):
        ids = [hit.id for hit in engine.search(POINTS[0], limit=5, safe=False)]
        assert nearest not in ids
        assert other in ids
    assert len(asked) <= 2
    with pytest.raises(Exception, match="another lift"):
        engine.similar(nearest)


def test_a_search_that_finds_what_it_expects_asks_nothing_else(client: QdrantClient) -> None:
    make(client, "photos")
    engine = opened(client)
    asked: list[str] = []
    read = client.get_collection
    client.get_collection = lambda *args, **kwargs: (asked.append("look"), read(*args, **kwargs))[1]  # type: ignore[func-returns-value, method-assign]
    for q in QUERIES:
        assert len(engine.search(q, limit=3))
    assert asked == []
    nothing = models.Filter(must=[models.FieldCondition(key="g", match=models.MatchValue(value=9))])
    for _ in range(20):
        assert not len(engine.search(QUERIES[0], filter=nothing))
    assert 1 <= len(asked) <= 2


def test_a_collection_that_is_gone_is_an_error(client: QdrantClient) -> None:
    make(client, "photos")
    engine = opened(client)
    client.delete_collection("photos")
    with pytest.raises(CollectionNotFoundError):
        engine.search(QUERIES[0])


def test_writers_follow_as_well(client: QdrantClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hysac_retrieval.collection.current.AGAIN", 0.0)
    writer = make(client, "photos")
    client.delete_collection("photos")
    make(client, "photos", sample=SAMPLE)
    writer.upsert([900], QUERIES[:1], modality="image")
    assert Index.open("photos", client=client).query(QUERIES[0], limit=1, safe=False)[0].distance == pytest.approx(
        0, abs=1e-3
    )
    client.delete_collection("photos")
    make(client, "photos", OTHER)
    with pytest.raises(ModelMismatchError):
        writer.upsert([901], QUERIES[:1], modality="image")


async def test_asynchronous_engines_follow_as_well(tmp_path: Path) -> None:
    with rest_server() as server:
        store = QdrantStore.connect(url=server.url)
        client = store.client
        make(client, "photos")
        app = AsyncQdrantClient(url=server.url, check_compatibility=False)
        engines = [
            aconnect("photos", model=None, url=server.url),
            aconnect("photos", model=None, async_client=app),
            aconnect("photos", model=None, client=client),
        ]
        for engine in engines:
            await engine.search(QUERIES[0])
        client.delete_collection("photos")
        make(client, "photos", sample=SAMPLE)
        expected = pairs(opened(client).search(QUERIES[0], limit=5))
        for engine in engines:
            assert pairs(await engine.search(QUERIES[0], limit=5)) == expected
            assert not await engine.refresh()
        client.delete_collection("photos")
        make(client, "photos", OTHER)
        for engine in engines:
            with pytest.raises(ModelMismatchError):
                await engine.search(QUERIES[0], limit=5)
            await engine.close()
        await app.close()
        store.close()


def test_an_embedded_collection_made_anew_in_its_place(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dim": DIM, "curvature": CURVATURE, "safety": profile()}
    with Index.create("c", location=tmp_path, sample=POINTS, **options) as first:
        first.upsert(range(N), POINTS, modality="image")
        engine = SafeSearch(first, None)
        engine.search(QUERIES[0])
        again = Index.create("c", store=first.store, recreate=True, sample=SAMPLE, **options)
        again.upsert(range(N), POINTS, modality="image")
        assert pairs(engine.search(QUERIES[0])) == pairs(SafeSearch(again, None).search(QUERIES[0]))
