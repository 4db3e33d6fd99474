"""ONNX graphs as files: tidied, with weights in half precision where that loses nothing, beyond 2 GB if need be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 20
"""Version of the ONNX operators: the first with Gelu; every version of ONNX Runtime that we take knows it."""
SINGLE_FILE = 2**31 - 2**24
"""Bytes of weights from which on they are kept in a file beside the graph: a protobuf message ends at 2 GiB."""
PRODUCTS = ("MatMul", "Gemm")
"""Operators that multiply by a matrix."""

_HALF_FROM = 1024  # arrays below this many elements are left in float32: nothing to gain
_EXTERNAL_FROM = 1024  # bytes; smaller tensors stay in the graph


def save_graph(proto: ModelProto, path: Path) -> None:
    """Write a graph and check it; large weights go into ``<file>.data`` beside it. `proto` may be changed."""
    if sum(len(tensor.raw_data) for tensor in proto.graph.initializer) < SINGLE_FILE:
        onnx.save(proto, path)
    else:
        data = path.with_name(f"{path.name}.data")
        data.unlink(missing_ok=True)  # it would be appended to
        onnx.save(
            proto,
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data.name,
            size_threshold=_EXTERNAL_FROM,
        )
    onnx.checker.check_model(str(path))


def load_graph(path: Path) -> ModelProto:
    """Read a graph with all its weights, each in float32 where it is stored in half precision."""
    proto = onnx.load(path)
    _restore_halves(proto)
    return proto


def strip(proto: ModelProto) -> None:
    """Remove what exporters note for debugging: stack traces, with the paths of this machine, and value types."""
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    graph.ClearField("value_info")


def store_halves(proto: ModelProto) -> None:
    """Store in half precision the weights that lose nothing by it; a Cast to float32 follows each.

    Exact by construction, so it may always run: only a model whose weights were rounded has such weights. ONNX Runtime
    folds the casts when it loads the graph.
    """
    graph = proto.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _HALF_FROM or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        half = values.astype(np.float16)
        if np.array_equal(half.astype(np.float32), values):
            stored = f"{tensor.name}.half"
            casts.append(helper.make_node("Cast", [stored], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(half, stored))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)


def _restore_halves(proto: ModelProto) -> None:
    """The reverse of `store_halves`."""
    graph = proto.graph
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    nodes: list[NodeProto] = []
    for node in graph.node:
        tensor = halves.get(node.input[0]) if node.op_type == "Cast" and node.input else None
        if tensor is None or node.attribute[0].i != TensorProto.FLOAT:
            nodes.append(node)
            continue
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), node.output[0]))
    graph.ClearField("node")
    graph.node.extend(nodes)


def tail(proto: ModelProto, output: str = "point") -> list[NodeProto]:
    """The last product on every way to the output, and all that comes after: final projection and exponential map."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    found: dict[str, NodeProto] = {}
    waiting = [makers[output]]
    while waiting:
        node = waiting.pop()
        if node.output[0] in found:
            continue
        found[node.output[0]] = node
        if node.op_type not in PRODUCTS:
            waiting += [makers[name] for name in node.input if name in makers]
    return list(found.values())
