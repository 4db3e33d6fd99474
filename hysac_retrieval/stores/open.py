"""Open the store that a connection names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from qdrant_client import QdrantClient

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.retry import Retry, checked_timeout

MEMORY = ":memory:"


class Connection(TypedDict, total=False):
    """Where a collection lives; give exactly one of `location`, `url`, `path`, `client` and `store`.

    Attributes:
        location: A folder for the embedded engine (it is made if need be), or ``":memory:"``.
        url: Address of a Qdrant server or cloud cluster.
        path: A folder of the client's own local mode, for collections that an application already keeps there.
        client: The application's own client; it is never closed here.
        store: A store opened before, to be shared; it is never closed here.
        api_key: Key for `url`.
        prefer_grpc: Whether to speak gRPC to `url`.
        timeout: Seconds that `url` may take to answer a request, 30 by default.
        retries: Further attempts when the server of `url` or `client` is away, slow or overloaded, 3 by default.
    """

    location: str | os.PathLike[str] | None
    url: str | None
    path: str | os.PathLike[str] | None
    client: QdrantClient | None
    store: Store | None
    api_key: str | None
    prefer_grpc: bool
    timeout: float | None
    retries: int | None


def open_store(connection: Connection) -> tuple[Store, bool]:
    """Open the store that a connection names.

    Returns:
        The store, and whether closing it is up to the caller.

    Raises:
        SettingsError: Not exactly one place is named, or options do not fit it.
        StorageLockedError: Another process has the folder.
    """
    unknown = set(connection) - Connection.__annotations__.keys()
    if unknown:
        raise SettingsError(
            f"unknown option {', '.join(sorted(unknown))}; a connection takes {', '.join(Connection.__annotations__)}"
        )
    places = ("location", "url", "path", "client", "store")
    given = [place for place in places if connection.get(place) is not None]
    if len(given) != 1:
        raise SettingsError(
            f"give exactly one of {', '.join(places)} to say where the collection lives; "
            f"found {' and '.join(given) or 'none'}"
        )
    url, api_key = connection.get("url"), connection.get("api_key")
    if url is None and (api_key is not None or connection.get("prefer_grpc")):
        raise SettingsError(f"api_key and prefer_grpc go with url, not with {given[0]}")
    timeout, retries = connection.get("timeout"), connection.get("retries")
    if timeout is not None and url is None:
        raise SettingsError(f"timeout goes with url, not with {given[0]}")
    if retries is not None and given[0] not in ("url", "client"):
        raise SettingsError(f"retries goes with url or client, not with {given[0]}")
    retry = retry_of(connection)
    if (store := connection.get("store")) is not None:
        return store, False
    location = connection.get("location")
    if location is not None and location != MEMORY:
        from hysac_retrieval.stores.edge.store import EdgeStore

        if isinstance(location, str) and "://" in location:
            raise SettingsError(f"location {location!r} looks like an address; use url={location!r}")
        return EdgeStore(Path(location)), True
    from hysac_retrieval.stores.qdrant.store import QdrantStore

    if (client := connection.get("client")) is not None:
        if not isinstance(client, QdrantClient):
            raise SettingsError(f"client must be a qdrant_client.QdrantClient, not {type(client).__name__}")
        return QdrantStore(client, retry=retry), False
    path = connection.get("path")
    folder = None if path is None else os.fspath(path)
    return QdrantStore.connect(
        url=url,
        path=folder,
        api_key=api_key,
        prefer_grpc=bool(connection.get("prefer_grpc")),
        timeout=None if timeout is None else checked_timeout(timeout),
        retry=retry,
    ), True


@contextmanager
def opening(connection: Connection) -> Iterator[tuple[Store, bool]]:
    """As `open_store`; a store that is up to the caller is closed again if what follows fails."""
    store, owned = open_store(connection)
    try:
        yield store, owned
    except BaseException:
        if owned:
            store.close()
        raise


def retry_of(connection: Connection) -> Retry:
    """What a connection says about trying again.

    Raises:
        SettingsError: It is no whole number of 0 or more.
    """
    retries = connection.get("retries")
    return Retry() if retries is None else Retry(retries)
