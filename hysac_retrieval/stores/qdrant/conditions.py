"""Conditions in a filter of the client's: the fields that they name, and what a server must be able to do for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qdrant_client import models

from hysac_retrieval.stores.versions import PREFIXES, SLICES, SUBSTRINGS, Feature

_NEWER: dict[type, Feature] = {
    models.SliceCondition: SLICES,
    models.MatchPrefix: PREFIXES,
    models.MatchSubstring: SUBSTRINGS,
}


def needed_features(filter: models.Filter | None) -> set[Feature]:
    """Return what a server must be able to do for a filter."""
    found = {_NEWER.get(type(getattr(one, "match", None) or one)) for one, _ in _conditions(filter)}
    return {feature for feature in found if feature is not None}


def fields(part: Any) -> Iterator[str]:
    """Return the payload fields that a filter, or a condition of one, names; ids and vectors need no index."""
    for one, below in _conditions(part):
        match one:
            case models.FieldCondition(key=key):
                yield below + key
            case models.IsEmptyCondition(is_empty=field) | models.IsNullCondition(is_null=field):
                yield below + field.key


def _conditions(part: Any, below: str = "") -> Iterator[tuple[Any, str]]:
    """Return single conditions, each with the path of the objects that it is about."""
    match part:
        case models.NestedCondition(nested=nested):
            yield from _conditions(nested.filter, f"{below}{nested.key.removesuffix('[]')}[].")
        case models.Filter():
            some = part.min_should.conditions if part.min_should else []
            for one in (*listed(part.must), *listed(part.must_not), *listed(part.should), *some):
                yield from _conditions(one, below)
        case None:
            return
        case _:
            yield part, below


def listed(part: Any) -> list[Any]:
    """Return the conditions of one part of a filter, which may be a single one or none."""
    return part if isinstance(part, list) else [] if part is None else [part]
