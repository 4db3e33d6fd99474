"""Synthetic quadruplets on the hyperboloid whose right answers are known."""

from __future__ import annotations

import numpy as np

from hysac_export.model.encoded import EncodedSplit
from hysac_retrieval import lorentz
from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, SafetyProfile

CURVATURE = 1.0
RADII = {"safe_text": 1.0, "safe_image": 2.0, "unsafe_text": 3.0, "unsafe_image": 4.0}


def quadruplet_points(
    n: int,
    *,
    noise: float = 0.0,
    spread: float = 0.02,
    radii: dict[str, float] | None = None,
    name: str = "validation",
    seed: int = 0,
    dim: int = 32,
) -> EncodedSplit:
    """n quadruplets; the four of a quadruplet share a direction, up to `noise`, at radii that vary by `spread`."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, dim))

    def group(radius: float) -> np.ndarray:
        direction = base + noise * rng.normal(size=(n, dim))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return lorentz.exp_map0(direction * (radius + spread * rng.uniform(-1, 1, (n, 1))), CURVATURE)

    groups = {key: group(radius) for key, radius in (RADII | (radii or {})).items()}
    categories = np.array(["drugs", "weapons"])[np.arange(n) % 2]
    return EncodedSplit(**groups, categories=categories, context=np.zeros(n, dtype=bool), name=name)


def profile_with(*, boundary: float, threshold: float) -> SafetyProfile:
    """The profile of `quadruplet_points`, with a chosen boundary and threshold."""

    def modality(safe: float, unsafe: float) -> ModalityProfile:
        return ModalityProfile(
            safe=RadiusStats.of([safe]),
            unsafe=RadiusStats.of([unsafe]),
            slope=10.0,
            midpoint=(safe + unsafe) / 2,
            boundary=boundary,
        )

    return SafetyProfile(text=modality(1.0, 3.0), image=modality(2.0, 4.0), threshold=threshold)
