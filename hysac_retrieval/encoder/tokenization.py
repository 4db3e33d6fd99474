"""Texts to the token ids that a bundle's text graph takes: the beginning of a text, or windows over all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordPiece

from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.encoder.lexicon import Lexicon
from hysac_retrieval.encoder.readings import readings
from hysac_retrieval.encoder.windows import STRETCH, Windows, overlapping, stretches
from hysac_retrieval.errors import MORE_RESOURCES, BundleFormatError, ResourceError, TextError

_LARGEST = 2**28  # bytes of a tokenizer
_LONG_PIECE = 3  # letters
_FROM_NOWHERE = "\U000f0000"  # a character that is in no vocabulary


class TextTokenizer:
    """Texts to rows of token ids, as the text graph takes them.

    Start and end tokens come from the bundle's tokenizer; a text that is too long is cut and keeps the end token as its
    last, as open_clip does. Special tokens that are *written* in a text are ordinary characters.

    Args:
        tokenizer: A tokenizer whose post-processor adds the start and end tokens.
        spec: Length and ids, from the manifest.
        words: All the words that the model was trained with; None if it knows more than can be listed.
    """

    def __init__(self, tokenizer: Tokenizer, spec: TextSpec, words: Sequence[str] | None = None) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.spec = spec
        self._words = words
        ids = tokenizer.encode("a").ids
        if len(ids) < 2 or ids[-1] != spec.end_id:
            raise BundleFormatError(
                f"{spec.tokenizer} turns 'a' into {ids}, which does not end with the end token {spec.end_id}",
                hint="Export the bundle again",
            )
        if tokenizer.id_to_token(spec.pad_id) is None:
            raise BundleFormatError(f"{spec.tokenizer} has no token {spec.pad_id}, with which texts are to be padded")
        self._start = ids[: ids.index(tokenizer.encode("a", add_special_tokens=False).ids[0])]

    @classmethod
    def from_file(cls, path: Path, spec: TextSpec, words: Sequence[str] | None = None) -> Self:
        """Read ``tokenizer.json``.

        Raises:
            BundleFormatError: The file is not a tokenizer, or not one that fits the manifest.
        """
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError(f"it has more than {_LARGEST:,} bytes")
            return cls(Tokenizer.from_file(str(path)), spec, words)
        except (BundleFormatError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the Rust side raises bare Exception, and panics, which are none
            raise BundleFormatError(f"{path} is not a tokenizer: {error}", hint="Export the bundle again") from error

    @cached_property
    def lexicon(self) -> Lexicon:
        """The words that the model knows."""
        if self._words is not None:
            return Lexicon.of(self._words)
        return Lexicon.of_vocabulary(self._tokenizer)

    def readings(self, text: str) -> dict[str, str]:
        """Return the readings of a text by name, the text itself first; see `readings.readings`."""
        return readings(text, self.lexicon)

    def known(self, texts: Iterable[str]) -> float | None:
        """Return how much the model knows of the one of some readings that it knows best, in [0, 1].

        The share of the letters that are in words it was trained with; with a WordPiece tokenizer, in whole words and
        long pieces of words; or else of the tokens that the tokenizer has. None from a tokenizer that takes any word
        apart into bytes, for a model of no listed words.
        """
        if self.lexicon.complete:
            return max(map(self.lexicon.share, texts))
        if isinstance(self._tokenizer.model, WordPiece):
            return max(map(self._share, texts))
        if (unknown := self._unknown) is None:
            return None
        shares = [0.0]
        for text in texts:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            shares.append(1 - ids.count(unknown) / max(len(ids), 1))
        return max(shares)

    def _share(self, text: str) -> float:
        """The share of a text's letters in whole words and long pieces of words: gibberish has short ones."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        pieces = Counter(encoding.word_ids)
        known = letters = 0
        for number, word, (start, end) in zip(encoding.ids, encoding.word_ids, encoding.offsets, strict=True):
            if any(map(str.isalpha, text[start:end])):
                letters += end - start
                if number != self._unknown and (pieces[word] == 1 or end - start >= _LONG_PIECE):
                    known += end - start
        return known / letters if letters else 0.0

    @cached_property
    def _unknown(self) -> int | None:
        token = getattr(self._tokenizer.model, "unk_token", None)
        number = None if token is None else self._tokenizer.token_to_id(token)
        # Tokenizers that take everything apart into bytes name such a token, too, and never give it.
        return number if number in self._tokenizer.encode(_FROM_NOWHERE).ids else None

    def count(self, text: str) -> int:
        """Return the number of tokens before any cutting, start and end included."""
        self.check(text)
        counts = [len(self._tokens([part])[0].ids) for _, part in stretches(text)]
        return sum(counts) - (len(counts) - 1) * (len(self._start) + 1)

    def windows(self, text: str) -> Windows:
        """Return all of a text as rows of token ids that overlap by half; a single one for a text that fits.

        Raises:
            TextError: The text is empty, blank or not a `str`, or holds nothing that the tokenizer knows.
        """
        self.check(text)
        length = self.spec.context_length
        if len(text) <= STRETCH:
            encoding = self._encode([text])[0]
            if len(encoding.ids) <= length:
                rows = np.full((1, length), self.spec.pad_id, dtype=np.int64)
                rows[0, : len(encoding.ids)] = encoding.ids  # as nearly always, for queries
                return Windows(rows, np.array([[0, len(text)]]))
            found = [self._parsed(0, encoding)]
        else:
            found = [self._parsed(start, self._tokens([part])[0]) for start, part in stretches(text)]
        ids, begins, spans = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        if not len(ids):
            raise _nothing_known(0, text)
        size = length - len(self._start) - 1
        places = overlapping(begins, size) if len(ids) > size else [(0, len(ids))]
        rows = np.full((len(places), length), self.spec.pad_id, dtype=np.int64)
        rows[:, : len(self._start)] = self._start
        for row, (start, end) in zip(rows, places, strict=True):
            filled = len(self._start) + end - start
            row[len(self._start) : filled] = ids[start:end]
            row[filled] = self.spec.end_id
        return Windows(rows, np.array([(spans[start, 0], spans[end - 1, 1]) for start, end in places]))

    def _parsed(self, start: int, encoding: Encoding) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """Token ids (n,) of a part of a text without start and end, which begin a word, and their characters (n, 2)."""
        own = slice(len(self._start), len(encoding.ids) - 1)
        words = np.asarray([-1 if word is None else word for word in encoding.word_ids[own]], dtype=np.int64)
        spans = np.asarray(encoding.offsets[own], dtype=np.int64).reshape(-1, 2) + start
        return np.asarray(encoding.ids[own], dtype=np.int64), np.diff(words, prepend=-1) != 0, spans

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return token ids of n texts, (n, context_length) int64, cut and right-padded.

        Raises:
            TextError: A text is empty, blank or not a `str`.
        """
        length = self.spec.context_length
        rows = np.full((len(texts), length), self.spec.pad_id, dtype=np.int64)
        for row, encoding in zip(rows, self._encode(texts), strict=True):
            ids = encoding.ids
            row[: len(ids)] = ids[:length]
            if len(ids) > length:
                row[-1] = self.spec.end_id
        return rows

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        self.check(*texts)
        encodings = self._tokens(texts)
        for i, encoding in enumerate(encodings):
            if all(encoding.special_tokens_mask):
                raise _nothing_known(i, texts[i])
        return encodings

    def check(self, *texts: str) -> None:
        """Check texts before any work is done.

        Raises:
            TextError: A text is empty, blank or not a `str`.
        """
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TextError(f"text {i} is of type {type(text).__name__}, expected str")
            if not text.strip():
                raise TextError(f"text {i} is empty", hint="Give at least one word, or leave the item out")

    def _tokens(self, texts: Sequence[str]) -> list[Encoding]:
        try:
            return self._tokenizer.encode_batch(list(texts))
        except (UnicodeEncodeError, TypeError) as error:  # lone surrogates have no UTF-8 form
            raise TextError(
                "a text is not valid Unicode: it holds half of a surrogate pair", hint="Decode it with errors='replace'"
            ) from error
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the Rust side, of a vocabulary that lacks what its model asks for
            if "ThreadPoolBuildError" in str(error):
                raise ResourceError(f"the tokenizer gets no threads: {error}", hint=MORE_RESOURCES) from error
            raise BundleFormatError(f"{self.spec.tokenizer} fails: {error}", hint="Export the bundle again") from error


def _nothing_known(row: int, text: str) -> TextError:
    return TextError(f"text {row} ({text[:40]!r}) holds nothing that the tokenizer knows", hint="Rephrase it")
