"""Qdrant's gRPC interface in front of qdrant-client's local mode: what of it this package speaks, over real HTTP/2.

It shares its collections with a `RestServer`, as a server of Qdrant has both. Messages are read by qdrant-client's own
conversions, so a request that these do not understand is an error here.
"""

# ruff: noqa: N802 (the methods have the names of the service)

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as wire
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.grpc import collections_service_pb2_grpc, points_service_pb2_grpc, qdrant_pb2_grpc

from support.grpc_cluster import ByRest
from support.outliving import drop_key, index_key
from support.rest_server import RestServer, rest_server, without_params

DONE = wire.PointsOperationResponse(result=wire.UpdateResult(operation_id=1, status=wire.UpdateStatus.Completed))


@dataclass
class GrpcServer:
    """Both interfaces of one server.

    Attributes:
        rest: The other one, with the collections behind both.
        port: Where this one is.
        calls: Names of the methods that were called here.
        faults: What the calls to come end in, after what they ask for has been done; None for their true answer.
        words: What such a call says.
        metadata: What it says beside, such as when to come back.
    """

    rest: RestServer
    port: int
    calls: list[str] = field(default_factory=list)
    faults: list[grpc.StatusCode | None] = field(default_factory=list)
    words: str = "in trouble"
    metadata: tuple[tuple[str, str], ...] = ()

    def client(self, **options: Any) -> QdrantClient:
        given = {"url": self.rest.url, "grpc_port": self.port, "prefer_grpc": True, "check_compatibility": False}
        return QdrantClient(**(given | options))


class Root(qdrant_pb2_grpc.QdrantServicer):  # type: ignore[misc]
    def __init__(self, rest: RestServer) -> None:
        self.rest = rest

    def HealthCheck(self, request: Any, context: Any) -> Any:
        return wire.HealthCheckReply(title="qdrant", version=self.rest.version)


class Collections(collections_service_pb2_grpc.CollectionsServicer):  # type: ignore[misc]
    def __init__(self, rest: RestServer) -> None:
        self.rest, self.backend = rest, rest.backend

    def List(self, request: Any, context: Any) -> Any:
        names = [collection.name for collection in self.backend.get_collections().collections]
        return wire.ListCollectionsResponse(collections=[wire.CollectionDescription(name=name) for name in names])

    def CollectionExists(self, request: Any, context: Any) -> Any:
        exists = self.backend.collection_exists(request.collection_name)
        return wire.CollectionExistsResponse(result=wire.CollectionExists(exists=exists))

    def Get(self, request: Any, context: Any) -> Any:
        answer = self.rest.answer("GET", f"/collections/{request.collection_name}", None)
        info = models.CollectionInfo.model_validate({**answer, "status": "green", "optimizer_status": "ok"})
        found = RestToGrpc.convert_collection_info(info)
        if self.rest.optimizer is not None:
            found.status = wire.CollectionStatus.Red
            found.optimizer_status.CopyFrom(wire.OptimizerStatus(ok=False, error=self.rest.optimizer))
        return wire.GetCollectionInfoResponse(result=found)

    def Create(self, request: Any, context: Any) -> Any:
        vectors = GrpcToRest.convert_vectors_config(request.vectors_config)
        metadata = GrpcToRest.convert_payload(request.metadata)
        custom = request.sharding_method == wire.ShardingMethod.Custom
        spec = models.CreateCollection(
            vectors=vectors, metadata=metadata, sharding_method=models.ShardingMethod.CUSTOM if custom else None
        )
        self.rest.answer("PUT", f"/collections/{request.collection_name}", spec.model_dump(mode="json"))
        return wire.CollectionOperationResponse(result=True)

    def CreateShardKey(self, request: Any, context: Any) -> Any:
        key = GrpcToRest.convert_shard_key(request.request.shard_key)
        return wire.CreateShardKeyResponse(result=self.rest.tenants[request.collection_name].make(key))

    def ListShardKeys(self, request: Any, context: Any) -> Any:
        keys = [RestToGrpc.convert_shard_key(key) for key in self.rest.tenants[request.collection_name].keys]
        return wire.ListShardKeysResponse(shard_keys=[wire.ShardKeyDescription(key=key) for key in keys])

    def Update(self, request: Any, context: Any) -> Any:
        change = GrpcToRest.convert_update_collection(request)
        self.backend.update_collection(request.collection_name, metadata=change.metadata)
        return wire.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Any) -> Any:
        self.backend.delete_collection(request.collection_name)
        return wire.CollectionOperationResponse(result=True)


class Points(points_service_pb2_grpc.PointsServicer):  # type: ignore[misc]
    def __init__(self, backend: QdrantClient) -> None:
        self.backend = backend

    def Upsert(self, request: Any, context: Any) -> Any:
        self.backend.upsert(request.collection_name, [GrpcToRest.convert_point_struct(p) for p in request.points])
        return DONE

    def Delete(self, request: Any, context: Any) -> Any:
        self.backend.delete(request.collection_name, GrpcToRest.convert_points_selector(request.points))
        return DONE

    def DeletePayload(self, request: Any, context: Any) -> Any:
        chosen = GrpcToRest.convert_points_selector(request.points_selector)
        self.backend.delete_payload(request.collection_name, list(request.keys), chosen)
        return DONE

    def DeleteVectors(self, request: Any, context: Any) -> Any:
        chosen = GrpcToRest.convert_points_selector(request.points_selector)
        self.backend.delete_vectors(request.collection_name, list(request.vectors.names), chosen)
        return DONE

    def UpdateBatch(self, request: Any, context: Any) -> Any:
        operations = [GrpcToRest.convert_points_update_operation(one) for one in request.operations]
        self.backend.batch_update_points(request.collection_name, operations)
        return wire.UpdateBatchResponse(result=[DONE.result for _ in operations])

    def CreateVectorName(self, request: Any, context: Any) -> Any:
        size, distance = request.dense_config.size, GrpcToRest.convert_distance(request.dense_config.distance)
        dense = models.DenseVectorConfig(size=size, distance=distance)
        config = models.DenseVectorNameConfig(dense=dense)
        self.backend.create_vector_name(request.collection_name, request.vector_name, config)
        return DONE

    def DeleteVectorName(self, request: Any, context: Any) -> Any:
        self.backend.delete_vector_name(request.collection_name, request.vector_name)
        return DONE

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        index_key(self.backend, request.collection_name, request.field_name)
        return DONE

    def DeleteFieldIndex(self, request: Any, context: Any) -> Any:
        drop_key(self.backend, request.collection_name, request.field_name)
        return DONE

    def SetPayload(self, request: Any, context: Any) -> Any:
        chosen = GrpcToRest.convert_points_selector(request.points_selector)
        payload = GrpcToRest.convert_payload(request.payload)
        key = request.key if request.HasField("key") else None
        self.backend.set_payload(request.collection_name, payload, chosen, key=key)
        return DONE

    def OverwritePayload(self, request: Any, context: Any) -> Any:
        chosen = GrpcToRest.convert_points_selector(request.points_selector)
        self.backend.overwrite_payload(request.collection_name, GrpcToRest.convert_payload(request.payload), chosen)
        return DONE

    def ClearPayload(self, request: Any, context: Any) -> Any:
        self.backend.clear_payload(request.collection_name, GrpcToRest.convert_points_selector(request.points))
        return DONE

    def Count(self, request: Any, context: Any) -> Any:
        count = self.backend.count(request.collection_name, _filter(request))
        return wire.CountResponse(result=RestToGrpc.convert_count_result(count))

    def Get(self, request: Any, context: Any) -> Any:
        found = self.backend.retrieve(
            request.collection_name, [GrpcToRest.convert_point_id(one) for one in request.ids], **_selection(request)
        )
        return wire.GetResponse(result=[RestToGrpc.convert_record(record) for record in found])

    def Scroll(self, request: Any, context: Any) -> Any:
        found, following = self.backend.scroll(
            request.collection_name,
            scroll_filter=_filter(request),
            limit=request.limit if request.HasField("limit") else 10,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            **_selection(request),
        )
        after = None if following is None else RestToGrpc.convert_extended_point_id(following)
        return wire.ScrollResponse(
            result=[RestToGrpc.convert_record(record) for record in found], next_page_offset=after
        )

    def Query(self, request: Any, context: Any) -> Any:
        one = without_params(GrpcToRest.convert_query_points(request))
        (found,) = self.backend.query_batch_points(request.collection_name, [one])
        return wire.QueryResponse(result=[RestToGrpc.convert_scored_point(point) for point in found.points])

    def QueryBatch(self, request: Any, context: Any) -> Any:
        queries = [without_params(GrpcToRest.convert_query_points(one)) for one in request.query_points]
        found = self.backend.query_batch_points(request.collection_name, queries)
        points = [[RestToGrpc.convert_scored_point(point) for point in answer.points] for answer in found]
        return wire.QueryBatchResponse(result=[wire.BatchResult(result=answer) for answer in points])

    def QueryGroups(self, request: Any, context: Any) -> Any:
        stages = [without_params(GrpcToRest.convert_prefetch_query(stage)) for stage in request.prefetch]
        found = self.backend.query_points_groups(
            request.collection_name,
            request.group_by,
            query=GrpcToRest.convert_query(request.query),
            using=request.using if request.HasField("using") else None,
            prefetch=stages or None,
            query_filter=_filter(request),
            limit=request.limit,
            group_size=request.group_size,
            **_selection(request),
        )
        return wire.QueryGroupsResponse(result=RestToGrpc.convert_groups_result(found))


def _filter(request: Any) -> models.Filter | None:
    return GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None


def _selection(request: Any) -> dict[str, Any]:
    return {
        "with_payload": GrpcToRest.convert_with_payload_interface(request.with_payload),
        "with_vectors": GrpcToRest.convert_with_vectors_selector(request.with_vectors),
    }


class _Interceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Notes every call, makes them one after another, and has what fails answered as a server does."""

    def __init__(self, server: Callable[[], GrpcServer]) -> None:
        self.server = server
        self.lock = threading.Lock()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        if handler is None:
            return None

        def answer(request: Any, context: Any) -> Any:
            with self.lock:
                server = self.server()
                server.calls.append(details.method.rpartition("/")[2])
                if server.rest.key is not None and dict(details.invocation_metadata).get("api-key") != server.rest.key:
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid API key or JWT")
                fault = server.faults.pop(0) if server.faults else None
                name = getattr(request, "collection_name", "")
                try:
                    if server.rest.broken:
                        context.abort(grpc.StatusCode.INTERNAL, "disk full")
                    makes = server.calls[-1] in ("Create", "CollectionExists")
                    if name and not makes and not server.rest.backend.collection_exists(name):
                        context.abort(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{name}` doesn't exist!")
                    by_rest = ByRest(server.rest, server.rest.backend)
                    routed = getattr(by_rest, server.calls[-1], None) if "Points/" in details.method else None
                    if routed is None or not by_rest.concerns(name):
                        reply = handler.unary_unary(request, context)
                    else:
                        found = routed(request)
                        update = (
                            wire.UpdateBatchResponse(result=[DONE.result] * found) if found.__class__ is int else DONE
                        )
                        reply = update if found is None or found.__class__ is int else found
                except RuntimeError as error:
                    context.abort(grpc.StatusCode.INTERNAL, str(error))
                except (ValueError, LookupError) as error:
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
                if fault is not None:
                    context.set_trailing_metadata(server.metadata)
                    context.abort(fault, server.words)
                return reply

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


@contextmanager
def grpc_server(credentials: grpc.ServerCredentials | None = None) -> Iterator[GrpcServer]:
    with rest_server() as rest:
        both: GrpcServer
        listening = grpc.server(ThreadPoolExecutor(8), interceptors=[_Interceptor(lambda: both)])
        qdrant_pb2_grpc.add_QdrantServicer_to_server(Root(rest), listening)
        collections_service_pb2_grpc.add_CollectionsServicer_to_server(Collections(rest), listening)
        points_service_pb2_grpc.add_PointsServicer_to_server(Points(rest.backend), listening)
        place = "127.0.0.1:0"
        if credentials is None:
            port = listening.add_insecure_port(place)
        else:
            port = listening.add_secure_port(place, credentials)
        both = GrpcServer(rest, port)
        listening.start()
        try:
            yield both
        finally:
            listening.stop(0).wait()
