"""Readings of a text: what a person reads in it where a model sees something else.

Look-alike letters, invisible characters, letters set apart, digits for letters and words written backwards keep a text
readable and hide it from a model. A reading is tried beside the text itself, never in its place, so that it can only
make a text look less safe. The words that the model knows decide how a text is read: one of known words has one
reading, itself.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain

from hysac_retrieval.encoder.folding import readings_of, visible
from hysac_retrieval.encoder.lexicon import Letters, Lexicon, Spelling, Words

_SIGNS = {
    "4": "a", "@": "a", "^": "a", "3": "e", "€": "e", "0": "o", "5": "s", "$": "s", "§": "s", "7": "t", "+": "t",
    "8": "b", "2": "z", "(": "c", "<": "c", "¢": "c", "£": "l", "¥": "y",
    "1": "il", "!": "il", "|": "li", "I": "il", "l": "li", "6": "gb", "9": "gq",
}  # fmt: skip
"""Signs and letters that are written for letters, each with those that it stands for."""

_SHORT = 2  # letters of a known word that may yet be a piece of another
_JOINED = 12  # pieces that are put together to one or more words
_LONGEST = 32  # letters of such a word, or words
_GLUED = 16  # letters from which on a run is hardly a word that a vocabulary lacks, but several without spaces
_WHOLE = 5  # letters from which on one is taken for a word that the vocabulary lacks, and not for a piece
_BLOCK = 256  # pieces that are tried as one, as where a whole sentence is written with its letters apart

_EDGES = ".,;:!?\"'()[]{}<>-_*~/\\|`´‘’“”…"
_GAP = re.compile(r"\s{2,}")
_SEPARATOR = re.compile(r"[^\w@$!|+^€£¥¢§(<]|_")
_APART = re.compile(r"[\W_]+")


def readings(text: str, lexicon: Lexicon) -> dict[str, str]:
    """Return the distinct readings of a text by name: ``"text"``, the text itself, first, and at most three more.

    ``"plain letters"`` has look-alikes as the letters they look like, ``"spelled out"`` has in words what is set apart,
    joined, in digits or backwards, and ``"backwards"`` is that from the end. They are there where they hold more known
    words than the text.

    Args:
        text: Any text, valid Unicode.
        lexicon: The words that the model knows.
    """
    if text.isascii() and text.isprintable() and lexicon.knows_all(text):
        return {"text": text}
    seen = visible(text)
    plain = seen if seen.isascii() else "".join(map(_plain, seen))
    if (known := lexicon.share(plain)) == 1:
        return _distinct({"text": text, "plain letters": plain})
    speller = _Speller(lexicon)
    spelled = " ".join(speller(seen))
    found = {"text": text, "plain letters": plain}
    if lexicon.share(spelled) > known:  # a person reads what makes more sense
        found = {"text": text, "spelled out": spelled}
        if speller.turned:
            found["backwards"] = " ".join(reversed(spelled.split()))
    return _distinct(found)


def _distinct(found: Mapping[str, str]) -> dict[str, str]:
    """Readings that say something else than those before them; the first is always there."""
    names: dict[str, str] = {}
    for name, reading in found.items():
        if reading.strip() or not names:
            names.setdefault(reading.strip(), name)
    return {name: found[name] for name in names.values()}


class _Speller:
    """Spells texts out in the words of a lexicon.

    Attributes:
        turned: Whether any word was read backwards.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self.turned = False
        self._lexicon = lexicon
        self._resolved: dict[str, Words | None] = {}
        self._backwards: set[str] = set()

    def __call__(self, text: str) -> Iterator[str]:
        """Words of a text in lower case, and as they are where the lexicon does not help."""
        for group in _GAP.split(text.strip()):  # wide gaps part words whose letters are set apart by single spaces
            pieces = group.split()
            start = 0
            while start < len(pieces):
                end = start
                while end < len(pieces) and (len(pieces[end]) <= _SHORT or self._words(pieces[end]) is None):
                    end += 1
                if end == start:
                    yield from self._as_it_is(pieces[start])
                    start += 1
                else:
                    yield from self._joined(pieces[start:end])
                    start = end

    def _joined(self, pieces: Sequence[str]) -> Iterator[str]:
        """Words that pieces spell together: all of them, or as many from each place on as spell something."""
        unknown = [number for number, piece in enumerate(pieces) if self._words(piece) is None]
        if len(pieces) == 1 or not unknown:
            yield from chain.from_iterable(map(self._as_it_is, pieces))
            return
        letters = [_letters(piece) for piece in pieces]
        spelling = _BothWays(self._lexicon, list(chain.from_iterable(letters)))
        places = [0, *accumulate(map(len, letters))]
        start = 0
        while start < len(pieces):
            following = bisect_left(unknown, start)
            least = unknown[following] + 1 if following < len(unknown) else len(pieces) + 1
            ends = {places[end]: end for end in self._ends(places, start) if end >= max(start + 2, least)}
            found = spelling(places[start], list(ends)) if ends else None
            if found is None:
                yield from self._as_it_is(pieces[start])
                start += 1
            else:
                end, words, turned = found
                self.turned |= turned
                yield from words
                start = ends[end]

    def _as_it_is(self, piece: str) -> Words:
        self.turned |= piece in self._backwards
        words = self._words(piece)
        return ("".join(map(_plain, piece)).lower(),) if words is None else words

    def _ends(self, places: Sequence[int], start: int) -> Iterator[int]:
        """Ends of what to try as one from a piece on, the longest first; bounded, since a text may be of any length."""
        if start % _BLOCK == 0:
            yield min(len(places) - 1, start + _BLOCK)
        most = bisect_right(places, places[start] + _LONGEST, start, min(len(places), start + _JOINED + 1)) - 1
        yield from range(most, start + 1, -1)

    def _words(self, piece: str) -> Words | None:
        """Known words that a piece without spaces stands for; None if there are none, () for mere punctuation."""
        if piece not in self._resolved:
            self._resolved[piece] = self._resolve(piece)
        return self._resolved[piece]

    def _resolve(self, piece: str) -> Words | None:
        lexicon = self._lexicon
        core = piece.strip(_EDGES)
        if core.lower() in lexicon:
            return (core.lower(),)
        for letters in map(_letters, dict.fromkeys((core, piece))):
            if word := lexicon.word(letters):
                return (word,)
            if len(letters) > 1 and (word := lexicon.word(letters, drawn=True)):
                return (word,)
            if len(letters) > 1 and (word := lexicon.backwards.word(letters)):
                self._backwards.add(piece)
                return (word[::-1],)
        parts = tuple(filter(None, _APART.split(core.lower())))
        if all(part in lexicon or part.isdecimal() for part in parts):
            return parts
        letters = _letters(piece)
        if not lexicon.complete and len(letters) < _GLUED:
            # A word that a vocabulary does not keep whole would fall to pieces that mean something else. A long one is
            # no piece of a word either, so what stands beside it is not put together with it.
            return (core.lower(),) if core.isalpha() and len(core) >= _WHOLE else None
        found = _BothWays(lexicon, letters)(0, [len(letters)]) if len(letters) >= 2 * _SHORT else None
        if found is None:
            return None
        if found[2]:
            self._backwards.add(piece)
        return found[1]


class _BothWays:
    """Spells letters forwards and, where that gives nothing, backwards."""

    def __init__(self, lexicon: Lexicon, letters: Letters) -> None:
        self._forwards = Spelling(lexicon, letters)
        self._backwards = Spelling(lexicon.backwards, letters)

    def __call__(self, start: int, ends: Sequence[int]) -> tuple[int, Words, bool] | None:
        """Return the first of some ends up to which words are spelled, the words, and whether they are backwards."""
        forwards = self._forwards(start, ends)
        backwards = self._backwards(start, ends) if forwards is None or forwards[0] != ends[0] else None
        if forwards and (backwards is None or ends.index(forwards[0]) <= ends.index(backwards[0])):
            return (*forwards, False)
        if backwards is None:
            return None
        return backwards[0], tuple(word[::-1] for word in reversed(backwards[1])), True


def _letters(text: str) -> Letters:
    """Letters of a word or a piece of one: without separators, signs taken for letters."""
    return [options for sign in text if (options := _read_as(sign)) is not None]


@lru_cache(maxsize=4096)
def _read_as(sign: str) -> tuple[str, ...] | None:
    """What a sign may be read as, nothing where it is no letter; None for a separator."""
    if _SEPARATOR.match(sign):
        return None
    options = _SIGNS.get(sign) or ((sign.lower(),) if sign.isascii() else readings_of(sign))
    return tuple(option for option in options if option.isalpha() or not option)


def _plain(character: str) -> str:
    return character if character.isascii() else readings_of(character)[0]
