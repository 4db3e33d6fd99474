"""The trainer: a run of a few steps, resume to the same numbers, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from hysac_export.config import CLIP_MEAN, TrainConfig
from hysac_export.data.batches import augment, normalise, tokenize
from hysac_export.data.scenes.batches import SceneBatches
from hysac_export.recipes import bundled_configs
from hysac_export.training.engine import learning_rate
from hysac_export.training.run import TrainedRun
from hysac_export.training.train import Trainer
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.tokenization import TextTokenizer
from hysac_retrieval.errors import TrainingError

pytestmark = pytest.mark.slow

TINY = {
    "stem_steps": 2,
    "steps": 4,
    "batch_size": 8,
    "workers": 0,
    "threads": 1,
    "checkpoint_every": 100,
    "log_every": 1,
    "precision": "fp32",
    "data.quadruplets": 200,
    "model.dim": 16,
    "model.image": {"width": 32, "layers": 1, "head_width": 16, "stem": "conv", "patch": 16, "head_mlp": True},
    "model.text": {"width": 32, "layers": 1, "heads": 2, "vocab_size": 600, "head_mlp": True},
}


def tiny(**overrides: object) -> TrainConfig:
    return TrainConfig.load("mini-scenes", **(TINY | overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    Trainer(tiny(), folder).run()
    return folder


def _lines(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_run_reports_every_term_and_the_stem_is_alone_at_first(finished):
    rows = _lines(finished)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "T-I", "T*<I*", "joint", "radius", "words", "curvature", "radius/unsafe_image"} <= rows[2].keys()
    assert rows[0].keys() == {"step", "loss", "words"}
    assert all(np.isfinite(value) for row in rows for value in row.values())


@pytest.mark.slow
def test_the_stem_learns_words(tmp_path):
    Trainer(tiny(stem_steps=60, steps=1, batch_size=16, **{"optim.lr": 5e-3}), tmp_path / "run").run()
    words = [row["words"] for row in _lines(tmp_path / "run")]
    assert np.mean(words[50:60]) < np.mean(words[:10]) - 0.1


def test_a_resumed_run_continues_to_the_same_numbers(finished, tmp_path):
    folder = tmp_path / "resumed"
    Trainer(tiny(), folder).run(stop_after=3)
    # The process ends here; a new trainer knows only what is in the folder.
    Trainer(tiny(), folder, resume=True).run()
    assert _lines(folder) == _lines(finished)
    whole, resumed = (TrainedRun.load(path).model.state_dict() for path in (finished, folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("native", [True, False])
def test_the_precision_is_that_of_the_device_and_then_of_the_run(native, tmp_path, monkeypatch):
    config, folder = tiny(precision="auto", steps=1), tmp_path / "run"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    begun = Trainer(config, folder, device="cpu")
    begun.run(stop_after=1)
    assert begun.config.precision == ("bf16" if native else "fp32")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not native})
    resumed = Trainer(config, folder, resume=True, device="cpu")
    assert resumed.config == begun.config


def test_a_finished_run_encodes_points_on_the_hyperboloid(finished):
    run = TrainedRun.load(finished)
    texts = run.encode_text(["a dog on a beach", "a cook with a knife"])
    images = run.encode_image(np.zeros((3, 64, 64, 3), dtype=np.uint8))
    assert texts.shape == (2, 16)
    assert images.shape == (3, 16)
    assert (lorentz.dist0(texts.astype(np.float64), run.curvature) > 0).all()


def test_encoders_saved_in_half_precision_give_nearly_the_same_points(finished, tmp_path):
    run = TrainedRun.load(finished)
    size = run.save(tmp_path / "half", half=True)
    assert size < 0.6 * (finished / "model.safetensors").stat().st_size
    halved = TrainedRun.load(tmp_path / "half").encode_text(["a dog"])
    assert np.abs(halved - run.encode_text(["a dog"])).max() < 1e-2


def test_weights_that_do_not_fit_the_config_are_refused(finished, tmp_path):
    TrainedRun.load(finished).save(tmp_path / "other")
    config = tiny(**{"model.dim": 24}).model_dump_json()
    (tmp_path / "other" / "config.json").write_text(config)
    with pytest.raises(TrainingError, match="do not fit"):
        TrainedRun.load(tmp_path / "other")


def test_the_baseline_gives_unit_vectors(tmp_path):
    Trainer(tiny(**{"model.geometry": "euclidean", "steps": 2}), tmp_path / "clip").run()
    run = TrainedRun.load(tmp_path / "clip")
    assert np.linalg.norm(run.encode_text(["a dog"]), axis=1) == pytest.approx(1.0, abs=1e-6)


def test_the_published_recipe_trains_too(tmp_path):
    published = {
        "stem_steps": 0,
        "loss": {"joint": 0.0},
        "optim": {"lr": 1e-4, "warmup": 0.0, "schedule": "constant", "clip_norm": None},
        "steps": 2,
    }
    Trainer(tiny(**published), tmp_path / "run").run()
    assert not {"joint", "radius", "words"} & _lines(tmp_path / "run")[0].keys()


def test_a_batch_depends_on_nothing_but_its_step(tmp_path):
    trainer = Trainer(tiny(), tmp_path / "run")
    batches = SceneBatches(trainer.config, trainer.tokenizer)
    forward = [batches[step] for step in range(3)]
    again = SceneBatches(trainer.config, trainer.tokenizer)[2]
    assert torch.equal(forward[2].pixels, again.pixels)
    assert torch.equal(forward[2].tokens, again.tokens)
    assert not torch.equal(forward[0].pixels, forward[1].pixels)


def test_every_quadruplet_is_seen_once_an_epoch(tmp_path):
    trainer = Trainer(tiny(), tmp_path / "run")
    batches = SceneBatches(trainer.config, trainer.tokenizer)
    seen = [row for step in range(25) for row in batches.rows(step)]
    assert sorted(seen) == list(range(200))


def test_groups_share_setting_and_light_and_leave_nothing_out(tmp_path):
    trainer = Trainer(tiny(**{"data.group": 4}), tmp_path / "run")
    batches = SceneBatches(trainer.config, trainer.tokenizer)
    seen = [row for step in range(25) for row in batches.rows(step)]
    assert sorted(seen) == list(range(200))
    places = [(batches.scenes[row].safe.setting, batches.scenes[row].safe.light) for row in seen]
    alike = [len(set(places[start : start + 4])) == 1 for start in range(0, 200, 4)]
    assert np.mean(alike) > 0.2  # 200 scenes in 48 places: a fifth of the groups at least are whole
    assert list(batches.rows(0)) != list(batches.rows(25))


def test_captions_leave_out_only_what_both_twins_show_and_what_does_not_decide(tmp_path):
    trainer = Trainer(tiny(**{"data.omit": 1.0}), tmp_path / "run")
    batches = SceneBatches(trainer.config, trainer.tokenizer)
    told = batches._told(batches.scenes, np.random.default_rng(0))
    shorter = 0
    for q, safe, unsafe in zip(batches.scenes, told[:200], told[200:], strict=True):
        for scene, said in ((q.safe, safe), (q.unsafe, unsafe)):
            missing = set(scene.entities) - set(said.entities)
            assert missing <= set(q.safe.entities) & set(q.unsafe.entities)
            assert len(missing) <= 1
            assert len(said.entities) >= 2
            assert not (missing and q.context)
            shorter += bool(missing)
    assert shorter > 100


def test_a_folder_is_not_trained_over(finished):
    with pytest.raises(TrainingError, match="--resume"):
        Trainer(tiny(), finished)


def test_resuming_with_another_config_is_refused(finished):
    with pytest.raises(TrainingError, match="another config"):
        Trainer(tiny(**{"optim.lr": 0.5}), finished, resume=True)


def test_word_prediction_needs_words_that_tell_something(tmp_path):
    with pytest.raises(TrainingError, match=r"set loss\.words to 0"):
        Trainer(tiny(**{"data.quadruplets": 2}), tmp_path / "run")


def test_resuming_nothing_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no run"):
        Trainer(tiny(), tmp_path / "none", resume=True)


def test_a_folder_without_a_finished_run_says_what_is_missing(tmp_path):
    with pytest.raises(TrainingError, match=r"model\.safetensors"):
        TrainedRun.load(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_mend(tmp_path):
    with pytest.raises(TrainingError, match=r"Lower optim\.lr"):
        Trainer(tiny(**{"stem_steps": 0, "optim.lr": 1e30, "optim.warmup": 0.0}), tmp_path / "run").run()


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"optim.lr": -1}, "lr"),
        ({"model.image": {"patch": 7}}, "patch"),
        ({"stepz": 1}, "stepz"),
        ({"optim.betas": [0.9, 2]}, "betas"),
        ({"model.text.heads": 3, "model.text.width": 32}, r"text\.heads, 3"),
        ({"model.image.head_width": 500}, "head_width, 500"),
        ({"seed": -1}, "seed"),
        ({"data.seed": -1}, "seed"),
        ({"model": "foo", "model.dim": 3}, r"model\.dim cannot be set"),
        ({"source": 1}, "source"),
        ({"cls": 1}, "cls"),
    ],
)
def test_a_bad_config_names_the_field(overrides, field):
    with pytest.raises(TrainingError, match=field):
        TrainConfig.load("mini-scenes", **overrides)


def test_configs_are_read_from_yaml_and_toml(tmp_path):
    (tmp_path / "a.yaml").write_text("steps: 7\noptim: {lr: 0.5}\n")
    (tmp_path / "b.toml").write_text("steps = 7\n[optim]\nlr = 0.5\n")
    assert TrainConfig.load(tmp_path / "a.yaml") == TrainConfig.load(tmp_path / "b.toml")
    with pytest.raises(TrainingError, match=r"missing\.yaml"):
        TrainConfig.load(tmp_path / "missing.yaml")


def test_settings_given_to_a_config_stay_as_they_are():
    text = {"width": 32, "heads": 2}
    config = TrainConfig.load("mini-scenes", **{"model.text": text, "model.text.layers": 5})
    assert (config.model.text.layers, text) == (5, {"width": 32, "heads": 2})


def test_a_config_extends_one_other(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: [mini, clip]\n")
    with pytest.raises(TrainingError, match="expected one name"):
        TrainConfig.load(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", bundled_configs())
def test_bundled_configs_are_valid(name):
    assert TrainConfig.load(name).steps > 0


def test_learning_rate_warms_up_and_falls_to_zero():
    config = tiny(**{"optim.lr": 1.0, "optim.warmup": 0.1}).optim
    assert learning_rate(config, 0.05) == pytest.approx(0.5, abs=0.01)
    assert learning_rate(config, 0.1) == pytest.approx(1.0)
    assert learning_rate(config, 0.55) == pytest.approx(0.5)
    assert learning_rate(config, 0.9999) < 1e-5


def test_augmentation_is_repeatable_keeps_the_shape_and_is_off_at_zero():
    pixels = normalise(torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8))
    assert augment(pixels, 0.0, torch.Generator()) is pixels
    first, second = (augment(pixels, 0.5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == pixels.shape
    assert not torch.equal(first, pixels)


def test_normalise_maps_the_channel_mean_to_zero():
    pixels = torch.tensor(CLIP_MEAN).mul(255).round().to(torch.uint8).expand(1, 2, 2, 3)
    assert normalise(pixels).abs().max() < 0.01


def test_a_run_that_is_cut_off_before_its_first_checkpoint_can_be_resumed(finished, tmp_path):
    folder = tmp_path / "run"
    Trainer(tiny(), folder)  # the process ends here
    Trainer(tiny(), folder, resume=True).run()
    assert _lines(folder) == _lines(finished)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json", "tokenizer.json"])
def test_resuming_from_a_damaged_file_names_it(name, tmp_path):
    folder = tmp_path / "run"
    Trainer(tiny(precision="auto"), folder).run(stop_after=3)
    _cut(folder / name)
    with pytest.raises(TrainingError, match=re.escape(name)):
        Trainer(tiny(precision="auto"), folder, resume=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_run_with_a_damaged_file_names_it(name, finished, tmp_path):
    TrainedRun.load(finished).save(tmp_path / "run")
    _cut(tmp_path / "run" / name)
    with pytest.raises(TrainingError, match=re.escape(name)):
        TrainedRun.load(tmp_path / "run")


@pytest.mark.slow
def test_metrics_that_were_half_written_are_written_again(finished, tmp_path):
    folder = tmp_path / "run"
    Trainer(tiny(), folder).run(stop_after=3)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 4, "lo')
    Trainer(tiny(), folder, resume=True).run()
    assert _lines(folder) == _lines(finished)


def test_weights_are_never_half_written(finished, tmp_path, monkeypatch):
    run = TrainedRun.load(finished)
    run.save(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(weights: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("hysac_export.training.run.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        run.save(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("inner", ["", "run"])
def test_a_file_is_no_place_for_a_run(inner, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(TrainingError, match="is a file"):
        Trainer(tiny(), tmp_path / "taken" / inner)


def test_half_precision_of_gpus_is_refused_on_a_cpu(tmp_path):
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        Trainer(tiny(precision="fp16"), tmp_path / "run", device="cpu")


def test_entailment_alone_can_be_ramped_in(tmp_path):
    loss = {"contrastive": 0, "entailment_start": 0.5, "joint": 0, "radius": 1, "published_normalisation": True}
    Trainer(tiny(stem_steps=0, loss=loss), tmp_path / "run").run()
    assert all(np.isfinite(row["loss"]) for row in _lines(tmp_path / "run"))


def test_special_tokens_that_are_written_in_a_caption_are_characters_as_in_the_runtime(finished):
    run = TrainedRun.load(finished)
    texts = ["a <end> b", "a<start>b <pad>"]
    runtime = TextTokenizer(Tokenizer.from_file(str(finished / "tokenizer.json")), run.text_spec)
    np.testing.assert_array_equal(tokenize(run.tokenizer, texts), runtime(texts))
