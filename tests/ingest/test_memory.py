"""A run of indexing under a limit of address space: refused before the work, where it could not come to its end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hysac_retrieval.errors import ResourceError
from hysac_retrieval.ingest.memory import LEAST, expect_memory

resource = pytest.importorskip("resource", reason="there are no limits of processes here")
COMMAND = "from hysac_retrieval.cli import main; main()"


@pytest.mark.parametrize("megabytes", [1000, 1400, 1800])
def test_a_run_that_could_not_end_does_not_begin(megabytes: int, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a dog\na cat\n", encoding="utf-8")
    limit = megabytes * 1_000_000
    found = subprocess.run(
        [sys.executable, "-c", COMMAND, "index", "texts.txt", "--collection", "c", "--location", "data"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert found.returncode == 1, found.stderr
    assert f"may use {megabytes / 1000:.2f} GB of address space" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("soft", [LEAST, resource.RLIM_INFINITY])
def test_enough_is_enough(soft: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, resource.RLIM_INFINITY))
    expect_memory()


def test_too_little_is_said_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (LEAST - 1, resource.RLIM_INFINITY))
    with pytest.raises(ResourceError, match=r"indexing takes 1\.9 GB") as error:
        expect_memory()
    assert "ulimit -v" in str(error.value.hint)
