"""Low-rank adapters (LoRA, arXiv 2106.09685) on the towers, through peft, and back into plain weights.

open_clip keeps the query, key and value projections of a layer in one matrix, so an adapter on it could not leave the
query out as the paper does. The matrix is therefore taken apart into three linear layers first (`SplitAttention`), with
the same results. `merged_state` adds what the adapters learned to the weights and puts the three together again: a
trained model is an ordinary one, and nothing that reads it knows of adapters.
"""

from __future__ import annotations

import re
from typing import TypeAlias, cast

import torch
from open_clip.modified_resnet import AttentionPool2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from hysac_export.config import LoRAConfig
from hysac_export.model.hysac import HySAC
from hysac_retrieval.errors import TrainingError

Adapter: TypeAlias = tuple[Tensor, Tensor]
"""A, (r, …), and B, (out, r) or (out, r, 1, 1)."""
_ADAPTER = re.compile(r"^(.+)\.lora_([AB])\.default\.weight$")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_BYPASSING = (AttentionPool2d, nn.MultiheadAttention)
"""Modules that compute with the weights of the layers in them without calling these: an adapter would do nothing."""


class SplitAttention(nn.Module):
    """Self-attention with a linear layer for each projection, made of a batch-first attention with biases."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module

    def __init__(self, fused: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = fused.num_heads
        weights, biases = fused.in_proj_weight.chunk(3), fused.in_proj_bias.chunk(3)
        for name, weight, bias in zip(_PROJECTIONS, weights, biases, strict=True):
            setattr(self, name, _linear(weight, bias))
        self.out_proj = _linear(fused.out_proj.weight, fused.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Attend: (B, L, w) three times and an additive (L, L) mask to (B, L, w); the weights are never returned."""

        def heads(x: Tensor) -> Tensor:
            return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

        q, k, v = heads(self.q_proj(query)), heads(self.k_proj(key)), heads(self.v_proj(value))
        # Under autocast the projections are in half precision, the mask is not.
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        x = _plain(q, k, v, mask) if q.device.type == "cpu" else F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return cast(Tensor, self.out_proj(x.transpose(1, 2).flatten(2))), None


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention as matrix products, (B, h, L, w) each; torch's own for CPUs looks for rows that are masked entirely."""
    b, h, length, width = q.shape
    q, k, v = (x.reshape(b * h, length, width) for x in (q, k, v))
    bias = q.new_zeros(()) if mask is None else mask
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), beta=0 if mask is None else 1, alpha=width**-0.5)
    return torch.bmm(scores.softmax(dim=-1), v).reshape(b, h, length, width)


def split_attention(module: nn.Module) -> int:
    """Take the attention of every layer apart, in place; return their number."""
    found = 0
    for child_name, child in module.named_children():
        if isinstance(child, nn.MultiheadAttention) and child.in_proj_weight is not None and child.batch_first:
            setattr(module, child_name, SplitAttention(child))
            found += 1
        else:
            found += split_attention(child)
    return found


def adapt(model: HySAC, config: LoRAConfig) -> None:
    """Freeze the towers and put adapters on them, in place; everything outside of the towers is trained as before.

    With a sentence encoder in the text tower's place, that alone.

    `TrainingError`: No module has one of the names, or the adapters cannot be merged again.
    """
    from peft import LoraConfig, inject_adapter_in_model  # transformers comes with it and takes seconds to import

    towers = model.clip if model.sentences is None else model.sentences.transformer
    split_attention(towers)
    bypassed = _bypassed(towers)
    adapters = LoraConfig(
        r=config.rank,
        lora_alpha=cast(int, config.alpha),  # only the hint wants whole numbers
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        exclude_modules=bypassed or None,
    )
    layers = [name for name, child in towers.named_modules() if isinstance(child, nn.Linear | nn.Conv2d)]
    layers = [name for name in layers if name not in bypassed]
    leaves = {name.rpartition(".")[2] for name in layers}
    if lost := [target for target in config.targets if target.rpartition(".")[2] not in leaves]:
        message = f"these towers have no module named {', '.join(lost)}"
        raise TrainingError(message, hint=f"Name theirs in lora.targets: {', '.join(sorted(leaves))}")
    try:
        inject_adapter_in_model(adapters, towers)
    except ValueError as error:
        raise TrainingError(f"peft cannot adapt {', '.join(config.targets)}: {error}") from error
    _check_merge(model, config)


def _bypassed(towers: nn.Module) -> list[str]:
    """Paths of the layers that are not called when the towers compute."""
    found = [name for name, child in towers.named_modules() if isinstance(child, _BYPASSING)]
    return [f"{name}.{inner}" for name in found for inner, _ in towers.get_submodule(name).named_modules() if inner]


def _check_merge(model: HySAC, config: LoRAConfig) -> None:
    """Put the weights together once before anything is learned, rather than find out at the end that it fails."""
    with torch.device("meta"):
        plain = HySAC(model.config)
    try:
        plain.load_state_dict({name: value.to("meta") for name, value in merged_state(model, config).items()})
    except (RuntimeError, KeyError) as error:
        message = f"the adapters on {', '.join(config.targets)} cannot be merged into these towers again: {error}"
        hint = "Name other modules in lora.targets, or do without adapters"
        raise TrainingError(message, hint=hint) from error


def check_gradients(model: HySAC) -> None:
    """Refuse adapters without a gradient after a step: the towers take the weights without calling the layers."""
    idle = {found[1] for name, p in model.named_parameters() if (found := _ADAPTER.match(name)) and p.grad is None}
    if idle:
        leaves = sorted({path.rpartition(".")[2] for path in idle})
        message = f"adapters on {', '.join(leaves)} have no gradient ({min(idle)}): these towers do not call the layers"
        raise TrainingError(message, hint="Leave them out of lora.targets")


def merged(weight: Tensor, adapter: Adapter, lora_alpha: float) -> Tensor:
    """A weight with its adapter, W + (α / r) · B A, in float64: (out, in) or, of a convolution, (out, in, h, w)."""
    a, b = (half.double() for half in adapter)
    rank = a.shape[0]
    update = b.reshape(b.shape[0], rank) @ a.reshape(rank, -1)
    return weight.double() + (lora_alpha / rank) * update.reshape(weight.shape)


@torch.no_grad()
def merged_state(model: HySAC, config: LoRAConfig) -> dict[str, Tensor]:
    """The weights of an adapted model for `HySAC.load_state_dict`, W + (α / r) · B A; the model is left as it is."""
    state = model.state_dict()
    halves: dict[str, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for name, value in state.items():
        if found := _ADAPTER.match(name):
            halves.setdefault(found[1], {})[found[2]] = value
        else:
            weights[name.replace(".base_layer.", ".")] = value
    for path, half in halves.items():
        weight = weights[f"{path}.weight"]
        weights[f"{path}.weight"] = merged(weight, (half["A"], half["B"]), config.alpha).to(weight.dtype)
    for path in [name for name, child in model.named_modules() if isinstance(child, SplitAttention)]:
        for kind in ("weight", "bias"):
            weights[f"{path}.in_proj_{kind}"] = torch.cat([weights.pop(f"{path}.{p}.{kind}") for p in _PROJECTIONS])
    return weights


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer with copies of a weight, (out, in), and a bias, (out,)."""
    layer: nn.Linear = skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, *weight.T.shape, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer
