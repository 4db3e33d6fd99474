"""Searches and points as JSON, for a server's REST interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import BaseModel

from hysac_retrieval.errors import StoreError
from hysac_retrieval.steps import Ask
from hysac_retrieval.stores.remembered import Remembered
from hysac_retrieval.stores.requests import search_params
from hysac_retrieval.stores.types import VECTOR_NAME, StoredPoint, VectorQuery
from hysac_retrieval.types import PointId

_HEADERS = {"Content-Type": "application/json"}


class Bodies:
    """JSON: a `Form`."""

    def __init__(self) -> None:
        self._condition = Remembered(_json)

    def searches(self, name: str, query: VectorQuery) -> list[Any]:
        """See `Form.searches`."""
        shared: dict[str, Any] = {"using": VECTOR_NAME}
        if (params := search_params(query)) is not None:
            shared["params"] = _json(params)
        outer = {
            "limit": query.limit,
            "with_payload": True,
            "with_vector": [VECTOR_NAME] if query.with_vectors else False,
        }
        searches: list[Any] = []
        for row, vector in enumerate(np.ascontiguousarray(query.vectors, dtype=np.float32)):
            condition = query.condition(row)
            filter = {} if condition is None else {"filter": self._condition(condition)}
            stage = {"query": vector, **shared, **filter}
            if query.formulas is not None:
                first = {**stage, "limit": max(query.candidates or 0, query.limit)}
                stage = {"query": _json(query.formulas[row]), "prefetch": [first], **filter}
            searches.append(stage | outer)
        return searches

    def search(self, name: str, some: Sequence[Any], reads: Mapping[str, Any]) -> Ask:
        """See `Form.search`."""
        if len(some) == 1:
            return _sent(name, "POST", "points/query", some[0], **reads)
        return _sent(name, "POST", "points/query/batch", {"searches": some}, **reads)

    def found(self, answer: Any) -> list[list[StoredPoint]]:
        """See `Form.found`."""
        try:
            result = answer["result"]
            return [
                [_point(one) for one in each["points"]] for each in ([result] if isinstance(result, dict) else result)
            ]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"what answered is not a Qdrant server of a version known here: {error!r}"
            raise StoreError(what, hint="Check the url you gave") from error

    def points(
        self, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """See `Form.points`."""
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        return [
            {"id": i, "vector": {VECTOR_NAME: v}, "payload": dict(p)}
            for i, v, p in zip(ids, rows, payloads, strict=True)
        ]

    def upsert(self, name: str, some: Sequence[Any]) -> Ask:
        """See `Form.upsert`."""
        return _sent(name, "PUT", "points", {"points": some}, wait="true")


def _json(model: BaseModel) -> orjson.Fragment:
    return orjson.Fragment(model.model_dump_json(by_alias=True, exclude_unset=True, exclude_none=True))


def _sent(name: str, verb: str, path: str, body: Any, **params: Any) -> Ask:
    """Ask for a request to a collection; its answer is the JSON of the reply."""
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)

    def send(client: Any) -> Any:
        return client.http.client.request(
            type_=Any,
            method=verb,
            url="/collections/{name}/" + path,
            path_params={"name": name},
            params={key: str(value) for key, value in params.items()},
            headers=_HEADERS,
            content=content,
        )

    return Ask("through", name, send)


def _point(one: Any) -> StoredPoint:
    identity, score, payload, vectors = one["id"], one["score"], one.get("payload"), one.get("vector")
    if type(identity) not in (int, str) or type(score) not in (float, int) or not isinstance(payload, dict | None):
        raise ValueError(f"a point with id {identity!r} and score {score!r}")
    return StoredPoint(identity, payload or {}, float(score), vectors.get(VECTOR_NAME) if vectors else None)
