"""The one pipeline of a search: request, points, settle, plan, find, interpret, audit.

Each operation is a generator that asks a store; `blocking` and `asynchronous` drive it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, Self, TypeVar

from hysac_retrieval.collection.answers import answers_to, groups_to
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.current import Current
from hysac_retrieval.collection.interpret import groups_of, hits_of
from hysac_retrieval.collection.plan import SearchPlan, plan_search
from hysac_retrieval.errors import DomainError, SettingsError
from hysac_retrieval.results import GroupedResult, ResultGroup, SearchResult
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.audit import audit
from hysac_retrieval.search.points import QueryPoint, query_points
from hysac_retrieval.search.queries import Query, QueryEncoder
from hysac_retrieval.search.request import AnyRequest, GroupSearchRequest, SearchRequest
from hysac_retrieval.search.traversal import Settled, settle
from hysac_retrieval.steps import Steps
from hysac_retrieval.stores.types import GroupQuery
from hysac_retrieval.types import Thresholds

R = TypeVar("R", bound=AnyRequest)
T = TypeVar("T")
_log = logging.getLogger(__name__)
_MOST_PREPARED = 64
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class Prepared(Generic[R]):
    """A request that the policy allows, and how it is answered.

    Attributes:
        request: The request.
        bound: Largest unsafe score that counts as safe.
        plan: How it is answered.
    """

    request: R
    bound: Thresholds
    plan: SearchPlan


@dataclass(frozen=True)
class SearchEngine:
    """Immutable, so that threads can share it.

    Attributes:
        collection: The collection searched.
        encoder: Encodes queries; None for an engine that is only asked with points.
        policy: What a search may ask for.
    """

    collection: Collection
    encoder: QueryEncoder | None
    policy: SafetyPolicy
    _prepared: dict[Any, Prepared[Any]] = field(default_factory=dict, repr=False, compare=False)
    _said: list[str] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def make(cls, collection: Collection, encoder: QueryEncoder | None, policy: SafetyPolicy | None = None) -> Self:
        """Check that these fit each other, and put them together.

        Raises:
            ModelMismatchError: The collection was indexed with another model than the encoder's.
            SettingsError: The policy is looser than the model's calibration.
        """
        chosen = SafetyPolicy() if policy is None else policy
        if not isinstance(chosen, SafetyPolicy):
            raise SettingsError(f"policy is {type(chosen).__name__}; expected a SafetyPolicy")
        collection.expect_vectors()
        collection.expect_labels(rule.key for rule in chosen.rules)
        if encoder is not None:
            collection.expect(encoder.fingerprint)
        chosen.bounds(collection.metadata.safety.threshold)
        return cls(collection, encoder, chosen)

    @cached_property
    def only_safe(self) -> SearchEngine:
        """The same search for callers to whom unsafe points are out of reach, whatever the policy allows others."""
        return replace(self, policy=replace(self.policy, allow_unsafe=False), _prepared={})

    def search(self, queries: Sequence[Query], options: Mapping[str, Any]) -> Steps[list[SearchResult]]:
        """Search with several queries in one request to the store.

        Stored points among them take one request more, or two by a policy; an adaptive traversal one.
        """
        prepared = self.prepare(SearchRequest, options)
        request, plan = prepared.request, prepared.plan
        settled = yield from self.settled(queries, prepared)
        if not settled:
            return []
        answers = yield from answers_to(plan, [query.point for query in settled], [query.hidden for query in settled])
        results = []
        for query, answer in zip(settled, answers, strict=True):
            page = hits_of(plan, query.point, answer)[request.offset : request.wanted]
            results.append(SearchResult(query.info, self.policy.admitted(page, request.safe)))
        shown = [(result.query, result.hits) for result in results]
        audit(self.policy, self.collection.name, "search", request, queries, shown)
        return results

    def groups(self, query: Query, options: Mapping[str, Any]) -> Steps[GroupedResult]:
        """Search with one query and group what is found."""
        prepared = self.prepare(GroupSearchRequest, options)
        request, plan = prepared.request, prepared.plan
        (settled,) = yield from self.settled([query], prepared)
        grouping = GroupQuery(request.by, request.groups, request.size)
        answer = yield from groups_to(plan, settled.point, settled.hidden, grouping)
        found = []
        for group in groups_of(plan, settled.point, answer):
            if hits := self.policy.admitted(group.hits, request.safe):
                found.append(ResultGroup(group.value, hits))
        shown = [(settled.info, [hit for group in found for hit in group])]
        audit(self.policy, self.collection.name, "search_groups", request, [query], shown)
        return GroupedResult(settled.info, tuple(found))

    def prepare(self, kind: type[R], options: Mapping[str, Any]) -> Prepared[R]:
        """Check the options of a call against the policy, and decide how it is answered; once for the same options.

        Raises:
            UnsafeNotAllowedError: ``safe=False`` where the policy forbids it.
            SettingsError: An option is out of range or unknown.
        """
        key: Any = None
        if all(type(value) in _PLAIN for value in options.values()):
            # With the types, since 1, 1.0 and True are equal, and mean different things.
            key = (kind, *((name, type(value), value) for name, value in options.items()))
            if (known := self._prepared.get(key)) is not None:
                return known
        request: R = kind.of(options)  # type: ignore[assignment]  # the union's `of` is each one's
        self.policy.expect_allowed(request.safe)
        bound = self.policy.threshold_for(request.threshold, self.collection.metadata.safety.threshold)
        plan = plan_search(
            self.collection,
            request.model_copy(update={"threshold": bound}),
            rules=self.policy.rules_of(request.safe),
            trust_reviews=self.policy.trusts_reviews(request.threshold),
        )
        prepared = Prepared(request, bound, plan)
        if key is not None:
            if len(self._prepared) >= _MOST_PREPARED:
                self._prepared.clear()
            self._prepared[key] = prepared
        return prepared

    def settled(self, queries: Sequence[Query], prepared: Prepared[Any]) -> Steps[list[Settled]]:
        """Turn queries into points to search with; see `query_points` and `settle`."""
        collection, policy, request, bound = self.collection, self.policy, prepared.request, prepared.bound
        points = yield from query_points(collection, self.encoder, policy, queries, request, bound)
        self._heed(points)
        return (yield from settle(collection, policy, points, request, bound))

    def _heed(self, points: Sequence[QueryPoint]) -> None:
        """Say once that queries are unlike what the model knows; `DomainError` where the policy refuses them."""
        strict = self.policy.unknown == "refuse"
        if not (strict or not self._said) or not any(one.judged is not None and one.judged.unlike for one in points):
            return
        what = (
            f"a query of {self.collection.name!r} is unlike anything the model knows: its score and hits mean nothing"
        )
        if strict:
            raise DomainError(what, hint="Search with a model that knows such queries: hysac fit")
        self._said.append(what)
        _log.warning("%s; further ones are marked (query.unlike) without a word", what)


class LiveSearch:
    """The engine of a collection that others may replace: made anew for what it is now.

    Args:
        current: The collection.
        encoder: Encodes queries; None for points only.
        policy: What a search may ask for.

    Raises:
        ModelMismatchError: The collection was indexed with another model than the encoder's.
        SettingsError: The policy is looser than the model's calibration.
    """

    def __init__(self, current: Current, encoder: QueryEncoder | None, policy: SafetyPolicy | None) -> None:
        self._current = current
        self._engine = SearchEngine.make(current.collection, encoder, policy)

    @property
    def engine(self) -> SearchEngine:
        """The engine for the collection as it was last read; `SettingsError` if the policy is too loose for it."""
        engine, collection = self._engine, self._current.collection
        if engine.collection is not collection:
            # Of the same model: `Current` takes no other. Its calibration may be another than the encoder's by now.
            engine.policy.bounds(collection.metadata.safety.threshold)
            engine = self._engine = replace(engine, collection=collection, _prepared={})
        return engine

    def steps(self, begin: Callable[[SearchEngine], Steps[T]]) -> Steps[T]:
        """Search; see `Current.steps`."""
        return self._current.steps(lambda _: begin(self.engine))

    def refresh(self) -> Steps[bool]:
        """See `Current.refresh`."""
        return self._current.refresh()
