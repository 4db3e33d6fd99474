"""The baselines and the rungs of the ablation: each trains, and does what its name says."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hysac_export.config import TrainConfig
from hysac_export.data.split import GROUPS
from hysac_export.training.losses import Quadruplets, euclidean_loss, hyperbolic_loss, safe_clip_terms
from hysac_export.training.run import TrainedRun
from hysac_export.training.train import Trainer
from hysac_retrieval import lorentz
from hysac_retrieval.errors import TrainingError

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "benchmarks" / "recipes"
FINE_TUNED = sorted({path.stem for path in RECIPES.glob("*.yaml")} - {"clip"})
SMALL = {
    "steps": 20,
    "batch_size": 8,
    "workers": 0,
    "threads": 1,
    "checkpoint_every": 100,
    "log_every": 1,
    "precision": "fp32",
    "data.quadruplets": 64,
    "model.dim": 16,
    "model.image.size": 32,
    "model.image.width": 32,
    "model.image.layers": 1,
    "model.image.head_width": 16,
    "model.text.width": 32,
    "model.text.layers": 1,
    "model.text.heads": 2,
    "model.text.vocab_size": 600,
}


def small(name: str, **overrides: object) -> TrainConfig:
    return TrainConfig.load(RECIPES / f"{name}.yaml", **(SMALL | overrides))


def rows_of(folder: Path) -> list[dict[str, float]]:
    """Metrics of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline that the others start from."""
    folder = tmp_path_factory.mktemp("runs") / "clip"
    Trainer(small("clip", stem_steps=2), folder).run()
    return folder


def points(seed: int = 0, n: int = 6, d: int = 5) -> Quadruplets:
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in GROUPS]
    return Quadruplets(*(lorentz.exp_map0(group, 1.0) for group in groups))


def unit_vectors(seed: int = 0, n: int = 6, d: int = 5) -> Quadruplets:
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in GROUPS]
    return Quadruplets(*(torch.nn.functional.normalize(group, dim=-1).requires_grad_() for group in groups))


def test_clip_trains_for_20_steps(clip: Path) -> None:
    rows = rows_of(clip)[2:]
    assert len(rows) == 20
    assert all("curvature" not in row for row in rows)
    assert np.mean([row["joint"] for row in rows[-5:]]) < np.mean([row["joint"] for row in rows[:5]])


@pytest.mark.parametrize("name", FINE_TUNED)
def test_a_baseline_trains_for_20_steps(name: str, clip: Path, tmp_path: Path) -> None:
    # After so few steps the CLIP has twins in one place; for Safe-CLIP to bring them there they have to be apart.
    start = None if name == "safe-clip" else str(clip)
    Trainer(small(name, start_from=start), tmp_path / name).run()
    rows = rows_of(tmp_path / name)
    assert len(rows) == 20
    assert all(np.isfinite(value) for row in rows for value in row.values())
    config = TrainConfig.load(RECIPES / f"{name}.yaml")
    assert config.start_from == "benchmarks/baselines/clip"
    euclidean = config.model.geometry == "euclidean"
    assert ("curvature" in rows[0]) != euclidean
    assert ("joint" in rows[0]) == (bool(config.loss.joint) and not euclidean)
    assert ("radius" in rows[0]) == (bool(config.loss.radius) and not euclidean)
    if not euclidean:
        curvatures = {row["curvature"] for row in rows}
        assert (curvatures == {1.0}) == (name == "fixed-curvature")
    # What is trained falls: InfoNCE of the pairs, or of the union.
    trained = "joint" if name == "meru" else "T-I"
    assert np.mean([row[trained] for row in rows[-5:]]) < np.mean([row[trained] for row in rows[:5]])
    if name == "safe-clip":  # unsafe embeddings come to their safe twins
        assert all(rows[-1][term] < 0.5 * rows[0][term] for term in ("T*->T", "I*->I"))
    assert TrainedRun.load(tmp_path / name).encode_text(["a dog"]).shape == (1, 16)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The ablation script."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    module = importlib.import_module("ablation")
    for name in ("ablation", "common"):
        sys.modules.pop(name)
    return module


def test_the_ablation_script_sets_recipes_and_seeds_side_by_side(
    script: ModuleType, clip: Path, tmp_path: Path
) -> None:
    assert sorted(script.RECIPES) == FINE_TUNED
    settings = SMALL | {"steps": 4, "start_from": str(clip)}
    options = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    options += ["--recipe=safe-clip", "--recipe=mini-on-clip", "--seed=0", "--seed=1", "-n", "12"]
    paths = [f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'ablation.md'}"]
    result = CliRunner().invoke(script.main, [*options, *paths], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    config = TrainedRun.load(tmp_path / "runs" / "mini-on-clip-1").config
    assert (config.steps, config.seed) == (4, 1)
    written = (tmp_path / "ablation.md").read_text(encoding="utf-8")
    for name in ("safe-clip, seed 0", "safe-clip, seed 1", "mini-on-clip, seed 0", "mini-on-clip, seed 1"):
        assert f"| validation | {name} |" in written
    # A Euclidean model has no radius to redirect by; what it has already redirected shows without.
    assert "| safe-clip, seed 0 | none |" in written
    assert "| safe-clip, seed 0 | ours |" not in written


def test_only_the_cones_that_are_named_count() -> None:
    quadruplets, curvature, scale = points(), torch.tensor(1.0), torch.tensor(14.0)
    meru = small("meru").loss
    total, terms = hyperbolic_loss(quadruplets, curvature, scale, meru, 1.0)
    expected = terms["joint"] + meru.entailment * (terms["T<I"] + terms["T*<I*"])
    assert float(total) == pytest.approx(float(expected))
    assert float(terms["I<T*"]) > 0  # reported, and left out
    alone = meru.model_copy(update={"cones": (), "published_normalisation": False})
    total, terms = hyperbolic_loss(quadruplets, curvature, scale, alone, 1.0)
    assert float(total) == pytest.approx(float(terms["joint"]))


def test_the_published_divisor_counts_the_terms_there_are() -> None:
    loss = TrainConfig.load("published", **{"loss.cones": ["T<I", "T*<I*"], "loss.entailment": 0.5}).loss
    total, terms = hyperbolic_loss(points(), torch.tensor(1.0), torch.tensor(14.0), loss, 0.0)
    pairs = sum(float(terms[name]) for name in ("T-I", "T*-I*", "T-I*", "T*-I"))
    cones = float(terms["T<I"]) + float(terms["T*<I*"])
    assert float(total) == pytest.approx((pairs + 0.5 * cones) / (6 * (4 + 2 * 0.5)))


def test_safe_clip_terms_by_hand_and_without_a_pull_on_safe_points() -> None:
    quadruplets = unit_vectors()
    terms = safe_clip_terms(quadruplets, 10.0)
    vectors = {name: getattr(quadruplets, name).detach().numpy() for name in GROUPS}
    cosines = (vectors["unsafe_image"] * vectors["safe_image"]).sum(1)
    assert terms["I*->I"].item() == pytest.approx(1 - cosines.mean())
    logits = 10 * vectors["unsafe_text"] @ vectors["safe_image"].T
    rows, columns = (np.log(np.exp(m).sum(1)) - m.diagonal() for m in (logits, logits.T))
    assert terms["T*->I"].item() == pytest.approx((rows.mean() + columns.mean()) / 2)
    torch.stack([terms[name] for name in ("T*->I", "I*->T", "T*->T", "I*->I")]).sum().backward()
    assert quadruplets.safe_text.grad is None
    assert quadruplets.safe_image.grad is None
    # In every unsafe row: the gradient says to go to the safe twin.
    assert quadruplets.unsafe_text.grad is not None
    toward = (quadruplets.unsafe_text.grad * quadruplets.safe_text).sum(-1)
    assert toward.mean().item() < 0


def test_safe_clip_total_weighs_the_redirection() -> None:
    quadruplets, scale = unit_vectors(1), torch.tensor(10.0, dtype=torch.float64)
    total, terms = euclidean_loss(quadruplets, scale, small("safe-clip", **{"loss.safe_clip": 0.25}).loss)
    redirected = sum(terms[name].item() for name in ("T*->I", "I*->T", "T*->T", "I*->I"))
    assert total.item() == pytest.approx(terms["T-I"].item() + 0.25 * redirected)


def test_safe_clip_in_a_hyperbolic_space_is_refused() -> None:
    with pytest.raises(TrainingError, match="euclidean"):
        TrainConfig.load("mini-scenes", **{"loss.safe_clip": 1.0})


def test_a_config_holds_only_what_differs_from_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: published\nsteps: 7\nloss: {joint: 2.0}\n")
    (tmp_path / "again.toml").write_text('extends = "mine.yaml"\nseed = 3\n')
    found, base = TrainConfig.load(tmp_path / "again.toml"), TrainConfig.load("published")
    assert (found.steps, found.seed, found.loss.joint) == (7, 3, 2.0)
    assert found.loss.model_copy(update={"joint": base.loss.joint}) == base.loss
    assert found.model == base.model


def test_a_config_that_extends_itself_or_nothing_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(TrainingError, match="extends itself"):
        TrainConfig.load(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("extends: missing.yaml\n")
    with pytest.raises(TrainingError, match=r"missing\.yaml"):
        TrainConfig.load(tmp_path / "c.yaml")
