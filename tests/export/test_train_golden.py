"""Three training steps of the published code, reproduced: losses, gradients, and what AdamW made of them.

The published run starts from the tiny checkpoint with its adapters, in float64, without dropout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.golden import golden_path, load_golden, relative_error

from hysac_export.config import LoRAConfig, TrainConfig
from hysac_export.model.hysac import HySAC
from hysac_export.model.lora import adapt, merged_state
from hysac_export.published.clip_layout import architecture, fill, merged, sort_out
from hysac_export.training.distributed import Processes
from hysac_export.training.engine import Engine

LORA = LoRAConfig(dropout=0.0)
TERMS = {
    "safe_contrastive_loss": "T-I",
    "nsfw_contrastive_loss": "T*-I*",
    "safe_unsafe_contrastive_loss_a": "T-I*",
    "safe_unsafe_contrastive_loss_b": "T*-I",
    "entail_A_safe": "T<I",
    "entail_A_nsfw": "T*<I*",
    "entail_D": "I<T*",
}
SCALARS = {
    "logit_scale": "log_logit_scale",
    "curv": "log_curvature",
    "visual_alpha": "log_alpha_image",
    "textual_alpha": "log_alpha_text",
}
OURS = {
    "visual.base_model.model.vision_model.embeddings.patch_embedding": "clip.visual.conv1",
    "visual.base_model.model.vision_model.encoder.layers": "clip.visual.transformer.resblocks",
    "textual.base_model.model.text_model.encoder.layers": "clip.transformer.resblocks",
    "self_attn": "attn",
    "fc1": "c_fc",
    "fc2": "c_proj",
}


def our_name(published: str) -> str:
    for theirs, ours in OURS.items():
        published = published.replace(theirs, ours)
    return published


def adapted() -> HySAC:
    """The tiny checkpoint with its adapters as they are, not merged."""
    state = torch.load(golden_path("tiny_model") / "hysac_model.pth", weights_only=True)
    checkpoint = sort_out(state)
    settings: Any = {part: {"num_attention_heads": 4} for part in ("vision_config", "text_config")}
    model = HySAC(architecture(checkpoint, settings))
    fill(model, replace(checkpoint, adapters={}))
    model.double()
    adapt(model, LORA)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            if ".lora_" in name:
                parameters[our_name(name)].copy_(value)
    return model


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load_golden("train_steps")


@pytest.fixture(scope="module", params=[1, 2], ids=["at once", "in parts"])
def steps(request: pytest.FixtureRequest, golden: dict[str, np.ndarray]) -> dict[str, Any]:
    """What our steps give, encoded at once, and in two parts of the batch."""
    size = int(golden["batch_size"])
    config = TrainConfig.model_validate(
        {
            "steps": 3,
            "batch_size": size,
            "accumulate": request.param,
            "loss": {"entailment": float(golden["entail_lambda"]), "aperture_scale": float(golden["aperture_scale"])},
            "optim": {
                "lr": float(golden["lr"]),
                "betas": golden["betas"].tolist(),
                "weight_decay": float(golden["weight_decay_lora"]),
                "warmup": 0.0,
                "schedule": "constant",
                "clip_norm": None,
            },
        }
    )
    model = adapted()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].detach().clone() for name in names}
    engine = Engine(config, model, processes=Processes("cpu"))
    found: dict[str, Any] = {"terms": [], "totals": [], "scalar_grads": [], "scalars": [], "model": model}
    for step in range(3):
        rows = slice(step * size, (step + 1) * size)
        pixels = torch.from_numpy(np.concatenate([golden["pixels_safe"][rows], golden["pixels_nsfw"][rows]])).double()
        tokens = np.concatenate([golden["input_ids_safe"][rows], golden["input_ids_nsfw"][rows]]).astype(np.int64)
        metrics = engine.learn(pixels, torch.from_numpy(tokens), step)
        found["terms"].append([metrics[TERMS[name]] for name in golden["loss_names"].tolist()])
        found["totals"].append(metrics["loss"])
        scalars = [parameters[SCALARS[name]] for name in golden["scalar_names"].tolist()]
        found["scalar_grads"].append([s.grad.item() for s in scalars])  # type: ignore[union-attr]
        found["scalars"].append([s.item() for s in scalars])
        if step == 0:
            found["gradients"] = {name: parameters[name].grad for name in names}
    found["changes"] = {name: parameters[name].detach() - before[name] for name in names}
    return found


def test_losses_are_the_published_ones(steps: dict[str, Any], golden: dict[str, np.ndarray]) -> None:
    assert relative_error(steps["terms"], golden["losses"]).max() < 1e-7
    assert relative_error(steps["totals"], golden["total"]).max() < 1e-7


def test_the_learned_scalars_go_where_the_published_ones_go(
    steps: dict[str, Any], golden: dict[str, np.ndarray]
) -> None:
    assert relative_error(steps["scalar_grads"], golden["scalars_grad"]).max() < 1e-6
    assert relative_error(steps["scalars"], golden["scalars_after"]).max() < 1e-6


def test_every_adapter_gets_the_published_gradient_and_change(
    steps: dict[str, Any], golden: dict[str, np.ndarray]
) -> None:
    published = [name.removeprefix("grad0/") for name in golden if name.startswith("grad0/")]
    assert {our_name(name) for name in published} == steps["gradients"].keys() - SCALARS.values()
    for name in published:
        expected, found = golden[f"grad0/{name}"], steps["gradients"][our_name(name)].numpy()
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), name  # stored in float32
        expected, found = golden[f"delta/{name}"], steps["changes"][our_name(name)].numpy()
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), name


def test_the_merged_model_gives_the_points_of_the_adapted_one(steps: dict[str, Any]) -> None:
    model = steps["model"].eval()
    plain = HySAC(model.config).double()
    plain.load_state_dict(merged_state(model, LORA))
    tokens = torch.randint(1, 256, (3, 77), generator=torch.Generator().manual_seed(0))
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain.encode_text(tokens), model.encode_text(tokens), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(plain.encode_image(pixels), model.encode_image(pixels), rtol=1e-12, atol=1e-12)


def test_merging_agrees_with_the_import_of_a_checkpoint() -> None:
    """The importer's merge of the file, and ours of the live adapters."""
    checkpoint = sort_out(torch.load(golden_path("tiny_model") / "hysac_model.pth", weights_only=True))
    path = "visual.vision_model.encoder.layers.1.self_attn.v_proj"
    expected = merged(checkpoint.weights[f"{path}.weight"], checkpoint.adapters[path], LORA.alpha)
    ours = merged_state(adapted(), LORA)["clip.visual.transformer.resblocks.1.attn.in_proj_weight"][64:]
    torch.testing.assert_close(ours, expected, rtol=1e-14, atol=1e-15)
