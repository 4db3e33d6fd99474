"""Collections in a folder, on Qdrant's embedded engine: no server, the real index.

    LOCATION/<collection>/collection.json   size of the vectors, metadata; written atomically
    LOCATION/<collection>/shard/            the engine's own files

A shard that an application made itself lies in LOCATION/<collection>/; once something of ours is attached to it,
collection.json lies beside its files, and goes when that is taken away again.

A collection comes into being by one rename of a finished folder, so that a crash leaves none by halves. The
engine locks a shard: one process at a time has a collection open.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    HysacError,
    NotACollectionError,
    SettingsError,
    StorageFullError,
    StorageLockedError,
    StoreError,
)
from hysac_retrieval.payload import PAYLOAD_KEY
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.stores.edge.extension import EdgeExtension, is_shard
from hysac_retrieval.stores.edge.filter import edge_filter
from hysac_retrieval.stores.edge.grouping import grouped
from hysac_retrieval.stores.edge.requests import INDEX_TYPES, point_id, query_batch, shard_config, stored
from hysac_retrieval.stores.retry import counted
from hysac_retrieval.stores.types import (
    UPSERT_CHUNK,
    VECTOR_NAME,
    CollectionSpec,
    Group,
    GroupQuery,
    Metric,
    Opened,
    StoredPoint,
    VectorQuery,
)
from hysac_retrieval.types import PointId

SIDECAR = "collection.json"
SPACE = 64 * 2**20
"""Free bytes that the engine needs to work in."""

SCARCE = 4 * 2**30
"""Free bytes from which on the size of what is to be written does not matter."""

_SHARD = "shard"
_FULL = ("No space left", "Not enough space", "File too large", "Disk quota exceeded")
_READ_ONLY = ("Permission denied", "Read-only file system")
_FORBIDDEN = frozenset('<>:"/\\|?*') | {chr(code) for code in range(32)} | {"\x7f"}


class EdgeStore:
    """Collections in the folder `location`, which need not exist yet."""

    def __init__(self, location: str | Path) -> None:
        self._root = Path(location).expanduser()
        self._shards: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._closed = False
        if self._root.exists() and not self._root.is_dir():
            raise NotACollectionError(f"{self._root} is a file; the location of collections is a folder")

    def names(self) -> list[str]:
        """See `Store.names`."""
        return sorted(sidecar.parent.name for sidecar in self._root.glob(f"[!.]*/{SIDECAR}"))

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return self._folder(name).exists()

    def create(self, name: str, spec: CollectionSpec) -> None:
        """See `Store.create`."""
        folder = self._folder(name)
        exists = CollectionExistsError(
            f"{folder} exists already; open that collection, or recreate it (which removes its points)"
        )
        if folder.exists():
            raise exists
        config = shard_config(spec)
        making = self._root / f".making-{uuid.uuid4().hex}"
        try:
            making.mkdir(parents=True)
            self._check_space(name)
            with _translated(name):
                shard = edge.EdgeShard.create(str(making / _SHARD), config)
                for key, kind in spec.indexes.items():
                    shard.update(edge.UpdateOperation.create_field_index(key, INDEX_TYPES[kind]))
                shard.flush()
                shard.close()
            _write_json(making / SIDECAR, _sidecar(spec.size, spec.metric, spec.metadata))
            making.rename(folder)
        except OSError as error:
            if folder.exists():
                raise exists from error
            raise _failed(name, f"it cannot be made in {self._root}: {error}") from error
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def open(self, name: str) -> Opened:
        """See `Store.open`."""
        folder = self._folder(name)
        if not folder.exists():
            raise CollectionNotFoundError(
                f"no collection {name!r} in {self._root}; there are: {', '.join(self.names()) or 'none'}. "
                "Index something first, or create it"
            )
        try:
            sidecar = json.loads((folder / SIDECAR).read_text("utf-8"))
            metric = sidecar.get("metric", "Dot")  # the only one before there was a choice
            if metric not in get_args(Metric):
                raise ValueError(f"metric {metric!r} is none of {', '.join(get_args(Metric))}")
            opened = Opened(dict(sidecar["metadata"]), int(sidecar["size"]), metric=metric, formula=True)
        except FileNotFoundError as error:
            if is_shard(folder):  # somebody else's
                self._shard(name)
                return Opened(metadata=None, size=None, metric=None, formula=True)
            raise NotACollectionError(f"{folder} has no {SIDECAR}, so it is no collection of ours") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotACollectionError(
                f"{folder / SIDECAR} cannot be read: {error}. Restore the file, or index again"
            ) from error
        self._shard(name)
        return opened

    def drop(self, name: str) -> None:
        """See `Store.drop`."""
        folder = self._folder(name)
        if not folder.exists():
            return
        with self._lock, _translated(name):
            self._shard(name)  # fails where another process has it open
            self._shards.pop(name).close()
            trash = self._root / f".dropped-{uuid.uuid4().hex}"
            folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def write_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """See `Store.write_metadata`."""
        with self._lock:
            opened = self.open(name)
            try:
                _write_json(self._folder(name) / SIDECAR, _sidecar(opened.size, opened.metric, metadata))
            except OSError as error:
                raise _failed(name, f"its metadata cannot be written: {error}") from error

    def upsert(
        self, name: str, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Store.upsert`."""
        shard, rows = self._shard(name), vectors.tolist()
        for start in range(0, len(ids), UPSERT_CHUNK):
            chunk = slice(start, start + UPSERT_CHUNK)
            with counted(start, len(ids)), _translated(name):
                self._check_space(name, partial(_size, vectors[chunk], payloads[chunk]))
                points = [
                    edge.Point(i, {VECTOR_NAME: v}, dict(p))
                    for i, v, p in zip(ids[chunk], rows[chunk], payloads[chunk], strict=True)
                ]
                shard.update(edge.UpdateOperation.upsert_points(points))

    def amend(self, name: str, amendments: Sequence[Amendment]) -> None:
        """See `Store.amend`."""
        shard = self._shard(name)
        with _translated(name):
            self._check_space(name)
            for change in amendments:
                condition = edge_filter(change.condition())
                shard.update(edge.UpdateOperation.set_payload_by_filter(condition, dict(change.entries), PAYLOAD_KEY))

    def query(self, name: str, query: VectorQuery) -> list[list[StoredPoint]]:
        """See `Store.query`."""
        if not len(query.vectors):
            return []
        with _translated(name):
            answers = self._shard(name).query_batch(query_batch(query))
            return [[stored(point, point.score) for point in answer] for answer in answers]

    def query_groups(self, name: str, query: VectorQuery, groups: GroupQuery) -> list[Group]:
        """See `Store.query_groups`."""
        descending = query.formulas is not None or self.open(name).metric == "Dot"
        return grouped(lambda one: self.query(name, one)[0], query, groups, descending=descending)

    def scroll(
        self,
        name: str,
        *,
        filter: models.Filter | None = None,
        limit: int = 1000,
        after: PointId | None = None,
        with_vectors: bool = False,
    ) -> tuple[list[StoredPoint], PointId | None]:
        """See `Store.scroll`."""
        condition = None if filter is None else edge_filter(filter)
        with _translated(name):
            records, following = self._shard(name).scroll(
                edge.ScrollRequest(
                    offset=after,
                    limit=limit,
                    filter=condition,
                    with_payload=True,
                    with_vector=[VECTOR_NAME] if with_vectors else False,
                )
            )
            return [stored(record) for record in records], None if following is None else point_id(following)

    def retrieve(self, name: str, ids: Sequence[PointId]) -> list[StoredPoint]:
        """See `Store.retrieve`."""
        with _translated(name):
            records = self._shard(name).retrieve(list(ids), with_payload=True, with_vector=[VECTOR_NAME])
            return [stored(record) for record in records]

    def count(self, name: str, filter: models.Filter | None = None) -> int:
        """See `Store.count`."""
        condition = None if filter is None else edge_filter(filter)
        with _translated(name):
            return int(self._shard(name).count(edge.CountRequest(exact=True, filter=condition)))

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        """See `Store.delete`."""
        with _translated(name):
            self._check_space(name)
            self._shard(name).update(edge.UpdateOperation.delete_points(list(ids)))

    def extension(self, name: str) -> EdgeExtension:
        """See `Store.extension`."""
        self.open(name)

        def describe(spec: CollectionSpec | None) -> None:
            path = self._folder(name) / SIDECAR
            try:
                if spec is None:
                    path.unlink(missing_ok=True)
                else:
                    _write_json(path, _sidecar(spec.size, spec.metric, spec.metadata))
            except OSError as error:
                raise _failed(name, f"its metadata cannot be written: {error}") from error

        return EdgeExtension(
            self._shard_folder(name),
            self._shard(name),
            partial(_translated, name),
            lambda size: self._check_space(name, lambda: size),
            describe,
        )

    def optimize(self, name: str) -> None:
        """Build the graph in this process; until then the engine searches new points one by one."""
        with _translated(name):
            shard = self._shard(name)
            shard.optimize()
            shard.flush()

    def indexed(self, name: str) -> int:
        """See `Store.indexed`."""
        with _translated(name):
            return int(self._shard(name).info().indexed_vectors_count)

    def memory(self, name: str) -> int | None:
        """Bytes of the engine's files, without the log of writes that it keeps beside them."""
        self._shard(name)
        shard, total = self._shard_folder(name), 0
        for path in shard.rglob("*"):
            if "wal" not in path.relative_to(shard).parts:
                with suppress(FileNotFoundError):  # the engine tidies up on its own
                    total += _allocated(path.stat()) if path.is_file() else 0
        return total

    def close(self) -> None:
        """See `Store.close`."""
        with self._lock:
            self._closed = True
            while self._shards:
                name, shard = self._shards.popitem()
                with _translated(name):
                    shard.flush()
                    shard.close()

    def _check_space(self, name: str, size: Callable[[], int] = lambda: 0) -> None:
        """Refuse to write when the disk is nearly full.

        The engine writes through memory maps of files that it makes ahead of need. Where the disk has no page left for
        one, the operating system ends the process (SIGBUS); no error could be raised any more.

        Args:
            name: The collection.
            size: Bytes to be written; only asked for when space is scarce.
        """
        free = shutil.disk_usage(self._root).free
        # Points are written twice, to the log and to a segment, and both round up.
        if free < SCARCE and free < (needed := SPACE + 4 * size()):
            raise StorageFullError(
                f"collection {name!r}: the disk of {self._root} has {free / 2**20:.0f} MB left, and writing needs "
                f"{needed / 2**20:.0f} MB. Free some space, or move the folder to a larger disk"
            )

    def _folder(self, name: str) -> Path:
        """Folder of a collection: strictly inside the location, whatever the name."""
        if not name or len(name) > 200 or name.startswith(".") or _FORBIDDEN & set(name):
            raise SettingsError(
                f"collection name {name!r} is not usable; give 1 to 200 characters, not starting with a dot "
                'and without < > : " / \\ | ? * or control characters'
            )
        return self._root / name

    def _shard_folder(self, name: str) -> Path:
        """Where the engine's files are: in a folder of their own, or where an application put them."""
        folder = self._folder(name)
        return folder if is_shard(folder) else folder / _SHARD

    def _shard(self, name: str) -> Any:
        with self._lock:
            if self._closed:
                raise StoreError(f"collection {name!r}: this store has been closed; open the collection again")
            if name not in self._shards:
                with _translated(name):
                    self._shards[name] = edge.EdgeShard.load(str(self._shard_folder(name)))
            return self._shards[name]


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """The engine raises plain `Exception`s; turn them into ours."""
    try:
        yield
    except HysacError:
        raise
    except Exception as error:
        if "WouldBlock" in str(error):
            raise StorageLockedError(
                f"collection {name!r} is open elsewhere (another process, or another Index of this one); "
                "close that one or share it, or run a Qdrant server and use url= for several processes"
            ) from error
        raise _failed(name, str(error)) from error


def _failed(name: str, what: str) -> StoreError:
    if any(sign in what for sign in _FULL):
        return StorageFullError(f"collection {name!r}: {what}. Free some space, or move the folder to a larger disk")
    if any(sign in what for sign in _READ_ONLY):
        return StoreError(
            f"collection {name!r}: {what}. The embedded engine writes to its folder even to search; give this user "
            "write permission on it, use a copy, or run a Qdrant server"
        )
    return StoreError(f"collection {name!r}: {what}")


def _size(vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]) -> int:
    return vectors.nbytes + sum(len(json.dumps(payload, default=str)) for payload in payloads)


def _sidecar(size: int | None, metric: Metric | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": size, "metric": metric, "metadata": dict(metadata)}


def _allocated(status: os.stat_result) -> int:
    # The engine makes files of 32 MB ahead of need; what they hold is what the file system has given them.
    blocks: int | None = getattr(status, "st_blocks", None)  # not on every platform
    return status.st_size if blocks is None else blocks * 512


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write so that a reader finds the old file or the new one, whole, even after a power cut."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(value, stream, allow_nan=False, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
