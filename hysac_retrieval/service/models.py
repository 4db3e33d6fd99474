"""Bodies of requests and answers, with the examples of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)

from hysac_retrieval.types import Modality, PointId

AnyId = StrictInt | Annotated[StrictStr, Field(max_length=64)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
UUID = "0f3b6f9e-2c1d-5a8e-9b7a-6d5c4b3a2f10"


class Body(BaseModel):
    """A body; a field that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Threshold(Body):
    """Stricter thresholds than the policy's, of each modality."""

    text: Share | None = None
    image: Share | None = None


class Asked(Body):
    """A query: exactly one of `text`, `image`, `id` and `vector`; and what of the collection is searched.

    Attributes:
        text: A text.
        image: Contents of a picture's file, in base64.
        id: Id of a stored point.
        vector: A point (d,), or a vector for the model's head.
        query_modality: What a vector was encoded from; without it, it is held to both calibrations.
        safe: Whether only safe points are found. False needs the scope ``search:unsafe`` and goes to the audit log.
        modality: Find only points of this kind.
        filter: A Qdrant filter in its JSON form; it can only narrow the result.
        threshold: A stricter threshold than the policy's: a number, or one for each modality.
    """

    text: str | None = Field(None, max_length=20_000)
    image: Base64Bytes | None = Field(None, json_schema_extra={"format": "byte"})
    id: AnyId | None = None
    vector: Annotated[list[FiniteFloat], Field(min_length=1, max_length=65_536)] | None = None
    query_modality: Modality | None = None
    safe: StrictBool = True
    modality: Modality | None = None
    filter: dict[str, Any] | None = None
    threshold: Share | Threshold | None = None

    @model_validator(mode="after")
    def _one_query(self) -> Asked:
        given = [name for name in ("text", "image", "id", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of text, image, id and vector; found {' and '.join(given) or 'none'}")
        return self

    def options(self) -> dict[str, Any]:
        """Return the options of the search that were given."""
        given: dict[str, Any] = {"safe": self.safe}
        for name in ("query_modality", "modality", "filter"):
            if getattr(self, name) is not None:
                given[name] = getattr(self, name)
        if isinstance(self.threshold, Threshold):
            given["threshold"] = self.threshold.model_dump(exclude_none=True)
        elif self.threshold is not None:
            given["threshold"] = self.threshold
        return given


class SearchBody(Asked):
    """A search.

    Attributes:
        limit: Hits of a page.
        offset: Hits before it.
        max_distance: Only hits that are no farther, by geodesic distance.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "dynamite near an elephant and a car in a mountain valley", "limit": 2},
                {"text": "dynamite near an elephant and a car in a mountain valley", "limit": 2, "safe": False},
                {"id": UUID, "limit": 10, "offset": 10, "modality": "image"},
                {"text": "a dog", "filter": {"must": [{"key": "album", "match": {"value": "holidays"}}]}},
            ]
        }
    )

    limit: StrictInt = Field(10, ge=1, le=10_000)
    offset: StrictInt = Field(0, ge=0, le=10_000)
    max_distance: Annotated[FiniteFloat, Field(ge=0)] | None = None

    def options(self) -> dict[str, Any]:
        """Return the options of the search that were given."""
        more = {"limit": self.limit, "offset": self.offset}
        return super().options() | more | ({} if self.max_distance is None else {"max_distance": self.max_distance})


class GroupsBody(Asked):
    """A search whose hits are grouped by a payload field: the nearest groups, the nearest hits of each."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a dog", "by": "album", "groups": 5}]})

    by: str = Field(min_length=1, max_length=200)
    groups: StrictInt = Field(10, ge=1, le=1000)
    size: StrictInt = Field(3, ge=1, le=100)

    def options(self) -> dict[str, Any]:
        """Return the options of the search that were given."""
        return super().options() | {"by": self.by, "groups": self.groups, "size": self.size}


class ExplainBody(Asked):
    """A query whose way to the origin is shown."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a man with a gun", "steps": 5}]})

    steps: StrictInt = Field(9, ge=2, le=64)
    near: StrictInt = Field(3, ge=1, le=20)

    def options(self) -> dict[str, Any]:
        """Return the options of the explanation that were given."""
        return super().options() | {"steps": self.steps, "near": self.near}


class Ids(Body):
    """Ids of points."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [UUID, 17]}]})

    ids: Annotated[list[AnyId], Field(max_length=10_000)]


class Found(BaseModel):
    """A point found. See `hysac_retrieval.Hit`."""

    id: PointId
    distance: float | None
    unsafe: float | None
    radius: float | None
    modality: Modality | None
    payload: dict[str, Any]
    views: int
    worst: str | None
    reviewed: bool


class Step(BaseModel):
    """A point of an adaptive path. See `PathStep`."""

    radius: float
    unsafe: float
    safe_share: float
    chosen: bool


class Bounds(BaseModel):
    """The largest unsafe score that counts as safe, of each modality."""

    text: float
    image: float


class Query(BaseModel):
    """A query, and where it was moved. See `hysac_retrieval.QueryInfo`."""

    modality: Modality | None
    radius: float
    unsafe: float
    redirected: bool
    radius_searched: float
    safe: bool
    threshold: float | None
    path: list[Step]
    views: int
    worst: str | None
    thresholds: Bounds | None
    known: float | None
    unlike: bool | None


class Hits(BaseModel):
    """Hits in ascending distance, and the query."""

    query: Query
    hits: list[Found]


class Group(BaseModel):
    """Hits that share a value."""

    value: str | int
    hits: list[Found]


class Groups(BaseModel):
    """Groups, that with the nearest hit first, and the query."""

    query: Query
    groups: list[Group]


class Selectivity(BaseModel):
    """Shares of matched and of other pairs inside cones. See `hysac_retrieval.search.explain.Selectivity`."""

    matched: float
    unmatched: float


class ExplainedStep(BaseModel):
    """A point of the way to the origin. See `hysac_retrieval.search.explain.ExplainedStep`."""

    radius: float
    unsafe: float
    counts_unsafe: bool
    beyond: bool
    searched: bool
    entailing: list[Found]
    relations: list[str | None]
    nearest: list[Found]


class Explanation(BaseModel):
    """The way of a query to the origin. See `hysac_retrieval.Explanation`."""

    asked: str
    query: Query
    boundary: float
    cones: bool
    selectivity: dict[str, Selectivity]
    steps: list[ExplainedStep]


class Permitted(BaseModel):
    """Those of some points that a safe search may return."""

    ids: list[PointId]


class Session(BaseModel):
    """Who asks.

    Attributes:
        id: Id of the key, or ``anonymous``.
        scopes: What it may do.
        csrf: Goes into the header ``X-CSRF-Token`` of what a page changes; None without a session.
    """

    id: str
    scopes: list[str]
    csrf: str | None = None


class KeyBody(Body):
    """A key, to begin a session with."""

    key: str = Field(min_length=1, max_length=200)


class Point(Body):
    """A point to write: a text, or a picture; named by an id, or by a key that an id is made of.

    Attributes:
        id: An integer from 0, or a UUID.
        key: Any text that names the point, such as a path or an address.
        text: The text; it is kept in the payload.
        image: Contents of a picture's file, in base64; they are not kept.
        payload: Stored with the point.
    """

    id: AnyId | None = None
    key: str | None = Field(None, min_length=1, max_length=2000)
    text: str | None = Field(None, max_length=1_000_000)
    image: Base64Bytes | None = Field(None, json_schema_extra={"format": "byte"})
    payload: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_of_each(self) -> Point:
        if (self.id is None) == (self.key is None):
            raise ValueError("expected one of id and key")
        if (self.text is None) == (self.image is None):
            raise ValueError("expected one of text and image")
        return self


class PointsBody(Body):
    """Points to write."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"points": [{"key": "notes/1", "text": "a dog", "payload": {"album": "pets"}}]}]
        }
    )

    points: Annotated[list[Point], Field(min_length=1, max_length=10_000)]


class Written(BaseModel):
    """Ids of the points that were written."""

    ids: list[PointId]


class ReportBody(Body):
    """A point that should not be seen, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": UUID, "reason": "shows a weapon"}]})

    id: AnyId
    reason: str = Field("", max_length=500)


class Reported(BaseModel):
    """How often a point was reported."""

    id: PointId
    reports: int


class DecisionBody(Body):
    """A decision on a point; ``unsafe: null`` takes it back."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"unsafe": True, "category": "weapons", "note": "gun"}]})

    unsafe: StrictBool | None
    category: str = Field("", max_length=100)
    note: str = Field("", max_length=1000)


class Decided(BaseModel):
    """The decision that a point carries now; None for none."""

    id: PointId
    unsafe: bool | None
    state: Literal["decided", "taken back", "waits for a second person"]


class Waiting(BaseModel):
    """A point that nobody has decided on.

    Attributes:
        id: Its id.
        unsafe: Its score.
        modality: Its kind.
        payload: Its payload.
        reports: How often it was reported.
        reasons: The last reasons that were given.
        voted_by: Who has said that it is safe, where a second person must agree.
    """

    id: PointId
    unsafe: float | None
    modality: Modality | None
    payload: dict[str, Any]
    reports: int
    reasons: list[str]
    voted_by: str | None


class Queue(BaseModel):
    """Points that nobody has decided on."""

    items: list[Waiting]


class Collection(BaseModel):
    """Facts about the collection; how many points are safe only for who may see the others."""

    name: str
    points: int
    safe: int | None = None
    dim: int
    curvature: float
    thresholds: Bounds
    boundaries: Bounds
    model: str


class State(BaseModel):
    """Whether the service is up."""

    status: Literal["ok"]
