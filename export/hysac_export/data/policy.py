"""Policies in words: what is unsafe, said in phrases and sentences with a safe neighbour for each.

A policy is a YAML file and, where it has them, CSV files of sentences beside it. `read_policy` checks all of it and
makes the examples that a head is fitted to and judged on. Texts that belong together share a pair, so that the safe
twin of an unsafe text can be searched for, and a phrase with all its texts lies in one split.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from hysac_retrieval.errors import PolicyError

Split = Literal["fit", "validation", "test"]
SPLITS: Mapping[str, Split] = {split: split for split in get_args(Split)}
COLUMNS = ("category", "phrase", "split", "unsafe", "safe")
"""The columns of a policy's CSV file."""
SHARES = (0.70, 0.85)
"""Where the validation and the test split begin, for phrases that name no split, as shares of the hash's range."""
MOST_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled text.

    Attributes:
        text: What an encoder is given.
        unsafe: Whether the policy calls it unsafe.
        category: Name of the category whose phrase it comes from; of a safe text, that of its unsafe neighbours.
        phrase: What the text is about; all texts of a phrase lie in one split.
        split: Where it may be used.
        pair: Number that unsafe texts share with their safe twins.
    """

    text: str
    unsafe: bool
    category: str
    phrase: str
    split: Split
    pair: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was read and checked.

    Attributes:
        name: Its own name.
        description: One sentence for people.
        licence: SPDX identifier of the words; empty if the file names none.
        categories: Descriptions of the categories by name.
        sentences: All examples, in the order of the files.
    """

    name: str
    description: str
    licence: str
    categories: Mapping[str, str]
    sentences: tuple[Example, ...]

    def examples(self, split: Split | None = None) -> list[Example]:
        """Examples of one split, or all of them."""
        return [example for example in self.sentences if split in (None, example.split)]

    def pairs(self, split: Split) -> list[tuple[str, str]]:
        """Safe and unsafe texts of a split that belong together; of several safe ones each has its turn."""
        found = []
        for _, group in groupby(self.examples(split), key=lambda example: example.pair):
            sides: tuple[list[str], list[str]] = ([], [])
            for example in group:
                sides[example.unsafe].append(example.text)
            found += [(sides[0][turn % len(sides[0])], text) for turn, text in enumerate(sides[1])]
        return found


def read_policy(source: str | Path) -> Policy:
    """Read a policy by its bundled name, or from a YAML file.

    Raises:
        PolicyError: There is no such policy, or its files are not as they should be; the message names the place.
    """
    path = bundled_policies().get(str(source), Path(source))
    file = _read_file(path)
    groups = [*_phrases(file)]
    for name in file.pairs:
        groups += _sentences(path.parent / name, file.categories)
    sentences = tuple(
        Example(text, unsafe, group.category, group.phrase, group.split, pair)
        for pair, group in enumerate(groups)
        for unsafe, texts in ((True, group.unsafe), (False, group.safe))
        for text in dict.fromkeys(texts)
    )
    _report(path, _contradictions(groups))
    descriptions = {name: category.description for name, category in file.categories.items()}
    return Policy(file.name, file.description, file.licence, descriptions, sentences)


def bundled_policies() -> dict[str, Path]:
    """Names and paths of the policies that come with the package."""
    folder = Path(str(resources.files("hysac_export"))) / "fit" / "policies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def split_of(phrase: str) -> Split:
    """The split of a phrase that names none: 70 % fit, 15 % validation, 15 % test, the same on every machine."""
    share = int.from_bytes(hashlib.sha256(_folded(phrase).encode()).digest()[:8]) / 2**64
    return "fit" if share < SHARES[0] else "validation" if share < SHARES[1] else "test"


Text = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1, pattern=r"^.+$")]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""A phrase or a name, or a list of them."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Entry(_Model):
    """A line of a category: `unsafe` phrases and their `safe` neighbours, or a `phrase` that is "unsafe only if"."""

    unsafe: Texts = ()
    safe: Texts = ()
    phrase: Text | None = None
    unsafe_only_if: Texts = ()
    safe_otherwise: Texts = ()
    split: Split | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        direct, conditional = bool(self.unsafe), bool(self.phrase)
        if direct == conditional:
            raise ValueError("expected either `unsafe` with its `safe` neighbours, or `phrase` with `unsafe_only_if`")
        if conditional and (self.safe or not self.unsafe_only_if):
            raise ValueError("a `phrase` has `unsafe_only_if`, and `safe_otherwise` in place of `safe`")
        if direct and (self.unsafe_only_if or self.safe_otherwise):
            raise ValueError("`unsafe_only_if` and `safe_otherwise` belong to a `phrase`, not to `unsafe`")
        if direct and not self.safe:
            raise ValueError(f"the unsafe phrase {self.unsafe[0]!r} has no `safe` neighbour")
        return self

    @property
    def key(self) -> str:
        return self.phrase or self.unsafe[0]

    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Unsafe and safe phrases, each whole."""
        if self.phrase is None:
            return self.unsafe, self.safe
        unsafe = tuple(f"{self.phrase} {condition}" for condition in self.unsafe_only_if)
        return unsafe, (self.phrase, *(f"{self.phrase} {condition}" for condition in self.safe_otherwise))


class _Category(_Model):
    description: Text
    phrases: tuple[_Entry, ...] = ()


def _template(value: str) -> str:
    if value.count("{}") != 1:
        raise ValueError("a template has {} once, where the phrase goes")
    return value


class _File(_Model):
    """The YAML file of a policy."""

    name: Text
    description: Text
    licence: str = ""
    templates: tuple[Annotated[Text, BeforeValidator(_template)], ...] = Field(("{}",), min_length=1)
    pairs: Texts = ()
    categories: dict[str, _Category] = Field(min_length=1)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.pairs and (silent := [name for name, part in self.categories.items() if not part.phrases]):
            raise ValueError(f"no phrases in {', '.join(silent)}, and the policy has no `pairs`")
        return self


@dataclass(frozen=True, slots=True)
class _Group:
    """Unsafe texts and their safe twins; `place` is where they were read."""

    category: str
    phrase: str
    split: Split
    unsafe: tuple[str, ...]
    safe: tuple[str, ...]
    place: str


def _read_file(path: Path) -> _File:
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        names = ", ".join(bundled_policies())
        hint = f"Name a YAML file, or one of those that come with the package: {names}"
        raise PolicyError(f"there is no policy {str(path)!r}", hint=hint) from error
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise PolicyError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        hint = "It begins with `name:`, `description:` and `categories:`"
        raise PolicyError(f"{path} holds {type(values).__name__}, expected a table", hint=hint)
    try:
        return _File.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'policy'}: {fault['msg']}" for fault in error.errors()]
        _report(path, faults)
        raise


def _phrases(file: _File) -> Iterator[_Group]:
    """Groups of the YAML file: one for each phrase and template."""
    for name, category in file.categories.items():
        for number, entry in enumerate(category.phrases):
            split = entry.split or split_of(entry.key)
            for template in file.templates:
                unsafe, safe = (tuple(template.replace("{}", phrase) for phrase in side) for side in entry.sides())
                yield _Group(name, entry.key, split, unsafe, safe, f"categories.{name}.phrases.{number}")


def _sentences(path: Path, categories: Mapping[str, Any]) -> Iterator[_Group]:
    """Groups of the CSV file: one for each row."""
    faults: list[str] = []
    groups: list[_Group] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.reader(lines, strict=True)
            header = next(rows, [])
            if tuple(header) != COLUMNS:
                raise PolicyError(f"{path} has the columns {','.join(header)}, expected {','.join(COLUMNS)}")
            for row in rows:
                place = f"{path.name}, line {rows.line_num}"
                if fault := _fault(row, categories):
                    faults.append(f"{place}: {fault}")
                else:
                    category, phrase, split, unsafe, safe = (" ".join(field.split()) for field in row)
                    where = SPLITS[split] if split else split_of(phrase)
                    groups.append(_Group(category, phrase, where, (unsafe,), (safe,), place))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PolicyError(f"{path}, the pairs of the policy, cannot be read: {error}") from error
    _report(path, faults)
    yield from groups


def _fault(row: list[str], categories: Mapping[str, Any]) -> str:
    """Tell what is wrong with a row by itself; empty if nothing is."""
    if len(row) != len(COLUMNS):
        return f"{len(row)} fields, expected {len(COLUMNS)}; a sentence with a comma stands in double quotes"
    if any("\n" in field or "\r" in field for field in row):
        return "a field spans lines; look for a stray double quote above"
    values = dict(zip(COLUMNS, (field.strip() for field in row), strict=True))
    category, split = values["category"], values["split"]
    if empty := [name for name, value in values.items() if not value and name != "split"]:
        return f"nothing in {' and '.join(empty)}"
    if category not in categories:
        return f"the category {category!r} is not one of {', '.join(categories)}"
    if split and split not in SPLITS:
        return f"the split {split!r} is not one of {', '.join(SPLITS)}"
    return ""


def _contradictions(groups: list[_Group]) -> Iterator[str]:
    """Tell of phrases in two splits, and of texts that are both safe and unsafe or in two splits."""
    phrases: dict[str, _Group] = {}
    texts: dict[str, tuple[bool, _Group]] = {}
    for group in groups:
        first = phrases.setdefault(_folded(group.phrase), group)
        if first.split != group.split:
            where = f"{group.split}, and in {first.split} at {first.place}"
            yield f"{group.place}: the phrase {group.phrase!r} is in {where}"
            continue
        for unsafe, side in ((True, group.unsafe), (False, group.safe)):
            for text in side:
                was, first = texts.setdefault(_folded(text), (unsafe, group))
                if was != unsafe:
                    yield f"{group.place}: {text!r} is {_word(unsafe)}, and {_word(was)} at {first.place}"
                elif first.split != group.split:
                    yield f"{group.place}: {text!r} is in {group.split}, and in {first.split} at {first.place}"


def _word(unsafe: bool) -> str:
    return "unsafe" if unsafe else "safe"


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _report(path: Path, faults: Iterator[str] | list[str]) -> None:
    """Raise an error that tells the first faults and how many there are."""
    if found := list(faults):
        more = f"; and {len(found) - MOST_FAULTS} more" if len(found) > MOST_FAULTS else ""
        raise PolicyError(f"{path} is no valid policy: {'; '.join(found[:MOST_FAULTS])}{more}")
