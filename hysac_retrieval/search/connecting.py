"""Open a collection, or a service, for safe search: `connect`, and `aconnect` for asynchronous code."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from qdrant_client import AsyncQdrantClient

from hysac_retrieval.collection.attach import open_collection
from hysac_retrieval.collection.collection import rule_indexes
from hysac_retrieval.collection.current import Current
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.asynchronous import AsyncSafeSearch, Parts
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.engine import LiveSearch
from hysac_retrieval.search.loops import Once, PerLoop
from hysac_retrieval.search.queries import QueryEncoder
from hysac_retrieval.search.remote import AsyncRemoteSearch, connect_service
from hysac_retrieval.steps import arun
from hysac_retrieval.stores import Connection, HnswOptions, Store, server_options
from hysac_retrieval.stores.qdrant.client import is_local
from hysac_retrieval.stores.qdrant.store import AsyncQdrantStore
from hysac_retrieval.stores.types import Consistency

if TYPE_CHECKING:
    from hysac_retrieval.encoder.called import Encode


def connect(
    name: str = "",
    *,
    model: str | Path | QueryEncoder | None = "hysac-mini",
    encode: Encode | None = None,
    policy: SafetyPolicy | None = None,
    create: bool = False,
    hnsw: HnswOptions | None = None,
    service: str | None = None,
    key: str | None = None,
    **connection: Unpack[Connection],
) -> SafeSearch:
    """Open a collection for safe search.

    Args:
        name: Name of the collection; a service has its own.
        model: Bundled name, folder or hub repository of the model; an `Encoder`; or None to search with points only.
        encode: Encodes texts, and perhaps images, for a model that is a head only: a function from a list of texts to
            vectors (n, k), or an object with such methods ``text`` and ``image``.
        policy: What a search may ask for; None for the defaults of `SafetyPolicy`.
        create: Make the collection if it does not exist.
        hnsw: Options of the graph, for a collection that is made.
        service: Address of a service (`hysac serve`), which then searches in place of a model and a store here.
        key: Key of the service.
        **connection: Where it lives: `location`, `url` (with `api_key`, `prefer_grpc`) or `client`; see `Connection`.

    Raises:
        BundleError: The model cannot be used.
        CollectionNotFoundError: There is no such collection, and `create` is not given.
        ModelMismatchError: It was indexed with another model; or `encode` is not of the encoder that the model knows.
        SettingsError: A setting is out of range, or not exactly one place is named.
        StorageLockedError: Another process has the folder.
    """
    if service is not None:
        return connect_service(service, key, **remote_options(name, policy, create, connection))
    if not name:
        raise SettingsError("there is no collection", hint="Name it, or give service=")
    encoder = load_encoder(model, encode)
    if create:
        if encoder is None:
            raise SettingsError("create=True needs a model; use Index.create for a collection of points")
        index = Index.for_model(encoder, name, hnsw=hnsw, exist_ok=True, **connection)
    else:
        index = Index.open(name, expect_fingerprint=encoder.fingerprint if encoder else None, **connection)
    try:
        engine = SafeSearch(index, encoder, policy=policy)
        index.store.admit(index.name, rule_indexes(policy))
        return engine
    except BaseException:
        index.close()
        raise


def remote_options(name: str, policy: SafetyPolicy | None, create: bool, connection: Connection) -> dict[str, Any]:
    """Return the options of a connection to a service.

    Raises:
        SettingsError: Something is given that is the service's to choose.
    """
    options: dict[str, Any] = dict(connection)
    ours = {"ca_file": options.pop("ca_file")} if "ca_file" in options else {}
    if name or policy is not None or create or options:
        raise SettingsError("a service has its own collection, policy and store", hint="Give service= and key= only")
    return ours


def load_encoder(model: str | Path | QueryEncoder | None, encode: Encode | None = None) -> QueryEncoder | None:
    """The encoder that `connect` was given, or the one it named; see there."""
    if encode is None:
        if not isinstance(model, str | Path):
            return model
        from hysac_retrieval.encoder.encoder import Encoder

        return Encoder.load(model)
    from hysac_retrieval.encoder.bundle import Bundle
    from hysac_retrieval.encoder.called import CalledEncoder
    from hysac_retrieval.encoder.encoder import Encoder

    if isinstance(model, Encoder):
        return CalledEncoder(model.bundle, encode)
    if not isinstance(model, str | Path):
        raise SettingsError("encode= goes with a model that is a bundle with a head", hint="Name the bundle: model=…")
    return CalledEncoder(Bundle.load(model), encode)


def aconnect(
    name: str = "",
    *,
    model: str | Path | QueryEncoder | None = "hysac-mini",
    encode: Encode | None = None,
    policy: SafetyPolicy | None = None,
    create: bool = False,
    hnsw: HnswOptions | None = None,
    async_client: AsyncQdrantClient | None = None,
    service: str | None = None,
    key: str | None = None,
    **connection: Unpack[Connection],
) -> AsyncSafeSearch:
    """As `connect`, for asynchronous code; returns at once and opens the collection when it is first needed.

    Args:
        name: See `connect`, as for the other arguments.
        model: See there.
        encode: See there.
        policy: See there.
        create: See there; with `async_client` the collection must exist.
        hnsw: See there.
        async_client: The application's own asynchronous client, instead of a connection.
        service: See there; it is asked from worker threads.
        key: See there.
        **connection: See there; `consistency` goes with `async_client`, too.

    Raises:
        SettingsError: `async_client` together with a connection or with `create`.
    """
    if service is not None:
        options = remote_options(name, policy, create or async_client is not None, connection)
        return AsyncRemoteSearch(Once(lambda: connect_service(service, key, **options)))
    if async_client is not None and (connection.keys() - {"consistency"} or create):
        raise SettingsError(
            "async_client is a connection to a collection that exists", hint="Give no other connection, and no create"
        )

    def open_parts() -> Parts:
        if async_client is not None:
            return _of_client(async_client, name, load_encoder(model, encode), policy, connection.get("consistency"))
        engine = connect(name, model=model, encode=encode, policy=policy, create=create, hnsw=hnsw, **connection)

        async def live(_: Any) -> LiveSearch:
            return engine.live

        if connection.get("url") is None:
            store = _InThread(engine.index.store)

            async def shared() -> Any:
                return store

            return Parts(shared, live, lambda: asyncio.to_thread(engine.close))
        engine.close()  # it has done its part: opening, or making, the collection
        stores = PerLoop(lambda: AsyncQdrantStore.connect(**server_options(connection)))
        return Parts(stores.get, live, stores.close)

    return AsyncSafeSearch(open_parts)


def _of_client(
    client: AsyncQdrantClient,
    name: str,
    encoder: QueryEncoder | None,
    policy: SafetyPolicy | None,
    consistency: Consistency | None,
) -> Parts:
    """Parts on an application's own client: for the first loop; others get one with the same options."""
    known: list[LiveSearch] = []
    used = False

    def store() -> AsyncQdrantStore:
        nonlocal used
        own, used = not used or is_local(client), True
        if own:
            return AsyncQdrantStore(client, consistency=consistency)
        options = {**client.init_options, "check_compatibility": False}
        return AsyncQdrantStore(AsyncQdrantClient(**options), owned=True, consistency=consistency)

    async def live(opened: Any) -> LiveSearch:
        if not known:
            collection = await arun(open_collection(name), opened)
            made = LiveSearch(Current(collection), encoder, policy)
            await opened.admit(collection.name, rule_indexes(policy))
            known.append(made)
        return known[0]

    stores = PerLoop(store)
    return Parts(stores.get, live, stores.close)


class _InThread:
    """A blocking store whose methods run in a worker thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(asyncio.to_thread, getattr(self._store, name))
