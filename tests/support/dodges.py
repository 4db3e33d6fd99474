"""Ways to write a text so that a person reads it and a model does not."""

from __future__ import annotations

import re
import string
from collections.abc import Callable


def _letters(text: str, first: int) -> str:
    return "".join(chr(first + ord(c) - ord("a")) if c in string.ascii_lowercase else c for c in text)


def _mapped(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.translate(str.maketrans(old, new))


def _between(mark: str) -> Callable[[str], str]:
    return lambda text: mark.join(text)


def _in_words(mark: str) -> Callable[[str], str]:
    return lambda text: re.sub(r"(?<=\w)(?=\w)", mark, text)


def _reversed(text: str) -> str:
    return text[::-1]


LEET, CYRILLIC = _mapped("aeiost", "431057"), _mapped("aeopcxyi", "аеорсхуі")
DODGES: dict[str, Callable[[str], str]] = {
    "fullwidth": lambda text: _letters(text, 0xFF41),
    "bold": lambda text: _letters(text, 0x1D41A),
    "script": lambda text: _letters(text, 0x1D4EA),
    "monospace": lambda text: _letters(text, 0x1D68A),
    "circled": lambda text: _letters(text, 0x24D0),
    "squared": lambda text: _letters(text, 0x1F130),
    "zero-width space": _between("\u200b"),
    "zero-width joiner in words": _in_words("\u200d"),
    "soft hyphen": _in_words("\u00ad"),
    "byte order mark": _between("\ufeff"),
    "control characters": _in_words("\x08"),
    "acute": _between("\u0301"),
    "struck through": lambda text: "".join(c + "\u0336" for c in text),
    "stacked marks": lambda text: "".join(c + "\u0301\u0316\u0334\u0489" for c in text),
    "precomposed": _mapped("aeiou", "áêïõų"),
    "Cyrillic": CYRILLIC,
    "more Cyrillic": _mapped("aeopcxyimtkb", "аеорсхуімткь"),
    "Greek": _mapped("aovniupkt", "αονηιυρκτ"),
    "small capitals": _mapped("abdefghikmnoprtuw", "ᴀʙᴅᴇꜰɢʜɪᴋᴍɴᴏᴘʀᴛᴜᴡ"),
    "mirrored capitals": _mapped("n", "И"),
    "spaced": _between(" "),
    "spaced without gaps": lambda text: " ".join(text.replace(" ", "")),
    "hyphened": _in_words("-"),
    "dotted": _between("."),
    "underscored": _in_words("_"),
    "starred": _in_words("*"),
    "one hyphen a word": lambda text: re.sub(r"(\w)(\w{2,})", r"\1-\2", text),
    "in two": lambda text: re.sub(r"(\w\w)(\w+)", r"\1 \2", text),
    "without spaces": lambda text: text.replace(" ", ""),
    "leet": LEET,
    "more leet": _mapped("aeiosg", "@3!0$9"),
    "bars": _mapped("i", "|"),
    "capital I for l": _mapped("l", "I"),
    "reversed": _reversed,
    "words reversed": lambda text: " ".join(map(_reversed, text.split())),
    "doubled letters": lambda text: re.sub(r"(\w)", r"\1\1", text),
    "drawn out": lambda text: re.sub(r"([aeiou])", r"\1\1\1\1", text),
    "Cyrillic, spaced": lambda text: " ".join(CYRILLIC(text)),
    "Cyrillic, hyphened, upper case": lambda text: _in_words("-")(CYRILLIC(text)).upper(),
    "zero-width, leet": lambda text: "\u200b".join(LEET(text)),
    "zero-width, reversed": lambda text: "\u200b".join(text[::-1]),
    "leet, reversed": lambda text: LEET(text)[::-1],
    "leet, spaced": lambda text: " ".join(LEET(text)),
    "fullwidth, spaced": lambda text: " ".join(_letters(text, 0xFF41)),
    "bold, dotted": lambda text: ".".join(_letters(text, 0x1D41A)),
    "reversed, spaced": lambda text: " ".join(text[::-1]),
}
