"""The explorer's own routes: its files, the map, the fields to filter by, and single points."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from hysac_retrieval import lorentz
from hysac_retrieval.search.figures import FILES, read_file
from hysac_retrieval.service import ServiceSettings, create_router

World = Any
MOST_BYTES = 60_000


def test_the_page_comes_without_a_key_and_takes_nothing_from_elsewhere(world: World) -> None:
    client = world.client(anonymous=False)
    answer = client.get("/")
    assert answer.status_code == 200
    assert "'unsafe-inline'" not in answer.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
    assert {name for name in named if name != "data:,"} <= {f"explorer/{name}" for name in FILES}
    assert not re.search(r"<style|\son\w+=|\sstyle=", answer.text)
    for name, kind in FILES.items():
        file = client.get(f"/explorer/{name}")
        assert (file.status_code, file.headers["content-type"]) == (200, kind)
        assert file.content == read_file(name)
        assert client.get(f"/explorer/{name}", headers={"If-None-Match": file.headers["etag"]}).status_code == 304
        plain = client.get(f"/explorer/{name}", headers={"Accept-Encoding": "identity"})
        assert (plain.content, plain.headers.get("content-encoding")) == (file.content, None)
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", file.content), name


def test_every_module_is_served_and_imports_only_modules_that_are(world: World) -> None:
    for name in FILES:
        for imported in re.findall(r'from "\./([^"]+)"', read_file(name).decode()):
            assert imported in FILES, (name, imported)


def test_no_text_is_ever_set_as_markup() -> None:
    code = b"".join(read_file(name) for name in FILES if name.endswith(".js"))
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code)


def test_the_page_is_light() -> None:
    assert sum(len(gzip.compress(read_file(name))) for name in FILES) < MOST_BYTES


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fpage.py", "%2e%2e%2fpage.py", "web", ""])
def test_there_is_no_other_file(world: World, name: str) -> None:
    assert world.client().get(f"/explorer/{name}").status_code == 404


def test_a_router_of_an_application_has_no_page_of_ours(world: World) -> None:
    app = FastAPI()
    app.include_router(create_router(world.engine, ServiceSettings()))
    client = TestClient(app)
    assert client.get("/").status_code == 404
    assert client.get("/v1/map").status_code == 200


def test_the_map_places_points_by_their_true_radius_and_the_angle_of_their_direction(world: World) -> None:
    answer = world.client("search:unsafe").get("/v1/map", params={"safe": False}).json()
    points, _ = world.engine.index.points(answer["ids"])
    radii = lorentz.dist0(points, answer["curvature"])
    np.testing.assert_allclose(answer["radius"], radii, rtol=1e-5)
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    mean, first, second = np.array(answer["axes"])
    np.testing.assert_allclose(mean, directions.mean(axis=0), atol=1e-5)
    # The plane is that of the two largest singular values.
    centred = directions - directions.mean(axis=0)
    kept = np.linalg.norm(centred @ np.stack([first, second]).T) ** 2
    values = np.linalg.svd(centred, compute_uv=False)
    assert kept == pytest.approx((values[:2] ** 2).sum(), rel=1e-3)
    expected = np.arctan2(centred @ second, centred @ first)
    apart = np.angle(np.exp(1j * (np.array(answer["angle"]) - expected)))
    far = np.hypot(centred @ first, centred @ second) > 0.05  # the angle of what is in the middle means nothing
    assert far.any()
    np.testing.assert_allclose(apart[far], 0, atol=1e-3)


def test_without_the_scope_nothing_unsafe_is_on_the_map(world: World) -> None:
    safe, unsafe = world.ids(safe=True), world.ids(safe=False)
    assert safe
    assert unsafe
    for scope in (None, "search", "write", "review"):
        client = world.client(scope)
        answer = client.get("/v1/map").json()
        assert set(answer["ids"]) == safe
        assert answer["total"] == len(safe)
        assert all(answer["safe"])
        for path in ("/v1/map", "/v1/fields"):
            refused = client.get(path, params={"safe": False})
            assert refused.status_code in (401, 403)
            assert not any(str(one) in refused.text for one in unsafe)
        for one in unsafe:
            assert client.get(f"/v1/points/{one}").status_code == 404
            assert client.post("/v1/map/query", json={"id": one}).status_code == 404
    assert not world.log.read_text()


def test_with_the_scope_all_of_it_is_there_and_the_log_says_so(world: World) -> None:
    client = world.client("search:unsafe")
    answer = client.get("/v1/map", params={"safe": False}).json()
    assert set(answer["ids"]) == world.ids(safe=True) | world.ids(safe=False)
    marked = {one for one, safe in zip(answer["ids"], answer["safe"], strict=True) if safe}
    assert marked == world.ids(safe=True)
    (one, *_) = world.ids(safe=False)
    shown = client.get(f"/v1/points/{one}").json()
    assert (shown["id"], shown["safe"]) == (one, False)
    events = [json.loads(line)["event"] for line in world.log.read_text().splitlines()]
    assert events == ["map", "show"]


def test_without_an_audit_log_the_whole_map_is_not_shown(world: World) -> None:
    client = world.client("admin", audit=None)
    assert client.get("/v1/map", params={"safe": False}).status_code in (403, 503)
    assert client.get("/v1/map").status_code == 200


def test_the_map_shows_what_the_filters_let_through_and_no_filter_opens_it(world: World) -> None:
    anyone = world.client()

    def shown(**narrowed: Any) -> set[Any]:
        answer = anyone.get("/v1/map", params={name: given for name, given in narrowed.items()})
        assert answer.status_code == 200, answer.text
        assert answer.json()["total"] == len(answer.json()["ids"])
        return set(answer.json()["ids"])

    safe = world.ids(safe=True)
    texts = {hit.id for hit in world.engine.search("a dog", modality="text", limit=100)}
    assert shown(modality="text") == texts
    assert shown(modality="image") == safe - texts
    one = {"must": [{"key": "file", "match": {"value": "lake.png"}}]}
    assert shown(filter=json.dumps(one)) == {world.id_of("lake.png")}
    for wide in ({"should": [{"has_id": [*world.ids(safe=False)]}, {"must_not": []}]}, {"must_not": [one]}):
        assert shown(filter=json.dumps(wide)) <= safe
    for wrong in ("{", "[1]", '{"must": [{"key": 3}]}', "[" * 5000, '{"must":[' * 2000):
        assert anyone.get("/v1/map", params={"filter": wrong}).status_code == 422


def test_the_map_reads_no_more_than_is_asked_for(world: World) -> None:
    answer = world.client().get("/v1/map", params={"limit": 2}).json()
    assert len(answer["ids"]) == len(answer["radius"]) == len(answer["angle"]) == 2
    assert answer["total"] == len(world.ids(safe=True))
    assert world.client().get("/v1/map", params={"limit": 100_001}).status_code == 422


def test_a_query_has_the_direction_of_its_point(world: World) -> None:
    client, engine = world.client(), world.engine
    point = engine.encoder.encode_text(["a dog"])[0].astype(float)
    answer = client.post("/v1/map/query", json={"text": "a dog"}).json()
    np.testing.assert_allclose(answer["direction"], point / np.linalg.norm(point), atol=1e-6)


def test_fields_with_few_values_can_be_filtered_and_coloured_by(world: World) -> None:
    index, encoder = world.engine.index, world.engine.encoder
    texts = [f"a dog number {n}" for n in range(6)]
    payloads = [
        {"text": text, "album": ["pets", "park"][n % 2], "n": n, "a.b": n % 2, "odd": bool(n % 2)}
        for n, text in enumerate(texts)
    ]
    index.upsert(list(range(6)), encoder.encode_text(texts), modality="text", payloads=payloads)
    client = world.client()
    answer = client.get("/v1/fields").json()
    found = {facet["field"]: set(facet["values"]) for facet in answer["facets"]}
    assert found["album"] == {"pets", "park"}
    assert found["odd"] == {True, False}
    assert "n" not in found  # no value comes twice
    assert "a.b" not in found
    for value in ("pets", True):
        field = "album" if value == "pets" else "odd"
        where = {"must": [{"should": [{"key": field, "match": {"value": value}}]}]}
        hits = client.post("/v1/search", json={"text": "a dog", "filter": where}).json()["hits"]
        assert [hit["payload"][field] for hit in hits] == [value] * 3
    drawn = client.get("/v1/map").json()
    (at,) = [row for row, facet in enumerate(drawn["facets"]) if facet["field"] == "album"]
    by_id = dict(zip(drawn["ids"], drawn["codes"][at], strict=True))
    assert drawn["facets"][at]["values"][by_id[0]] == "pets"
    assert sorted({code for one, code in by_id.items() if not isinstance(one, int)}) == [-1]


def test_levels_are_those_of_the_calibration(world: World) -> None:
    levels = world.client().get("/v1/fields").json()["levels"]
    profile = world.engine.index.metadata.safety
    for kind in ("text", "image"):
        assert levels[kind]["threshold"] == profile.threshold.of(kind)
        assert levels[kind]["safe"]["mean"] == profile.of(kind).safe.mean
