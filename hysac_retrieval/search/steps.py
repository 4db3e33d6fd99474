"""What a search asks of a store, as values, so that its logic exists once for blocking and asynchronous code.

A search is a generator: it yields an `Effect`, is sent the store's answer, and returns its result. Whoever drives it
decides how effects are carried out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.types import Group, GroupQuery, StoredPoint, VectorQuery
from hysac_retrieval.types import PointId

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fetch:
    """Stored points by id; answered as `Store.retrieve` does."""

    ids: tuple[PointId, ...]


@dataclass(frozen=True, slots=True)
class Find:
    """Searches in one request; answered as `Store.query` does."""

    query: VectorQuery


@dataclass(frozen=True, slots=True)
class FindGroups:
    """A grouped search; answered as `Store.query_groups` does."""

    query: VectorQuery
    groups: GroupQuery


Effect: TypeAlias = Fetch | Find | FindGroups
Steps: TypeAlias = Generator[Effect, Any, T]
"""A computation that needs a store on its way to a `T`."""


def fetch(ids: tuple[PointId, ...]) -> Steps[list[StoredPoint]]:
    """Stored points by id; nothing is asked of the store where none is named."""
    if not ids:
        return []
    stored: list[StoredPoint] = yield Fetch(ids)
    return stored


def find(query: VectorQuery) -> Steps[list[list[StoredPoint]]]:
    """The store's answers to searches; nothing is asked of it where there is no vector."""
    if not len(query.vectors):
        return []
    answers: list[list[StoredPoint]] = yield Find(query)
    return answers


def find_groups(query: VectorQuery, groups: GroupQuery) -> Steps[list[Group]]:
    """The store's answer to a grouped search."""
    found: list[Group] = yield FindGroups(query, groups)
    return found


def perform(store: Store, name: str, effect: Effect) -> Any:
    """Carry out an effect on a collection of a store."""
    if isinstance(effect, Find):
        return store.query(name, effect.query)
    if isinstance(effect, FindGroups):
        return store.query_groups(name, effect.query, effect.groups)
    return store.retrieve(name, effect.ids)


def advance(steps: Steps[T], answer: Any) -> tuple[Effect | None, T | None]:
    """Send an answer (None to begin) and go on to the next effect, or to the result where the effect is None.

    `StopIteration` cannot leave a future or a coroutine; here it becomes a value.
    """
    try:
        return steps.send(answer), None
    except StopIteration as end:
        return None, end.value


def run(steps: Steps[T], carry_out: Callable[[Effect], Any]) -> T:
    """Drive a computation to its result, blocking."""
    effect, result = advance(steps, None)
    while effect is not None:
        effect, result = advance(steps, carry_out(effect))
    return result  # type: ignore[return-value]  # without a further effect, it is the result
