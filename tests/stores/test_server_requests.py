"""Requests to a server, held to the models of qdrant-client; and one tour of everything on each kind of server."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from qdrant_client import QdrantClient, models
from support.grpc_server import GrpcServer, grpc_server
from support.qdrant_server import QDRANT, client_of
from support.rest_server import rest_server
from support.spaces import CURVATURE, DIM, match, nearest, profile, random_points

from hysac_retrieval import connect
from hysac_retrieval.collection.attachment import Attachment
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.guard import SafeQdrantClient
from hysac_retrieval.lorentz import dist0
from hysac_retrieval.results import Hit
from hysac_retrieval.stores.qdrant.store import QdrantStore

N, SIZE = 30, 384
POINTS = random_points(N, seed=4)
UNSAFE = profile().unsafe(dist0(POINTS, CURVATURE), "image")
SAFE = np.flatnonzero(UNSAFE <= 0.5)
QUERY = random_points(1, seed=9)[0]
OWN = np.random.default_rng(0).normal(size=(N, SIZE))

C = r"/collections/[^/]+"
BODIES: dict[tuple[str, str], type[BaseModel] | None] = {
    ("GET", "/"): None,
    ("GET", "/collections"): None,
    ("GET", "/telemetry"): None,
    ("GET", C): None,
    ("GET", C + "/exists"): None,
    ("PUT", C): models.CreateCollection,
    ("PATCH", C): models.UpdateCollection,
    ("DELETE", C): None,
    ("PUT", C + "/index"): models.CreateFieldIndex,
    ("DELETE", C + r"/index/[\w.]+"): None,
    ("PUT", C + r"/vectors/\w+"): models.DenseVectorNameConfig,
    ("DELETE", C + r"/vectors/\w+"): None,
    ("PUT", C + "/points"): models.PointsList,
    ("POST", C + "/points"): models.PointRequest,
    ("POST", C + "/points/batch"): models.UpdateOperations,
    ("POST", C + "/points/count"): models.CountRequest,
    ("POST", C + "/points/delete"): models.PointIdsList,
    ("POST", C + "/points/query"): models.QueryRequest,
    ("POST", C + "/points/query/batch"): models.QueryRequestBatch,
    ("POST", C + "/points/query/groups"): models.QueryGroupsRequest,
    ("POST", C + "/points/scroll"): models.ScrollRequest,
}
"""Every request that this package makes; those models refuse a field that they do not know."""


def best(hits: list[Hit]) -> list[Any]:
    return [hit.id for hit in hits]


def own(record: models.Record) -> Any:
    """The application's vector, which must be the only one."""
    assert isinstance(record.vector, dict)
    (vector,) = record.vector.values()
    return vector


def own_collection(client: QdrantClient, name: str) -> None:
    """A new collection: made, filled, searched in every form, changed and removed."""
    settings = {"dim": DIM, "curvature": CURVATURE, "safety": profile(), "fingerprint": "f1"}
    for options in ({}, {"lift": "poincare"}, {"quantization": "int8"}):
        with Index.create(name, client=client, **settings, **options) as index:  # type: ignore[arg-type]
            payloads = [{"album": f"a{row % 3}", "k": row} for row in range(N)]
            index.upsert(list(range(N)), POINTS, modality="image", payloads=payloads)
            index.optimize()
            expected = SAFE[nearest(QUERY, POINTS[SAFE])].tolist()
            assert best(index.query(QUERY, limit=4)) == expected[:4]
            assert best(index.query(QUERY, limit=3, rerank="exact", candidates=N)) == expected[:3]
            assert best(index.query(QUERY, limit=3, penalty=0.1, candidates=N)) == expected[:3]
            narrow = models.Filter(must=[match("album", "a1")], must_not=[models.HasIdCondition(has_id=[1])])
            found = index.query(QUERY, limit=N, filter=narrow, threshold=0.3)
            allowed = [row for row in expected if row % 3 == 1 and row != 1 and UNSAFE[row] <= 0.3]
            assert sorted(best(found)) == sorted(allowed)
            assert len(index.query_batch(POINTS[:3], limit=2, safe=False)) == 3
            index.delete([0])
            assert (index.count(), index.info().points) == (N - 1, N - 1)
            with connect(name, model=None, client=client) as engine:
                assert len(engine.search_groups(QUERY, by="album", groups=2, size=2).groups) == 2
                assert engine.similar(int(SAFE[-1]), limit=2).hits
        client.delete_collection(name)


def attached_collection(client: QdrantClient, name: str) -> None:
    """An application's collection: attached, searched, guarded and detached."""
    params = models.VectorParams(size=SIZE, distance=models.Distance.COSINE)
    client.create_collection(name, {"own": params}, metadata={"owner": "shop"})
    rows = [models.PointStruct(id=i, vector={"own": OWN[i].tolist()}, payload={"title": f"t{i}"}) for i in range(N)]
    client.upsert(name, rows)
    before = client.scroll(name, limit=N, with_vectors=True)[0]
    with Index.attach(name, dim=DIM, curvature=CURVATURE, safety=profile(), fingerprint="f1", client=client) as index:
        assert index.annotate(list(range(N)), POINTS, modality="image") == N
        assert best(index.query(QUERY, limit=3)) == SAFE[nearest(QUERY, POINTS[SAFE])[:3]].tolist()
        guarded = SafeQdrantClient(client)
        request = models.QueryRequest(query=OWN[0].tolist(), using="own", limit=N)
        (answer,) = guarded.query_batch_points(name, [request])
        cosine = -(OWN @ OWN[0]) / np.linalg.norm(OWN, axis=1)
        assert [point.id for point in answer.points] == SAFE[np.argsort(cosine[SAFE])].tolist()
        assert [record.id for record in guarded.scroll(name, limit=N)[0]] == SAFE.tolist()
        assert guarded.count(name).count == len(SAFE)
        with pytest.raises(SettingsError, match="its own client"):
            index.delete([int(SAFE[0])])
        Attachment.of(index.store, index.collection).erase([int(SAFE[0])])
        assert guarded.count(name).count == len(SAFE) - 1
        assert index.detach() == N - 1
    after = client.scroll(name, limit=N, with_vectors=True)[0]
    assert [(record.id, record.payload) for record in after] == [(record.id, record.payload) for record in before]
    # To a unit in the last place: the client's local mode behind the stubs normalises in place when it is searched.
    np.testing.assert_allclose([own(record) for record in after], [own(record) for record in before], rtol=0, atol=1e-7)
    assert client.get_collection(name).config.metadata == {"owner": "shop"}
    client.delete_collection(name)


TOURS = {"own": own_collection, "attached": attached_collection}


@pytest.fixture(params=["rest", "grpc", *QDRANT])
def client(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    with ExitStack() as stack:
        if request.param.startswith("qdrant"):
            made = client_of(request.param)
        else:
            server: GrpcServer = stack.enter_context(grpc_server())
            made = server.client(prefer_grpc=request.param == "grpc")
        yield made
        made.close()
        if not request.param.startswith("qdrant"):
            assert bool(server.calls) == (request.param == "grpc")


@pytest.mark.parametrize("tour", TOURS)
def test_everything_works_on_a_server(client: QdrantClient, tour: str) -> None:
    name = f"hysac-test-{uuid.uuid4().hex}"
    try:
        TOURS[tour](client, name)
    finally:
        if client.collection_exists(name):
            client.delete_collection(name)


def test_every_request_is_what_the_models_describe() -> None:
    with rest_server() as server:
        store = QdrantStore.connect(url=server.url)
        for name, tour in TOURS.items():
            tour(store.client, name)
        assert store.names() == []
        store.close()
    seen = set()
    for method, path, body in server.requests:
        (route,) = [route for route in BODIES if route[0] == method and re.fullmatch(route[1], path)]
        seen.add(route)
        model = BODIES[route]
        if model is None:
            assert body is None, (method, path)
            continue
        assert model.model_config.get("extra") == "forbid"
        read = model.model_validate(body)
        assert pruned(read.model_dump(mode="json", by_alias=True, exclude_unset=True)) == pruned(body), (method, path)
    assert seen == set(BODIES)


def pruned(value: Any) -> Any:
    """JSON without nulls, which mean the same as nothing; one in a payload or metadata is kept."""
    if isinstance(value, dict):
        return {
            key: inner if key in ("payload", "metadata") else pruned(inner)
            for key, inner in value.items()
            if inner is not None
        }
    return [pruned(inner) for inner in value] if isinstance(value, list) else value
