"""Vectors and scores added to a collection of an application, and taken away again.

These are one named vector, one payload key with its indexes, and one key of the collection's metadata; nothing else is
written to. Where an engine cannot add a vector to a collection, a companion collection holds the vectors, under the
same ids; scores and metadata are in the application's collection all the same, because the guard needs them there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from numpy.typing import ArrayLike
from qdrant_client import models

from hysac_retrieval.collection.collection import Collection, payload_indexes
from hysac_retrieval.collection.metadata import Attached, CollectionMetadata, read_metadata
from hysac_retrieval.collection.records import records
from hysac_retrieval.collection.schema import spec_of
from hysac_retrieval.errors import CollectionExistsError, NotACollectionError, SettingsError
from hysac_retrieval.payload import PAYLOAD_KEY, normal_ids
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.stores.base import Store, pages
from hysac_retrieval.stores.types import VECTOR_NAME, HnswOptions, Opened, Quantization
from hysac_retrieval.types import Modality, PointId

COMPANION = "-hysac"
"""Suffix of the name of a companion collection, after the name of the application's."""

_PAGE = 1000
_SCORED = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=PAYLOAD_KEY))])

_log = logging.getLogger(__name__)


def attach(
    store: Store, name: str, describe: Callable[[Quantization | None], CollectionMetadata], hnsw: HnswOptions
) -> Collection:
    """Prepare a collection of an application for vectors and scores, or open it if that was done; see `Index.attach`.

    Killed at any moment, it can be called again: the metadata, which says that something is attached, comes last.

    Args:
        store: Store of the collection.
        name: The application's collection.
        describe: Returns the metadata to keep, for vectors that are compressed in some way.
        hnsw: Options of the graph.

    Returns:
        The collection that holds the vectors.
    """
    opened = store.open(name)
    if opened.metadata is not None:
        return _attached_before(store, name, opened, describe)
    extension = store.extension(name)
    facts = extension.facts()
    _expect_free(store, name, facts.has_vector)
    companion = name + COMPANION if facts.obstacle else None
    own = describe(None if facts.obstacle else facts.quantization)
    metadata = own.model_copy(update={"attached": Attached(collection=name, companion=companion)})
    spec = replace(spec_of(metadata, hnsw), quantization=None)  # of an added vector it is that of the collection
    if companion is None:
        extension.extend(spec)
        return Collection.read(name, store.open(name), metadata.fingerprint)
    _log.warning(
        "%s. So the vectors of %r go into the collection %r, under the same ids; search there, and look payloads up "
        "in %r",
        facts.obstacle,
        name,
        companion,
        name,
    )
    if not store.exists(companion):
        store.create(companion, spec)
    elif not _is_companion(store, companion, name):
        raise CollectionExistsError(
            f"the vectors of {name!r} would go into a collection {companion!r}, and there is another one of that name",
            hint="Rename or remove it, or attach with a Qdrant of 1.18 or later, which needs none",
        )
    collection = Collection.read(companion, store.open(companion), metadata.fingerprint)
    extension.extend(spec, vector=False)
    return collection


def _attached_before(
    store: Store, name: str, opened: Opened, describe: Callable[[Quantization | None], CollectionMetadata]
) -> Collection:
    found = read_metadata(name, opened)
    if found.attached is None:
        raise CollectionExistsError(
            f"collection {name!r} was made by hysac-index, so there is nothing to attach",
            hint="Index into it, or search it",
        )
    home = found.attached.companion or name
    return Collection.read(home, store.open(home), describe(found.quantization).fingerprint)


def _is_companion(store: Store, companion: str, name: str) -> bool:
    """Whether a collection is the companion of the application's collection `name`."""
    found = store.open(companion)
    return found.metadata is not None and read_metadata(companion, found).attached == Attached(
        collection=name, companion=companion
    )


def open_collection(name: str, expect_fingerprint: str | None = None) -> Steps[Collection]:
    """Open the collection that holds the vectors of the collection `name`: itself, or its companion.

    Raises:
        CollectionNotFoundError: There is none of that name.
        NotACollectionError: It has no vector or metadata.
        ModelMismatchError: Another model made it.
    """
    opened: Opened = yield Ask("open", name)
    if opened.size is None and opened.metadata is not None:
        attached = read_metadata(name, opened).attached
        if attached is not None and attached.companion is not None:
            name = attached.companion
            opened = yield Ask("open", name)
    return Collection.read(name, opened, expect_fingerprint)


def open_attached(store: Store, name: str) -> Attachment:
    """Return what is attached to a collection of an application, even if it is there only in part.

    Raises:
        SettingsError: Nothing is.
        NotACollectionError: The metadata cannot be read.
    """
    metadata = read_metadata(name, store.open(name))
    home = (metadata.attached.companion if metadata.attached else None) or name
    return Attachment.of(store, Collection(home, metadata))


def expect_removable(store: Store, name: str) -> None:
    """Check that a collection may be removed: it holds no points of an application.

    Raises:
        CollectionExistsError: One does.
    """
    try:
        opened = store.open(name)
        foreign = opened.metadata is None or read_metadata(name, opened).attached is not None
    except NotACollectionError:
        return  # made by this package and damaged: others have no such metadata at all
    if foreign:
        raise CollectionExistsError(
            f"collection {name!r} holds points of an application, which recreating would remove",
            hint="Give another name, or add safe search to it with `hysac-index attach`",
        )


def _expect_free(store: Store, name: str, has_vector: bool) -> None:
    """Check that vector and payload key are not the application's; what a killed `attach` left is no obstacle."""
    held = models.Filter(must=[models.HasVectorCondition(has_vector=VECTOR_NAME)])
    if has_vector and store.count(name, held):
        what = f"vectors named {VECTOR_NAME!r}"
    elif store.count(name, _SCORED):
        what = f"a payload field {PAYLOAD_KEY!r}"
    else:
        return
    raise CollectionExistsError(
        f"collection {name!r} has {what}, but no hysac metadata that says what they are",
        hint="Rename or remove them, or attach to another collection",
    )


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
    def companion(self) -> bool:
        """Whether the vectors are in a companion collection."""
        return self.collection.name != self.name

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
        if self.companion:
            self.store.upsert(self.collection.name, keys, vectors, rows)
        return self.store.extension(self.name).write(keys, None if self.companion else vectors, rows)

    def erase(self, ids: Sequence[Any]) -> None:
        """Take vectors and scores from points, which are then not safe."""
        keys: list[PointId] = normal_ids(ids)
        if not keys:
            return
        self.store.extension(self.name).erase(keys, vector=not self.companion)
        if self.companion:
            self.store.delete(self.collection.name, keys)

    def sweep(self) -> int:
        """Remove from a companion what belongs to points that the application has removed, or whose score is gone.

        Returns:
            How many there were.
        """
        if not self.companion:
            return 0
        removed = 0
        for page in pages(self.store, self.collection.name, limit=_PAGE):
            ids: list[Any] = [point.id for point in page]
            these = models.Filter(must=[models.HasIdCondition(has_id=ids)], must_not=_SCORED.must_not)
            scored, _ = self.store.scroll(self.name, filter=these, limit=_PAGE)
            stale = sorted({*ids} - {point.id for point in scored}, key=str)
            if stale:
                self.store.delete(self.collection.name, stale)
                removed += len(stale)
        return removed

    def detach(self) -> int:
        """See `Index.detach`. Killed at any moment, it can be called again: the metadata goes last."""
        extension, taken = self.store.extension(self.name), 0
        for page in pages(self.store, self.name, filter=_SCORED, limit=_PAGE):
            extension.erase([point.id for point in page], vector=False)  # the vectors go all at once
            taken += len(page)
        home = self.collection.name
        if self.companion and self.store.exists(home) and _is_companion(self.store, home, self.name):
            self.store.drop(home)
        extension.retract(payload_indexes(self.collection.metadata.fingerprint))
        return taken
