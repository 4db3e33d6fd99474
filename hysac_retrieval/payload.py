"""Ids and payloads as engines take them, and reading them back; this package writes only under the key `hysac`."""

from __future__ import annotations

import hashlib
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

DEEPEST = 24
"""Levels of objects and lists in a payload field. The log of the embedded engine is readable up to 122, and gRPC up to
32 objects; beyond it, one point makes a collection, or every page that it is on, unreadable."""

_AS_TEXT = "Leave the field out, or keep it as a JSON text"
_SHOWN = 200  # characters of a field's name

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
    return [v if type(v) is int and 0 <= v < 2**64 else _normal_id(v, row) for row, v in enumerate(ids)]


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


def plain_payloads(payloads: Sequence[Mapping[str, Any] | None], what: str = "payload") -> list[dict[str, Any]]:
    """Return callers' payloads as JSON values; dates, paths and UUIDs become strings.

    Raises:
        InputError: A field cannot be kept as it is; `what` it is, the row and the field are named.
    """
    plain: list[dict[str, Any]] = []
    for row, payload in enumerate(payloads):
        if payload is not None and not isinstance(payload, (dict, Mapping)):  # the first is quick
            raise InputError(f"{what} in row {row} is {type(payload).__name__}; expected a mapping")
        try:
            plain.append(plain_fields(payload) if payload else {})
        except InputError as error:
            raise InputError(f"{what} in row {row}: {error.message}", hint=error.hint) from error
    return plain


def plain_fields(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of one payload as JSON values that an engine keeps and gives back as they are.

    Raises:
        InputError: A field is none: not JSON, nested too deep, not a number of 64 bits, or not Unicode.
    """
    if PAYLOAD_KEY in payload:
        raise InputError(f"the key {PAYLOAD_KEY!r} is reserved", hint="Rename that field")
    if all(type(text) is str and text.isascii() for field in payload.items() for text in field):  # as our own entries
        return dict(payload)
    try:
        plain: dict[str, Any] = to_jsonable_python(dict(payload))
    except _NO_JSON:
        plain = dict(_plain_field(name, value) for name, value in payload.items())
    flaw = _flaw(plain, DEEPEST + 1)
    if flaw:
        path, wrong, hint = flaw
        raise InputError(f"field {path.removeprefix('.')[:_SHOWN]!r} {wrong}", hint=hint)
    return plain


_NO_JSON = (PydanticSerializationError, ValueError, TypeError, RecursionError)


def _plain_field(name: Any, value: Any) -> tuple[str, Any]:
    try:
        plain: dict[str, Any] = to_jsonable_python({name: value})
        return next(iter(plain.items()))
    except _NO_JSON as error:
        wrong = f"nested too deep or holds itself ({error})" if "depth" in str(error) else f"no JSON value: {error}"
        raise InputError(f"field {str(name)[:_SHOWN]!r} is {wrong}", hint=_AS_TEXT) from error


def _flaw(value: Any, room: int) -> tuple[str, str, str] | None:
    """Return the path of a value that would not come back as it is, what is wrong with it, and what to do."""
    if isinstance(value, str):
        return None if value.isascii() or is_utf8(value) else ("", "holds half of a surrogate pair", "Give Unicode")
    if isinstance(value, float):
        return None if math.isfinite(value) else ("", f"is {value}, which JSON has no number for", "Leave it out")
    if isinstance(value, int):  # or a truth value
        return None if -(2**63) <= value < 2**64 else ("", "is an integer of more than 64 bits", _AS_TEXT)
    if not isinstance(value, dict | list):
        return None
    if not room:
        return "", f"is nested more than {DEEPEST} levels deep", _AS_TEXT
    named = isinstance(value, dict)
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        flaw = _flaw(item, room - 1) or (_flaw(key, 0) if named else None)
        if flaw:
            return (f".{key}" if named else f"[{key}]") + flaw[0], *flaw[1:]
    return None


def is_utf8(text: str) -> bool:
    """Whether a text can be stored: no half of a surrogate pair is in it, as in names of files that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
