from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from qdrant_client import QdrantClient, models
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
    again = run("attach", *where, "--model", toy_bundle, "--workers", 0, "--json")  # the fields are known by now
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


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_of_the_client_is_attached_where_it_is(named: bool, toy_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "local"
    params = models.VectorParams(size=2, distance=models.Distance.COSINE)
    client = QdrantClient(path=str(folder))
    client.create_collection(NAME, {"own": params} if named else params)
    points = [
        models.PointStruct(id=row, vector={"own": [1, row]} if named else [1, row], payload={"page_content": text})
        for row, text in enumerate(TEXTS)
    ]
    client.upsert(NAME, points)
    client.close()
    where = ("--collection", NAME, "--path", folder)
    done = run("attach", *where, "--from", "langchain", "--model", toy_bundle, "--workers", 0)
    assert done.exit_code == 0, done.output
    assert ("scores and no vectors" in done.output) is not named
    assert "5 points, 3 safe, 2 not" in done.output
    found = run("search", "a dog", *where, "--model", toy_bundle, "--json")
    assert found.exit_code == (0 if named else 1)
    again = run("attach", *where, "--from", "langchain", "--companion", "--model", toy_bundle, "--workers", 0)
    assert again.exit_code == (2 if named else 0), again.output
    assert run("detach", *where, "--yes").exit_code == 0
    client = QdrantClient(path=str(folder))
    points, _ = client.scroll(NAME)  # type: ignore[assignment]
    assert all(set(point.payload or {}) == {"page_content"} for point in points)
    client.close()


def test_a_folder_that_is_not_there_is_not_made(toy_bundle: Path, tmp_path: Path) -> None:
    where = ("--collection", NAME, "--path", tmp_path / "none")
    done = run("attach", *where, "--text-field", "title", "--model", toy_bundle)
    assert done.exit_code == 2
    assert "no folder" in done.output
    assert not (tmp_path / "none").exists()


def test_a_field_of_json_is_asked_about(app: Application, where: tuple[Any, ...], toy_bundle: Path) -> None:
    for row in range(len(TEXTS)):
        app.upsert(row, {"title": json.dumps({"text": TEXTS[row]})})
    options = (*where, "--model", toy_bundle, "--workers", 0)
    refused = run("attach", *options, "--text-field", "title")
    assert refused.exit_code == 2
    assert "title|text" in refused.output
    both = run("attach", *options, "--text-field", "title", "--from", "langchain")
    assert both.exit_code == 2
    done = run("attach", *options, "--text-field", "title|text")
    assert done.exit_code == 0, done.output
    assert "3 safe" in done.output
    meant = run("attach", *options, "--text-field", "title", "--yes", "--json")
    assert json.loads(meant.stdout)["report"]["indexed"]["text"] == len(TEXTS)


def test_what_detaching_cannot_take_back_is_said(toy_bundle: Path, tmp_path: Path) -> None:
    with application("server", tmp_path, named=False) as app:
        where = ("--collection", NAME, "--url", app.place["url"])
        run("attach", *where, "--text-field", "title", "--in-place", "--model", toy_bundle, "--workers", 0)
        gone = run("detach", *where, "--yes")
        assert "never turns it back" in gone.output
        assert "as it was;" not in gone.output
        assert "stays" not in json.loads(run("detach", *where, "--yes", "--json").stdout or "{}")
