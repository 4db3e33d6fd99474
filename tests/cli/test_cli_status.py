"""``hysac status``, and the options of ``hysac index`` that go with it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from support.cli import Run
from support.pictures import COLOURS, write_pictures, write_truncated

from hysac_retrieval.cli.options import Place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_pictures(tmp_path / "p")
    write_truncated(folder / "half.png")
    return folder


@pytest.fixture
def options(tmp_path: Path, toy_bundle: Path) -> tuple[Any, ...]:
    return ("--collection", "c", "--location", tmp_path / "data", "--model", toy_bundle)


def test_states_are_counted(run: Run, tmp_path: Path, folder: Path, options: tuple[Any, ...]) -> None:
    assert run("index", folder, *options).exit_code == 3
    (folder / "sea.jpg").rename(folder / "lake.jpg")
    place = ("--collection", "c", "--location", tmp_path / "data")
    result = run("status", folder, *place)
    assert result.exit_code == 0
    lines = [line.split()[:2] for line in result.stdout.splitlines()]
    assert lines == [["present", "3"], ["missing", "1"], ["stale", "0"], ["failed", "1"], ["left", "1"]]
    found = json.loads(run("status", folder, *place, "--json").stdout)
    assert {name: found[name] for name in ("present", "missing", "stale", "failed", "left")} == {
        "present": 3,
        "missing": 1,
        "stale": 0,
        "failed": 1,
        "left": 1,
    }


def test_what_failed_is_named_with_its_error(run: Run, tmp_path: Path, folder: Path, options: tuple[Any, ...]) -> None:
    run("index", folder, *options)
    (folder / "grass.txt").write_bytes(b"\xff\xfe\xff")
    place = ("--collection", "c", "--location", tmp_path / "data")
    result = run("status", folder, *place)
    for name in ("half.png", "grass.txt"):
        assert any(name in line and ": " in line for line in result.stderr.splitlines()), result.stderr
    found = json.loads(run("status", folder, *place, "--json").stdout)
    assert [Path(failure["item"]).name for failure in found["failures"]] == ["half.png"]
    assert [Path(failure["item"]).name for failure in found["unreadable"]] == ["grass.png"]


def test_only_failed_uses_the_journal_beside_the_collection(
    run: Run, tmp_path: Path, folder: Path, options: tuple[Any, ...]
) -> None:
    run("index", folder, *options)
    assert (tmp_path / "data" / "c" / "journal.jsonl").is_file()
    shutil.copy(folder / "sea.jpg", folder / "half.png")
    result = run("index", folder, *options, "--only", "failed")
    assert result.exit_code == 0
    assert "Indexed 1 image " in result.stdout
    assert "4 were left out, as --only asks." in result.stdout


def test_prune_says_how_many_points_it_removed(run: Run, folder: Path, options: tuple[Any, ...]) -> None:
    run("index", folder, *options)
    (folder / "sea.jpg").unlink()
    result = run("index", folder, *options, "--prune")
    assert "1 were removed, having left their source." in result.stdout
    assert "3 points" in result.stdout


def test_prune_is_refused_beyond_its_limit(run: Run, tmp_path: Path, options: tuple[Any, ...]) -> None:
    table = tmp_path / "t.csv"
    table.write_text("text\n" + "".join(f"a dog number {n}\n" for n in range(20)), encoding="utf-8")
    run("index", table, *options)
    table.write_text("text\n" + "".join(f"a dog number {n}\n" for n in range(17)), encoding="utf-8")
    dry = run("index", table, *options, "--prune", "--dry-run")
    assert "remove 0" in dry.stdout
    assert f"3 of the 20 points of {table} would go" in dry.stderr
    refused = run("index", table, *options, "--prune")
    assert refused.exit_code == 1
    assert f"3 of the 20 points of {table} would go, and the limit is 10% of a source" in refused.stderr
    assert "20 points" in refused.stdout
    assert run("index", table, *options, "--prune", "--prune-limit", "none").exit_code == 2
    assert "3 were removed" in run("index", table, *options, "--prune", "--prune-limit", "3").stdout
    table.write_text("text\na dog number 0\n", encoding="utf-8")
    assert "16 were removed" in run("index", table, *options, "--prune", "--yes").stdout


def test_fields_that_span_lines_are_said(run: Run, tmp_path: Path, options: tuple[Any, ...]) -> None:
    table = tmp_path / "t.csv"
    table.write_text('text\n"a dog\nin the park"\n', encoding="utf-8")
    for more in ((), ("--dry-run",)):
        result = run("index", table, *options, *more)
        assert f"Note: {table}: a field spans lines: 2 to 3" in result.stderr


def test_prune_is_refused_when_a_source_cannot_be_read_whole(
    run: Run, tmp_path: Path, options: tuple[Any, ...]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a dog"}\n{"text": "a cat"}\n', encoding="utf-8")
    run("index", rows, *options)
    rows.write_text('{"text": "a dog"}\n{"te', encoding="utf-8")
    result = run("index", rows, *options, "--prune")
    assert result.exit_code == 3
    assert "Nothing was removed: some of the sources could not be read" in result.stderr
    assert "2 points" in result.stdout


def test_a_dry_run_changes_nothing(run: Run, tmp_path: Path, folder: Path, options: tuple[Any, ...]) -> None:
    first = run("index", folder, *options, "--dry-run")
    assert first.exit_code == 0
    assert f"Would index {len(COLOURS) + 1} and remove 0; nothing was done." in first.stdout
    assert not (tmp_path / "data").exists()
    run("index", folder, *options)
    (folder / "sea.jpg").rename(folder / "lake.jpg")
    for more, index, prune in (((), 2, 0), (("--prune", "--only", "missing"), 1, 1), (("--recreate",), 5, 0)):
        found = json.loads(run("index", folder, *options, "--dry-run", *more, "--json").stdout)
        assert found["would"] == {"index": index, "prune": prune}
    assert json.loads(run("status", folder, *options[:4], "--json").stdout)["present"] == len(COLOURS) - 1


def test_status_of_a_collection_that_is_not_there_is_an_error(run: Run, tmp_path: Path, folder: Path) -> None:
    result = run("status", folder, "--collection", "c", "--location", tmp_path / "data")
    assert result.exit_code == 1
    assert "no collection 'c'" in result.stderr


def test_contradictory_options_are_a_usage_error(run: Run, folder: Path, options: tuple[Any, ...]) -> None:
    result = run("index", folder, *options, "--only", "stale", "--no-resume")
    assert result.exit_code == 2
    assert "without resume" in result.stderr


def test_the_journal_lies_beside_an_embedded_collection() -> None:
    embedded = Place("data", None, {}, "c")
    of_server = {Place(None, url, {}, name).journal() for url in ("http://b", "http://b/", "http://d") for name in "ce"}
    assert len(of_server) == 4
    assert Place(None, None, {}, "c", "local").journal() is None
    assert embedded.journal("j.jsonl") == Path("j.jsonl")
    assert embedded.journal() == Path("data/c/journal.jsonl")


def test_workers_decode_in_processes(run: Run, folder: Path, options: tuple[Any, ...]) -> None:
    result = run("index", folder, *options, "--workers", 2, "--json")
    found = json.loads(result.stdout)["report"]
    assert (found["indexed"]["image"], found["failures"]) == (len(COLOURS), 1)
    assert "Copy or download" in found["failed"][0]["error"]


def test_ray_is_an_extra(run: Run, folder: Path, options: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("index", folder, *options, "--ray")
    assert result.exit_code == 1
    assert "hysac-retrieval[ray]" in result.stderr
