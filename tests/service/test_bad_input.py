"""Hostile pictures, filters and captions, and a collection that is replaced: no fault, and nothing unsafe."""

from __future__ import annotations

import base64
import struct
import zlib
from random import Random
from typing import Any

import pytest
from support import fuzz_values as values
from support.service import World
from support.spaces import CURVATURE, DIM, profile

from hysac_retrieval import Index
from hysac_retrieval.service import Limits


def png(width: int, height: int) -> bytes:
    """A picture that says how large it is, and holds nothing of it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pictures(world: World) -> list[bytes]:
    whole, random = (world.folder / "pictures" / "field.png").read_bytes(), Random(1)
    return [
        png(2**31 - 1, 2**31 - 1),
        png(0, 0),
        png(30_000, 1),
        b"",
        whole[: len(whole) // 2],
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"GIF89a" + b"\xff" * 100,
        b"%!PS-Adobe-3.0\nshowpage",
        b"\xff\xd8\xff\xe0" + b"\0" * 50,
        *(values.mutated(random, whole) for _ in range(12)),
    ]


def test_hostile_pictures_are_refused_and_make_no_fault(world: World) -> None:
    client = world.client("admin", limits=Limits(rate=0, threads=2, pixels=1_000_000))
    count = world.engine.index.count()
    for picture in pictures(world):
        body = {"image": base64.b64encode(picture).decode()}
        for answer in (
            client.post("/v1/search", json=body),
            client.post("/v1/search/upload", files={"image": picture}),
            client.post("/v1/points", json={"points": [{"key": "p", **body}]}),
        ):
            # A picture with a few bytes changed may still be one.
            assert answer.status_code in (200, 413, 422), answer.text
            if answer.status_code == 200 and "hits" in answer.json():
                assert all(hit["unsafe"] <= 0.5 for hit in answer.json()["hits"])
    assert world.engine.index.count() - count in (0, 1)
    assert client.get("/healthz").status_code == 200


def test_hostile_filters_make_no_fault_and_open_nothing(world: World) -> None:
    client, safe = world.client("search"), world.ids(safe=True)
    deep: Any = {"must": []}
    for _ in range(300):
        deep = {"must": [deep]}
    kind = {"content-type": "application/json"}
    for seed in range(25):
        given = values.user_filter(Random(seed)).model_dump(mode="json", exclude_none=True)
        content = values.as_json({"text": "a dog", "filter": given, "limit": 100})
        answer = client.post("/v1/search", content=content.encode("utf-8", "replace"), headers=kind)
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 200:
            assert {hit["id"] for hit in answer.json()["hits"]} <= safe
    for wrong in (deep, {"must": [{"has_id": [0] * 20_000}]}, {"must": [{"key": "a" * 10_000, "is_null": 1}]}, [], "x"):
        answer = client.post("/v1/search", json={"text": "a dog", "filter": wrong})
        assert answer.status_code in (200, 422), answer.text
    nested = '{"text":"a dog","filter":' + '{"must":[' * 50_000 + "]}" * 50_000 + "}"
    assert client.post("/v1/search", content=nested, headers=kind).status_code in (400, 422)
    assert client.get("/healthz").status_code == 200


def test_markup_in_a_caption_stays_a_text_in_json(world: World) -> None:
    client, caption = world.client("admin"), "<script>alert('a dog')</script>"
    body = {"points": [{"key": "markup", "text": caption, "payload": {caption: caption}}]}
    assert client.post("/v1/points", json=body).status_code == 200
    answers = [
        client.post("/v1/search", json={"text": "a dog", "safe": False, "limit": 100}),
        client.get("/v1/map", params={"safe": "false"}),
        client.get("/v1/fields"),
        client.get("/v1/reviews", params={"limit": 100}),
        client.post("/v1/search", json={"text": "a dog", "colour<b>": caption}),
    ]
    for answer in answers:
        assert answer.headers["content-type"] in ("application/json", "application/problem+json")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert caption in {hit["payload"].get("text") for hit in answers[0].json()["hits"]}


@pytest.mark.parametrize("same_model", [True, False])
def test_a_collection_that_is_replaced_is_answered_from_as_it_is_or_not_at_all(world: World, same_model: bool) -> None:
    client, store, encoder = world.client("search:unsafe"), world.engine.index.store, world.engine.encoder
    before = {hit["id"] for hit in client.post("/v1/search", json={"text": "a dog"}).json()["hits"]}
    assert before
    old = next(iter(before))
    store.drop("toy")
    gone = client.post("/v1/search", json={"text": "a dog"})
    assert gone.status_code in (404, 500, 502, 503)
    assert "hits" not in gone.json()
    if same_model:
        index = Index.for_model(encoder, "toy", store=store)
        index.upsert([5], encoder.encode_text(["a dog"]), modality="text", payloads=[{"text": "a dog"}])
    else:
        index = Index.create("toy", dim=DIM, curvature=CURVATURE, safety=profile(), store=store)
    for safe in (True, False):
        answer = client.post("/v1/search", json={"text": "a dog", "safe": safe})
        found = {hit["id"] for hit in answer.json().get("hits", [])}
        assert found == ({5} if same_model else set())
        assert (answer.status_code == 200) is same_model
    assert client.get("/readyz").status_code == (200 if same_model else 503)
    assert client.get(f"/v1/images/{old}").status_code >= 400
