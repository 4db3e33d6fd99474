"""The radial head: the direction of a vector is kept, and its score decides how far out the point lies.

    u = v / |v|,   r = safe + (unsafe − safe) · clip((logit − low) / (high − low), 0, 1),   x = sinh(√c r) u / √c

The radius is flat over what is clearly safe and over what is clearly unsafe, and rises steeply between. Points of one
radius are ranked by distance as their vectors are by cosine, since cosh(√c d) = 1 + sinh²(√c r) (1 − cos); a radius
that varied with the logit would disturb that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hysac_export.evaluation.calibrate import Wanted, choose_threshold
from hysac_export.fit.scores import Floats, Labelled, ScoreFit, Scorer, calibrated, fit_scores, unit
from hysac_retrieval import lorentz
from hysac_retrieval.errors import TrainingError
from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, Rates, SafetyProfile
from hysac_retrieval.types import MODALITIES, Modality, Thresholds

CURVATURE = 1.0
INNERMOST = 0.5
"""Radius of safe texts. Small, so that the space is nearly flat there: a point is then near to points of its own level,
where at large radii every point would be nearest to those that lie farther in."""
IMAGE_FACTOR = 1.05
"""Radius of images beside texts of the same kind."""
RATIOS = (1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Radii of what is unsafe beside what is safe, to choose from."""
MOST_BEHIND = 0.01
"""Largest share of clearly safe examples of which the nearest other is a clearly unsafe one."""
STEP = 0.05
"""Logits from the lower to the upper plateau, the threshold in their middle."""
PLATEAU_SCORE = 0.02
"""Score of the lower plateau; that of the upper one is 1 − PLATEAU_SCORE, that of the threshold ½."""
_SAMPLED = 2000
_LARGEST = 30.0  # logit


@dataclass(frozen=True)
class RadialHead:
    """Vectors of one modality to points; see the module.

    Attributes:
        scorer: Logits of P(unsafe).
        low: Logit at which the lower plateau ends.
        safe: Radius of the lower plateau, > 0.
        unsafe: Radius of the upper one, > safe.
    """

    scorer: Scorer
    low: float
    safe: float
    unsafe: float

    @property
    def high(self) -> float:
        """Logit at which the upper plateau begins."""
        return self.low + STEP

    def radii(self, logits: ArrayLike) -> Floats:
        """Return radii, (n,), of logits, (n,)."""
        rise = np.clip((np.asarray(logits, dtype=np.float64) - self.low) / STEP, 0.0, 1.0)
        return np.asarray(self.safe + (self.unsafe - self.safe) * rise)

    def points(self, vectors: ArrayLike) -> Floats:
        """Return points, (n, k) space components, of vectors of any length, (n, k).

        Raises:
            InvalidVectorError: A vector is zero or not finite.
        """
        rows = unit(vectors).astype(np.float64)
        return placed(rows, self.radii(self.scorer.logits(rows)))

    def profile(self, logits: Floats, unsafe: NDArray[np.bool_]) -> ModalityProfile:
        """Return the calibration of the head's modality, with the radii of examples that it was not fitted to."""
        radii = self.radii(logits)
        return ModalityProfile(
            safe=RadiusStats.of(radii[~unsafe]),
            unsafe=RadiusStats.of(radii[unsafe]),
            slope=2 * float(np.log(1 / PLATEAU_SCORE - 1)) / (self.unsafe - self.safe),
            midpoint=(self.safe + self.unsafe) / 2,
            boundary=self.safe,
        )


@dataclass(frozen=True)
class Fit:
    """Outcome of a fit to the examples of one modality.

    Attributes:
        head: The head.
        examples: What it was fitted to.
        logits: Logits of the examples when they were in no part of what was fitted, (n,).
        threshold: Logit at or below which an example counts as safe.
        rates: What that costs.
        shared: Whether the score is that of the other modality, moved and calibrated anew.
    """

    head: RadialHead
    examples: Labelled
    logits: Floats
    threshold: float
    rates: Rates
    shared: bool = False

    @property
    def counts_safe(self) -> NDArray[np.bool_]:
        """Which examples count as safe, (n,)."""
        return np.asarray(self.logits <= self.threshold)


def placed(directions: Floats, radii: Floats) -> Floats:
    """Return the points, (n, k), in directions of unit length, (n, k), at radii, (n,)."""
    return np.asarray(lorentz.exp_map0(directions * radii[:, None], np.float64(CURVATURE)))


def fit_heads(
    examples: Mapping[Modality, Labelled], wanted: Wanted | None = None, *, seed: int = 0
) -> dict[Modality, Fit]:
    """Fit a head for each modality that there are examples of.

    Args:
        examples: Labelled examples of one or both modalities, of vectors of one size.
        wanted: Shares that the thresholds are chosen by; at most 2 % missed by default.
        seed: Seed of the folds.

    Raises:
        SettingsError: No threshold is as wanted.
        TrainingError: Examples are missing, too few, or say nothing.
    """
    if not examples:
        raise TrainingError("there are no labelled examples", hint="Give some of a text or image encoder")
    sizes = {modality: part.vectors.shape[1] for modality, part in examples.items()}
    if len(set(sizes.values())) > 1:
        found = " and ".join(f"{size} for {modality}s" for modality, size in sizes.items())
        raise TrainingError(f"the vectors have different sizes: {found}", hint="Take one encoder for both")
    scores = {modality: fit_scores(part, seed=seed) for modality, part in examples.items()}
    kept = {modality: _better(modality, scores, examples) for modality in scores}
    cuts = {m: _cut(fit, examples[m].unsafe, wanted or Wanted(), m) for m, (fit, _) in kept.items()}
    ratio = max(_ratio(fit, examples[m], cuts[m]) for m, (fit, _) in kept.items())
    made = dict[Modality, Fit]()
    for modality in (name for name in MODALITIES if name in kept):
        fit, shared = kept[modality]
        own, cut = examples[modality], cuts[modality]
        safe = INNERMOST * (IMAGE_FACTOR if modality == "image" else 1.0)
        head = RadialHead(fit.scorer, cut - STEP / 2, safe, safe * ratio)
        past = fit.logits <= cut
        rates = Rates(miss=float(past[own.unsafe].mean()), lost=float((~past)[~own.unsafe].mean()))
        made[modality] = Fit(head, own, fit.logits, cut, rates, shared)
    return made


def profile_of(fits: Mapping[Modality, Fit], source: str) -> SafetyProfile:
    """Return the calibration of heads; a modality without one has a copy of the other's.

    Raises:
        TrainingError: The scores of what is safe are not below those of what is unsafe.
    """
    parts = {m: fit.head.profile(fit.logits, fit.examples.unsafe) for m, fit in fits.items()}
    one = next(iter(parts.values()))
    try:
        return SafetyProfile(
            text=parts.get("text", one),
            image=parts.get("image", one),
            threshold=Thresholds(0.5, 0.5),
            source=source,
            rates={m: fit.rates for m, fit in fits.items() if not fit.examples.pseudo},
        )
    except ValueError as error:
        raise TrainingError(f"the labels give no valid calibration: {error}", hint="Give more labels") from error


def _better(
    modality: Modality, scores: Mapping[Modality, ScoreFit], examples: Mapping[Modality, Labelled]
) -> tuple[ScoreFit, bool]:
    """Return the score of a modality: its own, or that of the other if it does better on this one's labels."""
    own = scores[modality]
    for other, fit in scores.items():
        if other != modality and len(examples[modality]) < len(examples[other]):
            moved = _transferred(fit.scorer, examples[other], examples[modality])
            if moved is not None and moved.loss < own.loss:
                return moved, True
    return own, False


def _transferred(scorer: Scorer, source: Labelled, target: Labelled) -> ScoreFit | None:
    """Return a score as it does on the examples of another modality: moved by the means of both, calibrated there."""
    (weights, offset), *rest = scorer.layers
    gap = target.vectors.mean(axis=0, dtype=np.float64) - source.vectors.mean(axis=0, dtype=np.float64)
    moved = Scorer(((weights, offset - gap @ weights), *rest), scorer.kind)
    try:
        return calibrated(moved, moved.logits(target.vectors), target.unsafe)
    except TrainingError:
        return None


def _cut(fit: ScoreFit, unsafe: NDArray[np.bool_], wanted: Wanted, modality: Modality) -> float:
    """Return the logit that parts what counts as safe from what does not."""
    scores = 1 / (1 + np.exp(-np.clip(fit.logits, -_LARGEST, _LARGEST)))
    chosen = choose_threshold(scores[~unsafe], scores[unsafe], wanted, modality)
    return float(np.log(max(chosen, np.exp(-_LARGEST)) / (1 - chosen)))


def _ratio(fit: ScoreFit, examples: Labelled, cut: float) -> float:
    """Return the smallest ratio of radii at which clearly safe examples have hardly an unsafe nearest neighbour."""
    safe = np.flatnonzero(~examples.unsafe & (fit.logits < cut))[:_SAMPLED]
    unsafe = np.flatnonzero(examples.unsafe & (fit.logits > cut))[:_SAMPLED]
    if len(safe) < 2 or not len(unsafe):
        return RATIOS[-1]
    rows = examples.vectors.astype(np.float64)
    within = rows[safe] @ rows[safe].T
    np.fill_diagonal(within, -1.0)
    nearest, across = within.max(axis=1), (rows[safe] @ rows[unsafe].T).max(axis=1)
    inner = np.cosh(INNERMOST) ** 2 - np.sinh(INNERMOST) ** 2 * nearest  # cosh of the distance
    for ratio in RATIOS:
        outer = INNERMOST * ratio
        reach = np.cosh(INNERMOST) * np.cosh(outer) - np.sinh(INNERMOST) * np.sinh(outer) * across
        if (reach < inner).mean() <= MOST_BEHIND:
            return ratio
    return RATIOS[-1]
