"""Thresholds that a call or a policy names, and how far they may go: stricter than the calibration, never looser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.types import MODALITIES, Modality, Thresholds

AnyThreshold: TypeAlias = float | Mapping[Modality, float] | Thresholds
"""One number for both modalities, or a number for each that is named, such as ``{"image": 0.05}``."""

_HINT = "Give a number, or one for each modality, such as {'text': 0.3, 'image': 0.05}"


def _calibrated(value: Any) -> Any:
    return value if isinstance(value, Mapping | Thresholds) else {"text": value, "image": value}


def _in_range(value: Thresholds) -> Thresholds:
    if not all(0 <= value.of(modality) < 1 for modality in MODALITIES):
        raise ValueError(f"a threshold is at least 0 and below 1, not {value}")
    return value


def _plain(value: Thresholds) -> float | dict[str, float]:
    # One number where both are the same: so it was written before there were two, and fingerprints are made of it.
    return value.text if value.text == value.image else {"text": value.text, "image": value.image}


CalibratedThresholds = Annotated[
    Thresholds, BeforeValidator(_calibrated), AfterValidator(_in_range), PlainSerializer(_plain)
]
"""Thresholds of a calibration, each in [0, 1); read from one number for both, too."""


def as_threshold(value: Any) -> float | Thresholds | None:
    """Return a threshold that somebody names as plain, immutable numbers.

    Returns:
        A number for both modalities; or one for each, infinite for a modality that is not named; or None for none.

    Raises:
        SettingsError: It is not a finite number of 0 or more, or one for each of some modalities.
    """
    if value is None:
        return None
    if isinstance(value, Thresholds):
        each = {"text": value.text, "image": value.image}
        value = {kind: number for kind, number in each.items() if not math.isinf(number)}
    if not isinstance(value, Mapping):
        return _number(value)
    named = dict(value)
    if not named or not named.keys() <= {*MODALITIES}:
        raise SettingsError(f"threshold names {', '.join(map(repr, named)) or 'no modality'}", hint=_HINT)
    return Thresholds(**{kind: _number(named[kind]) if kind in named else math.inf for kind in MODALITIES})


def effective_threshold(requested: Any, ceiling: Thresholds, usual: Thresholds | None = None) -> Thresholds:
    """Return the thresholds of a search.

    Args:
        requested: None for the usual ones; a number, which no hit may exceed, and a hit of a modality whose ceiling is
            lower may not exceed that; or a number for each of some modalities, the others keep their usual one.
        ceiling: The loosest that are allowed.
        usual: Those of a search that names none; None for the ceiling.

    Raises:
        SettingsError: The requested threshold is looser than the ceiling, or no threshold.
    """
    named, usual = as_threshold(requested), usual or ceiling
    if named is None:
        return usual
    if isinstance(named, Thresholds):
        for kind in MODALITIES:
            if ceiling.of(kind) < named.of(kind) < math.inf:
                raise _too_loose(f"{named.of(kind)} for {kind}s", f"{ceiling.of(kind):.6g}")
        return Thresholds(**{k: usual.of(k) if named.of(k) == math.inf else named.of(k) for k in MODALITIES})
    if named > ceiling.loosest:
        raise _too_loose(f"{named}", f"{ceiling.loosest:.6g}")
    return Thresholds(min(named, ceiling.text), min(named, ceiling.image))


def _number(value: Any) -> float:
    """Return the value of a number: what is compared from here on is no object of a caller's."""
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise SettingsError(f"threshold is {value!r}; it must be a number from 0 to 1", hint=_HINT)
    return number


def _too_loose(named: str, most: str) -> SettingsError:
    return SettingsError(
        f"threshold is {named}; it may only be stricter than {most}, the loosest that the model's calibration and the "
        "engine's policy allow",
        hint="Ask for results beyond it with safe=False (--unsafe)",
    )
