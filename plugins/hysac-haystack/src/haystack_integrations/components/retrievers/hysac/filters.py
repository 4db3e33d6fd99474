"""Translate Haystack's filters into Qdrant's.

Supported is what Haystack documents: the comparisons ``==  !=  >  >=  <  <=  in  not in`` and the logic ``AND  OR
NOT``. A condition that cannot be translated exactly is an error, because leaving it out would widen the search. Two
things follow Qdrant, not Haystack: a field that holds a list meets a comparison if any of its elements does; and from
2⁵³ on a number only equals a field that is stored as an integer, not as a float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

from haystack.errors import FilterError
from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.payload import stored_id

MAX_DEPTH = 32
"""Levels of a filter; more are a mistake or an attack."""

_EXACT = 2**53
"""Qdrant orders numbers as floats, of which every whole one below this is exact."""

_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_NOT_IN_PAYLOAD = ("blob", "score", "embedding", "sparse_embedding")


class UntranslatableFilterError(SettingsError, FilterError):
    """A filter is malformed, or Qdrant cannot express it."""


def qdrant_filter(
    filters: Mapping[str, Any], *, content_key: str = "text", meta_key: str | None = None
) -> models.Filter:
    """Translate a filter.

    Args:
        filters: A comparison, ``{"field": "meta.year", "operator": ">=", "value": 2020}``, or a logic of several,
            ``{"operator": "AND", "conditions": […]}``.
        content_key: The payload field that is the content of a document.
        meta_key: The payload field that holds its meta; None for all other fields of the payload.

    Raises:
        UntranslatableFilterError: It is malformed, or Qdrant cannot express it.
    """

    def key_of(field: str) -> str:
        name = field.removeprefix("meta.")
        if name == field:
            if field == "content":
                return content_key
            if field in _NOT_IN_PAYLOAD or field == "meta":
                raise UntranslatableFilterError(f"cannot filter by {field!r}, expected id, content or meta.<name>")
        if not name:
            raise UntranslatableFilterError(f"the field of a comparison is {field!r}; expected such as 'meta.year'")
        return name if meta_key is None else f"{meta_key}.{name}"

    return _translated(filters, key_of, MAX_DEPTH)


def _translated(condition: Any, key_of: Callable[[str], str], depth: int) -> models.Filter:
    if not isinstance(condition, Mapping):
        raise UntranslatableFilterError(f"a condition is {type(condition).__name__}; expected a dictionary")
    if depth == 0:
        raise UntranslatableFilterError(f"the filter is nested more than {MAX_DEPTH} levels deep")
    if "field" in condition:
        return _comparison(condition, key_of)
    operator, conditions = _entries(condition, "operator", "conditions")
    if not isinstance(conditions, list | tuple):
        raise UntranslatableFilterError(f"conditions is {type(conditions).__name__}; expected a list")
    parts = [_translated(part, key_of, depth - 1) for part in conditions]
    if operator == "AND":
        return _all(parts)
    if operator == "OR":
        return _any(parts)
    if operator == "NOT":
        return _not(_all(parts))
    raise UntranslatableFilterError(f"unknown logic {operator!r}; expected AND, OR or NOT")


def _comparison(condition: Mapping[str, Any], key_of: Callable[[str], str]) -> models.Filter:
    field, operator, value = _entries(condition, "field", "operator", "value")
    if not isinstance(field, str):
        raise UntranslatableFilterError(f"the field of a comparison is {field!r}; expected such as 'meta.year'")
    if operator in ("in", "not in"):
        if not isinstance(value, list | tuple | set | frozenset):
            raise UntranslatableFilterError(f"{operator!r} compares with {type(value).__name__}; expected a list")
        among = _any([_equal(field, one, key_of) for one in value])
        return among if operator == "in" else _not(among)
    if operator in ("==", "!="):
        equal = _equal(field, value, key_of)
        return equal if operator == "==" else _not(equal)
    if operator in _BOUNDS:
        if field == "id":
            raise UntranslatableFilterError("ids have no order", hint="Compare them with ==, !=, in or not in")
        return _one(models.FieldCondition(key=key_of(field), range=_range(value, _BOUNDS[operator])))
    raise UntranslatableFilterError(f"unknown comparison {operator!r}; expected ==, !=, >, >=, <, <=, in or not in")


def _equal(field: str, value: Any, key_of: Callable[[str], str]) -> models.Filter:
    if field == "id":
        return _is_id(value)
    key = key_of(field)
    if value is None:
        return _one(models.IsEmptyCondition(is_empty=models.PayloadField(key=key)))  # missing, null or an empty list
    if isinstance(value, bool | str):
        return _one(models.FieldCondition(key=key, match=models.MatchValue(value=value)))
    if isinstance(value, int | float):
        return _equal_number(key, value)
    if isinstance(value, datetime):
        return _one(models.FieldCondition(key=key, range=models.DatetimeRange(gte=value, lte=value)))
    raise UntranslatableFilterError(
        f"cannot compare {field!r} with {type(value).__name__}; expected a string, number, boolean, datetime or None"
    )


def _equal_number(key: str, value: int | float) -> models.Filter:
    """Compare exactly: by a range, in which 3 is also 3.0, while that is exact; else as the integer it is."""
    if abs(value) < _EXACT:
        return _one(models.FieldCondition(key=key, range=models.Range(gte=value, lte=value)))
    if not -(2**63) <= value < 2**63:  # nor is NaN
        what = f"cannot compare {key!r} with a number beyond the 64 bits of an integer in Qdrant"
        raise UntranslatableFilterError(what, hint="Keep such numbers as strings")
    return _one(models.FieldCondition(key=key, match=models.MatchValue(value=int(value))))


def _is_id(value: Any) -> models.Filter:
    identity = stored_id(value)
    return _any([]) if identity is None else _one(models.HasIdCondition(has_id=[identity]))


def _range(value: Any, bound: str) -> models.Range | models.DatetimeRange:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) < _EXACT:  # NaN is not below it either
            what = "cannot order by a number from 2^53 on, where Qdrant does not tell neighbours apart"
            raise UntranslatableFilterError(what, hint="Order by a smaller unit, or by an ISO date")
        return models.Range(**{bound: value})
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise UntranslatableFilterError(
                f"cannot order by {value!r}: of texts, only ISO dates such as '2024-05-01' have an order"
            ) from None
    if isinstance(value, date):
        return models.DatetimeRange(**{bound: value})
    raise UntranslatableFilterError(
        f"cannot order by {type(value).__name__}; expected a number, an ISO date or a datetime"
    )


def _entries(condition: Mapping[str, Any], *names: str) -> list[Any]:
    if missing := [name for name in names if name not in condition]:
        raise UntranslatableFilterError(f"a condition lacks {', '.join(missing)}: {dict(condition)}")
    return [condition[name] for name in names]


def _one(condition: Any) -> models.Filter:
    return models.Filter(must=[condition])


def _all(parts: list[models.Filter]) -> models.Filter:
    return models.Filter(must=[*parts])


def _any(parts: list[models.Filter]) -> models.Filter:
    # An empty `should` holds for every point; "any of none" must hold for none.
    return models.Filter(should=[*parts]) if parts else _not(_all([]))


def _not(part: models.Filter) -> models.Filter:
    return models.Filter(must_not=[part])
