"""Changes of entries under the payload key `hysac`, in place, without touching vectors.

Between reading a point and writing what follows from it, somebody else may have replaced it. So a change names the
model and radius that it was made from, and is carried out only if the point still has these.
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
    """New values of some ``hysac`` entries of one point.

    Attributes:
        id: The point.
        entries: The new values; all other entries stay.
        model: Value that ``model`` must still have.
        radius: Value that ``radius`` must still have; None if it was no usable number, and is not compared.
    """

    id: PointId
    entries: Mapping[str, Any]
    model: str
    radius: float | None

    def condition(self) -> models.Filter:
        """Return the condition that holds for the point if it still is what it was."""
        this: Any = models.HasIdCondition(has_id=[self.id])
        must = [this, models.FieldCondition(key=MODEL, match=models.MatchValue(value=self.model))]
        if self.radius is not None:
            span = models.Range(gte=self.radius - _SLACK, lte=self.radius + _SLACK)
            must.append(models.FieldCondition(key=RADIUS, range=span))
        return models.Filter(must=must)

    def operation(self) -> models.SetPayloadOperation:
        """Return the change as a request to a server."""
        change = models.SetPayload(payload=dict(self.entries), filter=self.condition(), key=PAYLOAD_KEY)
        return models.SetPayloadOperation(set_payload=change)

    def fits(self, stored: StoredPoint) -> bool:
        """Whether a point still is what it was."""
        own = own_payload(stored.payload)
        radius = finite_number(own.get("radius"))
        same = self.radius is None or (radius is not None and abs(radius - self.radius) <= _SLACK)
        return same and own.get("model") == self.model


def fitting(amendments: Sequence[Amendment], stored: Sequence[StoredPoint]) -> list[models.SetPayloadOperation]:
    """Return changes by id of points that still are what they were, for engines without an index on them."""
    known = {point.id: point for point in stored}
    return [
        models.SetPayloadOperation(
            set_payload=models.SetPayload(payload=dict(change.entries), points=[change.id], key=PAYLOAD_KEY)
        )
        for change in amendments
        if change.id in known and change.fits(known[change.id])
    ]
