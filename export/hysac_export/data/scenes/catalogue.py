"""The things that scenes are made of: entities with their words, artwork and safety, settings and lights."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from hysac_retrieval.errors import TrainingError

KNOWN_STYLES = ("fluent-emoji", "fluent-emoji-flat", "noto", "noto-v1")
"""Art styles that all splits but `style` are drawn in."""
TRAIN_STYLES = (*KNOWN_STYLES, "twemoji", "emojione")
"""Art styles that training scenes are drawn in: two more, so that a model learns what things have in common."""
UNSEEN_STYLES = ("fxemoji",)
"""Art styles that only the split `style` is drawn in."""
CATEGORIES = ("violence", "weapons", "drugs", "illegal", "shocking", "harassment")
"""Kinds of unsafe content."""

_OUTDOORS = frozenset({"vehicle", "place", "sky"})
_FIELDS = frozenset({"nouns", "icon", "unsafe", "held_out", "safe_with", "unsafe_with"})


@dataclass(frozen=True)
class Entity:
    """Something a scene can hold.

    Attributes:
        kind: table of the catalogue, such as `animal`; `context` and `unsafe` for things that are not always safe.
        nouns: words that people type for it, the usual one first; mass and plural nouns start with `some`.
        category: one of `CATEGORIES` when it is or can be unsafe, else empty.
        held_out: whether training never sees it.
        safe_with: companions that make a context-dependent entity safe; `unsafe_with` those that make it unsafe.
        icons: icon name by style, if it differs from `icon`, that of the training styles; "" for none.
    """

    id: str
    kind: str
    nouns: tuple[str, ...]
    category: str = ""
    held_out: bool = False
    safe_with: tuple[str, ...] = ()
    unsafe_with: tuple[str, ...] = ()
    icons: Mapping[str, str] = field(default_factory=dict)
    icon: str = ""

    @property
    def unsafe(self) -> bool:
        """Whether it makes every scene unsafe."""
        return bool(self.category) and not self.safe_with

    @property
    def context(self) -> bool:
        """Whether its company decides."""
        return bool(self.safe_with)

    @property
    def outdoors(self) -> bool:
        """Whether it has no place in an indoor setting."""
        return self.kind in _OUTDOORS

    def icon_in(self, style: str) -> tuple[str, bool]:
        """The icon name in a style ("" for none), and whether the catalogue names it for this very style."""
        if style in self.icons:
            return self.icons[style], True
        return (self.icon or self.id, False) if style in TRAIN_STYLES else ("", False)


@dataclass(frozen=True)
class Surrounding:
    """A setting or a light: its name, the phrases captions use, and whether it is indoors."""

    id: str
    phrases: tuple[str, ...]
    indoor: bool = False


@dataclass(frozen=True)
class Catalogue:
    """All entities, settings and lights, each by id in the order of the file."""

    entities: Mapping[str, Entity]
    settings: Mapping[str, Surrounding]
    lights: Mapping[str, Surrounding]


@cache
def catalogue() -> Catalogue:
    """The catalogue of this package, read and checked once."""
    return parse_catalogue(files(__package__).joinpath("catalogue.toml").read_text("utf-8"))


def parse_catalogue(text: str) -> Catalogue:
    """Read a catalogue from TOML (`TrainingError`: the file contradicts itself; the message names the entity)."""
    tables = tomllib.loads(text)
    settings, lights = (
        {key: Surrounding(key, tuple(v["phrases"]), v.get("indoor", False)) for key, v in tables.pop(table).items()}
        for table in ("settings", "lights")
    )
    entities: dict[str, Entity] = {}
    for kind, table in tables.items():
        for key, value in table.items():
            if key in entities:
                raise TrainingError(f"Entity {key!r} stands in the catalogue twice", hint="Rename one of them")
            entities[key] = _entity(key, kind, value)
    _check(entities)
    return Catalogue(entities, settings, lights)


def _entity(key: str, kind: str, value: dict[str, Any]) -> Entity:
    styles = {*TRAIN_STYLES, *UNSEEN_STYLES}
    if unknown := set(value) - _FIELDS - styles:
        raise TrainingError(f"Entity {key!r} has unknown fields {sorted(unknown)}; known: {sorted(_FIELDS | styles)}.")
    return Entity(
        id=key,
        kind=kind,
        nouns=tuple(value.get("nouns", ())),
        category=value.get("unsafe", ""),
        held_out=value.get("held_out", False),
        safe_with=tuple(value.get("safe_with", ())),
        unsafe_with=tuple(value.get("unsafe_with", ())),
        icons={s: value[s] for s in value if s in styles},
        icon=value.get("icon", ""),
    )


def _check(entities: Mapping[str, Entity]) -> None:
    nouns: dict[str, str] = {}
    for entity in entities.values():
        if not entity.nouns:
            raise TrainingError(f"Entity {entity.id!r} has no nouns", hint="Name a word that people type for it")
        for noun in entity.nouns:
            if (other := nouns.setdefault(noun, entity.id)) != entity.id:
                raise TrainingError(f"{noun!r} means both {other!r} and {entity.id!r}; a caption must tell them apart.")
        if entity.category and entity.category not in CATEGORIES:
            raise TrainingError(f"Entity {entity.id!r}: {entity.category!r} is none of the categories {CATEGORIES}.")
        if bool(entity.safe_with) != bool(entity.unsafe_with):
            raise TrainingError(f"Entity {entity.id!r} needs both safe_with and unsafe_with, or neither.")
        if both := set(entity.safe_with) & set(entity.unsafe_with):
            raise TrainingError(f"Entity {entity.id!r}: {sorted(both)} cannot make it both safe and unsafe.")
        for other in entity.safe_with + entity.unsafe_with:
            if other not in entities or entities[other].category:
                raise TrainingError(f"Entity {entity.id!r} names the companion {other!r}, which is no harmless entity.")
