from __future__ import annotations

import builtins
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from PIL import Image
from support.toy_bundle import DIM, LENGTH, SIZE, write_toy_bundle

from hysac_retrieval import lorentz
from hysac_retrieval.encoder.bundle import Bundle, entry_of, write_manifest
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import (
    BundleFormatError,
    DeviceError,
    ImageError,
    InvalidVectorError,
    MissingExtraError,
    SettingsError,
    TextError,
)
from hysac_retrieval.lift import PaddedLift


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, device="cpu", threads=1)


def picture(colour: str, size: tuple[int, int] = (40, 20)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_attributes_are_those_of_the_manifest(encoder: Encoder, toy_bundle: Path) -> None:
    manifest = Bundle.load(toy_bundle).manifest
    assert (encoder.name, encoder.dim, encoder.curvature) == ("toy", DIM, 1.0)
    assert encoder.safety == manifest.safety
    assert encoder.fingerprint == manifest.fingerprint
    assert encoder.image_spec == manifest.image
    assert encoder.text_spec == manifest.text
    assert encoder.lift is None


def test_texts_become_points_of_the_radius_the_model_gives(encoder: Encoder) -> None:
    points = encoder.encode_text(["a dog in the park", "a man with a gun", "A MAN WITH A GUN"])
    assert points.shape == (3, DIM)
    assert points.dtype == np.float32
    np.testing.assert_allclose(lorentz.dist0(points, 1.0), [1, 2, 2], rtol=1e-5)
    np.testing.assert_array_equal(points[1], points[2])


def test_images_become_points_of_the_radius_the_model_gives(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    picture("red").save(path)
    sources: list[Any] = [path, str(path), path.read_bytes(), picture("red"), picture("blue")]
    points = encoder.encode_image(sources)
    assert points.shape == (5, DIM)
    assert points.dtype == np.float32
    np.testing.assert_allclose(lorentz.dist0(points, 1.0), [2.5, 2.5, 2.5, 2.5, 1.5], rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_the_batch_size_does_not_change_the_points(encoder: Encoder, batch_size: int) -> None:
    texts = ["a dog", "a cat", "a man with a knife", "the house", "green"]
    images = [picture(colour) for colour in ("red", "green", "blue", "white", "navy")]
    np.testing.assert_allclose(
        encoder.encode_text(texts, batch_size=batch_size),
        np.concatenate([encoder.encode_text([t]) for t in texts]),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        encoder.encode_image(images, batch_size=batch_size),
        np.concatenate([encoder.encode_image([i]) for i in images]),
        rtol=1e-5,
    )


def test_nothing_in_gives_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode_text([]).shape == (0, DIM)
    assert encoder.encode_image([]).shape == (0, DIM)
    assert encoder.encode_image(np.empty((0, SIZE, SIZE, 3), np.uint8)).shape == (0, DIM)
    assert encoder.preprocess_images([]).shape == (0, SIZE, SIZE, 3)


def test_one_item_counts_as_a_list_of_one_and_iterators_are_read(encoder: Encoder) -> None:
    np.testing.assert_array_equal(encoder.encode_text("a dog"), encoder.encode_text(["a dog"]))
    np.testing.assert_array_equal(encoder.encode_image(picture("red")), encoder.encode_image([picture("red")]))

    def texts() -> Iterator[str]:
        yield from ("a dog", "a cat")

    assert encoder.encode_text(texts()).shape == (2, DIM)


def test_ready_pixels_give_the_points_of_their_pictures(encoder: Encoder) -> None:
    images = [picture("red"), picture("green")]
    pixels = encoder.preprocess_images(images)
    assert pixels.shape == (2, SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(encoder.encode_image(pixels), encoder.encode_image(images))
    np.testing.assert_array_equal(encoder.encode_image(pixels[::-1]), encoder.encode_image(images)[::-1])


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((1, SIZE, SIZE, 3), np.float32), np.zeros((1, 4, 4, 3), np.uint8)],
)
def test_pixels_of_another_shape_or_type_are_refused(encoder: Encoder, pixels: Any) -> None:
    with pytest.raises(ImageError, match=r"expected uint8, \(n, 16, 16, 3\)"):
        encoder.encode_image(pixels)


def test_a_bad_image_is_named(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"bad\.png"):
        encoder.encode_image([picture("red"), tmp_path / "bad.png"])


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000", None, 3, b"a dog", "\ud800"])
def test_text_that_is_no_text_is_refused(encoder: Encoder, text: Any) -> None:
    with pytest.raises(TextError):
        encoder.encode_text(["a dog", text])
    with pytest.raises(TextError):
        encoder.count_tokens(text)


def test_the_position_of_a_bad_text_is_that_in_the_whole_list(encoder: Encoder) -> None:
    with pytest.raises(TextError, match="text 7 is empty"):
        encoder.encode_text(["a dog"] * 7 + [""], batch_size=2)


def test_tokens_are_start_words_end_padding(encoder: Encoder) -> None:
    spec = encoder.text_spec
    tokens = encoder.tokenizer(["a dog", "dog"])
    assert tokens.dtype == np.int64
    assert tokens.shape == (2, LENGTH)
    start, a, dog = tokens[0, :3]
    assert tokens[0].tolist() == [start, a, dog, spec.end_id] + [spec.pad_id] * 4
    assert tokens[1].tolist() == [start, dog, spec.end_id] + [spec.pad_id] * 5
    assert len({start, a, dog, spec.end_id, spec.pad_id}) == 5


def test_a_text_that_just_fits_is_kept_and_a_longer_one_is_cut_but_keeps_its_end(encoder: Encoder) -> None:
    fits, longer = "dog " * (LENGTH - 2), "dog " * (LENGTH - 1)
    assert encoder.count_tokens(fits) == LENGTH
    assert encoder.count_tokens(longer) == LENGTH + 1 > encoder.text_spec.context_length
    tokens = encoder.tokenizer([fits, longer, longer * 100])
    assert (tokens == tokens[0]).all()
    assert tokens[0, -1] == encoder.text_spec.end_id
    np.testing.assert_array_equal(encoder.encode_text([fits]), encoder.encode_text([longer]))


def test_special_tokens_written_in_a_text_are_plain_characters(encoder: Encoder) -> None:
    tokens = encoder.tokenizer(["a <end> gun", "<pad><start>"])
    assert (tokens == encoder.text_spec.end_id).sum(axis=1).tolist() == [1, 1]
    assert tokens[0, -1] == encoder.text_spec.end_id
    assert tokens[1, 1] not in (encoder.text_spec.pad_id, tokens[1, 0])


@pytest.mark.parametrize("text", ["Löwe 🦁", "人", "\x00", "\u200b", "e\u0301", "ﬁ", "🏳️‍🌈", "ا", "a" * 10_000])
def test_any_unicode_text_can_be_encoded(encoder: Encoder, text: str) -> None:
    assert np.isfinite(encoder.encode_text([text])).all()


@pytest.mark.parametrize("tokens", [np.zeros((1, 3), np.int64), np.zeros((1, LENGTH), np.int32), np.zeros(LENGTH, int)])
def test_token_ids_of_another_shape_or_type_are_refused(encoder: Encoder, tokens: Any) -> None:
    with pytest.raises(TextError, match=r"expected int64, \(n, 8\)"):
        encoder.encode_tokens(tokens)


def test_only_the_graph_that_is_used_is_loaded(toy_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))
    encoder = Encoder.load(folder)
    (folder / "image.onnx").unlink()
    assert encoder.encode_text(["a dog"]).shape == (1, DIM)
    with pytest.raises(BundleFormatError, match=r"image\.onnx"):
        encoder.encode_image([picture("red")])


def test_threads_share_one_encoder(toy_bundle: Path) -> None:
    encoder = Encoder.load(toy_bundle)
    texts, images = ["a dog", "a man with a gun"], [picture("red"), picture("green")]
    expected = Encoder.load(toy_bundle).encode_text(texts), Encoder.load(toy_bundle).encode_image(images)
    agree: list[bool] = []

    def work() -> None:
        for _ in range(10):
            found = encoder.encode_text(texts), encoder.encode_image(images)
            agree.append(all(np.allclose(f, e, rtol=1e-5) for f, e in zip(found, expected, strict=True)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert agree == [True] * 60


def test_the_lift_of_the_bundle_is_read(tmp_path: Path) -> None:
    lift = PaddedLift.default(DIM, 1.0)
    write_toy_bundle(tmp_path / "a", lift=lift.to_dict())
    assert Encoder.load(tmp_path / "a").lift == lift
    write_toy_bundle(tmp_path / "b", lift={"kind": "padded"})
    with pytest.raises(BundleFormatError, match="lift"):
        _ = Encoder.load(tmp_path / "b").lift


@pytest.mark.parametrize("options", [{"device": "tpu"}, {"threads": 0}, {"inter_threads": 0}, {"device_id": -1}])
def test_options_out_of_range_are_refused(toy_bundle: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        Encoder.load(toy_bundle, **options)


def test_a_batch_size_below_one_is_refused(encoder: Encoder) -> None:
    with pytest.raises(SettingsError, match="batch_size"):
        encoder.encode_text(["a dog"], batch_size=0)


def test_cuda_without_the_gpu_build_names_the_extra(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[gpu\]"):
        Encoder.load(toy_bundle, device="cuda")


def test_cuda_that_does_not_start_is_an_error_and_not_a_silent_fallback(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    real = onnxruntime.InferenceSession

    # What the GPU build does on a machine without a driver: it goes on without the provider.
    def session(path: str, options: Any, providers: list[Any], **_: Any) -> Any:
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(DeviceError, match="could only start"):
        Encoder.load(toy_bundle, device="cuda").encode_text(["a dog"])
    assert Encoder.load(toy_bundle, device="auto").encode_text(["a dog"]).shape == (1, DIM)


@pytest.mark.parametrize(("device", "extra"), [("auto", "cpu"), ("cuda", "gpu")])
def test_without_onnxruntime_the_extra_is_named(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, device: Any, extra: str
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=rf"hysac-retrieval\[{extra}\]"):
        Encoder.load(toy_bundle, device=device)


def test_importing_the_encoder_imports_no_framework() -> None:
    code = (
        "import sys; sys.modules['fastembed'] = None; "  # which qdrant-client imports wherever it is installed
        "import hysac_retrieval.encoder.encoder; "
        "print([m for m in ('torch', 'onnxruntime', 'onnx', 'open_clip') if m in sys.modules])"
    )
    path = [str(Path(__file__).resolve().parents[2]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def respell(folder: Path, source: Path, file: str, change: Any) -> Path:
    """A copy of a bundle with a changed graph and a manifest that describes it."""
    shutil.copytree(source, folder)
    graph = onnx.load(folder / file)
    change(graph.graph)
    onnx.save(graph, folder / file)
    manifest = Bundle.load(source).manifest
    write_manifest(folder, manifest.model_copy(update={"files": manifest.files | {file: entry_of(folder / file)}}))
    return folder


def _rename_output(graph: Any) -> None:
    graph.node[-1].output[0] = graph.output[0].name = "embedding"


def _rename_input(graph: Any) -> None:
    graph.input[0].name = "ids"
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == "tokens":
                node.input[i] = "ids"


def _fix_batch(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1


def _cast_output(graph: Any) -> None:
    graph.node[-1].output[0] = "narrow"
    graph.node.append(helper.make_node("Cast", ["narrow"], ["point"], to=onnx.TensorProto.DOUBLE))
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_rename_output, "embedding"),
        (_rename_input, "ids"),
        (_fix_batch, "batch axis"),
        (_cast_output, "double"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(
    toy_bundle: Path, tmp_path: Path, change: Any, said: str
) -> None:
    folder = respell(tmp_path / "bundle", toy_bundle, "text.onnx", change)
    with pytest.raises(BundleFormatError, match=said):
        Encoder.load(folder).encode_text(["a dog"])


@pytest.mark.parametrize("fields", [{"dim": DIM + 1}, {"text": {"context_length": LENGTH + 1}}])
def test_a_manifest_that_is_not_what_the_graph_says_is_refused(
    toy_bundle: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    manifest = Bundle.load(toy_bundle).manifest
    text = manifest.text.model_copy(update=fields.pop("text", {}))
    folder = Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))
    write_manifest(folder, manifest.model_copy(update=fields | {"text": text}))
    with pytest.raises(BundleFormatError, match="the manifest asks for"):
        Encoder.load(folder).encode_text(["a dog"])


def test_a_tokenizer_that_does_not_end_with_the_end_token_is_refused(toy_bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.load(toy_bundle).manifest
    folder = Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))
    text = manifest.text.model_copy(update={"end_id": manifest.text.end_id - 1})
    write_manifest(folder, manifest.model_copy(update={"text": text}))
    with pytest.raises(BundleFormatError, match="end token"):
        Encoder.load(folder).encode_text(["a dog"])


@pytest.mark.parametrize("data", [b"{}", b"", pickle.dumps(1)])
def test_a_tokenizer_that_is_none_is_refused(toy_bundle: Path, tmp_path: Path, data: bytes) -> None:
    manifest = Bundle.load(toy_bundle).manifest
    folder = Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))
    (folder / "tokenizer.json").write_bytes(data)
    files = manifest.files | {"tokenizer.json": entry_of(folder / "tokenizer.json")}
    write_manifest(folder, manifest.model_copy(update={"files": files}))
    with pytest.raises(BundleFormatError, match="is not a tokenizer"):
        Encoder.load(folder).encode_text(["a dog"])


def test_points_that_are_not_finite_are_refused(toy_bundle: Path, tmp_path: Path) -> None:
    def spoil(graph: Any) -> None:
        base = next(tensor for tensor in graph.initializer if tensor.name == "base")
        base.CopyFrom(onnx.numpy_helper.from_array(np.float32([1e6]), "base"))

    folder = respell(tmp_path / "bundle", toy_bundle, "text.onnx", spoil)
    with pytest.raises(InvalidVectorError, match=r"text items \[0, 1\]"):
        Encoder.load(folder).encode_text(["a dog", "a cat"])


class _Panic(BaseException):
    """As a panic of the tokenizer's Rust side arrives: no Exception."""


def test_a_tokenizer_that_panics_is_a_fault_of_its_bundle(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hysac_retrieval.encoder import tokenization

    def panics(*_: Any) -> None:
        raise _Panic("no entry found for key")

    encoder = Encoder.load(toy_bundle)
    monkeypatch.setattr(tokenization.Tokenizer, "from_file", panics)
    with pytest.raises(BundleFormatError, match="is not a tokenizer: no entry found for key"):
        _ = encoder.tokenizer
