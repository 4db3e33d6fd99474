"""Items to points: what is stored, what fails, what happens on the second run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pictures import COLOURS, write_pictures, write_truncated

from hysac_retrieval.encoder import Encoder
from hysac_retrieval.errors import ModelMismatchError, SettingsError, SourceError
from hysac_retrieval.index import Index
from hysac_retrieval.ingest import IndexReport, collection_for, index_sources


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, threads=1)


@pytest.fixture
def index(encoder: Encoder) -> Iterator[Index]:
    with collection_for(encoder, "things", location=":memory:") as index:
        yield index


def everything(index: Index) -> dict[Any, Any]:
    """Payload of every point by id, found by a search that may return anything."""
    hits = index.query([0.0] * index.metadata.dim, limit=1000, safe=False)
    return {hit.id: dict(hit.payload) | {"modality": hit.modality} for hit in hits}


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
    index_sources([rows], index, encoder)
    second = everything(index)
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
    events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert [event["item"] for event in events] == [failure.item for failure in report.failed]
    assert {event["event"] for event in events} == {"failed"}


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
    event = json.loads(journal.read_text(encoding="utf-8"))
    assert event["event"] == "truncated"
    assert event["tokens"] > event["limit"] == encoder.text_spec.context_length


def test_a_stopped_run_keeps_its_batches_and_resume_finishes_the_rest(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"a dog {'in the park ' * n}\n" for n in range(6)), encoding="utf-8")
    done: list[int] = []

    def run(**options: Any) -> IndexReport:
        return index_sources([texts], index, encoder, batch_size=2, **options)

    first = run(on_progress=lambda count, total: done.append(count), should_stop=lambda: bool(done))
    assert first.interrupted
    assert first.total == index.count() == 2
    second = run(resume=True)
    assert (second.skipped, second.total, second.interrupted) == (2, 4, False)
    assert index.count() == 6


def test_progress_counts_every_item_whether_it_fails_or_not(tmp_path: Path, encoder: Encoder, index: Index) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a dog"}\nnonsense\n{"file": "lost.png"}\n', encoding="utf-8")
    calls: list[tuple[int, int]] = []
    index_sources([rows], index, encoder, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3)
    assert [total for _, total in calls] == [3] * len(calls)


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


@pytest.mark.parametrize("option", ["batch_size", "workers", "max_pixels"])
def test_options_below_one_are_refused(tmp_path: Path, encoder: Encoder, index: Index, option: str) -> None:
    with pytest.raises(SettingsError, match=option):
        index_sources([tmp_path], index, encoder, **{option: 0})


def test_a_journal_that_cannot_be_written_is_an_error_before_indexing(
    tmp_path: Path, encoder: Encoder, index: Index
) -> None:
    with pytest.raises(SourceError, match="journal"):
        index_sources([write_pictures(tmp_path / "p")], index, encoder, journal=tmp_path / "no" / "journal")
    assert index.count() == 0
