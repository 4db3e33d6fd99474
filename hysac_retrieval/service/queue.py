"""The queue of a reviewer: what nobody has decided on, the most telling first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qdrant_client import models as conditions

from hysac_retrieval.collection.index import Index
from hysac_retrieval.ingest.sources.fields import value_of
from hysac_retrieval.payload import PAYLOAD_KEY, UNSAFE, finite_number, own_payload, stored_modality
from hysac_retrieval.service.models import Waiting
from hysac_retrieval.stores.base import pages
from hysac_retrieval.stores.types import StoredPoint

REPORTS = f"{PAYLOAD_KEY}.reported.count"
Admits = Callable[[Mapping[str, Any]], bool]
"""Whether the rules of the policy let a point with a payload be seen at all."""

_WIDTHS = (0.01, 0.05, 0.2, 1.0)
_LOOKED_AT = 5000
"""Points that are looked at for one page of the queue."""
MOST_POINTS = 100_000
"""Points that are looked at for one that goes by a field."""


def uncertain(index: Index, limit: int, admits: Admits) -> list[Waiting]:
    """Return points whose scores are the nearest to their threshold, blocking; of very many, the first there are."""
    thresholds = index.metadata.safety.threshold
    items: list[Waiting] = []
    for width in _WIDTHS:
        near = conditions.Range(gte=thresholds.strictest - width, lte=thresholds.loosest + width)
        items = [_item(point) for point in _points(index, conditions.FieldCondition(key=UNSAFE, range=near), admits)]
        if len(items) >= limit:
            break
    items.sort(key=lambda item: (abs((item.unsafe or 0.0) - thresholds.of(item.modality)), str(item.id)))
    return items[:limit]


def reported(index: Index, limit: int, admits: Admits) -> list[Waiting]:
    """Return points that were reported, those with most reports first, blocking."""
    some = conditions.FieldCondition(key=REPORTS, range=conditions.Range(gte=1))
    index.store.admit(index.name, {REPORTS: "integer"})
    items = sorted(
        (_item(point) for point in _points(index, some, admits)), key=lambda item: (-item.reports, str(item.id))
    )
    return items[:limit]


def highest(index: Index, limit: int, admits: Admits, field: str) -> list[Waiting]:
    """Return points by a field of their payload, blocking: the largest numbers first, then texts from the last down.

    So a count begins with the largest one, and a time as ISO 8601 writes it with the latest. Points without the field
    come last. The application keeps the field: to count views here would be a write for each search.
    """
    points = _points(index, None, admits, most=MOST_POINTS)
    found = heapq.nlargest(limit, points, key=lambda point: _rank(value_of(point.payload, field)))
    return [_item(point) for point in found]


def _rank(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 2, float(value), ""
    return (1, 0.0, value) if isinstance(value, str) else (0, 0.0, "")


def _points(index: Index, condition: Any, admits: Admits, most: int = _LOOKED_AT) -> Iterator[StoredPoint]:
    looked, narrowed = 0, None if condition is None else conditions.Filter(must=[condition])
    for page in pages(index.store, index.name, filter=narrowed, limit=500):
        yield from (
            point for point in page if own_payload(point.payload).get("review") is None and admits(point.payload)
        )
        looked += len(page)
        if looked >= most:
            return


def _item(point: StoredPoint) -> Waiting:
    own = own_payload(point.payload)
    told, vote = own.get("reported"), own.get("vote")
    reports = told if isinstance(told, dict) else {}
    count, reasons = reports.get("count"), reports.get("reasons")
    return Waiting(
        id=point.id,
        unsafe=finite_number(own.get("unsafe")),
        modality=stored_modality(own),
        payload={key: value for key, value in point.payload.items() if key != PAYLOAD_KEY},
        reports=count if isinstance(count, int) else 0,
        reasons=[str(reason) for reason in reasons] if isinstance(reasons, list) else [],
        voted_by=vote["by"] if isinstance(vote, dict) and isinstance(vote.get("by"), str) else None,
    )
