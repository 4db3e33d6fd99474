"""Qdrant's REST interface in front of qdrant-client's local mode: what of it this package speaks, over real HTTP.

It answers as a server does where it matters here (envelope, status codes, JSON in and out) and keeps every request.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import numpy as np
from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models

from hysac_retrieval.stores.qdrant.client import make_client
from hysac_retrieval.stores.versions import METADATA
from support.cluster import Copies, Tenants, reads
from support.outliving import drop_key, index_key


@dataclass
class RestServer:
    """One server.

    Attributes:
        url: Its address.
        backend: Its collections, in local mode.
        grpc_port: Where its other interface is, for those who are to ask over that.
    """

    url: str
    backend: QdrantClient
    grpc_port: int | None = None
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    broken: bool = False
    version: str = "1.20.0"
    optimizer: str | None = None
    telemetry: dict[str, Any] | None = None
    key: str | None = None
    short_groups: bool = False
    copies: Copies | None = None
    tenants: dict[str, Tenants] = field(default_factory=dict)
    strict: models.StrictModeConfig | None = None
    indexed: dict[str, set[str]] = field(default_factory=dict)
    read_only: bool = False

    @property
    def place(self) -> dict[str, Any]:
        """Arguments of a connection."""
        return {"url": self.url, "prefer_grpc": self.grpc_port is not None, "grpc_port": self.grpc_port}

    @property
    def options(self) -> tuple[Any, ...]:
        """The same for the command line."""
        over = () if self.grpc_port is None else ("--prefer-grpc", "--grpc-port", self.grpc_port)
        return ("--url", self.url, *over)

    def client(self) -> QdrantClient:
        return make_client(QdrantClient, **self.place)

    def bodies(self, method: str, path: str) -> list[Any]:
        return [body for m, p, body in self.requests if m == method and re.fullmatch(path, p)]

    def copied(self, number: int = 2, factor: int = 1) -> Copies:
        """Have so many copies of everything; call it before there is anything."""
        others = [QdrantClient(":memory:") for _ in range(number - 1)]
        self.copies = Copies([self.backend, *others], factor=factor)
        return self.copies

    def answer(self, method: str, path: str, body: Any, consistency: str = "1") -> Any:
        """Answer from the copies that are asked, and from the shards."""
        name, _, action = path.removeprefix("/collections/").partition("/")
        tenants = self.tenants.get(name)
        if tenants is not None and action == "shards":
            return tenants.make(body["shard_key"]) if body else {"shard_keys": [{"key": key} for key in tenants.keys]}
        if tenants is not None and action and isinstance(body, dict):
            body = tenants.asked(body) if reads(method, action) else tenants.written(action, body)

        def on(client: QdrantClient, asked: Any) -> Any:
            return self._answer(client, method, path, asked)

        if self.copies is None:
            found = on(self.backend, body)
        else:
            found = self.copies.answer(on, method, action, body, consistency)
        return found if tenants is None or not reads(method, action) else tenants.told(found)

    def _answer(self, client: QdrantClient, method: str, path: str, body: Any) -> Any:
        if path == "/":
            return None
        if path == "/telemetry":
            return self.telemetry
        if path == "/collections":
            return client.get_collections().model_dump(mode="json")
        if path == "/aliases":
            return client.get_aliases().model_dump(mode="json")
        if path == "/collections/aliases":
            return client.update_collection_aliases(models.ChangeAliasesOperation.model_validate(body).actions)
        name, _, action = path.removeprefix("/collections/").partition("/")
        if action == "exists":
            return {"exists": client.collection_exists(name)}
        if method == "PUT" and not action:
            if client.collection_exists(name):
                raise FileExistsError(f"Wrong input: Collection `{name}` already exists!")
            spec = models.CreateCollection.model_validate(body)
            metadata = spec.metadata if METADATA.known(self.version) else None
            if spec.sharding_method == models.ShardingMethod.CUSTOM:
                self.tenants[name] = Tenants()
            return client.create_collection(name, vectors_config=spec.vectors, metadata=metadata)
        if method == "PATCH" and not action:
            return client.update_collection(name, metadata=models.UpdateCollection.model_validate(body).metadata)
        if method == "DELETE" and not action:
            self.indexed.pop(name, None)
            return client.delete_collection(name)
        if not client.collection_exists(name):
            raise LookupError(f"Not found: Collection `{name}` doesn't exist!")
        if method == "GET":
            info = client.get_collection(name).model_dump(mode="json")
            info["config"]["strict_mode_config"] = self.strict and self.strict.model_dump(mode="json")
            if self.copies is not None:
                info["config"]["params"]["replication_factor"] = len(self.copies.clients)
            if name in self.tenants:
                info["config"]["params"]["sharding_method"] = "custom"
            info["payload_schema"] = {key: {"data_type": "keyword", "points": 0} for key in self.indexed.get(name, ())}
            if self.optimizer is not None:
                return info | {"status": "red", "optimizer_status": {"error": self.optimizer}}
            return info | {"status": "yellow" if len(self.bodies("GET", path)) % 2 else "green"}
        if self.strict is not None and isinstance(body, dict):
            self._check(name, body, self.strict, writes=not reads(method, action))
        done = {"operation_id": 1, "status": "completed"}
        if (method, action) == ("PUT", "index"):
            self.indexed.setdefault(name, set()).add(body["field_name"])
            index_key(client, name, body["field_name"])
            return done
        if method == "DELETE" and action.startswith("index/"):
            key = unquote(action.removeprefix("index/"))
            self.indexed.get(name, set()).discard(key)
            drop_key(client, name, key)
            return done
        if action.startswith("vectors/") and method == "PUT":
            config = models.DenseVectorNameConfig.model_validate(body)
            client.create_vector_name(name, action.removeprefix("vectors/"), config)
            return done
        if action.startswith("vectors/") and method == "DELETE":
            client.delete_vector_name(name, action.removeprefix("vectors/"))
            return done
        if action == "points/payload/delete":
            gone = models.DeletePayload.model_validate(body)
            client.delete_payload(name, gone.keys, gone.filter or gone.points or [])
            return done
        if action == "points/payload/clear":
            client.clear_payload(name, TypeAdapter(models.PointsSelector).validate_python(body))
            return done
        if action == "points/payload":
            change = models.SetPayload.model_validate(body)
            if method == "PUT":
                client.overwrite_payload(name, change.payload, change.filter or change.points or [])
            else:
                client.set_payload(name, change.payload, change.filter or change.points or [], key=change.key)
            return done
        if action == "points/vectors/delete":
            dropped = models.DeleteVectors.model_validate(body)
            client.delete_vectors(name, dropped.vector, dropped.points or [])
            return done
        if (method, action) == ("PUT", "points"):
            client.upsert(name, models.PointsList.model_validate(body).points)
            return done
        if (method, action) == ("POST", "points/delete"):
            client.delete(name, models.PointIdsList.model_validate(body))
            return done
        if (method, action) == ("POST", "points/batch"):
            client.batch_update_points(name, models.UpdateOperations.model_validate(body).operations)
            return [done]
        if action == "points/count":
            request = models.CountRequest.model_validate(body)
            return {"count": client.count(name, request.filter).count}
        if action == "points/query/batch":
            batch = models.QueryRequestBatch.model_validate(body).searches
            plain = [without_params(search) for search in batch]
            return [r.model_dump(mode="json") for r in client.query_batch_points(name, plain)]
        if action == "points/query":
            one = without_params(models.QueryRequest.model_validate(body))
            return client.query_batch_points(name, [one])[0].model_dump(mode="json")
        if action == "points/query/groups":
            grouping = models.QueryGroupsRequest.model_validate(body)
            found = client.query_points_groups(
                name,
                grouping.group_by,
                query=grouping.query,
                using=grouping.using,
                prefetch=[without_params(first) for first in grouping.prefetch] if grouping.prefetch else None,
                query_filter=grouping.filter,
                limit=grouping.limit or 3,
                group_size=grouping.group_size or 10,
                with_payload=grouping.with_payload,
                with_vectors=grouping.with_vector,
                with_lookup=grouping.with_lookup,
            )
            if self.short_groups:
                for group in found.groups:
                    del group.hits[1:]
            return found.model_dump(mode="json")
        if action == "facet":
            facet = models.FacetRequest.model_validate(body)
            hits = client.facet(name, facet.key, facet.filter, facet.limit or 10)
            return hits.model_dump(mode="json")
        if action.startswith("points/search/matrix/"):
            sample = models.SearchMatrixRequest.model_validate(body)
            kind = client.search_matrix_pairs if action.endswith("pairs") else client.search_matrix_offsets
            near = {"limit": sample.limit or 3, "sample": sample.sample or 10, "using": sample.using}
            return kind(name, sample.filter, **near).model_dump(mode="json")
        if action == "points/scroll":
            page = models.ScrollRequest.model_validate(body)
            records, following = client.scroll(
                name,
                scroll_filter=page.filter,
                limit=page.limit or 10,
                order_by=page.order_by,
                offset=page.offset,
                with_payload=page.with_payload,
                with_vectors=page.with_vector,
            )
            return {"points": [record.model_dump(mode="json") for record in records], "next_page_offset": following}
        if (method, action) == ("POST", "points"):
            wanted = models.PointRequest.model_validate(body)
            shown = True if wanted.with_payload is None else wanted.with_payload
            records = client.retrieve(name, wanted.ids, with_payload=shown, with_vectors=wanted.with_vector)
            return [record.model_dump(mode="json") for record in records]
        raise LookupError(f"{method} {path} is not part of this server")

    def _check(self, name: str, body: dict[str, Any], strict: models.StrictModeConfig, *, writes: bool) -> None:
        """Refuse what strict mode refuses."""
        free = strict.unindexed_filtering_update if writes else strict.unindexed_filtering_retrieve
        for field_name in named_in(body):
            if free is False and field_name not in self.indexed.get(name, ()):
                raise ValueError(
                    f'Bad request: Index required but not found for "{field_name}" of one of the following types: '
                    "[keyword]. Help: Create an index for this key or use a different filter."
                )
        for search in body.get("searches", [body]):
            for stage in (search, *(search.get("prefetch") or ())):
                params = stage.get("params") or {}
                for what, value, most in (
                    ("limit", stage.get("limit"), strict.max_query_limit),
                    ("hnsw_ef", params.get("hnsw_ef"), strict.search_max_hnsw_ef),
                    ("upsert limit", len(stage.get("points") or ()), strict.upsert_max_batchsize),
                    ("search batch size", len(body.get("searches", ())), strict.search_max_batchsize),
                ):
                    if value and most is not None and value > most:
                        raise ValueError(
                            f'Bad request: Limit exceeded {value} > {most} for "{what}". Help: Reduce the "{what}" '
                            f"parameter to or below {most}."
                        )
        if body.get("exact") and strict.search_allow_exact is False:
            raise ValueError("Bad request: Exact search disabled!. Help: Set exact=false.")


def named_in(part: Any) -> Iterator[str]:
    """Fields that the filters of a request name, and the one that it groups by."""
    if isinstance(part, list):
        for one in part:
            yield from named_in(one)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key == "group_by":
                yield value
            elif key == "filter":
                yield from fields_of(value)
            elif key not in ("points", "payload", "metadata"):
                yield from named_in(value)


def fields_of(condition: Any) -> Iterator[str]:
    """Fields that a filter names."""
    if isinstance(condition, dict):
        for key, value in condition.items():
            if key == "key":
                yield value
            else:
                yield from fields_of(value)
    elif isinstance(condition, list):
        for part in condition:
            yield from fields_of(part)


def narrowed(body: Any, *, vector: bool = False) -> Any:
    """What a server makes of a request: its vectors are of float32."""
    if isinstance(body, dict):
        return {key: narrowed(value, vector=vector or key in ("query", "vector")) for key, value in body.items()}
    if isinstance(body, list):
        return [narrowed(value, vector=vector) for value in body]
    return float(np.float32(body)) if vector and isinstance(body, float) else body


def without_params(stage: Any) -> Any:
    """Local mode searches exactly and warns about the parameters of a graph."""
    first = stage.prefetch and [without_params(one) for one in stage.prefetch]
    return stage.model_copy(update={"params": None, "prefetch": first})


@contextmanager
def rest_server(behind: str = "") -> Iterator[RestServer]:
    """A server, behind a proxy that gives it a path of its own."""
    backend = QdrantClient(":memory:")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = narrowed(json.loads(self.rfile.read(length))) if length else None
            path, whole = self.path.partition("?")[0], self.path.startswith(behind)
            path = path.removeprefix(behind)
            with lock:
                server.requests.append((self.command, path, body))
                server.headers.update({key.lower(): value for key, value in self.headers.items()})
                status, reply = 200, {"time": 0.0, "status": "ok", "result": None}
                try:
                    if not whole:
                        raise LookupError(f"no {path} here")
                    if server.key is not None and self.headers.get("api-key") != server.key:
                        raise PermissionError("Invalid API key or JWT")
                    action = path.removeprefix("/collections/").partition("/")[2]
                    if server.read_only and self.command != "GET" and not reads(self.command, action):
                        raise PermissionError("Forbidden: Write access is needed")
                    if server.broken:
                        raise RuntimeError("disk full")
                    asked = re.search(r"[?&]consistency=(\w+)", self.path)
                    result = server.answer(self.command, path, body, asked[1] if asked else "1")
                    reply = (
                        {"title": "qdrant", "version": server.version} if path == "/" else reply | {"result": result}
                    )
                except PermissionError as error:
                    status, reply = 401, {"status": {"error": str(error)}}
                except ValueError as error:
                    status, reply = 400, {"status": {"error": str(error)}}
                except FileExistsError as error:
                    status, reply = 409, {"status": {"error": str(error)}}
                except LookupError as error:
                    status, reply = 404, {"status": {"error": str(error)}}
                except RuntimeError as error:
                    status, reply = 500, {"status": {"error": str(error)}}
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = RestServer(f"http://127.0.0.1:{http.server_port}", backend)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        # A client of qdrant-client's own making asks for the version in a thread, and warns there if nobody answers.
        for asking in threading.enumerate():
            if "_check_compatibility" in asking.name:
                asking.join()
        http.shutdown()
        thread.join()
        http.server_close()
        for client in server.copies.clients if server.copies else [backend]:
            client.close()
