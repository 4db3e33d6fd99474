"""Strict mode of a collection, which Qdrant Cloud switches on: limits that requests must keep."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores.types import VectorQuery


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a collection; None for none.

    Attributes:
        limit: Most points that one request may return.
        ef: Most candidates of a graph search.
        oversampling: Largest oversampling.
        exact: Whether counts may be exact.
    """

    limit: int | None = None
    ef: int | None = None
    oversampling: float | None = None
    exact: bool = True

    def page(self, wanted: int) -> int:
        """Return how many points to ask for at once, of as many as are wanted."""
        return wanted if self.limit is None else min(wanted, self.limit)

    def fitted(self, query: VectorQuery) -> VectorQuery:
        """Return a query that keeps the limits: fewer candidates, but never fewer points than are wanted.

        Raises:
            SettingsError: More points are wanted than one request may return.
        """
        if self == _NONE:
            return query
        least = query.least or query.limit
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
    )
