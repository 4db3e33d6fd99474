"""Decoding in processes: the same results, and no harm from processes that die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
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


def send_half_of_a_message(pipe: Connection, decoding: object) -> None:
    """What a worker does that is killed while it sends its results."""
    pipe.send("ready")
    pipe.recv()
    os.write(pipe.fileno(), struct.pack("!i", 1_000_000) + b"x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)


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
    assert path.pixels is not None
    assert path.pixels.shape == (16, 16, 3)
    np.testing.assert_array_equal(path.pixels, same.pixels)
    assert path.hash == same.hash == known.hash == changed.hash != other.hash
    assert (known.pixels, known.error) == (None, None)
    assert changed.pixels is not None
    for failed, says in ((half, "download"), (lost, "does not exist"), (pipe, "not a regular file")):
        assert failed.pixels is None
        assert says in str(failed.error)


def test_nothing_waits_for_processes_to_start_where_their_number_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hysac_retrieval.ingest.pipeline.workers._FEW", 2)
    monkeypatch.setattr("hysac_retrieval.ingest.pipeline.workers._cores", lambda: 1)
    jobs = [Job(bytes([number]), b"") for number in range(50)]
    expected = [content_hash(b"", bytes([number])) for number in range(50)]
    with Decoder(None, Pid()) as decoder:  # type: ignore[arg-type]
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
    with Decoder(1, Fatal(tmp_path / "marker")) as decoder:  # type: ignore[arg-type]
        first = decoder.submit([Job(data, b"") for data in (b"a", b"always", b"b")])
        second = decoder.submit([Job(b"c", b"")])
        a, always, b = first.result()
        assert "ended the worker process" in str(always.error)
        assert [found.hash for found in (a, b, *second.result())] == [
            content_hash(b"", data) for data in (b"a", b"b", b"c")
        ]


def test_an_image_that_was_there_when_its_process_was_ended_has_a_second_chance(tmp_path: Path) -> None:
    with Decoder(1, Fatal(tmp_path / "marker")) as decoder:  # type: ignore[arg-type]
        (found,) = decoder.submit([Job(b"once", b"")]).result()
        assert found.error is None


def test_ctrl_c_does_not_reach_the_processes(tmp_path: Path) -> None:
    with Decoder(1, DECODING) as decoder:
        ticket = decoder.submit([Job(b"a", b"")])
        pids = set()
        while not ticket.done():  # while it starts, too
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGINT)
                pids.add(child.pid)
            time.sleep(0.01)
        assert "not an image" in str(ticket.result()[0].error)
        assert len(pids) == 1


def test_a_process_that_is_killed_while_it_sends_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hysac_retrieval.ingest.pipeline.workers._serve", send_half_of_a_message)
    with Decoder(1, DECODING) as decoder:
        (found,) = decoder.submit([Job(b"a", b"")]).result(timeout=60)
    assert "ended the worker process" in str(found.error)


SCRIPT = """
from hysac_retrieval.ingest.pipeline.decode import Decoding, Job
from hysac_retrieval.ingest.pipeline.workers import Decoder
with Decoder(1, Decoding(None, 1)) as decoder:
    decoder.submit([Job(b"a", b"")]).result()
"""


def test_a_script_that_does_not_guard_its_main_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert SettingsError.__name__ in last
    assert "__main__" in last


ORPHAN = """
import multiprocessing, sys, time
from hysac_retrieval.ingest.pipeline.decode import Decoding, Job
from hysac_retrieval.ingest.pipeline.workers import Decoder
if __name__ == "__main__":
    with Decoder(1, Decoding(None, 1)) as decoder:
        decoder.submit([Job(b"a", b"")]).result()
        print(multiprocessing.active_children()[0].pid, flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_end_with_one_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHAN, encoding="utf-8")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
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


def test_workers_load_no_vector_store() -> None:
    script = "import sys, hysac_retrieval.ingest.pipeline.workers\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "hysac_retrieval.ingest.pipeline.decode" in loaded
    assert not {"qdrant_client", "qdrant_edge", "onnxruntime", "tokenizers", "sqlite3"} & set(loaded)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="masks are told by /proc")
def test_every_process_is_born_with_interrupts_blocked(tmp_path: Path) -> None:
    """The first one, too, in an interpreter that has started no process yet."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import multiprocessing, re, sys
from pathlib import Path
from hysac_retrieval.ingest.pipeline.decode import Decoding, Job
from hysac_retrieval.ingest.pipeline.workers import Decoder

if __name__ == "__main__":
    with Decoder(2, Decoding(None, 100)) as decoder:
        decoder.submit([Job(b"a", b"")]).result()
        for child in multiprocessing.active_children():
            status = Path(f"/proc/{child.pid}/status").read_text()
            print(int(re.search("SigBlk:\\\\s*([0-9a-f]+)", status)[1], 16) & 2)
""",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"2"}
