"""Searches over HTTP give what the engine gives."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from support.service import World

from hysac_retrieval import PointRef
from hysac_retrieval.service import ServiceSettings, create_router


def same(answer: Any, expected: Any) -> bool:
    return bool(json.loads(json.dumps(expected.to_dict())) == answer.json())


def test_a_text_a_picture_a_point_and_a_vector_find_what_the_engine_finds(world: World) -> None:
    client, engine = world.client(), world.engine
    picture = (world.folder / "pictures" / "lake.png").read_bytes()
    point = engine.encoder.encode_text(["a dog"])[0].astype(float)
    identity = world.id_of("field.png")
    asked: list[tuple[dict[str, Any], Any]] = [
        ({"text": "a man with a gun"}, "a man with a gun"),
        ({"image": base64.b64encode(picture).decode()}, picture),
        ({"id": identity}, PointRef(identity)),
        ({"vector": point.tolist(), "query_modality": "text"}, np.asarray(point)),
    ]
    for body, query in asked:
        options = {"query_modality": "text"} if "vector" in body else {}
        answer = client.post("/v1/search", json={**body, "limit": 3})
        assert answer.status_code == 200
        assert same(answer, engine.search(query, limit=3, **options))
        assert answer.json()["hits"]


def test_an_upload_and_a_similar_point_are_searched_as_well(world: World) -> None:
    client, engine = world.client(), world.engine
    path = world.folder / "pictures" / "gore.png"
    answer = client.post("/v1/search/upload", files={"image": path.read_bytes()}, data={"limit": "2"})
    assert same(answer, engine.search(path, limit=2))
    assert answer.json()["query"]["redirected"]
    identity = world.id_of("field.png")
    assert same(client.get(f"/v1/similar/{identity}", params={"limit": 2}), engine.similar(identity, limit=2))


def test_filters_modality_and_pages_narrow_the_result(world: World) -> None:
    client, engine = world.client(), world.engine
    where = {"must": [{"key": "file", "match": {"value": "lake.png"}}]}
    answer = client.post("/v1/search", json={"text": "a dog", "filter": where})
    assert [hit["payload"]["file"] for hit in answer.json()["hits"]] == ["lake.png"]
    whole = [hit.id for hit in engine.search("a dog", limit=10)]
    pages = [client.post("/v1/search", json={"text": "a dog", "limit": 2, "offset": at}).json() for at in (0, 2)]
    assert [hit["id"] for page in pages for hit in page["hits"]] == whole[:4]
    kinds = client.post("/v1/search", json={"text": "a dog", "modality": "image"}).json()["hits"]
    assert {hit["modality"] for hit in kinds} == {"image"}


def test_groups_explanations_and_permitted_points(world: World) -> None:
    client, engine = world.client(), world.engine
    answer = client.post("/v1/groups", json={"text": "a dog", "by": "file", "groups": 5, "size": 1})
    assert same(answer, engine.only_safe().search_groups("a dog", by="file", groups=5, size=1))
    answer = client.post("/v1/explain", json={"text": "a man with a gun", "steps": 3})
    assert same(answer, engine.only_safe().explain("a man with a gun", steps=3))
    asked = [*world.ids(safe=True), *world.ids(safe=False), "nothing", 17]
    assert set(client.post("/v1/permitted", json={"ids": asked}).json()["ids"]) == world.ids(safe=True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"text": "a dog", "id": 1}, 422),
        ({"text": "a dog", "limit": 0}, 422),
        ({"text": "a dog", "limit": 9_000}, 413),
        ({"text": "a dog", "colour": "red"}, 422),
        ({"text": "a dog", "safe": "no"}, 422),
        ({"text": ""}, 422),
        ({"text": "https://example.org/cat.jpg"}, 422),
        ({"text": "\ud800"}, 422),
        ({"text": "a dog", "filter": {"must": 3}}, 422),
        ({"text": "a dog", "threshold": 0.9}, 422),
        ({"id": "../../etc/passwd"}, 404),
        ({"id": 17}, 404),
        ({"vector": [1.0]}, 422),
        ({"image": base64.b64encode(b"no picture").decode()}, 422),
        ({"image": "???"}, 422),
    ],
)
def test_what_is_wrong_is_a_problem_with_a_reason(world: World, body: dict[str, Any], status: int) -> None:
    answer = world.client().post("/v1/search", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["request_id"]) == (status, answer.headers["x-request-id"])
    assert problem["detail"]
    assert "Traceback" not in answer.text
    assert str(Path(__file__).parents[2]) not in answer.text


def test_the_router_stands_in_an_application_that_exists(world: World) -> None:
    app = FastAPI()
    app.include_router(create_router(world.engine, ServiceSettings()), prefix="/pictures")
    client = TestClient(app, base_url="http://elsewhere")
    assert same(client.post("/pictures/v1/search", json={"text": "a dog"}), world.engine.search("a dog"))
    refused = client.post("/pictures/v1/search", json={"text": "a dog", "safe": False})
    assert (refused.status_code, refused.headers["content-type"]) == (401, "application/problem+json")
    assert client.post("/pictures/v1/search", json={"text": ""}).status_code == 422


def test_readiness_follows_the_store(world: World) -> None:
    client = world.client()
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    world.engine.index.store.drop("toy")
    gone = client.get("/readyz")
    assert (gone.status_code, client.get("/healthz").status_code) == (503, 200)
    assert int(gone.headers["retry-after"]) > 0


def test_what_was_done_is_counted(world: World) -> None:
    client = world.client("search:unsafe")
    for safe in (True, False):
        client.post("/v1/search", json={"text": "a man with a gun", "safe": safe})
    figures = client.get("/metrics").text
    for line in (
        'hysac_requests_total{method="POST",route="/v1/search",status="200"} 2.0',
        "hysac_redirected_total 1.0",
        "hysac_unsafe_allowed_total 1.0",
        "hysac_filtered_total 1.0",
        'hysac_encoder_seconds_count{modality="text"} 2.0',
        'hysac_store_seconds_count{call="query"} 2.0',
    ):
        assert line in figures
