"""A collection of points in a vector store: make it, fill it, search it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike
from pydantic import ValidationError
from qdrant_client import models

from hysac_retrieval.collection import (
    PAYLOAD_INDEXES,
    Collection,
    CollectionMetadata,
    normal_ids,
    point_id,
    raw_fingerprint,
)
from hysac_retrieval.errors import CollectionExistsError, InvalidVectorError, ModelMismatchError, SettingsError
from hysac_retrieval.filters import BEYOND, safety_filter
from hysac_retrieval.lift import Lift, PaddedLift
from hysac_retrieval.results import Hit, Modality, PointId
from hysac_retrieval.safety import MODALITIES, SafetyProfile
from hysac_retrieval.stores import CollectionSpec, Connection, HnswOptions, Store, StoredPoint, open_store

__all__ = ["Index", "IndexInfo", "point_id"]

_MARGIN_SIGMAS = 8.0


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """Facts about a collection.

    Attributes:
        name: Its name.
        points: Number of points.
        safe: Points that a search with ``safe=True`` can return.
        unsafe: All others: above the threshold, without a valid score, or scored by another model.
        indexed: Vectors that the graph covers; the others are searched one by one (`Index.optimize`).
        beyond: Points outside the norm of the lift: exact scores, found less surely by the graph. Many of them mean
            that the collection should be made again with a `sample` of its points.
        dim: Number of space components of a point.
        curvature: Curvature c > 0 of the space (−c).
        threshold: Largest unsafe score that counts as safe.
        model: Fingerprint of the model that made the points.
        lift: Kind of the lift.
    """

    name: str
    points: int
    safe: int
    unsafe: int
    indexed: int
    beyond: int
    dim: int
    curvature: float
    threshold: float
    model: str
    lift: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-serialisable values."""
        return asdict(self)


class Index:
    """Lorentz points in a vector store, with exact hyperbolic ranking and a safety filter that fails closed.

    Made by `create` or `open`; a context manager. Searches may run from several threads at once.
    """

    def __init__(self, collection: Collection, store: Store, *, owns_store: bool = False) -> None:
        self._collection = collection
        self._store = store
        self._owns_store = owns_store

    @classmethod
    def create(
        cls,
        name: str,
        *,
        dim: int,
        curvature: float,
        safety: SafetyProfile,
        fingerprint: str | None = None,
        lift: Lift | Mapping[str, Any] | None = None,
        sample: ArrayLike | None = None,
        hnsw: HnswOptions | None = None,
        exist_ok: bool = False,
        recreate: bool = False,
        **connection: Unpack[Connection],
    ) -> Self:
        """Make a collection.

        How points are stored is fixed here, once: by `lift` (a model bundle carries one), else fitted on `sample`,
        else a default without boost whose norm holds radii up to eight standard deviations beyond the calibration's.

        Args:
            name: Name of the collection.
            dim: Number d of space components of a point.
            curvature: Curvature c > 0 of the space (−c).
            safety: Calibration that scores the points.
            fingerprint: Identity of the model; None for points that come from no bundle, which derives one from the
                space and its calibration.
            lift: How points are stored.
            sample: Points (n, d) to fit the lift on.
            hnsw: Options of the graph.
            exist_ok: Open a collection that exists already, if it is of the same model.
            recreate: Remove a collection that exists already, with all its points.
            **connection: Where it lives; see `Connection`.

        Raises:
            CollectionExistsError: It exists, and neither `exist_ok` nor `recreate` is given.
            ModelMismatchError: It exists, with `exist_ok`, but was indexed with another model.
            SettingsError: Options are out of range or contradict each other.
            StorageLockedError: Another process has the folder.
        """
        if exist_ok and recreate:
            raise SettingsError("exist_ok keeps a collection that exists and recreate removes it; give one of them")
        metadata = _metadata(dim, curvature, safety, fingerprint, lift, sample)
        size = Collection(name, metadata).lift.size
        store, owned = open_store(connection)
        try:
            if recreate and store.exists(name):
                store.drop(name)
            try:
                store.create(
                    name,
                    CollectionSpec(
                        size=size,
                        metadata=metadata.model_dump(mode="json"),
                        indexes=PAYLOAD_INDEXES,
                        hnsw=hnsw or HnswOptions(),
                    ),
                )
            except CollectionExistsError:
                if not exist_ok:
                    raise
            collection = Collection.read(name, store.open(name), metadata.fingerprint)
            found = (collection.metadata.dim, collection.metadata.curvature)
            if found[0] != dim or not np.isclose(found[1], curvature, rtol=1e-12, atol=0):
                raise ModelMismatchError(
                    f"collection {name!r} holds points of dimension {found[0]} and curvature {found[1]}; "
                    f"asked for dimension {dim} and curvature {curvature}. Give it another name, or recreate it"
                )
        except BaseException:
            if owned:
                store.close()
            raise
        return cls(collection, store, owns_store=owned)

    @classmethod
    def open(cls, name: str, *, expect_fingerprint: str | None = None, **connection: Unpack[Connection]) -> Self:
        """Open a collection that exists.

        Args:
            name: Name of the collection.
            expect_fingerprint: Model that it must have been indexed with; None for any.
            **connection: Where it lives; see `Connection`.

        Raises:
            CollectionNotFoundError: There is none of that name.
            NotACollectionError: It lacks our vector or our metadata.
            ModelMismatchError: It was indexed with another model.
            StorageLockedError: Another process has the folder.
        """
        store, owned = open_store(connection)
        try:
            collection = Collection.read(name, store.open(name), expect_fingerprint)
        except BaseException:
            if owned:
                store.close()
            raise
        return cls(collection, store, owns_store=owned)

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._collection.name

    @property
    def collection(self) -> Collection:
        """What the collection is, apart from where it lives."""
        return self._collection

    @property
    def metadata(self) -> CollectionMetadata:
        """What is kept with the collection: model, dimension, curvature, lift, calibration."""
        return self._collection.metadata

    @property
    def store(self) -> Store:
        """Where the collection lives."""
        return self._store

    def upsert(
        self,
        ids: Sequence[Any],
        points: ArrayLike,
        *,
        modality: Modality,
        payloads: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> int:
        """Insert points, or replace those with the same id; all are checked before the first is written.

        Args:
            ids: n integers or UUIDs; `point_id` makes one of any text.
            points: Shape (n, d), space components.
            modality: What the points were encoded from; it decides which calibration scores them.
            payloads: n mappings of JSON values, without a key ``hysac``.

        Returns:
            The number of points written.

        Raises:
            InvalidVectorError: A point is not finite or not of dimension d; the message names its row.
            InputError: An id or a payload cannot be stored, or the numbers of each differ.
            SettingsError: The modality is unknown.
        """
        keys, vectors, rows = self._collection.records(ids, points, modality, payloads)
        if keys:
            self._store.upsert(self.name, keys, vectors, rows)
        return len(keys)

    def query(
        self,
        point: ArrayLike,
        *,
        limit: int = 10,
        safe: bool = True,
        threshold: float | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        modality: Modality | None = None,
        ef: int | None = None,
    ) -> list[Hit]:
        """Nearest points by geodesic distance.

        Args:
            point: Shape (d,), space components.
            limit: Hits to return at most, 1 to 10,000.
            safe: Whether every hit must have an unsafe score of at most the threshold. This holds inside the search
                and whatever `filter` says; a point without a valid score of this collection's model is not safe.
            threshold: Stricter threshold than the calibration's, from 0 to that one.
            filter: The caller's own condition, as a Qdrant filter or its JSON form; it can only narrow the result.
            modality: Kind of points to find; None for both.
            ef: Candidates that the graph search keeps; None for the engine's own. Raised to what `limit` needs.

        Returns:
            Hits in ascending distance, which is computed in float64 from the stored vectors.

        Raises:
            InvalidVectorError: The point is not finite or not of dimension d.
            SettingsError: Another argument is out of range.
        """
        row = np.asarray(point)
        if row.ndim != 1:
            raise InvalidVectorError(
                f"the point has shape {row.shape}; expected ({self.metadata.dim},). For several use query_batch"
            )
        return self.query_batch(
            row[None, :], limit=limit, safe=safe, threshold=threshold, filter=filter, modality=modality, ef=ef
        )[0]

    def query_batch(
        self,
        points: ArrayLike,
        *,
        limit: int = 10,
        safe: bool = True,
        threshold: float | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        modality: Modality | None = None,
        ef: int | None = None,
    ) -> list[list[Hit]]:
        """As `query`, for points of shape (n, d) in one request to the store."""
        plan = self._collection.plan(
            points, limit=limit, safe=safe, threshold=threshold, filter=filter, modality=modality, ef=ef
        )
        return self._collection.interpret(plan, self._store.query(self.name, plan.query))

    def retrieve(self, ids: Sequence[Any]) -> list[StoredPoint]:
        """Points by id with their whole payload, scored or not, in no particular order."""
        return self._store.retrieve(self.name, normal_ids(ids))

    def count(self, filter: models.Filter | None = None) -> int:
        """Exact number of points (that match a filter)."""
        return self._store.count(self.name, filter)

    def delete(self, ids: Sequence[Any]) -> None:
        """Remove points by id; ids that are not there are no error."""
        keys: list[PointId] = normal_ids(ids)
        if keys:
            self._store.delete(self.name, keys)

    def optimize(self) -> None:
        """Have the engine finish its graph. Call it after bulk loads into the embedded engine."""
        self._store.optimize(self.name)

    def info(self) -> IndexInfo:
        """Count what is there."""
        metadata = self.metadata
        points = self.count()
        safe = self.count(safety_filter(metadata.safety.threshold, metadata.fingerprint))
        flagged = models.Filter(must=[models.FieldCondition(key=BEYOND, match=models.MatchValue(value=True))])
        return IndexInfo(
            name=self.name,
            points=points,
            safe=safe,
            unsafe=points - safe,
            indexed=min(self._store.indexed(self.name), points),
            beyond=self.count(flagged),
            dim=metadata.dim,
            curvature=metadata.curvature,
            threshold=metadata.safety.threshold,
            model=metadata.fingerprint,
            lift=self._collection.lift.kind,
        )

    def close(self) -> None:
        """Let go of the store, unless it was the caller's. Closing twice is no error."""
        if self._owns_store:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _metadata(
    dim: int,
    curvature: float,
    safety: SafetyProfile,
    fingerprint: str | None,
    lift: Lift | Mapping[str, Any] | None,
    sample: ArrayLike | None,
) -> CollectionMetadata:
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise SettingsError(f"dim is {dim!r}; it must be a whole number of 1 or more")
    if not (math.isfinite(curvature) and curvature > 0):
        raise SettingsError(f"curvature is {curvature}; it must be finite and above 0 (the space has curvature −c)")
    if lift is not None and sample is not None:
        raise SettingsError("lift and sample both say how points are stored; give one of them")
    if sample is not None:
        lift = PaddedLift.fit(sample, curvature)
    elif lift is None:
        lift = PaddedLift.default(dim, curvature, _reach(safety, curvature))
    try:
        metadata = CollectionMetadata(
            fingerprint=fingerprint or raw_fingerprint(dim, curvature, safety),
            dim=dim,
            curvature=curvature,
            lift=dict(lift) if isinstance(lift, Mapping) else lift.to_dict(),
            safety=safety,
        )
    except ValidationError as error:
        raise SettingsError(f"these describe no collection: {error}") from error
    made = Collection("", metadata).lift
    if made.dim != dim:
        raise SettingsError(f"the lift or its sample is for points of dimension {made.dim}, the collection for {dim}")
    stored = metadata.lift.get("curvature")
    if stored is not None and not np.isclose(stored, curvature, rtol=1e-9, atol=0):
        raise SettingsError(f"the lift is for curvature {stored}, the collection for {curvature}")
    return metadata


def _reach(safety: SafetyProfile, curvature: float) -> float:
    """Radius that a default lift makes room for."""
    groups = [group for kind in MODALITIES for group in (safety.of(kind).safe, safety.of(kind).unsafe)]
    # The norm grows as e^(2√c r); 20/√c is the largest that a lift accepts.
    return float(min(max(group.mean + _MARGIN_SIGMAS * group.std for group in groups), 20 / curvature**0.5))
