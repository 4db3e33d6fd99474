"""Bundles with a head for vectors of another encoder, with and without encoders beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError
from support.foreign import DANGER, HIGH, LOW, SIZE, encode, head_graph, probes, write_head_bundle
from support.toy_bundle import LENGTH, write_toy_bundle

from hysac_export.bundle.compress import compress_bundle
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.bundle import Bundle, Manifest, Probe, VectorSpec, entry_of
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import BundleFormatError, InvalidVectorError, NoEncoderError, SettingsError
from hysac_retrieval.types import Modality


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_head_bundle(tmp_path_factory.mktemp("head") / "bundle").path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return Encoder.load(folder, device="cpu", threads=1)


def test_the_bundled_model_has_the_fingerprint_that_it_was_published_with() -> None:
    assert Bundle.load("hysac-mini").fingerprint == "9aac666a111b35a2a7072a08cd3ccdfd"


def test_vectors_keep_their_direction_and_get_the_radius_of_their_modality(encoder: Encoder) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, SIZE)).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    plateau = np.clip((units @ DANGER - LOW) / (HIGH - LOW), 0, 1)
    bases: dict[Modality, float] = {"text": 1.0, "image": 1.5}
    for modality, base in bases.items():
        points = encoder.encode_vectors(vectors, modality, batch_size=64)
        assert points.dtype == np.float32
        np.testing.assert_allclose(lorentz.dist0(points, 1.0), base + plateau, rtol=1e-4)
        np.testing.assert_allclose(points / np.linalg.norm(points, axis=1, keepdims=True), units, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("float16", 1e-2),
        ("float16", 1e4),
        ("float32", 1e-30),
        ("float32", 1e30),
        ("float64", 1e-200),
        ("float64", 1e200),
    ],
)
def test_the_length_of_a_vector_does_not_matter(encoder: Encoder, scale: float, dtype: str) -> None:
    vectors = encode(["a dog", "a man with a gun"])
    found = encoder.encode_vectors((vectors.astype(np.float64) * scale).astype(dtype), "text")
    np.testing.assert_allclose(found, encoder.encode_vectors(vectors, "text"), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.zeros((2, SIZE), np.float32), r"vector 0 is zero, as 1 further ones"),
        (np.full((1, SIZE), np.nan, np.float32), "vector 0 is not finite"),
        (np.vstack([encode(["a dog"]), np.full((1, SIZE), -np.inf)]), "vector 1 is not finite"),
        (np.ones((2, SIZE + 1), np.float32), f"have {SIZE + 1} numbers, the head of the model takes {SIZE}"),
        (np.ones(SIZE, np.float32), "expected floats"),
        (np.ones((2, SIZE), np.int64), "int64"),
        (np.full((2, SIZE), "1"), "expected floats"),
        (np.full((1, SIZE), None), "expected floats"),
    ],
)
def test_what_is_no_vector_of_the_encoder_is_refused(encoder: Encoder, vectors: Any, said: str) -> None:
    with pytest.raises(InvalidVectorError, match=said):
        encoder.encode_vectors(vectors, "text")


def test_no_vectors_give_no_points(encoder: Encoder) -> None:
    assert encoder.encode_vectors(np.empty((0, SIZE), np.float32), "image").shape == (0, SIZE)


def test_a_bundle_says_what_it_cannot_encode(encoder: Encoder, toy_bundle: Path, tmp_path: Path) -> None:
    for encode_item in (lambda: encoder.encode_text("a dog"), lambda: encoder.text_views("a dog")):
        with pytest.raises(NoEncoderError, match=r"no text encoder.*a vector of the encoder of the tests.*encode="):
            encode_item()
    with pytest.raises(NoEncoderError, match="no image encoder"):
        encoder.preprocess_images(["picture.png"])
    with pytest.raises(NoEncoderError, match="no head for vectors of another encoder"):
        Encoder.load(toy_bundle).encode_vectors(np.ones((1, SIZE), np.float32), "text")
    texts = Encoder.load(write_head_bundle(tmp_path / "texts", heads=["text"]).path)
    with pytest.raises(NoEncoderError, match="no head for vectors of images"):
        texts.encode_vectors(np.ones((1, SIZE), np.float32), "image")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda graph: setattr(graph.input[0], "name", "tokens"), "cannot load"),
        (lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[1], "dim_value", SIZE + 1), "cannot load"),
        (lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[1], "dim_param", "any"), "None"),
        (lambda graph: setattr(graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 1), "batch axis"),
    ],
)
def test_a_head_that_is_not_what_the_manifest_says_is_refused(
    folder: Path, tmp_path: Path, change: Any, said: str
) -> None:
    graph = head_graph(1.0)
    change(graph.graph)
    other = Path(shutil.copytree(folder, tmp_path / "bundle"))
    onnx.save(graph, other / "head-text.onnx")
    document = json.loads((other / "hysac.json").read_text())
    document["files"]["head-text.onnx"] = entry_of(other / "head-text.onnx").model_dump()
    (other / "hysac.json").write_text(json.dumps(document))
    with pytest.raises(BundleFormatError, match=said):
        Encoder.load(other).encode_vectors(np.ones((1, SIZE), np.float32), "text")


@pytest.mark.parametrize(
    "fields",
    [
        {"vectors": None},
        {"vectors": {"size": SIZE}},
        {"vectors": {"size": SIZE, "text": "head.bin"}},
        {"vectors": {"size": SIZE, "text": "missing.onnx"}},
        {"vectors": {"size": 0, "text": "head-text.onnx"}},
        {"vectors": {"size": 2, "text": "head-text.onnx", "probes": [{"text": "a", "vector": [1.0]}]}},
        {"vectors": {"size": 1, "text": "head-text.onnx", "probes": [{"text": "a", "vector": [0.5]}]}},
        {"vectors": {"size": 1, "text": "head-text.onnx", "probes": [{"text": "", "vector": [1.0]}]}},
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(folder: Path, fields: dict[str, Any]) -> None:
    document = json.loads((folder / "hysac.json").read_text())
    Manifest.model_validate(document)
    with pytest.raises(ValidationError):
        Manifest.model_validate(document | fields)


def test_the_fingerprint_is_of_the_heads_and_not_of_the_words_about_them(folder: Path) -> None:
    manifest = Bundle.load(folder).manifest
    spec = manifest.vectors
    assert spec is not None
    for same in (
        {"domain": "photographs"},
        {"inputs": {"norms": [1.0]}},
        {"vectors": spec.model_copy(update={"encoder": "another name", "probes": spec.probes[:1]})},
    ):
        assert manifest.model_copy(update=same).fingerprint == manifest.fingerprint
    other = VectorSpec(size=SIZE, text="head-text.onnx", probes=probes())
    assert manifest.model_copy(update={"vectors": other}).fingerprint != manifest.fingerprint


def test_a_probe_has_length_1() -> None:
    assert Probe(text="a", vector=(0.6, 0.8)).vector == (0.6, 0.8)
    with pytest.raises(ValidationError, match="has length 5, expected 1"):
        Probe(text="a", vector=(3.0, 4.0))


def test_a_graph_of_texts_of_any_length_gets_no_more_padding_than_it_needs(toy_bundle: Path, tmp_path: Path) -> None:
    source = Bundle.load(toy_bundle).manifest
    assert source.text is not None
    folder = tmp_path / "bundle"
    write_toy_bundle(folder)
    graph = onnx.load(folder / "text.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    onnx.save(graph, folder / "text.onnx")
    document = json.loads((folder / "hysac.json").read_text())
    document["files"]["text.onnx"] = entry_of(folder / "text.onnx").model_dump()
    (folder / "hysac.json").write_text(json.dumps(document))
    with pytest.raises(BundleFormatError, match="the manifest asks for"):
        Encoder.load(folder).encode_text("a dog")
    document["text"]["dynamic"] = True
    (folder / "hysac.json").write_text(json.dumps(document))
    dynamic, fixed = Encoder.load(folder), Encoder.load(toy_bundle)
    widths = []
    run = dynamic._sessions.run
    dynamic._sessions.run = lambda graph, batch: widths.append(batch.shape[1]) or run(graph, batch)  # type: ignore[func-returns-value,method-assign]
    texts = ["a dog", "a man with a gun in the red house"]
    np.testing.assert_allclose(dynamic.encode_text(texts, batch_size=1), fixed.encode_text(texts), rtol=1e-6)
    assert widths == [4, LENGTH]


def test_a_bundle_of_heads_alone_is_not_compressed_and_heads_go_along(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="only a head"):
        compress_bundle(Bundle.load(folder), tmp_path / "int8", "int8")
    both = tmp_path / "both"
    write_toy_bundle(both)
    document = json.loads((both / "hysac.json").read_text())
    shutil.copy(folder / "head-image.onnx", both)
    document["files"]["head-image.onnx"] = entry_of(both / "head-image.onnx").model_dump()
    document["vectors"] = {"size": SIZE, "image": "head-image.onnx"}
    del document["image"]
    document["dim"] = SIZE
    (both / "hysac.json").write_text(json.dumps(document))
    made = compress_bundle(Bundle.load(both), tmp_path / "made", "fp16")
    assert sorted(made.manifest.files) == ["head-image.onnx", "text.onnx", "tokenizer.json"]
    vectors = encode(["a dog", "a man with a gun"])
    expected = Encoder.load(folder).encode_vectors(vectors, "image")
    np.testing.assert_array_equal(Encoder(made).encode_vectors(vectors, "image"), expected)
