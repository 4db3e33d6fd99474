"""Guards of both kinds, asked alike: the asynchronous one waits for its answers in an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from qdrant_client import AsyncQdrantClient, QdrantClient

from hysac_retrieval import AsyncSafeQdrantClient, SafeQdrantClient
from hysac_retrieval.stores.qdrant.client import is_local

KINDS = ("blocking", "awaited")


class Awaited:
    """An asynchronous guard in the place of a blocking one."""

    def __init__(self, guard: AsyncSafeQdrantClient, runner: asyncio.Runner) -> None:
        self._guard, self._runner = guard, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        act = getattr(self._guard, name)
        return lambda *args, **kwargs: self._runner.run(act(*args, **kwargs))


@contextmanager
def guards(kind: str, client: QdrantClient) -> Iterator[tuple[Any, Callable[..., Any]]]:
    """The client that guards of this kind ask, for the collections of another, and what makes guards of it."""
    if kind == "blocking":
        yield client, partial(SafeQdrantClient, client)
        return
    with asyncio.Runner() as runner:
        other = runner.run(_beside(client))
        yield other, lambda *args, **kwargs: Awaited(AsyncSafeQdrantClient(other, *args, **kwargs), runner)
        if not is_local(client):  # whose collections would be closed with it
            runner.run(other.close())


async def _beside(client: QdrantClient) -> AsyncQdrantClient:
    other = AsyncQdrantClient(**client.init_options)
    if is_local(client):
        other._client.__dict__ = client._client.__dict__  # the same collections and aliases, as on a server
    return other
