"""A small sentence encoder that knows the words of the scenes and of the policy `general`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from hysac_export.data.policy import read_policy
from hysac_export.data.scenes import caption, quadruplets
from support.encoders import SPECIAL, bert_config, sentence_folder, write


def small_encoder(folder: Path, *, length: int = 64, **changes: Any) -> Any:
    """Write a BERT with random weights in the layout of sentence-transformers; return the model of transformers."""
    rng = np.random.default_rng(0)
    texts = [caption(scene, rng) for q in quadruplets("train", 200) for scene in (q.safe, q.unsafe)]
    texts += [text for pair in read_policy("general").pairs("fit") for text in pair]
    split = BertPreTokenizer().pre_tokenize_str
    words = sorted({word for text in texts for word, _ in split(BertNormalizer().normalize_str(text))})
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=8)
    config = bert_config(vocab_size=len(vocabulary), max_position_embeddings=64, **changes)
    model = sentence_folder(folder, config, length=length)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {"pad_token": "[PAD]"})
    return model
