"""A collection of the embedded engine that cannot be opened or read, rebuilt from what can be.

Everything is done on a copy, which takes the place of the collection when it has been read from end to end. The
collection as it was stays beside it, under a hidden name.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from hysac_retrieval.errors import CollectionNotFoundError, StorageLockedError, StoreError
from hysac_retrieval.stores.edge.extension import CONFIG, is_shard
from hysac_retrieval.stores.edge.faults import failed, translated
from hysac_retrieval.stores.edge.files import check_space
from hysac_retrieval.stores.edge.log import LOG, cut, entries, readable
from hysac_retrieval.stores.edge.requests import point_id
from hysac_retrieval.types import PointId

_PAGE = 500
_NEW = ".new"
_ENGINE = ("segments", LOG)
SHARD = "shard"
"""Folder of the engine's files in that of a collection which this package made."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """Outcome of a repair.

    Attributes:
        points: Points that the collection has.
        lost: Ids of points whose payload could not be read: removed, or kept without payload if they are an
            application's.
        writes: Writes at the end of the log that could not be read; those that the engine had not yet put into its
            segments are lost.
        set_aside: Folder of the collection as it was; None if nothing was wrong with its points.
        described: Whether its metadata was written again.
    """

    points: int
    lost: tuple[PointId, ...] = ()
    writes: int = 0
    set_aside: Path | None = None
    described: bool = False


def repair_shard(root: Path, name: str) -> Repaired:
    """Rebuild a collection, if it cannot be opened or a point of it cannot be read.

    Raises:
        CollectionNotFoundError: There is none of that name.
        StorageLockedError: A process has it open.
        StoreError: Nothing of it can be read; it is as it was.
    """
    folder = root / name
    own = not is_shard(folder)
    if not ((folder / SHARD if own else folder) / CONFIG).is_file():
        raise CollectionNotFoundError(f"{folder} holds no collection of the embedded engine", hint="Check the name")
    _expect_free(folder / SHARD if own else folder, name)
    check_space(root, name, lambda: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    making = root / f".repair-{uuid.uuid4().hex}"
    try:
        shutil.copytree(folder, making)
        shard = making / SHARD if own else making
        writes = _cut_log(shard, name)
        with translated(name), _opened(shard) as damaged:
            lost = [one for page in _pages(damaged) for one in _unreadable(damaged, page)]
            if not lost and not writes:
                return Repaired(sum(len(page) for page in _pages(damaged)))
            # Not mended in place: behind a log that was cut, the engine takes new writes for old ones, and drops them.
            points = _rebuild(damaged, shard, making / _NEW, set(lost), emptied=not own)
        for part in _ENGINE:
            shutil.rmtree(shard / part)
            (making / _NEW / part).rename(shard / part)
        shutil.rmtree(making / _NEW)
        with translated(name), _opened(shard) as opened:
            if sum(len(_read(opened, page)) for page in _pages(opened)) != points:
                raise failed(name, "what was rebuilt is not all there")
        aside = root / f".broken-{name}-{uuid.uuid4().hex[:8]}"
        folder.rename(aside)
        making.rename(folder)
        return Repaired(points, tuple(map(point_id, lost)), writes, aside)
    except OSError as error:
        raise failed(name, f"it cannot be repaired in {root}: {error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _expect_free(shard: Path, name: str) -> None:
    try:
        with translated(name):
            edge.EdgeShard.load(str(shard)).close()
    except StorageLockedError:
        raise
    except StoreError:
        pass  # what is to be repaired


def _cut_log(shard: Path, name: str) -> int:
    """Cut off the end of a log that the engine cannot read; returns the number of writes in it."""
    try:
        with translated(name):
            edge.EdgeShard.load(str(shard)).close()
        return 0
    except StoreError:
        written, kept = entries(shard / LOG), readable(shard)
    if kept == len(written):
        raise failed(name, "its log can be read, and yet it cannot be opened: its segments are damaged")
    cut(written, kept)
    return len(written) - kept


def _rebuild(damaged: Any, shard: Path, folder: Path, lost: set[Any], *, emptied: bool) -> int:
    """Write a shard's points to a new one of the same configuration and indexes; returns their number."""
    folder.mkdir()
    shutil.copy(shard / CONFIG, folder / CONFIG)
    points = 0
    with _opened(folder) as new:
        for key, index in damaged.info().payload_schema.items():
            new.update(edge.UpdateOperation.create_field_index(key, index.data_type))
        for page in _pages(damaged):
            found = _read(damaged, [one for one in page if one not in lost])
            if emptied:
                found += damaged.retrieve([one for one in page if one in lost], with_payload=False, with_vector=True)
            points += len(found)
            if found:
                made = [edge.Point(record.id, record.vector, record.payload or {}) for record in found]
                new.update(edge.UpdateOperation.upsert_points(made))
        new.optimize()
    return points


@contextmanager
def _opened(shard: Path) -> Iterator[Any]:
    opened = edge.EdgeShard.load(str(shard))
    try:
        yield opened
        opened.flush()
    finally:
        opened.close()


def _read(shard: Any, ids: list[Any]) -> list[Any]:
    return list(shard.retrieve(ids, with_payload=True, with_vector=True)) if ids else []


def _unreadable(shard: Any, ids: list[Any]) -> list[Any]:
    """Return the ids of points whose payload the engine cannot read."""
    try:
        _read(shard, ids)
    except Exception:  # the engine raises plain ones
        if len(ids) == 1:
            return ids
        middle = len(ids) // 2
        return _unreadable(shard, ids[:middle]) + _unreadable(shard, ids[middle:])
    return []


def _pages(shard: Any) -> Iterator[list[Any]]:
    """Return the ids of a shard, a page at a time."""
    after = None
    while True:
        request = edge.ScrollRequest(offset=after, limit=_PAGE, with_payload=False, with_vector=False)
        records, after = shard.scroll(request)
        yield [record.id for record in records]
        if after is None:
            return
