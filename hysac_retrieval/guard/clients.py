"""The guarded clients: an application's own client, of which only what is safe can be reached."""

from __future__ import annotations

import functools
from types import TracebackType
from typing import Any, Self

from qdrant_client import AsyncQdrantClient, QdrantClient, models

from hysac_retrieval.errors import NotGuardedError, SettingsError
from hysac_retrieval.guard.calls import call
from hysac_retrieval.guard.condition import Guard, expect_kind
from hysac_retrieval.guard.known import Guards
from hysac_retrieval.guard.methods import METHODS, REFUSED, TOLD
from hysac_retrieval.guard.values import taken
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.steps import arun, run


class _Guarded:
    """The names that a guarded client has, and that it has no others."""

    _kind: type[Any]

    def __init__(
        self,
        client: Any,
        policy: SafetyPolicy | None = None,
        *,
        guard: Guard | None = None,
        consistency: models.ReadConsistency | None = None,
    ) -> None:
        if isinstance(client, _Guarded) or not isinstance(client, self._kind):
            raise SettingsError(f"client is {type(client).__name__}; expected a qdrant_client.{self._kind.__name__}")
        if policy is not None and guard is not None:
            raise SettingsError("policy and guard both say what is safe", hint="Give one of them")
        # The names are mangled, so that code which reaches for the insides of a client finds nothing.
        self.__client = client
        self.__defaults = {} if consistency is None else {"consistency": taken("consistency", consistency)}
        self.__guards = Guards(expect_kind(policy, SafetyPolicy, "policy"), expect_kind(guard, Guard, "guard"))

    def refresh(self) -> None:
        """Read the metadata of collections again: they may have been attached anew, or rescored.

        The client notices by itself when nothing is found, and within ten seconds of use otherwise.
        """
        self.__guards.forget()

    def __init_subclass__(cls) -> None:
        """Give the class the methods of the client that it stands for, so that they are found on it, too."""
        for name in METHODS:
            setattr(cls, name, cls.__guarded(name))
        for name in TOLD:
            setattr(cls, name, cls.__told(name))

    @classmethod
    def __guarded(cls, name: str) -> Any:
        def method(self: Self, *args: Any, **kwargs: Any) -> Any:
            return run(call(self.__guards, name, args, kwargs, self.__defaults), self.__client)

        async def awaited(self: Self, *args: Any, **kwargs: Any) -> Any:
            return await arun(call(self.__guards, name, args, kwargs, self.__defaults), self.__client)

        return functools.wraps(getattr(cls._kind, name))(awaited if cls._kind is AsyncQdrantClient else method)

    @classmethod
    def __told(cls, name: str) -> Any:
        def method(self: Self, *args: Any, **kwargs: Any) -> Any:
            return getattr(self.__client, name)(*args, **kwargs)

        async def awaited(self: Self, *args: Any, **kwargs: Any) -> Any:
            return await getattr(self.__client, name)(*args, **kwargs)

        return functools.wraps(getattr(cls._kind, name))(awaited if cls._kind is AsyncQdrantClient else method)

    @property  # type: ignore[misc]  # Python lets a class answer this; `unittest.mock` does so, too
    def __class__(self) -> type[Any]:
        """The class that this one stands for: frameworks check what they are given with `isinstance`."""
        return self._kind

    def __getattr__(self, name: str) -> Any:
        why = REFUSED.get(name, "the guard does not know it, and refuses what it cannot judge")
        hint = f"It has {', '.join((*METHODS, *sorted(TOLD)))}"
        raise NotGuardedError(f"{type(self).__name__} has no {name!r}: {why}", hint=hint, name=name, obj=self)

    def __dir__(self) -> list[str]:
        return sorted({*METHODS, *TOLD, "refresh"})


class SafeQdrantClient(_Guarded):
    """The query methods of a `QdrantClient`, for collections with scores; none of them returns an unsafe point.

    ``query_points`` (recommendations, discovery, fusion and formulas included), ``query_points_groups``,
    ``query_batch_points``, ``scroll``, ``retrieve``, ``count``, ``facet`` and both ``search_matrix`` methods take what
    those of the client take and return what those return, for the safe points only. A query that is made of points by
    id is refused where one of them is not safe. Everything else raises `NotGuardedError`: write with the application's
    own client. What the client itself raises comes through as it is.

    Every record is held to its payload before it is handed on. ``count`` and ``facet`` are exact, whatever is asked
    for, and count what the engine's index says is safe: ``hysac doctor --collection`` compares it with the payloads.
    Facts of a whole collection (``get_collection`` and the like) come through with the number of all its points. A
    score belongs to the content that it was given for: what an application changes in place keeps it until the next
    ``attach``, unless the application takes it away along with the change.

    It is a context manager that closes the client, and passes for one where `isinstance` asks; it inherits nothing.

    It guards against mistakes and against callers; code in the same process can always make a client of its own.

    Args:
        client: The application's client; it is not closed here, except by `close`.
        policy: Threshold and rules; None for the model's own threshold. The scores are those of the model that each
            collection names in its metadata.
        guard: The condition for every collection, instead; for collections whose metadata is kept elsewhere.
        consistency: Copies on a cluster that reads ask which name none themselves: a number, or one of the client's
            `ReadConsistencyType`. With "all" a point whose copies differ, such as one whose score was taken away on
            some of them only, is left out. ``count`` asks one copy in any case.

    Raises:
        SettingsError: An argument is of another type, or policy and guard are both given.
    """

    _kind = QdrantClient

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncSafeQdrantClient(_Guarded):
    """As `SafeQdrantClient`, around an `AsyncQdrantClient`: its methods are to be awaited."""

    _kind = AsyncQdrantClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
