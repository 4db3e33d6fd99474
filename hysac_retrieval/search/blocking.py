"""Safe search, blocking: `connect` opens a collection, `SafeSearch` searches it.

What a search is, is in `search_core`; here its requests are sent to a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from hysac_retrieval.collection.collection import rule_indexes
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.results import GroupedResult, SearchResult
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.engine import LiveSearch, SearchEngine
from hysac_retrieval.search.explain import Explanation, explain
from hysac_retrieval.search.permitted import permitted
from hysac_retrieval.search.queries import PointRef, Query, QueryEncoder, several
from hysac_retrieval.search.request import ExplainOptions, GroupOptions, SearchOptions
from hysac_retrieval.steps import Steps, run
from hysac_retrieval.stores import Connection, HnswOptions
from hysac_retrieval.types import PointId

if TYPE_CHECKING:
    from hysac_retrieval.encoder.called import Encode

T = TypeVar("T")


class SafeSearch:
    """Safe search over one collection. Made by `connect`; a context manager; usable from several threads.

    Args:
        index: The collection.
        encoder: Encodes text and image queries; None to search with points only.
        policy: What a search may ask for; None for the defaults of `SafetyPolicy`.

    Raises:
        ModelMismatchError: The collection was indexed with another model than the encoder's.
        SettingsError: The policy is looser than the model's calibration.
    """

    def __init__(self, index: Index, encoder: QueryEncoder | None, *, policy: SafetyPolicy | None = None) -> None:
        self._index = index
        self._live = LiveSearch(index.current, encoder, policy)

    @property
    def index(self) -> Index:
        """The collection searched."""
        return self._index

    @property
    def encoder(self) -> QueryEncoder | None:
        """Encoder of the queries."""
        return self.core.encoder

    @property
    def policy(self) -> SafetyPolicy:
        """Policy that every search is held to."""
        return self.core.policy

    @property
    def core(self) -> SearchEngine:
        """Everything of a search but the sending, for the collection as it was last read."""
        return self._live.engine

    @property
    def live(self) -> LiveSearch:
        """Follows the collection when it is replaced."""
        return self._live

    def search(self, query: Query, **options: Unpack[SearchOptions]) -> SearchResult:
        """Find what is nearest to a query.

        Args:
            query: Text (any `str`); an image as `Path`, bytes, PIL image or array of pixels; a stored point
                (`PointRef`); `Examples`; or an array: a vector (k,) of the encoder that the model's head was fitted
                to, a point (d,) for a model without heads. `LorentzPoint` is a point in any case.
            **options: ``safe``, ``limit``, ``offset``, ``modality``, ``filter``, ``threshold``, ``penalty``,
                ``rerank``, ``context`` and others; see `SearchOptions`.

        Raises:
            UnsafeNotAllowedError: ``safe=False`` where the policy does not allow it.
            InputError: The query cannot be read (`TextError`, `ImageError`, `InvalidVectorError`).
            PointNotFoundError: A stored point is not there.
            SettingsError: An option is out of range.
        """
        return self._run(lambda engine: engine.search([query], options))[0]

    def search_batch(self, queries: Iterable[Query], **options: Unpack[SearchOptions]) -> list[SearchResult]:
        """As `search`, for many queries (kinds may be mixed) in one request to the store; same order."""
        asked = several(queries)
        return self._run(lambda engine: engine.search(asked, options))

    def similar(self, id: PointId, **options: Unpack[SearchOptions]) -> SearchResult:
        """Find what is nearest to a stored point, which is judged and redirected as any query and not among the hits.

        Raises:
            PointNotFoundError: There is no such point; or the policy excludes it, by a rule, or because it is unsafe
                and `SafetyPolicy.allow_unsafe` is off.
        """
        return self.search(PointRef(id), **options)

    def search_groups(
        self, query: Query, by: str, *, groups: int = 10, size: int = 3, **options: Unpack[GroupOptions]
    ) -> GroupedResult:
        """As `search`, with the hits grouped by a payload field: the nearest groups, the nearest hits of each.

        Args:
            query: See `search`.
            by: The payload field, such as ``album`` or ``meta.album``; points without it are left out.
            groups: Groups at most.
            size: Hits of each group at most.
            **options: See `GroupOptions`.
        """
        asked = {**options, "by": by, "groups": groups, "size": size}
        return self._run(lambda engine: engine.groups(query, asked))

    def explain(self, query: Query, **options: Unpack[ExplainOptions]) -> Explanation:
        """Show the way of a query to the origin, and which stored texts entail it on the way; see `explain.explain`."""
        return self._run(lambda engine: explain(engine, query, options))

    def permitted(self, ids: Iterable[PointId]) -> frozenset[PointId]:
        """Those of some stored points that a safe search may return; see `permitted.permitted`."""
        known = list(ids)
        return self._run(lambda engine: permitted(engine, known))

    def refresh(self) -> bool:
        """Read the collection's metadata again, and return whether it was another; searches notice by themselves.

        Raises:
            StoreError: The collection is no longer there.
            ModelMismatchError: It is of another model now.
        """
        return self._index.refresh()

    def close(self) -> None:
        """Let go of the store, unless it was the caller's."""
        self._index.close()

    def __enter__(self) -> Self:
        self._index.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def only_safe(self) -> SafeSearch:
        """Return this engine for callers to whom unsafe points are out of reach, whatever its policy allows others.

        Nothing that it returns depends on unsafe points, and none of them is a query. Closing either closes both.
        """
        return _OnlySafe(self)

    def _run(self, begin: Callable[[SearchEngine], Steps[T]]) -> T:
        return run(self._live.steps(begin), self._index.store)


class _OnlySafe(SafeSearch):
    def __init__(self, engine: SafeSearch) -> None:
        self._engine, self._index, self._live = engine, engine.index, engine.live

    @property
    def core(self) -> SearchEngine:
        """Everything of a search but the sending."""
        return super().core.only_safe

    def _run(self, begin: Callable[[SearchEngine], Steps[T]]) -> T:
        return self._engine._run(lambda engine: begin(engine.only_safe))


def connect(
    name: str,
    *,
    model: str | Path | QueryEncoder | None = "hysac-mini",
    encode: Encode | None = None,
    policy: SafetyPolicy | None = None,
    create: bool = False,
    hnsw: HnswOptions | None = None,
    **connection: Unpack[Connection],
) -> SafeSearch:
    """Open a collection for safe search.

    Args:
        name: Name of the collection.
        model: Bundled name, folder or hub repository of the model; an `Encoder`; or None to search with points only.
        encode: Encodes texts, and perhaps images, for a model that is a head only: a function from a list of texts to
            vectors (n, k), or an object with such methods ``text`` and ``image``.
        policy: What a search may ask for; None for the defaults of `SafetyPolicy`.
        create: Make the collection if it does not exist.
        hnsw: Options of the graph, for a collection that is made.
        **connection: Where it lives: `location`, `url` (with `api_key`, `prefer_grpc`) or `client`; see `Connection`.

    Raises:
        BundleError: The model cannot be used.
        CollectionNotFoundError: There is no such collection, and `create` is not given.
        ModelMismatchError: It was indexed with another model; or `encode` is not of the encoder that the model knows.
        SettingsError: A setting is out of range, or not exactly one place is named.
        StorageLockedError: Another process has the folder.
    """
    encoder = load_encoder(model, encode)
    if create:
        if encoder is None:
            raise SettingsError("create=True needs a model; use Index.create for a collection of points")
        index = Index.for_model(encoder, name, hnsw=hnsw, exist_ok=True, **connection)
    else:
        index = Index.open(name, expect_fingerprint=encoder.fingerprint if encoder else None, **connection)
    try:
        engine = SafeSearch(index, encoder, policy=policy)
        index.store.admit(index.name, rule_indexes(policy))
        return engine
    except BaseException:
        index.close()
        raise


def load_encoder(model: str | Path | QueryEncoder | None, encode: Encode | None = None) -> QueryEncoder | None:
    """The encoder that `connect` was given, or the one it named; see there."""
    if encode is None:
        if not isinstance(model, str | Path):
            return model
        from hysac_retrieval.encoder.encoder import Encoder

        return Encoder.load(model)
    from hysac_retrieval.encoder.bundle import Bundle
    from hysac_retrieval.encoder.called import CalledEncoder
    from hysac_retrieval.encoder.encoder import Encoder

    if isinstance(model, Encoder):
        return CalledEncoder(model.bundle, encode)
    if not isinstance(model, str | Path):
        raise SettingsError("encode= goes with a model that is a bundle with a head", hint="Name the bundle: model=…")
    return CalledEncoder(Bundle.load(model), encode)
