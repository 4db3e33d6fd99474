"""BERT and its kin as ONNX graphs, from their weights and without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_export.fit.encoders.nodes import Nodes, masked
from hysac_export.model.sentence import first_position
from hysac_retrieval.errors import EncoderError, MissingExtraError

Weights = Mapping[str, NDArray[Any]]


def read_weights(path: Path) -> Weights:
    """Read a safetensors file.

    Raises:
        MissingExtraError: The package safetensors is not installed.
        EncoderError: The file cannot be read.
    """
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingExtraError("safetensors", "fit", f"reading {path}") from error
    try:
        found: Weights = load_file(path)
    except Exception as error:  # the Rust side, and NumPy, which lacks bfloat16
        raise EncoderError(f"{path} cannot be read: {error}") from error
    return found


def bert(nodes: Nodes, config: Mapping[str, Any], weights: Weights, real: str) -> str:
    """Add a model, and return the name of its last hidden state, (batch, length, k) float32.

    Args:
        nodes: The graph, whose input is ``tokens``.
        config: Its transformers config, which `sentence.understands` is true for.
        weights: Its weights, by the names of transformers.
        real: Which tokens are no padding, see `nodes.real`.

    Raises:
        EncoderError: Weights are missing.
    """
    tower = _Tower(nodes, config, weights)
    hidden, bias = tower.embedded(), masked(nodes, real)
    for layer in range(int(config["num_hidden_layers"])):
        hidden = tower.layer(hidden, bias, f"encoder.layer.{layer}.")
    return hidden


class _Tower:
    def __init__(self, nodes: Nodes, config: Mapping[str, Any], weights: Weights) -> None:
        self.nodes, self.config = nodes, config
        first = "embeddings.word_embeddings.weight"
        # The bare model, or the one inside a model with a head, whose names begin with what it is.
        name = next((name for name in weights if name.endswith(first)), first)
        self.weights, self.prefix = weights, name.removesuffix(first)
        self.heads = int(config["num_attention_heads"])

    def weight(self, name: str) -> NDArray[np.float32]:
        if self.prefix + name not in self.weights:
            raise EncoderError(f"the weights hold no {self.prefix + name}, which the config asks for")
        return np.asarray(self.weights[self.prefix + name], dtype=np.float32)

    def embedded(self) -> str:
        nodes, start = self.nodes, first_position(self.config)
        # Texts are of one type, so that its vector goes into the positions.
        table = (
            self.weight("embeddings.position_embeddings.weight")
            + self.weight("embeddings.token_type_embeddings.weight")[:1]
        )
        length = nodes.add("Slice", nodes.add("Shape", "tokens"), np.array([1]), np.array([2]))
        places = nodes.add("Slice", table[start:], np.array([0]), length, np.array([0]))
        words = nodes.add("Gather", self.weight("embeddings.word_embeddings.weight"), "tokens")
        return self.normalized(nodes.add("Add", words, places), "embeddings.LayerNorm")

    def layer(self, hidden: str, bias: str, name: str) -> str:
        nodes = self.nodes
        attended = self.dense(self.attention(hidden, bias, f"{name}attention.self."), f"{name}attention.output.dense")
        hidden = self.normalized(nodes.add("Add", attended, hidden), f"{name}attention.output.LayerNorm")
        wide = nodes.add("Gelu", self.dense(hidden, f"{name}intermediate.dense"))
        return self.normalized(
            nodes.add("Add", self.dense(wide, f"{name}output.dense"), hidden), f"{name}output.LayerNorm"
        )

    def attention(self, hidden: str, bias: str, name: str) -> str:
        nodes = self.nodes
        query, key, value = (
            nodes.add("Transpose", nodes.add("Reshape", self.dense(hidden, name + part), split), perm=order)
            for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3]))
            for split in [np.array([0, 0, self.heads, -1])]
        )
        scale = np.float32(1 / math.sqrt(int(self.config["hidden_size"]) // self.heads))
        scores = nodes.add("Add", nodes.add("Mul", nodes.add("MatMul", query, key), scale), bias)
        found = nodes.add("MatMul", nodes.add("Softmax", scores, axis=-1), value)
        return nodes.add("Reshape", nodes.add("Transpose", found, perm=[0, 2, 1, 3]), np.array([0, 0, -1]))

    def dense(self, value: str, name: str) -> str:
        matrix = np.ascontiguousarray(self.weight(f"{name}.weight").T)
        return self.nodes.add("Add", self.nodes.add("MatMul", value, matrix), self.weight(f"{name}.bias"))

    def normalized(self, value: str, name: str) -> str:
        epsilon = float(self.config.get("layer_norm_eps", 1e-12))
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.nodes.add("LayerNormalization", value, scale, shift, axis=-1, epsilon=epsilon)
