"""What a journal remembers from run to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hysac_retrieval.errors import ImageError, SourceError, StoreError
from hysac_retrieval.ingest import FailedItem, Item, Journal
from hysac_retrieval.ingest.journal import LISTED, read_journal


def item(name: str, source: str = "s") -> Item:
    return Item(name, name, source, "image", b"", {}, name)


def failure(name: str, source: str = "s") -> FailedItem:
    return FailedItem.of_item(item(name, source), ImageError("damaged"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_failures_last_until_they_are_mended(path: Path) -> None:
    with Journal(path) as journal:
        for name in "abc":
            journal.fail(failure(name))
    with Journal(path) as journal:
        assert journal.earlier == {item(name).id for name in "abc"}
        assert (journal.failures, journal.failed) == (0, [])
        journal.indexed([item("a").id, item("x").id])
        journal.unchanged([item("b").id])
        journal.fail(failure("d"))
    assert [entry["item"] for entry in lines(path)] == ["c", "d"]


def test_a_run_that_is_killed_leaves_what_it_noted(path: Path) -> None:
    left = []
    with Journal(path) as journal:
        journal.fail(failure("a"))
        journal.fail(failure("b"))
        left.append(path.read_bytes())
    with Journal(path) as journal:
        journal.indexed([item("a").id])
        left.append(path.read_bytes())
    for content, failed in zip(left, ({"a", "b"}, {"b"}), strict=True):
        path.write_bytes(content)
        assert Journal(path).earlier == {item(name).id for name in failed}


@pytest.mark.parametrize("torn", ["{", '{"eve', '{"event": "failed", "id": "x', '{"event": "failed"}'])
def test_a_line_that_was_cut_by_a_kill_does_no_harm(path: Path, torn: str) -> None:
    with Journal(path) as journal:
        journal.fail(failure("a"))
    with path.open("a", encoding="utf-8") as stream:
        stream.write(torn)
    with Journal(path) as journal:
        assert journal.earlier == {item("a").id}
        journal.fail(failure("b"))
    assert [entry["item"] for entry in lines(path)] == ["a", "b"]


@pytest.mark.parametrize(
    "content", ["some notes\n", '{"text": "a dog"}\n', '[1]\n{"event": "failed", "id": "x"}\n', "5"]
)
def test_a_file_that_is_no_journal_is_left_alone(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SourceError, match="no journal"):
        Journal(path)
    assert path.read_text(encoding="utf-8") == content


def test_nothing_is_written_where_nothing_happens(path: Path) -> None:
    with Journal(path) as journal:
        journal.indexed([item("a").id])
    assert not path.exists()


def test_an_item_that_fails_again_has_one_entry(path: Path) -> None:
    for _ in range(2):
        with Journal(path) as journal:
            journal.fail(failure("a"))
            journal.indexed([item("a").id])  # of an item that fails in this run, the failure counts
    assert [entry["event"] for entry in lines(path)] == ["failed"]


def test_texts_that_are_cut_stay_noted_while_they_are_unchanged(path: Path) -> None:
    with Journal(path) as journal:
        journal.truncate(item("a"), 90, 77)
    with Journal(path) as journal:
        assert journal.earlier == frozenset()
        journal.unchanged([item("a").id])
    assert [(entry["event"], entry["tokens"], entry["limit"]) for entry in lines(path)] == [("truncated", 90, 77)]
    with Journal(path) as journal:
        journal.indexed([item("a").id])
    assert lines(path) == []


def test_settling_forgets_what_has_left_the_sources_that_were_read(path: Path) -> None:
    with Journal(path) as journal:
        for name, source in (("a", "s"), ("b", "s"), ("c", "s"), ("d", "other")):
            journal.fail(failure(name, source))
    with Journal(path) as journal:
        journal.fail(failure("c"))
        journal.settle({"s"}, {item("a").id})
    assert [entry["item"] for entry in lines(path)] == ["a", "c", "d"]


def test_a_report_lists_the_first_failures_and_counts_all(path: Path) -> None:
    with Journal(path) as journal:
        for number in range(LISTED + 5):
            journal.fail(failure(str(number)))
            journal.truncate(item(f"t{number}"), 90, 77)
    assert (journal.failures, len(journal.failed)) == (LISTED + 5, LISTED)
    assert (journal.cut, len(journal.truncated)) == (LISTED + 5, LISTED)
    assert len(read_journal(path)) == 2 * (LISTED + 5)


@pytest.mark.parametrize("removing", [False, True])
def test_a_batch_is_remembered_until_it_is_done(path: Path, removing: bool) -> None:
    with Journal(path, batches=True) as journal:
        with journal.writing(["a", "b"], removing=removing):
            assert not journal.unsettled | journal.unremoved  # of earlier runs
        with pytest.raises(SourceError), journal.writing(["bad"], removing=removing):
            raise SourceError("not the batch, but an item of it")
        with pytest.raises(StoreError), journal.writing(["c", "d"], removing=removing):
            raise StoreError("one of two copies took it")
    again = Journal(path)
    assert (again.unremoved if removing else again.unsettled) == {"c", "d"}
    assert not (again.unsettled if removing else again.unremoved)
    assert again.earlier == set()


def test_a_run_that_is_killed_leaves_the_batch_that_it_wrote(path: Path) -> None:
    with Journal(path, batches=True) as journal, journal.writing([7, "b"]):
        left = path.read_bytes()
    assert Journal(path).unsettled == set()
    path.write_bytes(left)
    assert Journal(path).unsettled == {"7", "b"}


def test_what_was_left_half_written_is_settled_when_it_is_listed_again(path: Path) -> None:
    with pytest.raises(StoreError), Journal(path, batches=True) as journal, journal.writing(["a", "b"]):
        raise StoreError("away")
    with Journal(path) as journal:
        journal.settle(["s"], {"a"})
    assert Journal(path).unsettled == {"b"}
    with Journal(path) as journal:
        journal.settle([], {"b", "c"})
    assert lines(path) == []


def test_removals_are_settled_by_themselves(path: Path) -> None:
    with pytest.raises(StoreError), Journal(path, batches=True) as journal, journal.writing(["a"], removing=True):
        raise StoreError("away")
    with Journal(path) as journal:
        journal.settle(["s"], {"a"})
        assert journal.unremoved == {"a"}
        journal.removed()
    assert lines(path) == []


def test_batches_are_remembered_where_that_is_asked_for(path: Path) -> None:
    with Journal(path) as journal, journal.writing(["a"]):
        assert not path.exists()
