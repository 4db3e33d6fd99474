"""Filters in the form that an engine takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from qdrant_client import models

T = TypeVar("T")
_MOST = 64


class Remembered(Generic[T]):
    """Translates filters; one that comes again, as those of prepared requests do, only once.

    Args:
        translate: Makes the engine's form of a filter.
    """

    def __init__(self, translate: Callable[[models.Filter], T]) -> None:
        self._translate = translate
        self._known: dict[int, tuple[models.Filter, T]] = {}

    def __call__(self, filter: models.Filter) -> T:
        """Return the form of a filter."""
        known = self._known.get(id(filter))
        if known is not None and known[0] is filter:  # the reference keeps its id from being given to another
            return known[1]
        form = self._translate(filter)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[id(filter)] = (filter, form)
        return form
