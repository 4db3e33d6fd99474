"""Training on towers of open_clip: looked up once, adapted with LoRA or trained whole, merged when done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from hysac_export.config import LoRAConfig, ModelConfig, OpenClipConfig, TrainConfig
from hysac_export.data.batches import tokenize
from hysac_export.model.hysac import HySAC
from hysac_export.model.lora import adapt, merged_state, split_attention
from hysac_export.model.towers import build_towers, pretrained_towers, resolve
from hysac_export.training.run import TrainedRun
from hysac_export.training.train import Trainer
from hysac_retrieval.errors import TrainingError

pytestmark = pytest.mark.slow

ARCHITECTURE = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}
LoadTowers = Callable[..., HySAC]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An architecture in open_clip's format and weights for it, as a user would have them on disk."""
    folder = tmp_path_factory.mktemp("open_clip")
    (folder / "small.json").write_text(json.dumps(ARCHITECTURE))
    torch.manual_seed(3)
    clip = open_clip.model.CLIP(**ARCHITECTURE)  # type: ignore[arg-type]
    save_file(clip.state_dict(), folder / "weights.safetensors")
    return {"name": str(folder / "small.json"), "pretrained": str(folder / "weights.safetensors")}


def settings(files: dict[str, str], **changes: Any) -> dict[str, Any]:
    towers = {**files, **changes.pop("towers", {})}
    return {
        "steps": 4,
        "batch_size": 8,
        "workers": 0,
        "threads": 1,
        "checkpoint_every": 100,
        "log_every": 1,
        "model": {"open_clip": towers},
        "optim": {"lr": 1e-2},
        "data": {"quadruplets": 100},
        **changes,
    }


def train(folder: Path, files: dict[str, str], **changes: Any) -> Trainer:
    trainer = Trainer(TrainConfig.model_validate(settings(files, **changes)), folder)
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def finished(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "lora"
    train(folder, files)
    return folder


def lines(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_an_adapted_run_can_be_adapted_further(files: dict[str, str], finished: Path, tmp_path: Path) -> None:
    again = files | {"pretrained": "gone.safetensors"}  # is not needed: the weights are those of the run
    config = TrainConfig.model_validate(settings(again, start_from=str(finished)))
    trainer = Trainer(config, tmp_path / "again")
    there = TrainedRun.load(finished).model.state_dict()
    assert config.model.open_clip is not None
    assert config.model.open_clip.lora is not None
    here = merged_state(trainer.model, config.model.open_clip.lora)
    assert here.keys() == there.keys()
    assert all(torch.allclose(here[name], values, atol=1e-6) for name, values in there.items())
    trainer.run()
    trained = TrainedRun.load(tmp_path / "again").model.state_dict()
    assert not all(torch.allclose(trained[name], values, atol=1e-6) for name, values in there.items())


def test_a_name_becomes_what_it_stands_for(files: dict[str, str]) -> None:
    resolved = resolve(ModelConfig(open_clip=OpenClipConfig(**files)))
    assert (resolved.dim, resolved.image.size, resolved.image.patch) == (16, 32, 16)
    assert (resolved.text.context_length, resolved.text.vocab_size, resolved.quick_gelu) == (16, 49408, True)
    assert resolved.open_clip is not None
    assert (resolved.open_clip.name, resolved.open_clip.pretrained) == ("small", "weights.safetensors")
    assert resolve(resolved) == resolved


def test_openai_weights_bring_their_activation_and_others_their_normalisation() -> None:
    openai = resolve(ModelConfig(open_clip=OpenClipConfig(name="ViT-L-14", pretrained="openai")))
    assert (openai.dim, openai.image.patch, openai.text.width, openai.quick_gelu) == (768, 14, 768, True)
    laion = resolve(ModelConfig(open_clip=OpenClipConfig(name="ViT-L-14", pretrained="laion2b_s32b_b82k")))
    assert (laion.image.mean, laion.image.std, laion.quick_gelu) == ((0.5,) * 3, (0.5,) * 3, False)


@pytest.mark.parametrize("name", ["RN50", "convnext_base", "ViT-B-32"])
def test_other_image_towers_can_be_had(name: str) -> None:
    resolved = resolve(ModelConfig(open_clip=OpenClipConfig(name=name)))
    assert resolved.image.size % resolved.image.patch == 0
    with torch.device("meta"):
        assert hasattr(build_towers(resolved), "visual")


@pytest.mark.parametrize(
    ("towers", "message"),
    [
        ({"name": "ViT-Z-99"}, "list_models"),
        ({"name": "hf-hub:owner/name"}, "JSON file can describe"),
        ({"name": "missing.json"}, "cannot be read"),
        ({"name": "ViT-B-16-SigLIP"}, "hf_tokenizer_name"),
        ({"name": "coca_ViT-B-32"}, "embed_cls|multimodal"),
        ({"name": "ViT-L-14", "pretrained": "laion9"}, "no tag .* openai"),
    ],
)
def test_towers_that_cannot_be_had_are_refused_with_the_mend(towers: dict[str, str], message: str) -> None:
    config = OpenClipConfig(**towers)
    with pytest.raises(TrainingError, match=message):
        pretrained_towers(config, resolve(ModelConfig(open_clip=config)))


def test_weights_of_another_architecture_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({**ARCHITECTURE, "embed_dim": 24}))
    config = OpenClipConfig(name=str(tmp_path / "other.json"), pretrained=files["pretrained"])
    with pytest.raises(TrainingError, match="trained as"):
        pretrained_towers(config, resolve(ModelConfig(open_clip=config)))


def test_a_vocabulary_of_its_own_needs_its_tokenizer(files: dict[str, str], tmp_path: Path) -> None:
    described = {**ARCHITECTURE, "text_cfg": {**ARCHITECTURE["text_cfg"], "vocab_size": 600}}  # type: ignore[dict-item]
    (tmp_path / "own.json").write_text(json.dumps(described))
    own = {"name": str(tmp_path / "own.json"), "pretrained": None}
    with pytest.raises(TrainingError, match=r"model\.open_clip\.tokenizer"):
        train(tmp_path / "run", files, towers=own)
    train(tmp_path / "run", files)  # what could not begin left nothing behind that is in the way


def model_of(files: dict[str, str], **towers: Any) -> HySAC:
    config = OpenClipConfig(**files, **towers)
    resolved = resolve(ModelConfig(open_clip=config))
    return HySAC(resolved, pretrained_towers(config, resolved)).eval()


def test_trained_towers_start_from_their_weights(files: dict[str, str]) -> None:
    reference = open_clip.model.CLIP(**ARCHITECTURE).eval()  # type: ignore[arg-type]
    reference.load_state_dict(load_file(files["pretrained"]))
    model = model_of(files)
    tokens, pixels = torch.tensor([[49406, 320, 1929, 49407] + [0] * 12]), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.text_features(tokens), reference.encode_text(tokens))
        assert torch.equal(model.image_features(pixels)[0], reference.encode_image(pixels))


def test_attention_taken_apart_computes_the_same(files: dict[str, str]) -> None:
    model = model_of(files)
    tokens, pixels = torch.randint(0, 49408, (3, 16)), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model.encode_text(tokens), model.encode_image(pixels)
        assert split_attention(model.clip) == 3
        after = model.encode_text(tokens), model.encode_image(pixels)
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_adapters_are_on_the_papers_layers_and_the_query_is_left_alone(files: dict[str, str]) -> None:
    model = model_of(files)
    adapt(model, LoRAConfig())
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    adapted = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in learned if ".lora_" in name}
    assert adapted == {"k_proj", "v_proj", "out_proj", "c_fc", "c_proj", "conv1"}
    assert {name for name in learned if ".lora_" not in name} == set(model.scalars())
    assert len(learned) == 2 * (1 + 3 * 5) + 4


def test_fresh_adapters_change_nothing(files: dict[str, str]) -> None:
    model = model_of(files)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapt(model, LoRAConfig())
    after = merged_state(model, LoRAConfig())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_adapters_need_modules_of_that_name(files: dict[str, str]) -> None:
    with pytest.raises(TrainingError, match=r"no module named qkv.*c_fc"):
        adapt(model_of(files), LoRAConfig(targets=("k_proj", "qkv")))


def test_a_run_with_adapters_learns_and_leaves_a_plain_model(finished: Path, files: dict[str, str]) -> None:
    start, run = model_of(files).state_dict(), TrainedRun.load(finished)
    learned = run.model.state_dict()
    assert start.keys() == learned.keys()
    width = ARCHITECTURE["vision_cfg"]["width"]  # type: ignore[index]
    for name, value in learned.items():
        if name.endswith("in_proj_weight"):
            assert torch.equal(value[:width], start[name][:width]), "the query was trained"
            assert not torch.equal(value[width:], start[name][width:])
        elif "positional" in name or "ln_" in name or "token_embedding" in name:
            assert torch.equal(value, start[name]), name
    texts = run.encode_text(["a dog on a beach"])
    assert texts.shape == (1, 16)
    assert run.encode_image(np.zeros((2, 32, 32, 3), dtype=np.uint8)).shape == (2, 16)


def test_a_run_folder_needs_neither_names_nor_weights(finished: Path) -> None:
    stored = json.loads((finished / "config.json").read_text())["model"]["open_clip"]
    assert (stored["name"], stored["pretrained"]) == ("small", "weights.safetensors")
    assert stored["architecture"]["embed_dim"] == 16


def test_the_manifest_describes_clips_tokenizer(finished: Path) -> None:
    run = TrainedRun.load(finished)
    spec = run.text_spec
    assert (spec.context_length, spec.pad_id, spec.end_id) == (16, 0, 49407)
    ids = tokenize(run.tokenizer, ["a dog", "very " * 40])
    expected = open_clip.get_tokenizer("ViT-B-32", context_length=16)(["a dog", "very " * 40])
    np.testing.assert_array_equal(ids, expected.numpy())


@pytest.mark.parametrize(
    "changes",
    [{}, {"accumulate": 2}, {"gradient_checkpointing": True}, {"precision": "bf16"}],
    ids=["plain", "in parts", "checkpointing", "bf16"],
)
def test_a_resumed_run_continues_to_the_same_numbers(
    files: dict[str, str], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """With dropout in the adapters, whose masks come from the step."""
    train(tmp_path / "whole", files, **changes)
    config = TrainConfig.model_validate(settings(files, **changes))
    Trainer(config, tmp_path / "resumed").run(stop_after=2)
    Trainer(config, tmp_path / "resumed", resume=True).run()
    assert lines(tmp_path / "resumed") == lines(tmp_path / "whole")
    whole, resumed = (TrainedRun.load(tmp_path / name).model.state_dict() for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_gradient_checkpointing_changes_no_number(finished: Path, files: dict[str, str], tmp_path: Path) -> None:
    train(tmp_path / "run", files, gradient_checkpointing=True)
    for row, plain in zip(lines(tmp_path / "run"), lines(finished), strict=True):
        assert row == pytest.approx(plain, rel=1e-4)


def test_half_precision_ends_near_single_precision(
    finished: Path, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU computes in float16 too, if slowly: enough to see that gradients are scaled.
    monkeypatch.setattr("hysac_export.training.train.check_precision", lambda *_: None)
    for precision in ("bf16", "fp16"):
        train(tmp_path / precision, files, precision=precision)
        assert lines(tmp_path / precision)[0]["loss"] == pytest.approx(lines(finished)[0]["loss"], rel=0.02)
        assert lines(tmp_path / precision)[-1]["loss"] == pytest.approx(lines(finished)[-1]["loss"], rel=0.1)
    saved = TrainedRun.load(tmp_path / "fp16").model.state_dict().values()
    assert {value.dtype for value in saved} == {torch.float32}


def test_without_adapters_everything_is_trained(files: dict[str, str], tmp_path: Path) -> None:
    trainer = train(tmp_path / "run", files, towers={"lora": None})
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    start, learned = model_of(files).state_dict(), TrainedRun.load(tmp_path / "run").model.state_dict()
    unmoved = [name for name, value in learned.items() if value.is_floating_point() and torch.equal(value, start[name])]
    assert unmoved == []


def test_a_run_on_trained_towers_becomes_a_bundle(finished: Path, tmp_path: Path) -> None:
    from hysac_export.bundle.onnx import export_bundle
    from hysac_retrieval.encoder.encoder import Encoder
    from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile

    run = TrainedRun.load(finished)
    safe, unsafe = (RadiusStats(count=2, mean=m, std=0.1, percentiles={5: m - 0.1, 95: m + 0.1}) for m in (1.0, 2.0))
    part = ModalityProfile(safe=safe, unsafe=unsafe, midpoint=1.5, slope=1.0, boundary=1.0)
    profile = SafetyProfile(text=part, image=part, threshold=0.5)
    image = run.config.model.image
    export_bundle(
        run.model,
        run.tokenizer,
        safety=profile,
        out=tmp_path / "bundle",
        name="small",
        text=run.text_spec,
        mean=image.mean,
        std=image.std,
    )
    encoder = Encoder.load(tmp_path / "bundle", device="cpu", threads=1)
    np.testing.assert_allclose(encoder.encode_text(["a dog"]), run.encode_text(["a dog"]), atol=1e-5)


def test_the_papers_recipe_is_the_published_model() -> None:
    """Sizes of the published checkpoint, its adapters and its optimiser (``NOTES`` of the golden numbers)."""
    config = TrainConfig.load("visu-vit-l-14")
    resolved = resolve(config.model)
    assert (resolved.dim, resolved.image.layers, resolved.text.layers, resolved.quick_gelu) == (768, 24, 12, True)
    with torch.device("meta"):
        model = HySAC(resolved)
    assert resolved.open_clip is not None
    assert resolved.open_clip.lora == LoRAConfig() == LoRAConfig(rank=16, alpha=1, dropout=0.1)
    adapt(model, resolved.open_clip.lora)
    adapters = [name for name, p in model.named_parameters() if ".lora_" in name and p.requires_grad]
    assert len([name for name in adapters if name.startswith("clip.visual")]) == 242
    assert len(adapters) == 242 + 120
    assert config.optim.model_dump() == {
        "lr": 1e-4,
        "weight_decay": 0.2,
        "betas": (0.9, 0.98),
        "warmup": 0.0,
        "schedule": "constant",
        "clip_norm": None,
    }
    assert (config.batch_size, config.loss.published_normalisation) == (256, True)


RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}


def described(folder: Path, architecture: dict[str, Any]) -> dict[str, Any]:
    (folder / "towers.json").write_text(json.dumps(architecture))
    return {"name": str(folder / "towers.json"), "pretrained": None}


def test_a_resnet_with_adapters_learns_and_can_be_read_again(files: dict[str, str], tmp_path: Path) -> None:
    trainer = train(tmp_path / "run", files, towers=described(tmp_path, RESNET), steps=2)
    adapted = {name for name, p in trainer.model.named_parameters() if ".lora_" in name}
    assert any(".layer1." in name for name in adapted)
    # The pooling attention takes the weights of its layers without calling them: an adapter there would do nothing.
    assert not any(".attnpool." in name for name in adapted)
    run = TrainedRun.load(tmp_path / "run")
    assert "clip.visual.attnpool.q_proj.weight" in run.model.state_dict()
    pixels = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    assert run.encode_image(pixels).shape == (2, 16)


def test_towers_with_projections_of_their_own_keep_them_apart() -> None:
    """An image tower of timm, whose layers hold q_proj as ours do once they are taken apart."""
    lora = LoRAConfig(targets=("k_proj", "v_proj", "out_proj", "c_fc", "c_proj"))
    with torch.device("meta"):
        model = HySAC(resolve(ModelConfig(open_clip=OpenClipConfig(name="EVA02-B-16"))))
    before = set(model.state_dict())
    adapt(model, lora)
    after = set(merged_state(model, lora))
    assert any(".visual." in name and ".q_proj." in name for name in after)
    assert before == after


def test_adapters_that_cannot_be_merged_again_are_refused_before_the_first_step(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> dict[str, torch.Tensor]:
        return {}

    monkeypatch.setattr("hysac_export.model.lora.merged_state", lost)
    with pytest.raises(TrainingError, match=r"(?s)cannot be merged.*lora\.targets"):
        Trainer(TrainConfig.model_validate(settings(files)), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_adapters_without_a_gradient_are_refused_at_the_first_step(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hysac_export.model.lora._BYPASSING", ())
    with pytest.raises(TrainingError, match=r"k_proj.*no gradient.*attnpool"):
        train(tmp_path / "run", files, towers=described(tmp_path, RESNET))
