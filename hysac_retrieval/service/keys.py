"""API keys: a file that holds their hashes, made and changed by `hysac keys`, read again when it changes.

A key is ``hysac_<id>_<secret>``. The secret has 256 bits at random, so a fast hash of it cannot be guessed back; the
key itself is shown once and kept nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.service.settings import Scope, checked_scopes

PREFIX = "hysac"
_NOBODY = hashlib.sha256(b"").hexdigest()
Clock = Callable[[], float]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hash(_Record):
    """Hash of a secret, and until when it counts (seconds since 1970; None for ever)."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    until: float | None = None


class Key(_Record):
    """A key, as it is kept.

    Attributes:
        id: Names it, also in the audit log.
        name: Whose it is, for people.
        scopes: What it may do.
        made: When it was made.
        hashes: Its secrets: one, or two while it is being rotated.
        revoked: When it was revoked; None while it counts.
    """

    id: str
    name: str
    scopes: Annotated[frozenset[Scope], BeforeValidator(checked_scopes)]
    made: str
    hashes: tuple[Hash, ...]
    revoked: str | None = None


class KeyFile(_Record):
    """The file: keys, and the secret that sessions are signed with."""

    signing: str = Field(min_length=32)
    keys: tuple[Key, ...] = ()

    def find(self, identity: str) -> Key | None:
        """Return the key of an id that counts."""
        return next((key for key in self.keys if key.id == identity and key.revoked is None), None)


def read_keys(path: Path) -> KeyFile:
    """Read a file of keys.

    Raises:
        SettingsError: It is missing, cannot be read, or is no such file.
    """
    try:
        return KeyFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no file of keys"
        raise SettingsError(f"{path} cannot be read: {why}", hint="Make one with `hysac keys make`") from None


class Keys:
    """Keys by what callers show of them; the file is looked at again when it has changed.

    Once it cannot be read, no key counts.
    """

    def __init__(self, path: Path, *, now: Clock = time.time) -> None:
        self._path, self._now = path, now
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._file: KeyFile | None = None
        read_keys(path)  # a mistake is told at once

    @property
    def file(self) -> KeyFile | None:
        """The file as it is now; None if it cannot be read."""
        try:
            state = os.stat(self._path)
            stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
        except OSError:
            return None
        with self._lock:
            if stamp != self._stamp:
                try:
                    self._file = read_keys(self._path)
                except SettingsError:
                    self._file = None
                self._stamp = stamp
            return self._file

    def find(self, shown: str) -> Key | None:
        """Return the key that a caller shows; None if there is none that counts."""
        prefix, _, rest = shown.partition("_")
        identity, _, secret = rest.partition("_")
        file = self.file
        key = file.find(identity) if file is not None and prefix == PREFIX else None
        given = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        # As long for an id that is not there as for one that is.
        counting = [hash for hash in key.hashes if hash.until is None or hash.until > self._now()] if key else []
        same = [hmac.compare_digest(given, hash.sha256) for hash in counting or [Hash(sha256=_NOBODY)]]
        return key if key is not None and counting and any(same) else None


def make_key(path: Path, name: str, scopes: Iterable[str]) -> tuple[Key, str]:
    """Add a key to a file, which is made if need be; returns what is kept of it, and the key itself.

    Raises:
        SettingsError: A scope is unknown, there is none, or the file cannot be read or written.
    """
    rights = checked_scopes(tuple(scopes))
    if not rights:
        raise SettingsError("a key without scopes opens nothing", hint="Give --scope search")
    secret, identity = secrets.token_urlsafe(32), secrets.token_hex(4)
    key = Key(id=identity, name=name, scopes=rights, made=_today(), hashes=(_hash(secret),))
    with _changing(path, new=True) as file:
        _write(path, file.model_copy(update={"keys": (*file.keys, key)}))
    return key, f"{PREFIX}_{identity}_{secret}"


def rotate_key(path: Path, identity: str, *, keep_seconds: float = 0.0) -> tuple[Key, str]:
    """Give a key another secret; the earlier one counts for so many seconds more.

    Raises:
        SettingsError: There is no such key, or the file cannot be read or written.
    """
    secret = secrets.token_urlsafe(32)
    with _changing(path) as file:
        key = _known(file, identity)
        until = time.time() + keep_seconds
        earlier = [hash.model_copy(update={"until": until}) for hash in key.hashes if hash.until is None]
        hashes = (_hash(secret), *(earlier if keep_seconds > 0 else ()))
        key = key.model_copy(update={"hashes": hashes})
        _write(path, _with(file, key))
    return key, f"{PREFIX}_{identity}_{secret}"


def revoke_key(path: Path, identity: str) -> Key:
    """Have a key count no more, from the next request on; it stays in the list.

    Raises:
        SettingsError: There is no such key, or the file cannot be read or written.
    """
    with _changing(path) as file:
        key = _known(file, identity).model_copy(update={"revoked": _today(), "hashes": ()})
        _write(path, _with(file, key))
    return key


def _today() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _hash(secret: str) -> Hash:
    return Hash(sha256=hashlib.sha256(secret.encode()).hexdigest())


def _known(file: KeyFile, identity: str) -> Key:
    if (key := file.find(identity)) is None:
        raise SettingsError(f"there is no key {identity!r} that counts", hint="List them with `hysac keys list`")
    return key


def _with(file: KeyFile, changed: Key) -> KeyFile:
    keys = tuple(changed if key.id == changed.id else key for key in file.keys)
    return file.model_copy(update={"keys": keys})


@contextmanager
def _changing(path: Path, *, new: bool = False) -> Iterator[KeyFile]:
    """Hold the file for one change, so that two at once lose none."""
    from hysac_retrieval.service.files import locked

    with locked(path.with_name(path.name + ".lock")):
        yield KeyFile(signing=secrets.token_hex(32)) if new and not path.exists() else read_keys(path)


def _write(path: Path, file: KeyFile) -> None:
    """Write the file whole or not at all, for its owner's eyes only."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(file.model_dump_json(indent=1, exclude_none=True).encode())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
