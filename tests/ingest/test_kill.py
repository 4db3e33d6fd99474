"""Indexing that is killed at random moments, again and again, ends where it would have without."""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

KILLS = 24
PICTURES, TEXTS = 240, 160


def sources(folder: Path) -> list[Path]:
    """A few hundred tiny pictures, two of which cannot be read, and texts."""
    rng = np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)
    for number in range(PICTURES):
        colour = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (20, 20, 3))
        Image.fromarray(np.ascontiguousarray(colour)).save(pictures / f"{number:03}.png")
    for number in (17, 140):
        (pictures / f"{number:03}.png").write_bytes(b"no picture")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"a dog {n}", "n": n}) + "\n" for n in range(TEXTS)), encoding="utf-8")
    return [pictures, rows]


def failed(journal: Path) -> set[str]:
    return {Path(json.loads(line)["item"]).name for line in journal.read_text(encoding="utf-8").splitlines()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork server")
def test_a_collection_indexed_in_spite_of_kills_equals_one_indexed_at_once(tmp_path: Path, toy_bundle: Path) -> None:
    from support import kill_target

    # Importing takes most of a run's time: the fork server does it once for all runs.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.kill_target"])
    things = sources(tmp_path / "things")

    def start(name: str) -> tuple[Any, Connection]:
        ours, theirs = context.Pipe(duplex=False)
        arguments = (toy_bundle, things, tmp_path / name, tmp_path / f"{name}.jsonl", theirs)
        process = context.Process(target=kill_target.index, args=arguments)
        process.start()
        theirs.close()
        return process, ours

    def finish(name: str) -> None:
        process, progress = start(name)
        while progress.recv() >= 0:
            pass
        process.join()
        assert process.exitcode == 0

    finish("whole")
    payloads, vectors = kill_target.contents(tmp_path / "whole")
    assert len(payloads) == PICTURES - 2 + TEXTS

    def check(name: str) -> None:
        found, points = kill_target.contents(tmp_path / name)
        assert found == payloads
        np.testing.assert_allclose([points[key] for key in vectors], list(vectors.values()), rtol=0, atol=1e-6)
        assert failed(tmp_path / f"{name}.jsonl") == failed(tmp_path / "whole.jsonl") == {"017.png", "140.png"}

    random_ = random.Random(7)
    kills, life, furthest = 0, 0, 0
    while kills < KILLS:
        process, progress = start(f"life{life}")
        # A few steps beyond what any run got to, and a moment; some before the first step, the last ones at the end.
        steps = random_.choice((0, 2, 4, 6, 8)) if kills < KILLS - 4 else 10_000
        done = 0
        while steps > 0 and done >= 0:
            done = progress.recv()
            steps -= done > furthest
        process.join(random_.uniform(0, 0.03))
        process.kill()
        process.join()
        progress.close()
        kills, furthest = kills + 1, max(furthest, done)
        if done < 0 and kills < KILLS - 4:  # it came to its end; start afresh
            check(f"life{life}")
            life, furthest = life + 1, 0
    finish(f"life{life}")
    check(f"life{life}")
