"""Collections in a folder, on Qdrant's embedded engine: no server, the real index.

    LOCATION/<collection>/collection.json   size of the vectors, metadata; written atomically
    LOCATION/<collection>/shard/            the engine's own files

A shard that an application made itself lies in LOCATION/<collection>/; once it is attached, collection.json lies beside
its files, and is removed when it is detached.

A collection is made by one rename of a finished folder, so that a crash leaves none half made. The engine locks a
shard: one process at a time has a collection open.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
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
    NotACollectionError,
    SettingsError,
)
from hysac_retrieval.payload import PAYLOAD_KEY, is_utf8
from hysac_retrieval.stores.amend import Amendment
from hysac_retrieval.stores.edge.extension import EdgeExtension, is_shard
from hysac_retrieval.stores.edge.faults import failed, translated
from hysac_retrieval.stores.edge.files import SIDECAR, allocated, bytes_of, check_space, sidecar_of, write_json
from hysac_retrieval.stores.edge.filter import edge_filter
from hysac_retrieval.stores.edge.grouping import grouped
from hysac_retrieval.stores.edge.requests import INDEX_TYPES, point_id, query_requests, shard_config, stored
from hysac_retrieval.stores.edge.shards import Shards
from hysac_retrieval.stores.remembered import Remembered
from hysac_retrieval.stores.retry import counted
from hysac_retrieval.stores.types import (
    UPSERT_CHUNK,
    VECTOR_NAME,
    CollectionSpec,
    Group,
    GroupQuery,
    IndexKind,
    Metric,
    Opened,
    StoredPoint,
    VectorQuery,
)
from hysac_retrieval.types import PointId

_SHARD = "shard"
_NAME_BYTES = 255  # of a folder, on most file systems
_FORBIDDEN = frozenset('<>:"/\\|?*') | {chr(code) for code in range(32)} | {"\x7f"}


class EdgeStore:
    """Collections in the folder `location`, which need not exist yet."""

    def __init__(self, location: str | Path) -> None:
        self._root = Path(os.path.expanduser(location))
        self._shards = Shards(self._root)
        self._condition = Remembered(edge_filter)
        # Unlike methods of a path, these raise nothing where a name is too long.
        if os.path.exists(self._root) and not os.path.isdir(self._root):
            raise NotACollectionError(f"{self._root} is a file, not a folder of collections", hint="Name a folder")

    def names(self) -> list[str]:
        """See `Store.names`."""
        self._shards.expect_open()
        if not os.path.isdir(self._root):
            return []
        return sorted(sidecar.parent.name for sidecar in self._root.glob(f"[!.]*/{SIDECAR}"))

    def version(self) -> str:
        """See `Store.version`."""
        return ""

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return os.path.exists(self._folder(name))

    def create(self, name: str, spec: CollectionSpec) -> None:
        """See `Store.create`."""
        folder = self._folder(name)
        exists = CollectionExistsError(
            f"{folder} exists already", hint="Open that collection, or recreate it (which removes its points)"
        )
        if os.path.exists(folder):
            raise exists
        config = shard_config(spec)
        making = self._root / f".making-{uuid.uuid4().hex}"
        try:
            making.mkdir(parents=True)
            self._check_space(name)
            with translated(name):
                shard = edge.EdgeShard.create(str(making / _SHARD), config)
                for key, kind in spec.indexes.items():
                    shard.update(edge.UpdateOperation.create_field_index(key, INDEX_TYPES[kind]))
                shard.flush()
                shard.close()
            write_json(making / SIDECAR, sidecar_of(spec))
            making.rename(folder)
            self._shards.forget(name)  # of a folder that somebody removed
        except OSError as error:
            if os.path.exists(folder):
                raise exists from error
            raise failed(name, f"it cannot be made in {self._root}: {error}") from error
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def open(self, name: str) -> Opened:
        """See `Store.open`."""
        folder = self._folder(name)
        if not os.path.exists(folder):
            raise CollectionNotFoundError(
                f"no collection {name!r} in {self._root}; there are: {', '.join(self.names()) or 'none'}",
                hint="Index something first, or create it",
            )
        try:
            sidecar = json.loads((folder / SIDECAR).read_text("utf-8"))
            metric = sidecar.get("metric", "Dot")  # the only one before there was a choice
            if metric not in get_args(Metric):
                raise ValueError(f"metric {metric!r} is none of {', '.join(get_args(Metric))}")
            opened = Opened(dict(sidecar["metadata"]), int(sidecar["size"]), metric=metric, formula=True)
        except FileNotFoundError as error:
            if is_shard(folder):  # of an application
                self._shard(name)
                return Opened(metadata=None, size=None, metric=None, formula=True)
            raise NotACollectionError(f"{folder} has no {SIDECAR}, so it is not a hysac collection") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise NotACollectionError(
                f"{folder / SIDECAR} cannot be read: {error}", hint="Restore the file, or index again"
            ) from error
        self._shard(name)
        return opened

    def drop(self, name: str) -> None:
        """See `Store.drop`."""
        folder = self._folder(name)
        if not os.path.exists(folder):
            return
        with self._shards.lock, translated(name):
            self._shard(name)  # fails where another process has it open
            self._shards.forget(name)
            trash = self._root / f".dropped-{uuid.uuid4().hex}"
            folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def aliases(self) -> dict[str, str]:
        """See `Store.aliases`."""
        raise SettingsError("collections of the embedded engine have no aliases", hint="Use a Qdrant server for them")

    def point_alias(self, alias: str, name: str) -> None:
        """See `Store.point_alias`."""
        self.aliases()

    def write_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """See `Store.write_metadata`."""
        with self._shards.lock:
            opened = self.open(name)
            self._describe(name, replace(opened, metadata=metadata))

    def upsert(
        self, name: str, ids: Sequence[PointId], vectors: NDArray[np.float32], payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        """See `Store.upsert`."""
        shard, rows = self._shard(name), vectors.tolist()
        for start in range(0, len(ids), UPSERT_CHUNK):
            chunk = slice(start, start + UPSERT_CHUNK)
            with counted(start, len(ids)), translated(name):
                self._check_space(name, partial(bytes_of, vectors[chunk], payloads[chunk]))
                points = [
                    edge.Point(i, {VECTOR_NAME: v}, dict(p))
                    for i, v, p in zip(ids[chunk], rows[chunk], payloads[chunk], strict=True)
                ]
                shard.update(edge.UpdateOperation.upsert_points(points))

    def amend(self, name: str, amendments: Sequence[Amendment], *, looked_after: bool = False) -> None:
        """See `Store.amend`."""
        shard = self._shard(name)
        with translated(name):
            self._check_space(name)
            for change in amendments:
                condition = edge_filter(change.condition())
                shard.update(edge.UpdateOperation.set_payload_by_filter(condition, dict(change.entries), PAYLOAD_KEY))

    def strip(self, name: str, keys: Sequence[str], filter: models.Filter) -> None:
        """See `Store.strip`."""
        self._update(name, edge.UpdateOperation.delete_payload_by_filter(edge_filter(filter), list(keys)))

    def add_index(self, name: str, key: str, kind: IndexKind) -> None:
        """See `Store.add_index`."""
        self._update(name, edge.UpdateOperation.create_field_index(key, INDEX_TYPES[kind]))

    def admit(self, name: str, fields: Mapping[str, IndexKind]) -> None:
        """See `Store.admit`; any field may be named here."""

    def drop_index(self, name: str, key: str) -> None:
        """See `Store.drop_index`."""
        self._update(name, edge.UpdateOperation.delete_field_index(key))

    def query(self, name: str, query: VectorQuery) -> list[list[StoredPoint]]:
        """See `Store.query`."""
        if not len(query.vectors):
            return []
        with translated(name):
            shard, requests = self._shard(name), query_requests(query, self._condition)
            # A batch of one costs the engine more than a single query, but says what is wrong with a formula.
            if len(requests) == 1 and query.formulas is None:
                answers = [shard.query(requests[0])]
            else:
                answers = shard.query_batch(edge.QueryBatchRequest(requests))
            vectors = query.with_vectors
            return [[stored(point, point.score, with_vector=vectors) for point in answer] for answer in answers]

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
        with_vectors: bool | str = False,
        fields: Sequence[str] | None = None,
    ) -> tuple[list[StoredPoint], PointId | None]:
        """See `Store.scroll`."""
        condition = None if filter is None else edge_filter(filter)
        vector = VECTOR_NAME if with_vectors is True else with_vectors
        with translated(name):
            records, following = self._shard(name).scroll(
                edge.ScrollRequest(
                    offset=after,
                    limit=limit,
                    filter=condition,
                    with_payload=True if fields is None else list(fields),
                    with_vector=False if vector is False else [vector],
                )
            )
            return [stored(record, with_vector=vector) for record in records], None if following is None else point_id(
                following
            )

    def retrieve(self, name: str, ids: Sequence[PointId]) -> list[StoredPoint]:
        """See `Store.retrieve`."""
        with translated(name):
            records = self._shard(name).retrieve(list(ids), with_payload=True, with_vector=[VECTOR_NAME])
            return [stored(record) for record in records]

    def count(self, name: str, filter: models.Filter | None = None) -> int:
        """See `Store.count`."""
        condition = None if filter is None else edge_filter(filter)
        with translated(name):
            return int(self._shard(name).count(edge.CountRequest(exact=True, filter=condition)))

    def delete(self, name: str, ids: Sequence[PointId]) -> None:
        """See `Store.delete`."""
        with translated(name):
            self._check_space(name)
            self._shard(name).update(edge.UpdateOperation.delete_points(list(ids)))

    def extension(self, name: str) -> EdgeExtension:
        """See `Store.extension`."""
        self.open(name)
        return EdgeExtension(
            self._shard_folder(name),
            self._shard(name),
            partial(translated, name),
            lambda size: self._check_space(name, lambda: size),
            partial(self._describe, name),
        )

    def optimize(self, name: str) -> None:
        """Build the graph in this process; until then the engine searches new points one by one."""
        with translated(name):
            shard = self._shard(name)
            shard.optimize()
            shard.flush()

    def indexed(self, name: str) -> int:
        """See `Store.indexed`."""
        with translated(name):
            return int(self._shard(name).info().indexed_vectors_count)

    def memory(self, name: str) -> int | None:
        """Bytes of the engine's files, without the log of writes that it keeps beside them."""
        self._shard(name)
        shard, total = self._shard_folder(name), 0
        for path in shard.rglob("*"):
            if "wal" not in path.relative_to(shard).parts:
                with suppress(FileNotFoundError):  # the engine tidies up on its own
                    total += allocated(path.stat()) if path.is_file() else 0
        return total

    def close(self) -> None:
        """See `Store.close`."""
        self._shards.close()

    def _update(self, name: str, operation: Any) -> None:
        with translated(name):
            self._shard(name).update(operation)

    def _describe(self, name: str, kept: CollectionSpec | Opened | None) -> None:
        """Write the metadata beside a collection, or remove it."""
        path = self._folder(name) / SIDECAR
        try:
            if kept is None:
                path.unlink(missing_ok=True)
            else:
                write_json(path, sidecar_of(kept))
        except OSError as error:
            raise failed(name, f"its metadata cannot be written: {error}") from error

    def _check_space(self, name: str, size: Callable[[], int] = lambda: 0) -> None:
        check_space(self._root, name, size)

    def _folder(self, name: str) -> Path:
        """Folder of a collection: strictly inside the location, whatever the name."""
        self._shards.expect_open()
        too_long = len(name) > 200 or len(name.encode("utf-8", "surrogatepass")) > _NAME_BYTES
        if not name or too_long or name.startswith(".") or _FORBIDDEN & set(name) or not is_utf8(name):
            raise SettingsError(
                f"collection name {name!r} is not usable",
                hint="Give 1 to 200 characters (255 bytes of UTF-8), not starting with a dot and without "
                '< > : " / \\ | ? * or control characters',
            )
        return self._root / name

    def _shard_folder(self, name: str) -> Path:
        """Return the folder of the engine's files: in the collection's, or that itself if an application made it."""
        folder = self._folder(name)
        return folder if is_shard(folder) else folder / _SHARD

    def _shard(self, name: str) -> Any:
        return self._shards.get(name, self._shard_folder)
