"""Words that a model knows: how much of a text is known to it, and what a run of letters spells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from tokenizers import Tokenizer

_RUN = re.compile(r"[^\W_]+")
_LETTER = re.compile(r"[^\W\d_]")
_MARKS = re.compile(r"^(?:Ġ|▁|##)|</w>$")  # of the beginning or end of a word, in the vocabularies of tokenizers
_SHORT = frozenset("ai")  # the one-letter words; other letters stand alone in texts that are spelled out
_LONGEST = 24  # letters of a word that is sought in a run of letters

Letters: TypeAlias = Sequence[Sequence[str]]
"""Letters of a text in lower case, each with all that it may be read as, the likeliest first; a `str` has one each."""

Words: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """Words, in lower case.

    Attributes:
        words: The words. Without any, nothing is known of texts.
        complete: Whether the model knows no other words, so that `known` tells something.
    """

    words: frozenset[str]
    complete: bool = True

    @classmethod
    def of(cls, words: Iterable[str]) -> Lexicon:
        """Make one of all the words that a model was trained with."""
        return cls(frozenset(word.lower() for word in words))

    @classmethod
    def of_vocabulary(cls, tokenizer: Tokenizer) -> Lexicon:
        """Make one of the words that a tokenizer keeps whole; those it takes apart may be known, too."""
        found = {_MARKS.sub("", token).lower() for token in tokenizer.get_vocab(with_added_tokens=False)}
        asked = sorted(word for word in found if word.isalpha() and (len(word) > 1 or word in _SHORT))
        encodings = tokenizer.encode_batch(asked, add_special_tokens=False)
        whole = (word for word, encoding in zip(asked, encodings, strict=True) if len(encoding.ids) == 1)
        return cls(frozenset(whole), complete=False)

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def share(self, text: str) -> float:
        """Return the share of the letters of a text that are in known words, in [0, 1]; 0 for a text without letters.

        Letters, so that articles and prepositions do not make a text of foreign words known.
        """
        known = letters = 0
        for run in _RUN.findall(text.lower()):
            if not run.isdecimal():
                letters += len(run)
                known += len(run) if run in self.words else 0
        return known / letters if letters else 0.0

    def knows_all(self, text: str) -> bool:
        """Whether every word of a text is known; numbers and punctuation do not count."""
        words = self.words
        return all(run in words or run.isdecimal() for run in _RUN.findall(text.lower()))

    def word(self, letters: Letters, *, drawn: bool = False) -> str | None:
        """Return the likeliest known word that all of the letters make; None if they make none.

        Args:
            letters: The letters.
            drawn: Whether a letter that follows itself may be left out, as in "guuun".
        """
        begun: dict[str, None] = {"": None}
        for options in letters:
            going: dict[str, None] = {}
            for begin in begun:
                for letter in options:
                    if (longer := begin + letter) in self.beginnings:
                        going[longer] = None
                    if drawn and letter and begin.endswith(letter):
                        going[begin] = None
            if not going:
                return None
            begun = going
        return next((word for word in begun if word in self.words), None)

    def words_at(self, letters: Letters, start: int) -> list[tuple[int, str]]:
        """Return the known words that letters make from a place on, each with the place behind it."""
        words, beginnings = self.words, self.beginnings
        found: list[tuple[int, str]] = []
        begun = [""]
        for end in range(start + 1, len(letters) + 1):
            options = letters[end - 1]
            if len(begun) == len(options) == 1:  # as nearly always
                longer = begun[0] + options[0]
                begun = [longer] if longer in beginnings else []
            else:
                both = dict.fromkeys(begin + letter for begin in begun for letter in options)
                begun = [longer for longer in both if longer in beginnings]
            if not begun or end - start > _LONGEST:
                break
            found += [(end, word) for word in begun if word in words]
        return found

    @cached_property
    def beginnings(self) -> frozenset[str]:
        """Beginnings of the words, the words and the empty one among them."""
        return frozenset(word[:end] for word in self.words for end in range(len(word) + 1))

    @cached_property
    def backwards(self) -> Lexicon:
        """The words written backwards."""
        return Lexicon(frozenset(word[::-1] for word in self.words), self.complete)


class Spelling:
    """Words of a lexicon that letters spell, from any place to any other; each is looked for once.

    Args:
        lexicon: The words.
        letters: The letters.
    """

    def __init__(self, lexicon: Lexicon, letters: Letters) -> None:
        self._lexicon = lexicon
        self._letters = letters
        self._words: dict[int, list[tuple[int, str]]] = {}

    def __call__(self, start: int, ends: Sequence[int]) -> tuple[int, Words] | None:
        """Return the first of some ends up to which known words are spelled from a place on, and the words.

        Those are the fewest, and of equally many those with the longest. Where they are mostly of one or two letters
        nothing is spelled.
        """
        last = max(ends)
        # For each place that words lead to: their number, minus their squared lengths, where the last begins, and it.
        best: dict[int, tuple[int, int, int, str]] = {start: (0, 0, start, "")}
        for place in range(start, last):
            if (before := best.get(place)) is None:
                continue
            for end, word in self._at(place):
                option = (before[0] + 1, before[1] - len(word) ** 2, place, word)
                if end <= last and ((known := best.get(end)) is None or option[:2] < known[:2]):
                    best[end] = option
        for end in ends:
            if end > start and end in best:
                words = _traced(best, start, end)
                if sum(map(len, words)) >= 2 * len(words):
                    return end, words
        return None

    def _at(self, place: int) -> list[tuple[int, str]]:
        if place not in self._words:
            self._words[place] = self._lexicon.words_at(self._letters, place)
        return self._words[place]


def _traced(best: Mapping[int, tuple[int, int, int, str]], start: int, end: int) -> Words:
    words: list[str] = []
    while end > start:
        *_, end, word = best[end]
        words.append(word)
    return tuple(reversed(words))
