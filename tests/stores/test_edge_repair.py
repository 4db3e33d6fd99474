"""Payloads that the embedded engine writes and cannot read: refused, and repaired where they are there already."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import CollectionNotFoundError, InputError, StorageLockedError, StoreError
from hysac_retrieval.payload import DEEPEST
from hysac_retrieval.stores.edge.log import LOG, entries
from hysac_retrieval.stores.edge.repair import SHARD, repair_shard


def nested(levels: int, kind: str) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"a": value} if kind == "objects" or (kind == "both" and level % 2) else [value]
    return value


KINDS = ("objects", "lists", "both")


def made(root: Path, count: int = 50) -> Index:
    index = Index.create("c", dim=DIM, curvature=CURVATURE, safety=profile(), location=str(root))
    payloads = [{"n": n} for n in range(count)]
    index.upsert(range(count), random_points(count, low=1.0, high=1.5), modality="text", payloads=payloads)
    return index


def write_deep(index: Index, identity: int, levels: int, kind: str = "lists") -> None:
    """Write what `upsert` refuses."""
    vectors = index.collection.lift.lift(random_points(1))
    index.store.upsert("c", [identity], vectors, [{"v": nested(levels, kind)}])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_taken_can_be_read_again_and_what_cannot_is_refused(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    with made(data, 1) as index:
        for levels in (DEEPEST, DEEPEST // 2):
            index.upsert([levels], random_points(1), modality="text", payloads=[{"v": nested(levels, kind)}])
            marks = [{"mark": nested(levels, kind)}]
            index.upsert([levels + 1], random_points(1), modality="text", marks=marks)
        for levels in (DEEPEST + 1, 121, 130, 1000):
            with pytest.raises(InputError, match=r"payload in row 1: field 'v"):
                index.upsert([98, 99], random_points(2), modality="text", payloads=[None, {"v": nested(levels, kind)}])
            with pytest.raises(InputError, match=r"mark in row 0: field 'm"):
                index.upsert([99], random_points(1), modality="text", marks=[{"m": nested(levels, kind)}])
        copied = shutil.copytree(data, tmp_path / "copy")  # as after a crash: the log is read again
    for root in (data, copied):
        with Index.open("c", location=str(root)) as index:
            found = {point.id: point.payload for point in index.store.scroll("c")[0]}
            assert found[DEEPEST]["v"] == nested(DEEPEST, kind)
            assert found[DEEPEST + 1]["hysac"]["mark"] == nested(DEEPEST, kind)
            assert len(found) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_that_cannot_be_read_is_removed_and_said(tmp_path: Path, kind: str) -> None:
    with made(tmp_path) as index:
        write_deep(index, 100, 130, kind)
        write_deep(index, 101, 500, kind)
        index.upsert([200], random_points(1), modality="text")
    with Index.open("c", location=str(tmp_path)) as index, pytest.raises(StoreError):
        index.store.scroll("c")
    done = repair_shard(tmp_path, "c")
    assert (done.points, sorted(map(int, done.lost)), done.writes) == (51, [100, 101], 0)
    with Index.open("c", location=str(tmp_path)) as index:
        assert {point.id for point in index.store.scroll("c")[0]} == {*range(50), 200}
        assert len(index.query(np.zeros(DIM), limit=60)) >= 50
        index.upsert([100], random_points(1), modality="text")
        assert index.count() == 52
    assert done.set_aside is not None
    assert done.set_aside.is_dir()
    assert repair_shard(tmp_path, "c").set_aside is None


def test_a_log_that_cannot_be_read_is_cut_where_it_cannot(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with made(root) as index:
        index.optimize()
        index.upsert([60], random_points(1), modality="text")
        write_deep(index, 100, 130)
        for identity in (201, 202):
            index.upsert([identity], random_points(1), modality="text")
        broken = Path(shutil.copytree(root, tmp_path / "crashed"))
    with pytest.raises(StoreError, match="WAL"):
        Index.open("c", location=str(broken))
    assert len(entries(broken / "c" / SHARD / LOG)) >= 4
    done = repair_shard(broken, "c")
    assert (done.lost, done.writes, done.points) == ((), 3, 51)
    with Index.open("c", location=str(broken)) as index:
        assert {point.id for point in index.store.scroll("c")[0]} == {*range(50), 60}
        index.upsert([60, 201], random_points(2), modality="text", payloads=[{"new": True}, None])
    with Index.open("c", location=str(broken)) as index:
        assert index.count() == 52
        assert index.retrieve([60])[0].payload["new"] is True  # a new write is not taken for an old one


def test_what_is_open_or_not_there_is_not_repaired(tmp_path: Path) -> None:
    with made(tmp_path), pytest.raises(StorageLockedError):
        repair_shard(tmp_path, "c")
    with pytest.raises(CollectionNotFoundError):
        repair_shard(tmp_path, "d")
    assert sorted(os.listdir(tmp_path)) == ["c"]


def test_segments_that_are_gone_are_an_error_and_nothing_is_changed(tmp_path: Path) -> None:
    with made(tmp_path) as index:
        index.optimize()
    for path in (tmp_path / "c" / SHARD / "segments").rglob("*"):
        if path.is_file() and path.name in ("segment.json", "version.info"):
            path.write_bytes(b"\xff")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(StoreError):
        repair_shard(tmp_path, "c")
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
