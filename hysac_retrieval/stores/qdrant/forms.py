"""Searches and points as they are handed to a client of Qdrant, and what it answers.

Local mode takes the models of qdrant-client. On the way to a server these cost as much as its work: they are copied,
checked and turned into what travels, all of which was checked before and is checked again by what reads it. So for a
server what travels is made here from our own, and sent through the client: its connections, headers and errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.steps import Ask
from hysac_retrieval.stores import requests
from hysac_retrieval.stores.types import VECTOR_NAME, StoredPoint, VectorQuery
from hysac_retrieval.types import PointId


class Form(Protocol):
    """One form of searches and points."""

    def searches(self, name: str, query: VectorQuery) -> list[Any]:
        """Return the searches of a collection, one for each vector."""

    def search(self, name: str, some: Sequence[Any], reads: Mapping[str, Any]) -> Ask:
        """Return the question for some searches; `reads` says which copies are asked."""

    def found(self, answer: Any) -> list[list[StoredPoint]]:
        """Read its answer: points for each search.

        Raises:
            StoreError: It is none that a Qdrant server gives.
        """

    def points(
        self, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """Return points to write."""

    def upsert(self, name: str, some: Sequence[Any]) -> Ask:
        """Return the question that writes some points."""


class Models:
    """The models of qdrant-client, for its local mode."""

    def searches(self, name: str, query: VectorQuery) -> list[Any]:
        """See `Form.searches`."""
        return requests.query_requests(query, local=True)

    def search(self, name: str, some: Sequence[Any], reads: Mapping[str, Any]) -> Ask:
        """See `Form.search`."""
        return Ask("query_batch_points", name, some)

    def found(self, answer: Any) -> list[list[StoredPoint]]:
        """See `Form.found`."""
        return requests.read_responses(answer)

    def points(
        self, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """See `Form.points`."""
        return [
            models.PointStruct(id=i, vector={VECTOR_NAME: v}, payload=dict(p))
            for i, v, p in zip(ids, vectors.tolist(), payloads, strict=True)
        ]

    def upsert(self, name: str, some: Sequence[Any]) -> Ask:
        """See `Form.upsert`."""
        return Ask("upsert", name, some, wait=True)
