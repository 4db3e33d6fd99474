"""Calibration on samples of one's own: of an imported checkpoint, and of a bundle that is there already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.golden import golden_path

from hysac_export.bundle import onnx as export
from hysac_export.evaluation.samples import encode_samples
from hysac_export.published.bounds import Bounds, published_profile
from hysac_export.published.checkpoint import find, import_published, load_published
from hysac_retrieval import lorentz
from hysac_retrieval.cli import main
from hysac_retrieval.encoder.bundle import Bundle
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import SettingsError, SourceError
from hysac_retrieval.safety.profile import SafetyProfile

THINGS = ("dog", "cat", "house", "man", "woman")


def hysac(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def pictures(folder: Path, red: int, n: int = 25) -> Path:
    """Flat pictures of a redness; the toy model puts red ones farther out."""
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", (20, 20), (red + i, 100, 2 * i)).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Safe and unsafe texts and pictures, for the toy model."""
    root = tmp_path_factory.mktemp("samples")
    lines(root / "safe.txt", [f"a {a} with a {b}" for a in THINGS for b in THINGS])
    lines(root / "unsafe.txt", [f"a {a} with a {b}" for a in THINGS for b in ("gun", "knife", "gun knife", "gun gun")])
    pictures(root / "safe", 0)
    pictures(root / "unsafe", 200)
    return root


def test_samples_are_whatever_can_be_indexed(toy_bundle: Path, samples: Path, tmp_path: Path) -> None:
    rows = [{"image": str(samples / "safe" / f"{i:02}.png"), "caption": f"a dog {i}"} for i in range(3)]
    table = lines(tmp_path / "safe.jsonl", [json.dumps(row) for row in [*rows, {"text": "a cat"}]])
    encoder = Encoder.load(toy_bundle)
    done: list[int] = []
    found = encode_samples(encoder, [table, samples / "safe.txt"], [samples / "unsafe"], done.append)
    assert {group: len(points) for group, points in found.points.items()} == {
        "safe_text": 29,  # three captions, one text, 25 lines
        "safe_image": 3,
        "unsafe_image": 25,
    }
    assert sum(done) == 57
    np.testing.assert_allclose(
        found.radii["unsafe_image"],
        lorentz.dist0(encoder.encode_image(sorted((samples / "unsafe").iterdir())), encoder.curvature),
    )


def test_samples_that_cannot_be_read_are_named(toy_bundle: Path, samples: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(toy_bundle)
    with pytest.raises(SourceError, match="does not exist"):
        encode_samples(encoder, [tmp_path / "none.txt"], [])
    table = lines(tmp_path / "bad.jsonl", ['{"text": "a dog"}', '{"colour": "red"}'])
    with pytest.raises(SettingsError, match=r"1 samples cannot be read.*bad\.jsonl:2"):
        encode_samples(encoder, [table], [samples / "unsafe.txt"])


def test_a_bundle_is_calibrated_on_samples(toy_bundle: Path, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    found = hysac(
        "calibrate", toy_bundle, "--safe", samples / "safe.txt", "--safe", samples / "safe",
        "--unsafe", samples / "unsafe.txt", "--unsafe", samples / "unsafe", "--out", out, "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    profile = SafetyProfile.model_validate_json(out.read_bytes())
    assert profile == SafetyProfile.model_validate_json(found.stdout)
    assert (profile.text.safe.count, profile.text.unsafe.count, profile.image.safe.count) == (25, 20, 25)
    assert 1.0 < profile.text.midpoint < 2.0
    assert profile.text.boundary == profile.text.safe.mean
    encoder = Encoder.load(toy_bundle)
    for images, expected in (("safe", True), ("unsafe", False)):
        radii = lorentz.dist0(encoder.encode_image(list((samples / images).iterdir())), encoder.curvature)
        assert (profile.counts_safe(radii, "image") == expected).all()
    assert Bundle.load(toy_bundle).manifest.safety.source == "toy"  # as it was


def test_the_profile_can_be_put_into_the_bundle(toy_bundle: Path, samples: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(toy_bundle, copy)
    before = Bundle.load(copy)
    options = ("--safe", samples / "safe.txt", "--unsafe", samples / "unsafe.txt", "--update")
    found = hysac("calibrate", copy, *options)
    assert found.exit_code == 0, found.output
    after = Bundle.load(copy)
    assert "hysac rescore" in found.stderr
    assert after.fingerprint != before.fingerprint
    assert after.manifest.safety.image == before.manifest.safety.image
    assert after.manifest.safety.text.safe.count == 25
    assert "image: as before" in after.manifest.safety.source
    assert after.manifest.files == before.manifest.files


def test_only_a_bundle_folder_can_be_updated(samples: Path, tmp_path: Path) -> None:
    for model in ("hysac-mini", tmp_path):
        found = hysac(
            "calibrate", model, "--safe", samples / "safe.txt", "--unsafe", samples / "unsafe.txt", "--update"
        )
        assert found.exit_code == 2
        assert "folder of a bundle" in found.stderr


def test_swapped_lists_are_found_out(toy_bundle: Path, samples: Path) -> None:
    found = hysac("calibrate", toy_bundle, "--safe", samples / "unsafe.txt", "--unsafe", samples / "safe.txt")
    assert found.exit_code == 1
    assert "not swapped" in found.stderr


@pytest.fixture
def _no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the graphs: exporting and checking them takes seconds, and has tests of its own."""
    monkeypatch.setattr(export, "write_graph", lambda _module, _source, _example, path: path.write_bytes(b"graph"))
    monkeypatch.setattr(export, "verify_bundle", lambda *_: {})


@pytest.mark.usefixtures("_no_graphs")
def test_an_import_is_calibrated_on_samples_where_there_are_some(tmp_path: Path) -> None:
    source = find(golden_path("tiny_model"))
    model = load_published(source)
    texts = [f"{a} {b} {i}" for a in THINGS for b in THINGS for i in range(4)]
    radii = lorentz.dist0(model.encode_text(texts), model.curvature)
    order = [texts[i] for i in np.argsort(radii)]  # this model's own idea of unsafe
    safe, unsafe = lines(tmp_path / "safe.txt", order[:50]), lines(tmp_path / "unsafe.txt", order[50:])
    found = import_published(source.checkpoint.parent, tmp_path / "b", safe=[safe], unsafe=[unsafe], licence="MIT")
    safety, expected = (
        found.bundle.manifest.safety,
        published_profile(Bounds.load(source.checkpoint.parent / "hysac_bounds.json")),
    )
    assert found.derived == ("image",)
    assert safety.image.midpoint == expected.profile.image.midpoint
    assert safety.text.midpoint == pytest.approx(np.median(radii), rel=0.01)
    assert safety.text.safe.percentiles == expected.profile.text.safe.percentiles
    assert "50 safe and 50 unsafe samples" in safety.source
    assert (found.bundle.manifest.lift, found.bundle.manifest.licence) == (None, "MIT")


@pytest.mark.usefixtures("_no_graphs")
def test_an_import_with_samples_of_both_kinds_needs_no_bounds_and_fits_the_lift(tmp_path: Path) -> None:
    folder = golden_path("tiny_model")
    for file in ("hysac_model.pth", "tokenizer.json"):
        shutil.copy(folder / file, tmp_path / file)
    shutil.copy(folder / "base" / "config.json", tmp_path / "config.json")
    model = load_published(find(tmp_path))
    texts = [f"{a} {b} {i}" for a in THINGS for b in THINGS for i in range(2)]
    images = sorted(pictures(tmp_path / "all", 0, 40).iterdir())
    near: list[list[str]] = [[], []]
    for items, radii in (
        (texts, lorentz.dist0(model.encode_text(texts), model.curvature)),
        ([str(path) for path in images], lorentz.dist0(model.encode_image(list(images)), model.curvature)),
    ):
        rows = [json.dumps({"text" if items is texts else "image": items[i]}) for i in np.argsort(radii)]
        near[0] += rows[: len(rows) // 2]
        near[1] += rows[len(rows) // 2 :]
    safe, unsafe = (lines(tmp_path / f"{i}.jsonl", rows) for i, rows in enumerate(near))
    refused = hysac("import", tmp_path, "--out", tmp_path / "b")
    assert refused.exit_code == 1
    assert "--safe and --unsafe" in refused.stderr
    found = hysac(
        "import", tmp_path, "--out", tmp_path / "b", "--safe", safe, "--unsafe", unsafe, "--weights", "float16"
    )
    assert found.exit_code == 0, found.output
    assert "not calibrated" not in found.stderr
    manifest = Bundle.load(tmp_path / "b").manifest
    assert manifest.safety.image.unsafe.count == 20
    assert manifest.lift is not None
    assert manifest.verification["weights"] == "float16"


def test_help_shows_each_example_on_a_line_of_its_own() -> None:
    assert "\n  hysac import aimagelab/HySAC --out hysac\n" in hysac("import", "--help").stdout
