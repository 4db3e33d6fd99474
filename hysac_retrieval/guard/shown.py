"""The payload that a guarded method asks for: what the caller wants to see, and what the check needs beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models
from qdrant_client.local.payload_value_extractor import exclude_payload, include_payload

from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.safety.policy import LabelRule

_HEAD = re.compile(r'"([^"]*)"|([^.\[]*)')


def checked_keys(labels: tuple[LabelRule, ...]) -> tuple[str, ...]:
    """Return the top-level payload keys that decide whether a point may be handed on."""
    return tuple(dict.fromkeys((PAYLOAD_KEY, *(_head(rule.key) for rule in labels))))


@dataclass(frozen=True, slots=True)
class Shown:
    """A caller's selection of payload fields.

    Attributes:
        asked: The selection: all, none, some, or all but some.
        needed: Top-level keys that the check needs.
    """

    asked: bool | list[str] | models.PayloadSelectorInclude | models.PayloadSelectorExclude
    needed: tuple[str, ...]

    def request(self) -> Any:
        """Return the selection with what is needed."""
        if self.asked is True:
            return True
        if isinstance(self.asked, models.PayloadSelectorExclude):
            return models.PayloadSelectorExclude(
                exclude=[path for path in self.asked.exclude if _head(path) not in self.needed]
            )
        return models.PayloadSelectorInclude(include=list(dict.fromkeys((*self._included(), *map(_path, self.needed)))))

    def narrowed(self, payload: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return of a payload what the caller asked for."""
        if self.asked is False or payload is None:
            return None
        if self.asked is True:
            return dict(payload)
        if isinstance(self.asked, models.PayloadSelectorExclude):
            return exclude_payload(dict(payload), self.asked.exclude)
        return include_payload(dict(payload), self._included())

    def _included(self) -> list[str]:
        if isinstance(self.asked, models.PayloadSelectorInclude):
            return self.asked.include
        return self.asked if isinstance(self.asked, list) else []


def _head(path: str) -> str:
    """Return the top-level key that a JSON path begins with."""
    found = _HEAD.match(path)
    return "" if found is None else found[1] if found[1] is not None else found[2]


def _path(key: str) -> str:
    """Return the JSON path of a top-level key."""
    return key if re.fullmatch(r"[\w-]+", key) else f'"{key}"'
