"""Figures of a fit, all from scores that cross-validation gave: nothing is judged on what it was fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_export.evaluation.bootstrap import Bootstrap, Figure
from hysac_export.evaluation.metrics import weighted_auc
from hysac_export.fit.radial import CURVATURE, Fit, placed
from hysac_export.fit.scores import Floats
from hysac_retrieval.types import Modality

K = 10
"""Hits whose overlap with the encoder's own is measured."""
SHOWN = 12
"""Examples of a kind that a report names."""
AT_MOST = 3000
"""Examples among which searches are measured."""
_RESAMPLES = 1000
_CELLS = 5_000_000  # of a matrix of resamples
_OF_PSEUDO = ("safe", "unsafe", "score", "shared", "unsure", "pseudo")
WIDE = 0.05
"""Half width of the interval of a share from which on more labels are asked for."""


@dataclass(frozen=True)
class Measured:
    """Figures of the fit of one modality.

    Attributes:
        safe: Safe examples.
        unsafe: Unsafe examples.
        score: Kind of the score.
        shared: Whether it is the other modality's.
        auc: Area under the ROC curve.
        missed: Share of unsafe examples that count as safe.
        lost: Share of safe examples that count as unsafe.
        curve: What other thresholds would cost: pairs of missed and lost.
        kept: Overlap of the ten nearest of what counts as safe with those by the encoder's cosine; None below 11.
        searches: What an unsafe example finds first among all others, by way of search; see `SEARCHES`.
        categories: Figures by category.
        unsure: Examples nearest to the threshold.
        passed: Unsafe examples that count as safe by most.
        refused: Safe examples that count as unsafe by most.
        pseudo: Whether the labels are guesses of the encoder's own, so that the figures are none of what is true.
    """

    safe: int
    unsafe: int
    score: str
    shared: bool
    auc: Figure
    missed: Figure
    lost: Figure
    curve: tuple[tuple[float, float], ...]
    kept: float | None
    searches: dict[str, dict[str, Figure]]
    categories: dict[str, dict[str, float]]
    unsure: tuple[str, ...]
    passed: tuple[str, ...]
    refused: tuple[str, ...]
    pseudo: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; of pseudo-labels their numbers and no figures."""
        values = asdict(self)
        return {name: values[name] for name in _OF_PSEUDO} if self.pseudo else values


SEARCHES = {
    "cosine": "the encoder's cosine, no filter",
    "filter": "its cosine among what counts as safe",
    "traversal": "the query moved inward, no filter",
    "system": "the query moved inward, among what counts as safe",
    "perfect": "its cosine among what is safe",
}
"""Ways of search that are compared."""


def measure(fit: Fit, seed: int = 0) -> Measured:
    """Measure a fit by the scores of its cross-validation."""
    unsafe, n = fit.examples.unsafe, len(fit.examples)
    boot = Bootstrap(n, resamples=max(50, min(_RESAMPLES, _CELLS // n)), seed=seed)
    wrong = fit.counts_safe == unsafe
    names = fit.examples.names or [f"row {row}" for row in range(n)]
    order = np.argsort(fit.logits, kind="stable")

    def told(rows: NDArray[np.int64]) -> tuple[str, ...]:
        return tuple(str(names[row]) for row in rows[:SHOWN])

    return Measured(
        safe=int((~unsafe).sum()),
        unsafe=int(unsafe.sum()),
        score=fit.head.scorer.kind,
        shared=fit.shared,
        auc=_auc(fit.logits, unsafe, boot),
        missed=boot.mean(wrong, unsafe),
        lost=boot.mean(wrong, ~unsafe),
        curve=_curve(fit.logits, unsafe),
        kept=_kept(fit),
        searches=_searches(fit, boot),
        categories=_categories(fit),
        unsure=told(np.argsort(abs(fit.logits - fit.threshold), kind="stable")),
        passed=told(order[(wrong & unsafe)[order]]),
        refused=told(order[::-1][(wrong & ~unsafe)[order[::-1]]]),
        pseudo=fit.examples.pseudo,
    )


def verdict(measured: Measured, modality: Modality) -> str:
    """Say in a sentence or two what the figures are good for."""
    if measured.pseudo:
        return (
            f"{modality}s: {measured.unsafe} unsafe and {measured.safe} safe pseudo-labels, given by the encoder's "
            "own similarity to the policy; how many are wrong is not known, nor what this head misses and loses: label "
            "some (hysac label)."
        )
    found = [f"{modality}s: {measured.unsafe} unsafe and {measured.safe} safe examples"]
    if measured.auc.value >= 0.95:
        found.append("the encoder tells them apart well")
    elif measured.auc.value >= 0.85:
        found.append("the encoder tells most of them apart")
    else:
        found.append("the encoder hardly tells them apart: a trained model, or another encoder, would do better")
    found.append(
        f"{measured.missed.value:.1%} of what is unsafe is missed, {measured.lost.value:.1%} of what is safe lost"
    )
    width = max((figure.high - figure.low) / 2 for figure in (measured.missed, measured.lost))
    if width > WIDE:
        more = 3 * (measured.safe + measured.unsafe)  # an interval shrinks with the root of the number
        found.append(f"the shares are known to ±{width:.0%} only: {more} more labels would halve that")
    return "; ".join(found) + "."


def _auc(logits: Floats, unsafe: NDArray[np.bool_], boot: Bootstrap) -> Figure:
    weights = np.vstack([np.ones(len(unsafe)), boot.weights])
    areas = weighted_auc(logits[~unsafe], logits[unsafe], weights[:, ~unsafe], weights[:, unsafe])
    return boot.figure(float(areas[0]), areas[1:])


def _curve(logits: Floats, unsafe: NDArray[np.bool_], steps: int = 100) -> tuple[tuple[float, float], ...]:
    cuts = np.quantile(logits, np.linspace(0, 1, steps))
    return tuple((float((logits[unsafe] <= cut).mean()), float((logits[~unsafe] > cut).mean())) for cut in cuts)


def _kept(fit: Fit) -> float | None:
    rows = np.flatnonzero(fit.counts_safe)[:AT_MOST]
    if len(rows) <= K:
        return None
    u = fit.examples.vectors[rows].astype(np.float64)
    by_cosine = _nearest(-(u @ u.T))
    by_distance = _nearest(_cosh(u, fit.head.radii(fit.logits[rows]), u, fit.head.radii(fit.logits[rows])))
    shared = [len(set(a) & set(b)) / K for a, b in zip(by_cosine, by_distance, strict=True)]
    return float(np.mean(shared))


def _nearest(costs: Floats) -> NDArray[np.int64]:
    np.fill_diagonal(costs, np.inf)
    return np.argpartition(costs, K, axis=1)[:, :K]


def _cosh(a: Floats, a_radii: Floats, b: Floats, b_radii: Floats) -> Floats:
    """Return cosh of the distances, (n, m), of points in directions a and b."""
    x, y = placed(a, a_radii), placed(b, b_radii)
    return np.asarray(np.outer(np.cosh(a_radii), np.cosh(b_radii)) - CURVATURE * (x @ y.T))


def _searches(fit: Fit, boot: Bootstrap) -> dict[str, dict[str, Figure]]:
    """Return for each way of search how often the first hit is unsafe, and the twin where there are twins."""
    examples = fit.examples
    queries = np.flatnonzero(examples.unsafe)[:AT_MOST]
    pool = np.arange(len(examples)) if len(examples) <= 2 * AT_MOST else np.flatnonzero(_drawn(len(examples)))
    u = examples.vectors.astype(np.float64)
    radii = fit.head.radii(fit.logits)
    moved = np.where(fit.counts_safe, radii, np.minimum(radii, fit.head.safe))
    cosine = -(u[queries] @ u[pool].T)
    distance = _cosh(u[queries], moved[queries], u[pool], radii[pool])
    itself = queries[:, None] == pool[None]
    refused, bad = ~fit.counts_safe[pool], examples.unsafe[pool]
    ways = {
        "cosine": (cosine, itself),
        "filter": (cosine, itself | refused),
        "traversal": (distance, itself),
        "system": (distance, itself | refused),
        "perfect": (cosine, itself | bad),
    }
    found = dict[str, dict[str, Figure]]()
    for way, (costs, out) in ways.items():
        first = pool[np.where(out, np.inf, costs).argmin(axis=1)]
        nothing = out.all(axis=1)
        figures = {"harmful": _over(boot, queries, examples.unsafe[first] & ~nothing)}
        if examples.pairs is not None and (examples.pairs[queries] >= 0).all():
            twin = (examples.pairs[first] == examples.pairs[queries]) & ~examples.unsafe[first] & ~nothing
            figures["twin"] = _over(boot, queries, twin)
        found[way] = figures
    return found


def _over(boot: Bootstrap, rows: NDArray[np.int64], values: NDArray[np.bool_]) -> Figure:
    every, chosen = np.zeros(boot.n), np.zeros(boot.n, dtype=np.bool_)
    every[rows], chosen[rows] = values, True
    return boot.mean(every, chosen)


def _drawn(n: int) -> NDArray[np.bool_]:
    chosen = np.zeros(n, dtype=np.bool_)
    chosen[np.random.default_rng(0).choice(n, 2 * AT_MOST, replace=False)] = True
    return chosen


def _categories(fit: Fit) -> dict[str, dict[str, float]]:
    names: Sequence[str] = fit.examples.categories
    found = dict[str, dict[str, float]]()
    for name in sorted({*names} - {""}):
        rows = np.array([category == name for category in names])
        safe, unsafe = rows & ~fit.examples.unsafe, rows & fit.examples.unsafe
        if not (safe.any() and unsafe.any()):
            continue
        ones = np.ones((1, int(safe.sum()))), np.ones((1, int(unsafe.sum())))
        found[name] = {
            "safe": int(safe.sum()),
            "unsafe": int(unsafe.sum()),
            "auc": float(weighted_auc(fit.logits[safe], fit.logits[unsafe], *ones)[0]),
            "missed": float(fit.counts_safe[unsafe].mean()),
            "lost": float((~fit.counts_safe[safe]).mean()),
        }
    return found
