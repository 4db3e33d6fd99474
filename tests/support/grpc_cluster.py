"""The gRPC interface of a server whose collections have copies or shard keys: `RestServer` answers for both."""

# ruff: noqa: N802 (the methods have the names of the service)

from __future__ import annotations

from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from support.rest_server import RestServer

_COPIES = {wire.ReadConsistencyType.All: "all", wire.ReadConsistencyType.Majority: "majority"}


def asked_copies(request: Any) -> str:
    """Copies that a request asks, as in an address."""
    if not request.HasField("read_consistency"):
        return "1"
    said = request.read_consistency
    return str(said.factor) if said.WhichOneof("value") == "factor" else _COPIES.get(said.type, "quorum")


class ByRest:
    """Answers messages by way of the other interface."""

    def __init__(self, rest: RestServer, client: QdrantClient) -> None:
        self.rest, self.client = rest, client

    def concerns(self, name: str) -> bool:
        """Whether a collection has copies or shard keys."""
        return self.rest.copies is not None or name in self.rest.tenants

    def _ask(self, request: Any, method: str, action: str, body: Any, copies: str = "1") -> Any:
        if request.HasField("shard_key_selector") if hasattr(request, "shard_key_selector") else False:
            keys = [GrpcToRest.convert_shard_key(key) for key in request.shard_key_selector.shard_keys]
            body = {**body, "shard_key": keys[0] if len(keys) == 1 else keys}
        return self.rest.answer(method, f"/collections/{request.collection_name}/{action}", body, copies)

    def Upsert(self, request: Any) -> None:
        points = [GrpcToRest.convert_point_struct(point).model_dump(mode="json") for point in request.points]
        self._ask(request, "PUT", "points", {"points": points})

    def Delete(self, request: Any) -> None:
        points = GrpcToRest.convert_points_selector(request.points)
        self._ask(request, "POST", "points/delete", {"points": points.points})

    def DeletePayload(self, request: Any) -> None:
        chosen = GrpcToRest.convert_points_selector(request.points_selector).model_dump(mode="json")
        self._ask(request, "POST", "points/payload/delete", {"keys": list(request.keys), **chosen})

    def UpdateBatch(self, request: Any) -> int:
        operations = []
        for one in request.operations:
            change = getattr(one, one.WhichOneof("operation"))
            keys = [GrpcToRest.convert_shard_key(key) for key in change.shard_key_selector.shard_keys]
            change.ClearField("shard_key_selector")  # which the client's own conversion does not take beside a filter
            operation = GrpcToRest.convert_points_update_operation(one).model_dump(mode="json")
            operations.append({name: {**body, "shard_key": keys or None} for name, body in operation.items()})
        self._ask(request, "POST", "points/batch", {"operations": operations})
        return len(operations)

    def Get(self, request: Any) -> Any:
        ids = [GrpcToRest.convert_point_id(one) for one in request.ids]
        vectors = GrpcToRest.convert_with_vectors_selector(request.with_vectors)
        body = {"ids": ids, "with_vector": vectors}
        found = self._ask(request, "POST", "points", body, asked_copies(request))
        return wire.GetResponse(result=[_record(record) for record in found])

    def Scroll(self, request: Any) -> Any:
        found = GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None
        body = {
            "limit": request.limit if request.HasField("limit") else 10,
            "offset": GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            "with_payload": GrpcToRest.convert_with_payload_interface(request.with_payload),
            "with_vector": GrpcToRest.convert_with_vectors_selector(request.with_vectors),
            "filter": found and found.model_dump(mode="json", exclude_none=True),
        }
        page = self._ask(request, "POST", "points/scroll", body, asked_copies(request))
        after = page["next_page_offset"]
        return wire.ScrollResponse(
            result=[_record(record) for record in page["points"]],
            next_page_offset=None if after is None else RestToGrpc.convert_extended_point_id(after),
        )

    def QueryBatch(self, request: Any) -> Any:
        searches = [GrpcToRest.convert_query_points(one).model_dump(mode="json") for one in request.query_points]
        for search, one in zip(searches, request.query_points, strict=True):
            keys = [GrpcToRest.convert_shard_key(key) for key in one.shard_key_selector.shard_keys]
            search["shard_key"] = keys or None
        found = self._ask(request, "POST", "points/query/batch", {"searches": searches}, asked_copies(request))
        points = [[models.ScoredPoint.model_validate(point) for point in answer["points"]] for answer in found]
        some = [[RestToGrpc.convert_scored_point(point) for point in answer] for answer in points]
        return wire.QueryBatchResponse(result=[wire.BatchResult(result=answer) for answer in some])

    def Query(self, request: Any) -> Any:
        batch = wire.QueryBatchPoints(collection_name=request.collection_name, query_points=[request])
        if request.HasField("read_consistency"):
            batch.read_consistency.CopyFrom(request.read_consistency)
        (answer,) = self.QueryBatch(batch).result
        return wire.QueryResponse(result=answer.result)


def _record(found: Any) -> Any:
    return RestToGrpc.convert_record(models.Record.model_validate(found))
