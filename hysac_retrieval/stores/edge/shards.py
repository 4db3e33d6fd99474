"""The engine's handles of the collections that a store has open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from hysac_retrieval.errors import StoreError
from hysac_retrieval.forks import Origin, abandon_after_fork, keep
from hysac_retrieval.stores.edge.faults import translated
from hysac_retrieval.stores.edge.files import close_files, identity

_AFTER_FORK = (
    "Open it after the fork, with connect or Index.open, in the one process that uses it; several processes at once "
    "need a Qdrant server (url=)"
)


class Shards:
    """Shards of one location, each opened when it is first needed, and locked until it is closed."""

    def __init__(self, root: Path) -> None:
        self.lock = threading.RLock()
        self._root = root
        self._open: dict[str, tuple[Any, Path, tuple[int, int]]] = {}
        self._closed = False
        self._origin = Origin(f"the embedded store in {root}", _AFTER_FORK)
        abandon_after_fork(self)

    def expect_open(self) -> None:
        """Raise `ForkedError` in a process that was forked, and `StoreError` after `close`."""
        self._origin.expect()
        if self._closed:
            raise StoreError(f"the store in {self._root} is closed", hint="Open the collection again")

    def get(self, name: str, folder_of: Callable[[str], Path]) -> Any:
        """Return the shard of a collection, which lies in the folder that `folder_of` names.

        Raises:
            StorageLockedError: Another process has it open.
            StoreError: The folder was removed or replaced meanwhile: the engine would go on, and writes would be lost.
        """
        self.expect_open()
        with self.lock:
            if name not in self._open:
                self.expect_open()  # nor closed while this thread waited
                folder = folder_of(name)
                with translated(name):
                    self._open[name] = edge.EdgeShard.load(str(folder)), folder, identity(folder)
            shard, folder, known = self._open[name]
        try:
            if identity(folder) == known:
                return shard
        except OSError:
            pass
        raise StoreError(
            f"collection {name!r}: its folder {folder} was removed or replaced while it was open",
            hint="Close the collection, and open or create it again",
        )

    def forget(self, name: str) -> None:
        """Close a shard, if it is open; also one whose folder is gone."""
        with self.lock:
            if name in self._open:
                self._open.pop(name)[0].close()

    def close(self) -> None:
        """Close all. In a process that was forked, what the parent has open stays as it is."""
        self._closed = True
        if self._origin.left:
            return
        with self.lock:
            while self._open:
                name, (shard, folder, _) = self._open.popitem()
                if folder.exists():
                    with translated(name):
                        shard.flush()
                        shard.close()

    def abandon(self) -> None:
        """See `Abandoned.abandon`."""
        for shard, folder, _ in self._open.values():
            keep(shard)  # freeing it would flush and unlock
            close_files(folder)  # or the folder would stay locked as long as this process lives
