"""The safety profile of a model, from the radii of its validation split and of no other.

Three things are decided, in this order:

1. *Scores.* P(unsafe | radius) per modality is a logistic regression on one number, the radius.
2. *Boundaries.* For each query modality, the radius that unsafe queries are moved to: of the candidates whose
   harmful@1 is low enough, the one with the best R@1 of the safe twin among safe and unsafe points. Of equals, the
   largest wins: it moves queries least. Quadruplets whose safety depends on context are left out if there are others:
   their twins are the same things in the same place, which no boundary tells apart, and trying to would pull every
   query too near to the origin. The filter is there for those.
3. *Thresholds.* For each modality an unsafe score above which a stored point counts as unsafe: the largest one (the
   fewest safe points lost), ½ at most, under which no more than `max_miss` of its unsafe points slip through; or the
   smallest one (the fewest unsafe points missed) that costs no more than `max_lost` of its safe points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from hysac_export.evaluation.metrics import traversal_sweep
from hysac_export.evaluation.roc import roc
from hysac_export.evaluation.texts import EncodedPairs, pair_sweep
from hysac_export.model.encoded import EncodedSplit, Floats, radii_of
from hysac_retrieval.errors import MissingExtraError, SettingsError, TrainingError
from hysac_retrieval.safety.profile import ModalityProfile, RadiusStats, Rates, SafetyProfile
from hysac_retrieval.types import MODALITIES, Modality, Thresholds

MAX_HARMFUL = 0.01
"""Largest harmful@1 of a boundary."""
MIN_SPREAD = 1e-5
"""Smallest standard deviation of a modality's radii, relative to their mean."""
MAX_MISS = 0.02
"""Largest share of unsafe points with a score at or below the threshold, if nothing else is asked for."""
MOST = 0.5
"""Largest threshold, unless `max_lost` asks for a larger one."""
RIDGE = 1.0
"""Penalty ½·RIDGE·a² on the slope a of the standardised radius, against a sum over all points: keeps the slope finite
on separable data (near 6 for a thousand points a side) and leaves other fits alone."""
HINT = "Train longer, or with the radius and joint losses on (the config 'mini-scenes' has them)"


@dataclass(frozen=True)
class Wanted:
    """Shares that thresholds are chosen by, the same in each modality.

    Attributes:
        max_miss: Largest share of unsafe points that may count as safe, in [0, 1); None for any, or for `MAX_MISS` if
            nothing is asked of safe points either.
        max_lost: Largest share of safe points that may count as unsafe, in [0, 1); None for any.

    Raises:
        SettingsError: A share is out of range.
    """

    max_miss: float | None = None
    max_lost: float | None = None

    def __post_init__(self) -> None:
        if self.max_miss is None and self.max_lost is None:
            object.__setattr__(self, "max_miss", MAX_MISS)
        for name, share in (("max_miss", self.max_miss), ("max_lost", self.max_lost)):
            if share is not None and not 0 <= share < 1:
                raise SettingsError(f"{name} is {share}; expected a share of at least 0 and below 1")

    def __str__(self) -> str:
        """Return it in words."""
        limits = (("miss", self.max_miss), ("lost", self.max_lost))
        return ", ".join(f"{name} ≤ {share:.2%}" for name, share in limits if share is not None)


def calibrate(
    encoded: EncodedSplit,
    curvature: float,
    *,
    texts: EncodedPairs | None = None,
    max_harmful: float = MAX_HARMFUL,
    max_miss: float | None = None,
    max_lost: float | None = None,
) -> SafetyProfile:
    """Compute the safety profile of a model from its encoded validation split.

    Args:
        encoded: Validation quadruplets. Never a test split.
        curvature: Curvature c > 0 of the model's space.
        texts: Pairs of plain texts, to take for scores and threshold of texts in place of the captions; the boundary of
            texts is then to serve both, and no more of the unsafe captions may be missed either.
        max_harmful: Largest harmful@1 of unsafe queries after traversal to the boundary, in [0, 1]. If no candidate
            meets it, the least harmful one is taken and the profile's `source` says so.
        max_miss: Largest share of unsafe points that count as safe; see `Wanted`.
        max_lost: Largest share of safe points that count as unsafe.

    Raises:
        SettingsError: A limit is out of range, or no threshold is as wanted.
        TrainingError: Safe points are not nearer to the origin than unsafe ones: the radius says nothing.
    """
    if not 0 <= max_harmful <= 1:
        raise SettingsError(f"max_harmful is {max_harmful}; expected a share of 0 to 1")
    wanted = Wanted(max_miss, max_lost)
    radii = radii_of(encoded, curvature)
    radii |= texts.by_group(curvature) if texts else {}
    clear = encoded.select(~encoded.context) if (~encoded.context).any() else encoded
    parts: dict[Modality, ModalityProfile] = {}
    notes: list[str] = []
    for modality in MODALITIES:
        safe, unsafe = radii[f"safe_{modality}"], radii[f"unsafe_{modality}"]
        slope, midpoint = fit_modality(safe, unsafe, modality)
        tried = candidates(radii_of(clear, curvature), modality)
        boundary, note = _boundary(clear, curvature, modality, tried, max_harmful, texts)
        notes.append(note)
        parts[modality] = ModalityProfile(
            safe=RadiusStats.of(safe), unsafe=RadiusStats.of(unsafe), slope=slope, midpoint=midpoint, boundary=boundary
        )
    source = (
        f"{len(encoded)} quadruplets of the split {encoded.name or 'given'}, boundaries on the {len(clear)} that do "
        f"not depend on context; {'; '.join(notes)}"
        + (f"; scores of texts on {len(texts.safe)} pairs of plain texts" if texts else "")
    )
    captions = None if texts is None else radii_of(encoded, curvature)
    profile = with_thresholds(parts, radii, source, wanted, captions=captions)
    if captions is None:
        return profile
    # They may lie elsewhere than the plain texts that scores are of, and nobody would see it by the rates.
    missed, safe = (profile.counts_safe(captions[f"{side}_text"], "text").mean() for side in ("unsafe", "safe"))
    found = f"of the captions {missed:.1%} missed, {1 - safe:.1%} lost"
    return profile.model_copy(update={"source": f"{profile.source}; {found}"})


def fit_modality(safe: Floats, unsafe: Floats, modality: Modality, hint: str = HINT) -> tuple[float, float]:
    """Fit slope and midpoint of P(unsafe | radius) to radii of safe and unsafe points of one modality, (n,) and (m,).

    `TrainingError`: The radii are all the same, or safe points are not nearer to the origin than unsafe ones.
    """
    radii = np.concatenate([safe, unsafe])
    if radii.std() <= MIN_SPREAD * radii.mean():  # a slope fitted to rounding would be noise
        message = f"all {modality} radii are {radii.mean():.6g} up to rounding: the model has collapsed"
        raise TrainingError(message, hint=f"Try another seed. {HINT}")
    slope, midpoint = fit_logistic(safe, unsafe)
    if slope <= 0 or midpoint < 0 or safe.mean() >= unsafe.mean():
        means = f"mean radius {safe.mean():.4g} safe, {unsafe.mean():.4g} unsafe; expected safe below unsafe"
        raise TrainingError(f"the radius of {modality} does not grow with P(unsafe): {means}", hint=hint)
    return slope, midpoint


def with_thresholds(
    parts: Mapping[Modality, ModalityProfile],
    radii: Mapping[Any, Floats],
    source: str,
    wanted: Wanted,
    base: SafetyProfile | None = None,
    captions: Mapping[Any, Floats] | None = None,
) -> SafetyProfile:
    """Make a profile with the thresholds that are wanted.

    Args:
        parts: The calibration of each modality.
        radii: Radii by group, see `split.GROUPS`, of a modality both groups or neither.
        source: What the profile was computed from, in words.
        wanted: What the thresholds are chosen by.
        base: Whose threshold a modality without radii keeps.
        captions: Radii by group of more texts, of whose unsafe ones no more may be missed either.

    Raises:
        SettingsError: In a modality no threshold is as wanted.
        TrainingError: The radii give no valid profile.
    """
    try:
        threshold = base.threshold if base else MOST
        profile = SafetyProfile(text=parts["text"], image=parts["image"], threshold=threshold)
    except ValidationError as error:
        raise TrainingError(f"the radii of this model give no valid safety profile: {error}") from error
    found = {modality: profile.threshold.of(modality) for modality in MODALITIES}
    for modality in (name for name in MODALITIES if f"unsafe_{name}" in radii):
        also = captions if modality == "text" else None
        (safe, unsafe), *more = (
            (profile.unsafe(of[f"safe_{modality}"], modality), profile.unsafe(of[f"unsafe_{modality}"], modality))
            for of in (radii, also)
            if of is not None
        )
        found[modality] = choose_threshold(safe, unsafe, wanted, modality, *more)
    profile = profile.model_copy(update={"threshold": Thresholds(**found), "source": f"{source}; {wanted}"})
    measured = roc(profile, radii)
    rates = {m: Rates(miss=part["chosen"]["miss"], lost=part["chosen"]["lost"]) for m, part in measured.items()}
    return profile.model_copy(update={"rates": {**(base.rates if base else {}), **rates}})


def fit_logistic(safe: Floats, unsafe: Floats, ridge: float = RIDGE) -> tuple[float, float]:
    """Logistic regression of unsafe on the radius: slope per unit and midpoint of P = σ(slope · (radius − midpoint)).

    Radii are (n,) and (m,); `ridge` > 0 penalises the slope of the standardised radius. A slope of 0 has midpoint NaN.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "calibration") from error
    radius = np.concatenate([safe, unsafe])
    centre, scale = float(radius.mean()), float(radius.std()) or 1.0
    model = LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model.fit((radius[:, None] - centre) / scale, np.repeat([0, 1], [len(safe), len(unsafe)]))
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    return slope / scale, centre - scale * offset / slope if slope else float("nan")


def candidates(radii: dict[str, Floats], modality: Modality) -> Floats:
    """Boundaries to try for a query modality, ascending, (k,).

    From a third of the smallest radius of safe texts to the largest of unsafe queries: the percentiles of the safe
    texts and of the safe images, where the answers are, and an even grid over the gaps between them and below.
    """
    low, high = float(radii["safe_text"].min()) / 3, float(radii[f"unsafe_{modality}"].max())
    percentiles = np.arange(0, 101, 10)
    dense = np.concatenate([np.percentile(radii[group], percentiles) for group in ("safe_text", "safe_image")])
    every = np.unique(np.concatenate([dense, np.linspace(low, max(low, high), 33)]))
    return every[(every >= low) & (every > 0)]


def _boundary(
    encoded: EncodedSplit,
    curvature: float,
    modality: Modality,
    tried: Floats,
    max_harmful: float,
    texts: EncodedPairs | None,
) -> tuple[float, str]:
    """The best boundary, and what it gives in words; for the boundary of texts, R@1 of plain ones counts as much."""
    if not tried.size:
        raise TrainingError(f"all safe texts and unsafe {modality} points lie at the origin; the model has collapsed")
    recall, harmful = traversal_sweep(encoded, curvature, modality, tried)
    met = harmful <= max_harmful
    eligible = met if met.any() else harmful == harmful.min()
    plain = pair_sweep(texts, curvature, tried) if texts is not None and modality == "text" else None
    total = recall if plain is None else recall + plain
    best = int(np.flatnonzero(eligible & (total == total[eligible].max()))[-1])
    note = f"{modality} boundary {tried[best]:.4g}: R@1 {recall[best]:.1%}, harmful@1 {harmful[best]:.1%}"
    if plain is not None:
        note += f", R@1 of plain texts {plain[best]:.1%}"
    if not met.any():
        note += f" (no candidate has harmful@1 ≤ {max_harmful:.1%}; this is the least harmful)"
    return float(tried[best]), note


def choose_threshold(
    safe: Floats, unsafe: Floats, wanted: Wanted, modality: Modality, *more: tuple[Floats, Floats]
) -> float:
    """Return the threshold on the scores of a modality that is wanted; of the unsafe ones of `more` no more are missed.

    Raises:
        SettingsError: None meets both limits, or what may be lost needs one of 1.
    """
    if wanted.max_miss is not None:
        found = min(MOST, *(_largest(*scores, wanted.max_miss) for scores in ((safe, unsafe), *more)))
        lost = float((safe > found).mean())
        if wanted.max_lost is None or lost <= wanted.max_lost:
            return found
        most = f"at most {wanted.max_miss:.2%} of the unsafe {modality}s may count as safe"
        raise SettingsError(
            f"if {most}, {lost:.2%} of the safe ones are lost, and no more than {wanted.max_lost:.2%} may be",
            hint="Ask for one of --max-miss and --max-lost and see what the other becomes, or allow more of one",
        )
    kept = math.ceil((1 - (wanted.max_lost or 0.0)) * len(safe)) - 1
    below = float(np.sort(safe)[kept])
    scores = np.concatenate([safe, unsafe])
    found = _within(below, float(scores[scores > below].min(initial=1.0)))
    if found >= 1:
        message = f"to lose no more than {wanted.max_lost:.2%} of the safe {modality}s, everything would count as safe"
        raise SettingsError(message, hint="Allow more with --max-lost")
    return found


def _largest(safe: Floats, unsafe: Floats, max_miss: float) -> float:
    """Return the largest threshold under which no more than that share of the unsafe scores slips through."""
    bound = float(np.sort(unsafe)[int(max_miss * len(unsafe))])
    scores = np.concatenate([safe, unsafe])
    return _within(float(scores[scores < bound].max(initial=0.0)), bound)


def _within(below: float, bound: float) -> float:
    """Return a threshold from `below` up to, not including, `bound`, all of which let the same points through.

    That is ½ if it is one of them, else the middle.
    """
    if below <= MOST < bound:
        return MOST
    middle = (below + bound) / 2
    return middle if middle < bound else below
