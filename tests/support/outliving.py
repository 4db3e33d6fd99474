"""Payload indexes that outlive the payload, as those of a Qdrant server do, for collections in local mode.

A server keeps an index for each key that was asked for. `delete_payload` takes points out of the indexes of exactly the
keys that it names: what is indexed below a key that was deleted is found as before (seen on Qdrant 1.18.3, where
`hysac` was deleted and `hysac.safe.…` is indexed). Setting a key or a null, overwriting, clearing and upserting renew
the indexes. Conditions on other keys look at the payload.
"""

from __future__ import annotations

import re
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.local.local_collection import LocalCollection
from qdrant_client.local.payload_value_extractor import value_by_key

_INDEX = "index of the server"


class _Collection(LocalCollection):
    indexed: set[str]
    outlived: dict[Any, dict[str, Any]]
    """Values of points that only an index still has, by key."""

    def _payload_and_non_deleted_mask(self, payload_filter: models.Filter | None, *rest: Any, **more: Any) -> Any:
        if payload_filter is None or not any(self.outlived.values()):
            return super()._payload_and_non_deleted_mask(payload_filter, *rest, **more)
        condition = models.Filter.model_validate(self._by_index(payload_filter.model_dump(by_alias=True)))
        true = self.payload
        self.payload = [payload | {_INDEX: self._entries(idx)} for idx, payload in enumerate(true)]
        try:
            return super()._payload_and_non_deleted_mask(condition, *rest, **more)
        finally:
            self.payload = true

    def _by_index(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._by_index(one) for one in part]
        if not isinstance(part, dict) or "nested" in part:
            return part
        # Unset fields are left out, as not every kind of condition has them.
        found = {name: self._by_index(value) for name, value in part.items() if value is not None}
        if found.get("key") in self.indexed:
            found["key"] = f'"{_INDEX}"."{found["key"]}"'
        return found

    def _entries(self, idx: int) -> dict[str, Any]:
        here = {key: self._value(idx, key) for key in self.indexed}
        return {key: value for key, value in here.items() if value is not None} | self.outlived.get(
            self.ids_inv[idx], {}
        )

    def _value(self, idx: int, key: str) -> Any:
        found = value_by_key(self.payload[idx], key, flat=False)
        return None if not found else found[0] if len(found) == 1 else found

    def delete_payload(self, keys: Any, selector: Any) -> None:
        ids = [one for one in self._selector_to_ids(selector) if one in self.ids]
        before = {one: self._entries(self.ids[one]) for one in ids}
        super().delete_payload(keys, models.PointIdsList(points=ids) if ids else selector)
        for one in ids:
            left = {key: value for key, value in before[one].items() if key not in keys}
            gone = {key: value for key, value in left.items() if self._value(self.ids[one], key) is None}
            self.outlived[one] = gone

    def set_payload(self, payload: Any, selector: Any, key: str | None = None) -> None:
        ids = self._selector_to_ids(selector)
        super().set_payload(payload, models.PointIdsList(points=ids) if ids else selector, key)
        paths = [f"{key}.{name}" if key else name for name in payload]
        for one in ids:
            kept = self.outlived.get(one, {}).items()
            self.outlived[one] = {k: value for k, value in kept if not any(_overlap(k, path) for path in paths)}

    def overwrite_payload(self, payload: Any, selector: Any) -> None:
        self._renewed(selector, lambda ids: LocalCollection.overwrite_payload(self, payload, ids))

    def clear_payload(self, selector: Any) -> None:
        self._renewed(selector, lambda ids: LocalCollection.clear_payload(self, ids))

    def delete(self, selector: Any) -> None:
        self._renewed(selector, lambda ids: LocalCollection.delete(self, ids))

    def _upsert_point(self, point: models.PointStruct, *rest: Any, **more: Any) -> None:
        super()._upsert_point(point, *rest, **more)
        self.outlived.pop(point.id, None)

    def _renewed(self, selector: Any, act: Any) -> None:
        ids = self._selector_to_ids(selector)
        act(models.PointIdsList(points=ids) if ids else selector)
        for one in ids:
            self.outlived.pop(one, None)


def _overlap(one: str, other: str) -> bool:
    first, second = re.split(r"[.\[]", one), re.split(r"[.\[]", other)
    return all(a == b for a, b in zip(first, second, strict=False))


def index_key(client: QdrantClient, name: str, key: str) -> None:
    """Index a payload field of a collection in local mode, as a server does."""
    collection: Any = client._client.collections[name]  # type: ignore[attr-defined]
    if type(collection) is LocalCollection:
        collection.__class__ = _Collection
        collection.indexed, collection.outlived = set(), {}  # type: ignore[attr-defined]
    collection.indexed.add(key)


def drop_key(client: QdrantClient, name: str, key: str) -> None:
    """Index a payload field no longer."""
    collection: Any = client._client.collections[name]  # type: ignore[attr-defined]
    if isinstance(collection, _Collection):
        collection.indexed.discard(key)
        for entries in collection.outlived.values():
            entries.pop(key, None)
