"""The loss of texts without pictures: where they lie, how far out, what they find, and what an unsafe one is moved to.

Pictures take no part but as places: texts are to lie below or beyond those of the step, and to find them by what their
captions say.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hysac_export.config import TextsConfig
from hysac_export.training.losses import Quadruplets, radius_hinge, select
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


def level(safe: Tensor, unsafe: Tensor, scene: Quadruplets, curvature: Tensor, gap: float) -> Tensor:
    """The hinge of `losses.radius_hinge` between texts, (n, d) each, and the step's captions, (B, d), 0-d.

    A model has one threshold for all texts: safe captions are to lie below unsafe texts, and safe texts below unsafe
    captions. A group lies between the two, that of safe pictures, so that the margin is 2 · gap.
    """
    hinges = [
        F.relu(lorentz.dist0(inner, curvature)[:, None] + 2 * gap - lorentz.dist0(outer, curvature)).mean()
        for inner, outer in ((safe, scene.unsafe_text), (scene.safe_text, unsafe))
    ]
    return torch.stack(hinges).mean()


def pictured(
    points: Tensor,
    vectors: Tensor,
    scene: Quadruplets,
    captions: Tensor,
    curvature: Tensor,
    scale: Tensor,
    temperature: float,
) -> Tensor:
    """How far n safe and then n unsafe texts are from finding the pictures whose captions are most like them, 0-d.

    For each text the Kullback–Leibler divergence of two softmax distributions over the step's pictures: of the cosines
    of its vector, (2n, w), and the captions', (2B, w), at a temperature, among pictures of the text's own side alone;
    and of what a search goes by, the distances of its point, (2n, d). Directions alone would not do: what is unsafe
    lies farther out, so of two pictures at one angle the safe one is found first.
    """
    images, of_images = scene.images().detach(), captions.chunk(2)
    told = torch.cat([select(of_images[0], scene.safe_shown), select(of_images[1], scene.unsafe_shown)])
    unsafe_text = torch.arange(len(points), device=points.device) >= len(points) // 2
    unsafe_image = torch.arange(len(images), device=points.device) >= len(scene.there("safe_image"))
    likeness = (vectors @ told.T / temperature).masked_fill(unsafe_text[:, None] != unsafe_image, -torch.inf)
    logits = -scale.detach() * lorentz.pairwise_dist(points, images, curvature)
    target = likeness.softmax(1).nan_to_num()  # of a side without pictures
    return F.kl_div(logits.log_softmax(1), target, reduction="batchmean")


def text_terms(
    points: tuple[Tensor, Tensor, Tensor],
    vectors: tuple[Tensor, Tensor, Tensor],
    scene: Quadruplets,
    captions: Tensor | None,
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
        captions: The text encoder's own vectors of its captions, safe and then unsafe, (2B, w); None where
            nothing is to be found by them.
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
    weights = [config.radius, config.moved, config.direction, config.direction]
    if config.level:
        terms["texts/level"] = level(safe, unsafe, scene, curvature, gap)
        weights.append(config.level)
    if captions is not None:
        terms["texts/pictured"] = pictured(*both, scene, captions, curvature, scale, config.temperature)
        weights.append(config.pictured)
    return torch.stack([weight * term for weight, term in zip(weights, terms.values(), strict=True)]).sum(), terms


def _others(matrix: Tensor) -> Tensor:
    """A square matrix without its diagonal, (n, n) to (n, n - 1)."""
    n = len(matrix)
    return matrix[~torch.eye(n, dtype=torch.bool, device=matrix.device)].view(n, n - 1)
