"""Validation while training: the published criterion, the best weights, an early end; and where metrics go."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.golden import load_golden

from hysac_export.config import TrainConfig
from hysac_export.data.feed import open_feed
from hysac_export.model.encoded import EncodedSplit, curvature_of, encode_drawn
from hysac_export.training import train as training
from hysac_export.training.run import TrainedRun
from hysac_export.training.trackers import open_trackers
from hysac_export.training.train import BEST, Trainer
from hysac_export.training.validation import Best, recall_sum
from hysac_retrieval.errors import MissingExtraError

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "workers": 0,
    "threads": 1,
    "log_every": 100,
    "checkpoint_every": 100,
    "model": {
        "dim": 12,
        "image": {"size": 32, "patch": 16, "width": 16, "layers": 1, "head_width": 8},
        "text": {"context_length": 12, "vocab_size": 400, "width": 16, "layers": 1, "heads": 2},
    },
    "data": {"quadruplets": 64},
    "optim": {"lr": 1e-2},
    "validation": {"every": 2, "quadruplets": 32},
}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(SETTINGS | changes)


def lines(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_the_recall_sum_is_the_published_one() -> None:
    golden = load_golden("recall")
    for case in range(int(golden["n_cases"])):
        groups = {
            ours: golden[f"k{case}_{theirs}"]
            for ours, theirs in {
                "safe_text": "text_safe",
                "safe_image": "vision_safe",
                "unsafe_text": "text_nsfw",
                "unsafe_image": "vision_nsfw",
            }.items()
        }
        n = len(groups["safe_text"])
        encoded = EncodedSplit(**groups, categories=np.full(n, ""), context=np.zeros(n, dtype=bool))
        found = recall_sum(encoded, float(golden[f"k{case}_curv"]))
        assert found == pytest.approx(float(golden[f"k{case}_recall_sum"]), abs=1e-12)


def test_the_best_is_the_first_of_equals_and_patience_counts_from_it() -> None:
    best = Best()
    for step, value in enumerate((1.0, 3.0, 3.0, 2.0)):
        best = best.after(value, step)
    assert best == Best(3.0, 1, 2)
    assert (best.stalled(2), best.stalled(3), best.stalled(None)) == (True, False, False)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Recalls that validations are to give, in place of measured ones; taken from the front."""
    values: list[float] = []
    monkeypatch.setattr(training, "recall_sum", lambda *_: values.pop(0))
    return values


def test_a_run_is_validated_now_and_then_and_after_its_last_step(tmp_path: Path) -> None:
    trained = Trainer(config(steps=5), tmp_path / "run").run()
    rows = lines(tmp_path / "run")
    assert [row["step"] for row in rows] == [2, 4, 5]
    assert all(0 <= row["recall_sum"] <= 6 for row in rows)
    split = open_feed(trained.config).validation(32)
    again = recall_sum(encode_drawn(trained, split), curvature_of(trained))
    assert again == pytest.approx(max(row["recall_sum"] for row in rows), abs=0.1)


def test_the_weights_of_the_best_validation_are_kept(tmp_path: Path, told: list[float]) -> None:
    told += [2.0, 1.0, 1.0]
    trained = Trainer(config(), tmp_path / "run").run()
    half = Trainer(config(validation=None), tmp_path / "half").run(stop_after=2)
    expected = half.model.state_dict()
    for found in (trained, TrainedRun.load(tmp_path / "run")):
        assert all(torch.equal(value, expected[name]) for name, value in found.model.state_dict().items())
    assert not (tmp_path / "run" / BEST).exists()


def test_a_run_that_gets_no_better_ends(tmp_path: Path, told: list[float]) -> None:
    told += [2.0, 1.0, 1.0, 5.0]
    trainer = Trainer(config(steps=50, validation={"every": 2, "quadruplets": 32, "patience": 2}), tmp_path / "run")
    trainer.run()
    assert (trainer.step, trainer.done, trainer.best) == (6, True, Best(2.0, 2, 2))
    assert told == [5.0]


def test_a_resumed_run_remembers_the_best(tmp_path: Path, told: list[float]) -> None:
    patience = {"every": 2, "quadruplets": 32, "patience": 2}
    told += [2.0, 1.0]
    whole = config(steps=50, validation=patience)
    Trainer(whole, tmp_path / "run").run(stop_after=5)
    assert (tmp_path / "run" / BEST).exists()
    told += [1.5, 9.0]
    resumed = Trainer(whole, tmp_path / "run", resume=True)
    assert (resumed.step, resumed.best) == (5, Best(2.0, 2, 1))
    resumed.run()
    assert (resumed.step, resumed.best) == (6, Best(2.0, 2, 2))
    assert [row["recall_sum"] for row in lines(tmp_path / "run")] == [2.0, 1.0, 1.5]


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path: Path, told: list[float]) -> None:
    told += [2.0, 1.0, 1.0]
    first = Trainer(config(), tmp_path / "run").run().model.state_dict()
    again = Trainer(config(), tmp_path / "run", resume=True).run().model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_a_checkpoint_from_before_validation_can_be_resumed(tmp_path: Path) -> None:
    plain = config(validation=None, log_every=1)
    Trainer(plain, tmp_path / "whole").run()
    Trainer(plain, tmp_path / "resumed").run(stop_after=3)
    path = tmp_path / "resumed" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    torch.save({key: state[key] for key in ("step", "modules", "optimizer")}, path)
    Trainer(plain, tmp_path / "resumed", resume=True).run()
    assert lines(tmp_path / "resumed") == lines(tmp_path / "whole")


def test_tensorboard_gets_the_metrics(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Trainer(config(validation=None, log_every=2, trackers=("tensorboard",)), tmp_path / "run").run()
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    logged = [(event.step, event.value) for event in found.Scalars("loss")]
    assert logged == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in lines(tmp_path / "run")]
    assert "radius/unsafe_image" in found.Tags()["scalars"]


def test_weights_and_biases_gets_config_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the calls of its client that are made; no account and no network."""
    calls: dict[str, Any] = {"log": []}
    run = SimpleNamespace(
        log=lambda values, step: calls["log"].append((step, values)), finish=lambda: calls.update(finished=True)
    )
    client = SimpleNamespace(
        __spec__=SimpleNamespace(name="wandb"),
        init=lambda **options: calls.update(init=options) or run,
        config=SimpleNamespace(update=lambda values, **_: calls.update(config=values)),
    )
    monkeypatch.setitem(sys.modules, "wandb", client)
    (tracker,) = open_trackers(["wandb"], "my-run", tmp_path, {"steps": 3})
    tracker.log({"loss": 1.0}, step=1)
    tracker.finish()
    assert calls == {
        "init": {"project": "my-run", "dir": str(tmp_path)},
        "config": {"steps": 3},
        "log": [(1, {"loss": 1.0})],
        "finished": True,
    }


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hysac_export.training.trackers.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"hysac-retrieval\[tracking\]"):
        Trainer(config(trackers=("tensorboard",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
