"""What a run opens is closed when it ends, also where it fails or is left half-way."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.pictures import write_pictures, write_truncated
from support.shards import shard

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import HysacError, SettingsError, SourceError, StoreError
from hysac_retrieval.ingest import Listing, SourceOptions, check_sources, index_sources, status_of


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """One of each kind, all longer than what is read at once."""
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    import pyarrow.parquet

    folder = tmp_path / "things"
    write_truncated(write_pictures(folder / "p") / "half.png")
    texts = [f"a dog {number}" for number in range(500)]
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(f'{{"text": "a cat {n}"}}\n' for n in range(500)), encoding="utf-8")
    (folder / "rows.csv").write_text("text\n" + "\n".join(texts), encoding="utf-8")
    pyarrow.parquet.write_table(pa.table({"text": texts}), folder / "rows.parquet")
    files = {f"{n}.txt": b"a house" for n in range(300)}
    shards = [shard(folder / name, files) for name in ("s.tar", "s.tar.gz")]
    return [folder / "p", *(folder / f for f in ("texts.txt", "rows.jsonl", "rows.csv", "rows.parquet")), *shards]


@pytest.fixture
def captions(tmp_path: Path) -> SourceOptions:
    table = tmp_path / "things" / "captions.jsonl"
    table.write_text('{"file": "sea.jpg", "caption": "the sea"}\n', encoding="utf-8")
    return SourceOptions(captions=table, index_captions=True)


@pytest.fixture
def left_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Says what is open: databases made during the test, and files of the sources."""
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def connecting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        made.append(connect(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", connecting)

    def is_open(database: sqlite3.Connection) -> bool:
        try:
            database.execute("SELECT 1")
        except sqlite3.ProgrammingError:
            return False
        return True

    def found() -> list[str]:
        assert made
        files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd_is_there(fd)]
        of_sources = [file for file in files if file.startswith(str(tmp_path / "things"))]
        return ["a database" for database in made if is_open(database)] + of_sources

    return found


def fd_is_there(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


linux = pytest.mark.skipif(sys.platform != "linux", reason="open files are told by /proc")


@linux
def test_nothing_stays_open_after_a_run(
    sources: list[Path], captions: SourceOptions, encoder: Encoder, index: Index, left_open: Callable[[], list[str]]
) -> None:
    report = index_sources(sources, index, encoder, options=captions, on_progress=lambda _: None)
    assert report.failures == 1
    assert left_open() == []
    status_of(sources, index, options=captions)
    assert left_open() == []
    check_sources(sources, options=captions)
    assert left_open() == []


@linux
@pytest.mark.parametrize("what", ["upsert", "scroll"])
def test_nothing_stays_open_after_a_run_that_fails(
    what: str,
    sources: list[Path],
    captions: SourceOptions,
    encoder: Encoder,
    index: Index,
    left_open: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index.upsert([1], encoder.encode_text(["a dog"]), modality="text")  # or nothing would be looked up

    def broken(*_: Any, **__: Any) -> Any:
        raise StoreError("no more")

    for first in sources:
        monkeypatch.setattr(index.store, what, broken)
        with pytest.raises(StoreError, match="no more") as caught:
            index_sources([first, sources[0]], index, encoder, options=captions, batch_size=1)
        assert caught.tb is not None  # what the error's frames hold is alive
        assert left_open() == []
        monkeypatch.undo()


@linux
def test_nothing_stays_open_after_a_run_that_is_stopped(
    sources: list[Path], captions: SourceOptions, encoder: Encoder, index: Index, left_open: Callable[[], list[str]]
) -> None:
    for first in sources[1:]:
        report = index_sources([first, sources[0]], index, encoder, options=captions, should_stop=lambda: True)
        assert report.interrupted
        assert left_open() == []


@linux
def test_nothing_stays_open_of_sources_that_are_refused(
    sources: list[Path], captions: SourceOptions, tmp_path: Path, left_open: Callable[[], list[str]]
) -> None:
    empty = tmp_path / "things" / "empty.txt"
    empty.touch()
    refused: list[tuple[list[Path], SourceOptions | None, type[HysacError]]] = [
        ([*sources, tmp_path / "lost"], captions, SourceError),
        ([*sources, empty], captions, SourceError),
        (sources[1:], captions, SettingsError),
    ]
    for given, options, kind in refused:
        with pytest.raises(kind) as caught:
            Listing(given, options)
        assert caught.tb is not None
        assert left_open() == []


@linux
def test_nothing_stays_open_of_a_listing_that_is_left_half_way(
    sources: list[Path], left_open: Callable[[], list[str]]
) -> None:
    for source in sources:
        with Listing([source]) as listing, closing(iter(listing)) as items:
            next(items)
            assert left_open()
        assert left_open() == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are told by /proc")
def test_processes_that_decode_leave_no_pipe_behind(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    folder = write_pictures(tmp_path / "p")
    counts = []
    for _ in range(3):
        index_sources([folder], index, encoder, workers=1, resume=False)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[1] == counts[2]
