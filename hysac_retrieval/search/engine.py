"""The one pipeline of a search: request, points, settle, plan, find, interpret, audit.

Each operation is a generator that asks a store; `blocking` and `asynchronous` drive it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

import numpy as np
from qdrant_client import models

from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.interpret import groups_of, hits_of
from hysac_retrieval.collection.plan import SearchPlan, plan_search
from hysac_retrieval.collection.records import found_points
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.results import GroupedResult, Hit, QueryInfo, ResultGroup, SearchResult
from hysac_retrieval.safety.policy import AuditRecord, Operation, SafetyPolicy
from hysac_retrieval.search.points import QueryPoint, Stored, mentioned, query_points
from hysac_retrieval.search.queries import Query, QueryEncoder, describe
from hysac_retrieval.search.request import AnyRequest, GroupSearchRequest, SearchRequest, recorded
from hysac_retrieval.search.steps import fetch, find, find_groups
from hysac_retrieval.search.traversal import Settled, settle
from hysac_retrieval.steps import Steps
from hysac_retrieval.stores.types import GroupQuery, StoredPoint

R = TypeVar("R", bound=AnyRequest)
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
    bound: float
    plan: SearchPlan


@dataclass(frozen=True)
class SearchEngine:
    """Immutable, so that threads can share it.

    Attributes:
        collection: The collection searched.
        encoder: Encodes queries; None where only points are searched with.
        policy: What a search may ask for.
    """

    collection: Collection
    encoder: QueryEncoder | None
    policy: SafetyPolicy
    _prepared: dict[Any, Prepared[Any]] = field(default_factory=dict, repr=False, compare=False)

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
        if encoder is not None:
            collection.expect(encoder.fingerprint)
        chosen.bounds(collection.metadata.safety.threshold)
        return cls(collection, encoder, chosen)

    def search(self, queries: Sequence[Query], options: Mapping[str, Any]) -> Steps[list[SearchResult]]:
        """Search with several queries in one request to the store.

        Stored points among them take one request more, or two by a policy; an adaptive traversal one.
        """
        prepared = self.prepare(SearchRequest, options)
        request, plan = prepared.request, prepared.plan
        settled = yield from self.settled(queries, prepared)
        if not settled:
            return []
        answers = yield from find(self.collection.name, plan.query(*_searched(settled)))
        results = []
        for query, answer in zip(settled, answers, strict=True):
            page = hits_of(plan, query.point, answer)[request.offset : request.wanted]
            results.append(SearchResult(query.info, self.policy.admitted(page, request.safe)))
        self.audit("search", prepared, queries, [(result.query, result.hits) for result in results])
        return results

    def groups(self, query: Query, options: Mapping[str, Any]) -> Steps[GroupedResult]:
        """Search with one query and group what is found."""
        prepared = self.prepare(GroupSearchRequest, options)
        request, plan = prepared.request, prepared.plan
        (settled,) = yield from self.settled([query], prepared)
        grouping = GroupQuery(request.by, request.groups, request.size)
        answer = yield from find_groups(self.collection.name, plan.query(*_searched([settled])), grouping)
        found = []
        for group in groups_of(plan, settled.point, answer):
            if hits := self.policy.admitted(group.hits, request.safe):
                found.append(ResultGroup(group.value, hits))
        self.audit("search_groups", prepared, [query], [(settled.info, [hit for group in found for hit in group])])
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
            rules=self.policy.condition(request.safe),
        )
        prepared = Prepared(request, bound, plan)
        if key is not None:
            if len(self._prepared) >= _MOST_PREPARED:
                self._prepared.clear()
            self._prepared[key] = prepared
        return prepared

    def settled(self, queries: Sequence[Query], prepared: Prepared[Any]) -> Steps[list[Settled]]:
        """Turn queries into points to search with.

        Raises:
            PointNotFoundError: A stored point is not there, or not one that the policy lets a caller know of.
        """
        request = prepared.request
        stored: Stored = {}
        if ids := mentioned(queries):
            visible = yield from self._visible((yield from fetch(self.collection.name, ids)), prepared)
            stored = dict(zip(ids, zip(*found_points(self.collection, ids, visible), strict=True), strict=True))
        points: list[QueryPoint] = query_points(self.collection, self.encoder, queries, stored, request.query_modality)
        return (yield from settle(self.collection, self.policy, points, request, prepared.bound))

    def _visible(self, stored: list[StoredPoint], prepared: Prepared[Any]) -> Steps[list[StoredPoint]]:
        """Return those of some stored points that the policy lets a caller know of.

        What is near a point, and how near, tells what it is. So points that the rules exclude are no queries, and where
        unsafe points are out of reach altogether, neither are they.
        """
        rules, safe = self.policy.condition(prepared.request.safe), not self.policy.allow_unsafe
        if not stored or (rules is None and not safe):
            return stored
        among = models.Filter(must=[models.HasIdCondition(has_id=[point.id for point in stored])])
        request = PageRequest(limit=len(stored), safe=safe, threshold=prepared.bound, filter=among)
        plan = plan_search(self.collection, request, rules=rules)
        origin = np.zeros((1, self.collection.metadata.dim))
        (answer,) = yield from find(self.collection.name, plan.query(origin))
        found = {hit.id for hit in self.policy.admitted(hits_of(plan, origin[0], answer), prepared.request.safe)}
        return [point for point in stored if point.id in found]

    def audit(
        self,
        operation: Operation,
        prepared: Prepared[Any],
        queries: Sequence[Query],
        found: Sequence[tuple[QueryInfo, Sequence[Hit]]],
    ) -> None:
        """Tell the policy's audit of a search that was allowed unsafe results."""
        if prepared.request.safe or self.policy.audit is None or not found:
            return
        self.policy.audit(
            AuditRecord(
                collection=self.collection.name,
                operation=operation,
                asked=tuple(describe(query) for query in queries),
                queries=tuple(info for info, _ in found),
                options=recorded(prepared.request),
                hits=tuple(tuple(hit.id for hit in hits) for _, hits in found),
                context=prepared.request.context,
            )
        )


def _searched(settled: Sequence[Settled]) -> tuple[Any, list[tuple[int | str, ...]]]:
    """Points to search with, (n, d), and the ids that each leaves out."""
    if len(settled) == 1:
        return settled[0].point[None, :], [settled[0].hidden]
    return np.stack([query.point for query in settled]), [query.hidden for query in settled]
