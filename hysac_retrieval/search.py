"""The query pipeline: encode, assess, redirect if unsafe, search, rank by geodesic distance.

`SearchCore` holds everything but the sending: it plans a request and interprets the answer. `SafeSearch` sends it to a
store; `AsyncSafeSearch` sends the same request without blocking.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.collection import Collection, SearchPlan
from hysac_retrieval.errors import InputError, SettingsError, UnsafeNotAllowedError
from hysac_retrieval.filters import effective_threshold
from hysac_retrieval.index import Index
from hysac_retrieval.queries import Query, QueryEncoder, kind_of, point_of
from hysac_retrieval.results import Modality, QueryInfo, SearchResult
from hysac_retrieval.safety import MODALITIES, Traversal, redirect
from hysac_retrieval.stores import Connection, HnswOptions, StoredPoint


class SearchOptions(TypedDict, total=False):
    """Options of a search; see `SafeSearch.search`."""

    safe: bool
    limit: int
    modality: Modality | None
    filter: models.Filter | Mapping[str, Any] | None
    threshold: float | None
    ef: int | None
    query_modality: Modality | None


@dataclass(frozen=True)
class Prepared:
    """Queries ready to be sent: the plan for the store, and what was done to each."""

    plan: SearchPlan
    infos: tuple[QueryInfo, ...]


@dataclass(frozen=True)
class SearchCore:
    """Everything of a search but the sending. Immutable, so that threads can share it.

    Attributes:
        collection: The collection searched.
        encoder: Encodes queries; None where only points are searched with.
        traversal: How unsafe queries are redirected.
        threshold: Largest unsafe score that any search with ``safe=True`` returns.
        allow_unsafe: Whether ``safe=False`` may be asked for.
    """

    collection: Collection
    encoder: QueryEncoder | None
    traversal: Traversal
    threshold: float
    allow_unsafe: bool

    @classmethod
    def make(
        cls,
        collection: Collection,
        encoder: QueryEncoder | None,
        traversal: Traversal = "geodesic",
        threshold: float | None = None,
        allow_unsafe: bool = True,
    ) -> Self:
        """Check the settings and put them together.

        Raises:
            ModelMismatchError: The collection was indexed with another model than the encoder's.
            SettingsError: A setting is out of range.
        """
        if traversal not in get_args(Traversal):
            raise SettingsError(f"unknown traversal {traversal!r}; expected one of {', '.join(get_args(Traversal))}")
        if encoder is not None:
            collection.expect(encoder.fingerprint)
        bound = effective_threshold(threshold, collection.metadata.safety.threshold)
        return cls(collection, encoder, traversal, bound, allow_unsafe)

    def prepare(
        self,
        queries: Iterable[Query],
        *,
        safe: bool = True,
        limit: int = 10,
        modality: Modality | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        threshold: float | None = None,
        ef: int | None = None,
        query_modality: Modality | None = None,
    ) -> Prepared:
        """Encode, assess and redirect queries, and plan the search."""
        if not isinstance(safe, bool):
            raise SettingsError(f"safe is {safe!r}; it must be True or False")
        if not safe and not self.allow_unsafe:
            raise UnsafeNotAllowedError(
                "safe=False was asked for, but this engine only returns safe results; "
                "make it with allow_unsafe=True for callers who may see the others"
            )
        if query_modality is not None and query_modality not in MODALITIES:
            raise SettingsError(f"unknown query_modality {query_modality!r}; expected {' or '.join(MODALITIES)}")
        # A bare string would be taken for a sequence of one-letter queries.
        if isinstance(queries, str | bytes | os.PathLike | Image.Image):
            raise InputError("queries must be a sequence of queries; use search() for a single one")
        bound = effective_threshold(threshold, self.threshold)
        points, kinds = self._encode(list(queries), query_modality)
        searched, moved = self._redirect(points, kinds) if safe else (points, np.zeros(len(points), dtype=np.bool_))
        plan = self.collection.plan(
            searched, limit=limit, safe=safe, threshold=bound, filter=filter, modality=modality, ef=ef
        )
        radius, radius_searched = (lorentz.dist0(x, self.collection.metadata.curvature) for x in (points, searched))
        infos = tuple(
            QueryInfo(
                modality=kind,
                radius=float(radius[row]),
                unsafe=self._score(float(radius[row]), kind),
                redirected=bool(moved[row]),
                radius_searched=float(min(radius[row], radius_searched[row])),
                safe=safe,
                threshold=bound if safe else None,
            )
            for row, kind in enumerate(kinds)
        )
        return Prepared(plan, infos)

    def interpret(self, prepared: Prepared, answers: Sequence[Sequence[StoredPoint]]) -> list[SearchResult]:
        """Put the answers of a store together with what was done to the queries."""
        found = self.collection.interpret(prepared.plan, answers)
        return [SearchResult(info, tuple(hits)) for info, hits in zip(prepared.infos, found, strict=True)]

    def _encode(
        self, queries: list[Query], query_modality: Modality | None
    ) -> tuple[NDArray[np.float64], list[Modality | None]]:
        kinds = [kind_of(query) for query in queries]
        points = np.empty((len(queries), self.collection.metadata.dim), dtype=np.float64)
        for kind in (*MODALITIES, None):
            rows = [row for row, found in enumerate(kinds) if found == kind]
            if not rows:
                continue
            items: list[Any] = [queries[row] for row in rows]
            if kind is None:
                encoded: ArrayLike = [point_of(item, self.collection.metadata.dim) for item in items]
            elif self.encoder is None:
                raise SettingsError(f"a {kind} query needs a model, and this engine has none; connect with model=")
            else:
                encoded = self.encoder.encode_text(items) if kind == "text" else self.encoder.encode_image(items)
            points[rows] = self.collection.checked(encoded)
        return points, [query_modality if kind is None else kind for kind in kinds]

    def _redirect(
        self, points: NDArray[np.float64], kinds: Sequence[Modality | None]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        metadata = self.collection.metadata
        searched, moved = points.copy(), np.zeros(len(points), dtype=np.bool_)
        for kind in MODALITIES:
            # A point of unknown kind is held to both calibrations; the one that moves it farther in wins.
            rows = [row for row, found in enumerate(kinds) if found in (kind, None)]
            if not rows:
                continue
            nearer, was = redirect(points[rows], kind, metadata.safety, metadata.curvature, self.traversal)
            wins = lorentz.dist0(nearer, metadata.curvature) < lorentz.dist0(searched[rows], metadata.curvature)
            searched[rows] = np.where(wins[:, None], nearer, searched[rows])
            moved[rows] |= was
        return searched, moved

    def _score(self, radius: float, kind: Modality | None) -> float:
        kinds = MODALITIES if kind is None else (kind,)
        return max(float(self.collection.metadata.safety.unsafe(radius, name)) for name in kinds)


class SafeSearch:
    """Safe search over one collection. Made by `connect`; a context manager; usable from several threads.

    Args:
        index: The collection.
        encoder: Encodes text and image queries; None to search with points only.
        traversal: How unsafe queries are redirected: ``"geodesic"``, ``"reference"`` or ``"none"``.
        threshold: Stricter threshold than the model's, for every search of this engine.
        allow_unsafe: Whether ``safe=False`` may be asked for.

    Raises:
        ModelMismatchError: The collection was indexed with another model than the encoder's.
        SettingsError: A setting is out of range.
    """

    def __init__(
        self,
        index: Index,
        encoder: QueryEncoder | None,
        *,
        traversal: Traversal = "geodesic",
        threshold: float | None = None,
        allow_unsafe: bool = True,
    ) -> None:
        self._index = index
        self._core = SearchCore.make(index.collection, encoder, traversal, threshold, allow_unsafe)

    @property
    def index(self) -> Index:
        """The collection searched."""
        return self._index

    @property
    def encoder(self) -> QueryEncoder | None:
        """What encodes the queries."""
        return self._core.encoder

    @property
    def core(self) -> SearchCore:
        """Everything of a search but the sending."""
        return self._core

    def search(
        self,
        query: Query,
        *,
        safe: bool = True,
        limit: int = 10,
        modality: Modality | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        threshold: float | None = None,
        ef: int | None = None,
        query_modality: Modality | None = None,
    ) -> SearchResult:
        """Find what is nearest to a query.

        Args:
            query: Text; an image as `Path`, bytes or PIL image; or a point (d,). A `str` is text, unless it ends in
                the suffix of an image format and is the path of an existing file.
            safe: Redirect an unsafe query toward its safe counterpart and return only hits whose unsafe score is at
                most the threshold. With False the query is answered as asked.
            limit: Hits at most, 1 to 10,000.
            modality: Kind of points to find, ``"image"`` or ``"text"``; None for both.
            filter: The caller's own Qdrant filter; it can only narrow the result.
            threshold: Stricter threshold than the engine's, for this search.
            ef: Candidates that the graph search keeps; None for the engine's own.
            query_modality: What a point was encoded from. Without it a point is held to both calibrations.

        Raises:
            UnsafeNotAllowedError: ``safe=False`` where the engine does not allow it.
            InputError: The query cannot be read (`TextError`, `ImageError`, `InvalidVectorError`).
            SettingsError: An option is out of range.
        """
        return self.search_batch(
            [query],
            safe=safe,
            limit=limit,
            modality=modality,
            filter=filter,
            threshold=threshold,
            ef=ef,
            query_modality=query_modality,
        )[0]

    def search_batch(self, queries: Iterable[Query], **options: Unpack[SearchOptions]) -> list[SearchResult]:
        """As `search`, for many queries (kinds may be mixed) in one request to the store; same order."""
        prepared = self._core.prepare(queries, **options)
        return self._core.interpret(prepared, self._index.store.query(self._index.name, prepared.plan.query))

    def close(self) -> None:
        """Let go of the store, unless it was the caller's."""
        self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def connect(
    name: str,
    *,
    model: str | Path | QueryEncoder | None = "hysac-mini",
    traversal: Traversal = "geodesic",
    threshold: float | None = None,
    allow_unsafe: bool = True,
    create: bool = False,
    hnsw: HnswOptions | None = None,
    **connection: Unpack[Connection],
) -> SafeSearch:
    """Open a collection for safe search.

    Args:
        name: Name of the collection.
        model: Bundled name, folder or hub repository of the model; an `Encoder`; or None to search with points only.
        traversal: How unsafe queries are redirected: ``"geodesic"``, ``"reference"`` or ``"none"``.
        threshold: Stricter threshold than the model's, for every search of this engine.
        allow_unsafe: Whether ``safe=False`` may be asked for.
        create: Make the collection if it does not exist.
        hnsw: Options of the graph, for a collection that is made.
        **connection: Where it lives: `location`, `url` (with `api_key`, `prefer_grpc`) or `client`; see `Connection`.

    Raises:
        BundleError: The model cannot be used.
        CollectionNotFoundError: There is no such collection, and `create` is not given.
        ModelMismatchError: It was indexed with another model.
        SettingsError: A setting is out of range, or not exactly one place is named.
        StorageLockedError: Another process has the folder.
    """
    encoder = load_encoder(model)
    if create:
        if encoder is None:
            raise SettingsError("create=True needs a model; use Index.create for a collection of points")
        index = Index.create(
            name,
            dim=encoder.dim,
            curvature=encoder.curvature,
            safety=encoder.safety,
            fingerprint=encoder.fingerprint,
            lift=encoder.lift,
            hnsw=hnsw,
            exist_ok=True,
            **connection,
        )
    else:
        index = Index.open(name, expect_fingerprint=encoder.fingerprint if encoder else None, **connection)
    try:
        return SafeSearch(index, encoder, traversal=traversal, threshold=threshold, allow_unsafe=allow_unsafe)
    except BaseException:
        index.close()
        raise


def load_encoder(model: str | Path | QueryEncoder | None) -> QueryEncoder | None:
    """The encoder that `connect` was given, or the one it named."""
    if not isinstance(model, str | Path):
        return model
    from hysac_retrieval.encoder import Encoder

    return Encoder.load(model)
