"""Vectors and scores added to a collection of an application, and what is attached found again.

These are one named vector, one payload key with its indexes, and one key of the collection's metadata; nothing else is
written to. Where a vector cannot be added, or not without leaving a mark, the collection gets scores only; or a
companion collection holds the vectors, under the same ids. Scores and metadata are in the application's collection in
any case, because the guard needs them there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from pydantic import ConfigDict, with_config
from qdrant_client import models
from typing_extensions import TypedDict

from hysac_retrieval.collection.attachment import HELD, SCORED, STAYS, Attachment, is_companion
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.metadata import Attached, CollectionMetadata, Vectors, read_metadata
from hysac_retrieval.collection.schema import checked_fields, spec_of
from hysac_retrieval.errors import CollectionExistsError, NotACollectionError, SettingsError, StoreError
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.extension import Extension, Facts
from hysac_retrieval.stores.types import VECTOR_NAME, HnswOptions, IndexKind, Opened

COMPANION = "-hysac"
"""Suffix of the name of a companion collection, after the name of the application's."""

_log = logging.getLogger(__name__)


@with_config(ConfigDict(extra="forbid"))
class AttachOptions(TypedDict, total=False):
    """How to attach.

    Attributes:
        vectors: Where the vectors go. None, the default, takes the application's collection where that leaves no mark.
            A collection with an unnamed vector gets scores only, which are all that the guard needs: a named vector
            beside it turns its configuration into a map for good. Where a server cannot add vectors (before 1.18), a
            companion takes them.
        labels: Payload fields, such as ``category`` or ``meta.tags``, to copy to a companion and keep in step at every
            run, so that rules and filters on them hold there. Of no use without a companion.
        content: Description of the points' content, to be kept with the collection.
        index_fields: Payload fields to index where the vectors are, for filters, rules and groups in strict mode.
    """

    vectors: Vectors | None
    labels: Sequence[str] | None
    content: Mapping[str, Any] | None
    index_fields: Mapping[str, IndexKind] | None


def attach(
    store: Store,
    name: str,
    describe: Callable[..., CollectionMetadata],
    hnsw: HnswOptions,
    options: AttachOptions,
) -> Collection:
    """Prepare a collection of an application for vectors and scores, or open it if that was done; see `Index.attach`.

    Killed at any moment, it can be called again: the metadata, which says that something is attached, comes last.

    Args:
        store: Store of the collection.
        name: The application's collection.
        describe: Returns the metadata to keep, for vectors that are compressed by `quantization`.
        hnsw: Options of the graph.
        options: Where the vectors go, and what is kept in step.

    Returns:
        The collection that holds the vectors; the application's, where there are none.
    """
    vectors = options.get("vectors")
    if vectors not in (None, *get_args(Vectors)):
        raise SettingsError(f"vectors is {vectors!r}; expected one of {', '.join(get_args(Vectors))}, or None")
    fields = checked_fields(options.get("index_fields") or {})
    return _index_fields(store, name, _attach(store, name, describe, hnsw, options), fields)


def _attach(
    store: Store, name: str, describe: Callable[..., CollectionMetadata], hnsw: HnswOptions, options: AttachOptions
) -> Collection:
    vectors = options.get("vectors")
    opened = store.open(name)
    if opened.metadata is not None:
        return _attached_before(store, name, opened, describe, hnsw, options)
    extension = store.extension(name)
    facts = extension.facts()
    _expect_free(store, name, facts.has_vector)
    chosen = _where(name, facts, vectors)
    attached = Attached(
        collection=name,
        companion=name + COMPANION if chosen == "companion" else None,
        scores_only=chosen == "none",
        labels=tuple(options.get("labels") or ()),
        content=options.get("content"),
    )
    own = describe(quantization=facts.quantization if chosen == "in-place" else None)
    metadata = own.model_copy(update={"attached": attached})
    spec = replace(spec_of(metadata, hnsw), quantization=None)  # of an added vector it is that of the collection
    collection = _companion(store, metadata, hnsw) if attached.companion else None
    try:
        extension.extend(spec, vector=chosen == "in-place")
    except StoreError as error:
        _take_back(extension, spec.indexes, error)
        raise
    return collection or Collection.read(name, store.open(name), metadata.fingerprint)


def _take_back(extension: Extension, indexes: Mapping[str, IndexKind], error: StoreError) -> None:
    """Take away what was added before an error; where that fails as well, have the error say what is left."""
    try:
        extension.retract([*indexes])
    except StoreError:
        error.message += "; what was added before, payload indexes and perhaps a vector, could not be taken away"
        error.hint += f"{'. ' if error.hint else ''}The same call goes on from there, and detach takes all of it away"


def _index_fields(store: Store, name: str, found: Collection, fields: Mapping[str, IndexKind]) -> Collection:
    """Index payload fields where the vectors are; those of the application that get one are noted, for `detach`."""
    attached = found.metadata.attached
    if attached is not None and found.name == name:
        new = [field for field in fields if field not in store.extension(name).facts().indexed]
        if new:
            indexed = tuple(dict.fromkeys([*attached.indexed, *new]))
            changed = attached.model_copy(update={"indexed": indexed})
            metadata = found.metadata.model_copy(update={"attached": changed})
            store.write_metadata(name, metadata.model_dump(mode="json", exclude_none=True))
            found = replace(found, metadata=metadata)
    for field, kind in fields.items():
        store.add_index(found.name, field, kind)
    return found


def _where(name: str, facts: Facts, wanted: Vectors | None) -> Vectors:
    """Decide where vectors go, and say so where it is not the application's collection, or where that leaves a mark."""
    if wanted == "in-place" and facts.obstacle:
        raise SettingsError(
            f"no vector can be added to {name!r}: {facts.obstacle}", hint="Attach scores only, or with a companion"
        )
    if wanted == "in-place" and facts.unnamed:
        _log.warning("A vector is added to %r as asked. What detaching cannot take back: %s", name, STAYS)
    if wanted is not None:
        return wanted
    if facts.unnamed:
        _log.warning(
            "%r has a vector without a name; adding a named one would change its configuration for good. So its points "
            "get scores only: guard the application's own queries, or attach again with vectors='companion' "
            "(--companion) to rank here as well",
            name,
        )
        return "none"
    if facts.obstacle:
        _log.warning(
            "%s. So the vectors of %r go into the collection %r, under the same ids; search there, and look payloads "
            "up in %r",
            facts.obstacle,
            name,
            name + COMPANION,
            name,
        )
        return "companion"
    return "in-place"


def _companion(store: Store, metadata: CollectionMetadata, hnsw: HnswOptions) -> Collection:
    """Make the companion that some metadata names, or open it."""
    attached = metadata.attached
    assert attached is not None
    assert attached.companion is not None
    companion = attached.companion
    spec = replace(spec_of(metadata, hnsw), quantization=None)
    labels: dict[str, IndexKind] = dict.fromkeys(attached.labels, "keyword")
    if not store.exists(companion):
        store.create(companion, replace(spec, indexes={**labels, **spec.indexes}))
    elif not is_companion(store, companion, attached.collection):
        raise CollectionExistsError(
            f"the vectors of {attached.collection!r} would go into a collection {companion!r}, and there is another "
            "one of that name",
            hint="Rename or remove it, or attach with a Qdrant of 1.18 or later, which needs none",
        )
    found = Collection.read(companion, store.open(companion), metadata.fingerprint)
    if found.metadata.attached != attached:
        store.write_metadata(companion, metadata.model_dump(mode="json", exclude_none=True))
        for label in attached.labels:
            store.add_index(companion, label, "keyword")
        found = replace(found, metadata=found.metadata.model_copy(update={"attached": attached}))
    return found


def _attached_before(
    store: Store,
    name: str,
    opened: Opened,
    describe: Callable[..., CollectionMetadata],
    hnsw: HnswOptions,
    options: AttachOptions,
) -> Collection:
    found = read_metadata(name, opened)
    before = found.attached
    if before is None:
        raise CollectionExistsError(
            f"collection {name!r} was made by hysac-index, so there is nothing to attach",
            hint="Index into it, or search it",
        )
    Collection(name, found).expect(describe(quantization=found.quantization).fingerprint)
    vectors, changes = options.get("vectors"), dict[str, Any]()
    if vectors == "companion" and before.scores_only:
        changes |= {"companion": name + COMPANION, "scores_only": False}
    elif vectors is not None and vectors != before.vectors:
        raise SettingsError(
            f"collection {name!r} is attached already, with its vectors: {before.vectors}, not {vectors}",
            hint="Detach it first",
        )
    if options.get("labels") is not None:
        changes["labels"] = tuple(options["labels"] or ())
    if options.get("content") is not None:
        changes["content"] = options["content"]
    attached = Attached.model_validate(before.model_dump() | changes)
    home = attached.companion or name
    if attached != before:
        metadata = found.model_copy(update={"attached": attached})
        if attached.companion:
            _companion(store, metadata, hnsw)
        store.write_metadata(name, metadata.model_dump(mode="json", exclude_none=True))
    return Collection.read(home, store.open(home), found.fingerprint)


def open_collection(name: str, expect_fingerprint: str | None = None) -> Steps[Collection]:
    """Open the collection that holds the vectors of the collection `name`: itself, or its companion.

    Raises:
        CollectionNotFoundError: There is none of that name.
        NotACollectionError: It has no vector or metadata.
        ModelMismatchError: Another model made it.
    """
    asked = name
    opened: Opened = yield Ask("open", name)
    if opened.metadata is not None:
        attached = read_metadata(name, opened).attached
        if attached is not None and attached.companion not in (None, name):
            name = attached.companion
            opened = yield Ask("open", name)
    return Collection.read(name, opened, expect_fingerprint, asked=asked)


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
    """Check that a collection may be removed: it is no alias, and holds no points of an application.

    Raises:
        CollectionExistsError: It is, or does.
    """
    try:
        opened = store.open(name)
        foreign = opened.metadata is None or read_metadata(name, opened).attached is not None
    except NotACollectionError:
        foreign = False  # made by this package and damaged: others have no such metadata at all
    if foreign:
        raise CollectionExistsError(
            f"collection {name!r} holds points of an application, which recreating would remove",
            hint="Give another name, or add safe search to it with `hysac-index attach`",
        )
    if name not in store.names():
        raise CollectionExistsError(
            f"{name!r} is an alias, so that recreating it would take the collection away from those who search it",
            hint=f"Build a new one beside it with --alias {name}, which moves the alias when it is complete",
        )


def _expect_free(store: Store, name: str, has_vector: bool) -> None:
    """Check that vector and payload key are not the application's; what a killed `attach` left is no obstacle."""
    if has_vector and store.count(name, models.Filter(must=[HELD])):
        what = f"vectors named {VECTOR_NAME!r}"
    elif store.count(name, SCORED):
        what = f"a payload field {PAYLOAD_KEY!r}"
    else:
        return
    raise CollectionExistsError(
        f"collection {name!r} has {what}, but no hysac metadata that says what they are",
        hint="Rename or remove them, or attach to another collection",
    )
