"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model bundle; read only. See `toy_bundle.py` for what it computes."""
    from support.toy_bundle import write_toy_bundle

    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle").path
