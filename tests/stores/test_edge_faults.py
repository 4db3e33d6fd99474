"""The embedded engine when its disk is full, and when its process is killed."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hysac_retrieval.errors import StorageFullError, StoreError
from hysac_retrieval.stores import CollectionSpec, HnswOptions, VectorQuery
from hysac_retrieval.stores.edge.faults import translated
from hysac_retrieval.stores.edge.files import SPACE
from hysac_retrieval.stores.edge.store import EdgeStore

DIM, CHUNK = 32, 100
SPEC = CollectionSpec(DIM, {"v": 1}, "Euclid", hnsw=HnswOptions(full_scan_threshold=10, indexing_threshold=100))


def vectors(start: int, n: int = CHUNK) -> np.ndarray:
    """Vectors that say which point they belong to."""
    rows = np.arange(start, start + n, dtype=np.float32)[:, None]
    made: np.ndarray = np.sin(rows * np.arange(1, DIM + 1, dtype=np.float32))
    return made


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[4].split(":")
from test_edge_faults import CHUNK, vectors
from hysac_retrieval.stores.edge.store import EdgeStore

store, mode, start = EdgeStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store.open("c")
print("ready", flush=True)
for first in range(start, 10**6, CHUNK):
    ids = list(range(first, first + CHUNK))
    store.upsert("c", ids, vectors(first), [{"n": n} for n in ids])
    print(first + CHUNK, flush=True)
    if mode == "optimize" and (first - start) // CHUNK % 10 == 9:
        print("optimizing", flush=True)
        store.optimize("c")
"""


@contextmanager
def writer(folder: Path, mode: str, start: int) -> Iterator[subprocess.Popen[str]]:
    path = ":".join((str(Path(__file__).parent), *sys.path))
    command = [sys.executable, "-c", WRITER, str(folder), mode, str(start), path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def killed(folder: Path, mode: str, start: int, rng: random.Random) -> int:
    """Have another process write until it is killed; the number of points that it had acknowledged."""
    acknowledged = start
    with writer(folder, mode, start) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        stop_at = rng.randrange(3, 15) if mode == "upsert" else 1
        for line in process.stdout:
            word = line.strip()
            if word.isdigit():
                acknowledged = int(word)
            stop_at -= word == "optimizing" if mode == "optimize" else word.isdigit()
            if stop_at == 0:
                break
        else:
            raise AssertionError(process.stderr.read())
        time.sleep(rng.uniform(0.0, 0.05 if mode == "upsert" else 0.3))
        process.kill()
        for line in process.stdout:  # what it still said before the end
            if line.endswith("\n") and line.strip().isdigit():
                acknowledged = int(line)
    return acknowledged


@pytest.mark.slow
def test_a_killed_process_leaves_every_point_that_it_had_acknowledged(tmp_path: Path) -> None:
    rng, acknowledged = random.Random(), 0
    first = EdgeStore(tmp_path)
    first.create("c", SPEC)
    first.close()
    for mode in ("upsert", "optimize", "optimize", "upsert"):
        acknowledged = killed(tmp_path, mode, acknowledged, rng)
        store = EdgeStore(tmp_path)
        assert (store.open("c").metadata, store.open("c").size) == (SPEC.metadata, DIM)
        # A chunk may have been written whose acknowledgement was lost: whole, or in part.
        count = store.count("c")
        assert acknowledged <= count <= acknowledged + CHUNK
        ids: list[int | str] = []
        after = None
        while True:
            page, after = store.scroll("c", limit=1000, after=after, with_vectors=True)
            for point in page:
                assert point.payload == {"n": point.id}
                np.testing.assert_allclose(point.vector or [], vectors(int(point.id), 1)[0], atol=1e-6)
            ids.extend(point.id for point in page)
            if after is None:
                break
        assert ids[:acknowledged] == list(range(acknowledged))
        some = np.array([0, acknowledged // 2, acknowledged - 1])
        asked = VectorQuery(np.concatenate([vectors(int(i), 1) for i in some]), limit=1)
        assert [answer[0].id for answer in store.query("c", asked)] == some.tolist()
        store.close()


def test_a_nearly_full_disk_is_refused_before_the_engine_meets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EdgeStore(tmp_path)
    store.create("c", SPEC)
    store.upsert("c", list(range(CHUNK)), vectors(0), [{}] * CHUNK)
    real = shutil.disk_usage(tmp_path)

    def left(free: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda _: real._replace(free=free))

    left(SPACE - 1)
    for act in (
        lambda: store.upsert("c", list(range(CHUNK)), vectors(0), [{}] * CHUNK),
        lambda: store.delete("c", [1]),
        lambda: store.create("d", SPEC),
    ):
        with pytest.raises(StorageFullError, match="Free some space"):
            act()
    assert store.names() == ["c"]
    left(SPACE + 10_000_000)
    store.upsert("c", [1], vectors(1, 1), [{"text": "short"}])
    with pytest.raises(StorageFullError, match="0 of the 2 points"):
        store.upsert("c", [1, 2], vectors(1, 2), [{"text": "x" * 1_500_000}] * 2)
    assert store.retrieve("c", [1])[0].payload == {"text": "short"}
    store.close()


FILLER = """
import os, shutil, sys
sys.path[:0] = sys.argv[2].split(":")
from test_edge_faults import CHUNK, SPEC, vectors
from hysac_retrieval.errors import StorageFullError
from hysac_retrieval.stores.edge.files import SPACE
from hysac_retrieval.stores.edge.store import EdgeStore

folder = sys.argv[1]
store = EdgeStore(folder)
store.create("c", SPEC)
with open(folder + "/filler", "wb") as filler:
    os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(folder).free - SPACE - 3_000_000)
done = 0
try:
    while True:
        ids = list(range(done, done + CHUNK))
        store.upsert("c", ids, vectors(done), [{"text": "x" * 100}] * CHUNK)
        done += CHUNK
except StorageFullError as error:
    print("full:", error)
assert done > CHUNK, done
assert store.count("c") == done
assert len(store.scroll("c", limit=10**6)[0]) == done
os.unlink(folder + "/filler")
store.upsert("c", [done], vectors(done, 1), [{}])
store.close()
store = EdgeStore(folder)
store.open("c")
print("count", store.count("c") - done)
store.close()
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    path = ":".join((str(Path(__file__).parent), *sys.path))
    size = SPACE // 2**20 + 64
    mounted = f'mount -t tmpfs -o size={size}m tmpfs "$0" && exec "$@"'
    # A mount of its own that ends with the process.
    command: list[Any] = ["unshare", "--mount", "--map-root-user", "sh", "-c", mounted, disk]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here to be filled: {error}")
    found = subprocess.run([*command, sys.executable, "-c", FILLER, disk, path], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "MB left" in found.stdout
    assert found.stdout.endswith("count 1\n")


LIMITED = """
import resource, sys
sys.path[:0] = sys.argv[2].split(":")
from test_edge_faults import CHUNK, SPEC, vectors
from hysac_retrieval.errors import StorageFullError
from hysac_retrieval.stores.edge.store import EdgeStore

store = EdgeStore(sys.argv[1])
store.create("c", SPEC)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
try:
    store.upsert("c", list(range(CHUNK)), vectors(0), [{}] * CHUNK)
except StorageFullError as error:
    print(error.written, error)
"""


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_an_error(tmp_path: Path) -> None:
    path = ":".join((str(Path(__file__).parent), *sys.path))
    found = subprocess.run([sys.executable, "-c", LIMITED, tmp_path, path], capture_output=True, text=True)
    assert found.stdout.startswith("0 collection 'c': "), found.stderr
    assert "Free some space" in found.stdout


def test_a_panic_of_the_engine_is_an_error_of_the_store() -> None:
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(StoreError, match="'c': the engine gave up: index out of bounds"), translated("c"):
        raise panic("index out of bounds")
    with pytest.raises(KeyboardInterrupt), translated("c"):
        raise KeyboardInterrupt
