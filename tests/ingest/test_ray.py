"""Indexing with Ray, on a cluster of this machine alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from support.listed import listed
from support.pictures import COLOURS, write_pictures, write_truncated
from support.shards import shard

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import MissingExtraError, SettingsError
from hysac_retrieval.ingest import index_sources
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.protocols import Outcome, Task
from hysac_retrieval.ingest.ray import RayOptions

SCRIPT = """
import json, os, sys
from pathlib import Path

def main(root, model):
    import ray
    from support.kill_target import contents
    from hysac_retrieval.collection.index import Index
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.ingest import index_sources
    from hysac_retrieval.ingest.ray import RayOptions

    ray.init(num_cpus=3, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    encoder = Encoder.load(model, threads=1)
    sources = [root / "photos", root / "texts.txt", root / "s{0..1}.tar"]
    def run(name, **options):
        with Index.for_model(encoder, "things", exist_ok=True, location=root / name) as index:
            report = index_sources(sources, index, encoder, batch_size=8, journal=root / f"{name}.jsonl", **options)
        found = report.to_dict()
        return {key: found[key] for key in ("indexed", "skipped", "left_out", "failures", "cut", "pruned")}
    seen = []
    calls = []
    cluster = dict(ray=RayOptions(actors=2), on_progress=calls.append)
    seen.append(run("here"))
    seen.append(run("ray", **cluster))
    progress = [calls[-1].done, calls[-1].total]
    payloads, vectors = contents(root / "here")
    there, points = contents(root / "ray")
    assert there == payloads
    for key, vector in vectors.items():
        assert max(abs(a - b) for a, b in zip(vector, points[key])) < 1e-6
    seen.append(run("ray", **cluster))
    (root / "photos" / "sea.jpg").rename(root / "photos" / "lake.jpg")
    seen.append(run("ray", **cluster, only=["failed"]))
    seen.append(run("ray", **cluster, prune=True))
    json.dump({"seen": seen, "progress": progress}, sys.stdout)

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
"""


def test_a_cluster_indexes_as_this_process_does(tmp_path: Path, toy_bundle: Path) -> None:
    pytest.importorskip("ray", reason="indexing with Ray is NOT tested: the extra ray is not installed")
    folder = write_pictures(tmp_path / "photos")
    write_truncated(folder / "half.png")
    (tmp_path / "texts.txt").write_text("".join(f"a dog {n} in the park with a cat\n" for n in range(30)), "utf-8")
    for number in (0, 1):
        files = {f"{n}.jpg": (folder / "sea.jpg").read_bytes() for n in range(3)} | {"3.json": b'{"x": 1}'}
        shard(tmp_path / f"s{number}.tar", files)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, script, tmp_path, toy_bundle],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, **paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index('{"seen"') :])
    here, there, again, only, pruned = found["seen"]
    assert here == there
    assert here == {"indexed": {"image": 10, "text": 30}, "skipped": 0, "left_out": 0, "failures": 3, "cut": 30} | {
        "pruned": 0
    }
    assert again == here | {"indexed": {"image": 0, "text": 0}, "skipped": 40, "cut": 0}
    assert only == again | {"skipped": 0, "left_out": 40, "failures": 3}
    assert pruned == again | {"indexed": {"image": 1, "text": 0}, "skipped": 39, "pruned": 0}  # two samples are broken
    assert found["progress"] == [43, 43]


@pytest.mark.parametrize("address", ["ray://head:10001", "ray://127.0.0.1:10001", "anyscale://cluster"])
@pytest.mark.parametrize("given", ["address", "RAY_ADDRESS"])
def test_an_address_of_rays_client_is_refused_at_once(
    address: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address if given == "RAY_ADDRESS" else "head:6379")
    with pytest.raises(SettingsError, match=f"^{address} is for Ray's client") as raised:
        RayOptions(address if given == "address" else None)
    assert "HOST:PORT" in (raised.value.hint or "")


@pytest.mark.parametrize("address", [None, "auto", "local", "head:6379", "[::1]:6379"])
def test_other_addresses_of_clusters_are_taken(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert RayOptions(address).address == address


@pytest.mark.parametrize(("address", "why"), [("127.0.0.1:1", "refused"), ("127.0.0.1:99999", "99999 is no port")])
@pytest.mark.parametrize("given", ["address", "RAY_ADDRESS"])
def test_a_cluster_that_is_not_there_is_said_at_once(
    tmp_path: Path, toy_bundle: Path, address: str, why: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="indexing with Ray is NOT tested: the extra ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", address)
    options = RayOptions(address if given == "address" else None)
    encoder = Encoder.load(toy_bundle, threads=1)
    index = Index.for_model(encoder, "things", exist_ok=True, location=":memory:")
    with index, pytest.raises(SettingsError, match=f"no Ray cluster at {address}: .*{why}"):
        index_sources([write_pictures(tmp_path)], index, encoder, ray=options)


@pytest.mark.slow
def test_a_command_with_ray_prints_its_own_lines_only(tmp_path: Path, toy_bundle: Path) -> None:
    pytest.importorskip("ray", reason="indexing with Ray is NOT tested: the extra ray is not installed")
    (tmp_path / "texts.txt").write_text("a dog\na cat\n", encoding="utf-8")
    command = [sys.executable, "-c", "from hysac_retrieval.cli import main; main()", "index", "texts.txt", "--ray"]
    options = ["--workers", "1", "--collection", "t", "--location", "there", "--model", str(toy_bundle)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HYSAC_", "QDRANT_"))}
    env |= {"PYTHONPATH": ":".join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command + options, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["Indexed", "Collection"]


def test_without_ray_the_extra_is_named(tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    encoder = Encoder.load(toy_bundle, threads=1)
    with Index.for_model(encoder, "things", exist_ok=True, location=":memory:") as index:
        with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[ray\]"):
            index_sources([write_pictures(tmp_path)], index, encoder, ray=RayOptions())
        assert index.count() == 0


def test_what_a_machine_does_needs_no_cluster(tmp_path: Path, toy_bundle: Path) -> None:
    """The tasks one after the other, without Ray between them."""
    pytest.importorskip("pyarrow", reason="needs the extra tables")
    from hysac_retrieval.ingest.ray import Encode, decode, take, unpacked

    folder = write_pictures(tmp_path / "p")
    write_truncated(folder / "half.png")
    (tmp_path / "texts.txt").write_text("a dog\n", encoding="utf-8")
    encoder = Encoder.load(toy_bundle, threads=1)
    encode = Encode(str(toy_bundle), encoder.fingerprint, 1, 8)
    decoding = Decoding(encoder.image_spec, 10**6)
    items, _ = listed([folder, tmp_path / "texts.txt"])

    def run(known: dict[str, str]) -> list[Outcome]:
        queue: SimpleQueue[Any] = SimpleQueue()
        for some in (items[:2], [], items[2:]):
            queue.put([Task(item, "stale", known.get(item.id)) for item in some])
        queue.put(None)
        return [row for table in take(None, queue) for row in unpacked(encode(decode(table, decoding)))]

    rows = run({})
    points = [row for row in rows if row.point is not None]
    assert sorted(row.item.payload.get("file", "text") for row in points) == sorted([*COLOURS, "text"])
    assert {row.item.content for row in points} == {b"", "a dog"}
    assert [row.tokens > 0 for row in points] == [row.item.modality == "text" for row in points]
    (failed,) = [row for row in rows if row.error is not None]
    assert failed.item.payload == {"file": "half.png"}
    again = run({row.item.id: row.hash for row in points})
    assert {row.item.id for row in again if row.error is None} == {row.item.id for row in points}
    assert not [row for row in again if row.point is not None]
    with pytest.raises(SettingsError, match="another model"):
        Encode(str(toy_bundle), "another", 1, 8)
