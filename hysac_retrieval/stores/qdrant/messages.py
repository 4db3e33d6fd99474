"""Searches and points as messages, for a server's gRPC interface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from hysac_retrieval.steps import Ask
from hysac_retrieval.stores.remembered import Remembered
from hysac_retrieval.stores.requests import search_params
from hysac_retrieval.stores.types import VECTOR_NAME, StoredPoint, VectorQuery
from hysac_retrieval.types import PointId

_PAYLOAD = wire.WithPayloadSelector(enable=True)
_VECTOR = wire.WithVectorsSelector(include=wire.VectorsSelector(names=[VECTOR_NAME]))
_NO_VECTOR = wire.WithVectorsSelector(enable=False)
_TIMEOUT = 5
"""Seconds that qdrant-client allows a call over gRPC if it was told nothing."""


class Messages:
    """Messages of gRPC: a `Form`.

    Args:
        timeout: Seconds that a call may take.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = _TIMEOUT if timeout is None else math.ceil(timeout)
        self._condition = Remembered(RestToGrpc.convert_filter)

    def searches(self, name: str, query: VectorQuery) -> list[Any]:
        """See `Form.searches`."""
        params = search_params(query)
        shared: dict[str, Any] = {"using": VECTOR_NAME}
        if params is not None:
            shared["params"] = RestToGrpc.convert_search_params(params)
        outer: dict[str, Any] = {
            "collection_name": name,
            "limit": query.limit,
            "with_payload": _PAYLOAD,
            "with_vectors": _VECTOR if query.with_vectors else _NO_VECTOR,
        }
        searches = []
        for row, vector in enumerate(query.vectors.tolist()):
            condition = query.condition(row)
            filter = {} if condition is None else {"filter": self._condition(condition)}
            nearest = wire.Query(nearest=wire.VectorInput(dense=wire.DenseVector(data=vector)))
            stage: dict[str, Any] = {"query": nearest, **shared, **filter}
            if query.formulas is not None:
                first = wire.PrefetchQuery(**stage, limit=max(query.candidates or 0, query.limit))
                formula = RestToGrpc.convert_query(query.formulas[row])
                stage = {"query": formula, "prefetch": [first], **filter}
            searches.append(wire.QueryPoints(**stage, **outer))
        return searches

    def search(self, name: str, some: Sequence[Any], reads: Mapping[str, Any]) -> Ask:
        """See `Form.search`."""
        copies = reads.get("consistency")
        consistency = None if copies is None else RestToGrpc.convert_read_consistency(copies)
        if len(some) == 1:
            if consistency is not None:
                some[0].read_consistency.CopyFrom(consistency)
            return self._called(name, "Query", some[0])
        batch = wire.QueryBatchPoints(collection_name=name, query_points=some, read_consistency=consistency)
        return self._called(name, "QueryBatch", batch)

    def found(self, answer: Any) -> list[list[StoredPoint]]:
        """See `Form.found`."""
        answers = [answer] if isinstance(answer, wire.QueryResponse) else answer.result
        return [[_point(one) for one in each.result] for each in answers]

    def points(
        self, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """See `Form.points`."""
        return [
            wire.PointStruct(
                id=wire.PointId(num=i) if isinstance(i, int) else wire.PointId(uuid=i),
                vectors=_named(v),
                payload=RestToGrpc.convert_payload(dict(p)),
            )
            for i, v, p in zip(ids, vectors.tolist(), payloads, strict=True)
        ]

    def upsert(self, name: str, some: Sequence[Any]) -> Ask:
        """See `Form.upsert`."""
        return self._called(name, "Upsert", wire.UpsertPoints(collection_name=name, wait=True, points=some))

    def _called(self, name: str, method: str, message: Any) -> Ask:
        return Ask("through", name, lambda client: getattr(client.grpc_points, method)(message, timeout=self._timeout))


def _named(vector: list[float]) -> wire.Vectors:
    dense = wire.Vector(dense=wire.DenseVector(data=vector))
    return wire.Vectors(vectors=wire.NamedVectors(vectors={VECTOR_NAME: dense}))


def _point(one: Any) -> StoredPoint:
    identity, vector = one.id, None
    if one.HasField("vectors"):
        vectors: Any = GrpcToRest.convert_vectors_output(one.vectors)
        vector = vectors.get(VECTOR_NAME)
    payload = GrpcToRest.convert_payload(one.payload)
    return StoredPoint(identity.uuid or identity.num, payload, one.score, vector)
