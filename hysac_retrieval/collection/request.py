"""Query with points: options of a call, and the frozen request that they become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, SupportsFloat, TypedDict, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, model_validator
from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.safety.filters import MAX_LIMIT, as_filter, checked_count, checked_safe
from hysac_retrieval.safety.thresholds import AnyThreshold
from hysac_retrieval.types import MODALITIES, Modality

Rerank = Literal["exact"]
"""Order and distance of hits from the stored points, in float64, instead of from the engine's own score."""


class CommonOptions(TypedDict, total=False):
    """Options that every kind of query has.

    Attributes:
        safe: Whether every hit must be safe (the default): by its verdict, its score and its model. This holds inside
            the search and whatever `filter` says; a point without a verdict of the collection's model is not safe.
        threshold: Stricter threshold than the calibration's: a number for both modalities, or one for each that is
            named, such as ``{"image": 0.05}``, from 0 to that of the modality.
        filter: The caller's own condition, as a Qdrant filter or its JSON form; it can only narrow the result.
        modality: Kind of points to find, ``"image"`` or ``"text"``; None for both.
        max_distance: Largest geodesic distance of a hit, ≥ 0; None for any.
        ef: Candidates that the graph search keeps; None for the engine's own. Raised to what `limit` needs.
        candidates: Points that the first stage of the search hands to the ranking, where the engine's own score does
            not rank by itself (a Poincaré lift, a penalty, quantized vectors). Default: for quantized vectors a few
            more than hits are asked for, else 100, doubled until they are twice as many as the hits. Pages of one query
            are disjoint if all name the same number.
        rerank: ``"exact"`` computes distances in float64 from the stored points, and orders by them; always so where
            vectors are quantized. None takes them from the engine's score: the same numbers to float32 accuracy, at the
            least cost.
        penalty: What a hit's unsafe score, in [0, 1], adds to its distance in the ranking, in units of distance: order
            instead of exclusion. Default 0.
        shard_key_selector: Tenants to search, in a server's collection that is divided by shard keys: one, several, or
            one with another to fall back to, as qdrant-client takes it. None, the default, searches all of them.
    """

    safe: bool
    threshold: AnyThreshold | None
    filter: models.Filter | Mapping[str, Any] | None
    modality: Modality | None
    max_distance: float | None
    ef: int | None
    candidates: int | None
    rerank: Rerank | None
    penalty: float
    shard_key_selector: models.ShardKeySelector | None


class QueryOptions(CommonOptions, total=False):
    """Options of a query with points.

    Attributes:
        limit: Hits to return at most, from 1; with `offset` 10,000 at most. Default 10.
        offset: Hits to leave out before them. Default 0.
    """

    limit: int
    offset: int


def _count(value: Any, info: ValidationInfo) -> int:
    return checked_count(value, str(info.field_name))


def _maybe_count(value: Any, info: ValidationInfo) -> int | None:
    return None if value is None else _count(value, info)


def _offset(value: Any, info: ValidationInfo) -> int:
    return checked_count(value, "offset", least=0)


def _modality(value: Any, info: ValidationInfo) -> Any:
    if value is not None and value not in MODALITIES:
        raise SettingsError(f"unknown {info.field_name} {value!r}; expected {' or '.join(MODALITIES)}")
    return value


def _number(value: Any, info: ValidationInfo) -> float:
    if isinstance(value, bool) or not isinstance(value, SupportsFloat) or not 0 <= float(value) < math.inf:
        raise SettingsError(f"{info.field_name} is {value!r}; it must be a finite number of 0 or more")
    return float(value)


def _maybe_number(value: Any, info: ValidationInfo) -> float | None:
    return None if value is None else _number(value, info)


def _rerank(value: Any) -> Any:
    if value is not None and value not in get_args(Rerank):
        raise SettingsError(f"unknown rerank {value!r}; expected 'exact' or None")
    return value


def _filter(value: Any) -> Any:
    return None if value is None else as_filter(value)


Count = Annotated[int, BeforeValidator(_count)]
KnownModality = Annotated[Modality | None, BeforeValidator(_modality)]


class Request(BaseModel):
    """Options of every kind of query; see `CommonOptions`. Frozen; vary it with `model_copy`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    safe: Annotated[bool, BeforeValidator(checked_safe)] = True
    threshold: Any = None  # its range is that of the policy and the calibration; see `effective_threshold`
    filter: Annotated[Any, BeforeValidator(_filter)] = None
    modality: KnownModality = None
    max_distance: Annotated[float | None, BeforeValidator(_maybe_number)] = None
    ef: Annotated[int | None, BeforeValidator(_maybe_count)] = None
    candidates: Annotated[int | None, BeforeValidator(_maybe_count)] = None
    rerank: Annotated[Rerank | None, BeforeValidator(_rerank)] = None
    penalty: Annotated[float, BeforeValidator(_number)] = 0.0
    shard_key_selector: models.ShardKeySelector | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return the request that options of a call make.

        Raises:
            SettingsError: An option is unknown or out of range.
        """
        try:
            return cls(**options)
        except ValidationError as error:
            raise _settings_error(error, cls) from error

    @property
    def wanted(self) -> int:
        """Hits that are needed, those of `offset` included."""
        return 10


class PageRequest(Request):
    """A page of hits; see `QueryOptions`."""

    limit: Count = 10
    offset: Annotated[int, BeforeValidator(_offset)] = 0

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        if self.wanted > MAX_LIMIT:
            raise SettingsError(
                f"limit and offset add up to {self.wanted}; a search reaches {MAX_LIMIT:,} hits at most"
            )
        return self

    @property
    def wanted(self) -> int:
        """Hits that are needed, those of `offset` included."""
        return self.limit + self.offset


def _field(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise SettingsError(f"the field to group by is {value!r}; expected the name of a payload field")
    return value


class GroupRequest(Request):
    """Hits grouped by a payload field.

    Attributes:
        by: Field to group by, such as ``album`` or ``meta.album``.
        groups: Groups at most, from 1.
        size: Hits of each group at most, from 1.
    """

    by: Annotated[str, BeforeValidator(_field)]
    groups: Count = 10
    size: Count = 3

    @property
    def wanted(self) -> int:
        """Hits that are needed."""
        return min(self.groups * self.size, MAX_LIMIT)


def _settings_error(error: ValidationError, cls: type[Request]) -> SettingsError:
    """Return what a validator raised, or one that names the unknown options."""
    found = error.errors(include_url=False)
    unknown = [str(each["loc"][0]) for each in found if each["type"] == "extra_forbidden"]
    if unknown:
        known = ", ".join(cls.model_fields)
        return SettingsError(f"unknown option {', '.join(sorted(unknown))}", hint=f"Expected some of {known}")
    cause = found[0].get("ctx", {}).get("error")
    if isinstance(cause, SettingsError):
        return cause
    return SettingsError(f"{'.'.join(map(str, found[0]['loc']))}: {found[0]['msg']}")
