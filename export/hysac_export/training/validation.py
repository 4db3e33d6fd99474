"""The best step of a run: recall on the validation set, now and then, while training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from hysac_export.model.encoded import EncodedSplit
from hysac_export.model.retrieval import retrieve

_POOLS = (("safe_text", "safe_image"), ("safe_text", "unsafe_image"), ("unsafe_text", "safe_image"))


def recall_sum(encoded: EncodedSplit, curvature: float | None) -> float:
    """The published code's criterion for the best step: six R@1 added up, in [0, 6].

    Safe texts with safe images, safe texts with their unsafe twins' images, and unsafe texts with safe images, in both
    directions; every pool is of the one kind of the other modality. Unsafe texts with unsafe images are left out, as
    published. Without a curvature, points rank by dot product.
    """
    targets = np.arange(len(encoded))
    total = 0.0
    for texts, images in _POOLS:
        x, y = getattr(encoded, texts), getattr(encoded, images)
        for queries, pool in ((x, y), (y, x)):
            total += float(retrieve(queries, pool, targets, curvature).hits(1).mean())
    return total


@dataclass(frozen=True)
class Best:
    """The best validation so far: its value, the steps done then, and the number of validations since."""

    recall_sum: float = -1.0
    step: int = 0
    since: int = 0

    def after(self, recall_sum: float, step: int) -> Self:
        """With one more validation; an equal one is no better."""
        if recall_sum > self.recall_sum:
            return replace(self, recall_sum=recall_sum, step=step, since=0)
        return replace(self, since=self.since + 1)

    def stalled(self, patience: int | None) -> bool:
        """Whether as many validations as patience allows have brought no new best."""
        return patience is not None and self.since >= patience
