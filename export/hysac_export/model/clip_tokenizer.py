"""CLIP's tokenizer: lower-casing byte-pair encoding with an end-of-word suffix, as a `tokenizers.Tokenizer`.

Made from the vocabulary that open_clip carries. It gives the ids of open_clip's own tokenizer, whose cleaning of texts
(ftfy) is followed in what people really type: typographic quotes become straight ones, ligatures are taken apart,
full-width forms become ASCII, control characters go. What it does beyond that (HTML entities, text decoded with the
wrong code page) is left alone.
"""

from __future__ import annotations

import gzip
import unicodedata
from importlib import resources
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, Lowercase, Normalizer, Replace
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence
from tokenizers.processors import TemplateProcessing

from hysac_export.model.tokenizer import END as OWN_END
from hysac_export.model.tokenizer import text_spec
from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import TrainingError

START, END = "<|startoftext|>", "<|endoftext|>"
VOCAB_SIZE = 49_408
CONTEXT_LENGTH = 77
_SUFFIX = "</w>"
_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_CONTROL = r"[\x00-\x08\x0b\x0e-\x1f\x7f\x{206a}-\x{206f}\x{feff}\x{fff9}-\x{fffc}]"
_SINGLE_QUOTES, _DOUBLE_QUOTES = "[\u02bc\u2018-\u201b]", "[\u201c-\u201f]"
_LIGATURES = (0x0132, 0x0133, 0x0149, *range(0x01C4, 0x01CD), *range(0x01F1, 0x01F4), *range(0xFB00, 0xFB07))
_FULL_WIDTH = range(0xFF01, 0xFF5F)


def clip_tokenizer() -> Tokenizer:
    """The tokenizer of OpenAI's CLIP, 49,408 tokens; adds the start and the end token, and neither cuts nor pads."""
    merges = _merges()
    # All 256 bytes in the order of their stand-ins, alone and at the end of a word; then what merges make of them.
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + _SUFFIX for byte in alphabet), *(a + b for a, b in merges), START, END]
    found = len(set(tokens))
    if found != VOCAB_SIZE:
        message = f"the vocabulary of open_clip makes {found} tokens, expected {VOCAB_SIZE}"
        raise TrainingError(message, hint="Install open_clip_torch again")
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges, end_of_word_suffix=_SUFFIX))
    tokenizer.normalizer = _cleaning()
    tokenizer.pre_tokenizer = PreTokenizerSequence(
        # What no alternative takes is white space.
        [Split(Regex(_WORDS), "removed", invert=True), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (START, END)])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)]
    )
    return tokenizer


def read_tokenizer(path: Path | None, vocab_size: int, context_length: int) -> tuple[Tokenizer, TextSpec]:
    """Read a ``tokenizer.json``, or CLIP's, with its description (`TrainingError`: it is damaged or does not fit)."""
    if path is None:
        if vocab_size != VOCAB_SIZE:
            message = f"the checkpoint has {vocab_size} tokens, CLIP's vocabulary {VOCAB_SIZE}"
            raise TrainingError(message, hint="Give its own tokenizer.json, beside the checkpoint or with --tokenizer")
        tokenizer = clip_tokenizer()
    else:
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            message = f"{path} is no tokenizer.json: {error}"
            raise TrainingError(message, hint="Give one of the tokenizers library") from error
    return tokenizer, describe_tokenizer(tokenizer, vocab_size, context_length)


def describe_tokenizer(tokenizer: Tokenizer, vocab_size: int, context_length: int) -> TextSpec:
    """The manifest's description of CLIP's tokenizer, of one like it, or of one made by `train_tokenizer`."""
    if tokenizer.token_to_id(OWN_END) is not None:
        return text_spec(tokenizer, context_length)
    encoded = tokenizer.encode("a")
    ids = [id_ for id_, counts in zip(encoded.ids, encoded.attention_mask, strict=True) if counts]  # without padding
    size = tokenizer.get_vocab_size()
    if len(ids) < 3 or ids[-1] != size - 1 or size != vocab_size:
        expected = f"the checkpoint's {vocab_size}, a start token first and the end token, of the highest id, last"
        raise TrainingError(f"the tokenizer has {size} tokens and turns 'a' into {ids}; expected {expected}")
    # Behind the end token nothing counts: the text tower is causal. 0 as open_clip and the published code have it.
    return TextSpec(context_length=context_length, pad_id=0, end_id=ids[-1])


def _merges() -> list[tuple[str, str]]:
    packed = resources.files("open_clip").joinpath(_VOCABULARY).read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    pairs = (line.split() for line in lines[1 : VOCAB_SIZE - 2 * 256 - 2 + 1])  # the first line is a heading
    return [(left, right) for left, right in pairs]


def _cleaning() -> Normalizer:
    apart = [chr(code) for code in (*_LIGATURES, *_FULL_WIDTH)]
    steps: list[Normalizer] = [Replace(one, unicodedata.normalize("NFKC", one)) for one in apart]
    steps += [
        Replace(Regex(_SINGLE_QUOTES), "'"),
        Replace(Regex(_DOUBLE_QUOTES), '"'),
        Replace(Regex(_CONTROL), ""),
        NFC(),
        Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"),  # lower-casing by itself knows no final sigma
        Lowercase(),
    ]
    return NormalizerSequence(steps)
