"""A long text in parts: stretches that are tokenized at once, windows that are judged one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRETCH = 32_768
"""Characters that are tokenized at once, which bounds the memory that a long text takes."""

_LAST_SPACE = re.compile(r"\s(?=\S*$)")


@dataclass(frozen=True, slots=True)
class Windows:
    """Parts of a text that together are all of it, each as long as the model reads; the first is its beginning.

    Attributes:
        rows: Token ids, (k, context_length) int64, k ≥ 1.
        spans: Their characters, (k, 2) int64: the first, and the one after the last.
    """

    rows: NDArray[np.int64]
    spans: NDArray[np.int64]


def stretches(text: str) -> Iterator[tuple[int, str]]:
    """Yield parts of a text, none blank and none longer than `STRETCH`, with their places; parted at white space."""
    start = 0
    while start < len(text):
        end = start + STRETCH
        if end < len(text) and (gap := _LAST_SPACE.search(text, start + 1, end)):
            end = gap.start()
        if (part := text[start:end]).strip():
            yield start, part
        start = end


def overlapping(begins: NDArray[np.bool_], size: int) -> list[tuple[int, int]]:
    """Return windows, as first token and the one after the last, that overlap by about half.

    Any size // 4 tokens that follow each other are together in one of them. All but the first begin with a word, and
    those that are not the last end with one, so that no word is judged by a piece of it; where that would leave a
    smaller overlap, a long word is cut.

    Args:
        begins: Which tokens begin a word, (n,), n > size.
        size: Tokens of a window, at least 2.
    """
    n, half = len(begins), size // 2
    # For each token, the one that begins its word.
    word = np.maximum.accumulate(np.where(begins, np.arange(n), 0))
    found = [(0, size)]
    start = 0
    while found[-1][1] < n:
        step = start + half
        start = int(word[step]) if word[step] > start else step
        end = min(start + size, n)
        if end < n and word[end] >= start + half + size // 4:
            end = int(word[end])
        found.append((start, end))
    return found
