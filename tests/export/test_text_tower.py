"""A trained sentence encoder as the text tower: training, resuming, the cache of states, bundles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.sentences import small_encoder
from support.toy_bundle import profile

from hysac_export.bundle.onnx import export_bundle
from hysac_export.config import TrainConfig
from hysac_export.data.batches import tokenize
from hysac_export.data.policy import read_policy
from hysac_export.data.scenes.batches import SceneBatches
from hysac_export.evaluation.subjects import calibration_texts, load_subject
from hysac_export.training.run import TrainedRun
from hysac_export.training.train import Trainer
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import TrainingError

pytestmark = pytest.mark.slow

TINY = {
    "stem_steps": 1,
    "steps": 3,
    "batch_size": 8,
    "workers": 0,
    "threads": 1,
    "checkpoint_every": 100,
    "log_every": 1,
    "precision": "fp32",
    "data.quadruplets": 200,
    "text_steps": 0,
    "model.dim": 16,
    "model.image": {"width": 32, "layers": 1, "head_width": 16, "stem": "conv", "patch": 16, "head_mlp": True},
    "model.text.features": 24,
    "model.text.context_length": 40,
    "texts": {"pairs": 4, "others": 6},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small sentence encoder: its folder, and the model of transformers."""
    folder = tmp_path_factory.mktemp("encoders") / "small"
    return folder, small_encoder(folder)


def tiny(encoder: tuple[Path, Any], **overrides: object) -> TrainConfig:
    return TrainConfig.load("mini", **(TINY | {"model.text.pretrained": str(encoder[0])} | overrides))


def lines(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def weights(run: TrainedRun) -> dict[str, torch.Tensor]:
    return {name: value for name, value in run.model.state_dict().items() if name.startswith("sentences.transformer")}


@pytest.fixture(scope="module")
def finished(encoder: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    Trainer(tiny(encoder), folder).run()
    return folder


def test_a_run_learns_from_texts_too_and_leaves_a_frozen_encoder_alone(
    encoder: tuple[Path, Any], finished: Path
) -> None:
    assert {"texts/radius", "texts/moved", "texts/direction", "texts/others", "words"} <= lines(finished)[1].keys()
    assert all(np.isfinite(value) for row in lines(finished) for value in row.values())
    there = encoder[1].state_dict()
    kept = weights(TrainedRun.load(finished))
    assert len(kept) > 30
    assert all(torch.equal(value, there[name.removeprefix("sentences.transformer.")]) for name, value in kept.items())


def test_a_bundle_reads_english_without_torch_at_any_length(finished: Path, tmp_path: Path) -> None:
    run = TrainedRun.load(finished)
    bundle = export_bundle(run.model, run.tokenizer, safety=profile(), out=tmp_path / "b", name="b", text=run.text_spec)
    spec = bundle.manifest.text
    assert (spec.dynamic, spec.context_length, spec.pad_id, spec.end_id) == (True, 40, 0, 3)
    texts = ["A dog", "a man threatens his neighbour with a knife", "the cat " * 30, "Zzzgrf!"]
    expected = run.encode_text(texts)
    found = Encoder(bundle, device="cpu", threads=1)
    np.testing.assert_allclose(found.encode_text(texts), expected, atol=2e-5)
    for text, point in zip(texts, expected, strict=True):  # alone, in a row of its own length
        np.testing.assert_allclose(found.encode_text(text)[0], point, atol=2e-5)


def test_a_resumed_run_continues_to_the_same_numbers_without_the_encoder(
    encoder: tuple[Path, Any], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    passing = tmp_path / "small"
    shutil.copytree(encoder[0], passing)
    Trainer(tiny((passing, None)), folder).run(stop_after=2)
    assert (folder / "states-0" / "states.bin").stat().st_size > 0
    shutil.rmtree(passing)
    Trainer(TrainConfig.load(folder / "config.json"), folder, resume=True).run()
    assert lines(folder) == lines(finished)
    assert not (folder / "states-0").exists()  # nobody needs them any more


def test_a_scene_keeps_its_captions_where_few_are_asked_for(encoder: tuple[Path, Any], tmp_path: Path) -> None:
    told: dict[int | None, set[tuple[int, ...]]] = {}
    for few in (1, 2, None):
        data = {"data.captions": few, "data.quadruplets": 8, "loss.words": 0.0, "stem_steps": 0}
        trainer = Trainer(tiny(encoder, **data), tmp_path / str(few))
        batches = SceneBatches(trainer.config, trainer.tokenizer)
        told[few] = {tuple(row) for step in range(5) for row in batches[step].tokens.tolist()}
    assert len(told[1]) <= 16 < len(told[2]) <= 32 < len(told[None])


@pytest.mark.parametrize("tuning", ["adapted", "whole"])
def test_an_encoder_learns_too_where_it_is_asked_to(tuning: str, encoder: tuple[Path, Any], tmp_path: Path) -> None:
    config = tiny(encoder, steps=2, accumulate=1, **{"model.text.tuning": tuning, "model.text.lora.rank": 2})
    trainer = Trainer(config, tmp_path / "run")
    trainer.run()
    assert not (tmp_path / "run" / "states-0").exists()
    there = encoder[1].state_dict()
    changed = {
        name.removeprefix("sentences.transformer.")
        for name, value in weights(TrainedRun.load(tmp_path / "run")).items()
        if not torch.equal(value, there[name.removeprefix("sentences.transformer.")])
    }
    query = "encoder.layer.0.attention.self.query.weight"
    assert "encoder.layer.0.attention.self.key.weight" in changed
    assert (query in changed) == (tuning == "whole")
    assert ("embeddings.word_embeddings.weight" in changed) == (tuning == "whole")


def test_states_are_those_of_transformers_and_a_text_does_not_depend_on_its_batch(
    encoder: tuple[Path, Any], finished: Path
) -> None:
    run = TrainedRun.load(finished)
    tower = run.model.sentences
    texts = ["a dog", "a man threatens his neighbour with a knife", "the cat " * 30]
    tokens = torch.from_numpy(tokenize(run.tokenizer, texts))
    with torch.no_grad():
        states, real = tower.states(tokens), tower.real(tokens)
        expected = encoder[1](input_ids=tokens, attention_mask=(tokens != 0).long())[0]
    assert torch.equal(real, tokens != 0)
    np.testing.assert_allclose(states[real], expected[real], atol=1e-5)
    mean = torch.nn.functional.normalize((states * real[..., None]).sum(1) / real.sum(1)[:, None], dim=1)
    np.testing.assert_allclose(tower.vectors(tokens, states), mean, atol=1e-6)
    together = run.encode_text(texts)
    for text, point in zip(texts, together, strict=True):
        np.testing.assert_allclose(run.encode_text([text])[0], point, atol=1e-5)


def test_a_run_of_a_bundled_model_s_name_does_not_replace_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hysac-mini").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    assert load_subject("hysac-mini").source.startswith("bundle hysac-mini")
    assert load_subject("./hysac-mini").source.startswith("run ")


def test_scores_of_texts_are_calibrated_on_the_validation_split_of_the_policy(finished: Path) -> None:
    subject = load_subject(finished)
    assert subject.policy == "general"
    pairs = read_policy("general").pairs("validation")
    texts = calibration_texts(subject)
    assert texts is not None
    radii = texts.by_group(subject.curvature)
    safe = lorentz.dist0(subject.encoder.encode_text([safe for safe, _ in pairs]).astype(float), subject.curvature)
    np.testing.assert_allclose(radii["safe_text"], safe, rtol=1e-5)
    assert len(radii["unsafe_text"]) == len(pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.text.pretrained": "/nowhere/at/all"}, "there is no folder /nowhere/at/all"),
        ({"model.text.context_length": 100}, "reads 64 tokens, model.text asks for 100"),
    ],
)
def test_what_cannot_be_a_tower_is_refused_before_the_run(
    change: dict[str, Any], message: str, encoder: tuple[Path, Any], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        Trainer(tiny(encoder, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_in_parts_learns_the_same_from_texts(encoder: tuple[Path, Any], tmp_path: Path) -> None:
    plain = {"stem_steps": 0, "loss.words": 0.0, "model.image.stem": "patch", "data.augment": 0.0}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(tiny(encoder, **plain), whole).run()
    Trainer(tiny(encoder, accumulate=2, **plain), parts).run()
    assert "texts/radius" in lines(whole)[0]
    for one, other in zip(lines(whole), lines(parts), strict=True):
        assert one == pytest.approx(other, rel=2e-3, abs=1e-4)


def test_the_head_has_a_weight_decay_of_its_own_and_nothing_else_has_it(
    encoder: tuple[Path, Any], tmp_path: Path
) -> None:
    groups = {}
    for decay in (None, 0.7):
        change = {"texts.weight_decay": decay, "optim.weight_decay": 0.2}
        found = Trainer(tiny(encoder, **change), tmp_path / str(decay))._engine
        named = {id(p): name for module in found.modules() for name, p in module.named_parameters()}
        groups[decay] = {
            named[id(p)]: group["weight_decay"] for group in found.optimizer.param_groups for p in group["params"]
        }
    assert groups[None].keys() == groups[0.7].keys()
    own = {name for name in groups[0.7] if groups[0.7][name] != groups[None][name]}
    assert own == {f"sentences.head.{name}.weight" for name in ("each.1", "out.1", "out.3")}
    assert {groups[0.7][name] for name in own} == {0.7}


def test_in_the_last_steps_only_texts_learn_and_a_resumed_run_goes_on_with_them(
    encoder: tuple[Path, Any], tmp_path: Path
) -> None:
    config = tiny(encoder, text_steps=4, **{"texts.noise": 0.2, "texts.pictured": 0.5})
    whole, parts = Trainer(config, tmp_path / "whole"), Trainer(config, tmp_path / "parts")
    main = config.stem_steps + config.steps
    parts.run(stop_after=main)
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    parts.run(stop_after=2)
    Trainer(config, tmp_path / "parts", resume=True).run()
    whole.run()
    after = TrainedRun.load(tmp_path / "whole").model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    texts = ("sentences.head.", "text_head.", "log_alpha_text")
    still = {name for name in before if not name.startswith(texts)} - {"log_logit_scale"}  # which is put in its range
    assert not moved & still
    assert {name for name in before if name.startswith("sentences.head.")} <= moved
    resumed = TrainedRun.load(tmp_path / "parts").model.state_dict()
    assert all(torch.equal(after[name], resumed[name]) for name in after)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    with pytest.raises(TrainingError, match="text_steps needs texts"):
        TrainConfig.load("mini-scenes", text_steps=1)
