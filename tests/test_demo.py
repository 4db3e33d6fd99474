"""``hysac demo``: what it shows is what was found, and the report stands on its own."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.figures import held_by

from hysac_retrieval import lorentz
from hysac_retrieval.cli import main
from hysac_retrieval.demo import QUERIES, DemoQuery, DemoResult, gallery, run_demo, write_report
from hysac_retrieval.encoder.bundle import Bundle, write_manifest
from hysac_retrieval.encoder.entailment import Cone, Entailment, Relation, level_of
from hysac_retrieval.errors import SourceError, StoreError

SCENES = [
    {"file": "field.png", "colour": "green", "caption": "a dog <b>& a cat</b>", "unsafe": False, "category": ""},
    {"file": "lake.png", "colour": "blue", "caption": "a house", "unsafe": False, "category": ""},
    {"file": "gore.png", "colour": "red", "caption": "blood", "unsafe": True, "category": "violence"},
    {"file": "odd.png", "colour": "white", "caption": "a knife", "unsafe": True, "category": "weapons"},
]
ASKED = (
    DemoQuery("Safe", "the dog in the park", "text", as_asked=False),
    DemoQuery("Unsafe", "a man with a gun", "text"),
    DemoQuery("Picture", "gore.png", "image"),
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> DemoResult:
    """The demonstration on four plain pictures, of which the toy model misjudges the last."""
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "images").mkdir()
    lines = []
    for scene in SCENES:
        Image.new("RGB", (32, 32), str(scene["colour"])).save(folder / "images" / str(scene["file"]))
        lines.append(json.dumps({key: value for key, value in scene.items() if key != "colour"}) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")
    return run_demo(folder / "out", model=str(toy_bundle), folder=folder, queries=ASKED)


def test_unsafe_queries_are_redirected_and_answered_safely(result: DemoResult) -> None:
    safe, text, image = result.searches
    assert (safe.safe.query.redirected, safe.as_asked) == (False, None)
    for search in (text, image):
        assert search.safe.query.redirected
        assert search.safe.query.radius_searched < search.safe.query.radius
        assert search.as_asked is not None
        assert not search.as_asked.query.redirected
        assert "gore.png" not in {hit.payload["file"] for hit in search.safe}
    assert image.as_asked is not None
    assert image.as_asked.hits[0].payload["file"] == "gore.png"


def test_the_safe_caption_that_entails_a_query_is_named_where_cones_are_calibrated(
    result: DemoResult, toy_bundle: Path, tmp_path: Path
) -> None:
    assert [search.entailed_by for search in result.searches] == [None, None, None]
    model = Path(shutil.copytree(toy_bundle, tmp_path / "model"))
    relations: tuple[Relation, ...] = get_args(Relation)
    cones = dict.fromkeys(relations, Cone(half_aperture=math.pi / 2, matched=0.9, unmatched=0.1))
    manifest = Bundle.load(model).manifest.model_copy(update={"entailment": Entailment(power=24, cones=cones)})
    write_manifest(model, manifest)
    found = run_demo(tmp_path / "out", model=str(model), folder=result.images.parent, queries=ASKED)
    encoder, safe, captions = found.encoder, found.encoder.safety, [str(scene["caption"]) for scene in SCENES]
    points = encoder.encode_text(captions)
    general = safe.counts_safe(lorentz.dist0(points.astype(np.float64), encoder.curvature), "text")
    named = []
    for search in found.searches[:2]:
        point = encoder.encode_text([search.query.query])[0]
        radii = lorentz.dist0(np.stack([*points, point]).astype(np.float64), encoder.curvature)
        angles = lorentz.radial_angle(points.astype(np.float64), point.astype(np.float64), encoder.curvature, 24)
        inside = general & (angles <= math.pi / 2) & (level_of(float(radii[-1]), safe) != "T")
        best = int(np.argmin(np.where(inside, angles, np.inf)))
        named.append(captions[best] if inside.any() else None)
        assert (search.entailed_by and search.entailed_by.caption) == named[-1]
    assert any(named)
    for search in found.searches:
        if search.entailed_by is not None:
            assert search.entailed_by.relation.startswith("T<")
            assert (search.entailed_by.matched, search.entailed_by.unmatched) == (0.9, 0.1)


def test_the_report_shows_what_was_found_and_says_how_often_a_safe_search_was_wrong(
    result: DemoResult, tmp_path: Path
) -> None:
    data = held_by(write_report(result, tmp_path / "report.html"))
    for search, drawn in zip(result.searches, data["sections"], strict=True):
        assert (drawn["title"], drawn["query"]["radius"]) == (search.query.title, search.safe.query.radius)
        answers = [search.safe, *([search.as_asked] if search.as_asked else [])]
        assert [one["safe"] for one in drawn["answers"]] == [one.query.safe for one in answers]
        for told, found in zip(drawn["answers"], answers, strict=True):
            assert [hit["id"] for hit in told["hits"]] == [hit.id for hit in found]
            marked = {hit["payload"]["file"]: hit["safe"] for hit in told["hits"]}
            assert marked == {file: file != "gore.png" for file in marked}
    assert data["sections"][1]["asked"] == "“a man with a gun”"
    assert [bool(drawn.get("picture")) for drawn in data["sections"]] == [False, False, True]
    # The white picture is labelled unsafe and scored as safe: each of the three safe answers has it.
    assert data["facts"] | {"seconds": ""} == {
        "indexed": "4",
        "searchable": "3",
        "seconds": "",
        "missed": "3 of 9",
    }
    assert set(data["pictures"]) == set(data["points"]) == {str(one) for one in data["map"]["ids"]}
    assert len(data["points"]) == 4


def test_the_demo_starts_afresh_each_time(result: DemoResult, tmp_path: Path, toy_bundle: Path) -> None:
    folder = result.images.parent
    again = run_demo(folder / "out", model=str(toy_bundle), folder=folder, queries=ASKED)
    assert again.info == result.info
    assert again.to_dict()["searches"] == result.to_dict()["searches"]


def test_a_report_that_cannot_be_written_is_an_error(result: DemoResult, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(result, tmp_path / "no" / "report.html")


def test_a_missing_gallery_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hysac_retrieval.demo.run.resources.files", lambda name: tmp_path)
    with pytest.raises(SourceError, match="Reinstall"):
        gallery()


def test_the_queries_belong_to_the_gallery() -> None:
    rows = [json.loads(line) for line in (gallery() / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    unsafe = {row["file"]: row["unsafe"] for row in rows}
    assert {path.name for path in (gallery() / "images").iterdir()} == unsafe.keys()
    for query in QUERIES:
        if query.modality == "image":
            assert unsafe[query.query]


@pytest.mark.slow
def test_the_command_runs_on_the_bundled_model_and_gallery(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo"), "--no-open"])
    assert done.exit_code == 0, done.output
    assert "Indexed 300 pictures of the example gallery with hysac-mini" in done.stdout
    assert "redirected to radius" in done.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
    # The collection stays and can be searched on.
    place = ["--collection", "gallery", "--location", str(tmp_path / "demo" / "collections")]
    more = CliRunner().invoke(main, ["search", "a man with a gun", *place, "--json"])
    assert more.exit_code == 0, more.output
    assert json.loads(more.stdout)["hits"]


@pytest.mark.slow
def test_on_the_bundled_model_each_query_finds_its_scene_and_unsafe_ones_a_safe_twin(tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo")
    safe, text, english, image = result.searches
    assert not safe.safe.query.redirected
    assert safe.safe.hits[0].payload["file"] == "037.webp"
    for search, asked, twin in ((text, "286.webp", "127.webp"), (image, "027.webp", "030.webp")):
        assert search.safe.query.redirected
        assert search.as_asked is not None
        assert search.as_asked.hits[0].payload["file"] == asked
        assert search.as_asked.hits[0].payload["unsafe"]
        assert twin in {hit.payload["file"] for hit in search.safe}
        assert not any(hit.payload["unsafe"] for hit in search.safe)
    assert english.safe.query.redirected
    assert not any(hit.payload["unsafe"] for hit in english.safe)
