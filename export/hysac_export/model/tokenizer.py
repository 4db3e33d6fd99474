"""A small tokenizer: lower-casing byte-level BPE.

Bytes are the alphabet, so every text can be encoded and there is no unknown token. Words and punctuation marks are
separated first and each is given a leading space, so that "dog", "a dog" and "dog," share one token.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFKC, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import TrainingError

PAD, START, END = "<pad>", "<start>", "<end>"
SPECIAL_TOKENS = (PAD, START, END)
_SMALLEST = 256 + 3  # all bytes and the three special tokens


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> Tokenizer:
    """Learn a tokenizer from captions, of `vocab_size` tokens at most, special tokens and the 256 bytes included.

    The padding token has id 0 and the end token the highest id of all, so that a text tower which pools "at the largest
    id" (as CLIP's do) pools there (`TrainingError`: there are no texts, or the vocabulary is too small for the bytes).
    """
    if vocab_size < _SMALLEST:
        raise TrainingError(f"vocab_size is {vocab_size}; it must be at least {_SMALLEST} to hold every byte")
    corpus = list(texts)
    if not any(text.strip() for text in corpus):
        raise TrainingError("no texts to learn a tokenizer from", hint="Pass the captions of the training split")
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = NormalizerSequence([NFKC(), Lowercase()])
    tokenizer.pre_tokenizer = PreTokenizerSequence([Whitespace(), ByteLevel(add_prefix_space=True, use_regex=False)])
    trainer = BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        special_tokens=[PAD, START],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(END, special=True)])  # after training: the highest id
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)]
    )
    return tokenizer


def text_spec(tokenizer: Tokenizer, context_length: int) -> TextSpec:
    """The manifest's description of a tokenizer made here (`TrainingError`: the tokenizer lacks our special tokens)."""
    pad, end = tokenizer.token_to_id(PAD), tokenizer.token_to_id(END)
    if pad is None or end is None:
        raise TrainingError(f"the tokenizer has no {PAD} or no {END} token", hint="Make it with train_tokenizer")
    return TextSpec(context_length=context_length, pad_id=pad, end_id=end)
