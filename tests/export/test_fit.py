"""`hysac fit` as a whole: labels of every kind, the figures, the bundle and its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from qdrant_client import QdrantClient, models
from support import foreign
from support.encoders import fast_image, fast_text

from hysac_export.bundle import graphs
from hysac_export.data.policy import read_policy
from hysac_export.evaluation.calibrate import Wanted
from hysac_export.fit.bundle import FitOptions
from hysac_export.fit.encoders.base import EncoderGraphs, no_modality
from hysac_export.fit.encoders.open import open_encoder
from hysac_export.fit.labels.encoded import policy_examples, sampled_examples
from hysac_export.fit.measure import measure, verdict
from hysac_export.fit.radial import fit_heads
from hysac_export.fit.run import Fitted, fit_bundle
from hysac_export.fit.scores import Labelled, joined, unit
from hysac_retrieval import Index
from hysac_retrieval.cli import main
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import ChecksumError, EncoderError, SettingsError, TrainingError
from hysac_retrieval.ingest import index_sources


class WordEncoder:
    """The encoder of the tests, as the fit takes encoders: texts only, and no graphs."""

    name, dim, modalities, pixels = "words", foreign.SIZE, ("text",), None

    def text(self, texts: Sequence[str], progress: Any = None) -> NDArray[np.float32]:
        return unit(foreign.encode(texts))

    def image(self, pictures: Sequence[Any], progress: Any = None) -> NDArray[np.float32]:
        raise no_modality(self.name, "image")

    def graphs(self) -> EncoderGraphs:
        raise EncoderError("words has no graphs")


ANIMALS = ("dog", "cat", "horse", "cow", "bird", "wolf", "fish", "mouse", "bear", "hen")
PLACES = ("park", "house", "garden", "street", "school", "harbour")


def sentences(unsafe: bool) -> list[str]:
    thing = "gun" if unsafe else "ball"
    return [f"a {animal} and a {thing} in a {place}" for animal in ANIMALS for place in PLACES]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    rows = zip(sentences(True), sentences(False), strict=True)
    lines = [f"weapons,{safe.split()[1]},fit,{unsafe},{safe}" for unsafe, safe in rows]
    (folder / "pairs.csv").write_text("\n".join(["category,phrase,split,unsafe,safe", *lines]), encoding="utf-8")
    text = (
        "name: toys\ndescription: Toys.\nlicence: CC0-1.0\npairs: pairs.csv\n"
        "categories:\n  weapons:\n    description: Weapons.\n"
    )
    (folder / "toys.yaml").write_text(text, encoding="utf-8")
    return folder / "toys.yaml"


@pytest.fixture(scope="module")
def examples(policy: Path) -> Labelled:
    return policy_examples(read_policy(str(policy)), WordEncoder())


@pytest.fixture(scope="module")
def fitted(examples: Labelled, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    options = FitOptions(name="toys", labels="policy toys", wanted=Wanted(), with_encoder=False)
    out = tmp_path_factory.mktemp("fitted") / "bundle"
    return fit_bundle({"text": examples}, out, options, stages, WordEncoder())


def stages(label: str, total: int | None) -> Any:
    return lambda done: None


class TestLabels:
    def test_a_policy_keeps_its_pairs_phrases_and_categories(self, examples: Labelled) -> None:
        assert len(examples) == 120
        assert examples.unsafe.sum() == 60
        assert set(examples.categories) == {"weapons"}
        assert len(np.unique(examples.groups)) == len(ANIMALS)
        assert examples.pairs is not None
        assert (np.bincount(examples.pairs) == 2).all()

    def test_samples_of_files(self, tmp_path: Path) -> None:
        for side in (True, False):
            (tmp_path / f"{side}.txt").write_text("\n".join(sentences(side)), encoding="utf-8")
        found = sampled_examples([tmp_path / "False.txt"], [tmp_path / "True.txt"], WordEncoder())
        assert [*found] == ["text"]
        assert found["text"].unsafe.sum() == 60
        assert found["text"].names[0] == sentences(False)[0]

    def test_samples_of_one_side(self, tmp_path: Path) -> None:
        (tmp_path / "unsafe.txt").write_text("\n".join(sentences(True)), encoding="utf-8")
        with pytest.raises(SettingsError, match="no safe texts"):
            sampled_examples([], [tmp_path / "unsafe.txt"], WordEncoder())

    def test_sources_are_joined_without_mixing_up_phrases_and_pairs(self, examples: Labelled) -> None:
        other = Labelled.of(examples.vectors * np.float32(1) + np.float32(0.01), examples.unsafe, pairs=examples.pairs)
        both = joined([("text", examples), ("text", other)])["text"]
        assert len(np.unique(both.groups)) == len(ANIMALS) + len(other)
        assert both.pairs is not None
        assert (np.bincount(both.pairs) == 2).all()
        assert len(both.names) == len(both.categories) == len(both) == 240

    def test_sources_that_contradict_each_other(self, examples: Labelled) -> None:
        other = Labelled.of(examples.vectors, ~examples.unsafe)
        with pytest.raises(TrainingError, match="120 vectors are labelled safe and unsafe, such as 'a bear"):
            joined([("text", examples), ("text", other)])


class TestFigures:
    def test_what_the_encoder_knows_is_found_and_said(self, fitted: Fitted) -> None:
        part = fitted.measured["text"]
        assert part.auc.value > 0.99
        assert part.missed.value <= 0.02
        assert part.kept is not None
        assert part.kept > 0.99
        assert part.searches["system"]["harmful"].value == 0
        assert part.searches["cosine"]["harmful"].value > part.searches["system"]["harmful"].value
        assert part.searches["perfect"]["twin"].value >= part.searches["system"]["twin"].value > 0.2
        assert part.categories["weapons"]["auc"] > 0.99
        assert "tells them apart well" in fitted.verdicts[0]

    def test_few_labels_are_said_to_be_few(self) -> None:
        rng = np.random.default_rng(0)
        rows, unsafe = rng.normal(size=(40, 6)), np.arange(40) % 2 == 1
        rows[:, 0] += 1.5 * unsafe
        words = verdict(measure(fit_heads({"image": Labelled.of(rows, unsafe)})["image"]), "image")
        assert "images: 20 unsafe and 20 safe examples" in words
        assert "120 more labels would halve that" in words

    def test_an_encoder_that_knows_little_is_said_to(self) -> None:
        rng = np.random.default_rng(0)
        rows, unsafe = rng.normal(size=(600, 6)), np.arange(600) % 2 == 1
        rows[:, 0] += 0.7 * unsafe
        part = measure(fit_heads({"text": Labelled.of(rows, unsafe)})["text"])
        assert "hardly tells them apart" in verdict(part, "text")
        assert part.passed
        assert part.refused

    def test_the_report_shows_examples_as_text_and_never_as_markup(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        rows, unsafe = rng.normal(size=(80, 6)), np.arange(80) % 2 == 1
        rows[:, 0] += 2 * unsafe
        names = [f"<script>alert({i})</script>\x1b[2J" for i in range(80)]
        options = FitOptions(name="<b>", labels="<i>", wanted=Wanted())
        fitted = fit_bundle({"text": Labelled.of(rows, unsafe, names=names)}, tmp_path / "out", options, stages)
        page = (fitted.bundle.path / "report.html").read_text(encoding="utf-8")
        assert "<script" not in page
        assert "<b>" not in page
        assert "\x1b" not in page
        assert "&lt;script&gt;" in page


class TestBundle:
    def test_it_is_a_bundle_as_any_other(self, fitted: Fitted, examples: Labelled) -> None:
        encoder = Encoder(fitted.bundle)
        points = encoder.encode_vectors(foreign.encode(sentences(True) + sentences(False)), "text")
        radius = np.arcsinh(np.linalg.norm(points, axis=1))
        safe = encoder.safety.counts_safe(radius, "text")
        assert not safe[:60].any()
        assert safe[60:].mean() > 0.9
        assert encoder.bundle.manifest.vectors is not None
        assert encoder.bundle.manifest.vectors.encoder == "words"
        assert encoder.bundle.manifest.metrics["cross-validation"]["text"]["auc"] > 0.99

    def test_an_encoder_without_graphs_cannot_be_put_into_it(self, examples: Labelled, tmp_path: Path) -> None:
        options = FitOptions(name="toys", labels="x", wanted=Wanted())
        with pytest.raises(EncoderError):
            fit_bundle({"text": examples}, tmp_path / "out", options, stages, WordEncoder())
        assert not (tmp_path / "out").exists()

    def test_pictures_unlike_those_that_it_was_fitted_on_are_marked(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for number in range(140):  # red ones are unsafe
            colour = np.array([200 if number % 2 else 40, 90, 40 if number % 2 else 200]) + rng.integers(-30, 30, 3)
            grain = rng.integers(-4, 4, (40, 40, 3))
            side = "held" if number >= 120 else "unsafe" if number % 2 else "safe"
            (tmp_path / side).mkdir(exist_ok=True)
            Image.fromarray((colour + grain).clip(0, 255).astype(np.uint8)).save(tmp_path / side / f"{number}.png")
        encoder = open_encoder(f"fastembed:{fast_image(tmp_path / 'vision')}")
        examples = sampled_examples([tmp_path / "safe"], [tmp_path / "unsafe"], encoder)
        options = FitOptions(name="colours", labels="samples", wanted=Wanted(), domain="plain colours")
        fitted = fit_bundle(examples, tmp_path / "out", options, stages, encoder)
        runtime = Encoder(fitted.bundle, device="cpu")
        noise = [Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(10)]
        assert all(one.unlike for one in runtime.judge_image(noise)[1])
        own = [one.unlike for one in runtime.judge_image(sorted((tmp_path / "held").iterdir()))[1]]
        assert sum(map(bool, own)) <= 2
        with Index.for_model(runtime, "colours", location=":memory:") as index:
            index_sources([tmp_path / "held"], index, runtime, workers=0)
            for number, picture in enumerate(noise):
                picture.save(tmp_path / "held" / f"noise-{number}.png")
            report = index_sources([tmp_path / "held"], index, runtime, workers=0)
        assert (report.unlike, report.total) == (10, 10)
        assert "10 pictures are unlike anything colours knows (plain colours)" in report.remarks[0]

    def test_weights_too_large_for_one_file_lie_beside_their_graph_and_are_checked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(graphs, "SINGLE_FILE", 0)
        monkeypatch.setattr(graphs, "_EXTERNAL_FROM", 64)
        folder = fast_text(tmp_path / "encoder", pooling="mean_tokens")
        graph = onnx.load(folder / "model.onnx")
        (folder / "model.onnx").unlink()
        onnx.save(
            graph, folder / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=64
        )
        encoder = open_encoder(f"fastembed:{folder}", device="cpu")
        words = ["knife", "dog", "cat", "table", "night", "run", "a", "the", "on", "x"]
        texts = [f"{one} {two} {three}" for one in words for two in words for three in words[:2]]
        unsafe = [text.startswith(("knife", "night")) for text in texts]
        options = FitOptions(name="large", labels="x", wanted=Wanted(max_lost=0.5))
        examples = Labelled.of(encoder.text(texts), unsafe)
        fitted = fit_bundle({"text": examples}, tmp_path / "out", options, stages, encoder)
        beside = {file.name for file in fitted.bundle.path.iterdir()} & fitted.bundle.manifest.files.keys()
        assert {"text.onnx", "text.onnx.data", "head-text.onnx"} <= beside
        assert (fitted.bundle.path / "text.onnx").stat().st_size < (
            fitted.bundle.path / "text.onnx.data"
        ).stat().st_size
        runtime = Encoder.load(fitted.bundle.path, device="cpu")
        expected = runtime.encode_vectors(encoder.text(texts), "text")
        np.testing.assert_allclose(runtime.encode_text(texts), expected, atol=1e-4)
        again = open_encoder(f"hysac:{fitted.bundle.path}", device="cpu")  # a bundle as an encoder takes them along
        np.testing.assert_allclose(again.text(texts), encoder.text(texts), atol=1e-5)
        refitted = Encoder(
            fit_bundle({"text": examples}, tmp_path / "again", options, stages, again).bundle, device="cpu"
        )
        np.testing.assert_allclose(refitted.encode_text(texts), expected, atol=1e-4)
        with (fitted.bundle.path / "text.onnx.data").open("r+b") as data:
            data.write(b"\xff")
        with pytest.raises(ChecksumError, match=r"text\.onnx\.data"):
            Encoder.load(fitted.bundle.path)

    def test_the_same_labels_give_the_same_model(self, examples: Labelled, fitted: Fitted, tmp_path: Path) -> None:
        options = FitOptions(name="other", labels="policy toys", wanted=Wanted(), with_encoder=False)
        again = fit_bundle({"text": examples}, tmp_path / "out", options, stages, WordEncoder())
        assert again.bundle.fingerprint == fitted.bundle.fingerprint


class TestCommand:
    def run(self, *arguments: str) -> Any:
        return CliRunner().invoke(main, ["fit", *arguments])

    def test_from_the_labels_of_a_collection_to_a_safe_search(self, tmp_path: Path) -> None:
        store, texts = tmp_path / "store", sentences(True) + sentences(False)
        client = QdrantClient(path=str(store))
        client.create_collection("notes", {"v": models.VectorParams(size=foreign.SIZE, distance="Cosine")})
        rows = foreign.encode(texts)
        points = [
            models.PointStruct(id=i, vector={"v": row.tolist()}, payload={"text": text, "nsfw": i < 60})
            for i, (row, text) in enumerate(zip(rows, texts, strict=True))
        ]
        client.upsert("notes", points)
        client.close()
        out = tmp_path / "model"
        arguments = ["--from-collection", "notes", "--vector", "v", "--label-field", "nsfw", "--modality", "text"]
        result = self.run(*arguments, "--path", str(store), "--out", str(out), "--json")
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert told["measured"]["text"]["auc"]["value"] > 0.99
        assert (out / "report.html").is_file()
        attach = ["attach", "--collection", "notes", "--from-vector", "v", "--modality", "text", "--path", str(store)]
        attached = CliRunner().invoke(main, [*attach, "--model", str(out), "--companion", "--json"])
        assert attached.exit_code == 0, attached.output
        with Index.open("notes", path=str(store)) as index:
            assert index.info().unsafe == 60

    def test_a_policy_needs_an_encoder(self, tmp_path: Path) -> None:
        result = self.run("--policy", "general", "--out", str(tmp_path / "out"))
        assert result.exit_code == 2
        assert "no encoder" in result.output

    def test_labels_are_needed(self, tmp_path: Path) -> None:
        result = self.run("--encoder", "sentence-transformers:nowhere", "--out", str(tmp_path / "out"))
        assert result.exit_code == 2
        assert "there are no labels" in result.output

    def test_a_folder_that_is_something_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x", encoding="utf-8")
        result = self.run("--encoder", "sentence-transformers:nowhere", "--policy", "general", "--out", str(tmp_path))
        assert result.exit_code == 2
        assert "is no bundle" in result.output
