"""The path of a query to the origin, as figure 3 of the paper (arXiv 2503.12127) shows it.

At points of equal spacing along the geodesic from the query to the origin: how unsafe it is there, and which stored
texts entail it. A text entails a point that lies in its entailment cone: the exterior angle at the text is at most the
half aperture of its cone. Cones are those that the model was calibrated with, see `encoder.entailment`, and every claim
comes with how selective they are; a model without such has the published ones (MERU, eq. 5 and 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hysac_retrieval import lorentz
from hysac_retrieval.collection.answers import answers_to
from hysac_retrieval.collection.interpret import hits_of
from hysac_retrieval.collection.plan import SearchPlan, plan_search
from hysac_retrieval.collection.records import stored_points
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.encoder.entailment import Entailment, Relation
from hysac_retrieval.results import Hit, QueryInfo
from hysac_retrieval.safety.redirect import radius_of
from hysac_retrieval.search.audit import audit, describe
from hysac_retrieval.search.engine import Prepared, SearchEngine
from hysac_retrieval.search.points import Point
from hysac_retrieval.search.queries import EntailingEncoder, Query
from hysac_retrieval.search.request import ExplainRequest
from hysac_retrieval.steps import Steps
from hysac_retrieval.stores.types import StoredPoint
from hysac_retrieval.types import MODALITIES, Modality, PointId

CANDIDATES = 100
"""Nearest texts of a point among which those that entail it are sought."""


@dataclass(frozen=True, slots=True)
class Selectivity:
    """How much it says that something lies in the cones of a relation.

    Attributes:
        matched: Share of matched pairs, such as a caption and its picture, that do, of those calibrated on.
        unmatched: Share of all other pairs of the same groups that do.
    """

    matched: float
    unmatched: float


@dataclass(frozen=True, slots=True)
class ExplainedStep:
    """A point of the path.

    Attributes:
        radius: Its distance from the origin.
        unsafe: P(unsafe | radius, modality) of the query at that radius.
        counts_unsafe: Whether that is above the model's threshold for its modality.
        beyond: Whether it lies beyond the boundary that unsafe queries are moved to.
        searched: Whether a search of the query, with the same options, searches here.
        entailing: Nearest stored texts whose entailment cone contains the point, nearest first.
        relations: By which relation each of these does, a key of `Explanation.selectivity`; None by the published cone.
        nearest: Nearest stored points of any kind, nearest first.
    """

    radius: float
    unsafe: float
    counts_unsafe: bool
    beyond: bool
    searched: bool
    entailing: tuple[Hit, ...]
    relations: tuple[Relation | None, ...]
    nearest: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The path of a query to the origin.

    Attributes:
        asked: The query in words.
        query: What a search does to the query.
        boundary: Radius that an unsafe query is moved to.
        cones: Whether any stored text entails the query anywhere on the path. Where none does, the collection has no
            such texts or the model has not learned entailment, and only the nearest points tell something.
        selectivity: Of the relations by which texts entail the query somewhere, T safe and T* unsafe texts, I and I*
            images; empty where the model's cones were not calibrated.
        steps: The path, from the query to the origin.
    """

    asked: str
    query: QueryInfo
    boundary: float
    cones: bool
    selectivity: dict[Relation, Selectivity]
    steps: tuple[ExplainedStep, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain JSON-serialisable values."""
        return asdict(self)


def explain(engine: SearchEngine, query: Query, options: Mapping[str, Any]) -> Steps[Explanation]:
    """Follow a query to the origin and say what is there; `SafeSearch.explain` drives it.

    The store is asked twice, for texts and for whatever is near (and once or twice before, where the query is a stored
    point or the traversal adaptive), under the policy: with ``safe=True`` nothing unsafe is shown.

    Raises:
        UnsafeNotAllowedError: ``safe=False`` where the policy forbids it.
        SettingsError: An option is out of range.
    """
    prepared = engine.prepare(ExplainRequest, options)
    request, collection = prepared.request, engine.collection
    (settled,) = yield from engine.settled([query], prepared)
    metadata, info = collection.metadata, settled.info
    path = _path_to_origin(settled.asked, settled.point, request.steps, metadata.curvature)
    texts = _plan(engine, prepared, limit=CANDIDATES, modality="text")
    others = _plan(engine, prepared, limit=request.near)
    hidden = [settled.hidden] * len(path)
    near_texts = yield from answers_to(texts, path, hidden)
    near_all = yield from answers_to(others, path, hidden)
    boundary = min(metadata.safety.of(kind).boundary for kind in ([info.modality] if info.modality else MODALITIES))
    entailment = engine.encoder.entailment if isinstance(engine.encoder, EntailingEncoder) else None
    steps = []
    for point, some, every in zip(path, near_texts, near_all, strict=True):
        radius = radius_of(point, metadata.curvature)
        score = metadata.safety.score(radius, info.modality)
        relations = _relations(texts, point, some, entailment)
        inside = [hit for hit in hits_of(texts, point, some) if hit.id in relations]
        entailing = engine.policy.admitted(inside, request.safe)[: request.near]
        nearest = engine.policy.admitted(hits_of(others, point, every)[: request.near], request.safe)
        steps.append(
            ExplainedStep(
                radius=radius,
                unsafe=score,
                counts_unsafe=not metadata.safety.query_counts_safe(radius, info.modality),
                # What has been moved onto the boundary is not beyond it, whatever the last digit says.
                beyond=radius > boundary * (1 + 1e-9),
                searched=np.array_equal(point, settled.point),
                entailing=entailing,
                relations=tuple(relations[hit.id] for hit in entailing),
                nearest=nearest,
            )
        )
    shown = {hit.id: hit for step in steps for hit in (*step.entailing, *step.nearest)}
    audit(engine.policy, collection.name, "explain", request, [query], [(info, list(shown.values()))])
    cones = any(step.entailing for step in steps)
    return Explanation(describe(query), info, boundary, cones, _selectivity(steps, entailment), tuple(steps))


def _plan(
    engine: SearchEngine, prepared: Prepared[ExplainRequest], limit: int, modality: Modality | None = None
) -> SearchPlan:
    """How neighbours of a point are searched; cones are computed from stored points, so their vectors come along."""
    request = prepared.request
    shown = PageRequest(
        safe=request.safe,
        threshold=prepared.bound,
        filter=request.filter,
        limit=limit,
        modality=modality or request.modality,
        shard_key_selector=request.shard_key_selector,
    )
    rules = engine.policy.rules_of(request.safe)
    return plan_search(engine.collection, shown, rules=rules, with_vectors=modality == "text")


def _path_to_origin(asked: Point, searched: Point, steps: int, curvature: float) -> Point:
    """Points from a query to the origin at equal spacing, and the one that a search uses, (s, d)."""
    path: Point = lorentz.geodesic_to_origin(asked, steps, curvature)
    path[0] = asked
    if not (path == searched).all(axis=1).any():
        path = np.concatenate([path, searched[None, :]])
        path = path[np.argsort(-lorentz.dist0(path, curvature), kind="stable")]
    return path


def _relations(
    plan: SearchPlan, point: Point, answer: Sequence[StoredPoint], entailment: Entailment | None
) -> dict[PointId, Relation | None]:
    """Of the texts near a point, those whose cone contains it, and by which relation; None by the published cone."""
    if not answer:
        return {}
    metadata = plan.collection.metadata
    stored, _ = stored_points(plan.collection, answer)
    if entailment is not None:
        named = entailment.relations(stored, point, metadata.curvature, metadata.safety)
        return {text.id: relation for text, relation in zip(answer, named, strict=True) if relation is not None}
    angles = lorentz.exterior_angle(stored, point[None, :], metadata.curvature)
    inside = angles <= lorentz.half_aperture(stored, metadata.curvature)
    return {text.id: None for text, entails in zip(answer, inside, strict=True) if entails}


def _selectivity(steps: Sequence[ExplainedStep], entailment: Entailment | None) -> dict[Relation, Selectivity]:
    """Of the relations that the steps name, in the order of `Entailment.cones`."""
    named = {relation for step in steps for relation in step.relations}
    cones = entailment.cones.items() if entailment is not None else ()
    return {relation: Selectivity(cone.matched, cone.unmatched) for relation, cone in cones if relation in named}
