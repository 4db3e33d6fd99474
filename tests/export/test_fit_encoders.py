"""Encoders of fastembed and open_clip, bundles and functions: their vectors are those of their own libraries."""

from __future__ import annotations

import sys
import types
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.encoders import (
    PIECES,
    TEXTS,
    fast_image,
    fast_text,
    preprocessing,
    text_graph,
    unigram_pieces,
    unit,
    with_a_vector_of_a_text,
    write,
)
from support.toy_bundle import write_toy_bundle

from hysac_export.fit.encoders.fast import fast_graphs
from hysac_export.fit.encoders.open import open_encoder
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.views import picture_views
from hysac_retrieval.errors import (
    ChecksumError,
    EncoderError,
    ImageError,
    InvalidVectorError,
    MissingExtraError,
    TextError,
    TrainingError,
)

SHAPES = [(16, 16), (40, 24), (23, 61), (200, 3)]
PICTURES = [Image.effect_noise(shape, 80).convert("RGB") for shape in SHAPES]
ARCHITECTURE = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}


def opened(spec: str) -> Any:
    return open_encoder(spec, device="cpu")


# fastembed


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize(
    ("pooling", "name"),
    [
        ("cls_token", "BAAI/bge-small-en-v1.5"),
        ("mean_tokens", "sentence-transformers/all-MiniLM-L6-v2"),
        (None, "Qdrant/clip-ViT-B-32-text"),
    ],
)
def test_texts_get_the_vectors_that_fastembed_gives(pooling: str | None, name: str, opset: int, tmp_path: Path) -> None:
    fastembed = pytest.importorskip("fastembed")
    folder = fast_text(tmp_path / "model", opset=opset, pooling=pooling)
    (folder / "model_optimized.onnx").write_bytes((folder / "model.onnx").read_bytes())  # as that of bge is called
    reference = fastembed.TextEmbedding(name, specific_model_path=str(folder), providers=["CPUExecutionProvider"])
    encoder = opened(f"fastembed:{folder}")
    assert (encoder.dim, encoder.modalities) == (12, ("text",))
    np.testing.assert_allclose(encoder.text(TEXTS), unit(np.array([*reference.embed(TEXTS)])), atol=2e-6)


def test_pictures_get_the_vectors_that_fastembed_gives(tmp_path: Path) -> None:
    fastembed = pytest.importorskip("fastembed")
    reference = fastembed.ImageEmbedding(
        "Qdrant/clip-ViT-B-32-vision",
        specific_model_path=str(fast_image(tmp_path / "model")),
        providers=["CPUExecutionProvider"],
    )
    encoder = opened(f"fastembed:{tmp_path / 'model'}")
    assert (encoder.dim, encoder.modalities) == (12, ("image",))
    # Of these, none is cropped between pixels.
    np.testing.assert_allclose(encoder.image(PICTURES), unit(np.array([*reference.embed(PICTURES)])), atol=1e-5)


def test_a_jina_gives_several_outputs_whose_sizes_it_does_not_say(tmp_path: Path) -> None:
    fastembed = pytest.importorskip("fastembed")
    folder = fast_text(tmp_path / "model", pooling="mean_tokens")
    with_a_vector_of_a_text(folder)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())  # as that of jina is called
    name = "jinaai/jina-embeddings-v2-base-en"
    reference = fastembed.TextEmbedding(name, specific_model_path=str(folder), providers=["CPUExecutionProvider"])
    encoder = opened(f"fastembed:{folder}")
    assert encoder.dim == 12
    expected = np.array([*reference.embed(TEXTS)])
    np.testing.assert_allclose(encoder.text(TEXTS), unit(expected), atol=2e-6)
    # A layout that says nothing of pooling leaves the vector of a text that is there already.
    (folder / "1_Pooling" / "config.json").unlink()
    found = opened(f"fastembed:{folder}").text(TEXTS)
    assert np.abs(found - unit(expected)).max() > 0.05
    plain = fast_text(tmp_path / "plain", pooling="max_tokens")
    np.testing.assert_allclose(found, opened(f"fastembed:{plain}").text(TEXTS), atol=2e-6)


def test_a_text_model_brings_the_model_of_pictures_beside_it(tmp_path: Path) -> None:
    fast_text(tmp_path / "clip-text")
    fast_image(tmp_path / "clip-vision")
    encoder = opened(f"fastembed:{tmp_path / 'clip-text'}")
    assert encoder.modalities == ("text", "image")
    assert encoder.text(TEXTS).shape == (5, 12)
    alone = opened(f"fastembed:{tmp_path / 'clip-vision'}")
    np.testing.assert_array_equal(encoder.image(PICTURES), alone.image(PICTURES))


def test_a_pair_of_different_sizes_is_refused(tmp_path: Path) -> None:
    fast_text(tmp_path / "clip-text")
    text_graph(tmp_path / "clip-text", pooled=True, dim=10)
    fast_image(tmp_path / "clip-vision")
    with pytest.raises(EncoderError, match=r"sizes \[10, 12\]"):
        opened(f"fastembed:{tmp_path / 'clip-text'}")


def test_padding_with_the_end_token_hides_no_end_token(tmp_path: Path) -> None:
    encoder = opened(f"fastembed:{fast_text(tmp_path / 'clip')}")
    spec = encoder.graphs().text.spec
    assert spec.pad_id != spec.end_id
    np.testing.assert_allclose(encoder.text(TEXTS)[0], encoder.text(TEXTS[:1])[0], atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"height": 16, "width": 16}},
        {"size": {"shortest_edge": 20}},
        {"crop_size": {"height": 16, "width": 12}},
        {"do_center_crop": False},
        {"do_normalize": False},
        {"resample": 0},
        {"rescale_factor": 1.0},
        {"image_processor_type": "SiglipImageProcessor"},
        {"size": None, "crop_size": None},
        {"image_std": [1.0, 0.0]},
    ],
    ids=str,
)
def test_pictures_that_are_prepared_in_another_way_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    write(fast_image(tmp_path / "model") / "preprocessor_config.json", preprocessing(16, **changes))
    with pytest.raises(EncoderError, match=r"does not (prepare pictures as CLIP does|say how)"):
        opened(f"fastembed:{tmp_path / 'model'}")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("model.onnx", None, "has no graph"),
        ("tokenizer_config.json", "{}", "no model_max_length"),
        ("tokenizer_config.json", "[]", "expected an object"),
        ("1_Pooling/config.json", None, "pooling by nothing"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(file: str, content: str | None, says: str, tmp_path: Path) -> None:
    folder = fast_text(tmp_path / "model", pooling="mean_tokens")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(EncoderError, match=says):
        opened(f"fastembed:{folder}")


def test_names_of_fastembed_need_fastembed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastembed", None)
    with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[fastembed\]"):
        fast_graphs("Qdrant/clip-ViT-B-32-text")


@pytest.mark.parametrize(
    ("name", "says"),
    [("no/such", "knows no 'no/such'"), ("jinaai/jina-embeddings-v3", "is a JinaEmbeddingV3")],
)
def test_names_that_fastembed_has_not_or_that_are_not_understood(name: str, says: str) -> None:
    pytest.importorskip("fastembed")
    with pytest.raises(EncoderError, match=says):
        fast_graphs(name)


# open_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder as open_clip's are on the hub, and the model in it."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(3)
    model = open_clip.model.CLIP(**ARCHITECTURE).eval()  # type: ignore[arg-type]
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    colours = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    write(folder / "open_clip_config.json", {"model_cfg": ARCHITECTURE, "preprocess_cfg": colours})
    return folder, model


def test_open_clip_gives_the_same_vectors_by_itself(clip: tuple[Path, Any]) -> None:
    folder, model = clip
    encoder = opened(f"open_clip:{folder}")
    assert (encoder.dim, encoder.modalities) == (24, ("text", "image"))
    transform = open_clip.image_transform(32, is_train=False, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    with torch.no_grad():
        texts = model.encode_text(open_clip.SimpleTokenizer(context_length=16)(TEXTS), normalize=True).numpy()
        images = model.encode_image(torch.stack([transform(p) for p in PICTURES]), normalize=True).numpy()
    np.testing.assert_allclose(encoder.text(TEXTS), texts, atol=2e-6)
    np.testing.assert_allclose(encoder.image(PICTURES), images, atol=1e-3)  # a grey level, as Pillow rounds


def test_an_architecture_and_weights_are_named_by_files(clip: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = clip
    write(tmp_path / "small.json", ARCHITECTURE)
    encoder = opened(f"open_clip:{tmp_path / 'small.json'}/{folder / 'open_clip_model.safetensors'}")
    np.testing.assert_allclose(encoder.text(TEXTS), opened(f"open_clip:{folder}").text(TEXTS), atol=2e-6)


SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 64,
        "vocab_size": len(PIECES),
        "hf_tokenizer_name": "of/a-hub",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 64,
        "heads": 4,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A SigLIP, small and with random weights, as it is on the hub; and the model in it."""
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(3)
    model = open_clip.model.CustomTextCLIP(**{key: deepcopy(SIGLIP[key]) for key in SIGLIP if key != "custom_text"})
    with torch.no_grad():  # its text tower is all zeros in places
        for parameter in model.text.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    grey = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    write(folder / "open_clip_config.json", {"model_cfg": SIGLIP, "preprocess_cfg": grey})
    unigram_pieces(folder)
    return folder, model.eval()


def test_a_siglip_gives_the_same_vectors_by_itself(siglip: tuple[Path, Any]) -> None:
    folder, model = siglip
    encoder = opened(f"open_clip:{folder}")
    assert (encoder.dim, encoder.modalities) == (64, ("text", "image"))
    assert (encoder.graphs().text.spec.context_length, encoder.pixels.size, encoder.pixels.resize) == (
        64,
        160,
        "squash",
    )
    transform = open_clip.image_transform(160, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")
    tokenizer = open_clip.tokenizer.HFTokenizer(str(folder), context_length=64, clean="canonicalize")
    texts = [*TEXTS, "  The DOG_runs, at (night)!  ", "knife dog " * 60]
    with torch.no_grad():
        expected = model.encode_text(tokenizer(texts), normalize=True).numpy()
        images = model.encode_image(torch.stack([transform(p) for p in PICTURES]), normalize=True).numpy()
    assert len(np.unique(expected.round(3), axis=0)) == len(texts)
    np.testing.assert_allclose(encoder.text(texts), expected, atol=5e-6)
    np.testing.assert_allclose(encoder.image(PICTURES), images, atol=1e-3)


def test_a_picture_of_a_siglip_is_judged_whole_and_in_parts(siglip: tuple[Path, Any]) -> None:
    spec = opened(f"open_clip:{siglip[0]}").pixels
    assert picture_views(PICTURES[0], spec, "fast").names == ("whole",)
    assert picture_views(PICTURES[3], spec, "fast").names[0] == "whole"
    assert len(picture_views(PICTURES[3], spec, "fast").names) > 2


@pytest.mark.parametrize(
    ("changes", "preprocess", "says"),
    [
        ({"tokenizer_kwargs": {"clean": "other"}}, {}, "cleaned by 'other'"),
        ({"tokenizer_kwargs": {"strip_sep_token": True}}, {}, "strip_sep_token"),
        ({"hf_model_name": "roberta"}, {}, "hf_model_name"),
        ({}, {"resize_mode": "longest"}, "prepares pictures in a way"),
    ],
)
def test_a_siglip_of_another_kind_is_refused(
    changes: dict[str, Any], preprocess: dict[str, Any], says: str, siglip: tuple[Path, Any], tmp_path: Path
) -> None:
    text: Any = SIGLIP["text_cfg"]
    for file in siglip[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    architecture = SIGLIP | {"text_cfg": text | changes}
    write(tmp_path / "open_clip_config.json", {"model_cfg": architecture, "preprocess_cfg": preprocess})
    with pytest.raises(EncoderError, match=says):
        opened(f"open_clip:{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("ViT-B-32", EncoderError, "names no weights.*laion2b_s34b_b79k"),
        ("ViT-B-32/no-such-tag", TrainingError, "no tag"),
        ("no-such/openai", TrainingError, "no architecture"),
    ],
)
def test_open_clip_says_what_it_lacks(spec: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        opened(f"open_clip:{spec}")


def test_a_folder_without_weights_of_open_clip_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "open_clip_config.json", ARCHITECTURE)
    with pytest.raises(EncoderError, match=r"none of open_clip_model\.safetensors"):
        opened(f"open_clip:{tmp_path}")


def test_open_clip_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hysac_export.fit.encoders.clip", raising=False)
    monkeypatch.setitem(sys.modules, "open_clip.pretrained", None)
    with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[train\]"):
        opened("open_clip:ViT-B-32/openai")


# Bundles


@pytest.mark.parametrize("prefix", ["hysac:", ""])
def test_a_bundle_gives_the_directions_of_its_points(prefix: str, tmp_path: Path) -> None:
    write_toy_bundle(tmp_path / "toy")
    encoder, reference = opened(f"{prefix}{tmp_path / 'toy'}"), Encoder.load(tmp_path / "toy", device="cpu")
    texts = ["a man with a gun", "dog", "the red house"]
    np.testing.assert_allclose(encoder.text(texts), unit(reference.encode_text(texts)), atol=1e-6)
    np.testing.assert_allclose(encoder.image(PICTURES), unit(reference.encode_image(PICTURES)), atol=1e-6)


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    write_toy_bundle(tmp_path / "toy")
    (tmp_path / "toy" / "text.onnx").write_bytes(b"")
    with pytest.raises(ChecksumError):
        opened(f"hysac:{tmp_path / 'toy'}")


# Functions


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of the caller's own, named ``own``."""
    found = types.ModuleType("own")
    monkeypatch.setitem(sys.modules, "own", found)
    return found


def lengths(texts: list[str]) -> list[list[float]]:
    return [[len(text), 2.0, 0.0] for text in texts]


def colours(images: list[Image.Image]) -> list[Any]:
    return [np.asarray(image).mean((0, 1)) + 1 for image in images]


def test_a_function_of_texts_gives_their_vectors_in_parts(module: Any) -> None:
    module.encode, done = lengths, list[int]()
    encoder = opened("own:encode")
    assert (encoder.name, encoder.dim, encoder.modalities) == ("own:encode", 3, ("text",))
    texts = ["x" * (i + 1) for i in range(150)]
    np.testing.assert_allclose(encoder.text(texts, done.append), unit(np.array(lengths(texts))), atol=1e-6)
    assert sum(done) == 150
    with pytest.raises(EncoderError, match="reads texts only"):
        encoder.image(PICTURES)
    with pytest.raises(TextError, match="text 1"):
        encoder.text(["a", " "])
    with pytest.raises(EncoderError, match="the fitted bundle holds the head only"):
        encoder.graphs()


def test_a_function_may_take_pictures_too(module: Any, tmp_path: Path) -> None:
    module.service = types.SimpleNamespace(text=lengths, image=colours)
    encoder = opened("own:service")
    assert encoder.modalities == ("text", "image")
    PICTURES[1].save(tmp_path / "a.png")
    found = encoder.image([tmp_path / "a.png", PICTURES[1]])
    np.testing.assert_array_equal(found[0], found[1])
    assert found[1] @ unit(np.array(colours([PICTURES[1]])))[0] > 0.999
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(ImageError):
        encoder.image([tmp_path / "b.png"])


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda items: [[1.0]] * (len(items) + 1), "shape .* for 1 texts"),
        (lambda items: [1.0 for _ in items], "shape .* for 1 texts"),
        (lambda items: 1 / 0, "failed for 1 texts: .*division by zero"),
        (types.SimpleNamespace(text=lambda _: [[1.0]], image=lambda _: [[1.0, 2.0]]), "size 1 for texts, of 2"),
        ("text", "is a str, expected a function"),
    ],
)
def test_a_function_that_gives_no_vectors_is_refused(function: Any, says: str, module: Any) -> None:
    module.encode = function
    with pytest.raises(EncoderError, match=says):
        opened("own:encode")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_vectors_without_a_direction_are_refused(value: float, module: Any) -> None:
    module.encode = lambda items: [[value if item == "bad" else 1.0] for item in items]
    with pytest.raises(InvalidVectorError, match=r"zero or not finite for items \[1\]"):
        opened("own:encode").text(["good", "bad"])


# All kinds


@pytest.mark.parametrize("spec", ["", "nothing like it", "sentence-transformers:", "no:such/thing", "./gone"])
def test_a_spec_of_no_kind_lists_the_kinds(spec: str) -> None:
    with pytest.raises(EncoderError) as caught:
        opened(spec)
    for kind in ("open_clip:", "fastembed:", "sentence-transformers:", "hysac:", "module:function"):
        assert kind in str(caught.value)


def test_a_module_that_does_not_exist_is_named_and_the_kinds_are_listed() -> None:
    with pytest.raises(EncoderError, match=r"No module named 'openclip'.*open_clip:MODEL/PRETRAINED"):
        opened("openclip:vit")
