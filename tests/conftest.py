"""Fixtures that several test modules share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Journals of runs on servers are those of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model bundle; read only. See `toy_bundle.py` for what it computes."""
    from support.toy_bundle import write_toy_bundle

    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle").path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out for want of a server, a browser or curl, however quiet the run."""
    from support import browser, qdrant_server

    needed = {"on a Qdrant server": qdrant_server.WITHOUT, "in a browser": browser.WITHOUT, "by curl": browser.NO_CURL}
    for where, lacking in needed.items():
        left_out = sum(lacking in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
        if left_out:
            terminalreporter.write_line(f"{left_out} tests were not run {where}: {lacking}", yellow=True)
