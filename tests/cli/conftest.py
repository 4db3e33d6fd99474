"""Running the command line on the toy model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner, Result
from pictures import write_pictures

from hysac_retrieval.cli import main


class Run(Protocol):
    """Runs ``hysac`` with arguments."""

    def __call__(self, *arguments: Any) -> Result: ...


@dataclass(frozen=True)
class Photos:
    """A collection ``photos`` of four pictures and two texts, with what it was made of. Not to be changed."""

    root: Path
    model: Path

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def texts(self) -> Path:
        return self.root / "texts.txt"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def options(self) -> tuple[Any, ...]:
        return ("--collection", "photos", "--location", self.data, "--model", self.model)


def invoke(*arguments: Any) -> Result:
    """Run ``hysac`` in this process; an exception that is not a proper exit comes through."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests do not count."""
    for name in ("HYSAC_LOCATION", "HYSAC_URL", "HYSAC_API_KEY", "HYSAC_MODEL", "HYSAC_PREFER_GRPC"):
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
