"""Vectors and scores that are attached to a collection of an application: written, kept in step and taken away."""

from __future__ import annotations

from collections.abc import Collection as Many
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import ArrayLike
from qdrant_client import models

from hysac_retrieval.collection.collection import Collection, payload_indexes, top_field
from hysac_retrieval.collection.metadata import Attached, read_metadata
from hysac_retrieval.collection.records import records
from hysac_retrieval.collection.reviews import keep_reviews
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.payload import PAYLOAD_KEY, RADIUS, WORST_RADIUS, normal_ids
from hysac_retrieval.safety.verdict import REVIEW, REVIEWED_UNSAFE, flag_key
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.stores.base import Store, found, pages
from hysac_retrieval.stores.types import VECTOR_NAME, StoredPoint
from hysac_retrieval.types import Modality, PointId

SCORED = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=PAYLOAD_KEY))])
"""Condition of points that carry a score."""

HELD = models.HasVectorCondition(has_vector=VECTOR_NAME)
"""Condition of points that carry a vector of this package."""

STAYS = (
    "its configuration, in which the vector without a name now is one named '': Qdrant turned it into a map when a "
    "named vector was added, and never turns it back"
)

_PAGE = 1000
_MARKED = models.Filter(should=[SCORED, models.IsNullCondition(is_null=models.PayloadField(key=PAYLOAD_KEY))])
"""Condition of points with anything under the key: a score, or the null that an interrupted `erase` leaves."""


@dataclass(frozen=True)
class Attachment:
    """Vectors and scores in a collection of an application.

    Attributes:
        store: Store of the collections.
        name: The application's collection.
        collection: The collection that holds the vectors: the application's own, or a companion.
    """

    store: Store
    name: str
    collection: Collection

    @classmethod
    def of(cls, store: Store, collection: Collection) -> Self:
        """Return the attachment that a collection with vectors belongs to.

        Raises:
            SettingsError: It belongs to none.
        """
        attached = collection.metadata.attached
        if attached is None:
            raise SettingsError(
                f"collection {collection.name!r} is attached to none of an application: it was made by hysac-index, "
                "or by Index.create"
            )
        return cls(store, attached.collection, collection)

    @property
    def attached(self) -> Attached:
        """How it is attached."""
        return self.collection.metadata.attached or Attached(collection=self.name)

    @property
    def companion(self) -> bool:
        """Whether the vectors are in a companion collection."""
        return self.collection.name != self.name

    @property
    def in_place(self) -> bool:
        """Whether the vectors are in the application's collection."""
        return not self.companion and not self.attached.scores_only

    def write(
        self,
        ids: Sequence[Any],
        points: ArrayLike,
        modality: Modality,
        marks: Sequence[Mapping[str, Any]] | None,
        judged: Sequence[Judged | None] | None = None,
    ) -> int:
        """See `Index.annotate`."""
        keys, vectors, rows = records(self.collection, ids, points, modality, None, marks, judged)
        if not keys:
            return 0
        keep_reviews(found(self.store, self.name, keys, fields=[PAYLOAD_KEY]), keys, rows)
        if self.companion:
            labels = self._labels_of(found(self.store, self.name, keys)) if self.attached.labels else {}
            labelled = [{**labels.get(key, {}), **row} for key, row in zip(keys, rows, strict=True)]
            self.store.upsert(self.collection.name, keys, vectors, labelled)
        return self.store.extension(self.name).write(keys, vectors if self.in_place else None, rows)

    def erase(self, ids: Sequence[Any]) -> None:
        """Take vectors and scores from points, which are then not safe."""
        keys: list[PointId] = normal_ids(ids)
        if not keys:
            return
        self.store.extension(self.name).erase(keys, vector=self.in_place)
        if self.companion:
            self.store.delete(self.collection.name, keys)

    def vectors_are_missing(self) -> bool:
        """Whether some point seems to have a score and no vector.

        An application that reads a point and writes it back whole takes the score along and leaves the vector; and a
        companion may be younger than the scores.
        """
        if self.attached.scores_only:
            return False
        if self.companion and self.store.open(self.collection.name).copies > 1:
            return True  # one of them may lack some
        scored = self.store.count(self.name, SCORED)
        if self.companion:
            return scored != self.store.count(self.collection.name)
        return scored != self.store.count(self.name, models.Filter(must=[HELD], must_not=SCORED.must_not))

    def without_vector(self, page: Sequence[StoredPoint]) -> Many[PointId]:
        """Return those of some points of the application that have no vector."""
        ids = [point.id for point in page]
        condition = None if self.companion else models.Filter(must=[HELD])
        held = found(self.store, self.collection.name, ids, condition)
        return {*ids} - {point.id for point in held if not point.differs}

    def copy_labels(self, page: Sequence[StoredPoint]) -> None:
        """Bring the labels that a companion holds in step with those of some points of the application."""
        if not self.companion or not self.attached.labels:
            return
        wanted = self._labels_of(page)
        held = self._labels_of(found(self.store, self.collection.name, [*wanted]))
        stale = [identity for identity, labels in held.items() if labels != wanted[identity]]
        if stale:
            home = self.store.extension(self.collection.name)
            home.write(stale, None, [wanted[identity] for identity in stale])

    def sweep(self) -> int:
        """Remove from a companion what belongs to points that the application has removed, or whose score is gone.

        Returns:
            How many there were.
        """
        if not self.companion:
            return 0
        removed = 0
        for page in pages(self.store, self.collection.name, limit=_PAGE):
            ids = [point.id for point in page]
            stale = sorted({*ids} - {point.id for point in found(self.store, self.name, ids, SCORED)}, key=str)
            if stale:
                self.store.delete(self.collection.name, stale)
                removed += len(stale)
        return removed

    def stays(self) -> str:
        """Return what `detach` cannot take back; empty where that is nothing."""
        return STAYS if self.in_place and self.store.extension(self.name).facts().mapped else ""

    def detach(self) -> int:
        """See `Index.detach`. Killed at any moment, it can be called again: the metadata goes last."""
        extension, taken = self.store.extension(self.name), 0
        for page in pages(self.store, self.name, filter=_MARKED, limit=_PAGE):
            extension.erase([point.id for point in page], vector=False)  # the vectors go all at once
            taken += len(page)
        home = self.collection.name
        if self.companion and self.store.exists(home) and is_companion(self.store, home, self.name):
            self.store.drop(home)
        metadata = self.collection.metadata  # a rescore that was stopped has left indexes of earlier verdicts
        earlier = [flag_key(calibration.fingerprint) for calibration in metadata.earlier]
        extension.retract(
            [
                *payload_indexes(metadata.fingerprint),
                *earlier,
                *(RADIUS, WORST_RADIUS, REVIEW, REVIEWED_UNSAFE),
                *self.attached.indexed,
            ]
        )
        return taken

    def _labels_of(self, points: Sequence[StoredPoint]) -> dict[PointId, dict[str, Any]]:
        """Return, by id, the payload fields that hold the labels, whole; None where a point has no such field."""
        fields = {top_field(label) for label in self.attached.labels}
        return {point.id: {field: point.payload.get(field) for field in fields} for point in points}


def is_companion(store: Store, companion: str, name: str) -> bool:
    """Whether a collection is the companion of the application's collection `name`."""
    opened = store.open(companion)
    attached = None if opened.metadata is None else read_metadata(companion, opened).attached
    return attached is not None and (attached.collection, attached.companion) == (name, companion)
