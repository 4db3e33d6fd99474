"""Pseudo-labels of pictures by an encoder's own similarity to a policy: only what is clear, never as the truth."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hysac_export.fit.labels.zeroshot import clear
from hysac_retrieval.cli import main
from hysac_retrieval.encoder.bundle import Bundle

ANIMALS = ("dog", "cat", "horse", "cow", "bird", "wolf", "fish", "mouse", "bear", "hen")
PLACES = ("park", "house", "garden")
SIZE = 10


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).normal(scale=0.1, size=SIZE)


def text(texts: list[str]) -> Any:
    """Guns lie at the first axis, balls at the second, all texts at the third."""
    axes = np.eye(SIZE)
    return np.stack([axes[2] + axes[0 if "gun" in each else 1] + noise(zlib.crc32(each.encode())) for each in texts])


def image(pictures: list[Image.Image]) -> Any:
    """Red lies at the first axis, blue at the second, all pictures at the fourth."""
    axes, rows = np.eye(SIZE), []
    for picture in pictures:
        r, _, b = np.asarray(picture).reshape(-1, 3).mean(axis=0) / 255
        rows.append(axes[3] + r * axes[0] + b * axes[1] + noise(int(1000 * (r + 7 * b))))
    return np.stack(rows)


@pytest.fixture(autouse=True)
def _encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    both = SimpleNamespace(text=text, image=image)
    monkeypatch.setitem(sys.modules, "encoders", SimpleNamespace(both=both, text=text))


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    rows = [f"weapons,{a},,a {a} with a gun in a {p},a {a} with a ball in a {p}" for a in ANIMALS for p in PLACES]
    (tmp_path / "pairs.csv").write_text("\n".join(["category,phrase,split,unsafe,safe", *rows]), encoding="utf-8")
    (tmp_path / "toys.yaml").write_text(
        "name: toys\ndescription: Toys.\npairs: pairs.csv\ncategories:\n  weapons:\n    description: Weapons.\n"
    )
    return tmp_path / "toys.yaml"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """From blue to red, evenly."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(48):
        Image.new("RGB", (32, 32), (5 * number, 0, 235 - 5 * number)).save(folder / f"{number:02}.png")
    return folder


def fit(*arguments: Any) -> Result:
    result = CliRunner().invoke(main, ["fit", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_clearer_half_of_either_side_is_taken() -> None:
    unsafe, safe = clear(np.array([0.4, -0.1, 0.1, 0.0, -0.3, 0.2, -0.2, 0.3, -0.4], dtype=np.float32))
    assert unsafe.tolist() == [0, 7]
    assert safe.tolist() == [8, 4]


def test_a_head_for_pictures_from_words_alone(policy: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "fitted"
    result = fit("--encoder", "encoders:both", "--policy", policy, "--pictures", pictures, "--vectors", "--out", out)
    assert result.exit_code == 3, result.output
    assert "broken.png" in result.stderr
    assert "pseudo-labels" in result.stdout
    report = (out / "report.html").read_text(encoding="utf-8")
    section = report[report.index("<h2>Images</h2>") :]
    assert "how many are wrong is not known" in section
    assert "AUC" not in section
    manifest = Bundle.load(out).manifest
    told = manifest.metrics["cross-validation"]["image"]
    assert {*told} == {"safe", "unsafe", "pseudo"}
    assert 8 <= told["safe"] <= 16  # half of one side, of 48 pictures that change evenly from one to the other
    assert told["safe"] + told["unsafe"] <= 24
    assert {*manifest.safety.rates} == {"text"}
    assert "pseudo-labels" in manifest.safety.source
    # The head goes by colour, as the words did.
    from hysac_retrieval.encoder.encoder import Encoder

    model = Encoder(Bundle.load(out))
    colours = [Image.new("RGB", (32, 32), colour) for colour in ((230, 0, 5), (5, 0, 230))]
    radii = np.linalg.norm(model.encode_vectors(image(colours).astype(np.float32), "image"), axis=1)
    assert radii[0] > radii[1]


def test_json_has_no_figures_of_pseudo_labels(policy: Path, pictures: Path, tmp_path: Path) -> None:
    places = ("--pictures", pictures, "--vectors", "--out", tmp_path / "fitted")
    result = fit("--encoder", "encoders:both", "--policy", policy, *places, "--json")
    measured = json.loads(result.stdout)["measured"]
    assert measured["image"]["pseudo"] is True
    assert {*measured["image"]} == {"safe", "unsafe", "score", "shared", "unsure", "pseudo"}
    assert "auc" in measured["text"]


_BOTH = ("--encoder", "encoders:both", "--pictures", "{pictures}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "encoders:text", "--policy", "{policy}", "--pictures", "{pictures}"], "words say nothing"),
        (["--encoder", "encoders:both", "--pictures", "{pictures}"], "nothing says what the pictures are"),
        (
            ["--encoder", "encoders:both", "--policy", "{policy}", "--pictures", "{pictures}/00.png"],
            "clearly unsafe by similarity, 8 are needed",
        ),
        (
            [*_BOTH, "--policy", "{policy}", "--safe", "{pictures}", "--unsafe", "{policy}/../red"],
            "some pictures have labels",
        ),
    ],
)
def test_bad_input(policy: Path, pictures: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "red").mkdir()
    for number in range(8):
        Image.new("RGB", (32, 32), (248 + number % 8, 0, 0)).save(tmp_path / "red" / f"{number}.png")
    given = [each.format(policy=policy, pictures=pictures).replace("toys.yaml/../", "") for each in arguments]
    result = fit(*given, "--vectors", "--out", tmp_path / "fitted")
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert not (tmp_path / "fitted").exists()
