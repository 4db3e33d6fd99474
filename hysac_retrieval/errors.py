"""Every error a user can cause, in one tree.

HysacError
├── BundleError                 a model bundle cannot be used
│   ├── BundleNotFoundError     no such folder, bundled name or hub repository
│   ├── BundleFormatError       the manifest or a graph is not what the format asks for
│   ├── ChecksumError           a file is not the one that the manifest describes
│   └── NoEncoderError          it has no encoder for this kind of input
├── MissingExtraError           an optional dependency is not installed
├── VersionError                Python or an installed package is too old
├── EncoderError                an encoder for a safety head is missing, of an unknown kind, or fails
├── DeviceError                 a device cannot be used for encoding
├── InputError                  an input cannot be read as what it should be
│   ├── ImageError              missing, truncated, not an image, or beyond the pixel limit
│   ├── TextError               empty text, or not text
│   ├── InvalidVectorError      wrong shape, wrong dimension, not finite
│   ├── PolicyError             a policy in words that cannot be read or contradicts itself
│   └── SourceError             an indexing source that cannot be read
├── StoreError                  the vector store refused or failed
│   ├── CollectionNotFoundError the collection does not exist
│   ├── PointNotFoundError      it has no point of that id
│   ├── CollectionExistsError   it exists already
│   ├── NotACollectionError     it exists without the vector or the metadata of an index
│   ├── StorageLockedError      another process has the folder open
│   ├── StorageFullError        there is no room left to write
│   ├── StoreUnavailableError   it is down, slow or overloaded; the same call may work later
│   ├── CopiesAwayError         fewer copies on a cluster can be read than were asked for
│   └── ModelMismatchError      it was indexed with another model
├── ForkedError                 it was opened before a fork, in another process
├── ResourceError               the system gives no more threads or memory
├── UnsafeNotAllowedError       the caller asked for more than the policy allows
├── NotGuardedError             a guarded client does not have that method
├── SettingsError               options that are out of range or contradict each other
└── TrainingError               data, configuration or checkpoint of a training run is unusable

An error says what was found and expected (`message`) and what to do about it (`hint`). Errors about a bad value are
also `ValueError`s and those about missing files `FileNotFoundError`s, so that callers need not import this package.
"""

from __future__ import annotations

import re
from typing import Any

UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal or a log obeys, or that turn the direction of writing, and halves of surrogate pairs."""


def printable(text: str) -> str:
    """Return a text as it may go to a terminal or a log, in one line: such characters stand there as escapes."""
    return UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


class HysacError(Exception):
    """Base of all errors raised on purpose by this package.

    Attributes:
        message: What was found and expected, without a full stop, `printable`: it quotes what other people wrote.
        hint: What to do about it, as a sentence without a full stop; empty if the message says it all.
    """

    def __init__(self, message: str = "", *, hint: str = "", **rest: Any) -> None:
        self.message, self.hint = (printable(" ".join(text.split("\n"))) for text in (message, hint))
        super().__init__(self.message, **rest)

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


class NoEncoderError(BundleError):
    """The bundle has no encoder for this kind of input."""


class MissingExtraError(HysacError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            hint=f"Install it with: pip install 'hysac-retrieval[{extra}]'",
        )
        self.package = package
        self.extra = extra


class VersionError(HysacError, ImportError):
    """Python, or a package that is installed, is older than this package needs."""


class EncoderError(HysacError, ValueError):
    """An encoder for a safety head is missing, of a kind that is not supported, or fails."""


class DeviceError(HysacError, RuntimeError):
    """A device cannot be used for encoding."""


class InputError(HysacError, ValueError):
    """An input cannot be read as what it should be."""


class ImageError(InputError):
    """An image is missing, truncated, not an image, or beyond the pixel limit."""


class TextError(InputError):
    """A text is empty or is not text."""


class DomainError(InputError):
    """An input is unlike all that the model knows, and that was said to be an error."""


class InvalidVectorError(InputError):
    """A vector has the wrong shape or dimension, or is not finite."""


class PolicyError(InputError):
    """A policy in words cannot be read, or contradicts itself."""


class SourceError(InputError):
    """An indexing source cannot be read."""


class StoreError(HysacError):
    """The vector store refused or failed.

    Attributes:
        written: Points of an upsert that were certainly written before it failed; None for any other call.
    """

    written: int | None = None


class CollectionNotFoundError(StoreError):
    """The collection does not exist."""


class PointNotFoundError(StoreError, KeyError):
    """The collection has no point of that id."""


class CollectionExistsError(StoreError):
    """The collection exists already."""


class NotACollectionError(StoreError):
    """The collection exists without the vector or the metadata of an index."""


class StorageLockedError(StoreError):
    """Another process has the storage folder open."""


class StorageFullError(StoreError):
    """There is no room left to write."""


class RequestTooLargeError(StoreError):
    """One request, even of a single point, is more than the store takes at once."""


class StoreUnavailableError(StoreError):
    """The store is down, too slow or overloaded; the same call may work later.

    Attributes:
        retry_after: Seconds that the store asks to wait; None if it names none.
    """

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class CopiesAwayError(StoreError):
    """Fewer copies of a shard can be read than were asked for, as a node of the cluster is away."""


class ModelMismatchError(StoreError):
    """The collection was indexed with another model."""


class ForkedError(HysacError, RuntimeError):
    """An engine, a store or an encoder was opened before a fork and is used in the process that was forked."""


MORE_RESOURCES = (
    "Raise the limits of this process (ulimit -v for memory, -u for threads, -n for files), or of its container"
)
"""What mends a shortage that native code has met with."""


class ResourceError(HysacError, RuntimeError):
    """The system gives this process no more threads or memory."""


class UnsafeNotAllowedError(HysacError, PermissionError):
    """Unsafe results were requested and the policy does not allow them."""


class NotGuardedError(HysacError, AttributeError):
    """A guarded client lacks this method or attribute, because what it returns could be unsafe."""


class SettingsError(HysacError, ValueError):
    """An option is out of range or contradicts another."""


class TrainingError(HysacError, ValueError):
    """The data, the configuration or the checkpoint of a training run is unusable."""
