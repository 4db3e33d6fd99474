"""A model hub over HTTP, of folders: what the client of huggingface_hub asks of the real one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    root: Path
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository, rest = "/".join(parts[2:4]), parts[4:]
        else:
            repository, rest = "/".join(parts[:2]), parts[2:]
        self.asked.append(f"{self.command} {self.path}")
        folder = self.root / repository
        if repository.endswith("/gated"):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"}, body)
        elif not folder.is_dir():
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
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
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            return
        data = path.read_bytes()
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        self._send(200, data, {"X-Repo-Commit": COMMIT, "ETag": etag, "X-Linked-Size": str(len(data))}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _files(folder: Path) -> list[tuple[str, int]]:
    return [(p.relative_to(folder).as_posix(), p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()]


def _described(repository: str, folder: Path) -> dict[str, Any]:
    siblings = [{"rfilename": name, "size": size, "blobId": "0"} for name, size in _files(folder)]
    return {"id": repository, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": siblings}


def _tree(folder: Path) -> list[dict[str, Any]]:
    return [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in _files(folder)]


@contextmanager
def serving(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the folders ``owner/name`` under `root`; yield the address, and what was asked for.

    A repository named ``gated`` may not be read.
    """
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"root": root, "asked": asked}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
