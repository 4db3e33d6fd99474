"""How the learning rate goes over a run."""

from __future__ import annotations

import math

from hysac_export.training.config import OptimConfig


def learning_rate(config: OptimConfig, progress: float) -> float:
    """Linear warm-up, then constant or a cosine to zero; `progress` is the share of the run done, in [0, 1)."""
    if progress < config.warmup:
        return config.lr * (progress / config.warmup + 1e-3)
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))
