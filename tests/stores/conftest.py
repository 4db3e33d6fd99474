"""One store of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rest_server import rest_server

from hysac_retrieval.stores import Store
from hysac_retrieval.stores.edge import EdgeStore
from hysac_retrieval.stores.qdrant import QdrantStore


@pytest.fixture(params=["edge", "memory", "path", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "server":
        with rest_server() as server:
            made: Store = QdrantStore.connect(url=server.url)
            yield made
            made.close()
        return
    if request.param == "edge":
        made = EdgeStore(tmp_path)
    else:
        made = QdrantStore.connect(path=str(tmp_path) if request.param == "path" else None)
    yield made
    made.close()
