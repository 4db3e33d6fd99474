"""What the tests of all plugins share: a small collection of the toy model, and a quiet Haystack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when haystack is imported
os.environ["LANGSMITH_TRACING"] = "false"

from small_collection import fill

from hysac_retrieval import AsyncSafeSearch, Encoder, SafeSearch, SafetyPolicy, aconnect, connect


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model bundle; read only."""
    from support.toy_bundle import write_toy_bundle

    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle").path


@pytest.fixture(scope="session")
def encoder(toy_bundle: Path) -> Encoder:
    """The toy model."""
    return Encoder.load(toy_bundle, threads=1)


@pytest.fixture
def engine(encoder: Encoder) -> Iterator[SafeSearch]:
    """A collection in memory, under the default policy, which leaves ``safe=False`` to the caller."""
    with connect("toy", location=":memory:", model=encoder, create=True) as made:
        fill(made, encoder)
        yield made


@pytest.fixture
def async_engine(engine: SafeSearch, encoder: Encoder) -> AsyncSafeSearch:
    """The same collection, asynchronously."""
    return aconnect("toy", store=engine.index.store, model=encoder)


@pytest.fixture
def strict(engine: SafeSearch, encoder: Encoder) -> SafeSearch:
    """The same collection, under a policy that never allows unsafe results."""
    return connect("toy", store=engine.index.store, model=encoder, policy=SafetyPolicy(allow_unsafe=False))
