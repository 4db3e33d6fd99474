from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from support.rest_server import rest_server
from support.spaces import CURVATURE, DIM, match, nearest, profile, random_points

from hysac_retrieval import aconnect, connect, lorentz
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import (
    CollectionNotFoundError,
    ImageError,
    InputError,
    InvalidVectorError,
    ModelMismatchError,
    SettingsError,
    StoreError,
    TextError,
    UnsafeNotAllowedError,
)
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.safety.redirect import redirect
from hysac_retrieval.search.asynchronous import AsyncSafeSearch
from hysac_retrieval.search.blocking import SafeSearch

# The toy model (see toy_bundle.py): a text has radius 1, or 2 if it names something unsafe; an image 1.5 to 2.5.
TEXTS = ["a man in the park", "a man with a gun", "a dog", "a cat with a knife", "the red house", "blood in the house"]
GREEN, RED = (Image.new("RGB", (16, 16), colour) for colour in ((0, 255, 0), (255, 0, 0)))


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, threads=1)


@pytest.fixture(params=["edge", "memory"])
def engine(request: pytest.FixtureRequest, encoder: Encoder, tmp_path: Path) -> Iterator[SafeSearch]:
    location = ":memory:" if request.param == "memory" else tmp_path
    with connect("toy", location=location, model=encoder, create=True) as made:
        fill(made.index, encoder)
        yield made


def fill(index: Index, encoder: Encoder) -> None:
    index.upsert(range(6), encoder.encode_text(TEXTS), modality="text", payloads=[{"text": t} for t in TEXTS])
    images = [GREEN, RED, Image.new("RGB", (16, 16), (0, 0, 255))]
    index.upsert(range(10, 13), encoder.encode_image(images), modality="image", payloads=[{}] * 3)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_an_unsafe_text_is_redirected_onto_the_boundary_and_answered_with_safe_points(engine: SafeSearch) -> None:
    result = engine.search("a man with a gun", limit=9)
    assert result.query.modality == "text"
    assert result.query.radius == pytest.approx(2.0, abs=1e-5)
    assert result.query.unsafe > 0.99
    assert result.query.redirected
    assert result.query.radius_searched == pytest.approx(1.1, abs=1e-9)
    assert (result.query.safe, result.query.threshold) == (True, 0.5)
    assert {hit.id for hit in result} == {0, 2, 4, 10, 12}
    assert all(hit.unsafe is not None and hit.unsafe <= 0.5 for hit in result)
    assert {hit.id: hit.payload for hit in result}[0] == {"text": TEXTS[0]}


def test_distances_are_measured_from_the_point_that_was_searched(engine: SafeSearch, encoder: Encoder) -> None:
    point = encoder.encode_text(["a man with a gun"])
    searched, moved = redirect(point, "text", encoder.safety, encoder.curvature)
    assert moved.all()
    distances = lorentz.dist(encoder.encode_text(TEXTS).astype(np.float64), searched, encoder.curvature)
    safe = sorted((0, 2, 4), key=lambda row: distances[row])
    hits = engine.search("a man with a gun", modality="text").hits
    assert [hit.id for hit in hits] == safe
    np.testing.assert_allclose([hit.distance for hit in hits], distances[safe], rtol=1e-5)


def test_the_same_query_is_answered_as_asked_when_the_caller_may_see_it(engine: SafeSearch) -> None:
    result = engine.search("a man with a gun", safe=False)
    assert not result.query.redirected
    assert result.query.radius_searched == result.query.radius
    assert (result.query.safe, result.query.threshold) == (False, None)
    assert result.hits[0].id == 1
    assert result.hits[0].distance == pytest.approx(0, abs=2e-3)  # a float32 score of 1 + x holds x to 1e-7
    assert len(result) == 9


def test_a_safe_query_is_left_as_it_is(engine: SafeSearch) -> None:
    result = engine.search("a dog")
    assert not result.query.redirected
    assert result.query.radius_searched == result.query.radius
    assert result.hits[0].id == 2


def test_an_image_may_come_as_path_bytes_picture_or_pixels_and_a_string_is_text(
    engine: SafeSearch, tmp_path: Path
) -> None:
    file = tmp_path / "red.PNG"
    file.write_bytes(png(RED))
    results = [engine.search(query) for query in (file, png(RED), RED, np.asarray(RED))]
    assert all(result == results[0] for result in results)
    assert (results[0].query.modality, results[0].query.redirected) == ("image", True)
    assert engine.search(str(file)).query.modality == "text"
    assert engine.search(str(tmp_path)).query.modality == "text"


def test_a_point_is_searched_as_it_is_and_held_to_the_stricter_boundary(engine: SafeSearch, encoder: Encoder) -> None:
    point = encoder.encode_image([RED])[0]
    as_image, unknown = (engine.search(point, query_modality=kind) for kind in ("image", None))  # type: ignore[arg-type]
    assert as_image == engine.search(RED)
    assert unknown.query.modality is None
    assert unknown.query.radius_searched == pytest.approx(1.1)
    assert as_image.query.radius_searched == pytest.approx(1.6)
    assert unknown.query.unsafe >= as_image.query.unsafe


def test_a_batch_of_mixed_queries_answers_each_as_if_alone(engine: SafeSearch, encoder: Encoder) -> None:
    queries: list[Any] = ["a dog", RED, encoder.encode_text(["a cat"])[0], "a cat with a knife", png(GREEN)]
    alone = [engine.search(query, limit=4) for query in queries]
    for one, other in zip(engine.search_batch(queries, limit=4), alone, strict=True):
        # The encoder's sums depend on the size of its batch in the last digit.
        assert [hit.id for hit in one] == [hit.id for hit in other]
        assert one.query.redirected == other.query.redirected
        np.testing.assert_allclose([h.distance for h in one], [h.distance for h in other], atol=1e-5)
    assert engine.search_batch([]) == []


def test_filters_limits_and_modalities_are_passed_on(engine: SafeSearch) -> None:
    only = models.Filter(must=[match("text", "a dog")])
    assert [hit.id for hit in engine.search("a man with a gun", filter=only)] == [2]
    assert [
        hit.id for hit in engine.search("a man with a gun", filter=models.Filter(must=[match("text", TEXTS[1])]))
    ] == []
    assert {hit.modality for hit in engine.search("a dog", modality="image")} == {"image"}
    assert len(engine.search("a dog", limit=2)) == 2
    assert len(engine.search("a dog", threshold=0.0)) == 0


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("", TextError),
        ("   ", TextError),
        (Path("not-there.png"), ImageError),
        (b"not an image", ImageError),
        (np.zeros(3), InvalidVectorError),
        (np.full(8, np.nan), InvalidVectorError),
        (["a", "b"], InvalidVectorError),
        (np.zeros((16, 16, 3), dtype=np.float32), InvalidVectorError),
        (np.zeros((16, 16, 2), dtype=np.uint8), ImageError),
        (None, InputError),
        (3, InputError),
    ],
)
def test_a_query_that_cannot_be_read_is_a_typed_error(engine: SafeSearch, query: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        engine.search(query)


def test_a_single_query_is_not_taken_for_a_batch(engine: SafeSearch) -> None:
    with pytest.raises(InputError, match="search\\(\\)"):
        engine.search_batch("a dog")


@pytest.mark.parametrize("options", [{"threshold": 0.6}, {"limit": 0}, {"safe": None}, {"query_modality": "sound"}])
def test_options_out_of_range_are_refused(engine: SafeSearch, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        engine.search("a dog", **options)


def test_an_engine_may_forbid_unsafe_results(encoder: Encoder) -> None:
    with connect(
        "toy", location=":memory:", model=encoder, create=True, policy=SafetyPolicy(allow_unsafe=False)
    ) as engine:
        fill(engine.index, encoder)
        assert len(engine.search("a dog")) == 5
        with pytest.raises(UnsafeNotAllowedError):
            engine.search("a dog", safe=False)


def test_an_engine_may_be_stricter_than_the_model_and_no_search_looser_than_the_engine(encoder: Encoder) -> None:
    with connect("toy", location=":memory:", model=encoder, create=True, policy=SafetyPolicy(threshold=1e-3)) as engine:
        fill(engine.index, encoder)
        assert engine.search("a dog").query.threshold == 1e-3
        assert engine.search("a dog", threshold=1e-6).query.threshold == 1e-6
        with pytest.raises(SettingsError, match="stricter"):
            engine.search("a dog", threshold=0.4)
    with pytest.raises(SettingsError):
        connect("toy", location=":memory:", model=encoder, create=True, policy=SafetyPolicy(threshold=0.9))


@pytest.mark.parametrize("mode", ["geodesic", "none"])
def test_each_traversal_is_the_one_of_the_safety_module(encoder: Encoder, mode: Any) -> None:
    point = lorentz.exp_map0(np.array([[5.0] + [0.0] * 7]), 1.0)
    with connect("toy", location=":memory:", model=encoder, create=True, policy=SafetyPolicy(traversal=mode)) as engine:
        info = engine.search(point[0], query_modality="image").query
    expected, moved = redirect(point, "image", encoder.safety, 1.0, mode)
    assert info.redirected == bool(moved[0]) == (mode != "none")
    assert info.radius_searched == pytest.approx(float(lorentz.dist0(expected, 1.0)[0]))
    assert info.radius_searched <= info.radius


def test_an_unknown_traversal_is_refused() -> None:
    with pytest.raises(SettingsError, match="sideways"):
        SafetyPolicy(traversal="sideways")  # type: ignore[arg-type]


def test_a_collection_of_another_model_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    Index.create("c", dim=8, curvature=1.0, safety=encoder.safety, fingerprint="other", location=tmp_path).close()
    for create in (False, True):
        with pytest.raises(ModelMismatchError, match="index again"):
            connect("c", location=tmp_path, model=encoder, create=create)
    with Index.open("c", location=tmp_path) as index, pytest.raises(ModelMismatchError):
        SafeSearch(index, encoder)


def test_a_collection_that_is_not_there_is_not_made_unless_asked_for(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError):
        connect("c", location=tmp_path / "x", model=encoder)
    assert not (tmp_path / "x").exists()


def test_without_a_model_points_can_be_searched_and_texts_cannot() -> None:
    client = QdrantClient(":memory:")
    points = random_points(20)
    with Index.create("c", dim=DIM, curvature=CURVATURE, safety=profile(), client=client) as index:
        index.upsert(range(20), points, modality="image")
    with connect("c", client=client, model=None) as engine:
        found = engine.search(points[3], safe=False, limit=3)
        assert [hit.id for hit in found] == nearest(points[3], points)[:3].tolist()
        with pytest.raises(SettingsError, match="model"):
            engine.search("a dog")
    with pytest.raises(SettingsError, match=r"Index\.create"):
        connect("d", client=client, model=None, create=True)
    assert client.collection_exists("c")  # the application's client is still open
    client.close()


def test_several_threads_may_search(engine: SafeSearch) -> None:
    expected = {query: [hit.id for hit in engine.search(query)] for query in TEXTS}
    failures: list[BaseException] = []

    def work(query: str) -> None:
        try:
            for _ in range(10):
                assert [hit.id for hit in engine.search(query)] == expected[query]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(query,)) for query in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def ids(result: Any) -> list[Any]:
    return [hit.id for hit in result]


def test_asynchronous_search_answers_as_the_other_does(encoder: Encoder, tmp_path: Path) -> None:
    with connect("toy", location=tmp_path, model=encoder, create=True) as engine:
        fill(engine.index, encoder)
        expected = [engine.search(text, limit=4) for text in TEXTS]

    async def run() -> None:
        assert await aconnect("toy", location=":memory:", model=encoder, create=True).search("a dog") is not None
        async with aconnect("toy", location=tmp_path, model=encoder) as engine:
            results = await asyncio.gather(*(engine.search(text, limit=4) for text in TEXTS))
            assert results == expected
            assert ids((await engine.search_batch(TEXTS, limit=4))[1]) == ids(expected[1])
            with pytest.raises(SettingsError):
                await engine.search("a dog", threshold=0.6)
        opened = await aconnect("toy", location=tmp_path, model=encoder)
        assert isinstance(opened, AsyncSafeSearch)
        await opened.close()
        await opened.close()

    asyncio.run(run())


def test_asynchronous_search_speaks_to_a_server(encoder: Encoder) -> None:
    async def run() -> None:
        async with aconnect("toy", url=server.url, model=encoder, policy=SafetyPolicy(allow_unsafe=False)) as engine:
            assert await engine.search("a man with a gun", limit=4) == expected
            with pytest.raises(UnsafeNotAllowedError):
                await engine.search("a dog", safe=False)
        own = AsyncQdrantClient(server.url, check_compatibility=False)
        for _ in range(2):  # an application's client outlives the engine
            async with aconnect("toy", async_client=own, model=encoder) as engine:
                assert await engine.search("a man with a gun", limit=4) == expected
        with pytest.raises(CollectionNotFoundError):
            await aconnect("nothing", async_client=own, model=encoder)
        server.broken = True
        with pytest.raises(StoreError, match="disk full"):
            await aconnect("toy", async_client=own, model=encoder)
        await own.close()

    with rest_server() as server:
        with connect("toy", url=server.url, model=encoder, create=True) as sync:
            fill(sync.index, encoder)
            expected = sync.search("a man with a gun", limit=4)
        assert set(ids(expected)) < {0, 2, 4, 10, 12}
        asyncio.run(run())


def test_an_asynchronous_client_is_not_joined_with_another_connection() -> None:
    client = AsyncQdrantClient(":memory:")
    with pytest.raises(SettingsError):
        aconnect("c", async_client=client, location="./x")
    with pytest.raises(SettingsError):
        aconnect("c", async_client=client, create=True)
    with pytest.raises(SettingsError, match="AsyncQdrantClient"):
        Index.open("c", client=client)  # type: ignore[arg-type]
