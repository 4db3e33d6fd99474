"""Changing what is kept with points under our payload key, in place, without touching their vectors.

Between reading a point and writing what follows from it, somebody else may have replaced it. So a change names what it
was made from, and is carried out only where that still holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from hysac_retrieval.payload import MODEL, PAYLOAD_KEY, RADIUS, finite_number, own_payload
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import PointId

_SLACK = 1e-9  # numbers come back from an engine to within a unit in the last place


@dataclass(frozen=True, slots=True)
class Amendment:
    """New values of some entries under our payload key of one point.

    Attributes:
        id: The point.
        entries: The new values; all other entries stay.
        model: What ``model`` must still be.
        radius: What ``radius`` must still be; None where it was no usable number, which is not looked at then.
    """

    id: PointId
    entries: Mapping[str, Any]
    model: str
    radius: float | None

    def condition(self) -> models.Filter:
        """The point, if it still is what it was."""
        this: Any = models.HasIdCondition(has_id=[self.id])
        must = [this, models.FieldCondition(key=MODEL, match=models.MatchValue(value=self.model))]
        if self.radius is not None:
            span = models.Range(gte=self.radius - _SLACK, lte=self.radius + _SLACK)
            must.append(models.FieldCondition(key=RADIUS, range=span))
        return models.Filter(must=must)

    def operation(self) -> models.SetPayloadOperation:
        """The change as a request to a server."""
        entries = dict(self.entries)
        change = models.SetPayload(payload=entries, filter=self.condition(), key=PAYLOAD_KEY)
        return models.SetPayloadOperation(set_payload=change)

    def fits(self, stored: StoredPoint) -> bool:
        """Whether a point still is what it was."""
        ours = own_payload(stored.payload)
        radius = finite_number(ours.get("radius"))
        same = self.radius is None or (radius is not None and abs(radius - self.radius) <= _SLACK)
        return same and ours.get("model") == self.model


def fitting(amendments: Sequence[Amendment], stored: Sequence[StoredPoint]) -> list[models.SetPayloadOperation]:
    """Changes by id of those points that still are what they were; for engines that search a condition one by one."""
    known = {point.id: point for point in stored}
    return [
        models.SetPayloadOperation(
            set_payload=models.SetPayload(payload=dict(change.entries), points=[change.id], key=PAYLOAD_KEY)
        )
        for change in amendments
        if change.id in known and change.fits(known[change.id])
    ]
