"""Labels in a payload field of a collection, where `hysac fit --label-field` finds them."""

from __future__ import annotations

from typing import Any

from qdrant_client import models

from hysac_export.fit.labels.candidates import Candidate
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.stores.base import Store


class LabelField:
    """Writes true (unsafe) or false to a field of points, and nothing else.

    Raises:
        SettingsError: The field lies within another, or is the one of this package.
    """

    def __init__(self, store: Store, name: str, field: str) -> None:
        if field == PAYLOAD_KEY or not field or any(sign in field for sign in ".|["):
            raise SettingsError(f"labels cannot be written to the field {field!r}", hint="Name one of the top level")
        self._store, self._name, self._field = store, name, field

    def keep(self, item: Candidate, unsafe: bool) -> None:
        """See `Keeper`.

        Raises:
            SettingsError: The point is gone.
        """
        assert item.point is not None
        if not self._store.extension(self._name).write([item.point], None, [{self._field: unsafe}]):
            raise SettingsError(f"point {item.point} of {self._name!r} is no longer there", hint="Start again")

    def take_back(self, item: Candidate) -> None:
        """See `Keeper`."""
        this: Any = models.HasIdCondition(has_id=[item.point])
        self._store.strip(self._name, [self._field], models.Filter(must=[this]))
