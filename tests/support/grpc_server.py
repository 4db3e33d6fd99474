"""Qdrant's gRPC interface in front of qdrant-client's local mode: what of it this package speaks, over real HTTP/2.

It shares its collections with a `RestServer`, as a server of Qdrant has both, and has it answer.
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

from support.grpc_points import Points
from support.rest_server import RestServer, rest_server

READS = {"HealthCheck", "List", "CollectionExists", "ListShardKeys", "Get", "Count", "Scroll"} | {
    "Query", "QueryBatch", "QueryGroups", "Facet", "SearchMatrixPairs", "SearchMatrixOffsets", "ListAliases",
}  # fmt: skip
CODES = {
    PermissionError: grpc.StatusCode.PERMISSION_DENIED,
    FileExistsError: grpc.StatusCode.ALREADY_EXISTS,
    RuntimeError: grpc.StatusCode.INTERNAL,
    ValueError: grpc.StatusCode.INVALID_ARGUMENT,
    LookupError: grpc.StatusCode.NOT_FOUND,
}
"""Codes for what `RestServer` raises."""


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
        self.rest = rest

    def _ask(self, method: str, name: str, body: Any = None) -> Any:
        self.rest.requests.append((method, f"/collections/{name}", body))
        return self.rest.answer(method, f"/collections/{name}", body)

    def List(self, request: Any, context: Any) -> Any:
        names = [collection.name for collection in self.rest.backend.get_collections().collections]
        return wire.ListCollectionsResponse(collections=[wire.CollectionDescription(name=name) for name in names])

    def CollectionExists(self, request: Any, context: Any) -> Any:
        exists = self.rest.backend.collection_exists(request.collection_name)
        return wire.CollectionExistsResponse(result=wire.CollectionExists(exists=exists))

    def Get(self, request: Any, context: Any) -> Any:
        answer = self._ask("GET", request.collection_name)
        strict = answer["config"]["strict_mode_config"]
        plain = {"status": "green", "optimizer_status": "ok", "config": answer["config"] | {"strict_mode_config": None}}
        found = RestToGrpc.convert_collection_info(models.CollectionInfo.model_validate(answer | plain))
        if strict is not None:
            given = models.StrictModeConfig.model_validate(strict)
            found.config.strict_mode_config.CopyFrom(RestToGrpc.convert_strict_mode_config(given))
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
        self._ask("PUT", request.collection_name, spec.model_dump(mode="json"))
        return wire.CollectionOperationResponse(result=True)

    def CreateShardKey(self, request: Any, context: Any) -> Any:
        key = GrpcToRest.convert_shard_key(request.request.shard_key)
        self._ask("PUT", f"{request.collection_name}/shards", {"shard_key": key})
        return wire.CreateShardKeyResponse(result=True)

    def ListShardKeys(self, request: Any, context: Any) -> Any:
        found = self._ask("GET", f"{request.collection_name}/shards")["shard_keys"]
        keys = [RestToGrpc.convert_shard_key(one["key"]) for one in found]
        return wire.ListShardKeysResponse(shard_keys=[wire.ShardKeyDescription(key=key) for key in keys])

    def ListAliases(self, request: Any, context: Any) -> Any:
        found = self.rest.backend.get_aliases().aliases
        return wire.ListAliasesResponse(aliases=[RestToGrpc.convert_alias_description(one) for one in found])

    def UpdateAliases(self, request: Any, context: Any) -> Any:
        actions = [GrpcToRest.convert_alias_operations(one).model_dump(mode="json") for one in request.actions]
        self._ask("POST", "aliases", {"actions": actions})
        return wire.CollectionOperationResponse(result=True)

    def Update(self, request: Any, context: Any) -> Any:
        metadata = GrpcToRest.convert_update_collection(request).metadata
        self._ask("PATCH", request.collection_name, {"metadata": metadata})
        return wire.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Any) -> Any:
        self._ask("DELETE", request.collection_name)
        return wire.CollectionOperationResponse(result=True)


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
                    if server.rest.read_only and server.calls[-1] not in READS:
                        raise PermissionError("Forbidden: Write access is needed")
                    makes = server.calls[-1] in ("Create", "CollectionExists")
                    if name and not makes and not server.rest.backend.collection_exists(name):
                        raise LookupError(f"Not found: Collection `{name}` doesn't exist!")
                    reply = handler.unary_unary(request, context)
                except tuple(CODES) as error:
                    (code,) = (code for kind, code in CODES.items() if isinstance(error, kind))
                    context.abort(code, str(error))
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
        points_service_pb2_grpc.add_PointsServicer_to_server(Points(rest), listening)
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
