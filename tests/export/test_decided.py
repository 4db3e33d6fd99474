"""What people decided on the points of a collection is what a model is calibrated and fitted by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from qdrant_client import QdrantClient, models
from support import foreign
from support.toy_bundle import write_toy_bundle

from hysac_retrieval import Encoder, Index, SafeSearch
from hysac_retrieval.cli import main
from hysac_retrieval.collection.reviews import decide
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.payload import own_payload
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.stores.base import pages

THINGS = ("dog", "cat", "house", "man", "woman")
SIDES = {
    "safe": [f"a {a} with a {b}" for a in THINGS for b in THINGS],
    "unsafe": [f"a {a} with a {b}" for a in THINGS for b in ("gun", "knife", "gun knife", "blood")],
}


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def review(index: Index, unsafe: dict[str, bool | None]) -> None:
    """Decide on points by their text, as the service does."""
    attached = index.metadata.attached
    home = index.name if attached is None else attached.collection
    points = [point for page in pages(index.store, home) for point in page]
    for point in points:
        if (text := point.payload["text"]) in unsafe:
            entry = None if unsafe[text] is None else {"unsafe": unsafe[text], "by": "ann"}
            decide(index.store, sorted({index.name, home}), index.metadata, point, review=entry)


@pytest.fixture
def place(tmp_path: Path) -> tuple[Any, ...]:
    """Options for a collection of a toy model whose texts are indexed, and one of them that nobody decided on."""
    model = write_toy_bundle(tmp_path / "model").path
    for side, texts in SIDES.items():
        (tmp_path / f"{side}.txt").write_text("\n".join(texts), encoding="utf-8")
    (tmp_path / "other.txt").write_text("a man with a bird", encoding="utf-8")
    sources = [tmp_path / f"{name}.txt" for name in (*SIDES, "other")]
    options = ("--location", tmp_path / "data")
    made = run("index", *sources, "--collection", "notes", "--model", model, *options)
    assert made.exit_code == 0, made.output
    return options


def test_decisions_are_samples_of_a_calibration_that_is_applied(place: tuple[Any, ...], tmp_path: Path) -> None:
    model, told = tmp_path / "model", {text: side == "unsafe" for side, texts in SIDES.items() for text in texts}
    before = Bundle.load(model).manifest.safety
    # What the model finds safe and people do not stays out, whatever the threshold becomes.
    with Index.open("notes", location=str(tmp_path / "data")) as index:
        review(index, {**told, "a man with a bird": None})
    by_files = run("calibrate", model, "--safe", tmp_path / "safe.txt", "--unsafe", tmp_path / "unsafe.txt", "--json")
    made = run("calibrate", model, "--from-collection", "notes", *place, "--json")
    assert made.exit_code == 0, made.output
    found, same = (SafetyProfile.model_validate_json(result.stdout) for result in (made, by_files))
    assert found.text.midpoint == pytest.approx(same.text.midpoint, abs=1e-6)
    assert found.text.slope == pytest.approx(same.text.slope, rel=1e-3)
    assert "25 safe and 20 unsafe samples" in found.source
    assert found.image.midpoint == before.image.midpoint  # nobody decided on pictures
    assert found.text.boundary == before.text.boundary
    assert Bundle.load(model).manifest.safety == before

    applied = run("calibrate", model, "--from-collection", "notes", "--apply", "notes", *place, "--json")
    assert applied.exit_code == 0, applied.output
    assert json.loads(applied.stdout)["rescored"]["rescored"] == 46
    with Index.open("notes", location=str(tmp_path / "data")) as index:
        assert index.metadata.safety.text.midpoint == pytest.approx(found.text.midpoint)
        search = SafeSearch(index, Encoder.load(model, threads=1))
        texts = {hit.payload["text"] for hit in search.search("a dog", limit=100)}
        assert texts <= {*SIDES["safe"], "a man with a bird"}
        decided = [own_payload(p.payload).get("review") for page in pages(index.store, "notes") for p in page]
        assert sum(entry is not None for entry in decided) == 45


def test_a_collection_without_enough_decisions_is_an_error(place: tuple[Any, ...], tmp_path: Path) -> None:
    with Index.open("notes", location=str(tmp_path / "data")) as index:
        review(index, dict.fromkeys(SIDES["unsafe"][:5], True))
    made = run("calibrate", tmp_path / "model", "--from-collection", "notes", *place, "--update")
    assert made.exit_code == 2
    assert "there are 0 safe and 5 unsafe texts" in made.output
    assert "--cones goes with none" in run("calibrate", "m", "--from-collection", "notes", "--cones", *place).output


def test_a_collection_of_another_model_is_an_error(place: tuple[Any, ...]) -> None:
    made = run("calibrate", "hysac-mini", "--from-collection", "notes", *place)
    assert made.exit_code == 1
    assert "notes" in made.output


def test_a_head_is_fitted_to_the_decisions_of_an_attached_collection(tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "first"
    texts = [f"a dog with a {word}" for word in ("gun", "knife")] * 30 + ["a dog in the park", "a cat"] * 30
    texts = [f"{text} {row}" for row, text in enumerate(texts)]
    client = QdrantClient(path=str(store))
    client.create_collection("notes", {"v": models.VectorParams(size=foreign.SIZE, distance=models.Distance.COSINE)})
    vectors = foreign.encode(texts).tolist()
    points = [
        models.PointStruct(id=row, vector={"v": vector}, payload={"text": text, "nsfw": row < 60})
        for row, (vector, text) in enumerate(zip(vectors, texts, strict=True))
    ]
    client.upsert("notes", points)
    client.close()
    place = ("--vector", "v", "--modality", "text", "--path", store)
    made = run("fit", "--from-collection", "notes", "--label-field", "nsfw", *place, "--out", out, "--json")
    assert made.exit_code == 0, made.output
    attach = ("--from-vector", "v", "--modality", "text", "--path", store, "--model", out)
    assert run("attach", "--collection", "notes", *attach, "--companion").exit_code == 0
    with Index.open("notes", path=str(store)) as index:
        review(index, {**{text: row < 60 for row, text in enumerate(texts) if row % 2}, texts[1]: None})
    field = ("--label-field", "hysac.review.unsafe")
    again = run("fit", "--from-collection", "notes", *field, *place, "--out", tmp_path / "second", "--json")
    assert again.exit_code == 0, again.output
    measured = json.loads(again.stdout)["measured"]["text"]
    assert (measured["unsafe"], measured["safe"]) == (29, 30)
    assert measured["auc"]["value"] > 0.99
