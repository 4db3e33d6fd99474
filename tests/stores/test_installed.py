"""An installation that is too old is told what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hysac_retrieval.errors import HysacError, VersionError
from hysac_retrieval.stores import installed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("found", ["1.13.3", "1.16.0", "1.19.2", "0.9"])
def test_an_older_client_is_named_with_what_is_needed(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "version", lambda package: found if package == "qdrant-client" else "9.0")
    with pytest.raises(VersionError, match=rf"qdrant-client {found} .* 1\.20 or later") as caught:
        installed.expect_versions()
    assert "pip install" in caught.value.hint
    assert isinstance(caught.value, HysacError)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("found", ["1.20.0", "1.21.1", "2.0.0rc1", "main"])
def test_newer_ones_and_unknown_forms_are_taken(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "version", lambda package: found if package == "qdrant-client" else "9.0")
    installed.expect_versions()


def test_what_is_asked_for_is_what_the_distribution_asks_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package, least in installed.LEAST.items():
        assert f'"{package}>={".".join(map(str, least))}"' in text


def test_an_older_python_is_told_so() -> None:
    older = next((name for name in ("python3.10", "python3.9") if shutil.which(name)), None)
    code = "import sys\nsys.version_info = (3, 10, 13)\nimport hysac_retrieval"
    programs = [[sys.executable, "-c", code]] + ([[older, "-c", "import hysac_retrieval"]] if older else [])
    for program in programs:
        done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        if "pyenv" in done.stderr:  # a name without an interpreter behind it
            continue
        assert done.returncode == 1
        assert "VersionError: hysac-retrieval needs Python 3.11 or later" in done.stderr
