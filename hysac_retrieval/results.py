"""Results of searches: frozen values, no behaviour beyond turning into JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hysac_retrieval.types import Modality, PointId, Thresholds


@dataclass(frozen=True, slots=True)
class Hit:
    """One point found.

    Attributes:
        id: The point's id in the collection (an integer or a UUID string).
        distance: Geodesic distance between the searched point and this one, ≥ 0, float64.
        unsafe: Stored P(unsafe | radius, modality) in [0, 1]; ``None`` when the point carries no valid score (such a
            point is never in a safe result).
        radius: Stored distance from the origin, ≥ 0; ``None`` when the point carries none.
        modality: ``"text"`` or ``"image"``; ``None`` when not stored.
        payload: The caller's payload, without the key ``hysac``.
        views: Number of views that were judged when the point was stored; its score is that of the worst.
        worst: Name of that view, or of the second judge if the score is its own; ``None`` when only the vector's own
            view was judged.
        reviewed: Whether it is in a safe result by a person's decision and not by its score; see `SafetyPolicy`.
    """

    id: PointId
    distance: float
    unsafe: float | None
    radius: float | None
    modality: Modality | None
    payload: Mapping[str, Any] = field(default_factory=dict)
    views: int = 1
    worst: str | None = None
    reviewed: bool = False


@dataclass(frozen=True, slots=True)
class PathStep:
    """A point of the path from an unsafe query toward the origin, and the safety of its neighbours.

    Attributes:
        radius: The point's distance from the origin.
        unsafe: P(unsafe | radius, modality) of the query at that radius, in [0, 1].
        safe_share: Share of the nearest points (as many as the policy's `top`) that are safe; 1 where nothing is near.
            Where the policy lets nobody see unsafe points, these do not enter: it is the share of the nearest safe
            points that are as safe as three quarters of the calibration's safe samples.
        chosen: Whether this point was searched with.
    """

    radius: float
    unsafe: float
    safe_share: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class QueryInfo:
    """Score, radius and redirect of a query.

    Attributes:
        modality: Kind of the query; ``None`` for a raw point of unknown kind.
        radius: Distance of the encoded query from the origin.
        unsafe: P(unsafe | radius, modality) of the query as it was asked, in [0, 1]; that of its worst view.
        redirected: Whether the query was treated as unsafe: moved toward the origin before the search or, where its
            point was within the boundary and only another view of it is unsafe, searched from there.
        radius_searched: Distance from the origin of the point that was searched; never above `radius`.
        safe: Whether only safe points were asked for.
        threshold: The largest unsafe score a hit of any modality could have; ``None`` when ``safe`` is false.
        path: Path of an adaptive traversal, from the query to its boundary; empty if there was none.
        views: Number of views of the query that were judged.
        worst: Name of the worst of them; ``None`` where there is only one.
        thresholds: The largest unsafe score of a hit of each modality; ``None`` when ``safe`` is false.
        known: Share of a text that the model knows, in [0, 1], of its best known reading; ``None`` where that cannot be
            told. A text that is mostly unknown is treated as unsafe; see `SafetyPolicy`.
        unlike: Whether the query is unlike all that the model knows, so that its score and what is found mean nothing;
            ``None`` where that cannot be told.
    """

    modality: Modality | None
    radius: float
    unsafe: float
    redirected: bool
    radius_searched: float
    safe: bool
    threshold: float | None
    path: tuple[PathStep, ...] = ()
    views: int = 1
    worst: str | None = None
    thresholds: Thresholds | None = None
    known: float | None = None
    unlike: bool | None = None

    def __str__(self) -> str:
        """Return the query's score and redirect in one line."""
        line = f"{self.modality or 'point'} query: radius {self.radius:.3f}, unsafe {self.unsafe:.3f}"
        if self.worst is not None:
            line += f" (worst of {self.views} views: {self.worst})"
        if self.known is not None and self.known < 1:
            line += f", {self.known:.0%} known to the model"
        if self.unlike:
            line += ", unlike anything the model knows"
        if self.redirected:
            return f"{line} → redirected to radius {self.radius_searched:.3f}"
        return f"{line}, searched as asked" + ("" if self.safe else " (unsafe results allowed)")


class _Hits:
    """Iteration over hits, nearest first."""

    __slots__ = ()
    hits: tuple[Hit, ...]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, place: int) -> Hit:
        return self.hits[place]


@dataclass(frozen=True, slots=True)
class SearchResult(_Hits):
    """Hits in ascending distance, and the query. Iterates over its hits."""

    query: QueryInfo
    hits: tuple[Hit, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON-serialisable values."""
        return {"query": asdict(self.query), "hits": [asdict(hit) for hit in self.hits]}


@dataclass(frozen=True, slots=True)
class ResultGroup(_Hits):
    """Hits that share a value of the payload field grouped by, nearest first.

    Attributes:
        value: The value they share.
        hits: The hits.
    """

    value: str | int
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class GroupedResult:
    """Groups, that with the nearest hit first, and the query. Iterates over its groups."""

    query: QueryInfo
    groups: tuple[ResultGroup, ...]

    def __iter__(self) -> Iterator[ResultGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON-serialisable values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """Facts about a collection.

    Attributes:
        name: Its name.
        points: Number of points.
        safe: Points that a search with ``safe=True`` can return.
        unsafe: All others: above the threshold, without a valid score, or scored by another model.
        indexed: Vectors that the graph covers; the others are searched one by one (`Index.optimize`).
        beyond: Points outside the region that the lift serves well: exact scores, found less surely by the graph. If
            they are many, make the collection again with a `sample` of its points.
        dim: Number of space components of a point.
        curvature: Curvature c > 0 of the space (−c).
        thresholds: Largest unsafe score that counts as safe, of each modality.
        model: Fingerprint of the model that made the points.
        lift: Kind of the lift. A collection made without `lift` and `sample` has ``"padded"`` with a large padding,
            of which the graph finds less; see `Index.create`.
        outdated: Points that still carry a score of an earlier calibration, so that no safe search returns them;
            `hysac rescore` gives them their new one.
        quantization: Compression of the vectors that the graph compares; None for none.
        bytes_per_point: Size of a point: vectors, graph and payload; None if the engine does not tell.
        measured: Measurements that the choice of the lift was based on (``lift="auto"``).
        estimated: Whether the counts are estimates, as in the strict mode of a server that allows no exact ones.
    """

    name: str
    points: int
    safe: int
    unsafe: int
    indexed: int
    beyond: int
    dim: int
    curvature: float
    thresholds: Thresholds
    model: str
    lift: str
    outdated: int = 0
    quantization: str | None = None
    bytes_per_point: float | None = None
    measured: Mapping[str, Any] | None = None
    estimated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON-serialisable values."""
        return asdict(self)
