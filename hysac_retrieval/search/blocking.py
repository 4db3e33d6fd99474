"""Safe search, blocking: `connect` opens a collection, `SafeSearch` searches it.

What a search is, is in `search_core`; here its requests are sent to a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from hysac_retrieval.collection.index import Index
from hysac_retrieval.results import GroupedResult, SearchResult
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.engine import LiveSearch, SearchEngine
from hysac_retrieval.search.explain import Explanation, explain
from hysac_retrieval.search.permitted import permitted
from hysac_retrieval.search.queries import PointRef, Query, QueryEncoder, several
from hysac_retrieval.search.request import ExplainOptions, GroupOptions, SearchOptions
from hysac_retrieval.steps import Steps, run
from hysac_retrieval.types import PointId

if TYPE_CHECKING:
    pass

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
