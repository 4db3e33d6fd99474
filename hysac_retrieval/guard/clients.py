"""The guarded clients: an application's own client, of which only what is safe can be reached."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any

from qdrant_client import AsyncQdrantClient, QdrantClient

from hysac_retrieval.collection.metadata import read_metadata
from hysac_retrieval.errors import NotGuardedError, SettingsError
from hysac_retrieval.guard.condition import Guard
from hysac_retrieval.guard.methods import METHODS, REFUSED, TOLD, Ask, Steps, call
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.stores.requests import read_collection


class _Guards:
    """Guards by collection, from the metadata of each when it is first asked for."""

    def __init__(self, policy: SafetyPolicy | None, guard: Guard | None) -> None:
        if policy is not None and guard is not None:
            raise SettingsError("policy and guard both say what is safe; give one of them")
        if policy is not None and not isinstance(policy, SafetyPolicy):
            raise SettingsError(f"policy is {type(policy).__name__}; expected a SafetyPolicy")
        if guard is not None and not isinstance(guard, Guard):
            raise SettingsError(f"guard is {type(guard).__name__}; expected a Guard")
        self._policy = policy
        self._guard = guard
        self._known: dict[str, Guard] = {}

    def of(self, collection: str) -> Generator[Ask, Any, Guard]:
        """See `methods.GuardOf`."""
        if self._guard is not None:
            return self._guard
        if collection not in self._known:
            info = yield Ask("get_collection", {"collection_name": collection})
            metadata = read_metadata(collection, read_collection(info))
            self._known[collection] = Guard.of(metadata, self._policy)
        return self._known[collection]

    def forget(self) -> None:
        """Ask for the metadata again."""
        self._known.clear()


class _Guarded(ABC):
    """What both clients have in common: how methods are found, and that nothing else is."""

    _kind: type[Any] = QdrantClient

    def __init__(self, client: Any, policy: SafetyPolicy | None = None, *, guard: Guard | None = None) -> None:
        if not isinstance(client, self._kind):
            raise SettingsError(f"client is {type(client).__name__}; expected a qdrant_client.{self._kind.__name__}")
        # The names are mangled, so that code which reaches for the insides of a client finds nothing.
        self.__client = client
        self.__guards = _Guards(policy, guard)

    def refresh(self) -> None:
        """Forget what is known of collections: they may have been attached anew, or rescored."""
        self.__guards.forget()

    def __getattr__(self, name: str) -> Any:
        original = getattr(self._kind, name, None)
        if name in METHODS:
            return functools.wraps(original)(functools.partial(self.__call, name))  # type: ignore[arg-type]
        if name in TOLD:
            return getattr(self.__client, name)
        why = REFUSED.get(name, "the guard does not know it, and refuses what it cannot judge")
        raise NotGuardedError(
            f"{type(self).__name__} has no {name!r}: {why}. It has {', '.join((*METHODS, *sorted(TOLD)))}",
            name=name,
            obj=self,
        )

    def __dir__(self) -> list[str]:
        return sorted({*METHODS, *TOLD, "refresh"})

    def __call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return self._drive(call(self.__guards.of, name, args, kwargs), lambda ask: self.__asked(ask))

    def __asked(self, ask: Ask) -> Any:
        return getattr(self.__client, ask.method)(**ask.arguments)

    @abstractmethod
    def _drive(self, steps: Steps, carry_out: Callable[[Ask], Any]) -> Any:
        """Carry out what the steps ask for, one after the other; their result."""


class SafeQdrantClient(_Guarded):
    """The query methods of a `QdrantClient`, for collections with scores of ours; none of them returns an unsafe point.

    ``query_points`` (recommendations, discovery, fusion and formulas included), ``query_points_groups``,
    ``query_batch_points``, ``scroll``, ``retrieve``, ``count``, ``facet`` and both ``search_matrix`` methods take what
    those of the client take and return what those return, for the safe points only. A query that is made of points by
    id is refused where one of them is not safe. Everything else raises `NotGuardedError`: write with the application's
    own client. What the client itself raises comes through as it is.

    Counts are exact, whatever is asked for. Facts of a whole collection (``get_collection`` and the like) come through
    with the number of all its points. A score belongs to the content that it was given for: what an application changes
    in place keeps it until the next ``attach``, unless the application takes it away along with the change.

    It guards against mistakes and against callers; code in the same process can always make a client of its own.

    Args:
        client: The application's client; it is not closed here, except by `close`.
        policy: Threshold and rules; None for the model's own threshold. The scores are those of the model that each
            collection names in its metadata.
        guard: What is safe in every collection, instead; for collections whose metadata is kept elsewhere.

    Raises:
        SettingsError: An argument is of another type, or policy and guard are both given.
    """

    def _drive(self, steps: Steps, carry_out: Callable[[Ask], Any]) -> Any:
        ask, result = _advance(steps, None)
        while ask is not None:
            ask, result = _advance(steps, carry_out(ask))
        return result


class AsyncSafeQdrantClient(_Guarded):
    """As `SafeQdrantClient`, around an `AsyncQdrantClient`: its methods are to be awaited."""

    _kind = AsyncQdrantClient

    async def _drive(self, steps: Steps, carry_out: Callable[[Ask], Any]) -> Any:
        ask, result = _advance(steps, None)
        while ask is not None:
            ask, result = _advance(steps, await carry_out(ask))
        return result


def _advance(steps: Any, answer: Any) -> tuple[Ask | None, Any]:
    try:
        return steps.send(answer), None
    except StopIteration as end:
        return None, end.value
