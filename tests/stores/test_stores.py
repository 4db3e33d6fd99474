"""What every store must do, and what each does of its own."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from support.spaces import match

from hysac_retrieval.errors import (
    CollectionExistsError,
    CollectionNotFoundError,
    HysacError,
    NotACollectionError,
    SettingsError,
    StorageLockedError,
    StoreError,
)
from hysac_retrieval.stores import CollectionSpec, HnswOptions, Store, VectorQuery, open_store
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.qdrant.store import QdrantStore

SPEC = CollectionSpec(3, metadata={"dim": 1, "deep": {"list": [1.5, None, "é"]}}, indexes={"hysac.unsafe": "float"})
UUID = str(uuid.uuid4())


def rows(*values: float) -> np.ndarray:
    return np.array([[v, 1.0, 0.0] for v in values], dtype=np.float32)


def test_a_collection_is_made_described_and_dropped(store: Store) -> None:
    assert not store.exists("c")
    store.create("c", SPEC)
    assert store.exists("c")
    assert store.names() == ["c"]
    opened = store.open("c")
    assert (opened.size, opened.metadata) == (3, SPEC.metadata)
    store.write_metadata("c", {"dim": 2})
    assert (store.open("c").metadata or {})["dim"] == 2
    with pytest.raises(CollectionExistsError):
        store.create("c", SPEC)
    store.drop("c")
    assert store.names() == []
    with pytest.raises(CollectionNotFoundError, match="there are: "):
        store.open("c")
    store.create("c", SPEC)
    assert store.count("c") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        match("k", "\ud800"),
        match("k\ud800", 1),
        models.FieldCondition(key="k", match=models.MatchAny(any=["a", "\ud800"])),
        models.Filter(must_not=[models.Filter(must=[match("k", "\udfff")])]),
        match("k", 2**63),
        match("k", -(2**63) - 1),
        models.HasIdCondition(has_id=[2**64]),
    ],
)
def test_a_condition_that_cannot_be_sent_is_named_or_met_by_nothing(store: Store, wrong: models.Condition) -> None:
    store.create("c", SPEC)
    store.upsert("c", [1], rows(0.1), [{"k": 1}])
    query = VectorQuery(rows(1.0), limit=2, filter=models.Filter(must=[wrong, match("k", 2)]))
    with suppress(HysacError):
        assert store.query("c", query) == [[]]


def test_points_are_written_replaced_searched_and_removed(store: Store) -> None:
    store.create("c", SPEC)
    store.upsert("c", [1, UUID, 3], rows(0.1, 0.3, 0.2), [{"k": 1}, {"k": 2}, {}])
    store.upsert("c", [3], rows(0.9), [{"k": 2, "new": True}])
    assert store.count("c") == 3
    assert store.count("c", models.Filter(must=[match("k", 2)])) == 2
    both, filtered = (
        store.query("c", VectorQuery(rows(1.0, 2.0), limit=2, filter=f, ef=32))
        for f in (None, models.Filter(must_not=[match("new", True)]))
    )
    assert [[p.id for p in answer] for answer in both] == [[3, UUID], [3, UUID]]
    assert [p.id for p in filtered[1]] == [UUID, 1]
    assert both[1][0].score == pytest.approx(2.8)
    assert both[0][0].payload == {"k": 2, "new": True}
    np.testing.assert_allclose(both[0][0].vector or [], [0.9, 1.0, 0.0], rtol=1e-6)
    assert {p.id for p in store.retrieve("c", [UUID, 1, 77])} == {1, UUID}
    store.delete("c", [1, 77])
    assert store.count("c") == 2
    assert store.query("c", VectorQuery(np.empty((0, 3), dtype=np.float32), limit=2)) == []


def test_a_dropped_collection_leaves_no_database_open(tmp_path: Path) -> None:
    client = QdrantClient(path=str(tmp_path))
    store = QdrantStore(client, owned=True)
    store.create("c", SPEC)
    local: Any = client._client
    database = local.collections["c"].storage.storage
    store.drop("c")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.execute("select 1")
    store.close()


def test_more_points_than_one_request_holds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("edge.store", "qdrant.operations"):
        monkeypatch.setattr(f"hysac_retrieval.stores.{module}.UPSERT_CHUNK", 4)
    store.create("c", SPEC)
    store.upsert("c", list(range(11)), rows(*np.linspace(0, 1, 11)), [{"row": row} for row in range(11)])
    assert store.count("c") == 11
    store.optimize("c")
    found = store.query("c", VectorQuery(rows(1.0), limit=11))[0]
    assert [p.id for p in found] == list(range(10, -1, -1))
    assert all(p.payload == {"row": p.id} for p in found)


def test_several_threads_may_search_while_one_writes(store: Store) -> None:
    store.create("c", SPEC)
    store.upsert("c", list(range(50)), rows(*np.linspace(0, 1, 50)), [{}] * 50)
    failures: list[BaseException] = []

    def search() -> None:
        try:
            for _ in range(20):
                assert store.query("c", VectorQuery(rows(1.0), limit=1))[0][0].id == 49
        except BaseException as error:
            failures.append(error)

    def write() -> None:
        try:
            for i in range(20):
                store.upsert("c", [100 + i], rows(0.0), [{}])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=search) for _ in range(4)] + [threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.count("c") == 70


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    for make in (EdgeStore, lambda folder: QdrantStore.connect(path=str(folder))):
        folder = tmp_path / uuid.uuid4().hex
        first = make(folder)
        first.create("c", SPEC)
        first.upsert("c", [1], rows(0.5), [{"k": 1}])
        first.close()
        first.close()
        with pytest.raises(StoreError):
            first.count("c")
        second = make(folder)
        assert (second.open("c").metadata, second.count("c")) == (SPEC.metadata, 1)
        second.close()


_HOLD = """
import sys
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.qdrant.store import QdrantStore
kind, folder = sys.argv[1:]
store = EdgeStore(folder) if kind == "edge" else QdrantStore.connect(path=folder)
print(store.open("c").size, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["edge", "path"])
def test_a_folder_that_another_process_has_open_is_locked(kind: str, tmp_path: Path) -> None:
    connection = {"location" if kind == "edge" else "path": str(tmp_path)}
    store, _ = open_store(connection)  # type: ignore[arg-type]
    store.create("c", SPEC)
    store.close()
    command = [sys.executable, "-c", _HOLD, kind, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "3\n"
        probe = (
            "import sys; from hysac_retrieval.stores import open_store\n"
            "from hysac_retrieval.errors import StorageLockedError\n"
            "try: open_store(dict([sys.argv[1:]]))[0].drop('c')\n"
            "except StorageLockedError as error: print('locked:', error)"
        )
        found = subprocess.run([sys.executable, "-c", probe, *next(iter(connection.items()))], capture_output=True)
        other.stdin.close() if other.stdin else None
    assert found.stdout.startswith(b"locked:"), found.stderr.decode()
    store, _ = open_store(connection)  # type: ignore[arg-type]
    assert store.open("c").size == 3
    store.close()


def test_two_handles_in_one_process_are_refused_too(tmp_path: Path) -> None:
    first, second = EdgeStore(tmp_path), EdgeStore(tmp_path)
    first.create("c", SPEC)
    first.open("c")
    with pytest.raises(StorageLockedError, match="share it"):
        second.open("c")
    first.close()
    assert second.open("c").size == 3
    second.close()


def test_a_crash_while_making_a_collection_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EdgeStore(tmp_path)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("hysac_retrieval.stores.edge.store.write_json", full)
    with pytest.raises(StoreError, match="No space"):
        store.create("c", SPEC)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    store.create("c", SPEC)
    store.close()


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"size": 3}', '{"size": "x", "metadata": {}}'])
def test_a_folder_that_is_no_collection_is_named(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    if content is not None:
        (tmp_path / "c" / "collection.json").write_text(content)
    store = EdgeStore(tmp_path)
    with pytest.raises(NotACollectionError, match="c"):
        store.open("c")
    with pytest.raises(CollectionExistsError):
        store.create("c", SPEC)


def test_the_sidecar_is_never_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EdgeStore(tmp_path)
    store.create("c", SPEC)
    sidecar = tmp_path / "c" / "collection.json"
    before = sidecar.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        store.write_metadata("c", {"dim": float("nan")})
    assert sidecar.read_bytes() == before
    assert sorted(p.name for p in sidecar.parent.iterdir()) == ["collection.json", "shard"]
    assert json.loads(before)["size"] == 3
    store.close()


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\\b", "/abs", ".hidden", "a\0b", "x" * 300])
def test_a_collection_never_leaves_its_location(name: str, tmp_path: Path) -> None:
    store = EdgeStore(tmp_path / "inside")
    for act in (store.open, store.exists, store.drop, lambda n: store.create(n, SPEC)):
        with pytest.raises(SettingsError, match="collection name"):
            act(name)
    assert list(tmp_path.iterdir()) == []


def test_a_location_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(NotACollectionError, match="is a file"):
        EdgeStore(tmp_path / "f")


def test_the_applications_client_and_its_metadata_are_left_alone() -> None:
    client = QdrantClient(":memory:")
    client.create_collection("theirs", models.VectorParams(size=3, distance=models.Distance.COSINE))
    store = QdrantStore(client)
    assert store.open("theirs").size is None
    store.create("c", SPEC)
    client.update_collection("c", metadata={"app": {"v": 1}})
    store.write_metadata("c", {"dim": 9})
    assert client.get_collection("c").config.metadata == {"app": {"v": 1}, "hysac": {"dim": 9}}
    store.close()
    assert client.collection_exists("theirs")
    client.close()


@pytest.mark.parametrize(
    "connection",
    [
        {},
        {"location": "a", "url": "b"},
        {"location": "http://localhost:6333"},
        {"location": "a", "api_key": "secret"},
        {"location": ":memory:", "prefer_grpc": True},
        {"client": "client"},
        {"folder": "a"},
    ],
)
def test_a_connection_names_exactly_one_place(connection: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        open_store(connection)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("options", [{"m": 1}, {"m": "16"}, {"ef_construct": 0}, {"indexing_threshold": -1}])
def test_hnsw_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=next(iter(options))):
        HnswOptions(**options)
