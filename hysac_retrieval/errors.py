"""Every error a user can cause, in one tree.

HysacError
├── BundleError                 a model bundle cannot be used
│   ├── BundleNotFoundError     no such folder, bundled name or hub repository
│   ├── BundleFormatError       the manifest or a graph is not what the format asks for
│   └── ChecksumError           a file is not the one that the manifest describes
├── MissingExtraError           an optional dependency is not installed
├── DeviceError                 a device cannot be used for encoding
├── InputError                  something given to us cannot be read as what it should be
│   ├── ImageError              missing, truncated, not an image, or beyond the pixel limit
│   ├── TextError               empty text, or not text
│   ├── InvalidVectorError      wrong shape, wrong dimension, not finite
│   └── SourceError             an indexing source that cannot be read
├── StoreError                  the vector store said no
│   ├── CollectionNotFoundError the collection does not exist
│   ├── PointNotFoundError      it has no point of that id
│   ├── CollectionExistsError   it exists already
│   ├── NotACollectionError     it exists but lacks our vector or our metadata
│   ├── StorageLockedError      another process has the folder open
│   ├── StorageFullError        there is no room left to write
│   ├── StoreUnavailableError   it is away, slow or overloaded; later it may work
│   └── ModelMismatchError      it was indexed with another model
├── UnsafeNotAllowedError       the caller asked for more than the policy allows
├── NotGuardedError             a guarded client does not have that method
├── SettingsError               options that are out of range or contradict each other
└── TrainingError               data, configuration or checkpoint of a training run is unusable

An error says what was found and what was expected (`message`) and what mends it (`hint`). Errors that mean "a bad
value" are also `ValueError`s and missing files are also `FileNotFoundError`s, so that code
which knows nothing of this package can catch them in the usual way.
"""

from __future__ import annotations

from typing import Any


class HysacError(Exception):
    """Base of all errors raised on purpose by this package.

    Attributes:
        message: What was found and what was expected, without a full stop.
        hint: What mends it, as a sentence without a full stop; empty where the message says it all.
    """

    def __init__(self, message: str = "", *, hint: str = "", **rest: Any) -> None:
        super().__init__(message, **rest)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class BundleError(HysacError):
    """A model bundle cannot be used."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """No such folder, bundled model name or hub repository."""


class BundleFormatError(BundleError, ValueError):
    """The manifest or a graph is not what the bundle format asks for."""


class ChecksumError(BundleError):
    """A file of the bundle is not the one its manifest describes."""


class MissingExtraError(HysacError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=f"Install it with: pip install 'hysac-retrieval[{extra}]'",
        )
        self.package = package
        self.extra = extra


class DeviceError(HysacError, RuntimeError):
    """A device that was asked for cannot be used; the message says why and what mends it."""


class InputError(HysacError, ValueError):
    """Something given to us cannot be read as what it should be."""


class ImageError(InputError):
    """An image is missing, truncated, not an image, or beyond the pixel limit."""


class TextError(InputError):
    """A text is empty or is not text."""


class InvalidVectorError(InputError):
    """A vector has the wrong shape or dimension, or is not finite."""


class SourceError(InputError):
    """An indexing source cannot be read."""


class StoreError(HysacError):
    """The vector store refused or failed.

    Attributes:
        written: Of the points of one upsert, how many were certainly written before it failed; None where nothing was
            being written.
    """

    written: int | None = None


class CollectionNotFoundError(StoreError):
    """The collection does not exist."""


class PointNotFoundError(StoreError, KeyError):
    """The collection has no point of that id."""


class CollectionExistsError(StoreError):
    """The collection exists already."""


class NotACollectionError(StoreError):
    """What is there lacks our vector or our metadata."""


class StorageLockedError(StoreError):
    """Another process has the storage folder open."""


class StorageFullError(StoreError):
    """There is no room left to write."""


class StoreUnavailableError(StoreError):
    """The store is away, too slow, overloaded or in trouble: the same call may work later.

    Attributes:
        retry_after: Seconds that the store asks to wait; None if it named none.
    """

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ModelMismatchError(StoreError):
    """The collection was indexed with another model."""


class UnsafeNotAllowedError(HysacError, PermissionError):
    """The caller asked for unsafe results where the policy does not allow them."""


class NotGuardedError(HysacError, AttributeError):
    """A guarded client does not have this method or attribute, because what it returns could be unsafe."""


class SettingsError(HysacError, ValueError):
    """An option is out of range or contradicts another."""


class TrainingError(HysacError, ValueError):
    """The data, the configuration or the checkpoint of a training run is unusable."""
