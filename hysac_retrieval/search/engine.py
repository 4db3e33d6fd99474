"""Everything of a search but the sending: encode, assess, redirect if unsafe, plan, interpret.

Each operation is a generator that asks a store; see `steps`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.plans import ASK_OPTIONS, SEARCH_OPTIONS, AskOptions, SearchOptions, SearchPlan
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.results import GroupedResult, Hit, PathStep, QueryInfo, ResultGroup, SearchResult
from hysac_retrieval.safety.filters import as_filter
from hysac_retrieval.safety.policy import AuditRecord, Operation, SafetyPolicy
from hysac_retrieval.search.queries import (
    Examples,
    PointRef,
    Query,
    QueryEncoder,
    describe,
    examples_point,
    kind_of,
    point_of,
    several,
)
from hysac_retrieval.search.steps import fetch, find, find_groups
from hysac_retrieval.search.traversal import Route, choose, joined, profile_score, routes, without
from hysac_retrieval.steps import Steps
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import MODALITIES, Modality, PointId


@dataclass(frozen=True)
class Asked:
    """A call's options, checked against the policy.

    Attributes:
        safe: Whether only safe points may be returned.
        bound: Largest unsafe score that counts as safe.
        query_modality: What points were encoded from.
        plan: Options for `Collection.plan`.
        record: What of this an audit is told.
        context: What the caller says about itself.
    """

    safe: bool
    bound: float
    query_modality: Modality | None
    plan: Mapping[str, Any]
    record: Mapping[str, Any]
    context: Mapping[str, Any]


@dataclass(frozen=True)
class Located:
    """Queries as points.

    Attributes:
        asked: The queries in words.
        points: Shape (n, d), float64.
        kinds: Modality of each; None if unknown.
        hidden: Ids that each leaves out of what it finds: those it is made of.
    """

    asked: tuple[str, ...]
    points: NDArray[np.float64]
    kinds: tuple[Modality | None, ...]
    hidden: tuple[tuple[PointId, ...], ...]


@dataclass(frozen=True)
class SearchCore:
    """Immutable, so that threads can share it.

    Attributes:
        collection: The collection searched.
        encoder: Encodes queries; None where only points are searched with.
        policy: What a search may ask for.
    """

    collection: Collection
    encoder: QueryEncoder | None
    policy: SafetyPolicy

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

    def search(self, queries: Iterable[Query], **options: Unpack[SearchOptions]) -> Steps[list[SearchResult]]:
        """Search with several queries in one request; stored points among them take one more, or two by a policy."""
        asked = self.checked(options)
        located = yield from self.locate(several(queries), asked)
        ways = self._routes(located, asked)
        owners = [row for row, way in enumerate(ways) for _ in way.points]
        plan = self.collection.plan(self._flat(way.points for way in ways), **asked.plan)
        probes = self._probes(ways, asked)
        hidden = [located.hidden[row] for row in owners]
        hidden += [located.hidden[row] for row in owners if ways[row].undecided]
        answers = yield from find(self.collection.name, joined(plan, probes, hidden))
        found = self.collection.interpret(plan, answers[: len(owners)])
        decided = self._decide(ways, probes, answers[len(owners) :], asked)
        results, first = [], 0
        for row, (way, (step, path)) in enumerate(zip(ways, decided, strict=True)):
            info = self._info(located, row, way.points[step], asked, path)
            results.append(SearchResult(info, self.policy.admitted(found[first + step], asked.safe)))
            first += len(way.points)
        self.audit("search", asked, located, [(result.query, result.hits) for result in results])
        return results

    def groups(
        self, query: Query, by: str, groups: int = 10, size: int = 3, **options: Unpack[AskOptions]
    ) -> Steps[GroupedResult]:
        """Search with one query and group what is found; an adaptive traversal takes one request more."""
        asked = self.checked(options, ASK_OPTIONS, by=by, groups=groups, size=size)
        located = yield from self.locate([query], asked)
        ((searched, info),) = yield from self.settle(located, asked)
        plan, grouping = self.collection.plan_groups(searched[None, :], by, groups, size, **asked.plan)
        narrowed = replace(plan.query, filter=without(plan.query.filter, located.hidden[0]))
        answer = yield from find_groups(self.collection.name, narrowed, grouping)
        every = self.collection.interpret_groups(plan, answer)
        found = {key: hits for key, some in every.items() if (hits := self.policy.admitted(some, asked.safe))}
        self.audit("search_groups", asked, located, [(info, [hit for hits in found.values() for hit in hits])])
        return GroupedResult(info, tuple(ResultGroup(value, hits) for value, hits in found.items()))

    def checked(self, options: Mapping[str, Any], known: Iterable[str] = SEARCH_OPTIONS, **more: Any) -> Asked:
        """Check a call's options against the policy.

        Args:
            options: The options, some or all of `SearchOptions`.
            known: Those that the kind of call takes.
            **more: What else of the call an audit should be told.

        Raises:
            UnsafeNotAllowedError: ``safe=False`` where the policy forbids it.
            SettingsError: An option is out of range or unknown.
        """
        if unknown := options.keys() - set(known):
            raise SettingsError(f"unknown option {', '.join(sorted(unknown))}; expected {', '.join(known)}")
        rest = dict(options)
        safe, context, query_modality = (
            rest.pop("safe", True),
            rest.pop("context", None),
            rest.pop("query_modality", None),
        )
        self.policy.expect_allowed(safe)
        if query_modality is not None and query_modality not in MODALITIES:
            raise SettingsError(f"unknown query_modality {query_modality!r}; expected {' or '.join(MODALITIES)}")
        if context is not None and not isinstance(context, Mapping):
            raise SettingsError(f"context is {type(context).__name__}; expected a mapping, such as {{'user': …}}")
        bound = self.policy.threshold_for(rest.pop("threshold", None), self.collection.metadata.safety.threshold)
        user = rest.pop("filter", None)
        condition = None if user is None else as_filter(user)
        plan = {
            **rest,
            "safe": safe,
            "threshold": bound,
            "filter": condition,
            "rules": self.policy.condition(safe),
        }
        record = (
            more
            | rest
            | (
                {}
                if condition is None
                else {"filter": condition.model_dump(mode="json", exclude_none=True, by_alias=True)}
            )
        )
        return Asked(safe, bound, query_modality, plan, record, dict(context or {}))

    def locate(self, queries: Sequence[Query], asked: Asked) -> Steps[Located]:
        """Encode texts and images, fetch stored points, and make one point of examples.

        Raises:
            PointNotFoundError: A stored point is not there, or not one that the policy lets a caller know of.
        """
        parts = [[*q.positive, *q.negative] if isinstance(q, Examples) else [q] for q in queries]
        leaves: list[Any] = [leaf for part in parts for leaf in part]
        ids = tuple(dict.fromkeys(leaf.id for leaf in leaves if isinstance(leaf, PointRef)))
        stored = yield from self._visible((yield from fetch(self.collection.name, ids)), asked)
        known = dict(zip(ids, zip(*self.collection.found_points(ids, stored), strict=True), strict=True))
        points, kinds = self._encode(leaves, known, asked.query_modality)
        curvature = self.collection.metadata.curvature
        made = np.empty((len(queries), points.shape[1]))
        found: list[Modality | None] = []
        start = 0
        for row, (query, part) in enumerate(zip(queries, parts, strict=True)):
            rows = slice(start, start := start + len(part))
            if isinstance(query, Examples):
                count = len(query.positive)
                made[row] = examples_point(points[rows][:count], points[rows][count:], curvature)
                modalities = set(kinds[rows][:count])
                found.append(modalities.pop() if len(modalities) == 1 else None)
            else:
                made[row] = points[rows][0]
                found.append(kinds[rows][0])
        hidden = tuple(tuple(leaf.id for leaf in part if isinstance(leaf, PointRef)) for part in parts)
        return Located(tuple(describe(query) for query in queries), made, tuple(found), hidden)

    def _visible(self, stored: list[StoredPoint], asked: Asked) -> Steps[list[StoredPoint]]:
        """Those of some stored points that the policy lets a caller know of.

        What is near a point, and how near, tells what it is. So points that the rules exclude are no queries, and where
        unsafe points are out of reach altogether, neither are they.
        """
        rules, safe = asked.plan["rules"], not self.policy.allow_unsafe
        if not stored or (rules is None and not safe):
            return stored
        among = models.Filter(must=[models.HasIdCondition(has_id=[point.id for point in stored])])
        origin = np.zeros((1, self.collection.metadata.dim))
        plan = self.collection.plan(
            origin, limit=len(stored), safe=safe, threshold=asked.bound if safe else None, filter=among, rules=rules
        )
        (hits,) = self.collection.interpret(plan, (yield from find(self.collection.name, plan.query)))
        found = {hit.id for hit in self.policy.admitted(hits, asked.safe)}
        return [point for point in stored if point.id in found]

    def settle(self, located: Located, asked: Asked) -> Steps[list[tuple[NDArray[np.float64], QueryInfo]]]:
        """Points to search with and what was done to each query; an adaptive traversal probes to know."""
        ways = self._routes(located, asked)
        probes = self._probes(ways, asked)
        answers: list[Any] = []
        if probes is not None:
            hidden = [located.hidden[row] for row, way in enumerate(ways) if way.undecided for _ in way.points]
            answers = yield from find(self.collection.name, joined(probes, None, hidden))
        decided = self._decide(ways, probes, answers, asked)
        return [
            (way.points[step], self._info(located, row, way.points[step], asked, path))
            for row, (way, (step, path)) in enumerate(zip(ways, decided, strict=True))
        ]

    def audit(
        self,
        operation: Operation,
        asked: Asked,
        located: Located,
        found: Sequence[tuple[QueryInfo, Sequence[Hit]]],
    ) -> None:
        """Tell the policy's audit of a search that was allowed unsafe results."""
        if asked.safe or self.policy.audit is None or not found:
            return
        self.policy.audit(
            AuditRecord(
                collection=self.collection.name,
                operation=operation,
                asked=located.asked,
                queries=tuple(info for info, _ in found),
                options=asked.record,
                hits=tuple(tuple(hit.id for hit in hits) for _, hits in found),
                context=asked.context,
            )
        )

    def _encode(
        self,
        leaves: list[Any],
        stored: Mapping[PointId, tuple[NDArray[np.float64], Modality | None]],
        query_modality: Modality | None,
    ) -> tuple[NDArray[np.float64], list[Modality | None]]:
        """Points (n, d) and modalities of single queries."""
        dim = self.collection.metadata.dim
        kinds = [stored[leaf.id][1] if isinstance(leaf, PointRef) else kind_of(leaf) for leaf in leaves]
        points = np.empty((len(leaves), dim), dtype=np.float64)
        for row, leaf in enumerate(leaves):
            if isinstance(leaf, PointRef):
                points[row] = stored[leaf.id][0]
        for kind in (*MODALITIES, None):
            rows = [row for row, leaf in enumerate(leaves) if kinds[row] == kind and not isinstance(leaf, PointRef)]
            if not rows:
                continue
            items: list[Any] = [leaves[row] for row in rows]
            if kind is None:
                encoded: ArrayLike = [point_of(item, dim) for item in items]
            elif self.encoder is None:
                raise SettingsError(f"a {kind} query needs a model, and this engine has none; connect with model=")
            else:
                encoded = self.encoder.encode_text(items) if kind == "text" else self.encoder.encode_image(items)
            points[rows] = self.collection.checked(encoded)
        return points, [query_modality if kind is None else kind for kind in kinds]

    def _routes(self, located: Located, asked: Asked) -> list[Route]:
        metadata = self.collection.metadata
        mode = self.policy.traversal if asked.safe else "none"
        return routes(located.points, located.kinds, metadata.safety, metadata.curvature, mode, self.policy.steps)

    def _probes(self, ways: Sequence[Route], asked: Asked) -> SearchPlan | None:
        """What is nearest to each point of the undecided routes, whatever its score, and so without a penalty on it."""
        open_ways = [way.points for way in ways if way.undecided]
        if not open_ways:
            return None
        options = {**asked.plan, "safe": False, "threshold": None, "limit": self.policy.top, "offset": 0}
        if options.pop("penalty", 0.0):
            options["rerank"] = "formula"  # the other searches of the request have one
        return self.collection.plan(self._flat(open_ways), **options)

    def _decide(
        self, ways: Sequence[Route], probes: SearchPlan | None, answers: Sequence[Any], asked: Asked
    ) -> list[tuple[int, tuple[PathStep, ...]]]:
        """Step and path of each route."""
        metadata = self.collection.metadata
        nearest = [] if probes is None else self.collection.interpret(probes, answers)
        decided: list[tuple[int, tuple[PathStep, ...]]] = []
        start = 0
        for way in ways:
            if not way.undecided:
                decided.append((0, ()))
                continue
            here = nearest[start : start + len(way.points)]
            decided.append(choose(way, here, asked.bound, metadata.safety, metadata.curvature))
            start += len(way.points)
        return decided

    def _info(
        self, located: Located, row: int, searched: NDArray[np.float64], asked: Asked, path: tuple[PathStep, ...]
    ) -> QueryInfo:
        metadata, kind = self.collection.metadata, located.kinds[row]
        radius = radius_searched = float(lorentz.dist0(located.points[row], metadata.curvature))
        moved = not np.array_equal(located.points[row], searched)
        if moved:
            radius_searched = min(radius, float(lorentz.dist0(searched, metadata.curvature)))
        return QueryInfo(
            modality=kind,
            radius=radius,
            unsafe=profile_score(radius, kind, metadata.safety),
            redirected=moved,
            radius_searched=radius_searched,
            safe=asked.safe,
            threshold=asked.bound if asked.safe else None,
            path=path,
        )

    def _flat(self, parts: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
        return np.concatenate([np.empty((0, self.collection.metadata.dim)), *parts])
