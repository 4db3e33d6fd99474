"""Several processes of one service: each opens the collection for itself, and their figures are added up."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from support.rest_server import rest_server
from support.service import fill

from hysac_retrieval import Encoder, Index
from hysac_retrieval.cli import main

SEARCHES = 24


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked at in /proc")
def test_workers_are_started_anew_answer_alike_and_add_their_figures_up(
    tmp_path: Path, toy_bundle: Path, toy_encoder: Encoder
) -> None:
    with rest_server() as server, socket.socket() as free:
        with Index.for_model(toy_encoder, "toy", **server.place) as index:
            fill(index, toy_encoder, tmp_path)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        arguments = ["--collection", "toy", "--url", server.url, "--model", str(toy_bundle), "--port", str(port)]
        script = "from hysac_retrieval.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", script, "serve", *arguments, "--workers", "2"],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "OMP_NUM_THREADS": "1",
                "TMPDIR": str(tmp_path),
            },
        )
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            began = time.monotonic()
            while len(_pids(tmp_path)) < 2 or not _ready(address):
                assert process.poll() is None
                assert time.monotonic() - began < 300
                time.sleep(0.2)
            for pid in _pids(tmp_path):
                assert pid != process.pid
                # Not a fork: an interpreter of its own, which imports everything anew.
                assert b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            before = _counted(address)
            for _ in range(SEARCHES):  # a connection each, so that both are asked
                found = httpx.post(f"{address}/v1/search", json={"text": "a dog", "limit": 100}, timeout=60)
                assert found.status_code == 200, found.text
                assert len(found.json()["hits"]) == 4
            assert {_counted(address) for _ in range(4)} == {before + SEARCHES}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            if process.stdout is not None:
                process.stdout.close()
        assert not list(tmp_path.glob("hysac-metrics-*"))


def _pids(folder: Path) -> set[int]:
    """Processes that keep figures; they do from when their application is made."""
    return {int(re.findall(r"\d+", path.stem)[-1]) for path in folder.glob("hysac-metrics-*/counter_*.db")}


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def _counted(address: str) -> float:
    text = httpx.get(f"{address}/metrics", timeout=10).text
    return float(re.findall(r"^hysac_filtered_total (\S+)$", text, re.MULTILINE)[0])


def test_a_folder_has_one_process_and_what_is_not_there_ends_at_once(tmp_path: Path, toy_bundle: Path) -> None:
    serve = ["serve", "--collection", "toy", "--model", str(toy_bundle), "--workers", "2"]
    result = CliRunner().invoke(main, [*serve, "--location", str(tmp_path)])
    assert result.exit_code == 2
    assert "one process" in result.output
    with rest_server() as server:
        result = CliRunner().invoke(main, [*serve, "--url", server.url])
    assert result.exit_code == 1
    assert "toy" in result.output
