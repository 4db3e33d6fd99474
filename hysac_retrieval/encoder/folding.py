"""Characters as they are read: letters of any script and style as plain ones.

Unicode's table of look-alikes (`confusable_homoglyphs`) knows what a letter is taken for, `anyascii` what it stands
for: the Cyrillic р is taken for p, and stands for r. Both are loaded with the first text that needs them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache

_UNSEEN = frozenset({"Mn", "Me", "Cf", "Cc", "Cn", "Co"})
_FILLERS = dict.fromkeys(map(ord, "\u115f\u1160\u3164\uffa0\u2800"))  # letters and symbols by category, but blank
_DECORATIVE = {  # read so in stylised writing only, and so not in Unicode's table
    "п": "n", "и": "n", "я": "r", "ш": "w", "щ": "w", "ц": "u", "з": "e", "э": "e", "ф": "o", "г": "r", "л": "n",
    "λ": "a", "σ": "o", "ω": "w", "γ": "y", "χ": "x", "μ": "u", "π": "n", "β": "b", "ß": "b",
    "ɐ": "a", "ƃ": "g", "ɟ": "f", "ɥ": "h", "ɯ": "m", "ʌ": "v",
}  # fmt: skip


def visible(text: str) -> str:
    """Return the text without marks on letters and what else cannot be seen.

    Compatibility forms (fullwidth, mathematical) are plain letters in it, and pictograms their names.
    """
    if text.isascii() and text.isprintable():
        return text
    # Decomposed, so that marks come apart from their letters.
    return "".join(map(_shown, unicodedata.normalize("NFKD", text).translate(_FILLERS)))


@lru_cache(maxsize=4096)
def readings_of(character: str) -> tuple[str, ...]:
    """Return what a character beyond ASCII is read as, in ASCII and lower case, the likeliest first; at least one."""
    from anyascii import anyascii

    plain = anyascii(character).lower()
    return tuple(dict.fromkeys((*_look_alikes(character), plain, _DECORATIVE.get(character.lower(), plain))))


def _look_alikes(character: str) -> Iterator[str]:
    """Letters and digits that Unicode lists as confusable with a character, at once or by way of another Latin one."""
    from anyascii import anyascii
    from confusable_homoglyphs import confusables

    for variant in dict.fromkeys((character, character.lower(), character.upper())):
        for entry in confusables.confusables_data.get(variant, ()):
            bare = "".join(c for c in unicodedata.normalize("NFKD", entry["c"]) if unicodedata.category(c) != "Mn")
            plain = anyascii(bare) if entry["n"].startswith("LATIN") else bare
            if plain.isascii() and plain.isalnum() and len(plain) == 1:
                yield plain.lower()


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    if (character.isascii() and character.isprintable()) or character.isspace():
        return character
    if (category := unicodedata.category(character)) in _UNSEEN:
        return ""
    if category != "So":
        return character
    from anyascii import anyascii

    name = anyascii(character)  # of a pictogram as ":crossed_swords:"
    return f" {name.strip(':').replace('_', ' ')} " if name[:1] == ":" and len(name) > 2 else character
