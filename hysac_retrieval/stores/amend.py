"""Changes of entries under the payload key `hysac`, in place, without touching vectors.

Between reading a point and writing what follows from it, somebody else may have replaced it. So a change names the
model and radius that it was made from, and is carried out only if the point still has these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from hysac_retrieval.payload import MODEL, PAYLOAD_KEY, RADIUS, WORST_RADIUS, finite_number, own_payload
from hysac_retrieval.stores.types import ShardKey, StoredPoint
from hysac_retrieval.types import PointId

_SLACK = 1e-9  # numbers come back from an engine to within a unit in the last place


@dataclass(frozen=True, slots=True)
class Amendment:
    """New values of some ``hysac`` entries of one point.

    Attributes:
        id: The point.
        entries: The new values; all other entries stay.
        model: Value that ``model`` must still have; None to change the point whatever it has become.
        radius: Value that ``radius`` must still have; None if it was no usable number, and is not compared.
        worst: Radius that its worst view must still have; None for a point without a usable one, and it must not have
            got one since.
    """

    id: PointId
    entries: Mapping[str, Any]
    model: str | None
    radius: float | None = None
    worst: float | None = None

    def condition(self) -> models.Filter:
        """Return the condition that holds for the point if it still is what it was."""
        this: Any = models.HasIdCondition(has_id=[self.id])
        if self.model is None:
            return models.Filter(must=[this])
        must = [this, models.FieldCondition(key=MODEL, match=models.MatchValue(value=self.model))]
        for key, known in ((RADIUS, self.radius), (WORST_RADIUS, self.worst)):
            if known is not None:
                span = models.Range(gte=known - _SLACK, lte=known + _SLACK)
                must.append(models.FieldCondition(key=key, range=span))
        # An index on model and radius outlives the deletion of the payload key above them.
        must_not: list[Any] = [models.IsEmptyCondition(is_empty=models.PayloadField(key=PAYLOAD_KEY))]
        if self.worst is None:
            must_not.append(models.FieldCondition(key=WORST_RADIUS, range=models.Range(gte=0.0)))
        return models.Filter(must=must, must_not=must_not)

    def operation(self, shard_key: ShardKey | None = None) -> models.SetPayloadOperation:
        """Return the change as a request to a server, of a point in the shards of some key."""
        change = models.SetPayload(
            payload=dict(self.entries), filter=self.condition(), key=PAYLOAD_KEY, shard_key=shard_key
        )
        return models.SetPayloadOperation(set_payload=change)

    def fits(self, stored: StoredPoint) -> bool:
        """Whether a point still is what it was."""
        if self.model is None:
            return True
        own = own_payload(stored.payload)
        radius, worst = finite_number(own.get("radius")), stored_worst(own)
        same = (self.radius is None or _near(self.radius, radius)) and _near(self.worst, worst)
        return same and own.get("model") == self.model


def stored_worst(own: Mapping[str, Any]) -> float | None:
    """Return the radius of a point's worst view, by its ``hysac`` payload; None if it has no usable one."""
    worst = own.get("worst")
    return finite_number(worst.get("radius")) if isinstance(worst, Mapping) else None


def _near(known: float | None, now: float | None) -> bool:
    return known is now if known is None or now is None else abs(now - known) <= _SLACK


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
