"""``hysac calibrate`` with its ROC, ``--apply``, and ``hysac rescore``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.cli import Photos, Run, invoke
from support.toy_bundle import profile, write_toy_bundle

from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.bundle import Bundle

pytestmark = pytest.mark.slow

THINGS = ("dog", "cat", "house", "man", "woman")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 safe texts and 20 unsafe ones, one of which the toy model takes for safe."""
    root = tmp_path_factory.mktemp("samples")
    safe = [f"a {a} with a {b}" for a in THINGS for b in THINGS]
    unsafe = [f"a {a} with a {b}" for a in THINGS for b in ("gun", "knife", "gun knife", "blood")]
    unsafe[7] = "a dog"
    (root / "safe.txt").write_text("\n".join(safe) + "\n", encoding="utf-8")
    (root / "unsafe.txt").write_text("\n".join(unsafe) + "\n", encoding="utf-8")
    return root


@pytest.fixture
def own(photos: Photos, tmp_path: Path) -> Photos:
    """A copy of the model and of the collection, to be changed."""
    shutil.copytree(photos.model, tmp_path / "model")
    shutil.copytree(photos.data, tmp_path / "data")
    return Photos(tmp_path, tmp_path / "model")


def unsafe_scores(photos: Photos) -> dict[Any, tuple[float, str]]:
    with Index.open("photos", location=photos.data) as index:
        points, _ = index.store.scroll("photos")
    return {point.id: (point.payload["hysac"]["unsafe"], point.payload["hysac"]["model"]) for point in points}


def test_the_roc_says_what_every_threshold_costs(run: Run, own: Photos, samples: Path, tmp_path: Path) -> None:
    where = tmp_path / "new" / "roc.json"
    arguments = ("calibrate", own.model, "--safe", samples / "safe.txt", "--unsafe", samples / "unsafe.txt")
    result = run(*arguments, "--max-miss", 0.01, "--roc", where, "--json")
    assert result.exit_code == 0, result.output
    chosen = json.loads(result.stdout)["threshold"]["text"]
    found = json.loads(where.read_text(encoding="utf-8"))
    assert list(found) == ["text"]
    text = found["text"]
    assert (text["safe"], text["unsafe"], text["chosen"]["threshold"]) == (25, 20, chosen)
    assert text["auc"] >= 0.95  # one of 20 unsafe texts has the radius of the safe ones
    assert text["chosen"]["miss"] == 0
    assert text["curve"][0] == {"threshold": 0.0, "miss": 0.0, "lost": 1.0}
    assert text["curve"][-1]["miss"] == 1
    with Image.open(where.with_suffix(".png")) as picture:
        assert picture.size[0] > 400
    loose = run(*arguments, "--max-miss", 0.05, "--roc", where)
    assert loose.exit_code == 0
    found = json.loads(where.read_text(encoding="utf-8"))
    looser = found["text"]["chosen"]
    assert (looser["miss"], looser["lost"]) == (0.05, 0.0)
    assert looser["threshold"] > chosen


def test_a_calibration_is_applied_to_a_collection_without_encoding(run: Run, own: Photos, samples: Path) -> None:
    before = unsafe_scores(own)
    arguments: tuple[Any, ...] = ("calibrate", own.model, "--safe", samples / "safe.txt")
    arguments += ("--unsafe", samples / "unsafe.txt", "--apply", "photos", "--location", own.data)
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    after = unsafe_scores(own)
    bundle = Bundle.load(own.model)
    assert found["rescored"]["rescored"] == len(before) == 6
    assert found["rescored"]["left"] == 0
    assert {model for _, model in after.values()} == {bundle.fingerprint} == {found["rescored"]["fingerprint"]}
    assert json.loads(bundle.manifest.safety.model_dump_json()) == found["safety"]
    assert sum(before[i][0] != after[i][0] for i in after) == 2  # the images keep their calibration
    searched = run("search", "a dog", *own.options, "--json")
    assert searched.exit_code == 0, searched.output
    assert json.loads(searched.stdout)["hits"]
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert "Rescored 0 points" in again.stdout


def test_a_collection_is_rescored_after_the_bundle_was_calibrated(run: Run, own: Photos, samples: Path) -> None:
    arguments = ("calibrate", own.model, "--safe", samples / "safe.txt", "--unsafe", samples / "unsafe.txt")
    assert f"hysac rescore COLLECTION --model {own.model}" in run(*arguments, "--update").stderr
    refused = run("search", "a dog", *own.options)
    assert refused.exit_code == 1
    assert "hysac rescore photos" in refused.stderr
    result = run("rescore", "photos", "--location", own.data, "--model", own.model)
    assert result.exit_code == 0, result.output
    assert "Rescored 6 points" in result.stdout
    assert run("search", "a dog", *own.options).exit_code == 0
    by_option = run(
        "index", "rescore", "--collection", "photos", "--location", own.data, "--model", own.model, "--json"
    )
    assert json.loads(by_option.stdout)["rescored"] == 0
    (info,) = json.loads(run("info", "photos", "--location", own.data, "--json").stdout)
    assert info["outdated"] == 0


def test_another_model_changes_neither_collection_nor_bundle(
    run: Run, own: Photos, samples: Path, tmp_path: Path
) -> None:
    other = write_toy_bundle(tmp_path / "other", curvature=2.0)
    before, manifest = unsafe_scores(own), (other.path / "hysac.json").read_bytes()
    arguments = ("calibrate", other.path, "--safe", samples / "safe.txt", "--unsafe", samples / "unsafe.txt")
    for call in (
        (*arguments, "--apply", "photos", "--location", own.data),
        ("rescore", "photos", "--location", own.data, "--model", other.path),
    ):
        result = run(*call)
        assert result.exit_code == 1
        assert "model" in result.stderr
    assert unsafe_scores(own) == before
    assert (other.path / "hysac.json").read_bytes() == manifest


def test_points_without_a_bundle_are_rescored_by_a_profile(run: Run, own: Photos, tmp_path: Path) -> None:
    written = tmp_path / "profile.json"
    stricter = profile().model_copy(update={"threshold": 0.2})
    written.write_text(stricter.model_dump_json(), encoding="utf-8")
    with Index.create("raw", dim=2, curvature=1.0, safety=profile(), location=tmp_path / "raw") as index:
        index.upsert([1, 2], [[1.0, 0.0], [0.0, 2.0]], modality="text")
    result = run("rescore", "raw", "--location", tmp_path / "raw", "--profile", written, "--json")
    assert json.loads(result.stdout)["thresholds"] == {"text": 0.2, "image": 0.2}
    refused = run("rescore", "photos", "--location", own.data, "--profile", written)
    assert refused.exit_code == 2
    assert "--model" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rescore", "--location", "x", "--model", "m"), "name one collection"),
        (("rescore", "a", "--collection", "b", "--location", "x", "--model", "m"), "name one collection"),
        (("rescore", "a", "--location", "x"), "which calibration"),
        (("calibrate", "hysac-mini", "--apply", "a", "--location", "x"), "needs the folder of a bundle"),
        (("calibrate", "hysac-mini", "--apply", "a"), "where the collections live"),
    ],
)
def test_what_does_not_fit_together_is_a_usage_error(arguments: tuple[str, ...], says: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
