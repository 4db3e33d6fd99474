"""A collection of points in a vector store: make it, fill it, search it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qdrant_client import AsyncQdrantClient, models

from hysac_retrieval.collection.attach import AttachOptions, attach, expect_removable, open_collection
from hysac_retrieval.collection.attachment import Attachment
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.current import Current
from hysac_retrieval.collection.facts import facts
from hysac_retrieval.collection.find import groups_of_hits, pages_of_hits, stored_points_of
from hysac_retrieval.collection.metadata import CollectionMetadata
from hysac_retrieval.collection.records import checked_point, records
from hysac_retrieval.collection.request import CommonOptions, QueryOptions
from hysac_retrieval.collection.reviews import keep_reviews
from hysac_retrieval.collection.schema import (
    LiftChoice,
    PointModel,
    collection_metadata,
    make_collection,
    model_options,
    spec_of,
)
from hysac_retrieval.errors import SettingsError, StoreError
from hysac_retrieval.payload import normal_ids, point_id
from hysac_retrieval.results import GroupedResult, Hit, IndexInfo
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.views import Judged
from hysac_retrieval.steps import run
from hysac_retrieval.stores import Connection, HnswOptions, Store, StoredPoint, opening
from hysac_retrieval.stores.qdrant.bridge import BridgedStore
from hysac_retrieval.stores.types import IndexKind, Quantization, StorageOptions
from hysac_retrieval.types import Modality, PointId

__all__ = ["Index", "IndexInfo", "point_id"]


class Index:
    """Lorentz points in a vector store, with exact hyperbolic ranking and a safety filter that fails closed.

    Made by `create` or `open`; a context manager. Searches may run from several threads at once.
    """

    def __init__(self, collection: Collection, store: Store, *, owns_store: bool = False) -> None:
        self._current = Current(collection)
        self._store = store
        self._owns_store = owns_store
        self._closed = False

    @classmethod
    def create(
        cls,
        name: str,
        *,
        dim: int,
        curvature: float,
        safety: SafetyProfile,
        fingerprint: str | None = None,
        lift: LiftChoice | None = None,
        sample: ArrayLike | None = None,
        quantization: Quantization | None = None,
        hnsw: HnswOptions | None = None,
        storage: StorageOptions | None = None,
        index_fields: Mapping[str, IndexKind] | None = None,
        exist_ok: bool = False,
        recreate: bool = False,
        **connection: Unpack[Connection],
    ) -> Self:
        """Make a collection.

        How points are stored is fixed here, once: by `lift` (a model bundle carries one), else fitted on `sample`.
        Without either the padding makes room for radii far beyond the calibration's: scores are exact, but the graph
        finds less. ``"padded"`` suits the narrow radii of encoders, ``"poincare"`` those that spread widely, as of
        trees; ``"auto"`` measures both on the sample and records the result.

        Args:
            name: Name of the collection.
            dim: Number d of space components of a point.
            curvature: Curvature c > 0 of the space (−c).
            safety: Calibration that scores the points.
            fingerprint: Identity of the model; None derives one from space and calibration, for points of no bundle.
            lift: Lift, or the name of one to fit.
            sample: Points (n, d) to fit the lift on, or to choose it by.
            quantization: Compression of the vectors that the graph compares; hits are then ranked again in float64.
            hnsw: Options of the graph.
            storage: Memory or disk; shards, copies and tenants in a cluster.
            index_fields: Payload fields to index for filters, rules and groups, in a collection that exists as well.
            exist_ok: Open a collection that exists already, if it is of the same model.
            recreate: Remove a collection that exists already, with all its points, unless it is an application's.
            **connection: Store of the collection; see `Connection`.

        Raises:
            CollectionExistsError: It exists, and neither `exist_ok` nor `recreate` is given; or it is an application's.
            ModelMismatchError: It exists, with `exist_ok`, but was indexed with another model.
            SettingsError: Options are out of range or contradict each other.
            StorageLockedError: Another process has the folder.
        """
        if exist_ok and recreate:
            raise SettingsError("exist_ok keeps a collection and recreate removes it", hint="Give one of them")
        metadata = collection_metadata(
            dim, curvature, safety, fingerprint=fingerprint, lift=lift, sample=sample, quantization=quantization
        )
        metadata = metadata.model_copy(update={"shard_by": None if storage is None else storage.shard_by})
        with opening(connection) as (store, owned):
            if recreate and store.exists(name):
                expect_removable(store, name)
                store.drop(name)
            spec = spec_of(metadata, hnsw, storage, index_fields)
            collection = make_collection(store, name, metadata, spec, exist_ok=exist_ok)
        return cls(collection, store, owns_store=owned)

    @classmethod
    def for_model(cls, model: PointModel, name: str, **options: Any) -> Self:
        """Make a collection for the points of a model; see `create`, of which it takes the other arguments.

        Args:
            model: An `Encoder`, or anything else that is a `PointModel`.
            name: Name of the collection.
            **options: Arguments of `create`; ``lift`` takes the place of the model's own.
        """
        return cls.create(name, **model_options(model, options))

    @classmethod
    def open(cls, name: str, *, expect_fingerprint: str | None = None, **connection: Unpack[Connection]) -> Self:
        """Open a collection that exists, or the companion that holds its vectors.

        Args:
            name: Name of the collection.
            expect_fingerprint: Model that it must have been indexed with; None for any.
            **connection: Store of the collection; see `Connection`.

        Raises:
            CollectionNotFoundError: There is none of that name.
            NotACollectionError: It lacks the vector or the metadata.
            ModelMismatchError: It was indexed with another model.
            StorageLockedError: Another process has the folder.
        """
        with opening(connection) as (store, owned):
            return cls(run(open_collection(name, expect_fingerprint), store), store, owns_store=owned)

    @classmethod
    def attach(
        cls,
        name: str,
        *,
        dim: int,
        curvature: float,
        safety: SafetyProfile,
        fingerprint: str | None = None,
        lift: LiftChoice | None = None,
        sample: ArrayLike | None = None,
        hnsw: HnswOptions | None = None,
        options: AttachOptions | None = None,
        **connection: Unpack[Connection],
    ) -> Self:
        """Prepare a collection of an application for vectors and scores; its own vectors and payloads stay untouched.

        Points get theirs from `annotate`, or from `ingest.fill`, which encodes the content that their payload holds.
        Attaching again opens what is attached. `options` say where the vectors go, see `AttachOptions`; the other
        arguments are those of `create`; `hnsw` counts if the engine takes it for a single vector.

        Raises:
            CollectionNotFoundError: There is none of that name.
            CollectionExistsError: `create` made it, or it has another vector or payload key ``hysac``.
            ModelMismatchError: It is attached already, with another model.
        """
        describe = partial(
            collection_metadata, dim, curvature, safety, fingerprint=fingerprint, lift=lift, sample=sample
        )
        with opening(connection) as (store, owned):
            return cls(attach(store, name, describe, hnsw or HnswOptions(), options or {}), store, owns_store=owned)

    @classmethod
    def attach_model(cls, model: PointModel, name: str, **options: Any) -> Self:
        """Attach the space of a model to a collection of an application; see `attach` and `for_model`."""
        return cls.attach(name, **model_options(model, options))

    @classmethod
    async def aattach(
        cls, client: AsyncQdrantClient, name: str, *, model: PointModel | None = None, **options: Any
    ) -> Self:
        """As `attach` or, with a model, `attach_model`, over an application's asynchronous client.

        The methods of the index block; call them in a thread, as ``await asyncio.to_thread(index.info)``.
        """
        make = partial(cls.attach, name) if model is None else partial(cls.attach_model, model, name)
        return await asyncio.to_thread(make, store=BridgedStore(client), **options)

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self.collection.name

    @property
    def collection(self) -> Collection:
        """The collection apart from its store, as it was last read."""
        return self._current.collection

    @property
    def current(self) -> Current:
        """Follows the collection when it is replaced; shared by all that search through this index."""
        return self._current

    @property
    def metadata(self) -> CollectionMetadata:
        """Metadata of the collection: model, dimension, curvature, lift, calibration."""
        return self.collection.metadata

    @property
    def store(self) -> Store:
        """Store of the collection; raises `StoreError` once the index is closed."""
        if self._closed:
            raise StoreError(f"the index of collection {self.name!r} is closed", hint="Open the collection again")
        return self._store

    def upsert(
        self,
        ids: Sequence[Any],
        points: ArrayLike,
        *,
        modality: Modality,
        payloads: Sequence[Mapping[str, Any] | None] | None = None,
        marks: Sequence[Mapping[str, Any]] | None = None,
        judged: Sequence[Judged | None] | None = None,
    ) -> int:
        """Insert points, or replace those with the same id; all are checked before the first is written.

        Args:
            ids: n integers or UUIDs; `point_id` makes one of any text.
            points: Shape (n, d), space components.
            modality: Kind of content that the points were encoded from; its calibration scores them.
            payloads: n mappings of JSON values, without a key ``hysac``.
            marks: n mappings of further JSON values to keep under that key, such as a source and its hash.
            judged: What of each content was judged, where that is more than the point; its worst view is then scored.

        Returns:
            The number of points written.

        Raises:
            InvalidVectorError: A point is not finite or not of dimension d; the message names its row.
            InputError: An id or a payload cannot be stored, or the numbers of each differ.
            SettingsError: The modality is unknown.
        """
        if self.metadata.attached is not None:
            raise SettingsError(
                f"collection {self.name!r} holds the points of an application ({self.metadata.attached.collection!r}), "
                "which an upsert would replace whole",
                hint="Write them with the application's client, then fill or annotate them",
            )
        run(self._current.confirm(), self.store)
        keys, vectors, rows = records(self.collection, ids, points, modality, payloads, marks, judged)
        if keys:
            # By id: qdrant-client's local mode would look through all its points for a condition.
            keep_reviews(self.store.retrieve(self.name, keys), keys, rows)
            self.store.upsert(self.name, keys, vectors, rows)
        return len(keys)

    def annotate(
        self,
        ids: Sequence[Any],
        points: ArrayLike,
        *,
        modality: Modality,
        marks: Sequence[Mapping[str, Any]] | None = None,
        judged: Sequence[Judged | None] | None = None,
    ) -> int:
        """Give vectors and scores to points of the application that this collection is attached to.

        Nothing else of these points changes. Points that the application has removed are left out; the number of the
        others is returned. The arguments and errors are those of `upsert`.

        Raises:
            SettingsError: The collection is attached to none; `upsert` is for those.
        """
        run(self._current.confirm(), self.store)
        return Attachment.of(self.store, self.collection).write(ids, points, modality, marks, judged)

    def detach(self) -> int:
        """Remove vectors, scores and metadata from the application's collection; the index is of no use afterwards.

        The number of points that had a score is returned.

        Raises:
            SettingsError: The collection is attached to none.
        """
        return Attachment.of(self.store, self.collection).detach()

    def query(self, point: ArrayLike, **options: Unpack[QueryOptions]) -> list[Hit]:
        """Return the nearest points by geodesic distance, nearest first.

        Args:
            point: Shape (d,), space components.
            **options: See `QueryOptions`.

        Raises:
            InvalidVectorError: The point is not finite or not of dimension d.
            SettingsError: An option is out of range.
        """
        return self.query_batch(checked_point(self.collection, point)[None, :], **options)[0]

    def query_batch(self, points: ArrayLike, **options: Unpack[QueryOptions]) -> list[list[Hit]]:
        """As `query`, for points of shape (n, d) in one request to the store."""
        return run(self._current.steps(lambda collection: pages_of_hits(collection, points, options)), self.store)

    def query_groups(
        self, point: ArrayLike, by: str, *, groups: int = 10, size: int = 3, **options: Unpack[CommonOptions]
    ) -> GroupedResult:
        """Return the nearest points, grouped by the value of a payload field; the group with the nearest hit first.

        Args:
            point: Shape (d,), space components.
            by: Field to group by; points without it are in no group.
            groups: Groups to return at most, 1 or more.
            size: Hits of each group at most, 1 or more.
            **options: See `CommonOptions`.
        """
        asked = {**options, "by": by, "groups": groups, "size": size}
        return run(self._current.steps(lambda collection: groups_of_hits(collection, point, asked)), self.store)

    def points(self, ids: Sequence[Any]) -> tuple[NDArray[np.float64], list[Modality | None]]:
        """Return stored points, (n, d), and their modalities, in the order of `ids`.

        Raises:
            PointNotFoundError: There is none with one of the ids.
        """
        return run(self._current.steps(lambda collection: stored_points_of(collection, ids)), self.store)

    def retrieve(self, ids: Sequence[Any]) -> list[StoredPoint]:
        """Return points by id with their whole payload, scored or not, in no particular order."""
        return self.store.retrieve(self.name, normal_ids(ids))

    def refresh(self) -> bool:
        """Read the metadata again, and return whether it was another; searches notice a replacement by themselves.

        Raises:
            StoreError: The collection is no longer there, or has no metadata.
            ModelMismatchError: It is of another model now.
        """
        return run(self._current.refresh(), self.store)

    def count(self, filter: models.Filter | None = None) -> int:
        """Return the exact number of points (that match a filter)."""
        return self.store.count(self.name, filter)

    def delete(self, ids: Sequence[Any]) -> None:
        """Remove points by id; ids that are not there are no error.

        Raises:
            SettingsError: They belong to an application that this collection is attached to.
        """
        if (attached := self.metadata.attached) is not None:
            raise SettingsError(
                f"the points of collection {self.name!r} are those of an application ({attached.collection!r})",
                hint="Remove them with its own client, or only the vectors and scores of all of them with detach",
            )
        keys: list[PointId] = normal_ids(ids)
        if keys:
            self.store.delete(self.name, keys)

    def optimize(self) -> None:
        """Have the engine finish its graph. Call it after bulk loads into the embedded engine."""
        self.store.optimize(self.name)

    def info(self) -> IndexInfo:
        """Return facts about the collection, counted now."""
        return facts(self.store, self.collection)

    def close(self) -> None:
        """Close the store, unless it was the caller's. Closing twice is no error."""
        self._closed = True
        if self._owns_store:
            self._store.close()

    def __enter__(self) -> Self:
        self.store  # noqa: B018  # a closed one cannot be entered again
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
