"""A search by a service is the search itself, for programs and plugins; and is held to its thresholds once more."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.service import World

from hysac_retrieval import Examples, PointRef, aconnect, connect
from hysac_retrieval.errors import (
    InputError,
    PointNotFoundError,
    SettingsError,
    StoreError,
    StoreUnavailableError,
    UnsafeNotAllowedError,
)
from hysac_retrieval.integrations import FixedSearch
from hysac_retrieval.search.connecting import remote_options
from hysac_retrieval.search.loops import Once
from hysac_retrieval.search.remote import AsyncRemoteSearch, RemoteSearch


def plain(result: Any) -> Any:
    return json.loads(json.dumps(result.to_dict()))


def test_it_finds_what_the_engine_finds(world: World) -> None:
    engine, remote = world.engine.only_safe(), RemoteSearch(world.client("search"))
    picture, identity = world.folder / "pictures" / "gore.png", world.id_of("field.png")
    vector = engine.encoder.encode_text(["a dog"])[0].astype(float)
    options: dict[str, Any] = {
        "limit": 3,
        "offset": 1,
        "filter": {"must_not": [{"key": "file", "match": {"value": "a"}}]},
    }
    for query in ("a man with a gun", picture, picture.read_bytes(), PointRef(identity), vector):
        assert plain(remote.search(query, **options)) == plain(engine.search(query, **options))
    pixels = np.zeros((20, 20, 3), dtype=np.uint8)
    for query in (pixels, Image.fromarray(pixels)):
        assert plain(remote.search(query)) == plain(engine.search(pixels))
    grouped = remote.search_groups("a dog", by="file", size=1)
    assert plain(grouped) == plain(engine.search_groups("a dog", by="file", size=1))
    assert plain(remote.explain("a man with a gun", steps=3)) == plain(engine.explain("a man with a gun", steps=3))
    assert plain(remote.similar(identity)) == plain(engine.similar(identity))
    every = world.ids(safe=True) | world.ids(safe=False)
    assert remote.permitted(every) == engine.permitted(every) == world.ids(safe=True)
    assert [plain(one) for one in remote.search_batch(["a dog", "a cat"])] == [
        plain(engine.search(text)) for text in ("a dog", "a cat")
    ]


def test_asynchronous_code_gets_the_same(world: World) -> None:
    remote = AsyncRemoteSearch(Once(lambda: RemoteSearch(world.client("search:unsafe"))))

    async def ask() -> None:
        found = await remote.search("a man with a gun", safe=False)
        assert plain(found) == plain(world.engine.search("a man with a gun", safe=False))
        assert await remote.permitted(world.ids(safe=False)) == frozenset()
        with pytest.raises(UnsafeNotAllowedError):
            await remote.only_safe().search("a man with a gun", safe=False)
        hidden = next(iter(world.ids(safe=False)))
        await remote.similar(hidden)
        with pytest.raises(PointNotFoundError):
            await remote.only_safe().similar(hidden)

    asyncio.run(ask())


def test_a_key_without_the_scope_is_told_so(world: World) -> None:
    remote = RemoteSearch(world.client("search"))
    assert not remote.policy.allow_unsafe
    with pytest.raises(UnsafeNotAllowedError):
        remote.search("a man with a gun", safe=False)
    with pytest.raises(UnsafeNotAllowedError):
        FixedSearch(engine=remote, safe=False)
    assert plain(FixedSearch(engine=remote, limit=2).search("a dog")) == plain(world.engine.search("a dog", limit=2))


class Answering:
    """A service that answers whatever it is told to."""

    def __init__(self, status: int, body: Any, **headers: str) -> None:
        self.status_code, self.body, self.headers = status, body, headers

    def request(self, method: str, url: str, /, **_: Any) -> Any:
        return self

    def json(self) -> Any:
        if isinstance(self.body, bytes):
            raise ValueError
        return self.body

    def close(self) -> None:
        pass


@pytest.mark.parametrize("wrong", ["score", "no score", "thresholds", "safe"])
def test_a_service_that_errs_lets_nothing_through(world: World, wrong: str) -> None:
    answer = world.client("search").post("/v1/search", json={"text": "a dog"}).json()
    if wrong == "score":
        answer["hits"][1]["unsafe"] = 0.9
    elif wrong == "no score":
        answer["hits"][0]["unsafe"] = None
    elif wrong == "thresholds":
        answer["query"]["thresholds"] = None
    else:
        answer["query"]["safe"] = False
    from hysac_retrieval import SafetyPolicy

    with pytest.raises(StoreError, match="are not"):
        RemoteSearch(Answering(200, answer), policy=SafetyPolicy()).search("a dog")


@pytest.mark.parametrize(
    ("status", "problem", "expected"),
    [
        (404, {"error": "PointNotFoundError", "detail": "no point"}, PointNotFoundError),
        (422, {"error": "TextError", "detail": "empty"}, InputError),
        (422, {"error": "SettingsError", "detail": "limit"}, SettingsError),
        (422, {"error": "os", "detail": "a name of something else"}, InputError),
        (401, {"error": "NoKeyError", "detail": "no key"}, StoreError),
        (403, {"error": "ScopeError", "detail": "no scope"}, UnsafeNotAllowedError),
        (429, {"detail": "wait"}, StoreUnavailableError),
        (503, b"<html>", StoreUnavailableError),
        (500, [], StoreError),
    ],
)
def test_problems_are_the_errors_they_were(status: int, problem: Any, expected: type[Exception]) -> None:
    from hysac_retrieval import SafetyPolicy

    remote = RemoteSearch(Answering(status, problem, **{"retry-after": "7"}), policy=SafetyPolicy())
    with pytest.raises(expected) as caught:
        remote.search("a dog")
    if status in (429, 503):
        assert caught.value.retry_after == 7  # type: ignore[attr-defined]


def test_what_is_the_services_to_choose_is_refused(world: World) -> None:
    remote = RemoteSearch(world.client("search"))
    for name in ("index", "core", "live"):
        with pytest.raises(SettingsError, match="by a service"):
            getattr(remote, name)
    with pytest.raises(SettingsError, match="penalty"):
        remote.search("a dog", penalty=1.0)
    with pytest.raises(SettingsError, match="Examples"):
        remote.search(Examples(positive=["a dog"]))
    with pytest.raises(SettingsError, match="no address"):
        connect(service="localhost:8080")
    for given in (("photos", None, False, {}), ("", None, True, {}), ("", None, False, {"url": "http://a"})):
        with pytest.raises(SettingsError, match="its own"):
            remote_options(*given)
    with pytest.raises(SettingsError, match="no collection"):
        connect(location=":memory:")
    with pytest.raises(StoreUnavailableError):
        connect(service="http://127.0.0.1:9")


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(world: World, toy_bundle: Path) -> None:
    world.engine.close()  # a folder is one process's
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = "from hysac_retrieval.cli import main; main()"
    arguments = ["--collection", "toy", "--location", str(world.folder / "collections"), "--model", str(toy_bundle)]
    arguments += ["--keys", str(world.key_file), "--audit", str(world.log), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, "serve", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        assert address == f"http://127.0.0.1:{port}"
        engine = _reached(address, world.keys["search:unsafe"])
        with engine:
            assert all(hit.unsafe < 0.5 for hit in engine.search("a man with a gun"))
            assert len(engine.search("a man with a gun", safe=False, limit=100)) == 8

        async def ask() -> int:
            async with aconnect(service=address, key=world.keys["search"]) as remote:
                return len(await remote.search("a dog", limit=100))

        assert asyncio.run(ask()) == 4
        with pytest.raises(StoreError, match="key"):
            connect(service=address, key="hysac_a_b")
        with pytest.raises(StoreError, match="key"):
            connect(service=address)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        process.stdout.close()
    assert json.loads(world.log.read_text())["event"] == "unsafe"


def _reached(address: str, key: str) -> Any:
    """Connect as soon as the port is open."""
    import time

    for _ in range(200):
        try:
            return connect(service=address, key=key)
        except StoreUnavailableError:
            time.sleep(0.05)
    raise AssertionError("the service did not begin")
