"""Bundles that were tampered with: every fault is a `BundleError` in words, found before a graph is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.toy_bundle import DIM, LENGTH

from hysac_retrieval.encoder import encoder as encoder_module
from hysac_retrieval.encoder.bundle import MANIFEST_NAME, Bundle, entry_of
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.graphs import expect_listed
from hysac_retrieval.errors import BundleError, BundleFormatError


@pytest.fixture
def folder(toy_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the toy bundle that a test may spoil."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Change the manifest as a JSON document, with the checksums of what now lies there."""
    document = json.loads((folder / MANIFEST_NAME).read_text())
    for name in document["files"]:
        document["files"][name] = entry_of(folder / name).model_dump()
    change(document)
    (folder / MANIFEST_NAME).write_text(json.dumps(document))


def external(location: str | None, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[DIM], data_location=TensorProto.EXTERNAL)
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    return tensor


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def nested(tensor: TensorProto, levels: int = 3) -> onnx.GraphProto:
    graph = helper.make_graph([constant(tensor)], "inner", [], [])
    for level in range(levels):
        inside = helper.make_node("If", ["b"], [f"o{level}"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([inside], f"level {level}", [], [])
    return graph


def model(graph: onnx.GraphProto, **parts: Any) -> onnx.ModelProto:
    return helper.make_model(graph, **parts)


def empty(**parts: Any) -> onnx.GraphProto:
    return helper.make_graph(parts.pop("nodes", []), "g", [], [], **parts)


def several(tensor: TensorProto) -> onnx.ModelProto:
    lists = helper.make_node("X", [], [], tensors=[numpy_helper.from_array(np.zeros(2), "z"), tensor])
    return model(empty(nodes=[lists]))


def sparse(tensor: TensorProto) -> onnx.ModelProto:
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    values = onnx.SparseTensorProto(values=tensor, indices=indices, dims=[DIM])
    return model(empty(sparse_initializer=[values]))


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    body = helper.make_function("own", "F", [], ["c"], [constant(tensor)], [helper.make_opsetid("", 17)])
    return model(empty(), functions=[body])


def in_training(tensor: TensorProto) -> onnx.ModelProto:
    made = model(empty())
    made.training_info.add().algorithm.CopyFrom(empty(initializer=[tensor]))
    return made


PLACES: dict[str, Callable[[TensorProto], onnx.ModelProto]] = {
    "initializer": lambda tensor: model(empty(initializer=[tensor])),
    "attribute": lambda tensor: model(empty(nodes=[constant(tensor)])),
    "branch": lambda tensor: model(nested(tensor)),
    "list": several,
    "sparse": sparse,
    "function": in_function,
    "training": in_training,
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_looked_for_wherever_a_tensor_can_be(tmp_path: Path, place: str) -> None:
    path = tmp_path / "g.onnx"
    for location in ("text.data", "./listed.data", "/etc/passwd", "../listed.data", "*/_ORT_MEM_ADDR_/*", "", None):
        path.write_bytes(PLACES[place](external(location)).SerializeToString())
        with pytest.raises(BundleFormatError, match="does not list"):
            expect_listed(path, ["listed.data"])
    path.write_bytes(PLACES[place](external("listed.data")).SerializeToString())
    expect_listed(path, ["listed.data"])
    path.write_bytes(PLACES[place](numpy_helper.from_array(np.zeros(DIM), "w")).SerializeToString())
    expect_listed(path, [])


def test_the_second_of_two_locations_counts_as_well(tmp_path: Path) -> None:
    tensor = external("listed.data")
    tensor.external_data.add(key="location", value="other.data")
    path = tmp_path / "g.onnx"
    path.write_bytes(PLACES["initializer"](tensor).SerializeToString())
    with pytest.raises(BundleFormatError, match=r"other\.data"):
        expect_listed(path, ["listed.data"])


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x3a\xff\xff\xff\xff\x7f", b"\x3b", b"\x38\x01", b"\xff" * 20, b"\x00\x00", b"PK\x03\x04"]
)
def test_what_is_no_graph_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "g.onnx").write_bytes(data)
    with pytest.raises(BundleFormatError, match=r"cannot load .*g\.onnx"):
        expect_listed(tmp_path / "g.onnx", [])


@pytest.mark.parametrize("listed", [True, False])
def test_external_weights_are_used_only_if_the_manifest_lists_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    plain = Encoder.load(folder).encode_text(["a dog"])
    graph = onnx.load(folder / "text.onnx")
    onnx.save_model(
        graph, str(folder / "text.onnx"), save_as_external_data=True, location="text.data", size_threshold=100
    )
    edit(
        folder,
        lambda d: d["files"].update({"text.data": entry_of(folder / "text.data").model_dump()} if listed else {}),
    )
    encoder = Encoder.load(folder, threads=1)
    if listed:
        assert np.array_equal(encoder.encode_text(["a dog"]), plain)
        return
    monkeypatch.setattr(encoder_module.DeviceOptions, "session", lambda *_: pytest.fail("a session was made"))
    with pytest.raises(BundleFormatError, match=r"text\.data.*does not list"):
        encoder.encode_text(["a dog"])


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            document = document[name]
        document[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dim", 10**9),
        ("dim", 0),
        ("curvature", 1e-300),
        ("curvature", 1e300),
        ("curvature", "NaN"),
        ("curvature", -1),
        ("text.context_length", 10**9),
        ("text.context_length", 2),
        ("text.pad_id", 2**70),
        ("text.pad_id", -1),
        ("text.end_id", 2**31),
        ("text.file", "text.ort"),
        ("image.file", "tokenizer.json"),
        ("image.size", 10**6),
        ("image.size", 0),
        ("image.std", [0, 1, 1]),
        ("image.std", [1, 1, -1]),
        ("image.mean", [1e300, 0, 0]),
        ("image.mean", [0, 0]),
        ("safety.text.slope", 1e-300),
        ("safety.text.slope", 1e300),
        ("safety.image.boundary", 1e300),
        ("safety.image.midpoint", 1e300),
        ("safety.text.safe.mean", -1),
        ("files", {}),
        ("files", {f"f{n}": {"size": 0, "sha256": "0" * 64} for n in range(1000)}),
        ("training", []),
        ("format_version", 2),
    ],
)
def test_numbers_of_a_manifest_are_bounded(folder: Path, path: str, value: Any) -> None:
    edit(folder, put(path, value))
    with pytest.raises(BundleFormatError, match=path.rpartition(".")[2]):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: b"[" * 200_000,
        lambda text: b'{"a":' * 200_000,
        lambda text: text.encode("utf-16"),
        lambda text: b"",
        lambda text: text.encode().replace(b'"curvature": 1.0', b'"curvature": NaN'),
        lambda text: text.encode().replace(b'"dim": 8', b'"dim": ' + b"9" * 5000),
        lambda text: text.encode().replace(b'"dim": 8', b'"dim": 9, "dim": 8'),
        lambda text: text.encode().replace(b'"size": 16', b'"size": 16, "size": 16'),
        lambda text: text.encode() + b" " * 2**24,
        lambda text: text.encode().replace(b'"name": "toy"', b'"name": "\\ud800"'),
        lambda text: text.encode().replace(b'"name": "toy"', b'"name": "\xff"'),
    ],
)
def test_a_manifest_that_is_no_plain_document_is_refused(folder: Path, spoil: Callable[[str], bytes]) -> None:
    text = json.dumps(json.loads((folder / MANIFEST_NAME).read_text()))
    assert spoil(text) != text.encode()
    (folder / MANIFEST_NAME).write_bytes(spoil(text))
    with pytest.raises(BundleFormatError, match="not a valid manifest"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"kind": "evil"},
        {"kind": "padded", "curvature": 2.0, "centroid": [0.0] * DIM, "norm": 1.0},
        {"kind": "padded", "curvature": 1.0, "centroid": [0.0] * (DIM + 1), "norm": 1.0},
        {"kind": "padded", "curvature": 1.0, "centroid": [1e308] * DIM, "norm": 1e308},
        {"kind": "padded", "curvature": 1.0, "centroid": [0.0] * DIM, "norm": []},
    ],
)
def test_a_lift_that_does_not_fit_the_model_is_refused(folder: Path, entries: dict[str, Any]) -> None:
    edit(folder, put("lift", entries))
    with pytest.raises(BundleFormatError, match="lift"):
        assert Encoder.load(folder).lift is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff",
        b"[" * 100_000,
        b'{"version":"1.0","model":null}',
        b'{"version":"1.0","model":{"type":"WordLevel","vocab":{},"unk_token":"x"}}',
        b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]}}',
    ],
)
def test_a_tokenizer_of_wrong_types_is_refused(folder: Path, data: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(data)
    edit(folder)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Encoder.load(folder).encode_text(["a dog"])


def test_ids_that_the_graph_does_not_have_are_the_bundles_fault(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    for word in list(vocabulary)[10:]:
        vocabulary[word] += 10**6
    (folder / "tokenizer.json").write_text(json.dumps(document))
    edit(folder)
    with pytest.raises(BundleFormatError):
        Encoder.load(folder).encode_text(["a dog"])
    edit(folder, put("text.pad_id", 10**9))
    with pytest.raises(BundleFormatError, match="padded"):
        Encoder.load(folder).encode_text(["a dog"])


def test_a_graph_that_fails_when_it_runs_is_the_bundles_fault(folder: Path) -> None:
    graph = onnx.load(folder / "text.onnx")
    huge = helper.make_node("ConstantOfShape", ["shape"], ["huge"])
    flat = helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0)
    last = next(node for node in graph.graph.node if node.output[0] == "point")
    last.output[0] = "small"
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2**42], np.int64), "shape"))
    graph.graph.node.extend([huge, flat, helper.make_node("Add", ["small", "sum"], ["point"])])
    onnx.save(graph, folder / "text.onnx")
    edit(folder)
    with pytest.raises(BundleFormatError, match=r"cannot be run|cannot load"):
        Encoder.load(folder).encode_tokens(np.zeros((1, LENGTH), np.int64))
