"""Small encoders as other libraries keep them, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

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
