"""Compressed bundles: what is compressed and what is not, what it costs, and weights in files of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.onnx_model import OnnxModel
from support import toy_bundle

from hysac_export.bundle import graphs
from hysac_export.bundle.compress import compress_bundle
from hysac_export.bundle.graphs import load_graph, save_graph, store_halves, tail
from hysac_export.bundle.price import Probes, caution, price, sample_probes
from hysac_export.config import TrainConfig
from hysac_retrieval import lorentz
from hysac_retrieval.cli import main
from hysac_retrieval.encoder.bundle import Bundle, entry_of, write_manifest
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import ChecksumError, SettingsError, TrainingError

THINGS = ("dog", "cat", "house", "man", "woman")
PRICED = ("kept_at_10", "radius", "auc", "changed", "missed")


def insert(path: Path, before: str, sizes: tuple[int, ...]) -> None:
    """Put products with random rotations between a value and whoever takes it."""
    proto = onnx.load(path)
    rng = np.random.default_rng(3)
    name = before
    for number, size in enumerate(sizes):
        rotation = np.linalg.qr(rng.normal(size=(size, size)))[0].astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(rotation, f"rotation{number}"))
        made = f"rotated{number}"
        for node in proto.graph.node:
            for i, taken in enumerate(node.input):
                if taken == name:
                    node.input[i] = made
        proto.graph.node.append(helper.make_node("MatMul", [name, f"rotation{number}"], [made], name=f"turn{number}"))
        name = made
    for number, node in enumerate(proto.graph.node):
        node.name = node.name or f"node{number}"
    OnnxModel(proto).topological_sort()
    onnx.save(proto, path)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The toy bundle with a product that can be compressed in each graph, and one after it that must not be."""
    folder = tmp_path_factory.mktemp("source") / "bundle"
    bundle = toy_bundle.write_toy_bundle(folder)
    insert(folder / "image.onnx", "flat", (768,))
    insert(folder / "text.onnx", "direction", (8, 8))
    files = {name: entry_of(folder / name) for name in bundle.manifest.files}
    return write_manifest(folder, bundle.manifest.model_copy(update={"files": files}))


@pytest.fixture(scope="module")
def probes(source: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Probes:
    root = tmp_path_factory.mktemp("samples")
    return sample_probes(Encoder(source, device="cpu", threads=1), *write_samples(root))


def write_samples(root: Path) -> tuple[list[Path], list[Path]]:
    """Texts, and pictures of random patches, redder where they are unsafe."""
    from PIL import Image

    rng = np.random.default_rng(0)
    sides: tuple[list[Path], list[Path]] = ([], [])
    for side, unsafe in zip(sides, (False, True), strict=True):
        kind = "unsafe" if unsafe else "safe"
        words = ("gun", "knife", "blood") if unsafe else THINGS
        texts = root / f"{kind}.txt"
        texts.write_text("\n".join(f"a {a} with a {b}" for a in THINGS for b in words) + "\n", encoding="utf-8")
        folder = root / kind
        folder.mkdir()
        for number in range(40):
            patches = rng.integers(0, 120, (4, 4, 3))
            patches[..., 0] += 120 * unsafe
            Image.fromarray(patches.astype(np.uint8)).resize((16, 16)).save(folder / f"{number:02}.png")
        side += [texts, folder]
    return sides


def weights_of(bundle: Bundle, file: str) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(bundle.file(file)).graph.initializer}


def test_int8_compresses_products_but_for_the_last_ones(source: Bundle, probes: Probes, tmp_path: Path) -> None:
    made = compress_bundle(source, tmp_path / "int8", "int8", name="toy-int8")
    for file, turned, kept in (("image.onnx", "rotation0", "projection"), ("text.onnx", "rotation0", "rotation1")):
        weights = weights_of(made, file)
        assert weights[kept].dtype == np.float32
        assert turned not in weights
        packed = weights[f"{turned}_quantized"]
        # Seven bits, so that two products of eight bits add up in sixteen without overflow on every processor.
        assert packed.dtype == np.int8
        assert 60 <= np.abs(packed.astype(int)).max() <= 64
        assert weights[f"{turned}_scale"].shape == packed.shape[1:]
    assert made.manifest.verification["activations"] == "dynamic"
    assert made.manifest.name == "toy-int8"
    assert made.manifest.safety == source.manifest.safety
    assert made.manifest.verification["from"]["fingerprint"] == source.fingerprint != made.fingerprint
    assert made.manifest.files["image.onnx"].size < 0.4 * source.manifest.files["image.onnx"].size
    expected, found = (Encoder(b, device="cpu", threads=1) for b in (source, made))
    pixels = probes.inputs["safe_image"]
    error = lorentz.dist(found.encode_image(pixels), expected.encode_image(pixels), 1.0)
    assert 0 < error.max() < 0.2


def test_static_int8_fixes_the_ranges_on_inputs(source: Bundle, probes: Probes, tmp_path: Path) -> None:
    ranges, rest = probes.split()
    assert {modality: len(rows) for modality, rows in ranges.items()} == {"text": 6 + 3, "image": 20}
    assert len(rest.inputs["safe_image"]) == 30
    made = compress_bundle(source, tmp_path / "static", "int8", inputs=ranges)
    found = {node.op_type for node in onnx.load(made.file("image.onnx")).graph.node}
    assert "QuantizeLinear" in found
    assert "DynamicQuantizeLinear" not in found
    assert made.manifest.verification["activations"] == "static"
    assert made.manifest.verification["ranges_from"] == {"text": 9, "image": 20}
    result = price(Encoder(source), Encoder(made), rest)
    assert result["radius"]["image"]["max"] < 0.05


def test_static_ranges_need_two_inputs_of_each_kind(probes: Probes) -> None:
    one = Probes({group: rows[:1] for group, rows in probes.inputs.items()}, False, "one of each")
    with pytest.raises(SettingsError, match="at least 2 of each kind"):
        one.split()


def test_half_precision_keeps_inputs_output_and_end(source: Bundle, probes: Probes, tmp_path: Path) -> None:
    made = compress_bundle(source, tmp_path / "half", "fp16")
    weights = weights_of(made, "image.onnx")
    assert weights["rotation0"].dtype == np.float16
    assert weights["projection"].dtype == np.float32
    graph = onnx.load(made.file("image.onnx")).graph
    makers = {name: node for node in graph.node for name in node.output}
    for kind in ("Sinh", "Div", "ReduceL2"):
        last = [node for node in graph.node if node.op_type == kind][-1]
        assert makers[last.input[0]].op_type != "Cast"
    assert makers["point"].op_type == "Mul"
    result = price(Encoder(source), Encoder(made), probes)
    assert 0 < result["radius"]["image"]["max"] < 5e-4
    assert result["kept_at_10"]["image"] > 0.95


def test_weights_beyond_half_precision_are_refused(source: Bundle, tmp_path: Path) -> None:
    def spoil(folder: Path, value: float) -> Bundle:
        bundle = toy_bundle.write_toy_bundle(folder)
        proto = onnx.load(folder / "image.onnx")
        spoilt = numpy_helper.from_array(np.float32([[value], [-0.5], [-0.5]]), "redness")
        next(t for t in proto.graph.initializer if t.name == "redness").CopyFrom(spoilt)
        for number, node in enumerate(proto.graph.node):
            node.name = f"node{number}"
        onnx.save(proto, folder / "image.onnx")
        files = bundle.manifest.files | {"image.onnx": entry_of(folder / "image.onnx")}
        return write_manifest(folder, bundle.manifest.model_copy(update={"files": files}))

    with pytest.raises(TrainingError, match="redness"):
        compress_bundle(spoil(tmp_path / "a", 1e5), tmp_path / "half", "fp16")
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_large_weights_are_kept_beside_the_graph(
    source: Bundle, probes: Probes, tmp_path: Path, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = compress_bundle(source, tmp_path / "small", precision)
    for module in ("hysac_export.bundle.graphs", "hysac_export.bundle.compress"):
        monkeypatch.setattr(f"{module}.SINGLE_FILE", 1000)
    large = compress_bundle(source, tmp_path / "large", precision)
    assert set(large.manifest.files) - set(small.manifest.files) == {"image.onnx.data", "text.onnx.data"}
    assert large.manifest.files["image.onnx"].size < 20_000 < large.manifest.files["image.onnx.data"].size
    pixels = probes.inputs["unsafe_image"]
    one, other = (Encoder(bundle, device="cpu", threads=1).encode_image(pixels) for bundle in (small, large))
    np.testing.assert_array_equal(one, other)
    data = large.path / "image.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ChecksumError, match=r"image\.onnx\.data"):
        Bundle.load(large.path)


def test_a_graph_of_any_size_is_read_back_as_it_was(
    source: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = load_graph(source.file("image.onnx"))
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    monkeypatch.setattr(graphs, "SINGLE_FILE", 1000)
    (tmp_path / "image.onnx.data").write_bytes(b"what was there before")
    save_graph(proto, tmp_path / "image.onnx")
    assert (tmp_path / "image.onnx").stat().st_size < 10_000
    after = {t.name: numpy_helper.to_array(t) for t in load_graph(tmp_path / "image.onnx").graph.initializer}
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


def test_weights_stored_in_halves_are_read_back_in_float32(source: Bundle, tmp_path: Path) -> None:
    proto = load_graph(source.file("image.onnx"))
    rotation = next(tensor for tensor in proto.graph.initializer if tensor.name == "rotation0")
    rounded = numpy_helper.to_array(rotation).astype(np.float16).astype(np.float32)
    rotation.CopyFrom(numpy_helper.from_array(rounded, "rotation0"))
    store_halves(proto)
    save_graph(proto, tmp_path / "image.onnx")
    assert (tmp_path / "image.onnx").stat().st_size < 0.6 * source.file("image.onnx").stat().st_size
    read = load_graph(tmp_path / "image.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in read.graph.initializer}
    np.testing.assert_array_equal(weights["rotation0"], rounded)
    assert weights["rotation0"].dtype == np.float32
    assert len(read.graph.node) == len(load_graph(source.file("image.onnx")).graph.node)


def test_the_tail_is_the_last_product_of_each_way_and_what_follows() -> None:
    def node(kind: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=output)

    nodes = [
        node("MatMul", ["x", "a"], "hidden"),
        node("Relu", ["hidden"], "active"),
        node("MatMul", ["active", "b"], "projected"),
        node("Gemm", ["projected", "c"], "head"),
        node("Add", ["projected", "head"], "sum"),
        node("Sinh", ["sum"], "point"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1])], [value("point", TensorProto.FLOAT, [1])]
    )
    found = {each.name for each in tail(helper.make_model(graph))}
    assert found == {"point", "sum", "projected", "head"}


def test_what_cannot_be_compressed_is_refused_and_nothing_is_left(source: Bundle, tmp_path: Path) -> None:
    made = compress_bundle(source, tmp_path / "int8", "int8")
    with pytest.raises(TrainingError, match="compressed to int8 already"):
        compress_bundle(made, tmp_path / "again", "fp16")
    with pytest.raises(SettingsError, match="already"):
        compress_bundle(source, tmp_path / "int8", "int8")
    with pytest.raises(SettingsError, match="precision"):
        compress_bundle(source, tmp_path / "again", "int4")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="only int8"):
        compress_bundle(source, tmp_path / "again", "fp16", inputs={})

    def fail(bundle: Bundle) -> Mapping[str, Any]:
        raise SettingsError(f"no price for {bundle.manifest.name}")

    with pytest.raises(SettingsError, match="no price"):
        compress_bundle(source, tmp_path / "again", "int8", price=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]


class Moved:
    """An encoder whose images of one group are moved outwards, and two of whose texts have changed places."""

    def __init__(self, encoder: Encoder, stretch: float) -> None:
        self._encoder, self._stretch = encoder, stretch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_image(self, rows: Any, batch_size: int) -> Any:
        points = self._encoder.encode_image(rows, batch_size=batch_size)
        radius = lorentz.dist0(points.astype(np.float64), 1.0)
        return points * (np.sinh(radius * self._stretch) / np.sinh(radius))[:, None]


def test_the_price_of_nothing_is_nothing_and_that_of_a_stretch_is_the_stretch(source: Bundle, probes: Probes) -> None:
    encoder = Encoder(source, device="cpu", threads=1)
    done: list[int] = []
    free = price(encoder, encoder, probes, done.append)
    assert sum(done) == 2 * sum(len(rows) for rows in probes.inputs.values())
    assert free["kept_at_10"] == {"text": 1.0, "image": 1.0}
    assert free["radius"] == {"text": {"mean": 0.0, "max": 0.0}, "image": {"mean": 0.0, "max": 0.0}}
    assert free["changed"] == {"text": 0.0, "image": 0.0}
    assert "recall_at_10" not in free
    moved: Any = Moved(encoder, 1.25)
    found = price(encoder, moved, probes)
    assert found["radius"]["text"]["max"] == 0.0
    assert found["radius"]["image"] == {"mean": pytest.approx(0.25), "max": pytest.approx(0.25)}
    assert found["auc"]["image"] == [pytest.approx(free["auc"]["image"][0])] * 2  # the order of radii is the same
    radii = {
        group: lorentz.dist0(encoder.encode_image(probes.inputs[group]).astype(np.float64), 1.0)
        for group in ("safe_image", "unsafe_image")
    }
    every = np.concatenate([radii["safe_image"], radii["unsafe_image"]])
    assert found["changed"]["image"] == pytest.approx(((every <= 2) & (1.25 * every > 2)).mean())
    missed = [(radii["unsafe_image"] * by <= 2).mean() for by in (1.0, 1.25)]
    assert found["missed"]["image"] == pytest.approx(missed)


def test_recall_counts_partners_among_the_ten_nearest(source: Bundle, probes: Probes) -> None:
    encoder = Encoder(source, device="cpu", threads=1)
    some: dict[Any, np.ndarray] = {group: rows[:14] for group, rows in probes.inputs.items()}
    found = price(encoder, encoder, Probes(some, True, "pairs"))["recall_at_10"]["text to image"]
    texts, images = (
        np.concatenate([getattr(encoder, encode)(some[f"{side}_{kind}"]) for side in ("safe", "unsafe")])
        for kind, encode in (("text", "encode_tokens"), ("image", "encode_image"))
    )
    distances = lorentz.pairwise_dist(texts.astype(np.float64), images.astype(np.float64), 1.0)
    expected = np.mean([row in np.argsort(distances[row])[:10] for row in range(28)])
    assert found == [pytest.approx(expected)] * 2
    assert 0 < expected < 1


def hysac(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_prints_the_price_and_puts_it_into_the_manifest(source: Bundle, tmp_path: Path) -> None:
    safe, unsafe = write_samples(tmp_path)
    samples = [part for name, given in (("--safe", safe), ("--unsafe", unsafe)) for p in given for part in (name, p)]
    result = hysac("export", source.path, "--out", tmp_path / "int8", "--precision", "int8", *samples)
    assert result.exit_code == 0, result.output
    for words in ("ten nearest kept, image queries", "AUC, text", "unsafe that counts as safe, image", "toy"):
        assert words in result.stdout
    found = Bundle.load(tmp_path / "int8").manifest.verification["price"]
    assert found["on"] == "120 samples"
    assert set(found) == {"on", *PRICED}
    other = hysac("export", source.path, "--out", tmp_path / "s", "--precision", "int8", "--static", *samples, "--json")
    assert other.exit_code == 0, other.output
    assert json.loads(other.stdout)["verification"]["ranges_from"] == {"text": 9, "image": 20}


def test_a_bundle_whose_own_validation_is_gone_needs_samples(tmp_path: Path) -> None:
    config = TrainConfig.model_validate({"data": {"train": str(tmp_path / "gone.jsonl")}})
    bundle = toy_bundle.write_toy_bundle(tmp_path / "toy", training={"config": config.model_dump(mode="json")})
    result = hysac("export", bundle.path, "--out", tmp_path / "int8", "--precision", "int8")
    assert result.exit_code == 2
    assert "gone.jsonl" in result.stderr
    assert "--safe and --unsafe" in " ".join(result.stderr.split())


FREE: dict[str, Any] = {
    "on": "1000 quadruplets",
    "kept_at_10": {"text": 0.98, "image": 0.98},
    "radius": {},
    "auc": {},
    "changed": {"text": 0.0, "image": 0.0},
    "missed": {"text": [0.02, 0.021], "image": [0.02, 0.02]},
}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({}, ""),
        ({"recall_at_10": {"text to image": [0.9, 0.89]}}, "int8 loses 1.00% of recall or AUC"),
        ({"missed": {"text": [0.02, 0.05], "image": [0.02, 0.02]}}, "int8 lets 3.00% more of what is unsafe"),
        ({"kept_at_10": {"text": 0.98, "image": 0.85}}, "int8 exchanges 15.00% of the ten nearest"),
    ],
)
def test_a_price_that_is_too_high_is_a_caution(found: dict[str, Any], says: str) -> None:
    said = caution({"precision": "int8", "price": FREE | found})
    assert bool(said) == bool(says)
    assert says in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "is a bundle already"),
        (("--precision", "fp16", "--static"), "--static with int8"),
        (("--safe", "x"), "go with a compressed"),
        (("--precision", "int8", "--licence", "MIT"), "go with a run"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(
    source: Bundle, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = hysac("export", source.path, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
