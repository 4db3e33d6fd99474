"""Sentence encoders as sentence-transformers keeps them: a transformer, pooling, and maybe what comes behind."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from hysac_export.fit.encoders import bert
from hysac_export.fit.encoders.base import EncoderGraphs, TextGraph
from hysac_export.fit.encoders.files import read_json, read_pooling, read_tokenizer
from hysac_export.fit.encoders.hub import fetch, installed, of_kind
from hysac_export.fit.encoders.nodes import Nodes, pool, rank, real, run_text, width
from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import EncoderError

_MODULES = "modules.json"
_GRAPH = "onnx/model.onnx"
_ACTIVATIONS = {"Identity": None, "Tanh": "Tanh"}


def sentence_graphs(model: str) -> EncoderGraphs:
    """Open a model: a folder, an installed package that carries one, or a name on the hub.

    Its ONNX graph is used if there is one; else one is written from its weights.

    Raises:
        EncoderError: There is none, or it has parts that are not understood.
        MissingExtraError: What its kind of transformer needs to be exported is not installed.
    """
    folder = _locate(model)
    parts, config = _parts(folder), read_json(folder / "config.json")
    pooling = read_pooling(folder / parts[1][1] / "config.json")
    tokenizer, spec = read_tokenizer(folder, config, _length(folder, config))
    if read_json(folder / "sentence_bert_config.json").get("do_lower_case"):
        own = tokenizer.normalizer
        tokenizer.normalizer = Lowercase() if own is None else NormalizerSequence([Lowercase(), own])
    nodes, hidden, which, dim = _transformer(folder, config, spec)
    vector = pool(nodes, hidden, which, pooling)
    for kind, path in parts[2:]:
        if kind == "Normalize":
            vector = nodes.add("LpNormalization", vector, axis=1, p=2)
        else:
            vector, dim = _dense(nodes, vector, folder / path)
    return EncoderGraphs(text=TextGraph(nodes.text_model(vector, dim), spec, tokenizer))


def _locate(model: str) -> Path:
    if (package := installed(model, _MODULES)) is not None:
        return package
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise EncoderError(f"there is no folder {model}")
    return fetch(model if "/" in model else f"sentence-transformers/{model}", _needed)


def _needed(names: Collection[str]) -> list[str]:
    """Choose all that describes a model, and its weights once."""
    graph = [name for name in names if name.startswith(_GRAPH)]  # and its data, beyond 2 GB
    weights = graph or of_kind([name for name in names if "/" not in name], ".safetensors", ".safetensors.index.json")
    dense = [name for name in names if name.count("/") == 1 and name.endswith("/model.safetensors")]
    described = [name for name in of_kind(names, ".json") if name.count("/") < 2 and not name.startswith("onnx/")]
    return sorted({*weights, *dense, *described})


def _parts(folder: Path) -> list[tuple[str, str]]:
    """Return kinds and folders of a model's modules: a transformer, pooling, and what is behind them."""
    path = folder / _MODULES
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EncoderError(f"{path} lists no modules of sentence-transformers: {error}") from error
    kinds = [kind for kind, _ in found]
    if kinds[:2] != ["Transformer", "Pooling"] or not {*kinds[2:]} <= {"Dense", "Normalize"}:
        expected = "Transformer, Pooling, and then only Dense and Normalize"
        raise EncoderError(f"{folder} is made of {', '.join(kinds) or 'nothing'}; expected {expected}")
    name = read_json(folder / "config_sentence_transformers.json").get("default_prompt_name")
    if name is not None:
        raise EncoderError(f"{folder} puts a prompt, {name!r}, before each text, which is not supported")
    return found


def _length(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the number of tokens that are read of a text."""
    limits = [
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        bert.longest(config) if bert.understands(config) else config.get("max_position_embeddings"),
    ]
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and limit < 2**15]
    if not known:
        raise EncoderError(f"{folder} does not say how many tokens it reads", hint="Add sentence_bert_config.json")
    return known[0] if limits[0] in known else min(known)


def _transformer(folder: Path, config: Mapping[str, Any], spec: TextSpec) -> tuple[Nodes, str, str, int]:
    """Return a graph, its last hidden state, which tokens are real, and the size of their vectors."""
    if (folder / _GRAPH).is_file():
        return _foreign(onnx.load(folder / _GRAPH), str(folder / _GRAPH), config, spec)
    weights = folder / "model.safetensors"
    if weights.is_file() and bert.understands(config):
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
