"""Collections behind a client of Qdrant: a server, a cloud cluster, or the client's local mode.

`AsyncQdrantStore` is to `QdrantStore` what `AsyncQdrantClient` is to `QdrantClient`: the same methods, awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, Self, TypeVar

from qdrant_client import AsyncQdrantClient, QdrantClient

from hysac_retrieval.forks import abandon_after_fork, keep
from hysac_retrieval.steps import Steps, arun, run
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.stores.base import Store
from hysac_retrieval.stores.qdrant.bodies import Bodies
from hysac_retrieval.stores.qdrant.client import AsyncCalls, Calls, Client, is_local, make_client
from hysac_retrieval.stores.qdrant.extension import QdrantExtension
from hysac_retrieval.stores.qdrant.forms import Form, Models
from hysac_retrieval.stores.qdrant.messages import Messages
from hysac_retrieval.stores.qdrant.operations import Operations
from hysac_retrieval.stores.retry import Retry
from hysac_retrieval.stores.types import Consistency

P = ParamSpec("P")
T = TypeVar("T")
Operation = Callable[Concatenate[Operations, P], Steps[T]]


class _Store(Generic[Client]):
    _client_kind: ClassVar[Any]
    _calls_kind: ClassVar[Any]

    def __init__(
        self,
        client: Client,
        *,
        owned: bool = False,
        retry: Retry | None = None,
        consistency: Consistency | None = None,
    ) -> None:
        self._client = client
        self._owned = owned
        self._calls = self._calls_kind(client, retry or Retry())
        self._do = Operations(local=is_local(client), form=_form_of(client), consistency=consistency)
        abandon_after_fork(self)

    @classmethod
    def connect(cls, *, retry: Retry | None = None, consistency: Consistency | None = None, **options: Any) -> Self:
        """Make a store with a client of its own; see `make_client` for the options.

        Raises:
            StorageLockedError: Another client has the folder open.
        """
        return cls(make_client(cls._client_kind, **options), owned=True, retry=retry, consistency=consistency)

    @property
    def client(self) -> Client:
        """The client behind this store."""
        return self._client

    def abandon(self) -> None:
        """Let go of an own client in a process that was forked: closing it would speak on the parent's connections."""
        if self._owned:
            keep(self._client)

    def _ends(self) -> bool:
        """Refuse further calls; returns whether there is a client to close."""
        first, self._calls.closed = not self._calls.closed, True
        return first and self._owned and not self._calls.origin.left


def _form_of(client: Any) -> Form:
    if is_local(client):
        return Models()
    options = client.init_options
    return Messages(options.get("timeout")) if options.get("prefer_grpc") else Bodies()


def _blocking(operation: Operation[P, T]) -> Callable[Concatenate[QdrantStore, P], T]:
    @wraps(operation)
    def method(self: QdrantStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(operation(self._do, *args, **kwargs), self._calls)

    method.__doc__ = getattr(Store, operation.__name__).__doc__
    return method


def _awaited(operation: Operation[P, T]) -> Callable[Concatenate[AsyncQdrantStore, P], Coroutine[Any, Any, T]]:
    @wraps(operation)
    async def method(self: AsyncQdrantStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await arun(operation(self._do, *args, **kwargs), self._calls)

    method.__doc__ = getattr(Store, operation.__name__).__doc__
    return method


class QdrantStore(_Store[QdrantClient]):
    """Collections of a `QdrantClient`: a `Store`.

    Args:
        client: The client to use.
        owned: Whether `close` closes the client; False for a client that belongs to the application.
        retry: How calls are made again when a server cannot answer just now.
        consistency: Copies on a cluster that a read asks; see `Connection`.
    """

    _client_kind: ClassVar[Any] = QdrantClient
    _calls_kind: ClassVar[Any] = Calls

    names = _blocking(Operations.names)
    version = _blocking(Operations.version)
    exists = _blocking(Operations.exists)
    create = _blocking(Operations.create)
    open = _blocking(Operations.open)
    drop = _blocking(Operations.drop)
    aliases = _blocking(Operations.aliases)
    point_alias = _blocking(Operations.point_alias)
    write_metadata = _blocking(Operations.write_metadata)
    add_index = _blocking(Operations.add_index)
    admit = _blocking(Operations.admit)
    drop_index = _blocking(Operations.drop_index)
    strip = _blocking(Operations.strip)
    upsert = _blocking(Operations.upsert)
    query = _blocking(Operations.query)
    query_groups = _blocking(Operations.query_groups)
    scroll = _blocking(Operations.scroll)
    retrieve = _blocking(Operations.retrieve)
    count = _blocking(Operations.count)
    delete = _blocking(Operations.delete)
    optimize = _blocking(Operations.optimize)
    indexed = _blocking(Operations.indexed)
    memory = _blocking(Operations.memory)

    def amend(self, name: str, amendments: Sequence[Amendment], *, looked_after: bool = False) -> None:
        """See `Store.amend`."""
        with self._calls.lock:  # what local mode reads to decide must still hold when it writes
            run(self._do.amend(name, amendments, looked_after=looked_after), self._calls)

    def extension(self, name: str) -> QdrantExtension:
        """See `Store.extension`."""
        return QdrantExtension(name, self._calls, local=self._do.local, keyed=self.open(name).keyed)

    def close(self) -> None:
        """See `Store.close`."""
        if self._ends():
            with self._calls.lock:
                self._client.close()


class AsyncQdrantStore(_Store[AsyncQdrantClient]):
    """Collections of an `AsyncQdrantClient`, for one event loop; see `QdrantStore`, which alone has extensions."""

    _client_kind, _calls_kind = AsyncQdrantClient, AsyncCalls

    if TYPE_CHECKING:  # its operations are added below

        def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]: ...

    async def close(self) -> None:
        """See `Store.close`."""
        if self._ends():
            await self._client.close()


for _name, _operation in vars(Operations).items():
    if not _name.startswith("_"):
        setattr(AsyncQdrantStore, _name, _awaited(_operation))
