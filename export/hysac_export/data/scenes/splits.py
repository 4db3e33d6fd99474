"""Which pairs of entities belong to which split: decided by hashes, so that it never changes with a seed or an order.

About a tenth of all unordered pairs is kept for testing and a tenth for validation. The companions of a
context-dependent entity are few, so they are ranked by hash instead: one or two per side are kept for the split
`context`, one for validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import cache
from itertools import combinations

from hysac_export.data.scenes.catalogue import KNOWN_STYLES, TRAIN_STYLES, UNSEEN_STYLES, catalogue
from hysac_retrieval.errors import SettingsError

SPLITS = ("train", "validation", "test", "context", "entities", "style")
"""The splits; the last four are for testing."""


class Use(IntEnum):
    """Use of a pair of entities."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    CONTEXT = 3


def uses(entities: Iterable[str]) -> frozenset[Use]:
    """The uses of all pairs within a scene."""
    return frozenset(_use(a, b) for a, b in combinations(sorted(entities), 2))


def use(a: str, b: str) -> Use:
    """The use of an unordered pair of entities."""
    return _use(a, b) if a < b else _use(b, a)


@cache
def _ranked() -> Mapping[tuple[str, str], Use]:
    """Uses of the context-dependent entities' pairs with their companions."""
    ranked: dict[tuple[str, str], Use] = {}
    for entity in catalogue().entities.values():
        for side in (entity.safe_with, entity.unsafe_with):
            kept = [Use.CONTEXT] * (1 if len(side) < 8 else 2) + [Use.VALIDATION]
            for place, other in enumerate(sorted(side, key=lambda o: stable_hash(entity.id, o))):
                low, high = sorted((entity.id, other))
                ranked[low, high] = kept[place] if place < len(kept) else Use.TRAIN
    return ranked


@cache
def _use(a: str, b: str) -> Use:
    if (a, b) in _ranked():
        return _ranked()[a, b]
    share = stable_hash(a, b) % 10
    return Use.TEST if share == 0 else Use.VALIDATION if share == 1 else Use.TRAIN


def stable_hash(*words: str) -> int:
    """A number below 2^32 that depends on the words alone, on every machine and in every Python."""
    return int.from_bytes(hashlib.blake2b("\n".join(words).encode(), digest_size=4).digest(), "big")


def check_split(split: str) -> None:
    """Raises `SettingsError` for a name that is no split."""
    if split not in SPLITS:
        raise SettingsError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")


def styles_for(split: str) -> tuple[str, ...]:
    """The art styles in which the scenes of a split are drawn (`SettingsError`: there is no such split)."""
    check_split(split)
    return {"style": UNSEEN_STYLES, "train": TRAIN_STYLES}.get(split, KNOWN_STYLES)
