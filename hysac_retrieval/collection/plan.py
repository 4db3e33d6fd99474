"""A request as it is sent to a store: what is asked for, whatever the points searched with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.request import Request
from hysac_retrieval.payload import UNSAFE
from hysac_retrieval.safety.filters import or_reviewed, safety_filter, search_filter, verdict_filter, without
from hysac_retrieval.safety.policy import LabelRule, rules_condition
from hysac_retrieval.safety.thresholds import effective_threshold
from hysac_retrieval.stores.types import Quantization, VectorQuery
from hysac_retrieval.types import PointId, Thresholds

OVERSAMPLING: dict[Quantization, float] = {"int8": 2.0, "turbo8": 2.0, "turbo4": 3.0, "binary": 8.0}
"""Quantized candidates compared again by their originals, per hit; chosen by benchmarks/recall.py."""

COMPARED: dict[Quantization, int] = {"binary": 1800}
"""How many candidates are compared again at least: one bit of a coordinate says little, so few hits need as many."""

_CANDIDATES = 100
"""First-stage points for a second stage, where the engine's own ranking is not the final one."""
# A few candidates more than asked for, so that the float32 scores of an engine do not decide which point is last.
_SPARE = 8


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """How a request is answered. Made once for a request; any number of points can be searched with it.

    Attributes:
        collection: The collection searched.
        request: What is asked for.
        thresholds: Largest unsafe scores of hits; None for a search that may return anything.
        trust_reviews: Whether points that a person decided are safe are, whatever their score.
        rules: Rules that every hit must meet, too.
        fetched: Points that the store returns for each query.
        candidates: Points that a first stage hands to a second one, which ranks by the geodesic distance; None where
            there is no second stage.
        ef: Candidates that the graph search keeps; None for the engine's own.
        oversampling: Quantized candidates compared again, per hit; None where nothing is quantized.
        recomputed: Whether distances are computed in float64 from the stored points.
    """

    collection: Collection
    request: Request
    thresholds: Thresholds | None
    trust_reviews: bool
    rules: tuple[LabelRule, ...]
    fetched: int
    candidates: int | None
    ef: int | None
    oversampling: float | None
    recomputed: bool

    @property
    def filter(self) -> models.Filter | None:
        """Condition on every hit, made anew each time: a plan is kept, and a store or a caller may change its own."""
        return search_filter(
            self._safety(),
            modality=self.request.modality,
            user=self.request.filter,
            rules=rules_condition(self.rules),
        )

    def _safety(self) -> models.Filter | None:
        if self.thresholds is None:
            return None
        metadata = self.collection.metadata
        if self.request.penalty == 0:
            calibrated = self.thresholds == metadata.safety.threshold
            verdict = verdict_filter(metadata.fingerprint, None if calibrated else self.thresholds)
            return or_reviewed(verdict, metadata.fingerprint) if self.trust_reviews else verdict
        # An engine cannot compute with a score that is a list: one such point would end the search of all others.
        strict = safety_filter(self.thresholds, metadata.fingerprint)
        if self.trust_reviews:
            strict = or_reviewed(strict, metadata.fingerprint, strict=True)
        single = models.FieldCondition(key=UNSAFE, values_count=models.ValuesCount(lte=1))
        return models.Filter(must=[*strict.must, single], must_not=strict.must_not)  # type: ignore[misc]  # a list

    def query(
        self, points: Sequence[NDArray[np.float64]] | NDArray[np.float64], hidden: Sequence[Sequence[PointId]] = ()
    ) -> VectorQuery:
        """Return the searches with points.

        Args:
            points: Shape (n, d), or n points (d,); n ≥ 1.
            hidden: Ids that each search leaves out; empty where none does.
        """
        condition, formulas = self.filter, None
        if self.candidates is not None:
            formulas = [self._formula(point) for point in points]
        return VectorQuery(
            vectors=self.collection.lift.lift_query(np.asarray(points)),
            limit=self.fetched,
            filter=condition,
            filters=[without(condition, ids) for ids in hidden] if any(hidden) else None,
            ef=self.ef,
            formulas=formulas,
            candidates=self.candidates,
            oversampling=self.oversampling,
            with_vectors=self.recomputed,
            least=self.request.wanted,
            shard_key_selector=self.request.shard_key_selector,
        )

    def _formula(self, point: NDArray[np.float64]) -> models.FormulaQuery:
        """Score of the second stage: the geodesic distance with the penalty, negative, as the highest comes first."""
        distance, defaults = self.collection.lift.formula(point), self.collection.lift.defaults()
        if self.request.penalty > 0:
            distance = models.SumExpression(sum=[distance, models.MultExpression(mult=[self.request.penalty, UNSAFE])])
            defaults = {**defaults, UNSAFE: 1.0}
        return models.FormulaQuery(formula=models.NegExpression(neg=distance), defaults=defaults or None)


def plan_search(
    collection: Collection,
    request: Request,
    *,
    rules: tuple[LabelRule, ...] = (),
    trust_reviews: bool = False,
    with_vectors: bool = False,
) -> SearchPlan:
    """Decide how a request is answered.

    Args:
        collection: The collection searched.
        request: What is asked for.
        rules: Rules that every hit must meet, too.
        trust_reviews: Whether points that a person decided are safe are, whatever their score.
        with_vectors: Whether distances are computed from the stored points, whatever the request says.

    Raises:
        SettingsError: The threshold is out of range.
        NotACollectionError: There are no vectors to rank by.
    """
    collection.expect_vectors()
    metadata, lift, wanted = collection.metadata, collection.lift, request.wanted
    calibrated, quantization = metadata.safety.threshold, metadata.quantization
    bound = effective_threshold(request.threshold, calibrated)
    recomputed = with_vectors or request.rerank == "exact" or quantization is not None
    fetched = wanted + (_SPARE if recomputed else 0)
    first: int | None = None
    if request.penalty > 0 or not lift.ranks:
        first = max(fetched, request.candidates or _first_stage(wanted))
        if not collection.formula:
            # The engine ranks by its own score and the final ranking is made here, so all candidates come back.
            fetched, first = first, None
    elif recomputed and request.candidates is not None:
        fetched = max(fetched, request.candidates)  # all of them are ranked again
    reached = max(fetched, first or 0, request.candidates or 0)
    return SearchPlan(
        collection=collection,
        request=request,
        thresholds=bound if request.safe else None,
        trust_reviews=trust_reviews,
        rules=rules,
        fetched=fetched,
        candidates=first,
        ef=None if request.ef is None else max(request.ef, reached),
        oversampling=None if quantization is None else _oversampling(quantization, fetched),
        recomputed=recomputed,
    )


def _oversampling(quantization: Quantization, fetched: int) -> float:
    return max(OVERSAMPLING[quantization], COMPARED.get(quantization, 0) / fetched)


def _first_stage(wanted: int) -> int:
    """First-stage points for so many hits, in doublings: the pages of a query mostly come from the same ones."""
    return _CANDIDATES << max(0, math.ceil(math.log2(2 * wanted / _CANDIDATES)))
