"""Filters in the form that an engine takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from qdrant_client import models

from hysac_retrieval.errors import SettingsError

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
        """Return the form of a filter.

        Raises:
            SettingsError: It has none, as texts that are not Unicode have no JSON and numbers of 65 bits no message.
        """
        known = self._known.get(id(filter))
        if known is not None and known[0] is filter:  # the reference keeps its id from being given to another
            return known[1]
        try:
            form = self._translate(filter)
        except SettingsError:
            raise
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            hint = "Its texts must be Unicode, and its integers of 64 bits"
            raise SettingsError(f"the filter cannot be sent: {error}", hint=hint) from error
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[id(filter)] = (filter, form)
        return form
