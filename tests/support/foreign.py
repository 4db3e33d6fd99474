"""An encoder that is none of ours, and a bundle that holds nothing but a head for its vectors.

The encoder gives each word a direction of its own and adds `DANGER` to a text that names something unsafe. The head, of
curvature 1, keeps the direction of a vector and sets the radius: 1 to 2 for texts and 1.5 to 2.5 for images, by the
cosine with `DANGER`, flat where that is clear. They are the radii of `toy_bundle.profile`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hysac_retrieval.encoder.bundle import Bundle, Manifest, Probe, VectorSpec, entry_of, write_manifest
from support.toy_bundle import UNSAFE_WORDS, profile

SIZE = 12
DANGER = np.eye(SIZE, dtype=np.float32)[0]
LOW, HIGH = 0.2, 0.4  # cosines below and above which it is clear
BASE = {"text": 1.0, "image": 1.5}
PROBES = ("a dog in the park", "a man with a gun", "a red house")


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode n texts, (n, SIZE) float32 of length 3."""
    return np.stack([3 * _vector(text) for text in texts])


def _vector(text: str) -> NDArray[np.float32]:
    words = text.lower().split()
    total = np.sum([np.random.default_rng(zlib.crc32(word.encode())).normal(size=SIZE) for word in words], axis=0)
    total[0] = 0
    unit = total / np.linalg.norm(total)
    if any(word in UNSAFE_WORDS for word in words):
        unit = (unit + DANGER) / np.sqrt(2)
    return np.asarray(unit, dtype=np.float32)


def write_head_bundle(folder: Path, *, heads: Sequence[str] = ("text", "image"), **manifest: Any) -> Bundle:
    """Write a bundle with heads only into `folder`; keyword arguments replace fields of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {modality: f"head-{modality}.onnx" for modality in heads}
    for modality, file in files.items():
        onnx.save(head_graph(BASE[modality]), folder / file)
    fields = {
        "name": "foreign",
        "dim": SIZE,
        "curvature": 1.0,
        "vectors": VectorSpec(size=SIZE, encoder="the encoder of the tests", probes=probes(), **files),
        "files": {file: entry_of(folder / file) for file in files.values()},
        "safety": profile(),
    }
    return write_manifest(folder, Manifest.model_validate(fields | manifest))


def probes() -> tuple[Probe, ...]:
    """What the encoder gives for some texts."""
    return tuple(Probe(text=text, vector=tuple(_vector(text).tolist())) for text in PROBES)


def head_graph(base: float) -> onnx.ModelProto:
    """A graph from `vector`, (batch, SIZE), to `point`: sinh(base + plateau(cosine with DANGER)) times the vector."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["vector", "danger"], ["cosine"]),
        node("Sub", ["cosine", "low"], ["above"]),
        node("Div", ["above", "width"], ["share"]),
        node("Clip", ["share", "zero", "full"], ["plateau"]),
        node("Add", ["plateau", "base"], ["radius"]),
        node("Sinh", ["radius"], ["norm"]),
        node("Mul", ["vector", "norm"], ["point"]),
    ]
    constants: dict[str, Any] = {
        "danger": DANGER[:, None],
        "low": np.float32(LOW),
        "width": np.float32(HIGH - LOW),
        "zero": np.float32(0),
        "full": np.float32(1),
        "base": np.float32(base),
    }
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", SIZE])],
        [helper.make_tensor_value_info("point", TensorProto.FLOAT, ["batch", SIZE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model
