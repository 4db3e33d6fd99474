"""Items to points: what is stored, what fails, what happens on the second run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pictures import COLOURS, write_pictures, write_truncated

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import InputError, ModelMismatchError, SettingsError, SourceError, StoreError
from hysac_retrieval.ingest import (
    FailedItem,
    Fields,
    Item,
    Journal,
    Listing,
    Progress,
    SourceOptions,
    index_sources,
)
from hysac_retrieval.ingest.items import Items
from hysac_retrieval.ingest.pipeline import run as pipeline_run
from hysac_retrieval.ingest.pipeline.decode import Decoding
from hysac_retrieval.ingest.pipeline.encode import LocalEncoding
from hysac_retrieval.ingest.protocols import Outcome, Task


def everything(index: Index) -> dict[Any, Any]:
    """Payload of every point by id, found by a search that may return anything."""
    hits = index.query([0.0] * index.metadata.dim, limit=1000, safe=False)
    return {hit.id: dict(hit.payload) | {"modality": hit.modality} for hit in hits}


def entries(journal: Path) -> list[dict[str, Any]]:
    """Lines of a journal."""
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]


def texts_file(path: Path, count: int) -> Path:
    """A file of texts that differ."""
    path.write_text("".join(f"a dog {n} in the park\n" for n in range(count)), encoding="utf-8")
    return path


def test_pictures_and_texts_become_points_with_scores(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("the dog in the park\na man with a gun\n", encoding="utf-8")
    report = index_sources([write_pictures(tmp_path / "p"), texts], index, encoder, batch_size=3)
    assert report.indexed == {"image": len(COLOURS), "text": 2}
    assert report.total == index.count() == len(COLOURS) + 2
    assert not report.failed
    unsafe = [hit.payload for hit in index.query([0.0] * encoder.dim, safe=False) if (hit.unsafe or 0) > 0.5]
    assert unsafe == [{"text": "a man with a gun"}, {"file": "deep/blood.png"}]


def test_indexing_twice_replaces_points_instead_of_adding_to_them(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a dog", "year": 1}\n', encoding="utf-8")
    index_sources([rows], index, encoder)
    first = everything(index)
    rows.write_text('{"text": "a dog", "year": 2}\n', encoding="utf-8")
    report = index_sources([rows], index, encoder)
    second = everything(index)
    assert (report.total, report.skipped) == (1, 0)
    assert first.keys() == second.keys()
    assert [payload["year"] for payload in second.values()] == [2]


def test_items_that_fail_are_reported_and_the_rest_goes_on(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    folder = write_pictures(tmp_path / "p")
    (folder / "fake.png").write_text("no picture", encoding="utf-8")
    write_truncated(folder / "half.png")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a dog", "hysac": 1}\n{"text": "a cat", "weight": NaN}\n{"text": "a house"}\n', "utf-8")
    journal = tmp_path / "journal.jsonl"
    report = index_sources([folder, rows], index, encoder, journal=journal)
    assert report.indexed == {"image": len(COLOURS), "text": 1}
    failed = {Path(failure.item).name: failure for failure in report.failed}
    assert failed.keys() == {"fake.png", "half.png", "rows.jsonl:1", "rows.jsonl:2"}
    assert failed["fake.png"].kind == failed["half.png"].kind == "ImageError"
    assert "reserved" in failed["rows.jsonl:1"].error
    assert report.failures == len(report.failed)
    assert {entry["item"] for entry in entries(journal)} == {failure.item for failure in report.failed}
    assert {entry["event"] for entry in entries(journal)} == {"failed"}


def test_pictures_beyond_the_pixel_limit_fail(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    report = index_sources([write_pictures(tmp_path)], index, encoder, max_pixels=100)
    assert report.total == 0
    assert len(report.failed) == len(COLOURS)
    assert "40×30" in report.failed[0].error


def test_texts_that_are_cut_are_counted_and_still_indexed(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    texts, journal = tmp_path / "texts.txt", tmp_path / "journal.jsonl"
    texts.write_text("a dog\n" + "the dog in the park with a cat in the house\n", encoding="utf-8")
    report = index_sources([texts], index, encoder, journal=journal)
    assert report.total == 2
    assert report.truncated == (f"{texts}:2",)
    (event,) = entries(journal)
    assert event["event"] == "truncated"
    assert event["tokens"] > event["limit"] == encoder.text_spec.context_length


def test_a_stopped_run_keeps_its_batches_and_the_next_one_finishes_the_rest(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    texts = texts_file(tmp_path / "texts.txt", 3000)
    calls: list[Progress] = []
    first = index_sources(
        [texts],
        index,
        encoder,
        batch_size=2,
        on_progress=calls.append,
        should_stop=lambda: bool(calls) and calls[-1].done > 100,
    )
    assert first.interrupted
    assert 0 < first.total == index.count() < 3000
    second = index_sources([texts], index, encoder)
    assert (second.skipped, second.total, second.interrupted) == (first.total, 3000 - first.total, False)
    assert index.count() == 3000


def test_without_resume_everything_is_done_again(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    folder = write_pictures(tmp_path / "p")
    index_sources([folder], index, encoder)
    report = index_sources([folder], index, encoder, resume=False)
    assert (report.total, report.skipped, index.count()) == (len(COLOURS), 0, len(COLOURS))


def test_only_what_changed_is_done_again(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    folder = write_pictures(tmp_path / "p")
    index_sources([folder], index, encoder)
    before = everything(index)
    shutil.copy(folder / "deep" / "blood.png", folder / "grass.png")
    report = index_sources([folder], index, encoder)
    assert (report.total, report.skipped) == (1, len(COLOURS) - 1)
    assert everything(index) == before
    unsafe = {hit.payload["file"] for hit in index.query([0.0] * encoder.dim, safe=False) if (hit.unsafe or 0) > 0.5}
    assert unsafe == {"grass.png", "deep/blood.png"}


def test_points_say_where_they_come_from_and_what_they_were_made_of(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    folder = write_pictures(tmp_path / "p")
    index_sources([folder, texts_file(tmp_path / "t.txt", 1)], index, encoder)
    ours = [point.payload["hysac"] for point in index.store.scroll(index.name)[0]]
    assert {own["source"] for own in ours} == {folder.resolve().as_posix(), (tmp_path / "t.txt").resolve().as_posix()}
    assert len({own["hash"] for own in ours}) == len(COLOURS) + 1
    assert all(len(own["hash"]) == 32 for own in ours)


def test_points_of_an_application_or_another_model_are_stale(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    texts = texts_file(tmp_path / "texts.txt", 2)
    with Listing([texts]) as listing:
        ids = [item.id for item in listing if isinstance(item, Item)]
    index.upsert(ids[:1], encoder.encode_text(["something"]), modality="text")
    assert index_sources([texts], index, encoder, only=["stale"]).total == 1
    assert index_sources([texts], index, encoder).total == 1


def test_progress_counts_every_item_whether_it_fails_or_not(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a dog"}\nnonsense\n{"file": "lost.png"}\n', encoding="utf-8")
    calls: list[Progress] = []
    index_sources([rows], index, encoder, on_progress=calls.append)
    assert calls[-1] == Progress(done=3, total=3, failed=2)
    assert all(call.total in (None, 3) for call in calls)
    assert [call.done for call in calls] == sorted(call.done for call in calls)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unknown_failure_of_the_encoder_ends_the_run(
    tmp_path: Path, encoder: Encoder, index: Index, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise StoreError("no more")

    monkeypatch.setattr(index.store, "upsert", broken)
    with pytest.raises(StoreError, match="no more"):
        index_sources([write_pictures(tmp_path / "p")], index, encoder, batch_size=1, workers=workers)
    monkeypatch.undo()
    monkeypatch.setattr(encoder, "encode_image", broken)
    with pytest.raises(StoreError, match="no more"):
        index_sources([tmp_path / "p"], index, encoder, batch_size=1, workers=workers)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hysac_")]


def test_nothing_is_indexed_when_a_source_is_missing(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        index_sources([write_pictures(tmp_path / "p"), tmp_path / "lost"], index, encoder)
    assert index.count() == 0


def test_a_collection_of_another_model_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    profile = encoder.safety
    with Index.create("raw", dim=encoder.dim, curvature=1.0, safety=profile, location=":memory:") as index:
        with pytest.raises(ModelMismatchError, match="indexed with model"):
            index_sources([write_pictures(tmp_path)], index, encoder)
        assert index.count() == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"workers": -1}, "workers"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"only": ["present"]}, "unknown state"),
        ({"only": ["failed"]}, "journal"),
        ({"only": ["stale"], "resume": False}, "without resume"),
    ],
)
def test_options_out_of_range_are_refused(
    tmp_path: Path, encoder: Encoder, index: Index, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        index_sources([write_pictures(tmp_path)], index, encoder, **options)


def test_a_journal_that_cannot_be_written_is_an_error_before_indexing(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    with pytest.raises(SourceError, match="journal"):
        index_sources([write_pictures(tmp_path / "p")], index, encoder, journal=tmp_path / "no" / "journal")
    assert index.count() == 0


def test_processes_store_what_threads_store(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    folder = write_pictures(tmp_path / "p")
    write_truncated(folder / "half.png")
    report = index_sources([folder], index, encoder, workers=0)
    before = {point.id: (point.payload, point.vector) for point in index.store.scroll("things", with_vectors=True)[0]}
    again = index_sources([folder], index, encoder, workers=2, resume=False)
    after = {point.id: (point.payload, point.vector) for point in index.store.scroll("things", with_vectors=True)[0]}
    assert before == after
    assert (again.indexed, again.failed) == (report.indexed, report.failed)


def test_a_source_is_not_read_far_ahead_of_the_encoder(
    tmp_path: Path, encoder: Encoder, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20_000
    listed = [0]
    most = [0]
    encode, every = encoder.encode_tokens, pipeline_run.item_groups

    def counted(*arguments: Any) -> Any:
        for items in every(*arguments):
            listed[0] += len(items)
            yield items

    def slow(tokens: Any, **options: Any) -> Any:
        time.sleep(0.01)
        most[0] = max(most[0], listed[0] - index.count())
        return encode(tokens, **options)

    monkeypatch.setattr(pipeline_run, "item_groups", counted)
    monkeypatch.setattr(encoder, "encode_tokens", slow)
    calls: list[Progress] = []
    report = index_sources(
        [texts_file(tmp_path / "texts.txt", count)],
        index,
        encoder,
        on_progress=calls.append,
        should_stop=lambda: len(calls) > 10,
    )
    assert report.interrupted
    assert 64 < most[0] < 2500


def test_a_row_of_a_table_that_holds_no_picture_fails_alone(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    import pyarrow.parquet

    images = [(write_pictures(tmp_path / "p") / "sea.jpg").read_bytes(), b"no picture", b""]
    table = pa.table({"image": images, "caption": ["the sea", "x", "y"], "weight": [1.5, None, float("nan")]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    report = index_sources([tmp_path / "rows.parquet"], index, encoder)
    assert [Path(failure.item).name for failure in report.failed] == ["rows.parquet:2", "rows.parquet:3"]
    ((_, payload),) = everything(index).items()
    assert payload == {"caption": "the sea", "weight": 1.5, "modality": "image"}


def test_a_score_is_not_kept_for_content_that_it_was_not_given_for(tmp_path: Path, encoder: Encoder) -> None:
    folder, rows = write_pictures(tmp_path / "p"), tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a dog", "id": "one"}\n', encoding="utf-8")
    options = SourceOptions(fields=Fields(id="id"))

    def again(**changes: Any) -> None:
        index_sources([folder, rows], index, encoder, options=options, **changes)

    with Index.for_model(encoder, "things", exist_ok=True, location=tmp_path / "data") as index:
        again()
        before, picture = everything(index), (folder / "sea.jpg").read_bytes()
        safe = {hit.id for hit in index.query([0.0] * encoder.dim)}
        for resume in (True, False):
            write_truncated(folder / "sea.jpg")
            rows.write_text('{"text": "a dog \\ud800", "id": "one"}\n', encoding="utf-8")
            again(resume=resume)
            left = safe - {hit.id for hit in index.query([0.0] * encoder.dim)}
            assert {before[gone].get("file", "a text") for gone in left} == {"sea.jpg", "a text"}
            assert everything(index).keys() == before.keys()  # the points stay, for those who may see everything
            again()  # and fail again
            (folder / "sea.jpg").write_bytes(picture)
            rows.write_text('{"text": "a dog", "id": "one"}\n', encoding="utf-8")
            again()
            assert {hit.id for hit in index.query([0.0] * encoder.dim)} == safe
        (folder / "sea.jpg").unlink()
        (folder / "sea.jpg").mkdir()  # what is there cannot be read, so nothing is known of it
        again()
        assert {hit.id for hit in index.query([0.0] * encoder.dim)} == safe


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
@pytest.mark.parametrize("captions", [False, True])
def test_names_and_texts_that_are_not_unicode_fail_alone(
    captions: bool, tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    folder, rows = write_pictures(tmp_path / "p"), tmp_path / "rows.jsonl"
    shutil.copy(folder / "sea.jpg", os.fsencode(folder) + b"/bad\xff.jpg")
    rows.write_text('{"text": "a dog \\ud800"}\n{"text": "a cat", "by": "\\udfff"}\n{"text": "the park"}\n', "utf-8")
    table = tmp_path / "captions.jsonl"
    table.write_text('{"file": "sea.jpg", "caption": "the sea"}\n', encoding="utf-8")
    options = SourceOptions(captions=table) if captions else None
    report = index_sources([folder, rows], index, encoder, options=options, journal=tmp_path / "journal.jsonl")
    assert report.indexed == {"image": len(COLOURS), "text": 1}
    assert {one.item.rpartition("/")[2] for one in report.failed} == {"bad\\xff.jpg", "rows.jsonl:1", "rows.jsonl:2"}
    assert len(entries(tmp_path / "journal.jsonl")) == 3
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))
    strange.write_text("a dog\n")
    with pytest.raises(SourceError, match="not UTF-8"):
        index_sources([strange], index, encoder)


def test_a_table_may_hold_long_texts(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text(f"text,more\na dog,{'x' * 200_000}\na cat,y\n", encoding="utf-8")
    assert index_sources([rows], index, encoder).indexed["text"] == 2


class Lines:
    """A source that is none of those that come with the package."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.seen: set[str] = set()
        self.finished: tuple[str, ...] = ("lines",)

    def __iter__(self) -> Items:
        for text in self.texts:
            item = Item(text, text, "lines", "text", text, {}, text)
            self.seen.add(item.id)
            yield item if text.isascii() else FailedItem.of_item(item, SourceError("not ASCII"))

    def count(self) -> int:
        return len(self.texts)


class Memory:
    """A sink that is no collection; it refuses a text."""

    def __init__(self) -> None:
        self.points: dict[str, Any] = {}
        self.rejected: list[str] = []
        self.finished = 0

    def write(self, modality: str, outcomes: Sequence[Outcome]) -> int:
        if any("refused" in outcome.item.origin for outcome in outcomes):
            raise InputError("refused")
        self.points |= {outcome.item.origin: outcome.point for outcome in outcomes}
        return len(outcomes)

    def reject(self, failure: FailedItem, found: str) -> None:
        self.rejected.append(failure.item)

    def finish(self) -> None:
        self.finished += 1


def test_a_run_takes_any_source_and_any_sink(encoder: Encoder, tmp_path: Path) -> None:
    texts = ["a dog", "ein Hündchen", "refused", "a cat", "left out"]

    def choose(items: Sequence[Item]) -> Iterator[Task]:
        return (Task(item, "missing") for item in items if item.origin != "left out")

    sink, decoding = Memory(), Decoding(encoder.image_spec, 10**6)
    with Journal(tmp_path / "journal.jsonl") as journal:
        local = LocalEncoding(encoder, 8, 0, decoding)
        report = pipeline_run.Run(Lines(texts), choose, local, sink, journal, 77)()
    assert report.indexed == {"text": 2, "image": 0}
    assert (report.failures, report.left_out, report.skipped, report.interrupted) == (2, 1, 0, False)
    assert sorted(sink.rejected) == ["ein Hündchen", "refused"]
    assert sink.finished == 1
    np.testing.assert_allclose(list(sink.points.values()), encoder.encode_text(["a dog", "a cat"]), atol=1e-6)
    assert [entry["item"] for entry in entries(tmp_path / "journal.jsonl")] == ["ein Hündchen", "refused"]
