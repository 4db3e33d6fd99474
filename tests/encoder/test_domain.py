"""What a model knows: inputs that are unlike it are told from its own, and vectors of another encoder are refused."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.foreign import write_head_bundle

from hysac_export.data.split import draw_split
from hysac_retrieval.collection.index import Index
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.domain import Domain
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.inputs import Inputs, PictureStatistics, VectorStatistics, picture_counts
from hysac_retrieval.errors import BundleFormatError, DomainError, ModelMismatchError
from hysac_retrieval.ingest import index_sources
from hysac_retrieval.safety.policy import SafetyPolicy
from hysac_retrieval.search.blocking import SafeSearch

GALLERY = Path(__file__).parents[2] / "hysac_retrieval/demo/gallery/images"


def photographs() -> list[Path]:
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("scikit-learn, which carries two photographs, is not installed")
    found = sorted(Path(spec.submodule_search_locations[0], "datasets/images").glob("*.jpg"))
    assert len(found) == 2
    return found


def crops(path: Path) -> list[Image.Image]:
    """Cut a photograph into quarters, so that two of them are several pictures."""
    image = Image.open(path).convert("RGB")
    width, height = image.width // 2, image.height // 2
    return [image, *(image.crop((x, y, x + width, y + height)) for x in (0, width) for y in (0, height))]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load("hysac-mini")


def unlike(encoder: Encoder, pictures: list[Any]) -> list[bool | None]:
    return [one.unlike for one in encoder.judge_image(pictures)[1]]


def test_photographs_are_unlike_drawn_scenes_and_the_gallery_is_not(encoder: Encoder) -> None:
    assert encoder.domain.name == "plain English and drawn scenes"
    pictures = encoder.domain.inputs.pictures
    assert pictures is not None
    gallery = encoder.preprocess_images(sorted(GALLERY.iterdir()))
    assert pictures.unlike(gallery).mean() <= 0.01
    photos = [one for path in photographs() for one in crops(path)]
    assert np.mean(unlike(encoder, photos)) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 160])
def test_scenes_that_nothing_was_chosen_on_are_its_own_whatever_their_size(encoder: Encoder, size: int) -> None:
    drawn = draw_split("test", 100, 5, size)
    pictures = encoder.domain.inputs.pictures
    assert pictures is not None
    images = [Image.fromarray(one) for one in (*drawn.safe_image, *drawn.unsafe_image)]
    assert pictures.unlike(encoder.preprocess_images(images)).mean() <= 0.03


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("a dog on the beach", False),
        ("sriracha mayonnaise", False),  # of pieces, but long ones
        ("how to bake bread for my brother-in-law", False),
        ("qwrtz bnmkl xxyzzv", True),
        ("asdf jkl qwer uiop", True),
    ],
)
def test_a_text_is_unlike_where_the_model_hardly_knows_its_words(encoder: Encoder, text: str, mark: bool) -> None:
    _, (one,) = encoder.judge_text([text])
    assert one.unlike is mark


def test_statistics_do_not_change_what_a_model_is() -> None:
    manifest = Bundle.load("hysac-mini").manifest
    assert manifest.model_copy(update={"inputs": None, "domain": ""}).fingerprint == manifest.fingerprint


def test_statistics_of_pictures_take_their_own_and_know_others() -> None:
    rng = np.random.default_rng(0)
    flat = (rng.integers(0, 255, (400, 1, 1, 3)) + rng.integers(0, 3, (400, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    noise = rng.integers(0, 255, (50, 32, 32, 3), dtype=np.uint8)
    found = PictureStatistics.of(picture_counts(flat[:300]))
    assert found.unlike(flat[300:]).mean() <= 0.05
    assert found.unlike(noise).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"pictures": {"mean": "AAAA", "scale": "AAAA", "limit": 1.0}},
        {"pictures": {"mean": "?", "scale": "?", "limit": 1.0}},
        {"text": {"size": 3, "references": "AAAA"}},
        {"text": {"size": 2, "references": ""}},
        {"text": {"size": 2, "references": "AHwAfA=="}},
        {"text": {"size": 2, "references": "AAAAAA=="}},
        {"other": 1},
    ],
)
def test_statistics_that_are_damaged_are_no_manifest(tmp_path: Path, wrong: dict[str, Any]) -> None:
    bundle = write_head_bundle(tmp_path / "head")
    file = bundle.path / "hysac.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"inputs": wrong}))
    with pytest.raises(BundleFormatError):
        Bundle.load(bundle.path)


def cone(rng: np.random.Generator, n: int, size: int = 64) -> Any:
    """Vectors as encoders give them: around a common direction, in few of their dimensions."""
    basis = np.random.default_rng(7).normal(size=(8, size))
    return (rng.normal(size=(n, 8)) @ basis + 2 * basis[0]).astype(np.float32)


def rotated(vectors: Any, seed: int) -> Any:
    """Turn vectors as those of another encoder of the same size are turned."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(vectors.shape[1],) * 2))[0]
    return vectors @ basis.astype(np.float32)


@pytest.mark.parametrize("rows", [5, 40, 500])
@pytest.mark.parametrize("size", [64, 384])
def test_vectors_of_another_encoder_of_the_same_size_are_refused(rows: int, size: int) -> None:
    rng = np.random.default_rng(rows)
    domain = Domain("", Inputs(text=VectorStatistics.of(cone(rng, 100, size))))
    own = cone(rng, rows, size)
    for allowed in (own, 3 * own, rotated(own, 1)[:4]):  # too few say nothing
        domain.expect_vectors(allowed, "text", size, "fitted")
    domain.expect_vectors(rotated(own, 1), "image", size, "fitted")  # of which nothing is known
    with pytest.raises(ModelMismatchError, match="another encoder"):
        domain.expect_vectors(rotated(own, 1), "text", size, "fitted")


def test_a_head_takes_unsafe_vectors_of_its_encoder_and_texts_about_other_things(encoder: Encoder) -> None:
    captions = [json.loads(line) for line in (GALLERY.parent / "captions.jsonl").read_text().splitlines()]
    texts = {kind: [one["caption"] for one in captions if one["unsafe"] is kind][:60] for kind in (False, True)}
    vectors = {kind: encoder.encode_text(some) for kind, some in texts.items()}
    known = VectorStatistics.of(vectors[False])
    assert not known.foreign(vectors[True])
    assert not known.foreign(encoder.encode_image(sorted(GALLERY.iterdir())[:20]))
    assert known.foreign(rotated(vectors[False], 2))
    assert known.foreign(rotated(vectors[True], 3))


def test_a_vector_is_unlike_what_lies_far_from_all_that_was_fitted_to() -> None:
    rng = np.random.default_rng(0)
    known = VectorStatistics.of(cone(rng, 300, 96))
    assert known.unlike(cone(rng, 1000, 96)).mean() <= 0.03
    assert known.unlike(rng.normal(size=(200, 96))).mean() >= 0.95
    assert VectorStatistics.of(cone(rng, 49)).unlike(cone(rng, 3)) is None  # too few to tell


def test_what_was_written_together_does_not_make_others_unlike() -> None:
    rng = np.random.default_rng(1)
    subjects = np.repeat(rng.normal(size=(60, 96)), 4, axis=0)
    sentences, groups = subjects + 0.1 * rng.normal(size=subjects.shape), np.arange(240) // 4
    others = rng.normal(size=(300, 96))
    assert VectorStatistics.of(sentences).unlike(others).mean() >= 0.95
    assert VectorStatistics.of(sentences, groups).unlike(others).mean() <= 0.05


def test_vectors_too_small_to_tell_are_taken() -> None:
    known = VectorStatistics.of(cone(np.random.default_rng(0), 50, 12))
    assert not known.foreign(rotated(cone(np.random.default_rng(1), 50, 12), 1))


def test_indexing_says_once_that_photographs_mean_nothing(encoder: Encoder, tmp_path: Path) -> None:
    for place, path in enumerate(photographs()):
        for number, crop in enumerate(crops(path)):
            crop.save(tmp_path / f"{place}-{number}.png")
    with Index.for_model(encoder, "photos", location=":memory:") as index:
        report = index_sources([tmp_path], index, encoder, workers=0)
        assert report.unlike >= 8
        (remark,) = [one for one in report.remarks if "unlike" in one]
        assert f"{report.unlike} pictures" in remark
        assert "drawn scenes" in remark
        assert "hysac fit" in remark
    assert encoder.domain.remark("m", 1).startswith(f"1 picture is unlike anything m knows ({encoder.domain.name})")
    with Index.for_model(encoder, "strict", location=":memory:") as index:
        strict = index_sources([tmp_path], index, encoder, workers=0, strict_domain=True)
        assert (strict.failures, strict.total) == (report.unlike, report.total - report.unlike)
    with Index.for_model(encoder, "gallery", location=":memory:") as index:
        report = index_sources(sorted(GALLERY.iterdir())[:40], index, encoder, workers=0)
        assert not report.remarks
        assert report.unlike <= 1


def test_a_search_marks_what_is_unlike_and_says_so_once(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photo, scene = photographs()[0], sorted(GALLERY.iterdir())[0]
    with Index.for_model(encoder, "gallery", location=":memory:") as index:
        index_sources([scene], index, encoder, workers=0)
        engine = SafeSearch(index, encoder)
        with caplog.at_level(logging.WARNING, logger="hysac_retrieval"):
            assert engine.search(scene).query.unlike is False
            assert not caplog.records
            first, second = engine.search_batch([photo, photo])
            assert first.query.unlike is second.query.unlike is True
            assert engine.explain(photo).query.unlike is True
        assert len(caplog.records) == 1
        assert "unlike anything" in str(first.query)
        strict = SafeSearch(index, encoder, policy=SafetyPolicy(unknown="refuse"))
        assert strict.search(scene).query.unlike is False
        for query in (photo, "qwrtz bnmkl xxyzzv"):
            with pytest.raises(DomainError, match="unlike"):
                strict.search(query)
