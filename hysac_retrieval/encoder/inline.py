"""Pictures that are written as text: base64 in any of its forms, and data: URLs."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from hysac_retrieval.errors import ImageError

_URL_SAFE = str.maketrans("-_", "+/", " \t\r\n\v\f")


def is_data_url(text: str) -> bool:
    """Whether a text is a data: URL."""
    return text[:5].lower() == "data:"


def picture_bytes(text: str) -> bytes:
    """Return the bytes of a picture's file from a data: URL, or from base64.

    The base64 may be of the usual or the URL-safe alphabet, with or without its padding, and wrapped into lines.

    Raises:
        ImageError: It is neither, or empty.
    """
    text = text.strip()
    if not is_data_url(text):
        return _decoded(text)
    kind, comma, data = text[5:].partition(",")
    if not comma:
        raise ImageError("a data: URL without a comma holds no data", hint="Write data:image/png;base64,…")
    if kind.rstrip().lower().endswith(";base64"):
        return _decoded(unquote_to_bytes(data).decode("latin-1"))
    return _filled(unquote_to_bytes(data))


def _decoded(text: str) -> bytes:
    plain = text.translate(_URL_SAFE).rstrip("=")
    try:
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):  # the latter for what is not ASCII
        raise ImageError("it is not base64", hint="Send the bytes of the file as base64, or as a data: URL") from None
    return _filled(data)


def _filled(data: bytes) -> bytes:
    if not data:
        raise ImageError("it is empty", hint="Send the bytes of the picture's file")
    return data
