"""Who asks, and what that caller may do: a key, a session that a key began, a proxy's user, or nobody.

Everything fails closed: a key that is shown and does not count is refused, and not served as nobody.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hysac_retrieval.errors import HysacError
from hysac_retrieval.service.keys import Clock, Key, Keys
from hysac_retrieval.service.settings import SCOPES, Proxy, Scope, ServiceSettings

SESSION_COOKIE = "hysac_session"
CSRF_HEADER = "x-csrf-token"
SESSION_SECONDS = 8 * 3600
_READS = ("GET", "HEAD", "OPTIONS")


class NoKeyError(HysacError, PermissionError):
    """There is no key, or one that does not count."""


class ScopeError(HysacError, PermissionError):
    """The caller lacks a scope."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        id: Id of the key, ``proxy:`` and the user's name, or ``anonymous``; stands in the audit log.
        scopes: What it may do, `admin` resolved into all scopes.
        address: Where the connection came from.
        csrf: Token that the page shows with what it changes; None without a session.
    """

    id: str
    scopes: frozenset[Scope]
    address: str
    csrf: str | None = None

    @property
    def sees_unsafe(self) -> bool:
        """Whether unsafe points may be shown to it."""
        return "search:unsafe" in self.scopes

    def expect(self, *scopes: Scope) -> None:
        """Raise `ScopeError` unless it has all of these scopes."""
        if lacking := [scope for scope in scopes if scope not in self.scopes]:
            if self.id == "anonymous":
                raise NoKeyError(f"this needs a key with the scope {lacking[0]!r}", hint=_SHOW)
            raise ScopeError(f"this key lacks the scope {lacking[0]!r}", hint="Ask whoever runs the service for it")


_SHOW = "Send it as Authorization: Bearer hysac_…"


class Door:
    """Tells who asks.

    Args:
        settings: What counts.
        now: Clock, in seconds since 1970.
    """

    def __init__(self, settings: ServiceSettings, *, now: Clock = time.time) -> None:
        self._settings, self._now = settings, now
        self.keys = None if settings.keys is None else Keys(settings.keys, now=now)

    @property
    def guarded(self) -> bool:
        """Whether there are keys or a proxy at all."""
        return self.keys is not None or self._settings.proxy is not None

    def caller(self, method: str, headers: Mapping[str, str], cookies: Mapping[str, str], address: str) -> Caller:
        """Return who asks.

        Args:
            method: HTTP method.
            headers: Headers, by lower-case name.
            cookies: Cookies.
            address: Where the connection comes from.

        Raises:
            NoKeyError: A key or session is shown that does not count; or there is none, and nobody may ask.
            ScopeError: A session changes something without its CSRF token.
        """
        if (shown := headers.get("authorization")) is not None:
            scheme, _, token = shown.partition(" ")
            key = self.keys.find(token.strip()) if self.keys is not None and scheme.lower() == "bearer" else None
            if key is None:
                raise NoKeyError("this key does not count", hint=_SHOW)
            return Caller(key.id, _all(key.scopes), address)
        if (session := cookies.get(SESSION_COOKIE)) is not None and self.keys is not None:
            return self._of_session(session, method, headers, address)
        proxy = self._settings.proxy
        if proxy is not None and address == proxy.address and (user := headers.get(proxy.user)):
            return Caller(f"proxy:{user[:200]}", _all(_proxy_scopes(proxy, headers)), address)
        if self._settings.open_to_all:
            return Caller("anonymous", frozenset({"search"}), address)
        raise NoKeyError("this service answers nobody without a key", hint=_SHOW)

    def begin(self, shown: str) -> tuple[str, Caller]:
        """Begin a session of a key: returns the cookie, and the caller that it stands for.

        Raises:
            NoKeyError: The key does not count.
        """
        key = None if self.keys is None else self.keys.find(shown)
        if key is None:
            raise NoKeyError("this key does not count")
        session = f"{key.id}.{int(self._now()) + SESSION_SECONDS}"
        session = f"{session}.{self._signature('session', session, key)}"
        return session, Caller(key.id, _all(key.scopes), "", self._signature("csrf", session, key))

    def _of_session(self, session: str, method: str, headers: Mapping[str, str], address: str) -> Caller:
        signed, _, signature = session.rpartition(".")
        identity, _, until = signed.partition(".")
        file = None if self.keys is None else self.keys.file
        key = None if file is None else file.find(identity)
        if key is None or not until.isdecimal() or int(until) < self._now():
            raise NoKeyError("the session has ended", hint="Show the key again")
        if not hmac.compare_digest(signature.encode(), self._signature("session", signed, key).encode()):
            raise NoKeyError("the session has ended", hint="Show the key again")
        csrf = self._signature("csrf", session, key)
        if method not in _READS and not hmac.compare_digest(headers.get(CSRF_HEADER, "").encode(), csrf.encode()):
            raise ScopeError(f"the header {CSRF_HEADER} is not that of the session", hint="Take it from /v1/session")
        return Caller(key.id, _all(key.scopes), address, csrf)

    def _signature(self, use: str, text: str, key: Key) -> str:
        """Sign a text; with the hash of the key's newest secret, so that rotating a key ends its sessions."""
        file = None if self.keys is None else self.keys.file
        if file is None or not key.hashes:
            raise NoKeyError("the session has ended", hint="Show the key again")
        message = f"{use}\n{text}\n{key.hashes[0].sha256}"
        return hmac.new(file.signing.encode(), message.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _all(scopes: frozenset[Scope]) -> frozenset[Scope]:
    return frozenset(SCOPES) if "admin" in scopes else scopes


def _proxy_scopes(proxy: Proxy, headers: Mapping[str, str]) -> frozenset[Scope]:
    groups = (group.strip() for group in headers.get(proxy.groups, "").split(","))
    named = {group.removeprefix("hysac:") for group in groups if group.startswith("hysac:")}
    return proxy.scopes | {scope for scope in SCOPES if scope in named}


class Rate:
    """How often each caller may ask: a bucket that fills at `rate` a second and holds `burst`.

    Args:
        rate: Requests in a second; 0 for any number.
        burst: Requests at once.
        clock: Monotonic seconds.
    """

    MOST = 10_000
    """Callers that are remembered; of more, those that asked longest ago are forgotten."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, caller: str) -> float:
        """Count a request; returns the seconds after which it may come again, 0 where it may be answered."""
        if self._rate == 0:
            return 0.0
        now = self._clock()
        left, then = self._left.pop(caller, (float(self._burst), now))
        left = min(self._burst, left + (now - then) * self._rate)
        allowed = left >= 1
        self._left[caller] = (left - allowed, now)
        if len(self._left) > self.MOST:
            del self._left[next(iter(self._left))]
        return 0.0 if allowed else (1 - left) / self._rate
