"""Searches with an encoder that is none of ours: by its vectors, and by a function that makes them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.foreign import DANGER, SIZE, encode, write_head_bundle

from hysac_retrieval import Examples, Index, LorentzPoint, SafeSearch, aconnect, connect, lorentz
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.called import CalledEncoder, imported
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import (
    EncoderError,
    InvalidVectorError,
    ModelMismatchError,
    NoEncoderError,
    SettingsError,
    TextError,
)
from hysac_retrieval.ingest import index_sources

TEXTS = ["a dog in the park", "a man with a gun", "the red house", "a woman with a knife", "a cat"]
SAFE = {0, 2, 4}


class Both:
    """An encoder of texts and of pictures: the redder, the more dangerous."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def text(self, texts: list[str]) -> Any:
        self.sizes.append(len(texts))
        return encode(texts)

    def image(self, pictures: list[Image.Image]) -> Any:
        colours = np.stack([np.asarray(picture, dtype=np.float32).mean(axis=(0, 1)) for picture in pictures]) / 255
        vectors = np.tile(np.linspace(0, 1, SIZE, dtype=np.float32), (len(pictures), 1))
        return vectors + 9 * np.maximum(colours[:, :1] - colours[:, 1:2], 0) * DANGER


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_head_bundle(tmp_path_factory.mktemp("head") / "bundle")


@pytest.fixture
def engine(bundle: Bundle, tmp_path: Path) -> Iterator[SafeSearch]:
    encoder = Encoder(bundle, threads=1)
    with Index.for_model(encoder, "things", location=tmp_path / "data") as index:
        index.upsert(list(range(len(TEXTS))), encoder.encode_vectors(encode(TEXTS), "text"), modality="text")
    with connect("things", model=encoder, location=tmp_path / "data") as engine:
        yield engine


def test_a_vector_of_the_encoder_is_a_query_in_any_of_its_forms(engine: SafeSearch) -> None:
    vector = encode(["a cat"])[0]
    expected = [4, *sorted(SAFE - {4}, key=lambda row: -float(encode(TEXTS)[row] @ vector))]
    for query in (vector, vector.astype(np.float64), vector.tolist(), 7 * vector, tuple(vector.tolist())):
        result = engine.search(query)
        assert [hit.id for hit in result] == expected
        assert not result.query.redirected
    assert [[hit.id for hit in found] for found in engine.search_batch(np.stack([vector] * 2))] == [expected] * 2
    assert engine.search(Examples([vector], [encode(["the red house"])[0]])).hits[0].id == 4
    assert {hit.id for hit in engine.search(vector, safe=False)} == set(range(len(TEXTS)))


def test_an_unsafe_vector_is_redirected(engine: SafeSearch) -> None:
    result = engine.search(encode(["a man with a gun"])[0])
    assert result.query.redirected
    assert {hit.id for hit in result} == SAFE


def test_a_vector_of_no_known_modality_is_held_to_the_head_that_finds_it_less_safe(bundle: Bundle) -> None:
    encoder = Encoder(bundle, threads=1)
    clear = encode(["a dog"])
    for vector in (clear, clear + 0.9 * DANGER, clear + 9 * DANGER):
        scores: dict[str, float] = {}
        for kind in ("text", "image"):
            (point,) = encoder.encode_vectors(vector, kind)  # type: ignore[arg-type]
            scores[kind] = float(encoder.safety.unsafe(lorentz.dist0(point[None], 1.0), kind)[0])  # type: ignore[arg-type]
        _, (chosen,), _ = encoder.map_vectors(vector)
        assert scores[chosen] == max(scores.values())
    assert encoder.map_vectors(clear, "image")[1] == ["image"]


def test_a_point_is_given_by_name(engine: SafeSearch) -> None:
    assert isinstance(engine.encoder, Encoder)
    (point,) = engine.encoder.encode_vectors(encode(["a cat"]), "text")
    hit = engine.search(LorentzPoint(point)).hits[0]
    assert (hit.id, hit.distance) == (4, pytest.approx(0, abs=1e-3))
    (unsafe,) = engine.encoder.encode_vectors(encode(["a gun"]), "text")
    assert engine.search(LorentzPoint(unsafe), query_modality="text").query.redirected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (np.zeros(SIZE), "vector 0 is zero"),
        (np.full(SIZE, np.nan), "not finite"),
        (np.ones(SIZE + 1), f"have {SIZE + 1} numbers, the head of the model takes {SIZE}"),
        (np.ones((2, SIZE)), "a vector has one axis"),
        (["a", "b"], "cannot be read as a vector"),
        ([[1.0], [1.0, 2.0]], "cannot be read as a vector"),
    ],
)
def test_what_is_no_vector_is_refused(engine: SafeSearch, query: Any, said: str) -> None:
    with pytest.raises(InvalidVectorError, match=said):
        engine.search(query)


def test_a_text_that_nothing_can_encode_says_how_one_could(engine: SafeSearch) -> None:
    for search in (engine.search, engine.explain):
        with pytest.raises(NoEncoderError, match=r"no text encoder\. Give a vector of .*, or connect\(encode=…\)"):
            search("a cat")
    with pytest.raises(NoEncoderError, match="no image encoder"):
        engine.search(Image.new("RGB", (9, 9)))


def test_a_function_encodes_the_texts_of_an_engine(engine: SafeSearch, bundle: Bundle, tmp_path: Path) -> None:
    expected = [hit.id for hit in engine.search(encode(["a cat"])[0])]
    engine.close()
    for model, function in ((bundle.path, encode), (Encoder(bundle), Both()), (str(bundle.path), Both().text)):
        with connect("things", model=model, encode=function, location=tmp_path / "data") as other:
            assert [hit.id for hit in other.search("a cat")] == expected
            assert other.search("a man with a gun").query.redirected
            assert [hit.id for hit in other.search(encode(["a cat"])[0])] == expected


async def test_a_function_encodes_the_texts_of_an_asynchronous_engine(
    engine: SafeSearch, bundle: Bundle, tmp_path: Path
) -> None:
    expected = [hit.id for hit in engine.search(encode(["a cat"])[0])]
    engine.close()
    async with aconnect("things", model=bundle.path, encode=encode, location=tmp_path / "data") as other:
        assert [hit.id for hit in await other.search("a cat")] == expected


def test_a_text_is_judged_in_plain_letters_too(bundle: Bundle) -> None:
    encoder = CalledEncoder(bundle, encode, threads=1)
    points, judged = encoder.judge_text(["a man with a gun", "a man with a ɡun", "a dog"])
    assert points.shape == (3, SIZE)
    assert [round(one.radius, 2) for one in judged] == [2.0, 2.0, 1.0]


def test_pictures_are_judged_by_all_their_views(bundle: Bundle) -> None:
    encoder = CalledEncoder(bundle, Both(), threads=1)
    wide = Image.new("RGB", (90, 20), "blue")
    wide.paste("red", (80, 0, 90, 20))
    (plain, hiding), (one, other) = encoder.judge_image([Image.new("RGB", (20, 20), "blue"), wide])
    assert lorentz.dist0(plain[None], 1.0)[0] == pytest.approx(lorentz.dist0(hiding[None], 1.0)[0]) == 1.5
    assert (one.views, one.radius) == (1, pytest.approx(1.5))
    assert other.radius == pytest.approx(2.5)


@pytest.mark.parametrize(
    "other",
    [
        lambda texts: np.random.default_rng(1).normal(size=(len(texts), SIZE)),
        lambda texts: encode(texts)[:, ::-1],
        lambda texts: np.zeros((len(texts), SIZE)),
        lambda texts: encode(texts)[:, :-1],
    ],
)
def test_a_function_of_another_encoder_is_refused_by_the_probes(bundle: Bundle, other: Any) -> None:
    with pytest.raises(ModelMismatchError, match="the tests, or fit a head to this one"):
        CalledEncoder(bundle, other)


def test_a_function_that_differs_by_rounding_passes(bundle: Bundle) -> None:
    rng = np.random.default_rng(0)
    CalledEncoder(bundle, lambda texts: 5 * encode(texts).astype(np.float16) + rng.normal(0, 0.1, (len(texts), SIZE)))


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        (lambda texts: 1 / 0, EncoderError, "encodes texts fails: ZeroDivisionError"),
        (lambda texts: encode(texts)[:1], EncoderError, "shape"),
        (lambda texts: [["a"] * SIZE for _ in texts], EncoderError, "gave <U1"),
        (3, SettingsError, "encode is int; expected a function"),
    ],
)
def test_a_function_that_is_none_is_refused(bundle: Bundle, function: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        CalledEncoder(bundle, function)


def test_a_function_needs_a_head_to_go_with(toy_bundle: Path) -> None:
    with pytest.raises(NoEncoderError, match="no head"):
        connect("things", model=toy_bundle, encode=encode, location="data")
    with pytest.raises(SettingsError, match="goes with a model that is a bundle"):
        connect("things", model=None, encode=encode, location="data")


@pytest.mark.parametrize(("text", "said"), [("", "is empty"), ("  ", "is empty"), (None, "expected str")])
def test_what_is_no_text_does_not_reach_the_function(bundle: Bundle, text: Any, said: str) -> None:
    with pytest.raises(TextError, match=said):
        CalledEncoder(bundle, encode).judge_text([text])


def test_texts_and_pictures_are_indexed_with_a_function(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "things"
    folder.mkdir()
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    for colour in ("red", "blue"):
        Image.new("RGB", (30, 20), colour).save(folder / f"{colour}.png")
    sources = [folder, folder / "texts.txt"]
    encoder = CalledEncoder(bundle, encoder_of := Both(), threads=1)
    with Index.for_model(encoder, "things", location=tmp_path / "data") as index:
        report = index_sources(sources, index, encoder, workers=0, batch_size=2)
        assert (report.indexed, report.failures) == ({"image": 2, "text": len(TEXTS)}, 0)
        assert (index.info().safe, index.info().unsafe) == (len(SAFE) + 1, 3)
    assert max(encoder_of.sizes[1:]) == 2
    texts = CalledEncoder(bundle, encode, threads=1)
    with Index.for_model(texts, "texts", location=tmp_path / "data") as index:
        report = index_sources(sources, index, texts, workers=0)
        assert (report.indexed["text"], report.failures) == (len(TEXTS), 2)
        assert {failure.kind for failure in report.failed} == {"NoEncoderError"}


def test_a_function_is_named_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "embeddings_of_the_tests.py").write_text("class own:\n    def embed(texts):\n        return texts\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert imported("embeddings_of_the_tests:own.embed")(["a"]) == ["a"]  # type: ignore[operator]
    for spec in ("embeddings_of_the_tests", ":embed", "no_such_module:embed", "embeddings_of_the_tests:other"):
        with pytest.raises(SettingsError, match="module:function"):
            imported(spec)
