"""Attaching over an application's asynchronous client, and scores for what it has just written."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from qdrant_client import AsyncQdrantClient, models
from support.applications import NAME, PLACES, TEXTS, UNSAFE, application

from hysac_retrieval import aconnect
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import CollectionNotFoundError, ModelMismatchError, SettingsError, StoreError
from hysac_retrieval.guard import AsyncSafeQdrantClient, Guard
from hysac_retrieval.ingest import Content, aattach, attached_collection_for, fill
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.search.connecting import connect

SAFE = {row for row, text in enumerate(TEXTS) if not any(word in text for word in UNSAFE)}
TITLES = Content(text="title")


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, threads=1)


async def memory(vectors: Any = None) -> AsyncQdrantClient:
    client = AsyncQdrantClient(":memory:")
    params = models.VectorParams(size=2, distance=models.Distance.COSINE)
    await client.create_collection(NAME, vectors_config={"own": params} if vectors is None else params)
    await write(client, dict(enumerate(TEXTS)), named=vectors is None)
    return client


async def write(client: AsyncQdrantClient, texts: dict[int, str], *, named: bool = True) -> None:
    own: Any = {"own": [1.0, 0.5]} if named else [1.0, 0.5]
    await client.upsert(
        NAME, [models.PointStruct(id=key, vector=own, payload={"title": text}) for key, text in texts.items()]
    )


async def found(client: AsyncQdrantClient, **using: Any) -> set[Any]:
    answer = await AsyncSafeQdrantClient(client).query_points(NAME, query=[1.0, 0.5], limit=20, **using)
    return {point.id for point in answer.points}


async def test_a_client_in_memory_is_attached_and_searched_in_its_own_loop(encoder: Encoder) -> None:
    client = await memory()
    report = await aattach(client, encoder, NAME, TITLES, workers=0)
    assert report.total == len(TEXTS)
    assert await found(client, using="own") == SAFE
    async with aconnect(NAME, async_client=client, model=encoder) as engine:
        assert {hit.id for hit in await engine.search("a dog")} == SAFE
    index = await Index.aattach(client, NAME, model=encoder)
    assert (await asyncio.to_thread(index.info)).safe == len(SAFE)
    with pytest.raises(SettingsError, match="to_thread"):
        index.info()
    assert await asyncio.to_thread(index.detach) == len(TEXTS)
    points, _ = await client.scroll(NAME)
    assert all(PAYLOAD_KEY not in (point.payload or {}) for point in points)
    await client.close()


async def test_a_vector_without_a_name_gets_scores_and_what_is_written_later_too(encoder: Encoder) -> None:
    client = await memory("unnamed")
    await aattach(client, encoder, NAME, TITLES, workers=0)
    guard = await Guard.aopen(client, NAME, model=encoder)
    await write(client, {10: "a cat", 11: "a gun in the house", 0: "a man with a knife"}, named=False)
    assert await found(client) == SAFE - {0}
    report = await guard.ascore([0, 10, 11, 99])
    assert report.total == 3
    assert await found(client) == {*SAFE, 10} - {0}
    assert (await guard.ascore([10])).skipped == 1
    with pytest.raises(SettingsError, match="ascore"):
        guard.score([10])
    await client.close()


async def test_only_an_asynchronous_client_is_attached_asynchronously(encoder: Encoder, tmp_path: Path) -> None:
    with application("memory", tmp_path) as app, pytest.raises(SettingsError, match="AsyncQdrantClient"):
        await Index.aattach(app.client, NAME, model=encoder)  # type: ignore[arg-type]
    client = await memory()
    with pytest.raises(CollectionNotFoundError):
        await Index.aattach(client, "another", model=encoder)


def test_an_index_says_that_the_loop_of_its_client_has_ended(encoder: Encoder) -> None:
    async def attach() -> Index:
        return await Index.aattach(await memory(), NAME, model=encoder)

    index = asyncio.run(attach())
    with pytest.raises(StoreError, match="event loop of the client has ended"):
        index.info()


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("vectors", ["in-place", "companion", "none"])
def test_points_are_scored_right_after_they_are_written(
    where: str, vectors: Any, tmp_path: Path, encoder: Encoder
) -> None:
    with application(where, tmp_path) as app:
        with attached_collection_for(encoder, NAME, TITLES, vectors=vectors, **app.place) as index:
            fill(index, encoder)  # the content is known from attaching
        guard = Guard.open(NAME, model=encoder, **app.place)
        app.upsert(0, {"title": "a gun"})
        app.upsert(20, {"title": "the red house"})
        app.upsert(21, {"title": "a man with a knife"})
        app.upsert(22, {"price": 1})
        report = guard.score([0, 20, 21, 22, 4711])
        assert (report.total, report.lacking) == (3, 1)
        safe = {key for key, (payload, _) in app.look().items() if payload.get("hysac", {}).get("unsafe", 1) <= 0.5}
        assert safe == {*SAFE, 20} - {0}
        assert guard.score([0, 20, 21, 22, 4711]).skipped == 3
        if vectors != "none":
            with connect(NAME, model=encoder, **app.place) as engine:
                assert {hit.id for hit in engine.search("a dog")} == safe
        assert asyncio.run(guard.ascore([20])).skipped == 1


def test_what_a_score_needs_is_said(tmp_path: Path, encoder: Encoder) -> None:
    with application("memory", tmp_path) as app:
        with Index.attach_model(encoder, NAME, **app.place) as index:
            metadata = index.metadata
        with pytest.raises(SettingsError, match=r"Guard\.open"):
            Guard.of(metadata).score([0])
        with pytest.raises(SettingsError, match="what the points are about"):
            Guard.open(NAME, model=encoder, **app.place).score([0])
        assert Guard.open(NAME, model=encoder, content=TITLES, **app.place).score([0]).total == 1
        with pytest.raises(ModelMismatchError):
            Guard.open(NAME, content=TITLES, **app.place).score([0])  # the bundled model is another one


def test_pictures_are_scored_by_the_folder_that_was_kept(tmp_path: Path, encoder: Encoder) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(root / f"{colour}.png")
    rows: list[dict[str, Any]] = [{"file": "blue.png"}]
    content = Content(image="file", root=root)
    with application("memory", tmp_path, rows) as app:
        with attached_collection_for(encoder, NAME, content, **app.place) as index:
            assert index.metadata.attached is not None
            assert json.loads(json.dumps(index.metadata.attached.content)) == content.kept()
        app.upsert(7, {"file": "red.png"})
        guard = Guard.open(NAME, model=encoder, **app.place)
        assert guard.score([0, 7]).indexed == {"image": 2, "text": 0}
        assert {key: payload["hysac"]["unsafe"] < 0.5 for key, (payload, _) in app.look().items()} == {
            0: True,
            7: False,
        }
        root.rename(tmp_path / "moved")
        with pytest.raises(SettingsError, match="not a folder"):
            guard.score([0])
