"""Scores for points that an application has just written, without waiting for the next run of `hysac attach`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdrant_client import AsyncQdrantClient

from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores import Connection
from hysac_retrieval.stores.qdrant.bridge import BridgedStore

if TYPE_CHECKING:
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest import Content, IndexReport, StoredVectors


@dataclass(frozen=True)
class Scoring:
    """A collection of an application, and all that its points are scored by.

    Attributes:
        name: The collection.
        place: Where it lives; or the application's asynchronous client.
        model: The model that it is attached with, or where that is; loaded when it is first needed.
        content: Payload fields to encode; None for those that the collection was attached with.
    """

    name: str
    place: Connection | AsyncQdrantClient
    model: str | Path | Encoder
    content: Content | StoredVectors | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """The model."""
        from hysac_retrieval.encoder.encoder import Encoder

        return Encoder.load(self.model) if isinstance(self.model, str | Path) else self.model

    def score(self, ids: Sequence[Any]) -> IndexReport:
        """See `Guard.score`."""
        if isinstance(self.place, AsyncQdrantClient):
            what = f"collection {self.name!r} is reached by an asynchronous client"
            raise SettingsError(what, hint="await guard.ascore(ids)")
        return self._score(ids, self.place)

    async def ascore(self, ids: Sequence[Any]) -> IndexReport:
        """See `Guard.ascore`."""
        place: Any = {"store": BridgedStore(self.place)} if isinstance(self.place, AsyncQdrantClient) else self.place
        return await asyncio.to_thread(self._score, ids, place)

    def _score(self, ids: Sequence[Any], place: Connection) -> IndexReport:
        from hysac_retrieval.ingest import fill

        with Index.open(self.name, **place) as index:
            return fill(index, self.encoder, self.content, ids=ids, workers=0)
