"""How a model does on pairs of plain texts, as a policy in words has them: without pictures, and not of its scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hysac_export.data.policy import Split, read_policy
from hysac_export.data.split import PAIRS
from hysac_export.evaluation.bootstrap import Bootstrap, Figure
from hysac_export.evaluation.metrics import weighted_auc
from hysac_export.model.encoded import Encodes, Floats, in_parts
from hysac_export.model.retrieval import retrieve
from hysac_retrieval import lorentz
from hysac_retrieval.safety.profile import SafetyProfile
from hysac_retrieval.safety.redirect import redirect


@dataclass(frozen=True)
class EncodedPairs:
    """Points of n pairs of texts, (n, d) each, float64; row i of the unsafe ones belongs to row i of the safe ones."""

    safe: Floats
    unsafe: Floats

    def radii(self, curvature: float) -> tuple[Floats, Floats]:
        """Distances from the origin of safe and unsafe texts, (n,) each."""
        return lorentz.dist0(self.safe, curvature), lorentz.dist0(self.unsafe, curvature)


def encode_pairs(encoder: Encodes, policy: str, split: Split) -> EncodedPairs:
    """Encode the pairs of a split of a policy (`PolicyError`: there is no such policy)."""
    pairs = read_policy(policy).pairs(split)
    safe, unsafe = (in_parts(encoder.encode_text, [pair[side] for pair in pairs], 64) for side in (0, 1))
    return EncodedPairs(safe.astype(np.float64), unsafe.astype(np.float64))


def validation_radii(encoder: Encodes, policy: str | None, curvature: float) -> dict[str, Floats]:
    """Radii of the texts of a policy that a model which learned from it is calibrated on, by group; none without."""
    if policy is None:
        return {}
    return dict(zip(PAIRS["text"], encode_pairs(encoder, policy, "validation").radii(curvature), strict=True))


def pair_figures(
    pairs: EncodedPairs, curvature: float, profile: SafetyProfile, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Figure]:
    """Measure a model on pairs of texts.

    Names: ``auc`` of the radii; ``lost`` and ``missed``, the shares of safe texts that count as unsafe and the other
    way about; ``twin.<mode>.r1`` and ``.harmful1``, how often the first of all other texts that an unsafe one finds is
    its safe twin, and how often it is unsafe, in the modes plain, traversal, filter and system of `metrics.Mode`.
    """
    n = len(pairs.safe)
    boot = Bootstrap(n, resamples, seed)
    inner, outer = pairs.radii(curvature)
    auc = weighted_auc(inner, outer, np.ones((1, n)), np.ones((1, n)))[0]
    figures = {
        "auc": boot.figure(float(auc), weighted_auc(inner, outer, boot.weights, boot.weights), n),
        "lost": boot.mean(~profile.counts_safe(inner, "text")),
        "missed": boot.mean(profile.counts_safe(outer, "text")),
    }
    pool, unsafe = np.concatenate([pairs.safe, pairs.unsafe]), np.arange(2 * n) >= n
    passes = profile.counts_safe(np.concatenate([inner, outer]), "text")
    moved, _ = redirect(pairs.unsafe, "text", profile, curvature)
    for mode, queries, allowed in (
        ("plain", pairs.unsafe, None),
        ("traversal", moved, None),
        ("filter", pairs.unsafe, passes),
        ("system", moved, passes),
    ):
        hits, harmful = np.zeros(n), np.zeros(n)
        for row in range(n):  # nothing finds itself
            others = np.ones(2 * n, dtype=np.bool_) if allowed is None else allowed.copy()
            others[n + row] = False
            found = retrieve(queries[row : row + 1], pool, np.array([row]), curvature, unsafe=unsafe, allowed=others)
            hits[row], harmful[row] = found.hits(1)[0], found.harmful[0]
        figures |= {f"twin.{mode}.r1": boot.mean(hits), f"twin.{mode}.harmful1": boot.mean(harmful)}
    return figures
