"""Who may ask for what: keys, scopes, sessions, proxies; and that nothing unsafe is reached without the scope."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli import invoke
from support.service import World

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.service import Limits, Proxy, ServiceSettings
from hysac_retrieval.service.access import Caller, Door, NoKeyError, Rate, ScopeError
from hysac_retrieval.service.keys import Keys, make_key, revoke_key, rotate_key
from hysac_retrieval.service.serving import expect_guarded, is_loopback


def ids_in(text: str) -> set[str]:
    return set(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", text))


@pytest.mark.parametrize("scope", [None, "search", "review", "write"])
def test_without_the_scope_no_route_tells_of_an_unsafe_point(world: World, scope: str | None) -> None:
    client, hidden = world.client(scope), world.ids(safe=False)
    assert len(hidden) == 4
    picture = (world.folder / "pictures" / "gore.png").read_bytes()
    asked: list[Any] = []
    for safe in (True, False):
        for body in ({"text": "a man with a gun"}, {"text": "a dog"}, *({"id": each} for each in hidden)):
            asked += [
                client.post("/v1/search", json={**body, "safe": safe, "limit": 100}),
                client.post("/v1/groups", json={**body, "safe": safe, "by": "file"}),
                client.post("/v1/explain", json={**body, "safe": safe}),
            ]
        upload = {"safe": str(safe).lower(), "limit": "100"}
        asked.append(client.post("/v1/search/upload", files={"image": picture}, data=upload))
        asked += [client.get(f"/v1/similar/{each}", params={"safe": str(safe).lower()}) for each in hidden]
    for hostile in (
        {"should": [{"has_id": sorted(hidden)}]},
        {"must_not": [{"key": "hysac.unsafe", "range": {"lte": 0.5}}]},
        {"min_should": {"conditions": [{"has_id": sorted(hidden)}], "min_count": 1}},
    ):
        asked.append(client.post("/v1/search", json={"text": "a dog", "filter": hostile, "limit": 100}))
    for each in hidden:
        asked += [client.get(f"/v1/images/{each}"), client.post("/v1/reviews", json={"id": each})]
        asked += [client.post(f"/v1/reviews/{each}", json={"unsafe": False})]
        asked += [client.get(f"/v1/points/{each}"), client.post("/v1/map/query", json={"id": each})]
    asked += [
        client.get(path, params={"safe": safe}) for path in ("/v1/map", "/v1/fields") for safe in ("true", "false")
    ]
    asked += [client.get("/v1/reviews"), client.post("/v1/permitted", json={"ids": sorted(hidden)})]
    asked += [client.get(path) for path in ("/v1/collection", "/v1/session", "/metrics", "/openapi.json", "/readyz")]
    nothing = "00000000-0000-4000-8000-000000000000"
    for each in hidden:  # as if it were not there
        for path in ("images", "similar"):
            pair = [client.get(f"/v1/{path}/{one}").json() for one in (each, nothing)]
            assert pair[0]["detail"].replace(each, nothing) == pair[1]["detail"]
    for answer in asked:
        assert answer.status_code < 500
        assert answer.status_code == 404 or not ids_in(answer.text) & hidden, answer.request.url
        assert "image/webp" not in answer.headers["content-type"]
    assert {answer.status_code for answer in asked} >= {200, 404, 401 if scope is None else 403}
    if scope == "write":  # what is written over a hidden point is judged anew, and tells nothing of it
        assert client.get("/v1/reviews").status_code == 403


def test_with_the_scope_unsafe_points_are_shown_and_written_down(world: World) -> None:
    client, hidden = world.client("search:unsafe"), world.ids(safe=False)
    answer = client.post("/v1/search", json={"text": "a man with a gun", "safe": False, "limit": 100})
    assert {hit["id"] for hit in answer.json()["hits"]} >= hidden
    identity = world.id_of("gore.png")
    assert client.get(f"/v1/images/{identity}").headers["content-type"] == "image/webp"
    lines = [json.loads(line) for line in world.log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["unsafe", "show"]
    assert (set(lines[0]["ids"]) >= hidden, lines[1]["ids"]) == (True, [identity])
    key = world.keys["search:unsafe"]
    assert {line["key"] for line in lines} == {key.split("_")[1]}
    text = world.log.read_text()
    assert "gun" not in text  # only its hash
    assert key not in text
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200
    assert len(world.log.read_text().splitlines()) == 2


@pytest.mark.parametrize("log", ["full", "none"])
def test_what_cannot_be_written_down_is_not_answered(world: World, log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.client("admin", **({"audit": None} if log == "none" else {}))
    if log == "full":

        def full(*_: Any) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("hysac_retrieval.service.log.os.fsync", full)
    identity, hidden = world.id_of("gore.png"), world.ids(safe=False)
    asked = [
        client.post("/v1/search", json={"text": "a man with a gun", "safe": False}),
        client.post("/v1/explain", json={"text": "a man with a gun", "safe": False}),
        client.post("/v1/groups", json={"text": "a man with a gun", "safe": False, "by": "text"}),
        client.get(f"/v1/similar/{identity}", params={"safe": "false"}),
        client.get(f"/v1/images/{identity}"),
        client.get("/v1/reviews"),
        client.post(f"/v1/reviews/{identity}", json={"unsafe": False}),
    ]
    for answer in asked:
        assert answer.status_code in (403, 404, 503)
        assert not {each for each in ids_in(answer.text) if each in hidden}
    assert client.post("/v1/search", json={"text": "a man with a gun"}).status_code == 200
    assert log == "none" or world.log.read_text() == ""


def test_keys_that_are_wrong_revoked_or_rotated_open_nothing(world: World) -> None:
    client = world.client()
    shown = world.another("search")
    identity = shown.split("_")[1]

    def status(key: str, scheme: str = "Bearer") -> int:
        answer = client.post("/v1/search", json={"text": "a dog"}, headers={"Authorization": f"{scheme} {key}"})
        return int(answer.status_code)

    assert status(shown) == 200
    wrong = (shown[:-1] + ("a" if shown[-1] != "a" else "b"), f"hysac_{identity}_", "hysac", "", f"x{shown}", "hysac__")
    assert {status(key) for key in wrong} == {401}
    assert status(shown, "Basic") == 401
    _, rotated = rotate_key(world.key_file, identity, keep_seconds=3600)
    assert (status(shown), status(rotated)) == (200, 200)
    _, again = rotate_key(world.key_file, identity)
    assert (status(shown), status(rotated), status(again)) == (401, 401, 200)
    revoke_key(world.key_file, identity)
    assert status(again) == 401
    world.key_file.write_text("{")
    assert status(world.keys["search"]) == 401  # a file that cannot be read opens nothing
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200  # nobody may search here


def test_where_nobody_may_ask_only_health_is_told(world: World) -> None:
    client = world.client(anonymous=False)
    for path in ("/v1/collection", "/v1/session", "/metrics", "/v1/similar/1", "/v1/images/1"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 401
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_the_file_of_keys_holds_no_key_and_is_its_owners(world: World) -> None:
    text = world.key_file.read_text()
    assert not any(key.split("_", 2)[2] in text for key in world.keys.values())
    if os.name == "posix":
        assert world.key_file.stat().st_mode & 0o077 == 0


def test_a_session_needs_its_token_to_change_something_and_ends_with_its_key(world: World) -> None:
    client = world.client()
    shown = world.another("search", "search:unsafe")
    begun = client.post("/v1/session", json={"key": shown})
    cookie = begun.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert shown not in cookie
    csrf = begun.json()["csrf"]
    assert client.get("/v1/session").json()["csrf"] == csrf
    identity = world.id_of("gore.png")
    assert client.get(f"/v1/images/{identity}").status_code == 200
    body = {"text": "a man with a gun", "safe": False}
    for headers in ({}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": ""}):
        assert client.post("/v1/search", json=body, headers=headers).status_code == 403
    assert client.post("/v1/search", json=body, headers={"X-CSRF-Token": csrf}).status_code == 200
    forged = client.cookies["hysac_session"].rsplit(".", 1)[0] + "." + "0" * 64
    assert client.get("/v1/session", headers={"Cookie": f"hysac_session={forged}"}).status_code == 401
    rotate_key(world.key_file, shown.split("_")[1])
    assert client.get("/v1/session").status_code == 401
    assert client.post("/v1/session", json={"key": "hysac_a_b"}).status_code == 401


@pytest.mark.parametrize("secure", [True, False])
def test_cookies_of_a_service_that_others_reach_are_secure(world: World, secure: bool) -> None:
    client = world.client(secure_cookies=secure)
    cookie = client.post("/v1/session", json={"key": world.keys["search"]}).headers["set-cookie"]
    assert ("secure" in cookie.lower()) is secure


@pytest.mark.parametrize(("given", "secure"), [((), False), (("--host-name", "search.example.org"), True)])
def test_the_command_serves_secure_cookies_behind_a_name(
    monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], secure: bool
) -> None:
    asked: list[ServiceSettings] = []
    monkeypatch.setattr("hysac_retrieval.service.serving.serve", lambda *rest, **more: asked.append(rest[3]))
    done = invoke("serve", "--collection", "photos", "--location", ".", *given)
    assert done.exit_code == 0, done.output
    assert [one.secure_cookies for one in asked] == [secure]


def test_a_session_ends_after_its_time(tmp_path: Path) -> None:
    path, now = tmp_path / "keys.json", [1000.0]
    _, shown = make_key(path, "ann", ["search"])
    door = Door(ServiceSettings(keys=path), now=lambda: now[0])
    session, _ = door.begin(shown)
    assert "search" in door.caller("GET", {}, {"hysac_session": session}, "").scopes
    now[0] += 9 * 3600
    with pytest.raises(NoKeyError):
        door.caller("GET", {}, {"hysac_session": session}, "")


def test_a_proxy_is_believed_from_its_address_only() -> None:
    door = Door(ServiceSettings(proxy=Proxy(address="10.0.0.5")))
    headers = {"x-forwarded-user": "ann", "x-forwarded-groups": "staff, hysac:search:unsafe,hysac:nothing"}
    caller = door.caller("GET", headers, {}, "10.0.0.5")
    assert (caller.id, caller.scopes) == ("proxy:ann", {"search", "search:unsafe"})
    for address in ("10.0.0.6", "127.0.0.1", ""):
        with pytest.raises(NoKeyError):
            door.caller("GET", headers, {}, address)
    with pytest.raises(NoKeyError):
        door.caller("GET", {}, {}, "10.0.0.5")


def test_other_sites_and_other_names_are_refused(world: World) -> None:
    client = world.client()
    for name, status in (
        ("evil.example", 421),
        ("localhost", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:80", 200),
        ("", 421),
    ):
        assert client.get("/healthz", headers={"Host": name}).status_code == status
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        answer = client.post("/v1/search", json={"text": "a dog"}, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status
    plain = client.post("/v1/search", content='{"text": "a dog"}', headers={"Content-Type": "text/plain"})
    assert plain.status_code == 422
    preflight = client.options(
        "/v1/search", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in preflight.headers


def test_every_answer_has_the_headers_that_keep_pages_apart(world: World) -> None:
    client = world.client()
    for answer in (client.get("/healthz"), client.get("/nothing"), client.post("/v1/search", json={})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert len(answer.headers["x-request-id"]) >= 8
    kept = client.get("/healthz", headers={"X-Request-Id": "abcdefgh-1"})
    assert kept.headers["x-request-id"] == "abcdefgh-1"
    assert (
        client.get("/healthz", headers={"X-Request-Id": "a b\tc<script>"}).headers["x-request-id"] != "a b\tc<script>"
    )


def test_a_fault_shows_no_trace(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.client("search")

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr("hysac_retrieval.service.core.run", fail)
    answer = client.post("/v1/search", json={"text": "a dog"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["request_id"] in caplog.text
    assert world.keys["search"] not in caplog.text


def test_thumbnails_come_from_the_roots_and_nothing_else(world: World) -> None:
    client, index, encoder = world.client("admin"), world.engine.index, world.engine.encoder
    outside = world.folder / "outside.png"
    outside.write_bytes((world.folder / "pictures" / "field.png").read_bytes())
    (world.folder / "pictures" / "link.png").symlink_to(outside)
    (world.folder / "pictures" / "text.txt").write_text("secret")
    (world.folder / "pictures" / "fifo").mkdir()
    files = (
        "../outside.png",
        str(outside),
        "link.png",
        "../keys.json",
        "text.txt",
        "fifo",
        "",
        ".",
        "field.png\0",
        "a" * 5000,
    )
    points = encoder.encode_text(["a dog"] * len(files))
    marks = [
        {"source": source} for source in ("toy", "", str(world.folder), "/", "toy", "toy", "toy", "toy", "toy", "toy")
    ]
    index.upsert(range(len(files)), points, modality="text", payloads=[{"file": file} for file in files], marks=marks)
    for row in range(len(files)):
        answer = client.get(f"/v1/images/{row}")
        assert (answer.status_code, "secret" in answer.text) == (404, False), files[row]
    for path in ("/v1/images/../../keys.json", "/v1/images/%2e%2e%2fkeys.json", "/v1/images/..%5c..%5ckeys.json"):
        assert client.get(path).status_code in (404, 422)
    shown = client.get(f"/v1/images/{world.id_of('field.png')}", params={"size": 32})
    assert (shown.status_code, shown.headers["cache-control"]) == (200, "no-store")


@pytest.fixture(scope="module")
def one_key(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    make_key(path, "ann", ["search"])
    return Keys(path)


@settings(max_examples=300)
@given(text=st.text(max_size=60))
def test_no_text_is_a_key(one_key: Keys, text: str) -> None:
    identity = one_key.file.keys[0].id
    assert one_key.find(text) is one_key.find(f"hysac_{identity}_{text}") is None


def test_scopes_are_named_when_they_lack() -> None:
    caller = Caller("k", frozenset({"search"}), "")
    caller.expect("search")
    with pytest.raises(ScopeError, match="search:unsafe"):
        caller.expect("search", "search:unsafe")
    with pytest.raises(NoKeyError, match="write"):
        Caller("anonymous", frozenset({"search"}), "").expect("write")


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    now = [0.0]
    rate = Rate(2.0, 3, clock=lambda: now[0])
    assert [rate.wait("ann") for _ in range(3)] == [0.0] * 3
    assert rate.wait("ann") == pytest.approx(0.5)
    assert rate.wait("bob") == 0.0
    now[0] += 0.5
    assert (rate.wait("ann"), rate.wait("ann")) == (0.0, pytest.approx(0.5))
    now[0] += 100
    assert [rate.wait("ann") for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.5)]


def test_who_asks_too_often_waits_and_so_does_who_tries_keys(world: World) -> None:
    client = world.client("search", limits=Limits(rate=0.1, burst=2))
    answers = [client.get("/v1/session") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) > 0
    tries = [client.get("/v1/session", headers={"Authorization": "Bearer hysac_a_b"}).status_code for _ in range(4)]
    assert tries == [401, 401, 429, 429]


def test_a_service_that_others_reach_without_a_key_is_refused_unless_forced(tmp_path: Path) -> None:
    make_key(tmp_path / "keys.json", "ann", ["search"])
    guarded, everyone = ServiceSettings(keys=tmp_path / "keys.json"), ServiceSettings()
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        with pytest.raises(SettingsError, match="without a key"):
            expect_guarded(host, everyone, force=False)
        expect_guarded(host, everyone, force=True)
        expect_guarded(host, guarded, force=False)
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert is_loopback(host)
        expect_guarded(host, everyone, force=False)
