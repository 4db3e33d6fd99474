"""The command ``hysac-mcp``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from hysac_mcp.server import make_server
from hysac_mcp.settings import Settings
from hysac_retrieval import AsyncSafeSearch, AuditRecord, SafetyPolicy, aconnect
from hysac_retrieval.errors import HysacError

logger = logging.getLogger("hysac_mcp.audit")


def engine_of(settings: Settings) -> AsyncSafeSearch:
    """Make the engine that settings describe; the first call of a tool opens it."""
    if settings.service is not None:
        return aconnect(service=settings.service, key=settings.key)
    policy = SafetyPolicy(threshold=settings.threshold, allow_unsafe=settings.allow_unsafe, audit=_log)
    place: dict[str, Any] = (
        {"location": settings.local_path}
        if settings.url is None
        else {"url": settings.url, "api_key": settings.api_key}
    )
    return aconnect(settings.collection, model=settings.model, policy=policy, **place)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the client disconnects."""
    parser = argparse.ArgumentParser(prog="hysac-mcp", description=__doc__)
    parser.add_argument("--transport", choices=("stdio", "streamable-http"), default="stdio")
    parser.add_argument("--host", default="127.0.0.1", help="for streamable-http")
    parser.add_argument("--port", type=int, default=8000, help="for streamable-http")
    given = parser.parse_args(arguments)
    try:
        settings = Settings.from_env()
        engine = engine_of(settings)
    except HysacError as error:
        sys.exit(f"hysac-mcp: {error}")
    server = make_server(
        engine, limit=settings.limit, allow_unsafe=settings.allow_unsafe, image_root=settings.image_root
    )
    if given.transport == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host=given.host, port=given.port)


def _log(record: AuditRecord) -> None:
    logger.warning("search with safe=False: %s", record.to_dict())
