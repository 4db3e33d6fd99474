"""Qdrant's filters in the types of the embedded engine, whole or not at all.

A condition that is left out makes a filter wider, so whatever is not known here is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any, get_args

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from hysac_retrieval.errors import SettingsError

CONDITIONS: tuple[type, ...] = get_args(models.Condition)
"""Every type of condition that Qdrant knows."""


def edge_filter(filter: models.Filter) -> Any:
    """Translate a filter.

    Raises:
        SettingsError: The filter holds something that the embedded engine has no counterpart for.
    """
    if type(filter) is not models.Filter:
        raise SettingsError(f"a filter must be a qdrant_client.models.Filter, not {type(filter).__name__}")
    least = filter.min_should
    if least is not None and least.min_count < 1:
        raise SettingsError(f"min_should has min_count {least.min_count}; it must be 1 or more")
    try:
        return edge.Filter(
            must=_conditions(filter.must),
            should=_conditions(filter.should),
            must_not=_conditions(filter.must_not),
            min_should=None if least is None else edge.MinShould(_conditions(least.conditions) or [], least.min_count),
        )
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"the embedded engine cannot take this filter: {error}") from error


def _conditions(conditions: Any) -> list[Any] | None:
    if conditions is None:
        return None
    return [edge_condition(c) for c in (conditions if isinstance(conditions, list) else [conditions])]


def edge_condition(condition: Any) -> Any:
    """Translate one condition; see `edge_filter`."""
    if isinstance(condition, models.Filter):
        return edge_filter(condition)
    if isinstance(condition, models.FieldCondition):
        return edge.FieldCondition(
            condition.key,
            match=_maybe(condition.match, _match),
            range=_maybe(condition.range, _range),
            geo_bounding_box=_maybe(condition.geo_bounding_box, _box),
            geo_radius=_maybe(condition.geo_radius, lambda r: edge.GeoRadius(edge_point(r.center), r.radius)),
            geo_polygon=_maybe(condition.geo_polygon, _polygon),
            values_count=_maybe(condition.values_count, lambda v: edge.ValuesCount(**_bounds(v))),
            is_empty=condition.is_empty,
            is_null=condition.is_null,
        )
    for kind, translate in _CONDITIONS.items():
        if isinstance(condition, kind):
            return translate(condition)
    raise SettingsError(f"the embedded engine knows no condition of type {type(condition).__name__}")


_CONDITIONS: dict[type, Callable[[Any], Any]] = {
    models.IsEmptyCondition: lambda c: edge.IsEmptyCondition(c.is_empty.key),
    models.IsNullCondition: lambda c: edge.IsNullCondition(c.is_null.key),
    models.HasIdCondition: lambda c: edge.HasIdCondition(set(c.has_id)),
    models.HasVectorCondition: lambda c: edge.HasVectorCondition(c.has_vector),
    models.NestedCondition: lambda c: edge.NestedCondition(c.nested.key, edge_filter(c.nested.filter)),
    models.SliceCondition: lambda c: edge.SliceCondition(c.slice.total, c.slice.index),  # type: ignore[attr-defined]  # not in its stubs
}

_MATCHES: dict[type, Callable[[Any], Any]] = {
    models.MatchValue: lambda m: edge.MatchValue(_scalar(m.value)),
    models.MatchText: lambda m: edge.MatchText(m.text),
    models.MatchTextAny: lambda m: edge.MatchTextAny(m.text_any),
    models.MatchPhrase: lambda m: edge.MatchPhrase(m.phrase),
    models.MatchPrefix: lambda m: edge.MatchPrefix(m.prefix),
    models.MatchSubstring: lambda m: edge.MatchSubstring(m.substring),
    models.MatchAny: lambda m: edge.MatchAny(list(m.any)),
    models.MatchExcept: lambda m: edge.MatchExcept(list(m.except_)),
}


def _scalar(value: str | int | bool) -> Any:
    # The binding reads a Python bool as an integer, which matches nothing; a NumPy bool it reads as a bool.
    return np.bool_(value) if isinstance(value, bool) else value


def _match(match: Any) -> Any:
    for kind, translate in _MATCHES.items():
        if isinstance(match, kind):
            return translate(match)
    raise SettingsError(f"the embedded engine knows no match of type {type(match).__name__}")


def _range(bounds: Any) -> Any:
    if isinstance(bounds, models.Range):
        return edge.RangeFloat(**_bounds(bounds))
    if isinstance(bounds, models.DatetimeRange):
        return edge.RangeDateTime(**{name: _maybe(value, _instant) for name, value in _bounds(bounds).items()})
    raise SettingsError(f"the embedded engine knows no range of type {type(bounds).__name__}")


def _bounds(bounds: Any) -> dict[str, Any]:
    return {name: getattr(bounds, name) for name in ("gte", "gt", "lte", "lt")}


def _instant(value: date) -> str:
    # RFC 3339; a date alone means its first instant, a time without a zone is UTC, as on the server.
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return value.isoformat() if value.tzinfo else value.isoformat() + "Z"


def edge_point(point: models.GeoPoint) -> Any:
    """Translate a place."""
    return edge.GeoPoint(point.lon, point.lat)


def _box(box: models.GeoBoundingBox) -> Any:
    return edge.GeoBoundingBox(edge_point(box.top_left), edge_point(box.bottom_right))


def _polygon(polygon: models.GeoPolygon) -> Any:
    rings = [[edge_point(point) for point in ring.points] for ring in (polygon.exterior, *(polygon.interiors or []))]
    return edge.GeoPolygon(rings[0], rings[1:] or None)


def _maybe(value: Any, translate: Callable[[Any], Any]) -> Any:
    return None if value is None else translate(value)
