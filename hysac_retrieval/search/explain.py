"""The way of a query to the origin, as figure 3 of the paper (arXiv 2503.12127) shows it.

At points of equal spacing along the geodesic from the query to the origin: how unsafe it is there, and which stored
texts entail it. A text entails a point that lies in its entailment cone: the exterior angle at the text is at most the
half aperture of its cone (MERU, eq. 5 and 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict, Unpack, get_type_hints

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.collection.collection import Collection
from hysac_retrieval.collection.plans import SearchPlan
from hysac_retrieval.results import Hit, QueryInfo
from hysac_retrieval.safety.filters import checked_count
from hysac_retrieval.search.engine import SearchCore
from hysac_retrieval.search.queries import Query
from hysac_retrieval.search.steps import find
from hysac_retrieval.search.traversal import joined, profile_score
from hysac_retrieval.steps import Steps
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import MODALITIES, Modality

CANDIDATES = 100
"""Nearest texts of a point among which those that entail it are sought."""


class ExplainOptions(TypedDict, total=False):
    """Options of `explain`.

    Attributes:
        steps: Points from the query to the origin, both included, 2 to 64. Default 9.
        near: Texts and points to show at each, 1 to 20. Default 3.
        safe: Whether only safe points may be shown (the default).
        filter: The caller's own Qdrant filter or its JSON form; it can only narrow what is shown.
        threshold: As of a search.
        query_modality: What a point was encoded from.
        context: For an audit, as of a search.
    """

    steps: int
    near: int
    safe: bool
    filter: models.Filter | Mapping[str, Any] | None
    threshold: float | None
    query_modality: Modality | None
    context: Mapping[str, Any] | None


_OPTIONS = tuple(name for name in get_type_hints(ExplainOptions) if name not in ("steps", "near"))


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """A point of the way.

    Attributes:
        radius: Its distance from the origin.
        unsafe: P(unsafe | radius, modality) of the query at that radius.
        counts_unsafe: Whether that is above the model's threshold.
        beyond: Whether it lies beyond the boundary that unsafe queries are moved to.
        searched: Whether a search of the query, with the same options, searches here.
        entailing: Nearest stored texts whose entailment cone contains the point, nearest first.
        nearest: Nearest stored points of any kind, nearest first.
    """

    radius: float
    unsafe: float
    counts_unsafe: bool
    beyond: bool
    searched: bool
    entailing: tuple[Hit, ...]
    nearest: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The way of a query to the origin.

    Attributes:
        asked: The query in words.
        query: What a search does to the query.
        boundary: Radius that an unsafe query is moved to.
        cones: Whether any stored text entails the query anywhere on the way. Where none does, the collection has no
            such texts or the model has not learned entailment, and only the nearest points tell something.
        steps: The way, from the query to the origin.
    """

    asked: str
    query: QueryInfo
    boundary: float
    cones: bool
    steps: tuple[ExplainedStep, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain JSON-serialisable values."""
        return asdict(self)


def explain(core: SearchCore, query: Query, **options: Unpack[ExplainOptions]) -> Steps[Explanation]:
    """Follow a query to the origin and say what is there; `SafeSearch.explain` drives it.

    Everything is asked of the store in one request (two or three where the query is a stored point or the traversal
    adaptive), under the policy: with ``safe=True`` nothing unsafe is shown.

    Raises:
        UnsafeNotAllowedError: ``safe=False`` where the policy forbids it.
        SettingsError: An option is out of range.
    """
    rest: dict[str, Any] = dict(options)
    steps = checked_count(rest.pop("steps", 9), "steps", 64, least=2)
    near = checked_count(rest.pop("near", 3), "near", 20)
    asked = core.checked(rest, _OPTIONS, steps=steps, near=near)
    located = yield from core.locate([query], asked)
    ((searched, info),) = yield from core.settle(located, asked)
    metadata = core.collection.metadata
    curvature, profile, kind = metadata.curvature, metadata.safety, located.kinds[0]
    way = _way(located.points[0], searched, steps, curvature)
    texts = core.collection.plan(way, **{**asked.plan, "limit": CANDIDATES, "modality": "text"})
    others = core.collection.plan(way, **{**asked.plan, "limit": near})
    # Cones are computed from the stored points, so the vectors must come along.
    texts = replace(texts, query=replace(texts.query, with_vectors=True))
    answers = yield from find(core.collection.name, joined(texts, others, list(located.hidden) * 2 * len(way)))
    boundary = min(profile.of(name).boundary for name in ([kind] if kind else MODALITIES))
    nearest = core.collection.interpret(others, answers[len(way) :])
    found = []
    for row, point in enumerate(way):
        radius = float(lorentz.dist0(point, curvature))
        score = profile_score(radius, kind, profile)
        entailing = _entailing(core.collection, texts, row, answers[row])
        found.append(
            ExplainedStep(
                radius=radius,
                unsafe=score,
                counts_unsafe=score > profile.threshold,
                # What has been moved onto the boundary is not beyond it, whatever the last digit says.
                beyond=radius > boundary * (1 + 1e-9),
                searched=np.array_equal(point, searched),
                entailing=core.policy.admitted(entailing, asked.safe)[:near],
                nearest=core.policy.admitted(nearest[row], asked.safe),
            )
        )
    shown = {hit.id: hit for step in found for hit in (*step.entailing, *step.nearest)}
    core.audit("explain", asked, located, [(info, list(shown.values()))])
    return Explanation(located.asked[0], info, boundary, any(step.entailing for step in found), tuple(found))


def _way(
    point: NDArray[np.float64], searched: NDArray[np.float64], steps: int, curvature: float
) -> NDArray[np.float64]:
    """Points from a query to the origin at equal spacing, and the one that a search uses, (s, d)."""
    way: NDArray[np.float64] = lorentz.geodesic_to_origin(point, steps, curvature)
    way[0] = point
    if not (way == searched).all(axis=1).any():
        way = np.concatenate([way, searched[None, :]])
        way = way[np.argsort(-lorentz.dist0(way, curvature), kind="stable")]
    return way


def _entailing(collection: Collection, plan: SearchPlan, row: int, answer: Sequence[StoredPoint]) -> list[Hit]:
    """Of the texts near a point, those that entail it, nearest first."""
    if not answer:
        return []
    curvature = collection.metadata.curvature
    stored, _ = collection.stored_points(answer)
    angles = lorentz.exterior_angle(stored, plan.points[row][None, :], curvature)
    entails = angles <= lorentz.half_aperture(stored, curvature)
    ids = {point.id for point, inside in zip(answer, entails, strict=True) if inside}
    return [hit for hit in collection.hits(plan, row, answer) if hit.id in ids]
