"""ONNX graphs of encoders, written operator by operator: whole ones, and what stands around those that exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, compose, helper, numpy_helper, version_converter

from hysac_export.bundle.graphs import OPSET
from hysac_export.model.files import Pooling
from hysac_retrieval.errors import EncoderError

_OLDEST, _CONVERTED = 13, 17
"""Version of the operators below which a graph is converted, as what is written here would not fit, and to which."""
_AXES_ARE_INPUTS = 18  # of ReduceMax
_IR = 8  # an older graph lists its weights among its inputs
_FOREIGN = "encoder/"
_MASKED = float(np.finfo(np.float32).min)
_FEEDS = ("input_ids", "attention_mask", "token_type_ids")


class Nodes:
    """Operators in the order in which they run, and their constants; around a graph of another library, if given.

    Attributes:
        inputs: The inputs of that graph, by the names that they had.
        outputs: Its outputs, likewise.
    """

    def __init__(self, proto: ModelProto | None = None) -> None:
        """Begin a graph; `proto` is used up.

        Raises:
            EncoderError: It is of a version that cannot be converted.
        """
        if proto is None:
            proto = helper.make_model(
                helper.make_graph([], "encoder", [], []), opset_imports=[helper.make_opsetid("", OPSET)]
            )
        self._proto = proto = _modern(proto)
        self.opset = _opset(proto)
        weights = {tensor.name for tensor in proto.graph.initializer}
        self.inputs = {value.name: value for value in proto.graph.input if value.name not in weights}
        self.outputs = {value.name: value for value in proto.graph.output}
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, kind: str, *inputs: str | NDArray[Any] | np.generic, **attributes: Any) -> str:
        """Add an operator on values, by name, and on constants; return the name of its output."""
        name = f"{kind.lower()}.{len(self.nodes)}"
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], name, **attributes))
        return name

    def _constant(self, values: NDArray[Any] | np.generic) -> str:
        name = f"constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def run(self, feeds: Mapping[str, str], output: str) -> str:
        """Let the other library's graph run on values, and return the name of one of its outputs, in float32."""
        compose.add_prefix(self._proto, _FOREIGN, inplace=True)
        for name, value in feeds.items():
            kind = self.inputs[name].type.tensor_type.elem_type
            self.nodes.append(helper.make_node("Cast", [value], [_FOREIGN + name], to=kind))
        self.nodes.extend(self._proto.graph.node)
        return self.add("Cast", _FOREIGN + output, to=TensorProto.FLOAT)

    def model(self, name: str, kind: int, shape: Sequence[str | int], vector: str, dim: int) -> ModelProto:
        """Return the graph from an input to ``vector``, (batch, `dim`) float32."""
        self.nodes.append(helper.make_node("Identity", [vector], ["vector"], "vector"))
        graph = self._proto.graph
        for field in ("node", "input", "output", "value_info"):
            graph.ClearField(field)
        graph.node.extend(self.nodes)
        graph.initializer.extend(self.constants)
        graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        graph.output.append(helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", dim]))
        return self._proto

    def text_model(self, vector: str, dim: int) -> ModelProto:
        """Return the graph from ``tokens``, (batch, length) int64, to ``vector``."""
        return self.model("tokens", TensorProto.INT64, ["batch", "length"], vector, dim)

    def image_model(self, size: int, vector: str, dim: int) -> ModelProto:
        """Return the graph from ``pixels``, (batch, `size`, `size`, 3) uint8, to ``vector``."""
        return self.model("pixels", TensorProto.UINT8, ["batch", size, size, 3], vector, dim)


def real(nodes: Nodes, end: int) -> str:
    """Tell which of ``tokens`` are no padding, (batch, length) bool: all up to the first end token.

    Not by the padding token, which may be the end token, as CLIP's is, or one that texts hold.
    """
    ends = nodes.add("Cast", nodes.add("Equal", "tokens", np.int64(end)), to=TensorProto.INT64)
    return nodes.add("Equal", nodes.add("CumSum", ends, np.int64(1), exclusive=1), np.int64(0))


def masked(nodes: Nodes, which: str) -> str:
    """Return what is added to attention, (batch, 1, 1, length) float32: nothing to `real` tokens."""
    return nodes.add("Where", nodes.add("Unsqueeze", which, np.array([1, 2])), np.float32(0), np.float32(_MASKED))


def pool(nodes: Nodes, hidden: str, which: str, pooling: Pooling) -> str:
    """Pool the vectors of `real` tokens, (batch, length, k), to one of a text, (batch, k)."""
    if pooling == "cls":
        return nodes.add("Gather", hidden, np.int64(0), axis=1)
    column = nodes.add("Unsqueeze", which, np.array([2]))
    if pooling == "max":
        seen = nodes.add("Where", column, hidden, np.float32(_MASKED))
        if nodes.opset < _AXES_ARE_INPUTS:
            return nodes.add("ReduceMax", seen, axes=[1], keepdims=0)
        return nodes.add("ReduceMax", seen, np.array([1]), keepdims=0)
    weights = nodes.add("Cast", column, to=TensorProto.FLOAT)
    total = nodes.add("ReduceSum", nodes.add("Mul", hidden, weights), np.array([1]), keepdims=0)
    return nodes.add("Div", total, nodes.add("ReduceSum", weights, np.array([1]), keepdims=0))


def run_text(nodes: Nodes, end: int, output: str, where: str) -> tuple[str, str]:
    """Let a text graph of another library read ``tokens``; return its output, and which tokens are real.

    Raises:
        EncoderError: It asks for more than tokens.
    """
    if strange := nodes.inputs.keys() - set(_FEEDS):
        raise EncoderError(f"{where} asks for {', '.join(sorted(strange))}; only {', '.join(_FEEDS)} are understood")
    which = real(nodes, end)
    makers: dict[str, Callable[[], str]] = {
        "input_ids": lambda: "tokens",
        "attention_mask": lambda: which,
        "token_type_ids": lambda: nodes.add("Sub", "tokens", "tokens"),
    }
    return nodes.run({name: makers[name]() for name in nodes.inputs}, output), which


def rank(value: ValueInfoProto) -> int:
    """Return the number of axes of an output; 0 if the graph does not say."""
    return len(value.type.tensor_type.shape.dim)


def width(value: ValueInfoProto, default: int = 0) -> int:
    """Return the length of the last axis of an output; `default` if the graph does not say."""
    return value.type.tensor_type.shape.dim[-1].dim_value or default


def _modern(proto: ModelProto) -> ModelProto:
    if _opset(proto) < _OLDEST:
        try:
            proto = version_converter.convert_version(proto, _CONVERTED)
        except Exception as error:  # the C++ side has no usable hierarchy
            message = f"ONNX cannot convert the graph's operators, of version {_opset(proto)}: {error}"
            raise EncoderError(message, hint="Export it again, with operators of version 13 or later") from error
    proto.ir_version = max(proto.ir_version, _IR)
    return proto


def _opset(proto: ModelProto) -> int:
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
