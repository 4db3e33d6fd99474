"""Weights in the layout of Hugging Face's CLIP with LoRA adapters of peft, into our model.

The published HySAC is such a state dict. Two generations of peft named its keys: from 0.7 on, the weights under an
adapter are called ``….base_layer.weight``, before that plainly ``….weight``. The releases 0.4 and 0.5 also gave the
patch embedding a bias of random numbers, which takes part in the forward pass; open_clip has no place for it, but
adding it to the positional embedding of every patch computes the same.

An adapter is merged into its weight, W + (α / r) · B A, with α from the recipe and r from the shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hysac_export.config import ImageTower, ModelConfig, TextTower
from hysac_export.model.hysac import HySAC
from hysac_export.model.lora import Adapter, merged
from hysac_export.published.clip_config import TowerSettings, tower_settings
from hysac_retrieval.errors import TrainingError

_WRAPPER = re.compile(r"^(visual|textual)\.base_model\.model\.")
_LAYER = re.compile(r"^(visual|textual)\.\w+\.encoder\.layers\.(\d+)\.")
_IGNORED = re.compile(r"^pixel_(mean|std)$|\.position_ids$")
_LORA = re.compile(r"^(.+)\.lora_([AB])\.default\.weight$")
_SHOWN = 12

VISION, TEXT = "visual.vision_model", "textual.text_model"
PATCH_BIAS = f"{VISION}.embeddings.patch_embedding.bias"

_SCALARS = {
    "logit_scale": "log_logit_scale",
    "curv": "log_curvature",
    "visual_alpha": "log_alpha_image",
    "textual_alpha": "log_alpha_text",
}
_PLAIN = {
    f"{VISION}.embeddings.class_embedding": "clip.visual.class_embedding",
    f"{VISION}.embeddings.patch_embedding.weight": "clip.visual.conv1.weight",
    f"{VISION}.embeddings.position_embedding.weight": "clip.visual.positional_embedding",
    f"{TEXT}.embeddings.token_embedding.weight": "clip.token_embedding.weight",
    f"{TEXT}.embeddings.position_embedding.weight": "clip.positional_embedding",
}
_NORMS = {
    f"{VISION}.pre_layrnorm": "clip.visual.ln_pre",  # spelt so
    f"{VISION}.post_layernorm": "clip.visual.ln_post",
    f"{TEXT}.final_layer_norm": "clip.ln_final",
}
_PROJECTIONS = {
    "visual.visual_projection.weight": "clip.visual.proj",
    "textual.text_projection.weight": "clip.text_projection",
}
_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@dataclass(frozen=True)
class Checkpoint:
    """A state dict sorted out, whichever peft wrote it.

    Weights are by their path in the Hugging Face model, ``visual.vision_model.…`` or ``textual.text_model.…``, with the
    four scalars; LoRA matrices by the path of the module that they adapt.
    """

    weights: Mapping[str, Tensor]
    adapters: Mapping[str, Adapter]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that occur among the adapters, ascending."""
        return tuple(sorted({a.shape[0] for a, _ in self.adapters.values()}))


def sort_out(state: Mapping[Any, Any]) -> Checkpoint:
    """Bring the keys of a state dict to one form, and set the adapters apart.

    `TrainingError`: A value is no tensor of numbers, half of an adapter is missing, or two keys mean the same weight.
    """
    weights: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    problems: list[str] = []
    for raw, value in state.items():
        if not isinstance(raw, str) or _IGNORED.search(raw):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            problems.append(f"{raw} is {value.dtype if isinstance(value, Tensor) else type(value).__name__}")
            continue
        key = _WRAPPER.sub(r"\1.", raw).replace(".base_layer.", ".")
        if found := _LORA.match(key):
            halves.setdefault(found[1], {})[found[2]] = value
        elif key in weights:
            problems.append(f"{raw} is there twice, with and without base_layer")
        else:
            weights[key] = value
    problems += [f"{path} has lora_{next(iter(pair))} alone" for path, pair in halves.items() if len(pair) != 2]
    _complain({"not usable": problems})
    return Checkpoint(weights, {path: (pair["A"], pair["B"]) for path, pair in halves.items()})


def architecture(checkpoint: Checkpoint, settings: Mapping[str, Any] | None = None) -> ModelConfig:
    """Find the model that a checkpoint fits, from the shapes of its weights.

    `settings`, the base model's ``config.json``, has the number of heads and the activation. Without it heads are 64
    wide and the activation is quick GELU, as in all of OpenAI's CLIP (`TrainingError`: shapes or settings disagree).
    """
    shape = _Shapes(checkpoint.weights)
    patch = shape(f"{VISION}.embeddings.patch_embedding.weight", 4)
    positions = shape(f"{VISION}.embeddings.position_embedding.weight", 2)
    vision_mlp = shape(f"{VISION}.encoder.layers.0.mlp.fc1.weight", 2)
    tokens = shape(f"{TEXT}.embeddings.token_embedding.weight", 2)
    context = shape(f"{TEXT}.embeddings.position_embedding.weight", 2)
    text_mlp = shape(f"{TEXT}.encoder.layers.0.mlp.fc1.weight", 2)
    projection = shape("visual.visual_projection.weight", 2)
    shape.complain()
    grid = math.isqrt(positions[0] - 1)
    if grid**2 != positions[0] - 1 or grid == 0 or patch[2] != patch[3]:
        found = f"the vision tower has {positions[0]} positions and patches of {patch[2]}×{patch[3]}"
        raise TrainingError(f"{found}; expected a class token and a square grid of square patches")
    layers = {tower: _layers(checkpoint.weights, tower) for tower in ("visual", "textual")}
    image: TowerSettings = tower_settings(settings, "vision_config", patch[0], layers["visual"])
    text: TowerSettings = tower_settings(settings, "text_config", tokens[1], layers["textual"])
    if image.quick_gelu != text.quick_gelu:
        raise TrainingError("the towers differ in their activation, which open_clip's CLIP cannot")
    vision = ImageTower(
        size=grid * patch[2],
        patch=patch[2],
        width=patch[0],
        layers=layers["visual"],
        head_width=patch[0] // image.heads,
        mlp_ratio=vision_mlp[0] / patch[0],
    )
    textual = TextTower(
        context_length=context[0],
        vocab_size=tokens[0],
        width=tokens[1],
        layers=layers["textual"],
        heads=text.heads,
        mlp_ratio=text_mlp[0] / tokens[1],
    )
    return ModelConfig(dim=projection[0], image=vision, text=textual, quick_gelu=image.quick_gelu)


def places(model: HySAC) -> dict[str, Tensor]:
    """Map the path of each weight of a checkpoint to a view of the parameter that is to hold it, in its shape."""
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = {path: own[name] for path, name in (_SCALARS | _PLAIN).items()}
    found |= {path: own[name].T for path, name in _PROJECTIONS.items()}
    for path, name in _NORMS.items():
        found |= {f"{path}.{part}": own[f"{name}.{part}"] for part in ("weight", "bias")}
    for tower, blocks, layers in (
        (VISION, "clip.visual.transformer", model.config.image.layers),
        (TEXT, "clip.transformer", model.config.text.layers),
    ):
        for layer in range(layers):
            source, target = f"{tower}.encoder.layers.{layer}", f"{blocks}.resblocks.{layer}"
            for part in ("weight", "bias"):
                found |= {f"{source}.{path}.{part}": own[f"{target}.{name}.{part}"] for path, name in _BLOCK.items()}
                stacked = own[f"{target}.attn.in_proj_{part}"].chunk(3)
                for path, view in zip(("q_proj", "k_proj", "v_proj"), stacked, strict=True):
                    found[f"{source}.self_attn.{path}.{part}"] = view
    return found


def check(checkpoint: Checkpoint, views: Mapping[str, Tensor]) -> None:
    """Raise a `TrainingError` that names all weights that are missing, unexpected or of a wrong shape."""
    weights = checkpoint.weights
    optional = {PATCH_BIAS: views[f"{VISION}.embeddings.class_embedding"].shape}
    expected = {path: view.shape for path, view in views.items()} | optional
    shapes = [
        f"{path} {tuple(weights[path].shape)} instead of {tuple(shape)}"
        for path, shape in expected.items()
        if path in weights and weights[path].shape != shape
    ]
    for path, (a, b) in checkpoint.adapters.items():
        view = views.get(f"{path}.weight")
        if view is None:
            continue  # an unexpected key, below
        rank, kernel = a.shape[0], [1] * (view.ndim - 2)
        if a.shape[1:] != view.shape[1:] or b.shape != (view.shape[0], rank, *kernel):
            shapes.append(f"adapter of {path} {tuple(a.shape)}, {tuple(b.shape)} for a weight of {tuple(view.shape)}")
    unexpected = [path for path in weights if path not in expected]
    unexpected += [f"{path}.lora_A" for path in checkpoint.adapters if f"{path}.weight" not in views]
    missing = [path for path in views if path not in weights]
    _complain({"missing": missing, "unexpected": unexpected, "of a wrong shape": shapes})


@torch.no_grad()
def fill(model: HySAC, checkpoint: Checkpoint, lora_alpha: float = 1.0) -> None:
    """Write a checkpoint into a model of its `architecture`, adapters with their α merged; see `check` for errors."""
    views = places(model)
    check(checkpoint, views)
    for path, view in views.items():
        adapter = checkpoint.adapters.get(path.removesuffix(".weight")) if path.endswith(".weight") else None
        weight = checkpoint.weights[path]
        view.copy_(weight if adapter is None else merged(weight, adapter, lora_alpha))
    if (bias := checkpoint.weights.get(PATCH_BIAS)) is not None:
        views[f"{VISION}.embeddings.position_embedding.weight"][1:] += bias


class _Shapes:
    """Looks up shapes and keeps what is missing or of the wrong rank, to complain about everything at once."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._problems: dict[str, list[str]] = {"missing": [], "of a wrong shape": []}

    def __call__(self, path: str, ndim: int) -> tuple[int, ...]:
        weight = self._weights.get(path)
        if weight is None:
            self._problems["missing"].append(path)
        elif weight.ndim != ndim or 0 in weight.shape:
            self._problems["of a wrong shape"].append(f"{path} {tuple(weight.shape)}")
        else:
            return tuple(weight.shape)
        return (1,) * ndim

    def complain(self) -> None:
        _complain(self._problems)


def _layers(weights: Iterable[str], tower: str) -> int:
    """Number of layers of a tower."""
    found = {int(match[2]) for path in weights if (match := _LAYER.match(path)) and match[1] == tower}
    _complain({"missing": [f"layer {i} of {tower}" for i in range(len(found)) if i not in found]})
    return len(found)


def _complain(problems: Mapping[str, list[str]]) -> None:
    parts = []
    for kind, items in problems.items():
        if items:
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            parts.append(f"{len(items)} {kind} ({', '.join(items[:_SHOWN])}{more})")
    if parts:
        layout = "Hugging Face's CLIP under 'visual.' and 'textual.', logit_scale, curv, and both alphas"
        raise TrainingError(f"this is no HySAC checkpoint: {'; '.join(parts)}; expected {layout}")
