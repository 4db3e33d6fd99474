"""Fields of an application's payload: paths to them, where frameworks keep theirs, and values that are no content."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hysac_retrieval.errors import SourceError

FRAMEWORKS: dict[str, dict[str, tuple[str, ...]]] = {
    "langchain": {"text": ("page_content",)},
    "llama-index": {
        "image": ("_node_content|image_path", "_node_content|image_url"),
        "text": ("_node_content|text", "_node_content|text_resource.text"),
    },
    "haystack": {"text": ("content",)},
    "clip-retrieval": {"image": ("image_path",), "text": ("caption",)},
}
"""Fields in which frameworks keep the content of a point."""

_CODE = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://\S+"  # an address
    r"|\S+\.[A-Za-z][A-Za-z0-9]{1,4}"  # the name of a file
    r"|data:\S+"
    r"|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
    r"|[A-Za-z0-9+/_=-]{32,}"  # a hash, or base64
    r"|[+-]?[0-9][0-9.,:eE+-]*"
)


def value_of(payload: Mapping[str, Any], path: str) -> Any:
    """Return the value of a field, None if there is none.

    Dots lead into objects, and a bar into JSON that is kept as text: ``_node_content|text`` is the field ``text`` of
    what the text in ``_node_content`` describes.

    Raises:
        SourceError: A part before a bar holds no JSON.
    """
    if path in payload:
        return payload[path]
    first, *inner = path.split("|")
    value = _within(payload, first)
    for part in inner:
        value = _within(_parsed(value, path), part)
    return value


def stored_field(path: str) -> str:
    """Return the part of a path that an engine can follow."""
    return path.partition("|")[0]


def doubt(path: str, values: Sequence[str]) -> str:
    """Return why the values of a field are hardly texts to judge; empty where they may be."""
    found = [value.strip() for value in values if value.strip()]
    if not found:
        return ""
    inside = [_object(value) for value in found]
    if all(each is not None for each in inside):
        names = sorted({str(name) for each in inside if isinstance(each, Mapping) for name in each})
        example = f"{path}|{'text' if 'text' in names or not names else names[0]}"
        known = f" with the fields {', '.join(names[:12])}" if names else ""
        return f"the values of field {path!r} are JSON{known}, not texts; a path leads into it, such as {example!r}"
    if all(_CODE.fullmatch(value) for value in found):
        return f"the values of field {path!r} are names, numbers or codes such as {found[0]!r:.60}, not texts"
    return ""


def _within(value: Any, path: str) -> Any:
    if isinstance(value, Mapping) and path in value:
        return value[path]
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _parsed(value: Any, path: str) -> Any:
    if value is None or value == "":
        return None
    if isinstance(value, Mapping):  # some writers keep it as an object after all
        return value
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError):
        what = f"field {stored_field(path)!r} holds no JSON, which {path!r} leads into"
        raise SourceError(what, hint="Name the field itself, without what is behind the bar") from None


def _object(text: str) -> Any:
    """Return the object or list that a text describes; None for another text."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
