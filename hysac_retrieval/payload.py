"""Ids and payloads as engines take them, and reading them back; this package writes only under the key `hysac`."""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic_core import PydanticSerializationError, to_jsonable_python

from hysac_retrieval.errors import InputError
from hysac_retrieval.types import MODALITIES, Modality, PointId

PAYLOAD_KEY = "hysac"
"""The one payload key of this package."""

UNSAFE, RADIUS, MODALITY, MODEL, BEYOND, SOURCE = (
    f"{PAYLOAD_KEY}.{name}" for name in ("unsafe", "radius", "modality", "model", "beyond", "source")
)

WORST_RADIUS = f"{PAYLOAD_KEY}.worst.radius"
"""Radius of the worst view of a point of which more than one was judged."""

_DIGITS = re.compile(r"(?:0|[1-9][0-9]{0,19})")
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "hysac-retrieval")


def point_id(source_key: str) -> str:
    """Return the deterministic id of a point: the same key, such as a path or a URL, always has the same UUID."""
    # As `uuid.uuid5`, which refuses names of files that are not UTF-8.
    hashed = hashlib.sha1(_NAMESPACE.bytes + source_key.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return str(uuid.UUID(bytes=hashed.digest()[:16], version=5))


def normal_ids(ids: Iterable[Any]) -> list[PointId]:
    """Return ids as the engines do: integers of 0 to 2⁶⁴ − 1, or UUIDs as canonical strings.

    Raises:
        InputError: An id is neither.
    """
    return [_normal_id(value, row) for row, value in enumerate(ids)]


def _normal_id(value: Any, row: int) -> PointId:
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < 2**64:
        return int(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            pass
    raise InputError(
        f"id {value!r} (row {row}) is neither an integer from 0 to 2^64 − 1 nor a UUID",
        hint="Make one of any text with point_id(key)",
    )


def stored_id(value: Any) -> PointId | None:
    """Return the id of a point that a program or person gives as text or as it is; None if no point can have it.

    Digits are an integer as `str` writes it, so "0001" is not point 1; a UUID may be in any of its forms.
    """
    try:
        return _normal_id(int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value, 0)
    except InputError:
        return None


def plain_payloads(payloads: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Return payloads as `plain_payload` does, all at once, which takes a third of the time."""
    if all(payload is None or (isinstance(payload, Mapping) and PAYLOAD_KEY not in payload) for payload in payloads):
        try:
            plain: list[dict[str, Any]] = to_jsonable_python([dict(payload or {}) for payload in payloads])
            _expect_json(plain)
        except (PydanticSerializationError, ValueError, TypeError, RecursionError):
            pass  # one by one, to name the row
        else:
            return plain
    return [plain_payload(payload, row) for row, payload in enumerate(payloads)]


def plain_payload(payload: Mapping[str, Any] | None, row: int) -> dict[str, Any]:
    """Return a caller's payload as JSON values; dates, paths and UUIDs become strings."""
    if payload is None:
        return {}
    if not isinstance(payload, Mapping):
        raise InputError(f"payload in row {row} is {type(payload).__name__}; expected a mapping")
    if PAYLOAD_KEY in payload:
        raise InputError(f"payload in row {row} has a key {PAYLOAD_KEY!r}, which is reserved", hint="Rename that field")
    try:
        plain: dict[str, Any] = to_jsonable_python(dict(payload))
        _expect_json(plain)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"payload in row {row} does not consist of JSON values: {error}") from error
    return plain


def is_utf8(text: str) -> bool:
    """Whether a text can be stored: no half of a surrogate pair is in it, as in names of files that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expect_json(plain: Any) -> None:
    """Check that values can be written as JSON in UTF-8: no NaN, and no halves of surrogate pairs."""
    json.dumps(plain, allow_nan=False, ensure_ascii=False).encode()


def short_numbers(values: ArrayLike, *, up: bool = False) -> list[float]:
    """Round n numbers to 12 decimals, scores upward, so that they never look safer than they are.

    Engines parse JSON numbers of more than 15 digits to within one unit in the last place only; these come back exact.
    """
    scaled = np.asarray(values, dtype=np.float64) * 1e12
    rounded: list[float] = ((np.ceil if up else np.rint)(scaled) / 1e12).tolist()
    return rounded


def own_payload(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the entries of a payload under the key ``hysac``; empty if there are none."""
    own = payload.get(PAYLOAD_KEY)
    return own if isinstance(own, dict) else {}


def stored_modality(own: Mapping[str, Any]) -> Modality | None:
    """Return the modality that a point's ``hysac`` payload names; None if it names none."""
    modality = own.get("modality")
    return modality if modality in MODALITIES else None


def finite_number(value: Any) -> float | None:
    """Return a finite number of 0 or more; None for anything else, True and False included."""
    if type(value) is float:  # as nearly always
        return value if 0 <= value < math.inf else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None
