"""A model bundle of a few kilobytes, made without torch, whose points are easy to predict.

Curvature is 1. A text has radius 1, or 2 if it names something unsafe (`UNSAFE_WORDS`); an image has radius 1.5, or up
to 2.5 the redder it is. Directions come from fixed random projections of the words and of the pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from hysac_export.model.tokenizer import text_spec, train_tokenizer
from hysac_retrieval.encoder.bundle import Bundle, ImageSpec, Manifest, entry_of, write_manifest
from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile

DIM, SIZE, LENGTH = 8, 16, 8
UNSAFE_WORDS = ("gun", "knife", "blood")
WORDS = (*UNSAFE_WORDS, "a", "man", "woman", "dog", "cat", "with", "house", "red", "green", "blue", "the", "in", "park")


def profile() -> SafetyProfile:
    """The calibration that goes with the toy model's radii."""

    def modality(safe: float, unsafe: float) -> ModalityProfile:
        stats = [RadiusStats.of(mean + 0.05 * np.array([-1.0, 0.0, 1.0])) for mean in (safe, unsafe)]
        return ModalityProfile(
            safe=stats[0], unsafe=stats[1], slope=10.0, midpoint=(safe + unsafe) / 2, boundary=safe + 0.1
        )

    return SafetyProfile(text=modality(1.0, 2.0), image=modality(1.5, 2.5), threshold=0.5, source="toy")


def tokenizer() -> Tokenizer:
    """A tokenizer in which each of `WORDS` is one token."""
    return train_tokenizer([" ".join(WORDS)] * 3, 340)


def write_toy_bundle(folder: Path, **manifest: Any) -> Bundle:
    """Write the bundle into `folder`; keyword arguments replace fields of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizer()
    onnx.save(_image_graph(), folder / "image.onnx")
    onnx.save(_text_graph(words), folder / "text.onnx")
    words.save(str(folder / "tokenizer.json"))
    fields = {
        "name": "toy",
        "dim": DIM,
        "curvature": 1.0,
        "image": ImageSpec(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        "text": text_spec(words, LENGTH),
        "files": {path.name: entry_of(path) for path in folder.iterdir() if path.suffix in (".onnx", ".json")},
        "safety": profile(),
    }
    return write_manifest(folder, Manifest.model_validate(fields | manifest))


def _text_graph(words: Tokenizer) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    embedding = rng.normal(size=(words.get_vocab_size(), DIM)).astype(np.float32)
    embedding[words.token_to_id("<pad>")] = 0
    danger = np.zeros((words.get_vocab_size(), 1), dtype=np.float32)
    for word in UNSAFE_WORDS:
        danger[words.encode(word, add_special_tokens=False).ids] = 1
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "tokens"], ["vectors"]),
        node("ReduceSum", ["vectors", "one"], ["direction"], keepdims=0),
        node("Gather", ["danger", "tokens"], ["dangers"]),
        node("ReduceMax", ["dangers", "one"], ["excess"], keepdims=0),
        node("Add", ["excess", "base"], ["radius"]),
    ]
    constants = {"embedding": embedding, "danger": danger, "base": np.float32([1.0])}
    return _model(nodes, constants, ("tokens", TensorProto.INT64, ["batch", LENGTH]))


def _image_graph() -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    node = helper.make_node
    nodes = [
        node("Cast", ["pixels"], ["raw"], to=TensorProto.FLOAT),
        node("Div", ["raw", "white"], ["unit"]),
        node("Flatten", ["unit"], ["flat"]),
        node("MatMul", ["flat", "projection"], ["direction"]),
        node("ReduceMean", ["unit", "one_two"], ["colour"], keepdims=0),
        node("MatMul", ["colour", "redness"], ["red"]),
        node("Relu", ["red"], ["excess"]),
        node("Add", ["excess", "base"], ["radius"]),
    ]
    constants = {
        "white": np.float32(255.0),
        "projection": rng.normal(size=(SIZE * SIZE * 3, DIM)).astype(np.float32),
        "one_two": np.int64([1, 2]),
        "redness": np.float32([[1.0], [-0.5], [-0.5]]),
        "base": np.float32([1.5]),
    }
    return _model(nodes, constants, ("pixels", TensorProto.UINT8, ["batch", SIZE, SIZE, 3]))


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], source: tuple[str, int, list[Any]]
) -> onnx.ModelProto:
    """Finish a graph that has computed `direction`, (batch, DIM), and `radius`, (batch, 1): u sinh(r)."""
    node = helper.make_node
    nodes = [
        *nodes,
        node("ReduceL2", ["direction", "one"], ["length"], keepdims=1),
        node("Max", ["length", "tiny"], ["positive"]),
        node("Div", ["direction", "positive"], ["unit_vector"]),
        node("Sinh", ["radius"], ["norm"]),
        node("Mul", ["unit_vector", "norm"], ["point"]),
    ]
    constants = {**constants, "one": np.int64([1]), "tiny": np.float32(1e-6)}
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(*source)],
        [helper.make_tensor_value_info("point", TensorProto.FLOAT, ["batch", DIM])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model
