"""Around every request: its id, the hosts and sites that it may come from, the size of its body, headers, figures."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Any

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hysac_retrieval.errors import HysacError
from hysac_retrieval.service.core import Service
from hysac_retrieval.service.problems import TooLargeError, TooSlowError, of_error, problem
from hysac_retrieval.service.settings import Limits

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""Headers of every answer; the service's page has no inline script and takes nothing from elsewhere."""

_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_READS = ("GET", "HEAD", "OPTIONS")
_log = logging.getLogger(__name__)


class BoundedBody:
    """A body as it arrives, of a limited size and within a limited time.

    Attributes:
        error: What was wrong with it.
    """

    def __init__(self, request: Request, limits: Limits) -> None:
        self._request, self._limits = request, limits
        self._left, self._until = limits.body, time.monotonic() + limits.body_seconds
        self._arrived = False
        self.error: HysacError | None = None

    def expect_small(self) -> None:
        """Raise `TooLargeError` for a body that says itself that it is too large."""
        said = self._request.headers.get("content-length", "0")
        if said.isdecimal() and int(said) > self._limits.body:
            raise self._too_large()

    async def __call__(self) -> Message:
        """Return the next part."""
        if self._arrived:  # what follows the body is that the caller has gone
            return await self._request.receive()
        try:
            message = await asyncio.wait_for(self._request.receive(), max(self._until - time.monotonic(), 0.001))
        except TimeoutError:
            self.error = TooSlowError(f"the body did not arrive within {self._limits.body_seconds:g} s")
            raise self.error from None
        self._left -= len(message.get("body", b""))
        self._arrived = not message.get("more_body", False)
        if self._left < 0:
            self.error = self._too_large()
            raise self.error
        return message

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body has more than {self._limits.body} bytes", hint="Send less at once")


class Frame:
    """Middleware around the application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._hosts = {host.lower() for host in service.settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        identity = scope["hysac.request_id"] = given if _ID.fullmatch(given) else secrets.token_hex(8)
        began, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    ours.setdefault(name, value)
                ours.setdefault("Cache-Control", "no-store")
                ours["X-Request-Id"] = identity
            await send(message)

        try:
            refused = self._refused(scope["method"], headers, identity)
            await (refused or self._app)(scope, receive, sent)
        except Exception as error:
            if status:
                raise
            await of_error(Request(scope), error)(scope, receive, sent)
        finally:
            route: Any = scope.get("route")
            path = getattr(route, "path", "other")
            self._service.metrics.requests.labels(path, scope["method"], status).inc()
            self._service.metrics.seconds.labels(path).observe(time.perf_counter() - began)

    def _refused(self, method: str, headers: Headers, identity: str) -> Any:
        """Return the answer to a request that another site sent, or that was sent to another name."""
        host = headers.get("host", "")
        name = host if host.endswith("]") else re.sub(r":\d*$", "", host)
        if self._hosts and name.lower() not in self._hosts:
            what = "this service is not asked for by that name"
            return problem(421, what, error="HostError", hint="Give the name to --host-name", request_id=identity)
        if method not in _READS and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            what = "another site's page may not send this"
            return problem(403, what, error="SiteError", request_id=identity)
        return None
