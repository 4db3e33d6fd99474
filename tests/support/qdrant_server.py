"""A real Qdrant server, where there is one: set ``QDRANT_URL`` to run the tests of stores on it, over REST and gRPC.

``QDRANT_API_KEY`` is its key, ``QDRANT_GRPC_PORT`` its port for gRPC (6334 by default). Collections that tests make
have names of their own and are removed again; others are neither read nor changed.
"""

from __future__ import annotations

import inspect
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import pytest
from qdrant_client import QdrantClient

from hysac_retrieval.stores import CollectionSpec, Store
from hysac_retrieval.stores.qdrant.client import make_client
from hysac_retrieval.stores.qdrant.store import QdrantStore
from hysac_retrieval.stores.versions import Feature

Client = TypeVar("Client", bound=QdrantClient)
WITHOUT = (
    "QDRANT_URL is not set: set it to the address of a Qdrant server to run this on one "
    "(and QDRANT_API_KEY, QDRANT_GRPC_PORT where needed)"
)
_WHERE_THERE_IS_ONE = pytest.mark.skipif("QDRANT_URL" not in os.environ, reason=WITHOUT)
QDRANT = [pytest.param(kind, marks=_WHERE_THERE_IS_ONE) for kind in ("qdrant-rest", "qdrant-grpc")]
"""Kinds of stores on the real server, as parameters of a test."""


@cache
def known(feature: Feature) -> bool:
    """Whether every store of this run can do this: the server, if there is one, may be too old for it."""
    if "QDRANT_URL" not in os.environ:
        return True
    client = client_of("qdrant-rest")
    try:
        return feature.known(client.info().version)
    finally:
        client.close()


def knows(store: Any, feature: Feature) -> bool:
    """Whether the store can do this: only a server may be too old for it."""
    return not isinstance(store, OwnNames) or feature.known(store.client.info().version)


def skip_if_too_old(store: Any, *features: Feature) -> None:
    """Skip a test on a server that is too old for it."""
    for feature in features:
        if not knows(store, feature):
            pytest.skip(f"the server is too old for {feature.name}")


LEAST_FULL_SCAN = 10
"""The least `full_scan_threshold` that a server takes."""


def client_of(kind: str, made: type[Client] = QdrantClient) -> Client:  # type: ignore[assignment]
    return make_client(
        made,
        url=os.environ["QDRANT_URL"],
        api_key=os.environ.get("QDRANT_API_KEY"),
        prefer_grpc=kind.endswith("grpc"),
        grpc_port=int(os.environ.get("QDRANT_GRPC_PORT", "6334")),
    )


class OwnClient(QdrantClient):
    """A client that remembers the collections that it has made; a server refuses to make one that exists."""

    made: set[str]

    def create_collection(self, collection_name: str, *args: Any, **options: Any) -> bool:
        done = super().create_collection(collection_name, *args, **options)
        self.made.add(collection_name)
        return done


@contextmanager
def own_client(kind: str) -> Iterator[OwnClient]:
    """A client of the real server, which is left as it was. Tests name their collections, so one run at a time."""
    client = client_of(kind, OwnClient)
    client.made = set()
    try:
        yield client
    finally:
        for name in client.made:
            client.delete_collection(name)
        client.close()


@contextmanager
def own_or_local(kind: str) -> Iterator[QdrantClient]:
    """The same, or for ``"memory"`` a client in local mode."""
    if kind != "memory":
        with own_client(kind) as made:
            yield made
        return
    local = QdrantClient(":memory:")
    yield local
    local.close()


class OwnNames(QdrantStore):
    """A store whose collections have names that nobody else uses; a test calls them as in a store of its own."""

    prefix = ""

    def names(self) -> list[str]:
        return [name.removeprefix(self.prefix) for name in super().names() if name.startswith(self.prefix)]

    def create(self, name: str, spec: CollectionSpec) -> None:
        # The embedded engine takes less, and tests use that to have it build graphs over few points.
        hnsw = replace(spec.hnsw, full_scan_threshold=max(LEAST_FULL_SCAN, spec.hnsw.full_scan_threshold))
        super().create(self.own(name), replace(spec, hnsw=hnsw))

    def own(self, name: str) -> str:
        # Methods call each other, so a name may have its prefix already.
        return name if name.startswith(self.prefix) else self.prefix + name


def _prefixed(method: str) -> Any:
    def call(self: OwnNames, name: str, *args: Any, **options: Any) -> Any:
        return getattr(QdrantStore, method)(self, self.own(name), *args, **options)

    return call


for _method, _function in inspect.getmembers(Store, inspect.isfunction):
    if "name" in inspect.signature(_function).parameters and _method != "create":
        setattr(OwnNames, _method, _prefixed(_method))


@contextmanager
def own_names(client: QdrantClient) -> Iterator[OwnNames]:
    """A store on a server, which is left as it was."""
    store = OwnNames(client, owned=True)
    store.prefix = f"hysac-test-{uuid.uuid4().hex}-"
    try:
        yield store
    finally:
        for name in store.names():
            store.drop(name)
        store.close()
