"""Small encoders as other libraries keep them, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Metaspace
from tokenizers.processors import TemplateProcessing

from hysac_export.model.tokenizer import END, train_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "dog", "cat", "knife", "on", "the", "table", "night", "run", "##ning", "##s", "z", "##z", ".", "!", "x")
VOCABULARY = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
TEXTS = ["a dog", "The cat runs on the table.", "knife " * 9, "zzz unknown", "running dogs at night !"]


def word_pieces(folder: Path, length: int) -> None:
    """Write a WordPiece tokenizer that cuts and pads, as those on the hub do."""
    tokenizer = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {"model_max_length": length, "pad_token": "[PAD]"})


PIECES = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((f"\u2581{word}", -2.0) for word in WORDS[:9]), ("s", -3.0)]
"""The pieces of a small tokenizer of SigLIP's kind: no start token, an end token that pads as well."""


def unigram_pieces(folder: Path) -> None:
    """Write a tokenizer as SigLIP's is: pieces of words, the end token last, with which open_clip pads."""
    tokenizer = Tokenizer(Unigram(PIECES, unk_id=2))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | named)


def bert_config(kind: str = "bert", **changes: Any) -> dict[str, Any]:
    """The transformers config of a small model."""
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
    rest = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40, "pad_token_id": 0, "hidden_act": "gelu"}
    return {"model_type": kind, "type_vocab_size": 2, "layer_norm_eps": 1e-12} | sizes | rest | changes


def transformer(config: dict[str, Any], seed: int = 0) -> Any:
    """A model of transformers with random weights, large enough that each part of it matters."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    rest = {key: value for key, value in config.items() if key != "model_type"}
    model = AutoModel.from_config(AutoConfig.for_model(config["model_type"], **rest)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    return model


def sentence_folder(
    folder: Path,
    config: dict[str, Any],
    *,
    pooling: dict[str, Any] | None = None,
    parts: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    length: int | None = 16,
) -> Any:
    """Write a model in the layout of sentence-transformers, and return what is in it, a model of transformers."""
    model = transformer(config)
    model.save_pretrained(folder)
    write(folder / "config.json", config)
    word_pieces(folder, 512)
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(parts)
    ]
    write(folder / "modules.json", modules)
    write(
        folder / "1_Pooling" / "config.json",
        pooling or {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
    )
    if length is not None:
        write(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
    return model


def tokens_of(folder: Path, texts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and attention mask, as the tokenizers library by itself makes them, of all texts in one batch."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    found = tokenizer.encode_batch(texts)
    return np.array([e.ids for e in found]), np.array([e.attention_mask for e in found])


def states_of(model: Any, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Last hidden states, as transformers computes them."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask))[0].numpy()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def text_graph(folder: Path, *, opset: int = 17, pooled: bool = False, vocabulary: int = 400, dim: int = 12) -> None:
    """Write ``model.onnx``: vectors of tokens that know of each other, or of a text, from ids and attention mask."""
    rng = np.random.default_rng(opset)
    weights = {
        "table": rng.normal(size=(vocabulary, dim)),
        "mix": rng.normal(size=(dim, dim)),
        "low": np.array(-1e9),
        "one": np.array(1),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["seen", "column"], ["real"]),
        helper.make_node("Mul", ["words", "real"], ["kept"]),
        helper.make_node("CumSum", ["kept", "axis"], ["read"]),
        helper.make_node("MatMul", ["read", "mix"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["last_hidden_state"]),
        helper.make_node("Sub", ["real", "one"], ["missing"]),
        helper.make_node("Mul", ["missing", "low"], ["penalty"]),
        helper.make_node("Sub", ["last_hidden_state", "penalty"], ["open"]),
        helper.make_node("ReduceMax", ["open"], ["text_embeds"], axes=[1], keepdims=0),
    ]
    name, axes = ("text_embeds", ["batch", dim]) if pooled else ("last_hidden_state", ["batch", "length", dim])
    whole = [numpy_helper.from_array(np.array(v), n) for n, v in (("column", [0, -1, 1]), ("axis", 1))]
    _save(
        folder / "model.onnx",
        nodes if pooled else nodes[:7],
        [(name, TensorProto.INT64, ["batch", "length"]) for name in ("input_ids", "attention_mask")],
        (name, TensorProto.FLOAT, axes),
        [*(numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights.items()), *whole],
        opset,
    )


def with_a_vector_of_a_text(folder: Path) -> None:
    """Have ``model.onnx`` give, behind the vectors of tokens, the largest of them, of sizes that have names only."""
    model = onnx.load(folder / "model.onnx")
    graph, states = model.graph, model.graph.output[0].name
    column = numpy_helper.from_array(np.array([0, -1, 1]), "places")
    low = numpy_helper.from_array(np.array(-1e9, np.float32), "lowest")
    graph.initializer.extend([column, low])
    graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["marks"], to=TensorProto.BOOL),
            helper.make_node("Reshape", ["marks", "places"], ["shown"]),
            helper.make_node("Where", ["shown", states, "lowest"], ["left"]),
            helper.make_node("ReduceMax", ["left"], ["pooled"], axes=[1], keepdims=0),
        ]
    )
    graph.ClearField("output")
    for name, axes in ((states, ["batch", "length", "last"]), ("pooled", ["batch", "last"])):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, axes))
    onnx.save(model, folder / "model.onnx")
    write(folder / "config.json", {"pad_token_id": 0, "hidden_size": 12})


def image_graph(folder: Path, size: int, *, dim: int = 12) -> None:
    """Write ``model.onnx``, from pixels to a vector, and the preprocessing of CLIP."""
    rng = np.random.default_rng(0)
    weights = {"kernel": rng.normal(size=(4, 3, size // 2, size // 2)), "mix": rng.normal(size=(16, dim))}
    nodes = [
        helper.make_node("Conv", ["pixel_values", "kernel"], ["patches"], strides=[size // 2] * 2),
        helper.make_node("Flatten", ["patches"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mix"], ["image_embeds"]),
    ]
    _save(
        folder / "model.onnx",
        nodes,
        [("pixel_values", TensorProto.FLOAT, ["batch", 3, size, size])],
        ("image_embeds", TensorProto.FLOAT, ["batch", dim]),
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
        17,
    )
    write(folder / "preprocessor_config.json", preprocessing(size))


def preprocessing(side: int, /, **changes: Any) -> dict[str, Any]:
    """The preprocessor_config.json of a CLIP."""
    steps = dict.fromkeys(("do_resize", "do_center_crop", "do_normalize", "do_rescale", "do_convert_rgb"), True)
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "resample": 3}
    colours = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    return {"image_processor_type": "CLIPImageProcessor"} | steps | sizes | colours | changes


def clip_pieces(folder: Path, length: int) -> None:
    """Write a byte-pair tokenizer that pads with its end token, as CLIP's does."""
    tokenizer = train_tokenizer([" ".join(TEXTS)] * 3, 340)
    end = tokenizer.token_to_id(END)
    tokenizer.enable_padding(pad_id=end, pad_token=END)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {"model_max_length": length, "pad_token": END})
    write(folder / "config.json", {"pad_token_id": end})


def fast_text(folder: Path, *, opset: int = 17, pooling: str | None = None) -> Path:
    """Write a text model in the layout of fastembed; `pooling` where its graph does not."""
    folder.mkdir(parents=True, exist_ok=True)
    text_graph(folder, opset=opset, pooled=pooling is None)
    if pooling is None:
        clip_pieces(folder, 10)
    else:
        word_pieces(folder, 10)
        write(folder / "config.json", {"pad_token_id": 0})
        write(folder / "1_Pooling" / "config.json", {f"pooling_mode_{pooling}": True})
    return folder


def fast_image(folder: Path, size: int = 16) -> Path:
    """Write a model of pictures in the layout of fastembed."""
    folder.mkdir(parents=True, exist_ok=True)
    image_graph(folder, size)
    return folder


def _save(path: Path, nodes: Any, inputs: Any, output: Any, weights: Any, opset: int) -> None:
    values = [helper.make_tensor_value_info(*value) for value in (*inputs, output)]
    graph = helper.make_graph(nodes, "small", values[:-1], values[-1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    onnx.checker.check_model(model)
    onnx.save(model, path)
