"""Open the store that a connection names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SkipValidation, TypeAdapter, ValidationError, with_config
from qdrant_client import QdrantClient
from typing_extensions import TypedDict

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.retry import Retry

MEMORY = ":memory:"
_PLACES = ("location", "url", "path", "client", "store")
_SERVER, _ANY_CLIENT = ["url"], ["url", "client"]
_GO_WITH = {
    **{option: _SERVER for option in ("api_key", "prefer_grpc", "grpc_port", "ca_file", "headers", "timeout")},
    **{option: _ANY_CLIENT for option in ("retries", "wait", "consistency")},
}
_SHOWN = ("timeout", "retries", "wait", "grpc_port", "consistency")  # others may hold a key


@with_config(ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True))
class Connection(TypedDict, total=False):
    """Place of a collection; give exactly one of `location`, `url`, `path`, `client` and `store`.

    Attributes:
        location: A folder for the embedded engine (it is made if need be), or ``":memory:"``: empty at first, and
            private to this process and to what is opened here.
        url: Address of a Qdrant server or cloud cluster. Without a port it is 6333, or that of the scheme where the
            address has a path (a reverse proxy).
        path: A folder of the client's own local mode, for collections that an application already keeps there.
        client: The application's own client; it is never closed here.
        store: A store opened before, to be shared; it is never closed here.
        api_key: Key for `url`.
        prefer_grpc: Whether to speak gRPC to `url`.
        grpc_port: Port of `url` for gRPC, 6334 by default.
        ca_file: File (PEM) with the certificate of an authority of your own that signed that of `url`.
        headers: Further headers of each request to `url`, such as those that a proxy asks for.
        timeout: Seconds that `url` may take to answer a request, 30 by default.
        consistency: Copies on a cluster that a read asks: a number, ``"majority"``, ``"quorum"`` or ``"all"``; one by
            default. ``"all"`` returns what all of them have.
        retries: Further attempts when the server of `url` or `client` is away, slow or overloaded, 3 by default.
        wait: Seconds that calls go on being made again in that case, for bulk work; 0 by default.
    """

    location: str | os.PathLike[str] | None
    url: str | None
    path: str | os.PathLike[str] | None
    client: QdrantClient | None
    store: SkipValidation[Store | None]
    api_key: str | None
    prefer_grpc: bool | None
    grpc_port: Annotated[int | None, Field(gt=0, lt=2**16)]
    ca_file: str | os.PathLike[str] | None
    headers: dict[str, str] | None
    timeout: Annotated[float | None, Field(gt=0, allow_inf_nan=False)]
    consistency: Annotated[int, Field(ge=1)] | Literal["majority", "quorum", "all"] | None
    retries: Annotated[int | None, Field(ge=0)]
    wait: Annotated[float | None, Field(ge=0, allow_inf_nan=False)]


_CONNECTION: TypeAdapter[Any] = TypeAdapter(Connection)


def open_store(connection: Connection) -> tuple[Store, bool]:
    """Open the store that a connection names; returns it, and whether closing it is up to the caller.

    Raises:
        SettingsError: Not exactly one place is named, or options do not fit it.
        StorageLockedError: Another process has the folder.
    """
    _check(connection)
    if (store := connection.get("store")) is not None:
        return store, False
    location = connection.get("location")
    if location is not None and location != MEMORY:
        from hysac_retrieval.stores.edge.store import EdgeStore

        return EdgeStore(Path(location)), True
    from hysac_retrieval.stores.qdrant.store import QdrantStore

    options = server_options(connection)
    if (client := connection.get("client")) is not None:
        return QdrantStore(client, retry=options["retry"], consistency=options["consistency"]), False
    path = connection.get("path")
    return QdrantStore.connect(path=None if path is None else os.fspath(path), **options), True


@contextmanager
def opening(connection: Connection, *, keep: bool = True) -> Iterator[tuple[Store, bool]]:
    """As `open_store`; a store that is up to the caller is closed again if what follows fails, or not to be kept."""
    store, owned = open_store(connection)
    with ExitStack() as closing:
        if owned:
            closing.callback(store.close)
        yield store, owned
        if keep:
            closing.pop_all()


def server_options(connection: Connection) -> dict[str, Any]:
    """Options of a connection for the stores on a client of Qdrant, blocking and asynchronous."""
    given: dict[str, Any] = {name: connection.get(name) for name in ("retries", "wait")}
    return {
        "url": connection.get("url"),
        "api_key": connection.get("api_key"),
        "prefer_grpc": bool(connection.get("prefer_grpc")),
        "grpc_port": connection.get("grpc_port"),
        "ca_file": connection.get("ca_file"),
        "headers": connection.get("headers"),
        "consistency": connection.get("consistency"),
        "timeout": connection.get("timeout"),
        "retry": Retry(**{name: value for name, value in given.items() if value is not None}),
    }


def _check(connection: Connection) -> None:
    try:
        _CONNECTION.validate_python(connection)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        option = str(first["loc"][0])
        value = connection[option]  # type: ignore[literal-required]  # whatever was given
        found = repr(value) if option in _SHOWN else type(value).__name__
        hint = f"A connection takes {', '.join(Connection.__annotations__)}"
        raise SettingsError(f"connection option {option} is {found}: {first['msg']}", hint=hint) from None
    given = [place for place in _PLACES if connection.get(place) is not None]
    if len(given) != 1:
        hint = f"Give exactly one of {', '.join(_PLACES)}"
        raise SettingsError(f"{' and '.join(given) or 'nothing'} says where the collection lives", hint=hint)
    for option, places in _GO_WITH.items():
        if connection.get(option) not in (None, False) and given[0] not in places:
            raise SettingsError(f"{option} goes with {' or '.join(places)}, not with {given[0]}", hint="Leave it out")
    location = connection.get("location")
    if isinstance(location, str) and "://" in location:
        raise SettingsError(f"location {location!r} looks like an address", hint=f"Use url={location!r}")
