"""Runs that start from the weights of another run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from hysac_export.config import TrainConfig
from hysac_export.training.run import TrainedRun
from hysac_export.training.train import Trainer, check_data
from hysac_retrieval.cli import main
from hysac_retrieval.errors import TrainingError

pytestmark = pytest.mark.slow

TINY = {
    "stem_steps": 0,
    "steps": 2,
    "batch_size": 8,
    "workers": 0,
    "threads": 1,
    "precision": "fp32",
    "loss.words": 0.0,
    "data.quadruplets": 64,
    "model.dim": 16,
    "model.image": {"width": 32, "layers": 1, "head_width": 16, "stem": "conv", "patch": 16, "head_mlp": True},
    "model.text": {"width": 32, "layers": 1, "heads": 2, "vocab_size": 600, "head_mlp": True},
}


def tiny(**overrides: object) -> TrainConfig:
    return TrainConfig.load("mini-scenes", **(TINY | overrides))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished Euclidean run, from another seed than the runs that start from it."""
    folder = tmp_path_factory.mktemp("runs") / "clip"
    Trainer(tiny(seed=7, **{"model.geometry": "euclidean"}), folder).run()
    return folder


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_starts_from_the_weights_and_the_vocabulary_of_another(clip: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny(start_from=str(clip)), tmp_path / "run")
    there = TrainedRun.load(clip)
    assert equal(trainer.model.state_dict(), there.model.state_dict())
    assert trainer.tokenizer.get_vocab() == there.tokenizer.get_vocab()
    assert Trainer(tiny(), tmp_path / "new").tokenizer.get_vocab() != there.tokenizer.get_vocab()
    trained = trainer.run()
    assert trained.config.model.geometry == "hyperbolic"
    assert not equal(trained.model.state_dict(), there.model.state_dict())


def test_a_resumed_run_does_not_need_what_it_started_from(clip: Path, tmp_path: Path) -> None:
    whole = Trainer(tiny(start_from=str(clip)), tmp_path / "whole").run()
    passing = tmp_path / "passing"
    shutil.copytree(clip, passing)
    config = tiny(start_from=str(passing))
    Trainer(config, tmp_path / "run").run(stop_after=1)
    shutil.rmtree(passing)
    resumed = Trainer(config, tmp_path / "run", resume=True).run()
    assert equal(resumed.model.state_dict(), whole.model.state_dict())


def test_other_towers_are_refused_by_what_differs(clip: Path, tmp_path: Path) -> None:
    config = tiny(start_from=str(clip), **{"model.dim": 32, "model.text.layers": 2})
    with pytest.raises(
        TrainingError, match=r"do not fit: model\.dim is 16 there, 32 here; model\.text is .*'layers': 1"
    ):
        Trainer(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no finished run"):
        Trainer(tiny(start_from=str(tmp_path)), tmp_path / "run")


def test_data_is_checked_with_the_vocabulary_of_the_start(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"safe": "a dog {i}", "unsafe": "a gun {i}"}}\n' for i in range(40)))
    data = {"data": {"train": [str(rows)]}}

    def learned(*_: object) -> None:
        pytest.fail("a vocabulary was learned")

    monkeypatch.setattr("hysac_export.training.start.train_tokenizer", learned)
    assert check_data(tiny(start_from=str(clip), **data)) is not None
    with pytest.raises(TrainingError, match="holds no finished run"):
        check_data(tiny(start_from=str(tmp_path), **data))


def test_hysac_train_takes_the_start_as_a_setting(clip: Path, tmp_path: Path) -> None:
    settings = [f"--set={key}={value}" for key, value in (("steps", 1), ("batch_size", 8), ("workers", 0))]
    refused = CliRunner().invoke(
        main, ["train", "mini-scenes", "--out", str(tmp_path / "run"), *settings, f"--set=start_from={clip}"]
    )
    assert refused.exit_code == 1
    assert "do not fit" in refused.output
