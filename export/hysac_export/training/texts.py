"""The loss of texts without pictures: where they lie, how far out, and what an unsafe one is moved to.

Pictures take no part but as places: the radii of the step's pictures are what texts are to lie below or beyond.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hysac_export.config import TextsConfig
from hysac_export.training.losses import Quadruplets, radius_hinge
from hysac_retrieval import lorentz


def direction(points: Tensor, vectors: Tensor, temperature: float) -> Tensor:
    """How far the directions of n points, (n, d), are from the neighbourhoods of unit vectors, (n, w), 0-d.

    For each text the Kullback–Leibler divergence of two softmax distributions over the others, one of the vectors'
    cosines and one of the cosines of the points' directions. Distances in the space would not do: they grow with the
    radii, and keeping them would push outward what is safe.
    """
    directions = F.normalize(points, dim=-1)
    target, found = (_others(x @ x.T / temperature).log_softmax(1) for x in (vectors, directions))
    return F.kl_div(found, target, reduction="batchmean", log_target=True)


def moved(
    safe: Tensor, unsafe: Tensor, boundary: Tensor | float, curvature: Tensor | float, scale: Tensor | float
) -> Tensor:
    """Contrastive term of unsafe texts, (n, d), moved to a radius: of the safe ones the nearest is to be its twin."""
    logits = -scale * lorentz.pairwise_dist(lorentz.traverse(unsafe, boundary, curvature), safe, curvature)
    return F.cross_entropy(logits, torch.arange(len(safe), device=safe.device))


def text_terms(
    points: tuple[Tensor, Tensor, Tensor],
    vectors: tuple[Tensor, Tensor, Tensor],
    scene: Quadruplets,
    curvature: Tensor,
    scale: Tensor,
    config: TextsConfig,
    gap: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, 0-d, and every term by name, of safe, unsafe and unlabelled texts.

    Args:
        points: Of the three kinds, (n, d), (n, d) and (m, d).
        vectors: The text encoder's own, of unit length.
        scene: The quadruplets of the same step.
        curvature: c, 0-d.
        scale: Of contrastive logits, 0-d.
        config: Weights and temperature.
        gap: Margin between the radii of neighbouring groups.
    """
    safe, unsafe, others = points
    images = {name: getattr(scene, name).detach() for name in ("safe_image", "unsafe_image")}
    pairs = replace(scene, safe_text=safe, unsafe_text=unsafe, **images)
    both = torch.cat([safe, unsafe]), torch.cat(vectors[:2])
    # The radius of captions: a model has one boundary for all texts. As in `losses.redirection`, it is taken as given.
    boundary = lorentz.dist0(scene.safe_text, curvature).mean().detach()
    terms = {
        "texts/radius": radius_hinge(pairs, curvature, gap),
        "texts/moved": moved(safe, unsafe, boundary, curvature, scale),
        "texts/direction": direction(*both, config.temperature),
        "texts/others": direction(others, vectors[2], config.temperature),
    }
    weights = (config.radius, config.moved, config.direction, config.direction)
    return torch.stack([weight * term for weight, term in zip(weights, terms.values(), strict=True)]).sum(), terms


def _others(matrix: Tensor) -> Tensor:
    """A square matrix without its diagonal, (n, n) to (n, n - 1)."""
    n = len(matrix)
    return matrix[~torch.eye(n, dtype=torch.bool, device=matrix.device)].view(n, n - 1)
