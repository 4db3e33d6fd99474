"""What most tests of indexing begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hysac_retrieval import Encoder, Index


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    """The toy model."""
    return Encoder.load(toy_bundle, threads=1)


@pytest.fixture
def index(encoder: Encoder) -> Iterator[Index]:
    """An empty collection of it, in memory."""
    with Index.for_model(encoder, "things", location=":memory:") as made:
        yield made
