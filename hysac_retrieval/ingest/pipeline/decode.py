"""Contents to hashes and pixels. Worker processes import this module and nothing else, so it stays light.

An image is read once: the bytes that are hashed are those that are decoded, unless theirs is the hash of the point that
is stored already.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.encoder.pictures import read_picture
from hysac_retrieval.encoder.views import PIXELS, Views, picture_views
from hysac_retrieval.errors import ImageError
from hysac_retrieval.safety.views import ViewSetting

PIPE_ENDED = (EOFError, OSError, pickle.UnpicklingError)
"""Errors of a pipe whose other end is gone."""

_HASH_BYTES = 16  # BLAKE2b; equal ones by accident are out of the question


@dataclass(frozen=True, slots=True)
class Job:
    """A content to hash, together with a salt, and to decode if it is an image whose hash is not the known one."""

    content: Path | bytes | str
    salt: bytes
    known: str | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """Result of a job.

    Attributes:
        hash: Content hash, hexadecimal; empty for an image that cannot be read.
        views: Views of an image; None for a text, for a known hash, or with an error.
        error: Why it cannot be decoded.
        seen: Views of an image for a second judge; None without one.
    """

    hash: str
    views: Views | None = None
    error: ImageError | None = None
    seen: Views | None = None


@dataclass(frozen=True, slots=True)
class Decoding:
    """Hashes and, with a `spec` of the pixels, decodes `views` of images of at most `max_pixels` (width × height).

    A `second` judge gets views, too.
    """

    spec: ImageSpec | None
    max_pixels: int
    views: ViewSetting = "fast"
    second: bool = False

    def __call__(self, jobs: Sequence[Job]) -> list[Decoded]:
        """Return a result for each job; an image that cannot be decoded has an error in its place."""
        return [self._decode(job) for job in jobs]

    def _decode(self, job: Job) -> Decoded:
        if isinstance(job.content, str):
            return Decoded(content_hash(job.salt, job.content.encode("utf-8", "surrogatepass")))
        if self.spec is None:
            return Decoded(_hash_of(job.content, job.salt))
        found = ""
        try:
            path = job.content if isinstance(job.content, Path) else None
            data = job.content if isinstance(job.content, bytes) else read_picture(job.content)
            found = content_hash(job.salt, data)
            if found == job.known:
                return Decoded(found)
            views = picture_views(data, self.spec, self.views, max_pixels=self.max_pixels, path=path)
            if not self.second:
                return Decoded(found, views)
            seen = picture_views(data, PIXELS, self.views, max_pixels=self.max_pixels, path=path)
            return Decoded(found, views, seen=seen)
        except ImageError as error:
            # Without its cause, which need not survive a pipe.
            return Decoded(found, error=ImageError(error.message, hint=error.hint))
        except MemoryError:
            return Decoded(found, error=ImageError("the memory is too small to decode the image", hint="Scale it down"))


def serve() -> None:
    """Decode in a worker process: read a `Decoding` and then jobs from standard input, until it ends.

    Standard output gets True, and then the results of each read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be blocked
    with suppress(*PIPE_ENDED), os.fdopen(os.dup(1), "wb") as results:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no result
        decoding, result = pickle.load(sys.stdin.buffer), True
        while True:
            pickle.dump(result, results)
            results.flush()
            result = decoding(pickle.load(sys.stdin.buffer))


def content_hash(salt: bytes, data: bytes) -> str:
    """Hash of an item: `salt` stands for its payload, `data` are its bytes."""
    return hashlib.blake2b(salt + data, digest_size=_HASH_BYTES).hexdigest()


def _hash_of(content: Path | bytes, salt: bytes) -> str:
    """Hash an image without keeping it in memory."""
    try:
        if isinstance(content, bytes):
            return content_hash(salt, content)
        if not content.is_file():  # a pipe would block
            return ""
        with content.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(salt, digest_size=_HASH_BYTES)).hexdigest()
    except OSError:
        return ""
