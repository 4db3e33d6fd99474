"""Strict mode of a collection, which Qdrant Cloud switches on: limits that requests must keep."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from qdrant_client import models
from qdrant_client.local.payload_filters import check_filter

from hysac_retrieval.errors import SettingsError, StoreError
from hysac_retrieval.stores.faults import INDEX_HINT
from hysac_retrieval.stores.qdrant.conditions import fields, listed
from hysac_retrieval.stores.types import VECTOR_NAME, StoredPoint, VectorQuery


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a collection; None for none.

    Attributes:
        limit: Most points that one request may return.
        ef: Most candidates of a graph search.
        oversampling: Largest oversampling.
        exact: Whether counts may be exact.
        indexed: Payload fields with an index.
        reads: Whether conditions of reads may name others.
        updates: Whether conditions of updates may.
    """

    limit: int | None = None
    ef: int | None = None
    oversampling: float | None = None
    exact: bool = True
    indexed: frozenset[str] = frozenset()
    reads: bool = True
    updates: bool = True

    def page(self, wanted: int) -> int:
        """Return how many points to ask for at once, of as many as are wanted."""
        return wanted if self.limit is None else min(wanted, self.limit)

    def split(self, condition: models.Filter | None) -> tuple[models.Filter | None, models.Filter | None]:
        """Return the part of a condition that a read may name, and the part that is left to check on what comes back.

        Points meet the condition if they meet both.
        """
        if self.reads or condition is None or not self._lacks(condition):
            return condition, None
        parts = {"must": listed(condition.must), "must_not": listed(condition.must_not)}
        taken = {name: [one for one in part if not self._lacks(one)] for name, part in parts.items()}
        left: dict[str, Any] = {name: [one for one in part if self._lacks(one)] for name, part in parts.items()}
        for name, given in (("should", condition.should), ("min_should", condition.min_should)):
            left[name] = given
        return models.Filter(**{name: part or None for name, part in taken.items()}), models.Filter(**left)

    def expect_indexed(self, name: str, named: Iterable[str]) -> None:
        """Check that reads of a collection may have conditions on some fields.

        Raises:
            StoreError: One of them has no index, and needs one.
        """
        if not self.reads and (lacking := [field for field in named if field not in self.indexed]):
            what = f"the strict mode of collection {name!r} takes no condition on {lacking[0]!r}, which has no index"
            raise StoreError(what, hint=INDEX_HINT.format(lacking[0]))

    def _lacks(self, condition: Any) -> bool:
        return any(field not in self.indexed for field in fields(condition))

    def fitted(self, query: VectorQuery, points: int = 0) -> VectorQuery:
        """Return a query that keeps the limits: fewer candidates, but never fewer points than are wanted.

        Args:
            query: The query.
            points: Points that it returns, where that is not its own limit.

        Raises:
            SettingsError: More points are wanted than one request may return.
        """
        if self == _NONE:
            return query
        least = points or query.least or query.limit
        if self.limit is not None and least > self.limit:
            what = f"the strict mode of this collection allows {self.limit} points in one search, not {least}"
            raise SettingsError(what, hint=f"Ask for at most {self.limit}, or raise max_query_limit of its strict mode")
        return replace(
            query,
            limit=self.page(query.limit),
            candidates=None if query.candidates is None else self.page(query.candidates),
            ef=query.ef if self.ef is None else min(query.ef or self.ef, self.ef),
            oversampling=query.oversampling and min(query.oversampling, self.oversampling or math.inf),
        )


_NONE = Limits()


def meets(point: StoredPoint, condition: models.Filter) -> bool:
    """Whether a point with its payload meets a condition on that."""
    vectors = {} if point.vector is None else {VECTOR_NAME: True}
    return check_filter(condition, dict(point.payload), point.id, vectors)


def limits_of(info: models.CollectionInfo) -> Limits:
    """Read the limits in the description of a collection."""
    strict = info.config.strict_mode_config
    if strict is None or not strict.enabled:
        return _NONE
    return Limits(
        limit=strict.max_query_limit,
        ef=strict.search_max_hnsw_ef,
        oversampling=strict.search_max_oversampling,
        exact=strict.search_allow_exact is not False,
        indexed=frozenset(info.payload_schema),
        reads=strict.unindexed_filtering_retrieve is not False,
        updates=strict.unindexed_filtering_update is not False,
    )
