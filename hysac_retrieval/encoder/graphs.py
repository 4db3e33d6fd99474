"""Files that an ONNX graph refers to, read from its bytes without loading it.

ONNX Runtime reads external weights from wherever a tensor says. So every tensor is looked at before a session is made:
its weights must lie in the graph itself, or in a file that the manifest lists and whose checksum was compared.

Only the nesting of protocol buffers is read, along the fields that lead to tensors (onnx.proto); the rest is skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path

from hysac_retrieval.errors import MORE_RESOURCES, BundleFormatError, ResourceError

_AGAIN = "Export the bundle again"

# Kind of message, then number of a field, to the kind of message that the field holds.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE, _LOCATION = 1, 2, 14
_EXTERNAL = 1  # of data_location
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_Span = tuple[int, int]


def expect_listed(path: Path, listed: Collection[str]) -> None:
    """Check that a graph takes its weights from itself or from files that the manifest lists.

    Raises:
        BundleFormatError: It takes them from elsewhere, or the file is no ONNX graph.
        ResourceError: There is no memory to map it, or no further file may be open.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for location in _locations(data):
                where = location.decode("utf-8", "backslashreplace")
                if where not in listed:
                    what = f"{path} takes weights from {where!r}, which the manifest does not list"
                    raise BundleFormatError(what, hint=_AGAIN)
    except BundleFormatError:
        raise
    except FileNotFoundError as error:
        raise BundleFormatError(f"{path} is gone", hint=_AGAIN) from error
    except OSError as error:  # its checksum was taken, so it can be read
        raise ResourceError(f"cannot map {path}: {error}", hint=MORE_RESOURCES) from error
    except (ValueError, IndexError) as error:
        raise BundleFormatError(f"cannot load {path}, which is no ONNX graph: {error}", hint=_AGAIN) from error


def _locations(data: mmap.mmap) -> Iterator[bytes]:
    """Return the places of external weights; of a tensor that names none, an empty one."""
    waiting: list[tuple[str, _Span]] = [("model", (0, len(data)))]
    while waiting:
        kind, span = waiting.pop()
        inner = _FIELDS[kind]
        external, named = False, False
        for number, value in _fields(data, span):
            if kind == "tensor" and number == _LOCATION:
                external = external or value == _EXTERNAL
            elif number in inner:
                if not isinstance(value, tuple):
                    raise ValueError(f"field {number} of a {kind} is no message")
                if kind == "tensor":
                    name, location = _entry(data, value)
                    if name == b"location":
                        named = True
                        yield location  # each, as readers may take the first or the last
                else:
                    waiting.append((inner[number], value))
        if external and not named:
            yield b""


def _entry(data: mmap.mmap, span: _Span) -> tuple[bytes, bytes]:
    found = {number: data[slice(*value)] for number, value in _fields(data, span) if isinstance(value, tuple)}
    return found.get(_KEY, b""), found.get(_VALUE, b"")


def _fields(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, int | _Span]]:
    """Return the fields of a message: a number, or the span of a string, of bytes or of a message."""
    at, end = span
    while at < end:
        tag, at = _varint(data, at)
        number, form = tag >> 3, tag & 7
        value: int | _Span = 0
        if form == _VARINT:
            value, at = _varint(data, at)
        elif form == _BYTES:
            length, at = _varint(data, at)
            value = (at, at + length)
            at += length
        elif form in (_FIXED32, _FIXED64):
            at += 4 if form == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {form} at byte {at}")
        if number == 0 or at > end:
            raise ValueError(f"a field that ends beyond its message at byte {at}")
        yield number, value


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError(f"a number of more than ten bytes at byte {at}")
