"""What people install: the wheel holds everything, and the demo runs from it on the runtime's packages alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built without network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, int]:
    """Names and sizes of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


def tracked(folder: str) -> set[str]:
    """Files of a folder of the checkout, without what Python leaves there."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_both_packages(contents: dict[str, int]) -> None:
    expected = tracked("hysac_retrieval") | {name.removeprefix("export/") for name in tracked("export/hysac_export")}
    found = {name for name in contents if ".dist-info/" not in name}
    assert found == expected


@pytest.mark.parametrize(
    "name",
    [
        "hysac_retrieval/py.typed",
        "hysac_retrieval/search/figures/web/index.html",
        "hysac_retrieval/search/figures/web/still.js",
        "hysac_retrieval/demo/gallery/captions.jsonl",
        "hysac_retrieval/models/hysac-mini/hysac.json",
        "hysac_retrieval/models/hysac-mini/image.onnx",
        "hysac_retrieval/models/hysac-mini/text.onnx",
        "hysac_retrieval/models/hysac-mini/tokenizer.json",
        "hysac_export/configs/mini.yaml",
        "hysac_export/data/scenes/sprites/index.json",
    ],
)
def test_the_wheel_holds_what_is_needed_to_run_and_to_train(contents: dict[str, int], name: str) -> None:
    assert contents.get(name, 0) > 0 or name.endswith("py.typed")
    assert name in contents


def test_the_wheel_holds_the_licence_and_the_attributions(contents: dict[str, int]) -> None:
    names = {Path(name).name for name in contents if ".dist-info/licenses/" in name}
    assert {"LICENSE", "NOTICE"} <= names


def test_the_wheel_and_the_model_are_small(wheel: Path, contents: dict[str, int]) -> None:
    model = sum(size for name, size in contents.items() if name.startswith("hysac_retrieval/models/hysac-mini/"))
    assert 0 < model <= 30 * MEGABYTE
    assert wheel.stat().st_size <= 45 * MEGABYTE


def test_the_demo_runs_from_the_wheel_without_the_training_packages(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"hysac", "hysac-index"} <= {path.name for path in (site / "bin").iterdir()}
    code = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "open_clip", "onnx", "onnxscript", "yaml", "matplotlib", "fastapi", "resvg_py"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import hysac_retrieval
assert hysac_retrieval.__file__.startswith({str(site)!r}), hysac_retrieval.__file__
from hysac_retrieval.cli import main
main(["demo", "--no-open"])
"""
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Report: demo/report.html" in done.stdout
    assert (work / "demo" / "report.html").is_file()
