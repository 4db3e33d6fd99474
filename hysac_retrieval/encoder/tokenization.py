"""Texts to the token ids that a bundle's text graph takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from hysac_retrieval.encoder.bundle import TextSpec
from hysac_retrieval.errors import BundleFormatError, TextError


class TextTokenizer:
    """Texts to rows of token ids, as the text graph takes them.

    Start and end tokens come from the bundle's tokenizer; a text that is too long is cut and keeps the end token as its
    last, as open_clip does. Special tokens that are *written* in a text are ordinary characters.

    Args:
        tokenizer: A tokenizer whose post-processor adds the start and end tokens.
        spec: Length and ids, from the manifest.
    """

    def __init__(self, tokenizer: Tokenizer, spec: TextSpec) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.spec = spec
        ids = tokenizer.encode("a").ids
        if len(ids) < 2 or ids[-1] != spec.end_id:
            raise BundleFormatError(
                f"{spec.tokenizer} turns 'a' into {ids}, which does not end with the end token {spec.end_id}",
                hint="Export the bundle again",
            )

    @classmethod
    def from_file(cls, path: Path, spec: TextSpec) -> Self:
        """Read ``tokenizer.json``.

        Raises:
            BundleFormatError: The file is not a tokenizer, or not one that fits the manifest.
        """
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises bare Exception
            raise BundleFormatError(f"{path} is not a tokenizer: {error}", hint="Export the bundle again") from error
        return cls(tokenizer, spec)

    def count(self, text: str) -> int:
        """Return the number of tokens before any cutting, start and end included."""
        return len(self._encode([text])[0].ids)

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
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TextError(f"text {i} is of type {type(text).__name__}, expected str")
            if not text.strip():
                raise TextError(f"text {i} is empty", hint="Give at least one word, or leave the item out")
        try:
            encodings = self._tokenizer.encode_batch(list(texts))
        except (UnicodeEncodeError, TypeError) as error:  # lone surrogates have no UTF-8 form
            raise TextError(f"a text is not valid Unicode: {error}", hint="Decode it with errors='replace'") from error
        for i, encoding in enumerate(encodings):
            if all(encoding.special_tokens_mask):
                raise TextError(
                    f"text {i} ({texts[i][:40]!r}) holds nothing that the tokenizer knows", hint="Rephrase it"
                )
        return encodings
