"""The radial head as an ONNX graph, alone or behind the graph of an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hysac_export.fit.radial import CURVATURE, STEP, RadialHead

OPSET = 17
"""Version of the operators of a head alone; behind an encoder, of 13 or later, it has the encoder's."""
_PREFIX = "head."


def head_graph(head: RadialHead, *, opset: int = OPSET, ir_version: int = 8) -> ModelProto:
    """Return the graph from ``vector``, (batch, k) float32 of any length, to ``point``, (batch, k) float32.

    A vector of length zero gives a point that is not finite, and none at the origin, where everything counts as safe.
    """
    assert CURVATURE == 1.0  # sinh(√c r) / √c
    nodes, constants = _score(head)
    size = head.scorer.layers[0][0].shape[0]
    constants |= {
        "slope": 1 / STEP,
        "low": head.low / STEP,
        "zero": 0.0,
        "one": 1.0,
        "span": head.unsafe - head.safe,
        "safe": head.safe,
    }
    nodes = [
        helper.make_node("Mul", ["vector", "vector"], [_PREFIX + "squares"]),
        helper.make_node("ReduceSum", [_PREFIX + "squares", _PREFIX + "axis"], [_PREFIX + "square"], keepdims=1),
        helper.make_node("Sqrt", [_PREFIX + "square"], [_PREFIX + "length"]),
        helper.make_node("Div", ["vector", _PREFIX + "length"], [_PREFIX + "direction"]),
        *nodes,
        _node("Mul", "logit", "slope", "scaled"),
        _node("Sub", "scaled", "low", "rising"),
        helper.make_node("Clip", [_PREFIX + "rising", _PREFIX + "zero", _PREFIX + "one"], [_PREFIX + "rise"]),
        _node("Mul", "rise", "span", "above"),
        _node("Add", "above", "safe", "radius"),
        helper.make_node("Sinh", [_PREFIX + "radius"], [_PREFIX + "norm"]),
        helper.make_node("Mul", [_PREFIX + "norm", _PREFIX + "direction"], ["point"]),
    ]
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("point", TensorProto.FLOAT, ["batch", size])],
        [
            numpy_helper.from_array(np.array([1]), _PREFIX + "axis"),
            *(numpy_helper.from_array(np.float32(value), _PREFIX + name) for name, value in constants.items()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def behind(encoder: ModelProto, head: RadialHead) -> ModelProto:
    """Return the graph of an encoder, whose output is ``vector``, with the head behind it."""
    opset = next(entry.version for entry in encoder.opset_import if entry.domain in ("", "ai.onnx"))
    own = head_graph(head, opset=opset, ir_version=encoder.ir_version).graph
    # Not by onnx.compose, which checks what it has merged in memory, where no more than 2 GB can be checked.
    merged = ModelProto()
    merged.CopyFrom(encoder)
    graph = merged.graph
    graph.node.extend(own.node)
    graph.initializer.extend(own.initializer)
    graph.ClearField("output")
    graph.output.extend(own.output)
    return merged


def _score(head: RadialHead) -> tuple[list[NodeProto], dict[str, Any]]:
    """Nodes from ``direction`` to ``logit``, and their constants."""
    nodes, constants, name = list[NodeProto](), dict[str, Any](), "direction"
    for number, (weights, offset) in enumerate(head.scorer.layers):
        if number:
            nodes.append(helper.make_node("Relu", [_PREFIX + name], [_PREFIX + f"active{number}"]))
            name = f"active{number}"
        last = number == len(head.scorer.layers) - 1
        out = "logit" if last else f"layer{number}"
        constants |= {f"weights{number}": weights, f"offset{number}": offset}
        inputs = [_PREFIX + name, _PREFIX + f"weights{number}", _PREFIX + f"offset{number}"]
        nodes.append(helper.make_node("Gemm", inputs, [_PREFIX + out]))
        name = out
    return nodes, constants


def _node(kind: str, left: str, right: str, out: str) -> NodeProto:
    return helper.make_node(kind, [_PREFIX + left, _PREFIX + right], [_PREFIX + out])
