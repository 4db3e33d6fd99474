"""Points written over HTTP, reports, the queue and decisions."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from support.service import World

from hysac_retrieval import LabelRule, SafetyPolicy
from hysac_retrieval.payload import own_payload
from hysac_retrieval.search.remote import RemoteSearch


def lines(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.log.read_text().splitlines()] if world.log.exists() else []


def safe_ids(client: Any) -> set[Any]:
    answer = client.post("/v1/search", json={"text": "a dog", "limit": 100})
    return {hit["id"] for hit in answer.json()["hits"]}


def test_points_are_written_judged_replaced_and_removed(world: World) -> None:
    client, anyone = world.client("write"), world.client()
    picture = base64.b64encode((world.folder / "pictures" / "gore.png").read_bytes()).decode()
    points = [
        {"key": "one", "text": "a dog with a house", "payload": {"album": "pets"}},
        {"key": "two", "image": picture},
        {"id": 7, "text": "a man with a knife"},
    ]
    answer = client.post("/v1/points", json={"points": points})
    assert answer.status_code == 200, answer.text
    one, two, three = answer.json()["ids"]
    assert three == 7
    assert safe_ids(anyone) & {one, two, three} == {one}
    stored = {point.id: own_payload(point.payload) for point in world.engine.index.retrieve([one, two, three])}
    assert [stored[each]["modality"] for each in (one, two, three)] == ["text", "image", "text"]
    client.post("/v1/points", json={"points": [{"id": 7, "text": "a man with a dog"}]})
    assert 7 in safe_ids(anyone)
    assert client.delete("/v1/points/7").status_code == client.delete("/v1/points/nothing").status_code == 204
    assert 7 not in safe_ids(anyone)
    assert [line["event"] for line in lines(world)] == ["write", "write", "delete"]


@pytest.mark.parametrize(
    ("points", "status"),
    [
        ([], 422),
        ([{"text": "a dog"}], 422),
        ([{"key": "a", "text": "a dog", "image": "aaaa"}], 422),
        ([{"key": "a", "text": "a dog"}, {"key": "a", "text": "a cat"}], 422),
        ([{"id": "no id", "text": "a dog"}], 422),
        ([{"key": "a", "text": "a dog", "payload": {"hysac": {"unsafe": 0.0}}}], 422),
        ([{"key": "a", "text": "a dog"}, {"key": "b", "image": base64.b64encode(b"none").decode()}], 422),
        ([{"key": str(row), "text": "a dog"} for row in range(65)], 413),
    ],
)
def test_points_that_are_wrong_leave_nothing_behind(world: World, points: list[Any], status: int) -> None:
    count = world.engine.index.count()
    assert world.client("write").post("/v1/points", json={"points": points}).status_code == status
    assert world.engine.index.count() == count


def test_a_decision_takes_a_point_out_of_every_safe_search_at_once(world: World) -> None:
    admin, anyone = world.client("admin"), world.client()
    identity = world.id_of("field.png")
    assert identity in safe_ids(anyone)
    decided = admin.post(f"/v1/reviews/{identity}", json={"unsafe": True, "category": "weapons", "note": "look"})
    assert decided.json() == {"id": identity, "unsafe": True, "state": "decided"}
    assert identity not in safe_ids(anyone)
    assert identity not in world.engine.permitted([identity])
    assert anyone.get(f"/v1/images/{identity}").status_code == anyone.get(f"/v1/similar/{identity}").status_code == 404
    assert anyone.post("/v1/permitted", json={"ids": [identity]}).json() == {"ids": []}
    (point,) = world.engine.index.retrieve([identity])
    review = own_payload(point.payload)["review"]
    assert (review["unsafe"], review["category"], review["note"]) == (True, "weapons", "look")
    line = lines(world)[-1]
    assert (line["event"], line["ids"], line["unsafe"]) == ("review", [identity], True)

    undone = admin.post(f"/v1/reviews/{identity}", json={"unsafe": None})
    assert undone.json()["state"] == "taken back"
    assert identity in safe_ids(anyone)


def test_a_decision_that_a_point_is_safe_opens_nothing(world: World) -> None:
    admin, anyone = world.client("admin"), world.client()
    identity = world.id_of("gore.png")
    assert admin.post(f"/v1/reviews/{identity}", json={"unsafe": False}).json()["state"] == "decided"
    assert identity not in safe_ids(anyone)
    assert anyone.get(f"/v1/images/{identity}").status_code == 404


def test_a_decision_that_a_point_is_safe_opens_what_the_policy_says(new_world: Any) -> None:
    world = new_world(SafetyPolicy(trust_reviews=True))
    admin, anyone = world.client("admin"), world.client()
    gore, wound = world.id_of("gore.png"), world.id_of("wound.png")
    admin.post(f"/v1/reviews/{gore}", json={"unsafe": False})
    (hit,) = [hit for hit in anyone.post("/v1/search", json={"text": "a dog"}).json()["hits"] if hit["id"] == gore]
    assert hit["reviewed"]
    assert hit["unsafe"] > 0.5
    assert anyone.get(f"/v1/images/{gore}").status_code == 200
    remote = RemoteSearch(anyone)
    assert gore in {one.id for one in remote.search("a dog") if one.reviewed}
    assert anyone.get(f"/v1/images/{wound}").status_code == 404
    stricter = anyone.post("/v1/search", json={"text": "a dog", "threshold": 0.5, "limit": 100}).json()["hits"]
    assert gore not in {hit["id"] for hit in stricter}
    admin.post(f"/v1/reviews/{gore}", json={"unsafe": True})
    assert gore not in safe_ids(anyone)


def test_two_people_must_agree_that_a_point_is_safe_and_one_that_it_is_not(world: World) -> None:
    first, second, anyone = (
        world.client("admin", two_people=True),
        world.client("review", two_people=True),
        world.client(),
    )
    second.headers["Authorization"] = f"Bearer {world.another('search', 'search:unsafe', 'review')}"
    identity = world.id_of("field.png")
    assert first.post(f"/v1/reviews/{identity}", json={"unsafe": True}).json()["state"] == "decided"
    for _ in range(2):
        waits = first.post(f"/v1/reviews/{identity}", json={"unsafe": False}).json()
        assert waits["state"] == "waits for a second person"
    assert identity not in safe_ids(anyone)
    assert second.post(f"/v1/reviews/{identity}", json={"unsafe": False}).json()["state"] == "decided"
    assert identity in safe_ids(anyone)
    assert [line["event"] for line in lines(world)] == ["review", "vote", "vote", "review"]


def test_reports_of_what_can_be_seen_come_to_the_queue(world: World) -> None:
    admin, anyone = world.client("admin"), world.client()
    lake, field = world.id_of("lake.png"), world.id_of("field.png")
    for identity, times in ((lake, 1), (field, 2)):
        for time in range(times):
            told = anyone.post("/v1/reviews", json={"id": identity, "reason": f"reason {time}"}).json()
        assert told == {"id": identity, "reports": times}
    items = admin.get("/v1/reviews", params={"order": "reported"}).json()["items"]
    assert [(item["id"], item["reports"], item["reasons"]) for item in items] == [
        (field, 2, ["reason 0", "reason 1"]),
        (lake, 1, ["reason 0"]),
    ]
    assert {lake, field} <= safe_ids(anyone)  # a report is no verdict
    assert anyone.post("/v1/reviews", json={"id": world.id_of("gore.png")}).status_code == 404
    admin.post(f"/v1/reviews/{field}", json={"unsafe": True})
    items = admin.get("/v1/reviews", params={"order": "reported"}).json()["items"]
    assert [item["id"] for item in items] == [lake]


def test_the_queue_begins_with_what_is_nearest_to_the_threshold(world: World) -> None:
    items = world.client("admin").get("/v1/reviews", params={"limit": 8}).json()["items"]
    far = [abs(item["unsafe"] - 0.5) for item in items]
    assert len(items) == 8
    assert far == sorted(far)
    assert {item["id"] for item in items} == world.ids(safe=True) | world.ids(safe=False)
    assert lines(world)[-1]["event"] == "queue"


def test_the_queue_goes_by_a_field_that_the_application_keeps(world: World) -> None:
    admin, viewed = world.client("admin"), {"a dog": 3, "a cat": 20.5, "a man": True, "a house": None}
    points = [
        {"key": text, "text": text, "payload": {"stats": {"views": views}, "added": f"2026-0{month}-01T08:00:00Z"}}
        for month, (text, views) in enumerate(viewed.items(), start=1)
    ]
    assert admin.post("/v1/points", json={"points": points}).status_code == 200

    def first(order: str, limit: int) -> list[Any]:
        answer = admin.get("/v1/reviews", params={"order": order, "limit": limit})
        return [item["payload"].get("text") for item in answer.json()["items"]]

    assert first("field:stats.views", 2) == ["a cat", "a dog"]
    assert first("field:added", 4) == ["a house", "a man", "a cat", "a dog"]
    assert len(first("field:added", 100)) == len(first("uncertain", 100)) == world.engine.index.count()
    admin.post(f"/v1/reviews/{world.id_of('a cat')}", json={"unsafe": False})
    assert first("field:stats.views", 1) == ["a dog"]
    for wrong in ("newest", "field:", "field:a|b", "field:" + "a" * 200):
        assert admin.get("/v1/reviews", params={"order": wrong}).status_code == 422


def test_rules_that_hold_for_everyone_hold_for_reviewers(new_world: Any) -> None:
    rule = LabelRule("file", deny=("gore.png",), always=True)
    world = new_world(SafetyPolicy(rules=(rule,)))
    admin = world.client("admin")
    (hidden,) = {
        hit.id for hit in world.plain().search("a dog", safe=False, limit=100) if hit.payload.get("file") == "gore.png"
    }
    assert hidden not in {item["id"] for item in admin.get("/v1/reviews").json()["items"]}
    assert admin.post(f"/v1/reviews/{hidden}", json={"unsafe": False}).status_code == 404
    assert admin.get(f"/v1/images/{hidden}").status_code == 404


def test_an_engine_that_only_returns_safe_results_shows_reviewers_nothing_else(new_world: Any) -> None:
    world = new_world(SafetyPolicy(allow_unsafe=False))
    admin = world.client("admin")
    assert admin.get("/v1/reviews").status_code == 403
    assert admin.post("/v1/search", json={"text": "a dog", "safe": False}).status_code == 403
    for hit in world.plain().search("a dog", safe=False, limit=100):
        shown = admin.get(f"/v1/images/{hit.id}").status_code
        assert shown in ((200, 404) if hit.unsafe < 0.5 else (404,))
