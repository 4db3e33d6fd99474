"""What a search asks of a store."""

from __future__ import annotations

from collections.abc import Sequence

from hysac_retrieval.steps import Ask, Steps
from hysac_retrieval.stores.types import Group, GroupQuery, StoredPoint, VectorQuery
from hysac_retrieval.types import PointId


def fetch(name: str, ids: Sequence[PointId]) -> Steps[list[StoredPoint]]:
    """Stored points by id; the store is not asked for none."""
    if not ids:
        return []
    stored: list[StoredPoint] = yield Ask("retrieve", name, ids)
    return stored


def find(name: str, query: VectorQuery) -> Steps[list[list[StoredPoint]]]:
    """Answers to the searches of a request; the store is not asked where there is no vector."""
    if not len(query.vectors):
        return []
    answers: list[list[StoredPoint]] = yield Ask("query", name, query)
    return answers


def find_groups(name: str, query: VectorQuery, groups: GroupQuery) -> Steps[list[Group]]:
    """Answer to a grouped search."""
    found: list[Group] = yield Ask("query_groups", name, query, groups)
    return found
