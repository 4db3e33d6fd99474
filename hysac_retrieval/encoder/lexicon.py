"""Words that a model knows: how much of a text is known to it, and what a run of letters spells."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tokenizers import Tokenizer

_RUN = re.compile(r"[^\W_]+")
_LETTER = re.compile(r"[^\W\d_]")
_MARKS = re.compile(r"^(?:Ġ|▁|##)|</w>$")  # of the beginning or end of a word, in the vocabularies of tokenizers
_SHORT = frozenset("ai")  # the one-letter words; other letters stand alone in texts that are spelled out
_LONGEST = 24  # letters of a word that is sought in a run of letters


@dataclass(frozen=True)
class Lexicon:
    """Words, in lower case.

    Attributes:
        words: The words. Without any, nothing is known of texts.
        complete: Whether the model knows no other words, so that `known` tells something.
    """

    words: frozenset[str]
    complete: bool = True
    _longest: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_longest", min(max(map(len, self.words), default=0), _LONGEST))

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

    def spelled(self, letters: str) -> tuple[str, ...] | None:
        """Return the fewest known words that a run of lower-case letters spells; None if it spells none.

        A word is known if it is one of this lexicon's; of equally many words, those with the longest come first.
        """
        if letters in self.words:
            return (letters,)
        best: list[tuple[int, int, int] | None] = [
            (0, 0, 0)
        ]  # words, minus their squared lengths, where the last begins
        for end in range(1, len(letters) + 1):
            found: tuple[int, int, int] | None = None
            for start in range(max(0, end - self._longest), end):
                before = best[start]
                if before is not None and letters[start:end] in self.words:
                    option = (before[0] + 1, before[1] - (end - start) ** 2, start)
                    found = option if found is None or option < found else found
            best.append(found)
        parts: list[str] = []
        end = len(letters)
        while end:
            last = best[end]
            if last is None:
                return None
            parts.append(letters[last[2] : end])
            end = last[2]
        return tuple(reversed(parts)) or None
