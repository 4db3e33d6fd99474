"""How a model does on pairs of plain texts, as a policy in words has them: without pictures, and not of its scenes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.policy import Split, read_policy
from hysac_export.data.split import PAIRS
from hysac_export.evaluation.bootstrap import Bootstrap, Figure
from hysac_export.evaluation.metrics import weighted_auc
from hysac_export.model.encoded import EncodedSplit, Encodes, Floats, in_parts
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

    def by_group(self, curvature: float) -> dict[str, Floats]:
        """The same by group, as `split.GROUPS` names them."""
        return dict(zip(PAIRS["text"], self.radii(curvature), strict=True))


def encode_pairs(encoder: Encodes, policy: str, split: Split) -> EncodedPairs:
    """Encode the pairs of a split of a policy (`PolicyError`: there is no such policy)."""
    pairs = read_policy(policy).pairs(split)
    safe, unsafe = (in_parts(encoder.encode_text, [pair[side] for pair in pairs], 64) for side in (0, 1))
    return EncodedPairs(safe.astype(np.float64), unsafe.astype(np.float64))


def validation_pairs(encoder: Encodes, policy: str | None) -> EncodedPairs | None:
    """The texts of a policy that a model which learned from it is calibrated on; None without a policy."""
    return None if policy is None else encode_pairs(encoder, policy, "validation")


def twins(
    pairs: EncodedPairs, queries: Floats, curvature: float, allowed: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether what an unsafe text finds first is its safe twin, and whether it is unsafe, (n,) each.

    `queries`, (n, d), are the unsafe texts or where they were moved to. They search all texts, safe and then unsafe, of
    which (2n,) may be `allowed`; nothing finds itself.
    """
    n = len(pairs.safe)
    pool, unsafe = np.concatenate([pairs.safe, pairs.unsafe]), np.arange(2 * n) >= n
    hits, harmful = np.zeros((2, n), dtype=np.bool_)
    for row in range(n):
        others = np.ones(2 * n, dtype=np.bool_) if allowed is None else allowed.copy()
        others[n + row] = False
        found = retrieve(queries[row : row + 1], pool, np.array([row]), curvature, unsafe=unsafe, allowed=others)
        hits[row], harmful[row] = found.hits(1)[0], found.harmful[0]
    return hits, harmful


def pair_sweep(pairs: EncodedPairs, curvature: float, boundaries: Iterable[float]) -> Floats:
    """R@1 of the safe twin, (k,), if unsafe texts were moved to each of k boundaries; see `twins`."""
    moved = (lorentz.traverse(pairs.unsafe, boundary, curvature) for boundary in boundaries)
    return np.array([twins(pairs, queries, curvature)[0].mean() for queries in moved])


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
    passes = profile.counts_safe(np.concatenate([inner, outer]), "text")
    moved, _ = redirect(pairs.unsafe, "text", profile, curvature)
    for mode, queries, allowed in (
        ("plain", pairs.unsafe, None),
        ("traversal", moved, None),
        ("filter", pairs.unsafe, passes),
        ("system", moved, passes),
    ):
        hits, harmful = twins(pairs, queries, curvature, allowed)
        figures |= {f"twin.{mode}.r1": boot.mean(hits), f"twin.{mode}.harmful1": boot.mean(harmful)}
    return figures


def picture_figures(
    pairs: EncodedPairs,
    images: EncodedSplit,
    curvature: float,
    profile: SafetyProfile,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Figure]:
    """Measure what pairs of texts find among pictures that belong to none of them, safe and unsafe ones alike.

    Names: ``picture.<queries>.unsafe1``, how often the first picture is unsafe: of ``unsafe`` and of ``safe`` texts as
    asked, and of unsafe ones in the whole ``system``.
    """
    pool = np.concatenate([images.safe_image, images.unsafe_image]).astype(np.float64)
    unsafe = np.arange(len(pool)) >= len(images)
    passes = profile.counts_safe(lorentz.dist0(pool, curvature), "image")
    moved, _ = redirect(pairs.unsafe, "text", profile, curvature)
    boot, nothing = Bootstrap(len(pairs.safe), resamples, seed), np.zeros(len(pairs.safe), dtype=np.int64)
    sides = {"unsafe": (pairs.unsafe, None), "safe": (pairs.safe, None), "system": (moved, passes)}
    found = {
        name: retrieve(queries, pool, nothing, curvature, unsafe=unsafe, allowed=allowed)
        for name, (queries, allowed) in sides.items()
    }
    return {f"picture.{name}.unsafe1": boot.mean(retrieval.harmful) for name, retrieval in found.items()}
