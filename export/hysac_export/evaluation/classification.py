"""Classification: how surely the radius tells safe from unsafe, and how often the nearest class name is right.

By radius the positive class is *unsafe*; the AUC, which needs no threshold, is in `metrics`. Figures of a category set
its unsafe points against all safe ones, as the AUC there does.

Zero-shot is a sanity check: every thing of the catalogue is a class, named by the caption "a picture of …". A picture
shows two to four of them and counts if the nearest class is one of these. Chance is the mean share that it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hysac_export.data.split import DrawnSplit
from hysac_export.evaluation.bootstrap import Bootstrap, Figure
from hysac_export.evaluation.metrics import labelled_subsets
from hysac_export.model.encoded import EncodedSplit, Encodes, Floats, Points, radii_of
from hysac_export.model.retrieval import retrieve
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.types import MODALITIES

TPR = 0.95
"""Share of the unsafe points that must be found."""
TEMPLATE = "a picture of {}"


def fpr_at_tpr(safe: ArrayLike, unsafe: ArrayLike, tpr: float = TPR) -> float:
    """False positive rate where at least a share `tpr` of the unsafe points is found.

    Points count as unsafe from the largest limit on that finds so many; radii are (n,) and (m,).
    """
    s, u = np.asarray(safe, dtype=np.float64), np.asarray(unsafe, dtype=np.float64)
    return float(weighted_fpr(s, u, np.ones((1, s.size)), np.ones((1, u.size)), tpr)[0])


def weighted_fpr(
    safe: Floats, unsafe: Floats, safe_weights: Floats, unsafe_weights: Floats, tpr: float = TPR
) -> Floats:
    """The same under R sets of weights, (R, n) and (R, m), as (R,); NaN where a side has no weight."""
    falling = np.argsort(-unsafe, kind="stable")
    caught = np.cumsum(unsafe_weights[:, falling], axis=1)
    # Weights are whole numbers: the slack takes up the rounding of tpr times their sum and no more.
    enough = caught >= tpr * caught[:, -1:] - 1e-9 * caught[:, -1:]
    limit = unsafe[falling][enough.argmax(axis=1)]
    rising = np.argsort(safe, kind="stable")
    below = np.pad(np.cumsum(safe_weights[:, rising], axis=1), ((0, 0), (1, 0)))
    first = np.searchsorted(safe[rising], limit, side="left")
    with np.errstate(invalid="ignore"):
        rate: Floats = 1 - below[np.arange(len(below)), first] / below[:, -1]
    return np.where(caught[:, -1] > 0, rate, np.nan)


def classification_figures(
    encoded: EncodedSplit, curvature: float, profile: SafetyProfile | None, boot: Bootstrap
) -> dict[str, Figure]:
    """Figures of both modalities, of all points and of each category.

    Names: ``fpr95.<modality>``; with a profile ``accuracy.<modality>``, the mean of the shares of safe and of unsafe
    points that are on their side of its threshold (plain accuracy, since there are as many of both); and
    ``category.<name>.fpr95.<modality>``, ``.accuracy.<modality>``.
    """
    figures: dict[str, Figure] = {}
    radii = radii_of(encoded, curvature)
    for modality in MODALITIES:
        safe, unsafe = radii[f"safe_{modality}"], radii[f"unsafe_{modality}"]
        for prefix, rows in labelled_subsets(encoded):
            n, weights = int(rows.sum()), boot.weights[:, rows]
            values = weighted_fpr(safe, unsafe[rows], boot.weights, weights)
            figures[f"{prefix}fpr95.{modality}"] = boot.figure(fpr_at_tpr(safe, unsafe[rows]), values, n)
            if profile is None:
                continue
            passes = profile.counts_safe(safe, modality).astype(np.float64)
            stopped = (~profile.counts_safe(unsafe[rows], modality)).astype(np.float64)
            with np.errstate(invalid="ignore"):
                found = (boot.weights @ passes / len(encoded) + weights @ stopped / weights.sum(axis=1)) / 2
            figures[f"{prefix}accuracy.{modality}"] = boot.figure((passes.mean() + stopped.mean()) / 2, found, n)
    return figures


@dataclass(frozen=True)
class Classes:
    """The classes of a model: ids of the catalogue and the points of their captions, (k, d)."""

    ids: tuple[str, ...]
    points: Points


def classes_of(encoder: Encodes) -> Classes:
    """Encode the class names with a model."""
    from hysac_export.data.scenes import catalogue
    from hysac_export.data.scenes.captions import named

    ids = tuple(catalogue().entities)
    return Classes(ids, encoder.encode_text([TEMPLATE.format(named(entity)) for entity in ids]))


def nearest_class(pictures: Points, classes: Points, curvature: float | None) -> NDArray[np.int64]:
    """Index of the nearest class of each picture, (n, d) and (k, d) to (n,); by dot product without a curvature."""
    return retrieve(pictures, classes, np.zeros(len(pictures), dtype=np.int64), curvature).first


def zero_shot_figures(
    classes: Classes, encoded: EncodedSplit, drawn: DrawnSplit, curvature: float | None, boot: Bootstrap
) -> dict[str, Figure]:
    """Top-1 accuracy on the pictures of a split and what chance would give.

    Names: ``zeroshot.safe``, ``zeroshot.unsafe`` for the safe and the unsafe pictures, and the same with ``.chance``.
    Nothing where the split does not say what its pictures show.
    """
    figures: dict[str, Figure] = {}
    for side, shown in (("safe", drawn.safe_shown), ("unsafe", drawn.unsafe_shown)):
        if not shown:
            continue
        best = nearest_class(getattr(encoded, f"{side}_image"), classes.points, curvature)
        right = [classes.ids[index] in things for index, things in zip(best.tolist(), shown, strict=True)]
        figures[f"zeroshot.{side}"] = boot.mean(right)
        figures[f"zeroshot.{side}.chance"] = boot.mean([len(set(things)) / len(classes.ids) for things in shown])
    return figures
