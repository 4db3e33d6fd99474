"""Readings of a text: what a person reads in it where a model sees something else.

Look-alike letters, invisible characters, letters set apart, digits for letters and words written backwards keep a text
readable and hide it from a model. A reading is tried beside the text itself, never in its place, so that it can only
make a text look less safe. The words that the model knows decide how a text is read: one of known words has one
reading, itself.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice, product

from hysac_retrieval.encoder.folding import readings_of, visible
from hysac_retrieval.encoder.lexicon import Lexicon

_SIGNS = {
    "4": "a", "@": "a", "^": "a", "3": "e", "€": "e", "0": "o", "5": "s", "$": "s", "§": "s", "7": "t", "+": "t",
    "8": "b", "2": "z", "(": "c", "<": "c", "¢": "c", "£": "l", "¥": "y",
    "1": "il", "!": "il", "|": "li", "I": "il", "l": "li", "6": "gb", "9": "gq",
}  # fmt: skip
"""Signs and letters that are written for letters, each with those that it stands for."""

_WAYS = 64  # of reading one word, at most
_WAYS_JOINED = 8  # of reading what is put together
_LONG = 64  # letters; beyond, a sign is read the same way everywhere
_SHORT = 2  # letters of a known word that may yet be a piece of another
_JOINED = 12  # pieces that are put together to one or more words
_LONGEST = 32  # letters of such a word, or words
_BLOCK = 256  # pieces that are tried as one, as where a whole sentence is written with its letters apart

_EDGES = ".,;:!?\"'()[]{}<>-_*~/\\|`´‘’“”…"
_GAP = re.compile(r"\s{2,}")
_SEPARATORS = re.compile(r"[^\w@$!|+^€£¥¢§(<]|_")
_APART = re.compile(r"[\W_]+")
_REPEATED = re.compile(r"(.)\1+")
_PAIR = re.compile(r"(.)\1")
_DOUBTFUL = re.compile(r"[Il]")

Words = tuple[str, ...]


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
    speller = _Speller(lexicon)
    spelled = " ".join(speller(seen))
    found = {"text": text, "plain letters": plain}
    if lexicon.share(spelled) > lexicon.share(plain):  # a person reads what makes more sense
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
        self._joint: dict[str, Words | None] = {}

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
                    yield from self._words(pieces[start]) or ()
                    start += 1
                else:
                    yield from self._joined(pieces[start:end])
                    start = end

    def _joined(self, pieces: Sequence[str]) -> Iterator[str]:
        """Words that pieces spell together: all of them, or as many from each place on as spell something."""
        start = 0
        while start < len(pieces):
            for end in self._ends(pieces, start):
                together = self._together(pieces[start:end])
                if together is not None:
                    yield from together
                    start = end
                    break
            else:
                yield from self._words(pieces[start]) or ("".join(map(_plain, pieces[start])).lower(),)
                start += 1

    def _ends(self, pieces: Sequence[str], start: int) -> Iterator[int]:
        """Ends of what to try as one from a place on, the longest first; bounded, since a text may be of any length."""
        if start == 0 or start % _BLOCK == 0:
            yield min(len(pieces), start + _BLOCK)
        letters = list(accumulate(len(piece) for piece in pieces[start : start + _JOINED]))
        yield from range(start + bisect_right(letters, _LONGEST), start + 1, -1)

    def _together(self, some: Sequence[str]) -> Words | None:
        """Known words that pieces spell together; None if they spell none, or each is known already."""
        joined = "".join(some)
        if len(some) < 2 or all(self._words(piece) is not None for piece in some):
            return None
        if joined not in self._joint:
            self._joint[joined] = self._spelled(joined, _WAYS_JOINED)
        return self._joint[joined]

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
        for letters in dict.fromkeys((*_letters(core), *_letters(piece))):
            for word in (letters, _REPEATED.sub(r"\1", letters), _PAIR.sub(r"\1", letters)):
                if word in lexicon:
                    return (word,)
            if letters[::-1] in lexicon:
                self.turned = True
                return (letters[::-1],)
        parts = tuple(filter(None, _APART.split(core.lower())))
        if all(part in lexicon or part.isdecimal() for part in parts):
            return parts
        # A word that a vocabulary does not keep whole would fall to pieces that mean something else.
        return self._spelled(piece) if lexicon.complete else None

    def _spelled(self, joined: str, ways: int = _WAYS) -> Words | None:
        """Known words that a run of letters, or the run backwards, spells whole; not mostly of one or two letters."""
        for letters in islice(_letters(joined), ways):
            for run in (letters, letters[::-1]):
                words = self._lexicon.spelled(run)
                if words is not None and len(run) >= 2 * len(words):
                    self.turned |= run is not letters
                    return words
        return None


def _letters(text: str) -> Iterator[str]:
    """Ways to read a word as lower-case letters alone: without separators, signs taken for letters."""
    signs = _SEPARATORS.sub("", text)
    if signs.isascii() and signs.isalpha() and not _DOUBTFUL.search(signs):
        return iter((signs.lower(),))
    options = [_SIGNS.get(sign) or (sign if sign.isascii() else readings_of(sign)) for sign in signs]
    first = ("".join(option[0] for option in options), "".join(option[-1] for option in options))
    ways = chain(first, islice(map("".join, product(*options)), _WAYS)) if len(signs) <= _LONG else iter(first)
    return (way for way in map(str.lower, ways) if way.isalpha())


def _plain(character: str) -> str:
    return character if character.isascii() else readings_of(character)[0]
