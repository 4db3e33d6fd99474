"""Native code that gets no memory or no thread: no fault of the bundle, and the error says which limit to raise."""

from __future__ import annotations

import errno
import mmap
from pathlib import Path
from typing import Any

import pytest

from hysac_retrieval import Encoder
from hysac_retrieval.encoder.graphs import expect_listed
from hysac_retrieval.errors import ResourceError, StoreError
from hysac_retrieval.stores.edge.faults import translated


class PanicException(BaseException):
    """What the Rust side raises: no `Exception`."""


def test_a_tokenizer_without_threads(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Starved:
        def encode_batch(self, texts: list[str]) -> Any:
            raise PanicException("The global thread pool has not been initialized.: ThreadPoolBuildError { … }")

    tokenizer = Encoder.load(toy_bundle, threads=1).tokenizer
    monkeypatch.setattr(tokenizer, "_tokenizer", Starved())
    with pytest.raises(ResourceError, match="no threads") as caught:
        tokenizer(["a dog"])
    assert "ulimit -v" in str(caught.value)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_a_graph_that_cannot_be_mapped(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def starved(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(number, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", starved)
    with pytest.raises(ResourceError, match="cannot map"):
        expect_listed(toy_bundle / "text.onnx", [])


@pytest.mark.parametrize("words", ["Cannot allocate memory (os error 12)", "Too many open files (os error 24)"])
def test_an_engine_without_memory(words: str) -> None:
    with pytest.raises(StoreError, match="ulimit -v"), translated("c"):
        raise RuntimeError(f"failed to load segment: {words}")
