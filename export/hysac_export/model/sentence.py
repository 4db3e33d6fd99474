"""Sentence encoders as sentence-transformers keeps them, read as files: what they are made of, and how they read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from hysac_export.model.files import Pooling, read_json, read_pooling, read_tokenizer
from hysac_export.model.hub import fetch, installed, of_kind
from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import EncoderError

GRAPH = "onnx/model.onnx"
"""The graph that a model may have beside its weights."""
_MODULES = "modules.json"
_KIN = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}
"""Kinds of model; 1 for those whose positions begin behind the padding token's id."""
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


@dataclass(frozen=True)
class SentenceFolder:
    """A sentence encoder.

    Attributes:
        path: Where it is.
        config: Of its transformer, as transformers writes it.
        pooling: How the vectors of tokens become that of a text.
        behind: Kinds and folders of the modules that follow, only ``"Dense"`` and ``"Normalize"``.
        tokenizer: Neither cuts nor pads.
        spec: Length and ids of its tokens.
    """

    path: Path
    config: Mapping[str, Any]
    pooling: Pooling
    behind: tuple[tuple[str, str], ...]
    tokenizer: Tokenizer
    spec: TextSpec

    @classmethod
    def open(cls, model: str, *, graph: bool = True) -> Self:
        """Open a model: a folder, an installed package that carries one, or a name on the hub.

        Args:
            model: Its name.
            graph: Whether an ONNX graph does in place of the weights.

        Raises:
            EncoderError: There is none, or it has parts that are not understood.
        """
        folder = _locate(model, graph)
        parts, config = _parts(folder), read_json(folder / "config.json")
        tokenizer, spec = read_tokenizer(folder, config, _length(folder, config))
        if read_json(folder / "sentence_bert_config.json").get("do_lower_case"):
            own = tokenizer.normalizer
            tokenizer.normalizer = Lowercase() if own is None else NormalizerSequence([Lowercase(), own])
        pooling = read_pooling(folder / parts[1][1] / "config.json")
        return cls(folder, config, pooling, tuple(parts[2:]), tokenizer, spec)


def understands(config: Mapping[str, Any]) -> bool:
    """Whether a transformers config describes BERT or one of its kin, with nothing unusual."""
    return config.get("model_type") in _KIN and all(config.get(key, ok[0]) in ok for key, ok in _REQUIRED.items())


def first_position(config: Mapping[str, Any]) -> int:
    """Return the position of a text's first token in a model that `understands` is true for."""
    return int(config.get("pad_token_id", 1)) + 1 if _KIN[config["model_type"]] else 0


def _locate(model: str, graph: bool) -> Path:
    if (package := installed(model, _MODULES)) is not None:
        return package
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise EncoderError(f"there is no folder {model}")
    name = model if "/" in model else f"sentence-transformers/{model}"
    return fetch(name, partial(_needed, graph=graph))


def _needed(names: Collection[str], graph: bool) -> list[str]:
    """Choose all that describes a model, and its weights once."""
    graphs = [name for name in names if graph and name.startswith(GRAPH)]  # and its data, beyond 2 GB
    weights = graphs or of_kind([name for name in names if "/" not in name], ".safetensors", ".safetensors.index.json")
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
    places = config.get("max_position_embeddings")
    limits = [
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        int(places) - first_position(config) if places and understands(config) else places,
    ]
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and limit < 2**15]
    if not known:
        raise EncoderError(f"{folder} does not say how many tokens it reads", hint="Add sentence_bert_config.json")
    return known[0] if limits[0] in known else min(known)
