"""Sentence encoders as graphs: a transformer, pooling, and maybe what comes behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from hysac_export.fit.encoders import bert
from hysac_export.fit.encoders.base import EncoderGraphs, TextGraph
from hysac_export.fit.encoders.nodes import Nodes, pool, rank, real, run_text, width
from hysac_export.model.files import read_json
from hysac_export.model.sentence import GRAPH, SentenceFolder, understands
from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import EncoderError

_ACTIVATIONS = {"Identity": None, "Tanh": "Tanh"}


def sentence_graphs(model: str) -> EncoderGraphs:
    """Open a model: a folder, an installed package that carries one, or a name on the hub.

    Its ONNX graph is used if there is one; else one is written from its weights.

    Raises:
        EncoderError: There is none, or it has parts that are not understood.
        MissingExtraError: What its kind of transformer needs to be exported is not installed.
    """
    found = SentenceFolder.open(model)
    nodes, hidden, which, dim = _transformer(found.path, found.config, found.spec)
    vector = pool(nodes, hidden, which, found.pooling)
    for kind, path in found.behind:
        if kind == "Normalize":
            vector = nodes.add("LpNormalization", vector, axis=1, p=2)
        else:
            vector, dim = _dense(nodes, vector, found.path / path)
    return EncoderGraphs(text=TextGraph(nodes.text_model(vector, dim), found.spec, found.tokenizer))


def _transformer(folder: Path, config: Mapping[str, Any], spec: TextSpec) -> tuple[Nodes, str, str, int]:
    """Return a graph, its last hidden state, which tokens are real, and the size of their vectors."""
    if (folder / GRAPH).is_file():
        return _foreign(onnx.load(folder / GRAPH), str(folder / GRAPH), config, spec)
    weights = folder / "model.safetensors"
    if weights.is_file() and understands(config):
        nodes = Nodes()
        which = real(nodes, spec.end_id)
        return nodes, bert.bert(nodes, config, bert.read_weights(weights), which), which, int(config["hidden_size"])
    from hysac_export.fit.encoders.transformer import exported

    return _foreign(exported(folder), str(folder), config, spec)


def _foreign(proto: ModelProto, where: str, config: Mapping[str, Any], spec: TextSpec) -> tuple[Nodes, str, str, int]:
    nodes = Nodes(proto)
    states = {name: value for name, value in nodes.outputs.items() if rank(value) == 3}
    if not states:
        raise EncoderError(f"{where} gives no vector of each token, which pooling needs; it gives {[*nodes.outputs]}")
    name, value = next(iter(states.items()))
    size = width(value, int(config.get("hidden_size", 0)))
    hidden, which = run_text(nodes, spec.end_id, name, where)
    return nodes, hidden, which, size


def _dense(nodes: Nodes, vector: str, folder: Path) -> tuple[str, int]:
    """Add a dense layer; return its output and its size."""
    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS:
        raise EncoderError(f"{folder} has the activation {activation}; expected one of {', '.join(_ACTIVATIONS)}")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise EncoderError(f"there is no {path}", hint="Save the model again with safe_serialization=True")
    weights = bert.read_weights(path)
    matrix = np.ascontiguousarray(np.asarray(weights["linear.weight"], np.float32).T)
    vector = nodes.add("MatMul", vector, matrix)
    if "linear.bias" in weights:
        vector = nodes.add("Add", vector, np.asarray(weights["linear.bias"], np.float32))
    kind = _ACTIVATIONS[activation]
    return (vector if kind is None else nodes.add(kind, vector)), matrix.shape[1]
