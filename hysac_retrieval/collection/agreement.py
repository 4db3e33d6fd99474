"""Comparison of a collection's payload indexes with its payloads, and mending where they differ.

A server goes on finding points by what is indexed below a payload key that was deleted whole. A key that is written
anew is indexed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from hysac_retrieval.collection.collection import payload_indexes
from hysac_retrieval.collection.metadata import CollectionMetadata, read_metadata
from hysac_retrieval.payload import PAYLOAD_KEY, own_payload
from hysac_retrieval.safety.filters import search_filter, verdict_filter
from hysac_retrieval.safety.verdict import flag_name, safe_score
from hysac_retrieval.stores.base import Store, pages
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import PointId

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Agreement:
    """How index and payload agreed before they were mended.

    Attributes:
        points: Points compared.
        stale: Those found as safe although their payload does not say so.
        missing: Those whose payload says that they are safe, and that were not found.
    """

    points: int
    stale: tuple[PointId, ...]
    missing: tuple[PointId, ...]


def reconcile(store: Store, name: str) -> Agreement:
    """Compare what a collection finds as safe with its payloads, and write anew what differs.

    Where the payload is wrong, as with a list in place of a score, the verdict is taken back: the point is not safe
    until it is scored again.

    Raises:
        NotACollectionError: The collection has no metadata of this package.
    """
    metadata = read_metadata(name, store.open(name))
    for key, kind in payload_indexes(metadata.fingerprint).items():
        store.add_index(name, key, kind)  # a collection of an earlier version lacks some
    points, stale, missing = 0, list[PointId](), list[PointId]()
    for page in pages(store, name, limit=_PAGE):
        these: Any = models.Filter(must=[models.HasIdCondition(has_id=[point.id for point in page])])
        condition = search_filter(verdict_filter(metadata.fingerprint), user=these)
        found = {point.id for point in store.scroll(name, filter=condition, limit=_PAGE)[0]}
        safe = {point.id for point in page if _is_safe(point, metadata)}
        differing = [point for point in page if (point.id in found) != (point.id in safe)]
        stale += [point.id for point in differing if point.id in found]
        missing += [point.id for point in differing if point.id in safe]
        points += len(page)
        _mend(store, name, differing, safe, metadata)
    return Agreement(points, tuple(stale), tuple(missing))


def _is_safe(point: StoredPoint, metadata: CollectionMetadata) -> bool:
    return safe_score(own_payload(point.payload), metadata.fingerprint, metadata.safety.threshold) is not None


def _mend(store: Store, name: str, points: list[StoredPoint], safe: set[PointId], metadata: CollectionMetadata) -> None:
    if not points:
        return
    extension = store.extension(name)
    records = {point.id: own_payload(point.payload) for point in points}
    if without := [identity for identity, own in records.items() if not own]:
        extension.erase(without, vector=False)
    refused = {"safe": {flag_name(metadata.fingerprint): False}}
    kept: dict[PointId, Mapping[str, Any]] = {
        identity: own if identity in safe else {**own, **refused} for identity, own in records.items() if own
    }
    extension.write([*kept], None, [{PAYLOAD_KEY: dict(own)} for own in kept.values()])
