"""Bundles for serving: half precision for GPUs, int8 for CPUs, made of a bundle and measured against it.

Both leave the final projection and the exponential map in float32: a radius is what safety is judged by, and sinh
multiplies its errors. Weights of int8 have 7 bits, one scale for each column: processors without VNNI add up pairs of
8-bit products in 16 bits, which would overflow, so that a bundle would give other points on another machine. Tables of
words, which nothing is multiplied by, have 8 bits and a scale for each row.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hysac_export.bundle.graphs import PRODUCTS, SINGLE_FILE, load_graph, save_graph, store_halves, strip, tail
from hysac_export.bundle.place import building
from hysac_retrieval.encoder.bundle import Bundle, Manifest, entry_of, write_manifest
from hysac_retrieval.errors import SettingsError, TrainingError
from hysac_retrieval.types import Modality

Precision = Literal["fp32", "fp16", "int8"]
Inputs = Mapping[Modality, NDArray[Any]]
"""Inputs of the graphs: texts as token ids (n, L) int64, images as pixels (n, S, S, 3) uint8."""

_LARGEST, _MASKED = float(np.finfo(np.float16).max), -1e30
TABLE = 2**20
"""Numbers of a table of words from which on int8 bundles store it in int8."""
CALIBRATED_ON = 128
"""Inputs of each modality that static ranges are measured on, at most."""


def _kept(manifest: Manifest) -> list[str]:
    """Files that stay as they are: the tokenizer, and heads, which are small."""
    heads = (manifest.vectors.text, manifest.vectors.image) if manifest.vectors else ()
    return [file for file in (manifest.text and manifest.text.tokenizer, *heads) if file]


def compress_bundle(
    source: Bundle,
    out: str | Path,
    precision: Precision,
    *,
    inputs: Inputs | None = None,
    price: Callable[[Bundle], Mapping[str, Any]] | None = None,
    name: str | None = None,
    description: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle that computes the same in less.

    Args:
        source: A bundle that computes in float32.
        out: Folder to write.
        precision: ``"fp16"``: all but the end of each graph in half precision, for GPUs; ``"int8"``: products with
            weights in int8, for CPUs.
        inputs: Inputs whose ranges an int8 bundle keeps; default: those of every input, which is more accurate.
        price: Compares the new bundle with `source`, see `price.price`, for the manifest's ``verification``.
        name: Name of the model; default: the source's.
        description: Description of the model, likewise; the calibration is always the source's.
        overwrite: Replace a bundle that is at `out`.

    Raises:
        SettingsError: There is something at `out`, or the options do not fit each other.
        TrainingError: The source is compressed already, or has weights that half precision cannot hold.
    """
    _check_options(source, precision, inputs)
    out, manifest = Path(out), source.manifest
    verification: dict[str, Any] = {
        "precision": precision,
        "from": {"fingerprint": source.fingerprint, "verification": manifest.verification},
        "versions": {package: version(package) for package in ("onnx", "onnxruntime")},
    }
    if precision == "int8":
        counts = {modality: len(rows) for modality, rows in (inputs or {}).items()}
        verification |= {"activations": "static" if inputs else "dynamic", "ranges_from": counts}
    with building(out, overwrite) as folder:
        for modality, file in _graphs(source).items():
            proto, work = load_graph(source.file(file)), folder / "work"
            rows = None if inputs is None else inputs[modality]
            made = half_precision(proto, work) if precision == "fp16" else quantized(proto, work, rows)
            strip(made)
            save_graph(made, folder / file)
        for kept in _kept(manifest):
            shutil.copy(source.file(kept), folder / kept)
        changes = {
            "name": name or manifest.name,
            "description": manifest.description if description is None else description,
            "files": {path.name: entry_of(path) for path in sorted(folder.iterdir())},
            "metrics": {},  # those of the source are not its own
            "verification": verification,
        }
        bundle = write_manifest(folder, manifest.model_copy(update=changes))
        if price is not None:
            measured = bundle.manifest.model_copy(update={"verification": verification | {"price": price(bundle)}})
            write_manifest(folder, measured)
    return Bundle.load(out)


def _graphs(source: Bundle) -> dict[Modality, str]:
    specs: dict[Modality, Any] = {"text": source.manifest.text, "image": source.manifest.image}
    return {modality: spec.file for modality, spec in specs.items() if spec is not None}


def _check_options(source: Bundle, precision: Precision, inputs: Inputs | None) -> None:
    if precision not in ("fp16", "int8"):
        raise SettingsError(f"precision is {precision!r}; expected 'fp16' or 'int8'")
    if inputs is not None and precision != "int8":
        raise SettingsError("only int8 has ranges of activations to be fixed", hint="Leave out the inputs")
    graphs = _graphs(source)
    if not graphs:
        raise SettingsError(f"{source.path} holds no encoder, only a head", hint="A head is small: use it as it is")
    for modality in graphs:
        if inputs is not None and modality not in inputs:
            raise SettingsError(f"there are no {modality}s to measure ranges on", hint="Give samples of both kinds")
    known = source.manifest.verification.get("precision", "fp32")
    if known != "fp32":
        raise TrainingError(f"{source.path} is compressed to {known} already", hint="Give the one that it was made of")


def half_precision(proto: ModelProto, work: Path) -> ModelProto:
    """A graph in half precision, but for its inputs, its output and its end; `work` is made and removed again."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        # Masks hold −∞, or the lowest number there is; the lowest of float16 does the same.
        if tensor.data_type == TensorProto.FLOAT and np.abs(values[values > _MASKED]).max(initial=0) > _LARGEST:
            raise TrainingError(f"{tensor.name} has weights beyond ±65504, too large for fp16", hint="Use fp32")
    kept = [node.name for node in tail(proto)]
    work.mkdir()
    try:
        # Types are inferred from file to file: in memory, a graph beyond 2 GB could not be handed over.
        save_graph(proto, work / "source.onnx")
        onnx.shape_inference.infer_shapes_path(str(work / "source.onnx"), str(work / "typed.onnx"))
        typed = onnx.load(work / "typed.onnx")
    finally:
        shutil.rmtree(work)
    made: ModelProto = convert_float_to_float16(
        typed, keep_io_types=True, node_block_list=kept, disable_shape_infer=True
    )
    graph = OnnxModel(made)
    # The converter casts around every node that is kept, also between two of them, which would round what was to be
    # kept, and puts its casts at the end.
    graph.remove_cascaded_cast_nodes()
    graph.remove_useless_cast_nodes()
    graph.topological_sort()
    return made


def quantized(proto: ModelProto, work: Path, inputs: NDArray[Any] | None = None) -> ModelProto:
    """A graph whose products with weights are made in int8, but for the last ones; see `compress_bundle`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    kept = [node.name for node in tail(proto) if node.op_type in PRODUCTS]
    source, target = work / "source.onnx", work / "quantized.onnx"
    large = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) >= SINGLE_FILE
    options: dict[str, Any] = {
        "op_types_to_quantize": list(PRODUCTS),
        "nodes_to_exclude": kept,
        "per_channel": True,
        "reduce_range": True,
        "weight_type": QuantType.QInt8,
        "use_external_data_format": large,
        "extra_options": {"MatMulConstBOnly": True},
    }
    work.mkdir()
    try:
        name = proto.graph.input[0].name
        save_graph(proto, source)
        with _without_advice():
            if inputs is None:
                quantize_dynamic(source, target, **options)
            else:
                quantize_static(source, target, _reader(name, inputs), activation_type=QuantType.QUInt8, **options)
        made = onnx.load(target)
    finally:
        shutil.rmtree(work)
    store_tables(made)
    store_halves(made)
    return made


def store_tables(proto: ModelProto) -> None:
    """Store the large tables that rows are looked up in, in place, in int8, with a scale for each row."""
    graph = proto.graph
    uses = Counter(name for node in graph.node for name in node.input)
    floats = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]
    tables = {tensor.name: tensor for tensor in floats if uses[tensor.name] == 1}
    nodes: list[NodeProto] = []
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        values = None if table is None else numpy_helper.to_array(table)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if table is None or values is None or values.ndim != 2 or values.size < TABLE or axis != 0:
            nodes.append(node)
            continue
        name, scales = node.output[0], np.maximum(np.abs(values).max(1, keepdims=True), 1e-12) / 127
        packed = np.round(values / scales).astype(np.int8)
        table.CopyFrom(numpy_helper.from_array(packed, f"{name}.packed"))
        graph.initializer.append(numpy_helper.from_array(scales.astype(np.float32), f"{name}.scales"))
        nodes += [
            helper.make_node("Gather", [f"{name}.packed", node.input[1]], [f"{name}.rows"], axis=0),
            helper.make_node("Gather", [f"{name}.scales", node.input[1]], [f"{name}.scale"], axis=0),
            helper.make_node("Cast", [f"{name}.rows"], [f"{name}.cast"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]),
        ]
    graph.ClearField("node")
    graph.node.extend(nodes)


def _reader(name: str, inputs: NDArray[Any], batch: int = 8) -> Any:
    """Reader of inputs for `quantize_static`."""
    from onnxruntime.quantization import CalibrationDataReader

    chosen = inputs[:: max(1, len(inputs) // CALIBRATED_ON)][:CALIBRATED_ON]
    batches = iter([np.ascontiguousarray(chosen[start : start + batch]) for start in range(0, len(chosen), batch)])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[Any]] | None:
            part = next(batches, None)
            return None if part is None else {name: part}

    return Reader()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the quantizer, which advises through the root logger; nothing of that concerns these graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
