"""The states of items, doing only some of them, and removing what has left its source."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pictures import COLOURS, write_pictures, write_truncated

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.ingest import Fields, IndexReport, SourceOptions, Status, index_sources, status_of


@pytest.fixture(params=["memory", "embedded"])
def index(request: pytest.FixtureRequest, tmp_path: Path, encoder: Encoder) -> Iterator[Index]:
    location = ":memory:" if request.param == "memory" else tmp_path / "data"
    with Index.for_model(encoder, "things", exist_ok=True, location=location) as index:
        yield index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, one of which cannot be read."""
    folder = write_pictures(tmp_path / "photos")
    write_truncated(folder / "half.png")
    return folder


def files(index: Index) -> set[str]:
    return {str(point.payload.get("file")) for point in index.store.scroll(index.name)[0]}


def noted(journal: Path) -> set[str]:
    return {Path(json.loads(line)["item"]).name for line in journal.read_text(encoding="utf-8").splitlines()}


def counts(status: Status) -> tuple[int, int, int, int, int | None]:
    return status.present, status.missing, status.stale, status.failed, status.left


def test_every_state_is_told_and_can_be_done_alone(
    tmp_path: Path, folder: Path, encoder: Encoder, index: Index
) -> None:
    journal = tmp_path / "journal.jsonl"

    def status() -> tuple[int, int, int, int, int | None]:
        return counts(status_of([folder], index, journal=journal))

    def run(**options: Any) -> IndexReport:
        return index_sources([folder], index, encoder, journal=journal, **options)

    assert counts(status_of([folder], None)) == (0, 5, 0, 0, 0)
    assert status() == (0, 5, 0, 0, 0)
    run()
    assert status() == (4, 0, 0, 1, 0)
    shutil.copy(folder / "sea.jpg", folder / "lake.jpg")
    shutil.copy(folder / "deep" / "blood.png", folder / "grass.png")
    (folder / "deep" / "snow.webp").unlink()
    assert status() == (2, 1, 1, 1, 1)
    assert (run(only=["failed"]).failures, run(only=["failed"]).left_out) == (1, 4)
    assert status() == (2, 1, 1, 1, 1)
    shutil.copy(folder / "sea.jpg", folder / "half.png")
    assert run(only=["missing"]).total == 1
    assert status() == (3, 0, 1, 1, 1)
    assert run(only=["failed", "stale"]).total == 2
    assert status() == (5, 0, 0, 0, 1)
    assert journal.read_text(encoding="utf-8") == ""
    assert run(prune=True).pruned == 1
    assert status() == (5, 0, 0, 0, 0)
    assert files(index) == {"sea.jpg", "lake.jpg", "grass.png", "half.png", "deep/blood.png"}


def test_a_failed_item_is_tried_again_and_leaves_the_journal_when_it_is_fixed(
    tmp_path: Path, folder: Path, encoder: Encoder, index: Index
) -> None:
    rows, journal = tmp_path / "rows.jsonl", tmp_path / "journal.jsonl"
    rows.write_text('{"text": "a dog"}\n{broken\n', encoding="utf-8")
    report = index_sources([folder, rows], index, encoder, journal=journal)
    assert {Path(failure.item).name for failure in report.failed} == noted(journal) == {"rows.jsonl:2", "half.png"}
    shutil.copy(folder / "sea.jpg", folder / "half.png")
    index_sources([folder, rows], index, encoder, journal=journal)
    assert noted(journal) == {"rows.jsonl:2"}
    rows.write_text('{"text": "a dog"}\n{"text": "a cat"}\n', encoding="utf-8")
    index_sources([folder, rows], index, encoder, journal=journal)
    assert journal.read_text(encoding="utf-8") == ""


def test_pruning_touches_no_point_of_another_source_or_of_an_application(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    one, two = write_pictures(tmp_path / "one"), write_pictures(tmp_path / "two")
    texts = tmp_path / "texts.txt"
    texts.write_text("a dog\na cat\n", encoding="utf-8")
    index_sources([one, two, texts], index, encoder)
    index_sources([two], index, encoder, options=SourceOptions(namespace="named"))
    index.upsert([1, 2], encoder.encode_text(["a", "b"]), modality="text", payloads=[{"file": "sea.jpg"}, None])
    before = index.count()
    for folder in (one, two):
        (folder / "sea.jpg").unlink()
    report = index_sources([one], index, encoder, prune=True)
    assert (report.pruned, index.count()) == (1, before - 1)
    texts.write_text("a dog\n", encoding="utf-8")
    assert index_sources([texts, one], index, encoder, prune=True).pruned == 1
    assert index_sources([two], index, encoder, options=SourceOptions(namespace="named"), prune=True).pruned == 1
    assert index.count() == before - 3
    assert len(index.retrieve([1, 2])) == 2


def test_a_single_image_says_nothing_about_the_rest_of_its_folder(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    folder = write_pictures(tmp_path / "p")
    index_sources([folder], index, encoder)
    (folder / "grass.png").unlink()
    report = index_sources([folder / "sea.jpg"], index, encoder, prune=True)
    assert (report.pruned, report.skipped, index.count()) == (0, 1, len(COLOURS))
    assert status_of([folder / "sea.jpg"], index).left == 0


def test_nothing_is_pruned_when_a_source_could_not_be_read_whole(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a dog"}\n{"text": "a cat"}\n', encoding="utf-8")
    index_sources([rows], index, encoder)
    rows.write_text('{"text": "a dog"}\n{"text": "a c\n', encoding="utf-8")
    report = index_sources([rows], index, encoder, prune=True)
    assert (report.pruned, index.count()) == (0, 2)
    assert "could not be read" in report.unpruned
    assert status_of([rows], index).left is None
    stopped = index_sources([rows], index, encoder, prune=True, should_stop=lambda: True)
    assert (stopped.interrupted, stopped.pruned) == (True, 0)


def test_a_damaged_image_keeps_its_point_when_pruning(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    folder = write_pictures(tmp_path / "p")
    index_sources([folder], index, encoder)
    write_truncated(folder / "grass.png")
    report = index_sources([folder], index, encoder, prune=True)
    assert (report.failures, report.pruned, index.count()) == (1, 0, len(COLOURS))


def test_captions_that_are_points_leave_with_their_image_and_alone(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    folder, captions = write_pictures(tmp_path / "p"), tmp_path / "captions.jsonl"
    options = SourceOptions(captions=captions, index_captions=True)
    rows = '{{"file": "sea.jpg", "caption": "the sea"}}\n{{"file": "grass.png", "caption": "a {}"}}\n'
    captions.write_text(rows.format("park"), encoding="utf-8")
    index_sources([folder], index, encoder, options=options)
    assert index.count() == len(COLOURS) + 2
    captions.write_text(rows.format("house"), encoding="utf-8")
    (folder / "sea.jpg").unlink()
    report = index_sources([folder], index, encoder, options=options, prune=True, prune_limit=3)
    assert report.pruned == 3  # the picture, its caption, and the caption that has changed
    assert [failure.item for failure in report.failed] == [f"{captions}:1"]
    assert index.count() == len(COLOURS)


@pytest.mark.slow
def test_many_points_are_pruned_page_by_page(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"text": "a dog", "n": n}) + "\n" for n in range(2500)]
    options = SourceOptions(fields=Fields(id="n"))
    rows.write_text("".join(lines), encoding="utf-8")
    index_sources([rows], index, encoder, options=options)
    rows.write_text("".join(lines[::7]), encoding="utf-8")
    assert counts(status_of([rows], index, options=options)) == (358, 0, 0, 0, 2142)
    assert index_sources([rows], index, encoder, options=options, prune=True, prune_limit=None).pruned == 2142
    assert index.count() == 358
