"""Keys and shapes of published checkpoints."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from support.golden import golden_path
from torch import Tensor

from hysac_export.model.hysac import HySAC
from hysac_export.published.clip_layout import architecture, check, fill, merged, places, sort_out
from hysac_retrieval.errors import TrainingError

State = dict[str, Tensor]
FC1 = "visual.base_model.model.vision_model.encoder.layers.1.mlp.fc1"


def state() -> State:
    loaded: State = torch.load(golden_path("tiny_model") / "hysac_model.pth", weights_only=True)
    return loaded


def settings() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((golden_path("tiny_model") / "base" / "config.json").read_text())
    return loaded


def check_state(changed: State, config: dict[str, Any] | None = None) -> None:
    checkpoint = sort_out(changed)
    model = HySAC(architecture(checkpoint, config or settings()))
    check(checkpoint, places(model))


def vit_l_14() -> State:
    """Keys and shapes of the published ViT-L/14 with adapters of rank 16, without numbers."""
    made: State = {name: torch.empty((), device="meta") for name in ("logit_scale", "curv")}
    made |= {name: torch.empty((), device="meta") for name in ("visual_alpha", "textual_alpha")}
    made |= {name: torch.empty(3, 1, 1, device="meta") for name in ("pixel_mean", "pixel_std")}

    def put(path: str, *shape: int) -> None:
        made[path] = torch.empty(*shape, device="meta")

    def adapted(path: str, *shape: int, bias: bool = True) -> None:
        put(f"{path}.base_layer.weight", *shape)
        put(f"{path}.lora_A.default.weight", 16, *shape[1:])
        put(f"{path}.lora_B.default.weight", shape[0], 16, *(1 for _ in shape[2:]))
        if bias:
            put(f"{path}.base_layer.bias", shape[0])

    def norm(path: str, width: int) -> None:
        put(f"{path}.weight", width)
        put(f"{path}.bias", width)

    vision, text = "visual.base_model.model.vision_model", "textual.base_model.model.text_model"
    for tower, width, layers in ((vision, 1024, 24), (text, 768, 12)):
        for layer in range(layers):
            path = f"{tower}.encoder.layers.{layer}"
            put(f"{path}.self_attn.q_proj.weight", width, width)
            put(f"{path}.self_attn.q_proj.bias", width)
            for name in ("k_proj", "v_proj", "out_proj"):
                adapted(f"{path}.self_attn.{name}", width, width)
            adapted(f"{path}.mlp.fc1", 4 * width, width)
            adapted(f"{path}.mlp.fc2", width, 4 * width)
            norm(f"{path}.layer_norm1", width)
            norm(f"{path}.layer_norm2", width)
    put(f"{vision}.embeddings.class_embedding", 1024)
    adapted(f"{vision}.embeddings.patch_embedding", 1024, 3, 14, 14, bias=False)
    put(f"{vision}.embeddings.position_embedding.weight", 257, 1024)
    norm(f"{vision}.pre_layrnorm", 1024)
    norm(f"{vision}.post_layernorm", 1024)
    put("visual.base_model.model.visual_projection.weight", 768, 1024)
    put(f"{text}.embeddings.token_embedding.weight", 49_408, 768)
    put(f"{text}.embeddings.position_embedding.weight", 77, 768)
    norm(f"{text}.final_layer_norm", 768)
    put("textual.base_model.model.text_projection.weight", 768, 768)
    return made


def test_the_published_architecture_is_recognised_from_its_shapes() -> None:
    published = vit_l_14()
    assert len(published) == 957  # as counted on the published architecture
    checkpoint = sort_out(published)
    config = architecture(checkpoint)
    image, text = config.image, config.text
    assert (config.dim, config.quick_gelu) == (768, True)
    assert (image.size, image.patch, image.width, image.layers, image.head_width) == (224, 14, 1024, 24, 64)
    assert (text.context_length, text.vocab_size, text.width, text.layers, text.heads) == (77, 49_408, 768, 12, 12)
    assert (image.mlp_ratio, text.mlp_ratio) == (4.0, 4.0)
    with torch.device("meta"):
        check(checkpoint, places(HySAC(config)))


def test_every_parameter_is_written_once() -> None:
    model = HySAC(architecture(sort_out(state()), settings()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for view in places(model).values():
        view += 1
    assert all((parameter == 1).all() for parameter in model.parameters())


@pytest.mark.parametrize("rank", [4, 16])
@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 2, 2)])
def test_an_adapter_is_merged_as_it_would_be_applied(shape: tuple[int, ...], rank: int) -> None:
    torch.manual_seed(0)
    weight, a = torch.randn(shape).double(), torch.randn(rank, *shape[1:]).double()
    b = torch.randn(shape[0], rank, *(1 for _ in shape[2:])).double()
    x = torch.randn(7, *shape[1:]).double()
    if len(shape) == 2:
        expected = x @ weight.T + 3.0 / rank * (x @ a.T) @ b.T
        found = x @ merged(weight, (a, b), 3.0).T
    else:
        conv = torch.nn.functional.conv2d
        expected = conv(x, weight) + 3.0 / rank * conv(conv(x, a), b)
        found = conv(x, merged(weight, (a, b), 3.0))
    torch.testing.assert_close(found, expected)


def test_a_checkpoint_without_adapters_is_taken_as_it_is() -> None:
    plain = {
        key.replace(".base_model.model", "").replace(".base_layer", ""): value
        for key, value in state().items()
        if ".lora_" not in key
    }
    checkpoint = sort_out(plain)
    assert checkpoint.ranks == ()
    model = HySAC(architecture(checkpoint, settings()))
    fill(model, checkpoint)
    bias = plain["visual.vision_model.encoder.layers.1.mlp.fc1.weight"]
    assert torch.equal(model.clip.visual.transformer.resblocks[1].mlp.c_fc.weight, bias)


def test_position_ids_of_old_transformers_are_ignored() -> None:
    key = "textual.base_model.model.text_model.embeddings.position_ids"
    check_state(state() | {key: torch.arange(77)[None]})


def without(*keys: str) -> State:
    return {key: value for key, value in state().items() if key not in keys}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda: without("curv"), r"1 missing \(curv\)"),
        (lambda: without(f"{FC1}.base_layer.bias", "visual_alpha"), r"2 missing .*visual_alpha.*fc1\.bias"),
        (lambda: without("visual.base_model.model.visual_projection.weight"), r"missing \(visual\.visual_projection"),
        (lambda: without(f"{FC1}.lora_A.default.weight"), r"fc1 has lora_B alone"),
        (lambda: state() | {"visual.extra.weight": torch.zeros(3)}, r"1 unexpected \(visual\.extra\.weight\)"),
        (lambda: state() | {f"{FC1}.base_layer.bias": torch.zeros(3)}, r"fc1\.bias \(3,\) instead of \(64,\)"),
        (lambda: state() | {f"{FC1}.lora_A.default.weight": torch.zeros(16, 9)}, r"adapter of .*fc1 \(16, 9\)"),
        (lambda: state() | {f"{FC1}.lora_B.default.weight": torch.zeros(64, 8)}, r"adapter of .*fc1"),
        (
            lambda: (
                state()
                | {"x.lora_A.default.weight": torch.zeros(2, 2)}
                | {"x.lora_B.default.weight": torch.zeros(2, 2)}
            ),
            r"unexpected \(x\.lora_A\)",
        ),
        (lambda: state() | {f"{FC1}.lora_A.other.weight": torch.zeros(16, 32)}, r"unexpected .*lora_A\.other"),
        (lambda: state() | {f"{FC1}.weight": torch.zeros(64, 32)}, "there twice"),
        (lambda: state() | {"curv": torch.zeros((), dtype=torch.int64)}, r"curv is torch\.int64"),
        (lambda: state() | {"curv": "one"}, "curv is str"),
        (lambda: {}, "missing"),
        (
            lambda: {key: value for key, value in state().items() if ".vision_model.encoder.layers.0." not in key},
            r"missing .*layers\.0\.mlp\.fc1",
        ),
    ],
)
def test_what_does_not_fit_is_named(changed: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        check_state(changed())


def test_long_lists_of_keys_are_cut() -> None:
    with pytest.raises(TrainingError, match=r"30 unexpected .* and 18 more"):
        check_state(state() | {f"stray.{i}": torch.zeros(1) for i in range(30)})


def tower(part: str, **changes: Any) -> dict[str, Any]:
    config = settings()
    config[part] |= changes
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "heads of 64"),
        (tower("vision_config", hidden_size=64), "right base model"),
        (tower("text_config", num_attention_heads=5), "divisor"),
        (tower("text_config", hidden_act="relu"), "relu"),
        (tower("vision_config", hidden_act="gelu"), "differ in their activation"),
        (tower("vision_config", layer_norm_eps=1e-6), "layer_norm_eps"),
    ],
)
def test_settings_that_contradict_the_weights_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        architecture(sort_out(state()), config)


def test_a_grid_that_is_not_square_is_refused() -> None:
    key = "visual.base_model.model.vision_model.embeddings.position_embedding.weight"
    with pytest.raises(TrainingError, match="square grid"):
        architecture(sort_out(state() | {key: torch.zeros(16, 32)}), settings())


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_a_checkpoint_without_its_last_layers_is_refused(part: str) -> None:
    tower = {"vision_config": "visual", "text_config": "textual"}[part]
    whole = settings()
    last = whole[part]["num_hidden_layers"] - 1
    cut = {key: value for key, value in state().items() if not (key.startswith(tower) and f".layers.{last}." in key)}
    with pytest.raises(TrainingError, match=f"{part} has {last + 1} layers, the weights have {last}"):
        architecture(sort_out(cut), whole)
