"""Conditions that keep unsafe points out, joined to a caller's own filter.

They are applied inside the search and fail closed: a point passes only if it carries a score in range, given by the
collection's model. A caller's filter is nested whole as one more ``must``, so that nothing in it (``should``,
``min_should``, ``must_not``) can widen the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError
from qdrant_client import models

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.payload import MODALITY, MODEL, PAYLOAD_KEY, UNSAFE
from hysac_retrieval.safety.verdict import REVIEW, REVIEWED_UNSAFE, SAFE, flag_key
from hysac_retrieval.types import MODALITIES, Modality, PointId, Thresholds

_EXACT = 2**53
MAX_LIMIT = 10_000
"""Largest number of hits of one search."""


def verdict_filter(fingerprint: str, thresholds: Thresholds | None = None) -> models.Filter:
    """Return the condition of points that a model's calibration found safe: one indexed boolean.

    A payload value may be a list, and an engine takes a list for a match when any element matches. So what comes back
    is held to `verdict.safe_score`; where nothing comes back, as in a count, `safety_filter` is the condition.

    Args:
        fingerprint: The model.
        thresholds: Stricter ones than the calibration's, which join a range; None for the calibration's.
    """
    must: list[Any] = [models.FieldCondition(key=flag_key(fingerprint), match=models.MatchValue(value=True))]
    if thresholds is not None:
        must.append(_scores(gte=0.0, lte=thresholds.loosest))
        if thresholds.text != thresholds.image:
            must.append(models.Filter(should=[_scores(gte=0.0, lte=thresholds.strictest), _of_looser(thresholds)]))
    return models.Filter(must=must)


def safety_filter(thresholds: Thresholds, fingerprint: str) -> models.Filter:
    """Return the condition of points that a model found safe, with a score of 0 to their threshold, even in lists.

    Hence the conditions that no score may be above the threshold, no model another, and no verdict false. A point that
    is not of one modality is held to the stricter threshold. A server goes on finding a point by what is indexed below
    a payload key that was deleted whole; so those keys must be there, which have an index of their own.
    """
    unsafe = models.FieldCondition(key=flag_key(fingerprint), match=models.MatchValue(value=False))
    must_not: list[Any] = [
        unsafe,
        _scores(gt=thresholds.loosest),
        models.FieldCondition(key=MODEL, match=models.MatchExcept(**{"except": [fingerprint]})),
        *(models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in (PAYLOAD_KEY, SAFE)),
    ]
    if thresholds.text != thresholds.image:
        others = models.Filter(must_not=[_of_looser(thresholds)])
        must_not.append(models.Filter(must=[_scores(gt=thresholds.strictest), others]))
    return models.Filter(
        must=[
            *verdict_filter(fingerprint, thresholds).must,  # type: ignore[misc]  # a list, made above
            models.FieldCondition(key=MODEL, match=models.MatchValue(value=fingerprint)),
        ],
        must_not=must_not,
    )


def or_reviewed(safety: models.Filter, fingerprint: str, *, strict: bool = False) -> models.Filter:
    """Return the condition of points that are safe, or that a person decided are safe, judged by the same model.

    Args:
        safety: `verdict_filter` or `safety_filter`, which `strict` belongs to.
        fingerprint: The model.
        strict: Whether it holds for lists and for payload keys that were deleted, too, as where nothing comes back.
    """
    flag = partial(models.FieldCondition, key=flag_key(fingerprint))
    must: list[Any] = [
        models.FieldCondition(key=REVIEWED_UNSAFE, match=models.MatchValue(value=False)),
        # A verdict of either kind: under a stricter threshold a point may need the decision although it is true.
        models.Filter(should=[flag(match=models.MatchValue(value=value)) for value in (True, False)]),
    ]
    must_not: list[Any] = []
    if strict:
        must += [
            models.FieldCondition(key=REVIEWED_UNSAFE, values_count=models.ValuesCount(lte=1)),
            flag(values_count=models.ValuesCount(lte=1)),
            models.FieldCondition(key=MODEL, match=models.MatchValue(value=fingerprint)),
            _scores(gte=0.0, lte=1.0),
        ]
        must_not += [
            models.FieldCondition(key=MODEL, match=models.MatchExcept(**{"except": [fingerprint]})),
            _scores(gt=1.0),
            *(models.IsEmptyCondition(is_empty=models.PayloadField(key=key)) for key in (PAYLOAD_KEY, SAFE, REVIEW)),
        ]
    return models.Filter(must=[models.Filter(should=[safety, models.Filter(must=must, must_not=must_not or None)])])


def _scores(**bounds: float) -> models.FieldCondition:
    return models.FieldCondition(key=UNSAFE, range=models.Range(**bounds))


def _of_looser(thresholds: Thresholds) -> models.Filter:
    """Return the condition of points of the modality with the looser threshold, and of no other."""
    kind: Modality = "text" if thresholds.text > thresholds.image else "image"
    return models.Filter(
        must=[
            models.FieldCondition(key=MODALITY, match=models.MatchValue(value=kind)),
            models.FieldCondition(key=MODALITY, values_count=models.ValuesCount(lte=1)),
        ]
    )


def scored_by(fingerprints: Iterable[str]) -> models.Filter:
    """Return the condition of points whose scores were given by one of some models."""
    names = list(fingerprints)
    return models.Filter(must=[models.FieldCondition(key=MODEL, match=models.MatchAny(any=names))])


def search_filter(
    safety: models.Filter | None,
    *,
    modality: Modality | None = None,
    user: models.Filter | Mapping[str, Any] | None = None,
    rules: models.Filter | None = None,
) -> models.Filter | None:
    """Return the filter of a search: safety, modality, the policy's rules and the caller's own, all of which must hold.

    Args:
        safety: Condition of a safe search; None for a search that may return anything.
        modality: Kind of points to find; None for any.
        user: The caller's filter, as a model or as its JSON form.
        rules: The policy's own condition.

    Raises:
        SettingsError: The modality is unknown, or the caller's filter is not a filter.
    """
    must: list[Any] = []
    if modality is not None:
        if modality not in MODALITIES:
            raise SettingsError(f"unknown modality {modality!r}; expected one of {', '.join(MODALITIES)}, or None")
        must.append(models.FieldCondition(key=MODALITY, match=models.MatchValue(value=modality)))
    must += [condition for condition in (rules, None if user is None else as_filter(user)) if condition is not None]
    if safety is None:
        return models.Filter(must=must) if must else None
    return models.Filter(must=[*safety.must, *must], must_not=safety.must_not)  # type: ignore[misc]  # a list, always


def without(condition: models.Filter | None, ids: Sequence[PointId]) -> models.Filter | None:
    """Return a condition that also leaves out some points."""
    if not ids:
        return condition
    hidden: Any = models.HasIdCondition(has_id=list(ids))
    return models.Filter(must=None if condition is None else [condition], must_not=[hidden])


def as_filter(value: models.Filter | Mapping[str, Any]) -> models.Filter:
    """Return a caller's filter as a model, or raise `SettingsError`."""
    if isinstance(value, models.Filter):
        return value
    if not isinstance(value, Mapping):
        raise SettingsError(f"filter is {type(value).__name__}; expected a models.Filter or its JSON form")
    try:
        read = models.Filter.model_validate(dict(value))
    except ValidationError as error:
        first, *rest = error.errors(include_url=False)
        where, more = ".".join(map(str, first["loc"])), f" (and {len(rest)} more)" if rest else ""
        raise SettingsError(
            f"filter is not in the JSON form of a Qdrant filter: {where}: {first['msg']}{more}",
            hint='Write it like {"must": [{"key": "color", "match": {"value": "red"}}]}',
        ) from error
    _expect_exact(value)
    return read


def _expect_exact(form: Any) -> None:
    """Check that no bound of a range in a filter's JSON form is an integer that a float may not hold."""
    if isinstance(form, Mapping):
        span = form.get("range")
        for bound in span.values() if isinstance(span, Mapping) else ():
            if isinstance(bound, int) and abs(bound) > _EXACT:
                what = "the filter has a range with an integer beyond 2^53, from where on ranges are rounded"
                raise SettingsError(what, hint="Compare such integers with match")
        form = form.values()
    if isinstance(form, Iterable) and not isinstance(form, str | bytes):
        for part in form:
            _expect_exact(part)


def checked_safe(safe: bool) -> bool:
    """Return whether a search must be safe. Only True and False say so: another false value may be a mistake.

    Raises:
        SettingsError: It is neither.
    """
    if not isinstance(safe, bool):
        raise SettingsError(f"safe is {safe!r}; it must be True or False")
    return safe


def checked_count(value: int, what: str, most: int = MAX_LIMIT, least: int = 1) -> int:
    """Return a whole number from `least` to `most`.

    Raises:
        SettingsError: The value is not one.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise SettingsError(f"{what} is {value!r}; it must be a whole number from {least} to {most:,}")
    number = int(value)
    if not least <= number <= most:
        raise SettingsError(f"{what} is {number}; it must be from {least} to {most:,}")
    return number
