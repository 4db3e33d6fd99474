"""One store of every kind, a stub of a server, and a small encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.grpc_server import grpc_server
from support.qdrant_server import QDRANT, client_of, own_names
from support.rest_server import RestServer, rest_server

from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.stores import Store
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.qdrant.store import QdrantStore


@pytest.fixture(params=["edge", "memory", "path", "rest", "grpc", *QDRANT])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """The embedded engine, the client's local mode, both interfaces of a server over sockets, and a server if any."""
    kind: str = request.param
    with ExitStack() as stack:
        if kind.startswith("qdrant"):
            yield stack.enter_context(own_names(client_of(kind)))
            return
        made: Store
        if kind == "edge":
            made = EdgeStore(tmp_path / "new" / "folder")
        elif kind == "rest":
            made = QdrantStore.connect(url=stack.enter_context(rest_server()).url)
        elif kind == "grpc":
            made = QdrantStore(stack.enter_context(grpc_server()).client(), owned=True)
        else:
            made = QdrantStore.connect(path=str(tmp_path) if kind == "path" else None)
        yield made
        made.close()


@pytest.fixture
def server() -> Iterator[RestServer]:
    with rest_server() as running:
        yield running


@pytest.fixture(params=["rest", "grpc"])
def either(request: pytest.FixtureRequest) -> Iterator[RestServer]:
    """A stub that is to be asked over one of its interfaces, by `RestServer.place`."""
    with grpc_server() as both:
        both.rest.grpc_port = both.port if request.param == "grpc" else None
        yield both.rest


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, threads=1)
