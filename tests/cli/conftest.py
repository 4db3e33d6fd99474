"""Running the command line on the toy model."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli import Photos, Run, invoke
from support.pictures import write_pictures


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests do not count."""
    ours = ("HYSAC_LOCATION", "HYSAC_URL", "HYSAC_API_KEY", "HYSAC_MODEL", "HYSAC_PREFER_GRPC", "HYSAC_WAIT")
    for name in (*ours, "QDRANT_URL", "QDRANT_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run() -> Run:
    """See `invoke`."""
    return invoke


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Photos:
    """See `Photos`."""
    photos = Photos(tmp_path_factory.mktemp("photos"), toy_bundle)
    photos.texts.write_text("the dog in the park\na man with a gun\n", encoding="utf-8")
    result = invoke("index", write_pictures(photos.pictures), photos.texts, *photos.options)
    assert result.exit_code == 0, result.output
    return photos
