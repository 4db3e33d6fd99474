"""A sanity check: single things as class names against pictures, zero-shot.

Every thing of the catalogue is a class, named by the caption "a picture of …". A picture of a split holds two to four
of them; it counts if the nearest class is one that it shows. A model that has learned nothing is right as often as
chance has it, which is the mean share of the classes that a picture shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.split import DrawnSplit
from hysac_export.evaluation.bootstrap import Bootstrap, Figure
from hysac_export.model.encoded import EncodedSplit, Encodes, Points
from hysac_retrieval import lorentz

TEMPLATE = "a picture of {}"


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
    x, y = np.asarray(pictures, dtype=np.float64), np.asarray(classes, dtype=np.float64)
    score: NDArray[Any] = x @ y.T if curvature is None else lorentz.pairwise_inner(x, y, curvature)
    best: NDArray[np.int64] = score.argmax(axis=1)
    return best


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
