"""The commands ``hysac eval`` and ``hysac calibrate``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support import toy_bundle as toy
from support.quadruplets import CURVATURE, quadruplet_points

from hysac_export.evaluation.calibrate import calibrate
from hysac_retrieval.cli import main
from hysac_retrieval.safety.profile import SafetyProfile

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
from hysac_retrieval.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle whose pictures are large enough for scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "SIZE", 32)
        return toy.write_toy_bundle(tmp_path_factory.mktemp("eval") / "bundle").path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of two untrained models, by geometry."""
    pytest.importorskip("open_clip")
    import torch
    from safetensors.torch import save_file

    from hysac_export.config import TrainConfig
    from hysac_export.model.hysac import HySAC

    folders = {}
    for geometry in ("hyperbolic", "euclidean"):
        config = TrainConfig.model_validate(
            {
                "name": geometry,
                "model": {
                    "geometry": geometry,
                    "dim": 8,
                    "image": {"size": 32, "width": 32, "layers": 1},
                    "text": {"context_length": toy.LENGTH, "vocab_size": 512, "width": 32, "layers": 1, "heads": 2},
                },
            }
        )
        folder = folders[geometry] = tmp_path_factory.mktemp(geometry)
        (folder / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
        toy.tokenizer().save(str(folder / "tokenizer.json"))
        torch.manual_seed(0)
        save_file(
            {k: v.contiguous() for k, v in HySAC(config.model).state_dict().items()}, folder / "model.safetensors"
        )
    return folders


def hysac(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_eval_prints_the_quality_table_and_the_details(bundle: Path) -> None:
    result = hysac("eval", "--model", bundle, "--no-baseline", "-n", 4, "--split", "test")
    assert result.exit_code == 0, result.output
    for words in ("Quality", "unseen combinations", "toy", "As in the paper", "Published evaluation", "Zero-shot"):
        assert words in result.stdout
    for words in ("Classification by radius", "Retrieval", "Radii", "Categories", "harmful@1"):
        assert words in result.stdout


def test_eval_writes_the_json_that_it_prints_and_plots(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--no-baseline", "-n", 4, "--split", "test", "--split", "style", "--out", out, "--json")
    result = hysac("eval", "--model", bundle, *arguments)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert json.loads((out / "eval.json").read_text(encoding="utf-8")) == printed
    assert set(printed["models"]["toy"]["splits"]) == {"test", "style"}
    assert {"radii.png", "roc.png", "recall.png", "traversal.png"} <= {path.name for path in out.iterdir()}


def test_eval_prints_markdown(bundle: Path) -> None:
    result = hysac("eval", "--model", bundle, "--no-baseline", "-n", 4, "--split", "context", "--markdown", "--brief")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(
        "**Quality, text queries, shares in % (4 quadruplets each, 95 % intervals)**\n\n| split | model |"
    )
    assert "Retrieval" not in result.stdout  # that is a detail


def test_eval_sets_the_baselines_beside_the_model_unless_told_otherwise(bundle: Path, runs: dict[str, Path]) -> None:
    found = [
        list(json.loads(hysac("eval", "--model", bundle, *how, "-n", 2, "--split", "test", "--json").stdout)["models"])
        for how in ((), ("--baseline", runs["euclidean"], "--baseline", runs["hyperbolic"]), ("--no-baseline",))
    ]
    bundled = sorted(path.name for path in (ROOT / "benchmarks" / "baselines").iterdir())
    assert "clip" in bundled
    assert found == [["toy", *bundled], ["toy", "euclidean", "hyperbolic"], ["toy"]]


def test_eval_sets_baseline_and_ablations_beside_the_model(bundle: Path, runs: dict[str, Path]) -> None:
    arguments = ("--baseline", runs["euclidean"], "--ablation", runs["hyperbolic"], "--ablation", runs["hyperbolic"])
    result = hysac("eval", "--model", bundle, *arguments, "-n", 8, "--split", "test", "--json")
    assert result.exit_code == 0, result.output
    models = json.loads(result.stdout)["models"]
    assert list(models) == ["toy", "euclidean", "hyperbolic", "hyperbolic (2)"]
    assert models["euclidean"]["curvature"] is None
    assert "auc.text" not in models["euclidean"]["splits"]["test"]
    assert "twin_t2i.plain.harmful1" in models["euclidean"]["splits"]["test"]
    assert models["hyperbolic"]["splits"] == models["hyperbolic (2)"]["splits"]
    assert models["hyperbolic"]["splits"]["test"]["auc.text"]["n"] == 8


def test_a_model_whose_radius_says_nothing_is_evaluated_without_a_profile(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import hysac_export.evaluation.calibrate as calibration

    # Whether an untrained model's radii happen to be in order is chance; here they are not.
    monkeypatch.setattr(calibration, "fit_logistic", lambda *_: (-1.0, 1.0))
    result = hysac("eval", "--model", runs["hyperbolic"], "--no-baseline", "-n", 6, "--split", "test", "--json")
    assert result.exit_code == 0, result.output
    assert "hyperbolic has no safety profile" in result.stderr
    model = json.loads(result.stdout)["models"]["hyperbolic"]
    assert model["profile"] is None
    assert "order" in model["splits"]["test"]
    assert "twin_t2i.traversal.r1" not in model["splits"]["test"]


def test_evaluating_a_bundle_needs_no_torch_and_a_run_folder_says_that_it_does(bundle: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_TORCH, "eval", "-n", "3", "--split", "test", "--json"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment
        )

    alone = run("--model", bundle)  # the baselines are left out with a note
    assert alone.returncode == 0, alone.stderr
    assert "No baselines: " in alone.stderr
    assert list(json.loads(alone.stdout)["models"]) == ["toy"]
    asked = run("--model", bundle, "--baseline", tmp_path)
    assert asked.returncode == 1
    error = json.loads(asked.stdout)["error"]
    assert "needs the package 'torch'" in error["message"]
    assert "hysac-retrieval[train]" in error["hint"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "no-such-model"), 1, "no model 'no-such-model'"),
        (("--split", "holiday"), 2, "holiday"),
        (("-n", "1"), 2, "1 is not in the range"),
    ],
)
def test_bad_arguments_are_reported(arguments: tuple[str, ...], code: int, words: str) -> None:
    result = hysac("eval", "--no-baseline", *arguments)
    assert result.exit_code == code
    assert words in result.stderr


def test_calibrate_writes_a_profile_that_loads(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hysac_export.evaluation import subjects

    # The toy model knows nothing of scenes, so its points are replaced by some whose calibration is known.
    monkeypatch.setattr(subjects, "encode_drawn", lambda *_: quadruplet_points(30))
    out = tmp_path / "safety.json"
    result = hysac("calibrate", bundle, "-n", 30, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    profile = SafetyProfile.model_validate_json(out.read_bytes())
    assert profile == SafetyProfile.model_validate_json(result.stdout)
    assert profile == calibrate(quadruplet_points(30), CURVATURE)
    shown = hysac("calibrate", bundle, "-n", 30)
    assert f"{profile.image.boundary:.3f}" in shown.stdout


def test_a_model_whose_radius_says_nothing_is_not_calibrated(bundle: Path, tmp_path: Path) -> None:
    result = hysac("calibrate", bundle, "-n", 20, "--out", tmp_path / "safety.json")
    assert result.exit_code == 1
    assert "all text radii are 1 up to rounding" in result.stderr
    assert not (tmp_path / "safety.json").exists()


def test_calibrating_a_euclidean_run_is_refused(runs: dict[str, Path]) -> None:
    result = hysac("calibrate", runs["euclidean"], "-n", 4)
    assert result.exit_code == 1
    assert "Euclidean" in result.stderr
