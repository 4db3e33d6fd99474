"""What the retriever of any framework does: a search whose terms are fixed, and hits as documents.

The plugins only translate between this and their framework's classes. It imports none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from qdrant_client import models

from hysac_retrieval.collection.plans import SearchOptions
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.results import Hit, SearchResult
from hysac_retrieval.safety.filters import as_filter, checked_count
from hysac_retrieval.search.asynchronous import AsyncSafeSearch
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.queries import Query, Text
from hysac_retrieval.types import Modality

CONTENT_KEYS = ("text", "caption")
"""Payload fields in which `hysac-index` keeps what a text says and what an image shows."""

UserFilter = models.Filter | Mapping[str, Any]
"""A Qdrant filter, or its JSON form."""


@dataclass(frozen=True)
class FixedSearch:
    """A search of which a caller may choose the query, the number of hits and a *further* filter, and nothing else.

    Whether unsafe results may be returned is fixed here, at construction, and there only as far as the engine's policy
    allows it. There is no argument of a call that reaches it.

    Args:
        engine: What searches, for blocking calls; and for asynchronous ones, in a thread, if there is no other.
        async_engine: What searches for asynchronous calls.
        limit: Hits of a search that names no number.
        filter: A condition that holds in every search; that of a call is joined to it.
        modality: Kind of points to find; None for both.
        safe: Whether only safe points may be returned.

    Raises:
        SettingsError: There is no engine, or an option is out of range.
        UnsafeNotAllowedError: ``safe=False`` where the engine's policy does not allow it.
    """

    engine: SafeSearch | None = None
    async_engine: AsyncSafeSearch | None = None
    limit: int = 10
    filter: UserFilter | None = None
    modality: Modality | None = None
    safe: bool = True

    def __post_init__(self) -> None:
        for name, kind in (("engine", SafeSearch), ("async_engine", AsyncSafeSearch)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                raise SettingsError(f"{name} is {type(given).__name__}; expected what hysac_retrieval.connect returns")
        if self.engine is None and self.async_engine is None:
            raise SettingsError("there is no engine; give engine=connect(…), async_engine=aconnect(…), or both")
        if not isinstance(self.safe, bool):
            raise SettingsError(f"safe is {self.safe!r}; it must be True or False")
        if self.engine is not None:
            self.engine.policy.expect_allowed(self.safe)
        checked_count(self.limit, "the number of hits")
        joined_filter(self.filter)

    def search(self, query: Query, limit: int | None = None, filter: UserFilter | None = None) -> SearchResult:
        """Search, blocking. A `str` is text, never the path of an image.

        Raises:
            SettingsError: There is only an asynchronous engine, or an option is out of range.
        """
        if self.engine is None:
            raise SettingsError("there is only an asynchronous engine; use the asynchronous method, or give engine=")
        return self.engine.search(as_asked(query), **self._options(limit, filter))

    async def asearch(self, query: Query, limit: int | None = None, filter: UserFilter | None = None) -> SearchResult:
        """As `search`, without blocking."""
        if self.async_engine is not None:
            return await self.async_engine.search(as_asked(query), **self._options(limit, filter))
        return await asyncio.to_thread(self.search, query, limit, filter)

    def _options(self, limit: int | None, filter: UserFilter | None) -> SearchOptions:
        return {
            "safe": self.safe,
            "limit": self.limit if limit is None else limit,
            "filter": joined_filter(self.filter, filter),
            "modality": self.modality,
        }


@dataclass(frozen=True)
class Fields:
    """Where the payload of a point has what a framework's document is made of.

    Args:
        content: The field with the text; of several, the first that a point has.
        metadata: The field with the metadata; None if they are all other fields of the payload.
    """

    content: tuple[str, ...] = CONTENT_KEYS
    metadata: str | None = None

    @classmethod
    def of(cls, content: str | Sequence[str], metadata: str | None) -> Self:
        """Fields as settings name them: one field with the text, or several."""
        return cls((content,) if isinstance(content, str) else tuple(content), metadata)

    def text(self, hit: Hit) -> str | None:
        """The text of a hit; None if it has none. Several captions become lines."""
        for key in self.content:
            value = hit.payload.get(key)
            if isinstance(value, str):
                return value
            if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
                return "\n".join(value)
        return None

    def described(self, hit: Hit) -> dict[str, Any]:
        """The metadata of a hit, and under our own key, which no payload can hold, what the search says of it."""
        if self.metadata is None:
            own = {key: value for key, value in hit.payload.items() if key not in self.content}
        else:
            found = hit.payload.get(self.metadata)
            own = dict(found) if isinstance(found, Mapping) else {}
        said = {
            "id": hit.id,
            "distance": hit.distance,
            "unsafe": hit.unsafe,
            "radius": hit.radius,
            "modality": hit.modality,
        }
        return own | {PAYLOAD_KEY: said}


def closeness(hit: Hit) -> float:
    """1 / (1 + distance), in (0, 1]: for frameworks in which a larger score is a better one."""
    return 1.0 / (1.0 + hit.distance)


def as_asked(query: Query) -> Query:
    """A query from an application's user: a string is text and nothing else."""
    return Text(query) if isinstance(query, str) else query


def joined_filter(*given: UserFilter | None) -> models.Filter | None:
    """Filters that must all hold; None for none.

    Raises:
        SettingsError: One of them is no filter.
    """
    filters = [as_filter(one) for one in given if one is not None]
    if len(filters) < 2:
        return filters[0] if filters else None
    return models.Filter(must=[*filters])
