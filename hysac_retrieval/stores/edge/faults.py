"""Errors of the embedded engine, which raises plain `Exception`s, in the tree of `errors`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hysac_retrieval.errors import MORE_RESOURCES, HysacError, StorageFullError, StorageLockedError, StoreError

_FULL = ("No space left", "Not enough space", "File too large", "Disk quota exceeded")
_DAMAGED = ("Can't read WAL", "Failed to deserialize payload")
_SHORT = ("Cannot allocate memory", "Resource temporarily unavailable", "Too many open files")
_READ_ONLY = ("Permission denied", "Read-only file system")


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn what the engine raises into a `StoreError` about a collection."""
    try:
        yield
    except HysacError:
        raise
    except Exception as error:
        if "WouldBlock" in str(error):
            raise StorageLockedError(
                f"collection {name!r} is open elsewhere (another process, or another Index of this one)",
                hint="Close that one or share it, or run a Qdrant server and use url= for several processes",
            ) from error
        raise failed(name, str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the engine's language, and no `Exception`
            raise
        raise failed(name, f"the engine gave up: {error}") from error


def failed(name: str, what: str) -> StoreError:
    """Return the error for something that went wrong with a collection, in the engine's or the system's words."""
    message = f"collection {name!r}: {what}"
    if any(sign in what for sign in _FULL):
        return StorageFullError(message, hint="Free some space, or move the folder to a larger disk")
    if any(sign in what for sign in _DAMAGED):
        return StoreError(
            message, hint="Rebuild it from what can be read: hysac doctor --repair --location … --collection …"
        )
    if any(sign in what for sign in _SHORT):
        return StoreError(message, hint=MORE_RESOURCES)
    if any(sign in what for sign in _READ_ONLY):
        return StoreError(
            message,
            hint="The embedded engine writes to its folder even to search; give this user write permission on it, use "
            "a copy, or run a Qdrant server",
        )
    return StoreError(message)
