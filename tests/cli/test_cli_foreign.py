"""Commands on collections of another encoder's vectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.applications import NAME, TEXTS, application
from support.foreign import SIZE, encode, write_head_bundle

from hysac_retrieval.cli import main

SAFE = {0, 2, 4}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_head_bundle(tmp_path_factory.mktemp("head") / "bundle").path)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with a function that encodes, in the working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "embeddings_of_a_service.py").write_text("from support.foreign import encode\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return "embeddings_of_a_service:encode"


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_stored_vectors_are_attached_and_searched_with_a_function(tmp_path: Path, head: str, module: str) -> None:
    def own(_: object, payload: dict[str, str]) -> list[float]:
        return encode([payload["title"]])[0].tolist()

    rows = [{"title": text} for text in TEXTS]
    with application("edge", tmp_path / "data", rows, named=True, encode=own, size=SIZE) as app:
        before = app.look()
        place = ("--collection", NAME, "--location", str(tmp_path / "data"))
        vectors = ("--from-vector", "own", "--modality", "text")
        found = json.loads(run("index", "attach", *place, *vectors, "--model", head, "--json"))
        assert found["report"]["indexed"] == {"image": 0, "text": len(TEXTS)}
        assert (found["collection"]["safe"], found["collection"]["unsafe"]) == (3, 2)
        assert "5 points had theirs already" in run("index", "attach", *place, "--model", head)
        hits = json.loads(run("search", "a cat", *place, "--model", head, "--encoder", module, "--json"))["hits"]
        assert {hit["id"] for hit in hits} == SAFE
        assert "no text encoder" in run("search", "a cat", *place, "--model", head, code=1)
        run("detach", "--yes", *place)
        assert app.look() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--from-vector", "own"), "--modality"),
        (("--from-vector", "own", "--modality", "text", "--text-field", "title"), "no fields"),
        (("--modality", "text"), "--from-vector"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: tuple[str, ...], said: str, tmp_path: Path, head: str
) -> None:
    place = ("--collection", NAME, "--location", str(tmp_path))
    assert said in run("index", "attach", *place, *options, "--model", head, code=2)


def test_texts_are_indexed_with_a_function(tmp_path: Path, head: str, module: str) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    place = ("--collection", "texts", "--location", str(tmp_path / "data"))
    given = ("--model", head, "--encoder", module, "--json")
    found = json.loads(run("index", str(tmp_path / "texts.txt"), *place, *given))
    assert (found["collection"]["safe"], found["collection"]["unsafe"]) == (3, 2)
    result = run("index", str(tmp_path / "texts.txt"), *place, "--model", head, "--encoder", "json:dumps", code=1)
    assert "the function that encodes texts gave" in result


def test_info_tells_of_a_head(head: str) -> None:
    found = run("info", "--model", head)
    assert f"vector size  {SIZE}" in found
    assert "the encoder of the tests" in found
    assert "image size" not in found
