from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.applications import NAME, TEXTS, Application, application

from hysac_retrieval.cli import main


def run(*arguments: Any, typed: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=typed)


@pytest.fixture
def where(tmp_path: Path) -> tuple[Any, ...]:
    return ("--collection", NAME, "--location", tmp_path)


@pytest.fixture
def app(tmp_path: Path) -> Any:
    with application("edge", tmp_path) as made:
        yield made


def test_attach_search_detach(app: Application, where: tuple[Any, ...], toy_bundle: Path) -> None:
    before = app.look()
    attached = run("attach", *where, "--text-field", "title", "--model", toy_bundle, "--workers", 0)
    assert attached.exit_code == 0, attached.output
    assert f"Added vectors and scores to {len(TEXTS)} texts" in attached.output
    assert "5 points, 3 safe, 2 not" in attached.output
    found = run("search", "a dog", *where, "--model", toy_bundle, "--json")
    assert {hit["id"] for hit in json.loads(found.output)["hits"]} == {0, 2, 4}
    kept = run("detach", *where, typed="n\n")
    assert kept.exit_code == 1
    assert app.look() != before
    gone = run("detach", *where, "--yes", "--json")
    assert json.loads(gone.output) == {"collection": NAME, "points": len(TEXTS)}
    assert app.look() == before


def test_attach_is_part_of_hysac_index(app: Application, where: tuple[Any, ...], toy_bundle: Path) -> None:
    before = app.look()
    options = (*where, "--text-field", "title", "--model", toy_bundle, "--workers", 0, "--json")
    alone = run("index", "attach", *options)
    assert alone.exit_code == 0, alone.output
    report = json.loads(alone.stdout)["report"]
    assert report["indexed"] == {"image": 0, "text": len(TEXTS)}
    again = run("attach", *options)
    assert json.loads(again.stdout)["report"]["skipped"] == len(TEXTS)
    assert run("index", "detach", *where, "--yes").exit_code == 0
    assert app.look() == before
    assert "attach" in run("--help").output


def test_failed_points_are_in_the_journal_and_the_exit_code(
    app: Application, where: tuple[Any, ...], toy_bundle: Path, tmp_path: Path
) -> None:
    app.upsert(9, {"title": ["not", "a", "text"]})
    app.upsert(10, {"price": 3})
    done = run("attach", *where, "--text-field", "title", "--model", toy_bundle, "--workers", 0)
    assert done.exit_code == 3, done.output
    assert "Failed: 1" in done.output
    assert "1 points have neither field" in done.output
    assert "point 9" in (tmp_path / NAME / "journal.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "what the points are about"),
        (("--text-field", "titel"), "'titel'"),
        (("--image-field", "title"), "--root"),
    ],
)
def test_what_does_not_fit_is_said(
    options: tuple[str, ...], message: str, app: Application, where: tuple[Any, ...], toy_bundle: Path
) -> None:
    done = run("attach", *where, *options, "--model", toy_bundle, "--workers", 0)
    assert done.exit_code in (2, 3)
    assert message in done.output


def test_nothing_attached_cannot_be_detached(app: Application, where: tuple[Any, ...]) -> None:
    done = run("detach", *where, "--yes")
    assert done.exit_code == 1
    assert "attach" in done.output
