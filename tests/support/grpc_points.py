"""The methods of Qdrant's gRPC interface that are about points: `RestServer` answers them, as it does over HTTP.

So copies, shard keys, strict mode and indexes are the same over both. Messages are read by qdrant-client's own
conversions; a request that these do not understand is an error here.
"""

# ruff: noqa: N802 (the methods have the names of the service)

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from qdrant_client import grpc as wire
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import points_service_pb2_grpc

from support.rest_server import RestServer

DONE = wire.PointsOperationResponse(result=wire.UpdateResult(operation_id=1, status=wire.UpdateStatus.Completed))
_COPIES = {wire.ReadConsistencyType.All: "all", wire.ReadConsistencyType.Majority: "majority"}


class Points(points_service_pb2_grpc.PointsServicer):  # type: ignore[misc]
    def __init__(self, rest: RestServer) -> None:
        self.rest = rest

    def _ask(self, request: Any, method: str, action: str, body: Any = None) -> Any:
        path = f"/collections/{request.collection_name}/{action}"
        self.rest.requests.append((method, path, body))
        return self.rest.answer(method, path, body, _copies(request))

    def _write(self, request: Any, method: str, action: str, **body: Any) -> Any:
        self._ask(request, method, action, {**body, "shard_key": _shard_key(request)})
        return DONE

    def Upsert(self, request: Any, context: Any) -> Any:
        points = [_json(GrpcToRest.convert_point_struct(point)) for point in request.points]
        return self._write(request, "PUT", "points", points=points)

    def Delete(self, request: Any, context: Any) -> Any:
        return self._write(request, "POST", "points/delete", **_chosen(request.points))

    def SetPayload(self, request: Any, context: Any) -> Any:
        key = request.key if request.HasField("key") else None
        return self._write(request, "POST", "points/payload", **_change(request), key=key)

    def OverwritePayload(self, request: Any, context: Any) -> Any:
        return self._write(request, "PUT", "points/payload", **_change(request))

    def DeletePayload(self, request: Any, context: Any) -> Any:
        chosen = _chosen(request.points_selector)
        return self._write(request, "POST", "points/payload/delete", keys=[*request.keys], **chosen)

    def ClearPayload(self, request: Any, context: Any) -> Any:
        return self._write(request, "POST", "points/payload/clear", **_chosen(request.points))

    def DeleteVectors(self, request: Any, context: Any) -> Any:
        chosen = _chosen(request.points_selector)
        return self._write(request, "POST", "points/vectors/delete", vector=[*request.vectors.names], **chosen)

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        operations = []
        for one in request.operations:
            change = getattr(one, one.WhichOneof("operation"))
            key = _shard_key(change)
            change.ClearField("shard_key_selector")  # which the client's own conversion does not take beside a filter
            operation = _json(GrpcToRest.convert_points_update_operation(one))
            operations.append({name: {**body, "shard_key": key} for name, body in operation.items()})
        self._ask(request, "POST", "points/batch", {"operations": operations})
        return wire.UpdateBatchResponse(result=[DONE.result] * len(operations))

    def CreateVectorName(self, request: Any, context: Any) -> Any:
        size, distance = request.dense_config.size, GrpcToRest.convert_distance(request.dense_config.distance)
        config = models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=size, distance=distance))
        self._ask(request, "PUT", f"vectors/{request.vector_name}", _json(config))
        return DONE

    def DeleteVectorName(self, request: Any, context: Any) -> Any:
        self._ask(request, "DELETE", f"vectors/{request.vector_name}")
        return DONE

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        self._ask(request, "PUT", "index", {"field_name": request.field_name})
        return DONE

    def DeleteFieldIndex(self, request: Any, context: Any) -> Any:
        self._ask(request, "DELETE", f"index/{request.field_name}")
        return DONE

    def Count(self, request: Any, context: Any) -> Any:
        body = _read(request) | {"exact": request.exact}
        found = self._ask(request, "POST", "points/count", body)
        return wire.CountResponse(result=wire.CountResult(count=found["count"]))

    def Get(self, request: Any, context: Any) -> Any:
        ids = [GrpcToRest.convert_point_id(one) for one in request.ids]
        found = self._ask(request, "POST", "points", _read(request) | {"ids": ids})
        return wire.GetResponse(result=_records(found))

    def Scroll(self, request: Any, context: Any) -> Any:
        body = _read(request) | {"limit": request.limit if request.HasField("limit") else 10}
        if request.HasField("offset"):
            body["offset"] = GrpcToRest.convert_point_id(request.offset)
        if request.HasField("order_by"):
            body["order_by"] = _json(GrpcToRest.convert_order_by(request.order_by))
        page = self._ask(request, "POST", "points/scroll", body)
        after = page["next_page_offset"]
        following = None if after is None else RestToGrpc.convert_extended_point_id(after)
        return wire.ScrollResponse(result=_records(page["points"]), next_page_offset=following)

    def Query(self, request: Any, context: Any) -> Any:
        found = self._ask(request, "POST", "points/query", _search(request))
        return wire.QueryResponse(result=_scored(found["points"]))

    def QueryBatch(self, request: Any, context: Any) -> Any:
        searches = [_search(one) for one in request.query_points]
        found = self._ask(request, "POST", "points/query/batch", {"searches": searches})
        return wire.QueryBatchResponse(result=[wire.BatchResult(result=_scored(one["points"])) for one in found])

    def QueryGroups(self, request: Any, context: Any) -> Any:
        alone = wire.QueryPoints(prefetch=request.prefetch)
        for field, value in request.ListFields():
            if field.name != "prefetch" and field.name in alone.DESCRIPTOR.fields_by_name:
                getattr(alone, field.name).CopyFrom(value) if field.message_type else setattr(alone, field.name, value)
        body = _search(alone) | {"group_by": request.group_by, "group_size": request.group_size}
        if request.HasField("with_lookup"):
            body["with_lookup"] = _json(GrpcToRest.convert_with_lookup(request.with_lookup), exclude_none=True)
        found = models.GroupsResult.model_validate(self._ask(request, "POST", "points/query/groups", body))
        return wire.QueryGroupsResponse(result=RestToGrpc.convert_groups_result(found))

    def Facet(self, request: Any, context: Any) -> Any:
        body = _read(request) | {"key": request.key, "limit": request.limit or None, "exact": request.exact}
        found = models.FacetResponse.model_validate(self._ask(request, "POST", "facet", body))
        return wire.FacetResponse(hits=[RestToGrpc.convert_facet_value_hit(hit) for hit in found.hits])

    def SearchMatrixPairs(self, request: Any, context: Any) -> Any:
        found = models.SearchMatrixPairsResponse.model_validate(self._matrix(request, "pairs"))
        return wire.SearchMatrixPairsResponse(result=RestToGrpc.convert_search_matrix_pairs(found))

    def SearchMatrixOffsets(self, request: Any, context: Any) -> Any:
        found = models.SearchMatrixOffsetsResponse.model_validate(self._matrix(request, "offsets"))
        return wire.SearchMatrixOffsetsResponse(result=RestToGrpc.convert_search_matrix_offsets(found))

    def _matrix(self, request: Any, kind: str) -> Any:
        near = {name: getattr(request, name) or None for name in ("limit", "sample", "using")}
        return self._ask(request, "POST", f"points/search/matrix/{kind}", _read(request) | near)


def _json(model: BaseModel, *, exclude_none: bool = False) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=exclude_none)


def _copies(request: Any) -> str:
    """Copies that a request asks, as in an address."""
    if "read_consistency" not in request.DESCRIPTOR.fields_by_name or not request.HasField("read_consistency"):
        return "1"
    said = request.read_consistency
    return str(said.factor) if said.WhichOneof("value") == "factor" else _COPIES.get(said.type, "quorum")


def _shard_key(message: Any) -> Any:
    if not message.HasField("shard_key_selector"):
        return None
    key = GrpcToRest.convert_shard_key_selector(message.shard_key_selector)
    return _json(key) if isinstance(key, BaseModel) else key


def _chosen(selector: Any) -> dict[str, Any]:
    """Return the points that a write is about."""
    chosen: dict[str, Any] = _json(GrpcToRest.convert_points_selector(selector), exclude_none=True)
    return chosen


def _change(request: Any) -> dict[str, Any]:
    return {"payload": GrpcToRest.convert_payload(request.payload), **_chosen(request.points_selector)}


def _read(request: Any) -> dict[str, Any]:
    """Return what several reads have in common."""
    body: dict[str, Any] = {"shard_key": _shard_key(request)}
    known = request.DESCRIPTOR.fields_by_name
    if "filter" in known and request.HasField("filter"):
        body["filter"] = _json(GrpcToRest.convert_filter(request.filter), exclude_none=True)
    if "with_payload" in known:
        body["with_payload"] = GrpcToRest.convert_with_payload_interface(request.with_payload)
        body["with_vector"] = GrpcToRest.convert_with_vectors_selector(request.with_vectors)
    return {name: _json(value) if isinstance(value, BaseModel) else value for name, value in body.items()}


def _search(request: Any) -> Any:
    return _json(GrpcToRest.convert_query_points(request), exclude_none=True)


def _records(found: Iterable[Any]) -> list[Any]:
    return [RestToGrpc.convert_record(models.Record.model_validate(_with_payload(one))) for one in found]


def _scored(found: Iterable[Any]) -> list[Any]:
    return [RestToGrpc.convert_scored_point(models.ScoredPoint.model_validate(_with_payload(one))) for one in found]


def _with_payload(one: Any) -> Any:
    return {**one, "payload": one.get("payload") or {}}  # over gRPC there is no telling none from an empty one
