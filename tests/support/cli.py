"""Running the command line in the tests' own process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from click.testing import CliRunner, Result

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
