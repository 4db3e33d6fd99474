"""``hysac train`` and ``hysac export`` on a model of a few thousand weights."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from support.cli import Run, invoke
from support.pictures import write_pictures
from support.toy_bundle import profile

pytestmark = pytest.mark.slow

TINY = {
    "name": "tiny",
    "steps": 2,
    "batch_size": 4,
    "threads": 1,
    "workers": 0,
    "checkpoint_every": 1,
    "log_every": 1,
    "model": {
        "dim": 16,
        "image": {"size": 32, "patch": 8, "width": 32, "layers": 1, "head_width": 16},
        "text": {"context_length": 16, "vocab_size": 400, "width": 32, "layers": 1, "heads": 2},
    },
    "data": {"quadruplets": 50},
}

STRICT = profile().model_copy(update={"threshold": 0.0})
"""Two steps teach no radius that could be calibrated; with this profile everything counts as unsafe."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(json.dumps(TINY), encoding="utf-8")  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    folder = config.parent / "run"
    result = invoke("train", config, "--out", folder, "--set", "seed=7", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["name"], found["steps"]) == ("tiny", 2)
    assert found["metrics"]["loss"] > 0
    return folder


def test_settings_can_be_replaced(trained: Path) -> None:
    assert json.loads((trained / "config.json").read_text(encoding="utf-8"))["seed"] == 7


def test_a_run_that_is_done_can_be_resumed_to_no_effect(run: Run, config: Path, trained: Path) -> None:
    result = run("train", config, "--out", trained, "--set", "seed=7", "--resume", "--device", "cpu")
    assert result.exit_code == 0
    assert "nothing left to do" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("lost.yaml",), 1, "lost.yaml"),
        (("mini-scenes", "--set", "optim.speed=1"), 1, "optim.speed"),
        (("mini-scenes", "--set", "steps"), 2, "KEY=VALUE"),
        (("mini-scenes", "--set", "source=1"), 1, "source"),
        (("mini-scenes", "--set", "model=foo", "--set", "model.dim=3"), 1, "model.dim"),
    ],
)
def test_a_config_that_cannot_be_used_is_an_error(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = run("train", *arguments, "--out", tmp_path / "run")
    assert result.exit_code == code
    assert says in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(run: Run, config: Path, trained: Path) -> None:
    result = run("train", config, "--out", trained)
    assert result.exit_code == 1
    assert "--resume" in result.stderr


def test_export_writes_a_bundle_that_can_be_used(run: Run, tmp_path: Path, trained: Path) -> None:
    safety = tmp_path / "safety.json"
    safety.write_text(STRICT.model_dump_json(), encoding="utf-8")
    arguments: tuple[Any, ...] = ("export", trained, "--out", tmp_path / "bundle", "--safety", safety, "-n", 8)
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    (model,) = json.loads(run("info", "--model", tmp_path / "bundle", "--json").stdout)
    assert model["fingerprint"] == json.loads(result.stdout)["fingerprint"]
    assert model["training"]["config"]["seed"] == 7
    assert model["verification"]["weights"] == "float16"
    assert "validation" in model["metrics"]
    again = run(*arguments)
    assert again.exit_code == 2
    assert "overwrite" in again.stderr


def test_export_compresses_what_was_trained(run: Run, tmp_path: Path, trained: Path) -> None:
    safety = tmp_path / "safety.json"
    safety.write_text(STRICT.model_dump_json(), encoding="utf-8")
    arguments: tuple[Any, ...] = ("export", trained, "--out", tmp_path / "int8", "--safety", safety, "-n", 24)
    result = run(*arguments, "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert "recall@10, text to image" in result.stdout
    verification = json.loads((tmp_path / "int8" / "hysac.json").read_text(encoding="utf-8"))["verification"]
    assert verification["from"]["verification"]["precision"] == "fp32"
    assert verification["price"]["radius"]["image"]["max"] < 0.05
    again = run("export", tmp_path / "int8", "--out", tmp_path / "half", "--precision", "fp16")
    assert again.exit_code == 1
    assert "compressed to int8 already" in again.stderr


def test_export_refuses_a_folder_that_holds_no_run(run: Run, tmp_path: Path) -> None:
    result = run("export", tmp_path, "--out", tmp_path / "bundle")
    assert result.exit_code == 1
    assert "hysac train" in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_export_refuses_a_euclidean_run_before_it_is_calibrated(run: Run, config: Path, tmp_path: Path) -> None:
    euclidean = ("--set", "model.geometry=euclidean", "--device", "cpu")
    assert run("train", config, "--out", tmp_path / "run", *euclidean).exit_code == 0
    result = run("export", tmp_path / "run", "--out", tmp_path / "bundle", "-n", 8)
    assert result.exit_code == 1
    assert "only hyperbolic models can be exported" in result.stderr


def test_export_refuses_a_profile_that_is_none(run: Run, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "safety.json").write_text("{}", encoding="utf-8")
    result = run("export", trained, "--out", tmp_path / "bundle", "--safety", tmp_path / "safety.json")
    assert result.exit_code == 2
    assert "no safety profile" in result.stderr


def test_export_refuses_the_profile_of_another_model(run: Run, tmp_path: Path, trained: Path) -> None:
    foreign = tmp_path / "safety.json"  # the points of this run are all nearer to the origin than its safe ones
    foreign.write_text(profile().model_dump_json(), encoding="utf-8")
    result = run("export", trained, "--out", tmp_path / "bundle", "--safety", foreign, "-n", 8)
    assert result.exit_code == 2
    assert "100.0% of unsafe texts" in " ".join(result.stderr.split())
    assert "hysac calibrate" in result.stderr
    assert not (tmp_path / "bundle").exists()


def test_a_run_on_files_is_compressed_and_measured_on_its_own_validation(
    run: Run, config: Path, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures")
    rows = [
        {"safe": f"calm {i}", "unsafe": f"loud {i}", "safe_image": f"pictures/{a}", "unsafe_image": f"pictures/{b}"}
        for i, (a, b) in enumerate(itertools.product(("grass.png", "sea.jpg"), repeat=2))
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": str(tmp_path / "q.jsonl"), "validation": str(tmp_path / "q.jsonl")}
    arguments = ("train", config, "--out", tmp_path / "run", "--set", f"data={json.dumps(data)}", "--device", "cpu")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    (tmp_path / "safety.json").write_text(STRICT.model_dump_json(), encoding="utf-8")
    exported = ("--safety", tmp_path / "safety.json", "--precision", "int8", "--static")
    result = run("export", tmp_path / "run", "--out", tmp_path / "int8", *exported)
    assert result.exit_code == 0, result.output
    verification = json.loads((tmp_path / "int8" / "hysac.json").read_text(encoding="utf-8"))["verification"]
    assert verification["price"]["on"] == "4 validation quadruplets of the files it was trained with"


def _quadruplets(folder: Path, n: int) -> Path:
    rows = [{"safe": f"calm scene {i}", "unsafe": f"loud scene {i}", "category": "noise"} for i in range(n)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "q.jsonl"


def test_check_prints_what_the_data_holds_and_writes_nothing(run: Run, config: Path, tmp_path: Path) -> None:
    data = ("--set", f"data.train={_quadruplets(tmp_path, 20)}", "--set", "loss.radius=1")
    result = run("train", config, "--check", *data, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "noise" in result.stdout
    assert "can be trained on" in result.stdout
    assert "hysac calibrate" in result.stderr
    found = json.loads(run("train", config, "--check", "--json", *data).stdout)
    assert found["train"]["text_only"] + found["validation"]["text_only"] == 20
    assert found["errors"] == []
    assert not (tmp_path / "run").exists()


def test_check_ends_with_1_where_the_data_cannot_be_trained_on(run: Run, config: Path, tmp_path: Path) -> None:
    result = run("train", config, "--check", "--set", f"data.train={_quadruplets(tmp_path, 20)}")
    assert result.exit_code == 1
    assert "no term of the loss is of captions alone" in result.stderr
    assert "can be trained on" not in result.stdout


def test_check_of_scenes_has_nothing_to_do_and_a_run_needs_a_folder(run: Run, config: Path) -> None:
    assert "scenes" in run("train", config, "--check").stdout
    result = run("train", config)
    assert result.exit_code == 2
    assert "--out DIR" in result.stderr
