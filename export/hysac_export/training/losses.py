"""The losses of HySAC (arXiv 2503.12127, section 3) and further ones.

Points are space components of points on the hyperboloid, (B, d) float32 or float64; row i of every group belongs to
quadruplet i. `curvature` and `logit_scale` are positive scalars (the exponentials of the learned parameters).

Quadruplets may lack a picture. A term then takes the rows that have what it compares, and a term that is left without
rows is 0: the loss is that of the pairs that there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional as F

from hysac_export.config import Cone, LossConfig
from hysac_export.data.split import GROUPS
from hysac_retrieval import lorentz

Rows = Tensor | EllipsisType
"""Some rows of a batch, (B,) bool, or all of them."""


@dataclass(frozen=True)
class Quadruplets:
    """Encoded quadruplets: four groups of points, each (B, d), any values for a missing picture.

    `safe_shown` and `unsafe_shown` are the rows that have a safe and an unsafe picture.
    """

    safe_text: Tensor
    safe_image: Tensor
    unsafe_text: Tensor
    unsafe_image: Tensor
    safe_shown: Rows = ...
    unsafe_shown: Rows = ...

    def texts(self) -> Tensor:
        """Safe, then unsafe texts: (2B, d)."""
        return torch.cat([self.safe_text, self.unsafe_text])

    def images(self) -> Tensor:
        """Safe, then unsafe images, those that there are: (2B, d) at most."""
        return torch.cat([select(self.safe_image, self.safe_shown), select(self.unsafe_image, self.unsafe_shown)])

    def there(self, group: str) -> Tensor:
        """The points that a group of `GROUPS` has: (B, d) at most."""
        points: Tensor = getattr(self, group)
        rows = {"safe_image": self.safe_shown, "unsafe_image": self.unsafe_shown}.get(group, ...)
        return select(points, rows)

    def both_shown(self) -> Rows:
        """Rows that have both pictures."""
        masks = [rows for rows in (self.safe_shown, self.unsafe_shown) if isinstance(rows, Tensor)]
        return torch.stack(masks).all(0) if masks else ...


def contrastive(similarity: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE of a (B, B) matrix whose diagonal holds the pairs: texts in rows, images in columns."""
    if not similarity.numel():
        return similarity.sum()
    labels = torch.arange(similarity.shape[0], device=similarity.device)
    logits = scale * similarity
    return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))


def entailment(
    apex: Tensor,
    inside: Tensor,
    curvature: Tensor | float,
    aperture_scale: float = 1.0,
    *,
    power: float | None = None,
    half_aperture: float | None = None,
) -> Tensor:
    """Penalty for points outside a cone, mean(max(0, exterior_angle(apex, inside) − s · half_aperture(apex))), 0-d.

    With a `power`, of the angles of `lorentz.radial_angle`; with a `half_aperture`, in radians, of cones that wide:
    those that `hysac_retrieval.encoder.entailment` calibrates.
    """
    if not apex.numel():
        return apex.sum()
    if power is None:
        angle = lorentz.exterior_angle(apex, inside, curvature)
    else:
        angle = lorentz.radial_angle(apex, inside, curvature, power)
    aperture = lorentz.half_aperture(apex, curvature) if half_aperture is None else half_aperture
    return F.relu(angle - aperture_scale * aperture).mean()


def published_terms(
    points: Quadruplets, curvature: Tensor | float, scale: Tensor | float, aperture_scale: float = 1.0
) -> dict[str, Tensor]:
    """The seven terms of the paper by name: four contrastive, three entailment (apex first)."""
    return {
        **_contrastive_terms(points, _distances(points, curvature), scale),
        **_entailment_terms(points, curvature, LossConfig(aperture_scale=aperture_scale)),
    }


def published_total(
    terms: dict[str, Tensor],
    contrastive_weight: float = 1.0,
    entailment_weight: float = 1.0,
    factors: Mapping[Cone, float] | None = None,
) -> Tensor:
    """Weighted sum of the terms, divided by their number and the sum of their weights as the published code does.

    Of all seven that is 7 (4 w_c + 3 w_e); `factors` multiply the weight of single entailment terms. If no
    term has a weight, as before the ramp of entailment alone, it is 0.
    """
    weights = {name: entailment_weight if "<" in name else contrastive_weight for name in terms}
    weights |= {name: entailment_weight * factor for name, factor in (factors or {}).items() if name in terms}
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    whole = len(terms) * sum(weights.values())
    return total / whole if whole else total


def radius_hinge(points: Quadruplets, curvature: Tensor | float, gap: float) -> Tensor:
    """Mean hinge that orders the radii of all six pairs of groups, within and across quadruplets.

    For groups a before b in `GROUPS`: max(0, r_a + gap · (rank_b − rank_a) − r_b) over every pair of rows. All six
    pairs are needed: with neighbours only, the pulls on the middle groups cancel out.
    """
    radii = [lorentz.dist0(points.there(name), curvature) for name in GROUPS]
    hinges = [
        _mean(F.relu(radii[a][:, None] + gap * (b - a) - radii[b][None, :])) for a, b in combinations(range(4), 2)
    ]
    return torch.stack(hinges).mean()


def redirection(points: Quadruplets, curvature: Tensor | float, scale: Tensor | float) -> Tensor:
    """Redirection of unsafe queries as a contrastive term, 0-d.

    Unsafe points beyond the mean radius of the batch's safe texts are moved along their geodesics onto it; there,
    among safe and unsafe candidates of the other modality (2B), the nearest is to be the safe twin's. The radius is
    taken as given: no gradient flows into it.
    """
    boundary = lorentz.dist0(points.safe_text, curvature).mean().detach()
    every = torch.arange(points.safe_text.shape[0], device=points.safe_text.device)
    losses = []
    for query, candidates, labels in (
        (select(points.unsafe_text, points.safe_shown), points.images(), every[: len(points.there("safe_image"))]),
        (points.there("unsafe_image"), points.texts(), select(every, points.unsafe_shown)),
    ):
        moved = lorentz.traverse(query, boundary, curvature)
        logits = -scale * lorentz.pairwise_dist(moved, candidates, curvature)
        losses.append(F.cross_entropy(logits, labels) if len(labels) else logits.sum())
    return torch.stack(losses).mean()


def words_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per word between (B, w) logits and the words that each caption holds, (B, w) 0 or 1.

    Softmax over the words, not a sigmoid for each: with hundreds of rare words it learns several times faster.
    """
    return -(targets * F.log_softmax(logits, dim=1)).sum() / targets.sum().clamp(min=1.0)


def hyperbolic_loss(
    points: Quadruplets, curvature: Tensor, scale: Tensor, config: LossConfig, progress: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss of HySAC; curvature and scale are 0-d.

    `progress`, the share of the run that is done, in [0, 1], drives the ramps.

    Returns:
        The total, 0-d, and every term by name (unweighted).
    """
    distances = _distances(points, curvature)
    pairs = _contrastive_terms(points, distances, scale)
    # All three are reported, for they are cheap; only those that the config names count.
    every = _entailment_terms(points, curvature, config)
    cones: dict[str, Tensor] = {name: every[name] for name in config.cones}
    terms = {**pairs, **every}
    weight = config.entailment * ramp(progress, config.entailment_start)
    if config.published_normalisation:
        total = published_total({**pairs, **cones}, config.contrastive, weight, config.cone_weights)
    else:
        total = config.contrastive * torch.stack(list(pairs.values())).sum()
        if cones:
            weighted = [config.cone_weights.get(name, 1.0) * every[name] for name in config.cones]
            total = total + weight * torch.stack(weighted).sum()
    if config.joint:
        terms["joint"] = contrastive(-_paired(points, distances), scale)
        total = total + config.joint * terms["joint"]
    if config.radius:
        terms["radius"] = radius_hinge(points, curvature, config.radius_gap)
        total = total + config.radius * terms["radius"]
    if config.redirection:
        terms["redirection"] = redirection(points, curvature, scale)
        total = total + config.redirection * ramp(progress, config.redirection_start) * terms["redirection"]
    return total, terms


def euclidean_loss(
    points: Quadruplets, scale: Tensor, config: LossConfig | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a Euclidean model, whose points are unit vectors; total and terms as in `hyperbolic_loss`.

    CLIP's, InfoNCE of cosines over the joint batch (2B × 2B), or Safe-CLIP's if ``config.safe_clip`` has a weight.
    """
    if config is None or not config.safe_clip:
        loss = contrastive(_paired(points, points.texts() @ points.images().T), scale)
        return loss, {"joint": loss}
    terms = safe_clip_terms(points, scale)
    redirected = torch.stack([terms[name] for name in ("T*->I", "I*->T", "T*->T", "I*->I")]).sum()
    return terms["T-I"] + config.safe_clip * redirected, terms


def safe_clip_terms(points: Quadruplets, scale: Tensor | float) -> dict[str, Tensor]:
    """Safe-CLIP's redirection of unsafe embeddings onto safe ones (arXiv 2311.16254, section 4), for unit vectors.

    ``T*->I`` and ``I*->T`` are InfoNCE of unsafe points with the safe twins of the other modality, ``T*->T`` and
    ``I*->I`` one minus the cosine to the safe twin of the same one, and ``T-I`` keeps what is safe in its place. The
    paper fine-tunes, and takes its targets from a frozen copy of the model. From scratch there is none, so the targets
    are the safe points of this very batch without their gradient: unsafe points move, safe ones are not pulled along.
    """
    text, image = points.safe_text.detach(), points.there("safe_image").detach()
    safe, unsafe, both = points.safe_shown, points.unsafe_shown, points.both_shown()
    alike = (select(points.unsafe_image, both) * select(points.safe_image, both).detach()).sum(-1)
    return {
        "T-I": contrastive(select(points.safe_text, safe) @ points.there("safe_image").T, scale),
        "T*->I": contrastive(select(points.unsafe_text, safe) @ image.T, scale),
        "I*->T": contrastive(select(text, unsafe) @ points.there("unsafe_image").T, scale),
        "T*->T": 1 - (points.unsafe_text * text).sum(-1).mean(),
        "I*->I": (1 - alike.mean()) if alike.numel() else alike.sum(),
    }


def ramp(progress: float, start: float, length: float = 0.1) -> float:
    """0 before `start`, 1 after ``start + length``, linear in between; 1 throughout when `start` is 0."""
    return 1.0 if start <= 0 else min(1.0, max(0.0, (progress - start) / length))


def _distances(points: Quadruplets, curvature: Tensor | float) -> Tensor:
    """Distances of all texts to all images, (2B, 2B) at most: its four blocks serve all the contrastive terms."""
    distances: Tensor = lorentz.pairwise_dist(points.texts(), points.images(), curvature)
    return distances


def _paired(points: Quadruplets, matrix: Tensor) -> Tensor:
    """The rows of a matrix of texts by images whose text has a picture, so that the diagonal holds the pairs."""
    if isinstance(points.safe_shown, EllipsisType) and isinstance(points.unsafe_shown, EllipsisType):
        return matrix
    b = len(points.safe_text)
    return torch.cat([select(matrix[:b], points.safe_shown), select(matrix[b:], points.unsafe_shown)])


def _contrastive_terms(points: Quadruplets, distances: Tensor, scale: Tensor | float) -> dict[str, Tensor]:
    b, n = len(points.safe_text), len(points.there("safe_image"))
    safe, unsafe = points.safe_shown, points.unsafe_shown
    return {
        "T-I": contrastive(-select(distances[:b, :n], safe), scale),
        "T*-I*": contrastive(-select(distances[b:, n:], unsafe), scale),
        "T-I*": contrastive(-select(distances[:b, n:], unsafe), scale),
        "T*-I": contrastive(-select(distances[b:, :n], safe), scale),
    }


def _entailment_terms(points: Quadruplets, curvature: Tensor | float, config: LossConfig) -> dict[str, Tensor]:
    safe, unsafe = points.safe_shown, points.unsafe_shown
    pairs = {
        "T<I": (select(points.safe_text, safe), select(points.safe_image, safe)),
        "T*<I*": (select(points.unsafe_text, unsafe), select(points.unsafe_image, unsafe)),
        "I<T*": (select(points.safe_image, safe), select(points.unsafe_text, safe)),
    }
    if "T<T*" in config.cones:  # implied by the other two of the chain, and all that captions alone can learn
        pairs["T<T*"] = points.safe_text, points.unsafe_text
    widths: dict[str, float] = {name: math.radians(degrees) for name, degrees in config.half_apertures.items()}
    return {
        name: entailment(
            *pair, curvature, config.aperture_scale, power=config.cone_power, half_aperture=widths.get(name)
        )
        for name, pair in pairs.items()
    }


def select(values: Tensor, rows: Rows) -> Tensor:
    """Some rows of an array, (B, …) to (b, …)."""
    # Not `values[...]`, which is another node of the graph: gradients would be summed in another order.
    return values if isinstance(rows, EllipsisType) else values[rows]


def _mean(values: Tensor) -> Tensor:
    """The mean, 0-d; 0 of nothing."""
    return values.mean() if values.numel() else values.sum()
