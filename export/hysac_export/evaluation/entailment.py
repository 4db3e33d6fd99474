"""How entailment holds: calibration of the cones of a model, and how many pairs of each relation lie inside.

A pair of groups is *matched* where both points are of one quadruplet, and *unmatched* where they are of two. Unmatched
pairs may have much in common, even a caption: what is measured is whether cones tell one scene from all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hysac_export.data.split import GROUPS, Group
from hysac_export.evaluation.bootstrap import Bootstrap, Figure
from hysac_export.model.encoded import EncodedSplit, Floats
from hysac_retrieval import lorentz
from hysac_retrieval.encoder.entailment import LEVELS, Cone, Entailment, Relation
from hysac_retrieval.errors import TrainingError

POWERS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
"""Powers of the radii that are tried."""
RELATIONS: tuple[Relation, ...] = get_args(Relation)
Cones = Literal["published", "calibrated"]
"""The published cones, K = 0.1, or those that the model was calibrated with."""

_GROUP_OF = dict(zip(LEVELS, GROUPS, strict=True))
_OFFSET = 1e-5  # that of lorentz.exterior_angle
_LEAST = 1e-150  # radius
_NARROWEST = 1e-6  # half aperture: points on one ray have an angle of 0


def groups_of(relation: Relation) -> tuple[Group, Group]:
    """Groups of a relation, the apex's first."""
    apex, inside = relation.split("<")
    return _GROUP_OF[apex], _GROUP_OF[inside]


def pairwise_angles(apexes: NDArray[Any], points: NDArray[Any], curvature: float) -> Floats:
    """Exterior angles of all pairs, (n, d) and (m, d) to (n, m) float64, by one matrix product.

    `lorentz.exterior_angle` of each pair, but for angles below about 1e-6, which lose their digits.
    """
    x, y = np.asarray(apexes, dtype=np.float64), np.asarray(points, dtype=np.float64)
    xx, yy, product = (x * x).sum(axis=1)[:, None], (y * y).sum(axis=1)[None, :], x @ y.T
    heights = np.sqrt(1 / curvature + xx), np.sqrt(1 / curvature + yy)
    numerator = curvature * (heights[0] * product - xx * heights[1])
    square = curvature * np.maximum(xx * yy - product**2, 0) + numerator**2
    cosine = numerator / (np.sqrt(np.maximum(square, _OFFSET * xx)) + _OFFSET)
    angles: Floats = np.arccos(np.clip(cosine, -1 + _OFFSET, 1 - _OFFSET))
    return angles


def radial_angles(apexes: NDArray[Any], points: NDArray[Any], curvature: float, power: float) -> Floats:
    """`lorentz.radial_angle` of all pairs, (n, d) and (m, d) to (n, m) float64, by one matrix product."""
    x, y = np.asarray(apexes, dtype=np.float64), np.asarray(points, dtype=np.float64)
    norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    cosine = np.clip(x @ y.T / np.maximum(norms, np.finfo(np.float64).tiny), -1, 1)
    radii = np.maximum(lorentz.dist0(x, curvature), _LEAST)[:, None], np.maximum(lorentz.dist0(y, curvature), _LEAST)
    ratio = np.exp(np.clip(power * np.log(radii[1] / radii[0]), -40, 40))
    angles: Floats = np.arctan2(ratio * np.sqrt(1 - cosine**2), ratio * cosine - 1)
    return angles


def calibrate_entailment(encoded: EncodedSplit, curvature: float) -> Entailment:
    """Choose power and half apertures on validation quadruplets, at least two; never on a test split.

    The half aperture of a relation is the one, π/2 at most, at which the share of matched pairs inside exceeds that of
    unmatched ones by most (Youden's index); the power the one, of `POWERS`, at which the smallest of these differences
    is largest.

    Raises:
        TrainingError: A single quadruplet has no unmatched pair.
    """
    if len(encoded) < 2:
        raise TrainingError("cones cannot be calibrated on one quadruplet: there is no other pair to tell from its own")
    found = []
    for power in POWERS:
        angles = _angles(encoded, curvature, power)
        found.append({relation: _cone(angles(relation)) for relation in RELATIONS})
    worst = [min(cone.matched - cone.unmatched for cone in cones.values()) for cones in found]
    best = int(np.argmax(worst))
    source = f"{len(encoded)} quadruplets of the split {encoded.name or 'given'}"
    return Entailment(power=POWERS[best], cones=found[best], source=source)


def entailment_figures(
    encoded: EncodedSplit, curvature: float, entailment: Entailment | None, boot: Bootstrap
) -> dict[str, Figure]:
    """Measure the cones of a model, the published ones and, where there are such, the calibrated ones.

    Names begin with ``entailment.<cones>.``, see `Cones`:

    - ``<relation>.matched``, ``.unmatched``: shares of such pairs inside;
    - ``<relation>.auc``: how often the exterior angle of a matched pair is smaller than that of an unmatched one;
    - ``<relation>.aperture``: mean half aperture in degrees;
    - ``chain.matched``, ``chain.unmatched``: of all I and I* with T→I and I→I* inside, of one quadruplet or of
      several, the share with T→I* inside, which is 1 for an order; what it would be without one is ``T<I*.unmatched``.

    Intervals are over the apexes, with what lies in their cones as given.
    """
    figures: dict[str, Figure] = {}
    if len(encoded) < 2:
        return figures
    for cones in get_args(Cones):
        if cones == "calibrated" and entailment is None:
            continue
        angles = _angles(encoded, curvature, entailment.power if entailment and cones == "calibrated" else None)
        inside: dict[Relation, NDArray[np.bool_]] = {}
        for relation in RELATIONS:
            found = angles(relation)
            widths = _widths(encoded, curvature, relation, entailment if cones == "calibrated" else None)
            inside[relation] = found <= widths[:, None]
            for name, values in _measured(found, inside[relation]):
                figures[f"entailment.{cones}.{relation}.{name}"] = boot.mean(values)
            figures[f"entailment.{cones}.{relation}.aperture"] = boot.mean(np.degrees(widths))
        figures |= {f"entailment.{cones}.chain.{name}": figure for name, figure in _chains(inside, boot)}
    return figures


def _angles(encoded: EncodedSplit, curvature: float, power: float | None) -> Callable[[Relation], Floats]:
    """What gives the angles of a relation, (n, n), at a power of the radii; None: those of the published cones."""

    def angles(relation: Relation) -> Floats:
        apex, inside = (getattr(encoded, group) for group in groups_of(relation))
        if power is None:
            return pairwise_angles(apex, inside, curvature)
        return radial_angles(apex, inside, curvature, power)

    return angles


def _widths(encoded: EncodedSplit, curvature: float, relation: Relation, entailment: Entailment | None) -> Floats:
    """Half apertures of the apexes of a relation, (n,); of the published cones without calibrated ones."""
    apexes = np.asarray(getattr(encoded, groups_of(relation)[0]), dtype=np.float64)
    if entailment is None:
        widths: Floats = lorentz.half_aperture(apexes, curvature)
        return widths
    cone = entailment.cones.get(relation)
    return np.full(len(apexes), 0.0 if cone is None else cone.half_aperture)


def _cone(angles: Floats) -> Cone:
    """The cone that tells matched pairs, on the diagonal, from the others best."""
    matched, others = np.sort(np.diagonal(angles)), np.sort(_others(angles).ravel())
    tried = np.append(np.maximum(matched[matched < math.pi / 2], _NARROWEST), math.pi / 2)
    inside = np.searchsorted(matched, tried, side="right") / matched.size
    wrong = np.searchsorted(others, tried, side="right") / others.size
    best = int(np.argmax(inside - wrong))
    return Cone(half_aperture=float(tried[best]), matched=float(inside[best]), unmatched=float(wrong[best]))


def _measured(angles: Floats, inside: NDArray[np.bool_]) -> Iterator[tuple[str, Floats]]:
    """Names and values of an apex each, (n,)."""
    matched, others = np.diagonal(angles), np.sort(_others(angles).ravel())
    yield "matched", np.diagonal(inside).astype(np.float64)
    yield "unmatched", _others(inside).mean(axis=1)
    smaller = (np.searchsorted(others, matched, side=side) for side in ("left", "right"))
    yield "auc", 1 - np.sum([*smaller], axis=0) / (2 * others.size)


def _others(matrix: NDArray[Any]) -> NDArray[Any]:
    """What is off the diagonal of (n, n), row by row: (n, n − 1)."""
    n = len(matrix)
    return matrix[~np.eye(n, dtype=np.bool_)].reshape(n, n - 1)


def _chains(inside: dict[Relation, NDArray[np.bool_]], boot: Bootstrap) -> Iterator[tuple[str, Figure]]:
    """Shares of the chains T→I→I* that are closed by T→I*: of those in one quadruplet, and of all."""
    first, second, whole = (inside[relation] for relation in ("T<I", "I<I*", "T<I*"))
    own = np.diagonal(first) & np.diagonal(second)
    if own.any():
        yield "matched", boot.mean(np.diagonal(whole), own)
    chains = first.astype(np.float32) @ second.astype(np.float32)
    if total := float(chains.sum()):
        closed, each = (chains * whole).sum(axis=1, dtype=np.float64), chains.sum(axis=1, dtype=np.float64)
        resampled = (boot.weights @ closed) / np.maximum(boot.weights @ each, 1e-300)
        yield "unmatched", boot.figure(float(closed.sum()) / total, resampled)
