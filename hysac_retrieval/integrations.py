"""Share between the framework plugins: a search whose terms are fixed, and hits as documents.

The plugins translate between this and their framework's classes; it imports none of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from qdrant_client import models

from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.ingest.sources.fields import value_of
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.results import Hit, SearchResult
from hysac_retrieval.safety.filters import as_filter
from hysac_retrieval.search.asynchronous import AsyncSafeSearch
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.queries import Query
from hysac_retrieval.search.request import SearchOptions, SearchRequest
from hysac_retrieval.types import Modality

CONTENT_KEYS = ("text", "caption")
"""Payload fields in which `hysac-index` keeps a text and the caption of an image."""

FILE_KEY = "file"
"""Payload field in which `hysac-index` keeps the name of a picture's file."""

UserFilter = models.Filter | Mapping[str, Any]
"""A Qdrant filter, or its JSON form."""

GIVE_ENGINE = "Give engine=connect(…), async_engine=aconnect(…), or both"


@dataclass(frozen=True)
class FixedSearch:
    """A search of which a call may choose the query, the number of hits and a *further* filter, and nothing else.

    Whether unsafe results may be returned is fixed at construction, within the engine's policy; no argument of a call
    changes it.

    Args:
        engine: Engine for blocking calls; without `async_engine` also for asynchronous ones, in a thread.
        async_engine: Engine for asynchronous calls.
        limit: Hits of a search that names no number.
        filter: A condition that holds in every search; that of a call is joined to it.
        modality: Kind of points to find; None for both.
        safe: Whether only safe points may be returned.
        score_threshold: Least `closeness` of a hit, from 0 to 1; None for any.

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
    score_threshold: float | None = None

    def __post_init__(self) -> None:
        for name, kind in (("engine", SafeSearch), ("async_engine", AsyncSafeSearch)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                raise SettingsError(f"{name} is {type(given).__name__}, expected {kind.__name__}", hint=GIVE_ENGINE)
        if self.engine is None and self.async_engine is None:
            raise SettingsError("there is no engine", hint=GIVE_ENGINE)
        SearchRequest.of(self._options())
        if self.engine is not None:
            self.engine.policy.expect_allowed(self.safe)

    def search(
        self,
        query: Query,
        limit: int | None = None,
        filter: UserFilter | None = None,
        score_threshold: float | None = None,
    ) -> SearchResult:
        """Search, blocking. A `str` is text, never the path of an image. None stands for what is fixed.

        Raises:
            SettingsError: There is only an asynchronous engine, or an option is out of range.
        """
        if self.engine is None:
            raise SettingsError(
                "there is only an asynchronous engine", hint="Use the asynchronous method, or give engine="
            )
        return self.engine.search(query, **self._options(limit, filter, score_threshold))

    async def asearch(
        self,
        query: Query,
        limit: int | None = None,
        filter: UserFilter | None = None,
        score_threshold: float | None = None,
    ) -> SearchResult:
        """As `search`, without blocking."""
        if self.async_engine is not None:
            return await self.async_engine.search(query, **self._options(limit, filter, score_threshold))
        return await asyncio.to_thread(self.search, query, limit, filter, score_threshold)

    def _options(
        self, limit: int | None = None, filter: UserFilter | None = None, score_threshold: float | None = None
    ) -> SearchOptions:
        least = self.score_threshold if score_threshold is None else score_threshold
        return {
            "safe": self.safe,
            "limit": self.limit if limit is None else limit,
            "filter": joined_filter(self.filter, filter),
            "modality": self.modality,
            "max_distance": farthest(least),
        }


@dataclass(frozen=True)
class Fields:
    """Payload fields from which a framework's document is made.

    Args:
        content: The field with the text; of several, the first that a point has. A bar leads into JSON that is kept as
            text, such as ``_node_content|text``.
        metadata: The field with the metadata; None for all other fields of the payload.
    """

    content: tuple[str, ...] = CONTENT_KEYS
    metadata: str | None = None

    @classmethod
    def of(cls, content: str | Sequence[str], metadata: str | None) -> Self:
        """Make it from settings that name one field with the text, or several."""
        return cls((content,) if isinstance(content, str) else tuple(content), metadata)

    def text(self, hit: Hit) -> str | None:
        """Return the text of a hit, None if it has none. Several captions become lines."""
        for key in self.content:
            value = _value(hit.payload, key)
            if isinstance(value, str):
                return value
            if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
                return "\n".join(value)
        return None

    def named(self, hits: Iterable[Hit]) -> list[str]:
        """Return the texts of hits; one without a text has the name of its file instead, or its id.

        No two of those without a text are the same: frameworks take documents with the same text for one.
        """
        found = list(hits)
        texts = [self.text(hit) for hit in found]
        files = [None if text else hit.payload.get(FILE_KEY) for hit, text in zip(found, texts, strict=True)]
        names = Counter(name for name in files if isinstance(name, str) and name)
        return [
            text or (str(file) if isinstance(file, str) and names[file] == 1 else str(hit.id))
            for hit, text, file in zip(found, texts, files, strict=True)
        ]

    def described(self, hit: Hit) -> dict[str, Any]:
        """Return the metadata of a hit; under ``hysac``, a key that no payload can hold, the figures of the hit."""
        if self.metadata is None:
            metadata = {key: value for key, value in hit.payload.items() if key not in self.content}
        else:
            found = hit.payload.get(self.metadata)
            metadata = dict(found) if isinstance(found, Mapping) else {}
        figures = asdict(hit)
        del figures["payload"]
        return metadata | {PAYLOAD_KEY: figures}


def _value(payload: Mapping[str, Any], field: str) -> Any:
    with suppress(SourceError):
        return value_of(payload, field)
    return None


def closeness(hit: Hit) -> float:
    """Return 1 / (1 + distance), in (0, 1], for frameworks in which a larger score is better."""
    return 1.0 / (1.0 + hit.distance)


def farthest(score_threshold: float | None) -> float | None:
    """Return the distance at which `closeness` is a threshold, beyond which there are no hits; None for any.

    Raises:
        SettingsError: The threshold is no number from 0 to 1.
    """
    if score_threshold is None:
        return None
    number = not isinstance(score_threshold, bool) and isinstance(score_threshold, int | float | np.number)
    if not number or not 0 <= score_threshold <= 1:
        what = f"score_threshold is {score_threshold!r}; it must be a number from 0 to 1"
        raise SettingsError(what, hint="The score of a hit is 1 / (1 + distance)")
    # A little more, so that the score of a hit, taken for a threshold, keeps that hit.
    return (1.0 / max(float(score_threshold), 1e-300) - 1.0) * (1 + 1e-12) + 1e-12


def joined_filter(*given: UserFilter | None) -> models.Filter | None:
    """Join filters that must all hold; None for none.

    Raises:
        SettingsError: One of them is no filter.
    """
    filters = [as_filter(one) for one in given if one is not None]
    return models.Filter(must=[*filters]) if len(filters) > 1 else next(iter(filters), None)
