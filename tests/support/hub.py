"""A model hub over HTTP, of folders: what the client of huggingface_hub asks of the real one."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".onnx", ".pth")
"""Endings of files that are kept elsewhere, as large ones are: a request for one is sent on there."""


@dataclass
class Faults:
    """Faults of a hub, which may be changed while it runs.

    Attributes:
        tokens: Repositories that are private, with the token that opens them.
        cut: Files of which so many bytes arrive, once, before the connection ends.
        altered: Files that arrive with another last byte than they have.
    """

    tokens: dict[str, str] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    altered: set[str] = field(default_factory=set)


class _Hub(BaseHTTPRequestHandler):
    root: Path
    asked: list[str]
    faults: Faults

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.asked.append(f"{self.command} {self.path}")
        if parts[0] == "kept-elsewhere":
            self._kept_elsewhere(self.root / "/".join(parts[1:]), body)
            return
        if parts[:2] == ["api", "models"]:
            repository, rest = "/".join(parts[2:4]), parts[4:]
        else:
            repository, rest = "/".join(parts[:2]), parts[2:]
        folder = self.root / repository
        token = self.faults.tokens.get(repository)
        if repository.endswith("/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        elif not folder.is_dir() or (token and self.headers.get("Authorization") != f"Bearer {token}"):
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
        elif rest[:1] in (["resolve"], ["revision"], ["tree"]) and rest[1:2] not in ([COMMIT], ["main"]):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        elif rest[:1] == ["resolve"]:
            self._file(folder / "/".join(rest[2:]), body)
        elif rest[:1] in ([], ["revision"]):
            self._send(200, json.dumps(_described(repository, folder)).encode(), {}, body)
        elif rest[:1] == ["tree"]:
            self._send(200, json.dumps(_tree(folder)).encode(), {}, body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)

    def _file(self, path: Path, body: bool) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
            return
        data = path.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"X-Repo-Commit": COMMIT, "ETag": etag, "X-Linked-Size": str(len(data))}
        if path.suffix in LARGE:
            # Under another name of this machine, where no token belongs.
            place = f"http://localhost:{self.connection.getsockname()[1]}/kept-elsewhere/"
            to = place + quote(path.relative_to(self.root).as_posix())
            self._send(302, b"", headers | {"X-Linked-ETag": etag, "Location": to}, body)
            return
        self._send(200, data, headers, body)

    def _kept_elsewhere(self, path: Path, body: bool) -> None:
        if "Authorization" in self.headers:
            self._send(400, b"a token was handed on", {}, body)
            return
        data = path.read_bytes()
        if path.name in self.faults.altered:
            data = data[:-1] + bytes([data[-1] ^ 1])
        found = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        if found:
            self.asked[-1] += f" from {start}"
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if found else {}
        cut = self.faults.cut.pop(path.name, None) if body else None
        self._send(206 if found else 200, data[start:], headers, body, cut)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True


def _files(folder: Path) -> list[tuple[str, int]]:
    return [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]


def _described(repository: str, folder: Path) -> dict[str, Any]:
    siblings = [{"rfilename": name, "size": size, "blobId": "0"} for name, size in _files(folder)]
    return {"id": repository, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": siblings}


def _tree(folder: Path) -> list[dict[str, Any]]:
    return [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in _files(folder)]


@contextmanager
def serving(root: Path, faults: Faults | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve the folders ``owner/name`` under `root`; yield the address, and what was asked for.

    A repository named ``gated`` may not be read.
    """
    asked: list[str] = []
    settings = {"root": root, "asked": asked, "faults": faults or Faults()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), settings))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
