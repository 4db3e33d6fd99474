"""`hysac doctor --repair`: a collection that cannot be read is, again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import Run

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.encoder import Encoder


@pytest.fixture
def options(tmp_path: Path, toy_bundle: Path) -> tuple[object, ...]:
    """A collection of two texts, and a point that cannot be read."""
    encoder = Encoder.load(toy_bundle, threads=1)
    with Index.for_model(encoder, "c", location=str(tmp_path / "data")) as index:
        index.upsert([1, 2], encoder.encode_text(["a dog", "a cat"]), modality="text")
        deep: object = 1
        for _ in range(130):
            deep = [deep]
        index.store.upsert("c", [3], index.collection.lift.lift(encoder.encode_text(["a man"])), [{"v": deep}])
    return "--collection", "c", "--location", tmp_path / "data"


def test_a_collection_is_repaired_and_says_what_is_lost(
    run: Run, options: tuple[object, ...], toy_bundle: Path
) -> None:
    assert run("search", "a dog", *options, "--model", toy_bundle, "--limit", "9", "--unsafe").exit_code != 0
    result = run("doctor", "--repair", *options)
    assert result.exit_code == 0
    assert "2 points can be read" in result.stdout
    assert "Lost with their payload: 1 points: 3" in result.stdout
    again = run("doctor", "--repair", *options)
    assert "Nothing is wrong with 'c': all of its 2 points can be read." in again.stdout
    found = json.loads(run("search", "a dog", *options, "--model", toy_bundle, "--json").stdout)
    assert {hit["id"] for hit in found["hits"]} == {1, 2}


@pytest.mark.parametrize("damage", ["", '{"size": 10, "metadata": {"dim": -1}}'])
def test_damaged_metadata_is_made_again_of_the_model(
    run: Run, options: tuple[object, ...], tmp_path: Path, toy_bundle: Path, damage: str
) -> None:
    sidecar = tmp_path / "data" / "c" / "collection.json"
    sidecar.write_text(damage)
    result = run("doctor", "--repair", *options)
    assert result.exit_code == 1
    assert "--model" in result.stderr
    assert sidecar.read_text() == damage
    assert run("doctor", "--repair", *options, "--model", "hysac-mini").exit_code == 1
    assert sidecar.read_text() == damage
    result = run("doctor", "--repair", *options, "--model", toy_bundle)
    assert "metadata was written again" in result.stdout
    with Index.open("c", location=str(tmp_path / "data")) as index:
        assert index.count() == 2


def test_repair_needs_a_collection_of_the_embedded_engine(run: Run, tmp_path: Path) -> None:
    for given in (
        ("--location", tmp_path),
        ("--collection", "c"),
        ("--url", "http://localhost:1", "--collection", "c"),
    ):
        assert run("doctor", "--repair", *given).exit_code == 2
    assert run("doctor", "--repair", "--location", tmp_path, "--collection", "c").exit_code == 1
