"""Threads of a run: one that cannot be started ends the run with its error, and all have ended when it has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pictures import write_pictures

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import ResourceError
from hysac_retrieval.ingest import index_sources
from hysac_retrieval.ingest.sources.files import ImageFiles

THREADS = ["hysac_upload", "hysac_feed", "hysac-count", "hysac-decode", "hysac-start"]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[BaseException], str], None]:
    """Have threads of some name fail to start, as at the limit of a system."""
    start = threading.Thread.start

    def set_limit(name: str, kind: type[BaseException], message: str) -> None:
        def refused(thread: threading.Thread) -> None:
            if thread.name.startswith(name):
                raise kind(message)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refused)

    return set_limit


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = {*threading.enumerate()}
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in before and thread.name.startswith("hysac")]
    assert left == []


@pytest.mark.parametrize("name", THREADS)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_thread_that_cannot_start_ends_the_run_with_its_error(
    name: str, workers: int, toy_bundle: Path, pictures: Path, tmp_path: Path, limit: Any
) -> None:
    if (name, workers) == ("hysac-start", 0):
        pytest.skip("there are no processes to start")
    encoder = Encoder.load(toy_bundle)
    with Index.for_model(encoder, "c", location=tmp_path / "db") as index:
        limit(name, RuntimeError, "can't start new thread")
        with pytest.raises(ResourceError, match="no more threads") as caught:
            index_sources([pictures], index, encoder, workers=workers, on_progress=lambda _: None)
        assert caught.value.hint


@pytest.mark.parametrize("name", ["hysac_upload", "hysac_feed"])
def test_no_memory_for_a_thread_ends_the_run_too(
    name: str, toy_bundle: Path, pictures: Path, tmp_path: Path, limit: Any
) -> None:
    encoder = Encoder.load(toy_bundle)
    with Index.for_model(encoder, "c", location=tmp_path / "db") as index:
        limit(name, MemoryError, "")
        with pytest.raises(MemoryError):
            index_sources([pictures], index, encoder, workers=0)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), ZeroDivisionError()])
@pytest.mark.parametrize("where", ["encode_image", "upsert", "decode"])
def test_an_error_anywhere_ends_the_run_and_its_threads(
    where: str,
    error: BaseException,
    toy_bundle: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = Encoder.load(toy_bundle)

    def failing(*_: Any, **__: Any) -> Any:
        raise error

    with Index.for_model(encoder, "c", location=tmp_path / "db") as index:
        if where == "encode_image":
            monkeypatch.setattr(encoder, "encode_image", failing)
        elif where == "upsert":
            monkeypatch.setattr(index, "upsert", failing)
        else:
            monkeypatch.setattr("hysac_retrieval.ingest.pipeline.decode.Decoding.__call__", failing)
        with pytest.raises(type(error)):
            index_sources([pictures], index, encoder, workers=0, on_progress=lambda _: None)


@pytest.mark.parametrize("how", ["stopped", "failed", "interrupted"])
def test_counting_ends_with_a_run_that_is_interrupted(
    how: str, toy_bundle: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large folder on a slow disk takes minutes to count; nobody waits for that."""
    counting = threading.Event()

    def slowly(_: Any, stop: Callable[[], bool] = lambda: False) -> int | None:
        counting.set()
        deadline = time.monotonic() + 30
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.005)
        return None

    monkeypatch.setattr(ImageFiles, "count", slowly)
    encoder = Encoder.load(toy_bundle)

    def progress(_: Any) -> None:
        counting.wait()
        if how == "failed":
            raise ZeroDivisionError
        if how == "interrupted":
            raise KeyboardInterrupt

    with Index.for_model(encoder, "c", location=tmp_path / "db") as index:
        began = time.monotonic()
        options: dict[str, Any] = {"workers": 0, "on_progress": progress}
        if how == "stopped":
            assert index_sources([pictures], index, encoder, should_stop=lambda: True, **options).interrupted
        else:
            with pytest.raises(ZeroDivisionError if how == "failed" else KeyboardInterrupt):
                index_sources([pictures], index, encoder, **options)
        assert time.monotonic() - began < 20


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")
