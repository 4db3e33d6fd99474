"""A server that misbehaves in front of one that works: each request meets the next fault of a list.

It speaks HTTP, or HTTPS, over a real socket and passes what it lets through to a `RestServer`.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.rest_server import RestServer, rest_server


@dataclass(frozen=True)
class Fault:
    """What happens to one request.

    Attributes:
        status: Answered instead of the true answer; 0 to close the connection without one.
        after: Whether the request is carried out all the same, so that only its answer is lost.
        retry_after: Header of the answer.
        seconds: How long the answer takes.
        torn: Whether the true answer breaks off in the middle.
        words: What the answer says.
    """

    status: int = 0
    after: bool = False
    retry_after: str | None = None
    seconds: float = 0.0
    torn: bool = False
    words: str = "in trouble"


@dataclass
class FaultyServer:
    """Meets requests for `path` (a part of their path and method, such as ``PUT /collections/c/points``) with faults.

    Attributes:
        url: Where it is.
        behind: What answers in the end.
        path: Requests that meet faults; others never do.
        faults: Faults to come; None lets a request through. When there are none left, `last` is met for ever.
        last: See there.
        seen: Times of the requests for `path`.
        largest: Bytes of the largest request that is taken; None for any.
        refusal: Answer to a larger one.
    """

    url: str
    behind: RestServer
    path: str = ""
    faults: list[Fault | None] = field(default_factory=list)
    last: Fault | None = None
    seen: list[float] = field(default_factory=list)
    largest: int | None = None
    refusal: Fault = Fault(status=413)

    def next(self, request: str) -> Fault | None:
        if self.path not in request:
            return None
        self.seen.append(time.monotonic())
        return self.faults.pop(0) if self.faults else self.last

    def expect(self, path: str, *faults: Fault | None, last: Fault | None = None) -> None:
        self.path, self.faults, self.last, self.seen = path, list(faults), last, []


@contextmanager
def faulty_server(tls: ssl.SSLContext | None = None) -> Iterator[FaultyServer]:
    lock = threading.Lock()
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            with lock:
                fault = server.next(f"{self.command} {self.path.partition('?')[0]}")
                if server.largest is not None and len(body) > server.largest:
                    fault = server.refusal
            if fault is None:
                self._send(*self._true_answer(body))
                return
            status, data = self._true_answer(body) if fault.after or fault.torn else (fault.status, b"{}")
            closing.wait(fault.seconds)
            if fault.torn:
                self._send(status, data, missing=1)
                self._reset()
            elif fault.status:
                answer = json.dumps({"status": {"error": fault.words}}).encode()
                self._send(fault.status, answer, retry_after=fault.retry_after)
            else:
                self._reset()

        def _true_answer(self, body: bytes) -> tuple[int, bytes]:
            headers = {"content-type": "application/json"}
            url = server.behind.url + self.path
            request = urllib.request.Request(url, data=body or None, headers=headers, method=self.command)
            try:
                with urllib.request.urlopen(request) as reply:
                    return reply.status, reply.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        def _send(self, status: int, data: bytes, *, retry_after: str | None = None, missing: int = 0) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            if retry_after is not None:
                self.send_header("retry-after", retry_after)
            self.end_headers()
            self.wfile.write(data[: len(data) - missing])

        def _reset(self) -> None:
            # Closing with a linger of zero seconds resets the connection instead of ending it politely.
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with rest_server() as behind:
        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        http.daemon_threads = True
        http.handle_error = lambda *_: None  # type: ignore[method-assign]  # the client has gone, as it should
        if tls is not None:
            http.socket = tls.wrap_socket(http.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        server = FaultyServer(f"{scheme}://127.0.0.1:{http.server_port}", behind)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            closing.set()
            http.shutdown()
            thread.join()
            http.server_close()
