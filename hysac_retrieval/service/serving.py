"""Run the service with uvicorn: one process, or several that each open the collection for themselves."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.connecting import connect
from hysac_retrieval.service.app import create_app
from hysac_retrieval.service.metrics import WORKERS_FOLDER
from hysac_retrieval.service.settings import ServiceSettings, read_settings

_WHAT = "HYSAC_SERVE"
"""Variable that tells workers, which are started anew and not forked, what to open and how. As `HYSAC_API_KEY`, it can
be read by this user's processes only."""

HEADER_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 15
_WORKER_SECONDS = 120
"""Time in which a worker must answer its parent; while it imports and loads a model it cannot."""
_LARGEST_HEADER = 64 << 10


class PatientProtocol(H11Protocol):
    """A connection that is closed where the head of a request does not arrive in `HEADER_SECONDS`."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head that has begun."""
        if self._answered() and self._timer is None:
            self._wait()
        super().data_received(data)
        if not self._answered():
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop()
        super().connection_lost(exc)

    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._answered() and not self.transport.is_closing():
            self.transport.close()


_OPTIONS: dict[str, Any] = {
    "http": PatientProtocol,
    "ws": "none",
    "lifespan": "on",
    "access_log": False,
    "server_header": False,
    "proxy_headers": False,  # the address of a proxy is what tells that it is one
    "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
    "timeout_worker_healthcheck": _WORKER_SECONDS,
    "h11_max_incomplete_event_size": _LARGEST_HEADER,
    "log_level": "warning",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def expect_guarded(host: str, settings: ServiceSettings, *, force: bool) -> None:
    """Raise `SettingsError` for a service that others could reach without a key."""
    if not is_loopback(host) and settings.open_to_all and not force:
        raise SettingsError(
            f"{host} can be reached from elsewhere, and anybody could search without a key",
            hint="Give --keys FILE (made by `hysac keys make`), or --force if that is meant",
        )


def serve(
    collection: str,
    connection: dict[str, Any],
    model: str,
    settings: ServiceSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    workers: int = 1,
    trust_reviews: bool = False,
    on_open: Callable[[], None] = lambda: None,
) -> None:
    """Serve a collection until the process is told to end; requests that were begun are answered first.

    Args:
        collection: Its name.
        connection: Where it lives; see `connect`.
        model: See `connect`.
        settings: Who may ask, and how much.
        host: Address to listen on.
        port: Port.
        workers: Processes; more than one for a server only, as a folder is one process's.
        trust_reviews: See `SafetyPolicy`.
        on_open: Called when the collection is open, before requests are answered.

    Raises:
        SettingsError: Several processes are asked for, and the collection is in a folder.
        HysacError: The collection cannot be opened.
    """
    seconds = int(settings.limits.seconds) + 1
    options = {**_OPTIONS, "host": host, "port": port, "timeout_graceful_shutdown": seconds}
    place = {name: str(value) if isinstance(value, Path) else value for name, value in connection.items()}
    what = json.dumps([collection, place, model, settings.model_dump_json(), trust_reviews])
    if workers == 1:
        app = _app(what)
        on_open()
        uvicorn.run(app, **options)
        return
    if "url" not in connection:
        raise SettingsError("a folder is open in one process at a time", hint="Leave --workers out, or use --url")
    _opened(what).close()  # what cannot be opened is better known before there are processes that begin again and again
    with tempfile.TemporaryDirectory(prefix="hysac-metrics-") as figures:
        os.environ.update({_WHAT: what, WORKERS_FOLDER: figures})
        on_open()
        try:
            uvicorn.run(f"{__name__}:worker_app", factory=True, workers=workers, **options)
        finally:
            del os.environ[_WHAT], os.environ[WORKERS_FOLDER]


def worker_app() -> FastAPI:
    """Return the application of one of several processes."""
    return _app(os.environ[_WHAT])


def _opened(what: str) -> SafeSearch:
    collection, place, model, _, trust_reviews = json.loads(what)
    return connect(collection, model=model, policy=SafetyPolicy(trust_reviews=trust_reviews), **place)


def _app(what: str) -> FastAPI:
    engine = _opened(what)
    try:
        return create_app(engine, read_settings(json.loads(what)[3]), close=True)
    except BaseException:
        engine.close()
        raise
