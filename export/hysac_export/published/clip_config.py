"""Settings that the shapes of CLIP weights do not tell, from the ``config.json`` of the Hugging Face model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hysac_retrieval.errors import TrainingError

HEAD_WIDTH = 64
"""Of every CLIP that OpenAI published."""
LAYER_NORM_EPS = 1e-5
_QUICK_GELU = {"quick_gelu": True, "gelu": False}


@dataclass(frozen=True)
class TowerSettings:
    """Number of attention heads, and whether the activation is x · σ(1.702 x) rather than GELU."""

    heads: int
    quick_gelu: bool


def tower_settings(config: Mapping[str, Any] | None, part: str, width: int, layers: int) -> TowerSettings:
    """Read the settings of a tower, ``vision_config`` or ``text_config``, of which the weights tell width and layers.

    Without a config, or with one that does not describe a CLIP, they are OpenAI's (`TrainingError`: the settings
    contradict the weights, cannot be built, or are needed).
    """
    given = (config or {}).get(part)
    settings: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    for key, known, what in (("hidden_size", width, "width"), ("num_hidden_layers", layers, "layers")):
        if (said := settings.get(key, known)) != known:
            message = f"config.json says that the {part} has {said} {what}, the weights have {known}"
            raise TrainingError(message, hint="Give the config.json of the right base model, and a whole checkpoint")
    heads = settings.get("num_attention_heads", width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else None)
    if heads is None:
        message = f"a tower of width {width} does not divide into heads of {HEAD_WIDTH}"
        raise TrainingError(message, hint="Put the config.json of the base model beside the checkpoint")
    activation, eps = settings.get("hidden_act", "quick_gelu"), settings.get("layer_norm_eps", LAYER_NORM_EPS)
    if not isinstance(heads, int) or heads < 1 or width % heads or activation not in _QUICK_GELU:
        expected = f"a divisor of the width {width} and one of {', '.join(_QUICK_GELU)}"
        raise TrainingError(f"config.json gives the {part} {heads!r} heads and {activation!r}; expected {expected}")
    if eps != LAYER_NORM_EPS:
        raise TrainingError(f"config.json sets layer_norm_eps of the {part} to {eps!r}; only {LAYER_NORM_EPS} can be")
    return TowerSettings(heads, _QUICK_GELU[activation])
