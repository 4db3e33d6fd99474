"""Decoding in processes: the same results, and no harm from processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.pictures import write_pictures, write_truncated

from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.errors import SettingsError
from hysac_retrieval.ingest.pipeline.decode import Decoded, Decoding, Job, content_hash
from hysac_retrieval.ingest.pipeline.workers import Decoder

DECODING = Decoding(ImageSpec(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), max_pixels=10_000)


@dataclass(frozen=True)
class Fatal:
    """Ends its process at an image that says so, the first time or always."""

    marker: Path

    def __call__(self, jobs: Sequence[Job]) -> list[Decoded]:
        for job in jobs:
            if job.content == b"always" or (job.content == b"once" and not self.marker.exists()):
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return [Decoded(content_hash(b"", job.content)) for job in jobs if isinstance(job.content, bytes)]


@dataclass(frozen=True)
class Pid:
    """Says in which process it is."""

    def __call__(self, jobs: Sequence[Job]) -> list[Decoded]:
        return [
            Decoded(f"{content_hash(b'', job.content)} {os.getpid()}") for job in jobs if isinstance(job.content, bytes)
        ]


class Deadly:
    """Kills the process that pickles it."""

    def __reduce__(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"


def die_while_sending(_: Sequence[Job]) -> list[Any]:
    return [b"x" * 1_000_000, Deadly()]


def print_and_hash(jobs: Sequence[Job]) -> list[Decoded]:
    print("a library says hello", flush=True)
    os.write(1, b"and so does one in C")
    return [Decoded(content_hash(b"", job.content)) for job in jobs if isinstance(job.content, bytes)]


def children(pid: int) -> set[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for file in files for child in file.read_text().split()}


@pytest.fixture
def started() -> Callable[[], set[int]]:
    """Processes that have been started since the test began, and have not ended."""
    before = children(os.getpid())
    return lambda: children(os.getpid()) - before


needs_proc = pytest.mark.skipif(not list(Path("/proc/self/task").glob("*/children")), reason="needs /proc")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_decoded_hashed_and_skipped_alike_in_threads_and_processes(tmp_path: Path, workers: int) -> None:
    folder = write_pictures(tmp_path)
    write_truncated(folder / "half.png")
    blue = (folder / "sea.jpg").read_bytes()
    os.mkfifo(folder / "pipe.png")
    jobs = [
        Job(folder / "sea.jpg", b"salt"),
        Job(blue, b"salt"),
        Job(blue, b"other"),
        Job(folder / "half.png", b""),
        Job(folder / "lost.png", b""),
        Job(folder / "pipe.png", b""),
        Job(blue, b"salt", known=content_hash(b"salt", blue)),
        Job(blue, b"salt", known="another"),
    ]
    with Decoder(workers, DECODING) as decoder:
        tickets = [decoder.submit(jobs[start : start + 3]) for start in (0, 3, 6)]
        path, same, other, half, lost, pipe, known, changed = [one for ticket in tickets for one in ticket.result()]
    assert path.views is not None
    assert path.views.rows.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(path.views.rows, same.views.rows)  # type: ignore[union-attr]
    assert path.hash == same.hash == known.hash == changed.hash != other.hash
    assert (known.views, known.error) == (None, None)
    assert changed.views is not None
    for failed, says in ((half, "download"), (lost, "does not exist"), (pipe, "not a regular file")):
        assert failed.views is None
        assert says in str(failed.error)


def test_nothing_waits_for_processes_to_start_where_their_number_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hysac_retrieval.ingest.pipeline.workers._FEW", 2)
    monkeypatch.setattr("hysac_retrieval.ingest.pipeline.workers._default", lambda: 1)
    jobs = [Job(bytes([number]), b"") for number in range(50)]
    expected = [content_hash(b"", bytes([number])) for number in range(50)]
    with Decoder(None, Pid()) as decoder:
        where: set[str] = set()
        deadline = time.monotonic() + 60
        while len(where) < 2 and time.monotonic() < deadline:
            found = [decoder.submit([job]).result()[0] for job in jobs]
            assert [one.hash.partition(" ")[0] for one in found] == expected
            where |= {one.hash.partition(" ")[2] for one in found}
    assert len(where) == 2
    assert str(os.getpid()) in where


@pytest.mark.slow
def test_an_image_that_ends_its_process_fails_alone(tmp_path: Path) -> None:
    with Decoder(1, Fatal(tmp_path / "marker")) as decoder:
        first = decoder.submit([Job(data, b"") for data in (b"a", b"always", b"b")])
        second = decoder.submit([Job(b"c", b"")])
        a, always, b = first.result()
        assert "ended the worker process" in str(always.error)
        assert [found.hash for found in (a, b, *second.result())] == [
            content_hash(b"", data) for data in (b"a", b"b", b"c")
        ]


def test_an_image_that_was_there_when_its_process_was_ended_has_a_second_chance(tmp_path: Path) -> None:
    with Decoder(1, Fatal(tmp_path / "marker")) as decoder:
        (found,) = decoder.submit([Job(b"once", b"")]).result()
        assert found.error is None


@needs_proc
def test_ctrl_c_does_not_reach_the_processes(started: Callable[[], set[int]]) -> None:
    with Decoder(1, DECODING) as decoder:
        ticket = decoder.submit([Job(b"a", b"")])
        pids = set()
        while not ticket.done():  # while it starts, too
            for child in started():
                os.kill(child, signal.SIGINT)
                pids.add(child)
            time.sleep(0.01)
        assert "not an image" in str(ticket.result()[0].error)
        assert len(pids) == 1


@needs_proc
def test_processes_are_born_with_interrupts_blocked(started: Callable[[], set[int]]) -> None:
    with Decoder(2, DECODING) as decoder:
        for ticket in [decoder.submit([Job(b"a", b"")]) for _ in range(2)]:
            ticket.result()
        masks = [Path(f"/proc/{child}/status").read_text().partition("SigBlk:")[2] for child in started()]
    assert masks
    assert all(int(mask.split()[0], 16) & 1 << signal.SIGINT - 1 for mask in masks)


def test_a_process_that_is_killed_while_it_sends_is_noticed() -> None:
    with Decoder(1, die_while_sending) as decoder:
        (found,) = decoder.submit([Job(b"a", b"")]).result(timeout=60)
    assert "ended the worker process" in str(found.error)


def test_what_is_printed_while_decoding_is_neither_a_result_nor_output(capfd: pytest.CaptureFixture[str]) -> None:
    with Decoder(1, print_and_hash) as decoder:
        (found,) = decoder.submit([Job(b"a", b"")]).result()
    assert found.hash == content_hash(b"", b"a")
    assert capfd.readouterr() == ("", "")


@needs_proc
def test_no_process_is_left_that_was_still_starting(
    started: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hysac_retrieval.ingest.pipeline.workers._FEW", 0)
    with Decoder(None, DECODING) as decoder:
        decoder.submit([Job(b"a", b"")]).result()
        assert started()
    assert not started()


UNGUARDED = """
import sys
from pathlib import Path
from hysac_retrieval import Encoder, Index
from hysac_retrieval.ingest import index_sources

pictures, bundle = sys.argv[1:]
print("top level", flush=True)
encoder = Encoder.load(bundle, threads=1)
with Index.for_model(encoder, "things", location=":memory:") as index:
    print(index_sources([pictures], index, encoder, workers=2).total, index.count())
"""


def test_a_script_needs_no_guard_for_its_main(tmp_path: Path, toy_bundle: Path) -> None:
    script, pictures = tmp_path / "script.py", tmp_path / "pictures"
    script.write_text(UNGUARDED, encoding="utf-8")
    pictures.mkdir()
    for number in range(100):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(pictures / f"{number}.png")
    command = [sys.executable, "-W", "error", script, pictures, toy_bundle]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["top level", "100 100"], "")


@pytest.mark.parametrize("workers", [1, None])
@pytest.mark.parametrize("program", ["/usr/bin/false", "/no/such/program"])
def test_processes_that_do_not_start_are_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, program: str
) -> None:
    monkeypatch.setattr("hysac_retrieval.ingest.pipeline.workers._FEW", 0)
    monkeypatch.setattr(sys, "executable", program)
    with Decoder(workers, DECODING) as decoder:
        error, deadline = None, time.monotonic() + 60
        while error is None and time.monotonic() < deadline:  # threads decode until it is known
            error = decoder.submit([Job(b"a", b"")]).exception()
    assert isinstance(error, SettingsError)
    assert "workers=0" in str(error)


def test_an_application_packed_whole_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hysac_retrieval.ingest.pipeline.workers._FEW", 0)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    with Decoder(None, DECODING) as decoder:
        assert "not an image" in str(decoder.submit([Job(b"a", b"")]).result()[0].error)


ORPHAN = """
import time
from hysac_retrieval.ingest.pipeline.decode import Decoding, Job
from hysac_retrieval.ingest.pipeline.workers import Decoder
with Decoder(1, Decoding(None, 1)) as decoder:
    decoder.submit([Job(b"a", b"")]).result()
    print("decoded", flush=True)
    time.sleep(600)
"""


@needs_proc
def test_processes_end_with_one_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "decoded\n"
        (worker,) = children(process.pid)
        process.kill()

    def runs() -> bool:
        try:
            return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    deadline = time.monotonic() + 30
    while runs() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs()


def test_workers_load_next_to_nothing() -> None:
    script = "import sys, hysac_retrieval.ingest.pipeline.decode\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "hysac_retrieval.ingest.pipeline.decode" in loaded
    heavy = {"qdrant_client", "qdrant_edge", "onnxruntime", "tokenizers", "sqlite3", "multiprocessing"}
    assert not heavy & set(loaded)
    assert "hysac_retrieval.ingest.pipeline.workers" not in loaded
