"""What a collection is, apart from where it lives: its records, its searches.

Pure functions of their arguments. `Index` sends what `plan` makes to a store and hands the answer to `interpret`;
the asynchronous search does the same with another sender.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, SupportsFloat, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qdrant_client import models

from hysac_retrieval import lorentz
from hysac_retrieval.collection.metadata import CollectionMetadata, read_metadata, same_points
from hysac_retrieval.collection.plans import QueryOptions, Rerank, SearchPlan
from hysac_retrieval.errors import (
    InputError,
    InvalidVectorError,
    ModelMismatchError,
    NotACollectionError,
    PointNotFoundError,
    SettingsError,
)
from hysac_retrieval.lift import Lift, lift_from_dict
from hysac_retrieval.payload import (
    BEYOND,
    MODALITY,
    MODEL,
    PAYLOAD_KEY,
    SOURCE,
    UNSAFE,
    finite_number,
    normal_ids,
    own_payload,
    plain_payloads,
    short_numbers,
    stored_modality,
)
from hysac_retrieval.results import Hit
from hysac_retrieval.safety.filters import MAX_LIMIT, checked_count, checked_safe, effective_threshold
from hysac_retrieval.safety.filters import search_filter as _search_filter
from hysac_retrieval.stores.types import Group, GroupQuery, IndexKind, Opened, Quantization, StoredPoint, VectorQuery
from hysac_retrieval.types import Modality, PointId

PAYLOAD_INDEXES: dict[str, IndexKind] = {
    UNSAFE: "float",
    MODALITY: "keyword",
    MODEL: "keyword",
    BEYOND: "bool",
    SOURCE: "keyword",
}

OVERSAMPLING: dict[Quantization, float] = {"int8": 2.0, "turbo8": 2.0, "turbo4": 3.0, "binary": 8.0}
"""Quantized candidates compared again by their originals, per hit; chosen by benchmarks/recall.py."""

COMPARED: dict[Quantization, int] = {"binary": 1800}
"""How many candidates are compared again at least: one bit of a coordinate says little, so few hits need as many."""

_CANDIDATES = 100
"""First-stage points for a second stage, where the engine's own ranking is not the final one."""
# A few candidates more than asked for, so that the float32 scores of an engine do not decide which point is last.
_SPARE = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """A collection by name, metadata and what its engine can do.

    Attributes:
        name: Its name.
        metadata: What is kept with it.
        formula: Whether the engine can compute geodesic distances in a second stage.
    """

    name: str
    metadata: CollectionMetadata
    formula: bool = False

    @classmethod
    def read(cls, name: str, opened: Opened, expect_fingerprint: str | None = None) -> Self:
        """Understand what a store says about a collection.

        Raises:
            NotACollectionError: It lacks our vector or our metadata, or they do not fit each other.
            ModelMismatchError: Another model made it.
        """
        what = f"collection {name!r}"
        metadata = read_metadata(name, opened)
        if opened.size is None:
            attached = metadata.attached
            if attached is not None and attached.companion is not None:
                raise NotACollectionError(f"{what} has its vectors in collection {attached.companion!r}; open that one")
            raise NotACollectionError(
                f"{what} exists but has no vector named 'hysac' of ours; create one of another name, index with "
                "hysac-index, or add ours to it with hysac-index attach"
            )
        try:
            lift = lift_from_dict(metadata.lift)
        except ValueError as error:
            raise NotACollectionError(f"{what} has metadata that this version cannot read: {error}") from error
        found, needed = (opened.size, opened.metric), (lift.size, lift.metric)
        if found != needed or lift.dim != metadata.dim:
            raise NotACollectionError(
                f"{what} has vectors of length {found[0]} compared by {found[1]}, but its metadata describes "
                f"{needed[0]} and {needed[1]} for points of dimension {lift.dim} where {metadata.dim} was declared; "
                "index again"
            )
        collection = cls(name, metadata, opened.formula)
        if expect_fingerprint is not None:
            collection.expect(expect_fingerprint)
        return collection

    def expect(self, fingerprint: str) -> None:
        """Check which model the collection was indexed with.

        Raises:
            ModelMismatchError: It was another one.
        """
        if fingerprint == self.metadata.fingerprint:
            return
        if same_points(fingerprint, self.metadata.fingerprint):
            raise ModelMismatchError(
                f"collection {self.name!r} carries scores of calibration {self.metadata.fingerprint}, but this is the "
                f"same model with calibration {fingerprint}. Apply that one with `hysac rescore {self.name}`, or load "
                "the model with the calibration that the collection has"
            )
        raise ModelMismatchError(
            f"collection {self.name!r} was indexed with model {self.metadata.fingerprint}, but this is model "
            f"{fingerprint}; their points cannot be compared. Load the model it was indexed with, or index again"
        )

    @cached_property
    def lift(self) -> Lift:
        """How points are stored."""
        return lift_from_dict(self.metadata.lift)

    def records(
        self,
        ids: Sequence[Any],
        points: ArrayLike,
        modality: Modality,
        payloads: Sequence[Mapping[str, Any] | None] | None,
        marks: Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[list[PointId], NDArray[np.float32], list[dict[str, Any]]]:
        """Turn points into what is stored: ids, vectors (n, size) and payloads with radius and score.

        `marks` are further entries of our payload key, such as a source and its hash; they replace none of the others.
        """
        keys = normal_ids(ids)
        x = self.checked(points)
        given: Sequence[Mapping[str, Any] | None] = [None] * len(keys) if payloads is None else payloads
        marked: Sequence[Mapping[str, Any]] = [{}] * len(keys) if marks is None else marks
        if not len(keys) == len(x) == len(given) == len(marked):
            raise InputError(
                f"{len(keys)} ids, {len(x)} points, {len(given)} payloads and {len(marked)} marks; give as many of each"
            )
        radius = np.asarray(lorentz.dist0(x, self.metadata.curvature))
        unsafe = np.minimum(short_numbers(self.metadata.safety.unsafe(radius, modality), up=True), 1.0).tolist()
        radii = short_numbers(radius)
        beyond, extras = self.lift.beyond(x), self.lift.extras(x)
        rows = plain_payloads(given)
        for row, payload in enumerate(rows):
            ours = {
                "unsafe": unsafe[row],
                "radius": radii[row],
                "modality": modality,
                "model": self.metadata.fingerprint,
                **extras[row],
            }
            if beyond[row]:
                ours["beyond"] = True
            payload[PAYLOAD_KEY] = dict(marked[row]) | ours
        return keys, self.lift.lift(x), rows

    def stored_points(self, stored: Sequence[StoredPoint]) -> tuple[NDArray[np.float64], list[Modality | None]]:
        """Points (n, d) and modalities of records that came back with their vectors."""
        if not stored:
            return np.empty((0, self.metadata.dim)), []
        lacking = [point.id for point in stored if point.vector is None]
        if lacking:
            raise InvalidVectorError(f"point {lacking[0]} of {self.name!r} has no vector named 'hysac'; index it")
        ours = [own_payload(point.payload) for point in stored]
        vectors = np.asarray([point.vector for point in stored], dtype=np.float64)
        radii = np.array([math.nan if (r := finite_number(own.get("radius"))) is None else r for own in ours])
        return self.lift.unlift(vectors, radii), [stored_modality(own) for own in ours]

    def found_points(
        self, ids: Sequence[PointId], stored: Sequence[StoredPoint]
    ) -> tuple[NDArray[np.float64], list[Modality | None]]:
        """Points and modalities of records, in the order of `ids`.

        Raises:
            PointNotFoundError: An id is not among the records.
        """
        by_id = {point.id: point for point in stored}
        lacking = [identity for identity in ids if identity not in by_id]
        if lacking:
            raise PointNotFoundError(f"collection {self.name!r} has no point {lacking[0]!r}; give the id of one it has")
        return self.stored_points([by_id[identity] for identity in ids])

    def plan(
        self,
        points: ArrayLike,
        *,
        limit: int = 10,
        offset: int = 0,
        safe: bool = True,
        threshold: float | None = None,
        filter: models.Filter | Mapping[str, Any] | None = None,
        rules: models.Filter | None = None,
        modality: Modality | None = None,
        ef: int | None = None,
        candidates: int | None = None,
        rerank: Rerank | None = None,
        penalty: float = 0.0,
    ) -> SearchPlan:
        """Make the request of a search with points (n, d); the arguments are those of `Index.query`."""
        x = self.checked(points)
        wanted = checked_count(limit, "limit") + _checked_offset(offset)
        if wanted > MAX_LIMIT:
            raise SettingsError(f"limit and offset add up to {wanted}; a search reaches {MAX_LIMIT:,} hits at most")
        if rerank is not None and rerank not in get_args(Rerank):
            raise SettingsError(f"unknown rerank {rerank!r}; expected one of {', '.join(get_args(Rerank))}, or None")
        if isinstance(penalty, bool) or not isinstance(penalty, SupportsFloat) or not 0 <= float(penalty) < math.inf:
            raise SettingsError(f"penalty is {penalty!r}; it must be a finite number of 0 or more")
        quantization = self.metadata.quantization
        exact = rerank == "exact" or quantization is not None
        reordered = penalty > 0 or not self.lift.exact
        formulas = [self._formula(point, penalty) for point in x] if reordered or rerank == "formula" else None
        asked = wanted + (_SPARE if exact else 0)
        first = asked
        if formulas is not None:
            least = _first_stage(wanted) if reordered else asked
            first = max(asked, least if candidates is None else checked_count(candidates, "candidates"))
        elif candidates is not None:
            first = max(asked, checked_count(candidates, "candidates"))
            asked = first if exact else asked  # all of them are ranked again
        if not self.formula:
            # The engine ranks by its own score and the final ranking is ours, so all candidates come back.
            asked, formulas = first, None
        bound = effective_threshold(threshold, self.metadata.safety.threshold)
        allowed = bound if checked_safe(safe) else None
        query = VectorQuery(
            vectors=self.lift.lift_query(x),
            limit=asked,
            filter=_search_filter(
                threshold=allowed,
                fingerprint=self.metadata.fingerprint,
                modality=modality,
                user=filter,
                rules=rules,
            ),
            ef=None if ef is None else max(checked_count(ef, "ef"), first),
            formulas=formulas,
            candidates=first if formulas is not None else None,
            oversampling=None if quantization is None else _oversampling(quantization, asked),
            with_vectors=exact,
        )
        return SearchPlan(query, x, limit, offset, allowed, float(penalty), exact)

    def plan_groups(
        self, points: ArrayLike, by: str, groups: int = 10, size: int = 3, **options: Unpack[QueryOptions]
    ) -> tuple[SearchPlan, GroupQuery]:
        """Make the request of a grouped search with one point (1, d); the arguments are those of `Index.query_groups`.

        Raises:
            SettingsError: An argument is out of range.
        """
        if not isinstance(by, str) or not by:
            raise SettingsError(f"the field to group by is {by!r}; expected the name of a payload field")
        if options.keys() & {"limit", "offset"}:
            raise SettingsError("a grouped search takes groups and size instead of limit and offset")
        grouping = GroupQuery(by, checked_count(groups, "groups"), checked_count(size, "size"))
        paged: QueryOptions = {**options, "limit": min(groups * size, MAX_LIMIT)}
        return self.plan(points, **paged), grouping

    def interpret_groups(self, plan: SearchPlan, answer: Sequence[Group]) -> dict[str | int, list[Hit]]:
        """Turn a store's groups into hits by value, nearest first, as groups and within them."""
        read = {group.value: self.hits(plan, 0, group.points) for group in answer}
        found = [(value, hits) for value, hits in read.items() if hits]
        return dict(sorted(found, key=lambda pair: _rank(pair[1][0], plan.penalty)))

    def interpret(self, plan: SearchPlan, answers: Sequence[Sequence[StoredPoint]]) -> list[list[Hit]]:
        """Turn a store's answers into hits, nearest first (with the plan's penalty, if it has one)."""
        return [self.hits(plan, row, answer)[plan.offset :][: plan.limit] for row, answer in enumerate(answers)]

    def hits(self, plan: SearchPlan, row: int, answer: Sequence[StoredPoint]) -> list[Hit]:
        """Every point that a store returned for one query of a plan, in order."""
        distances = self._distances(plan, row, answer)
        hits = [self._hit(stored, distance) for stored, distance in zip(answer, distances, strict=True)]
        if plan.threshold is not None:
            # The search itself guarantees this; a hit that fails here is a defect of a store, and stays in.
            bound = plan.threshold
            leaked = [hit for hit in hits if hit.unsafe is None or hit.unsafe > bound]
            for hit in leaked:
                _log.error("store returned point %s of %r in spite of the safety filter; dropped", hit.id, self.name)
            hits = [hit for hit in hits if hit.unsafe is not None and hit.unsafe <= bound]
        return sorted(hits, key=lambda hit: (_rank(hit, plan.penalty), str(hit.id)))

    def _formula(self, point: NDArray[np.float64], penalty: float) -> models.FormulaQuery:
        """Score of the second stage: the geodesic distance with the penalty, negative, as the highest comes first."""
        distance, defaults = self.lift.formula(point), self.lift.defaults()
        if penalty > 0:
            distance = models.SumExpression(sum=[distance, models.MultExpression(mult=[penalty, UNSAFE])])
            defaults = {**defaults, UNSAFE: 1.0}
        return models.FormulaQuery(formula=models.NegExpression(neg=distance), defaults=defaults or None)

    def _distances(self, plan: SearchPlan, row: int, answer: Sequence[StoredPoint]) -> list[float]:
        if not answer:
            return []
        point = plan.points[row]
        if plan.exact:
            found, _ = self.stored_points(answer)
            return [float(d) for d in lorentz.dist(found, point[None, :], self.metadata.curvature)]
        scores = np.array([math.nan if stored.score is None else stored.score for stored in answer], dtype=np.float64)
        ours = [own_payload(stored.payload) for stored in answer]
        if plan.query.formulas is None:
            return [float(d) for d in self.lift.distances(point, scores, ours)]
        added = np.array([plan.penalty * _risk(finite_number(own.get("unsafe"))) for own in ours])
        return [max(float(d), 0.0) for d in -scores - added]

    def _hit(self, stored: StoredPoint, distance: float) -> Hit:
        ours = own_payload(stored.payload)
        unsafe = finite_number(ours.get("unsafe"))
        valid = unsafe is not None and unsafe <= 1 and ours.get("model") == self.metadata.fingerprint
        return Hit(
            id=stored.id,
            distance=distance,
            unsafe=unsafe if valid else None,
            radius=finite_number(ours.get("radius")),
            modality=stored_modality(ours),
            payload={key: value for key, value in stored.payload.items() if key != PAYLOAD_KEY},
        )

    def checked(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points as a float64 array (n, d).

        Raises:
            InvalidVectorError: They are not numbers, not of that shape, or not finite; the message names the row.
        """
        try:
            x = np.asarray(points)
        except (ValueError, TypeError, RuntimeError) as error:
            raise InvalidVectorError(f"points cannot be read as an array of shape (n, d): {error}") from error
        dim = self.metadata.dim
        if x.dtype.kind not in "fiu" and x.size:
            raise InvalidVectorError(f"points have dtype {x.dtype}; expected real numbers of shape (n, {dim})")
        if x.ndim == 1 and not x.size:
            x = x.reshape(0, dim)
        if x.ndim != 2 or x.shape[1] != dim:
            raise InvalidVectorError(f"points have shape {x.shape}; this collection takes (n, {dim})")
        x = x.astype(np.float64)
        # Beyond 1e18 the stored float32 vector would overflow; no encoder comes near.
        bad = np.flatnonzero(~(np.abs(x) < 1e18).all(axis=1))
        if bad.size:
            raise InvalidVectorError(f"point in row {bad[0]} holds NaN, infinity or a number beyond 1e18")
        return x


def _oversampling(quantization: Quantization, asked: int) -> float:
    return max(OVERSAMPLING[quantization], COMPARED.get(quantization, 0) / asked)


def _first_stage(wanted: int) -> int:
    """First-stage points for so many hits, in doublings: the pages of a query mostly come from the same ones."""
    return _CANDIDATES << max(0, math.ceil(math.log2(2 * wanted / _CANDIDATES)))


def _rank(hit: Hit, penalty: float) -> float:
    """What hits are ordered by; a distance that could not be computed comes last."""
    value = hit.distance + penalty * _risk(hit.unsafe) if penalty > 0 else hit.distance
    return math.inf if math.isnan(value) else value


def _risk(unsafe: float | None) -> float:
    """A stored score, or the worst there is for a point without one."""
    return 1.0 if unsafe is None else unsafe


def _checked_offset(offset: int) -> int:
    return 0 if offset == 0 and not isinstance(offset, bool) else checked_count(offset, "offset")
