"""Limits: what is too large, too slow or too much is refused, and nothing is left waiting."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from io import BytesIO
from typing import Any

import pytest
import uvicorn
from PIL import Image
from support.service import World

from hysac_retrieval.errors import StoreUnavailableError, TextError
from hysac_retrieval.service import Limits, serving
from hysac_retrieval.service.pool import MOST_AT_ONCE, Pool
from hysac_retrieval.service.problems import BusyError, TooSlowError


def test_bodies_pictures_and_hits_beyond_the_limits_are_refused(world: World) -> None:
    client = world.client("admin", limits=Limits(rate=0, body=20_000, pixels=10_000, hits=50, batch=2))
    large = '{"text": "' + "a" * 30_000 + '"}'
    kind = {"content-type": "application/json"}
    assert client.post("/v1/search", content=large, headers=kind).status_code == 413
    parts = (large[at : at + 1000].encode() for at in range(0, len(large), 1000))  # without its length
    assert client.post("/v1/search", content=parts, headers=kind).status_code == 413
    out = BytesIO()
    Image.new("RGB", (200, 200)).save(out, "PNG")
    body = {"image": base64.b64encode(out.getvalue()).decode()}
    for answer in (
        client.post("/v1/search", json=body),
        client.post("/v1/search/upload", files={"image": out.getvalue()}),
        client.post("/v1/points", json={"points": [{"key": "a", **body}]}),
        client.post("/v1/search", json={"text": "a dog", "limit": 51}),
        client.post("/v1/groups", json={"text": "a dog", "by": "file", "groups": 30, "size": 2}),
        client.post("/v1/points", json={"points": [{"key": str(row), "text": "a dog"} for row in range(3)]}),
        client.post("/v1/permitted", json={"ids": list(range(51))}),
    ):
        assert answer.status_code == 413, answer.text
        assert answer.json()["detail"]


def test_a_pool_takes_so_many_and_no_more() -> None:
    async def ask() -> None:
        pool, gate = Pool(2, 3, 30.0), threading.Event()
        running = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await pool.run(gate.wait)
        assert pool.load == 3
        gate.set()
        assert await asyncio.gather(*running) == [True] * 5
        assert await pool.run(lambda: 7) == 7
        pool.close()

    asyncio.run(ask())


def test_texts_that_wait_are_answered_together_and_errors_stay_with_whose_they_are() -> None:
    calls: list[list[str]] = []

    def several(texts: Any) -> list[str]:
        calls.append(list(texts))
        if "" in texts:
            raise TextError("the text is empty")
        return [text.upper() for text in texts]

    async def ask() -> list[Any]:
        pool, gate = Pool(1, 100, 30.0), threading.Event()
        first = asyncio.ensure_future(pool.run(gate.wait))
        await asyncio.sleep(0)
        asked = [pool.gather("a", text, several) for text in ("x", "", "y")]
        asked += [pool.gather("b", "z", several)]
        waiting = [asyncio.ensure_future(one) for one in asked]
        await asyncio.sleep(0)
        gate.set()
        await first
        found = await asyncio.gather(*waiting, return_exceptions=True)
        many = [asyncio.ensure_future(pool.gather("c", str(row), several)) for row in range(MOST_AT_ONCE + 2)]
        await asyncio.gather(*many)
        pool.close()
        return found

    found = asyncio.run(ask())
    assert (found[0], found[2], found[3]) == ("X", "Y", "Z")
    assert isinstance(found[1], TextError)
    assert calls[0] == ["x", "", "y"]
    assert ["z"] in calls
    assert max(map(len, calls)) <= MOST_AT_ONCE


def test_who_waits_too_long_is_told_and_the_thread_is_given_nothing_meanwhile() -> None:
    async def ask() -> None:
        pool, gate = Pool(1, 10, 0.05), threading.Event()
        with pytest.raises(TooSlowError):
            await pool.run(gate.wait)
        with pytest.raises(TooSlowError):  # it waited, and is not computed any more
            await pool.run(lambda: pytest.fail("nobody waits for it"))
        gate.set()
        pool.close()

    asyncio.run(ask())


def test_too_many_requests_and_a_store_that_is_away_say_when_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.client("search")

    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailableError("http://10.0.0.7:6333 does not answer", retry_after=9.2)

    with monkeypatch.context() as patch:
        patch.setattr("hysac_retrieval.service.core.run", away)
        answer = client.post("/v1/search", json={"text": "a dog"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert "10.0.0.7" not in answer.text
    assert client.post("/v1/search", json={"text": "a dog"}).status_code == 200

    async def busy(*_: Any) -> Any:
        raise BusyError("too many")

    monkeypatch.setattr("hysac_retrieval.service.pool.Pool.gather", busy)
    answer = client.post("/v1/search", json={"text": "a dog"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


@pytest.fixture
def port(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Port of a server in a thread, which waits a moment only for heads and bodies."""
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.2)
    client = world.client("search", limits=Limits(rate=0, body_seconds=0.2))
    config = uvicorn.Config(client.app, port=0, http=serving.PatientProtocol, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def _said(port: int, *parts: bytes) -> bytes:
    """Send something, then nothing more, and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        found = b""
        while more := connection.recv(65536):
            found += more
        return found


def test_connections_that_send_nothing_more_are_closed(port: int) -> None:
    head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert _said(port) == b""
    assert _said(port, b"GET /healthz HT") == b""
    assert _said(port, head + b"X-Slow: ") == b""
    body = _said(port, head + b"Connection: close\r\nContent-Length: 100\r\n\r\n", b'{"text"')
    assert b" 504 " in body.split(b"\r\n")[0]
    whole = _said(port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b" 200 " in whole.split(b"\r\n")[0]
