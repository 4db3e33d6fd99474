"""Programs that fork, run in a process of their own, so that a hang is the failure of one test."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = """
import os, sys, time, traceback
from pathlib import Path
import numpy as np
from hysac_retrieval import connect, Encoder, Index, SafeSearch
from hysac_retrieval.errors import ForkedError, HysacError
from support.spaces import CURVATURE, DIM, profile, random_points

def index(place, n=60, **options):
    made = Index.create("c", dim=DIM, curvature=CURVATURE, safety=profile(), **place, **options)
    made.upsert(range(n), random_points(n), modality="image")
    return made

def child(act, ends=lambda: os._exit(0), seconds=20):
    "Run in a fork: 'done' and what it returns, the name and the text of its error, or 'hangs'."
    out, into = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            answer = f"done {act()}"
        except BaseException as error:
            answer = f"{type(error).__name__} {error}"
        os.write(into, answer.encode())
        os.close(into)
        ends()
        os._exit(7)
    os.close(into)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with open(out, "rb") as stream:
                return stream.read().decode() + ("" if status == 0 else f" and ended with {status}")
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"
"""


def run_forking(program: str, *arguments: str | Path, seconds: float = 120) -> list[str]:
    """Run a program after `PRELUDE` and return the lines that it prints."""
    code = PRELUDE + textwrap.dedent(program)
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
