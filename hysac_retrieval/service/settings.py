"""Settings of the service: who may ask, which folders its pictures come from, and the limits of a request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hysac_retrieval.errors import SettingsError

Scope = Literal["search", "search:unsafe", "review", "write", "admin"]
"""A right. ``search`` finds safe points, ``search:unsafe`` all of them, ``review`` decides, ``write`` adds and removes
points, ``admin`` is all of these."""

SCOPES: tuple[Scope, ...] = get_args(Scope)

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Names by which a service that is bound to loopback may be asked for: no other site's name that leads here."""


def checked_scopes(names: object) -> frozenset[Scope]:
    """Return scopes by their names.

    Raises:
        SettingsError: One is unknown.
    """
    given = frozenset(names) if isinstance(names, list | tuple | set | frozenset) else frozenset([names])
    if wrong := sorted(str(name) for name in given if name not in SCOPES):
        raise SettingsError(f"unknown scope {wrong[0]!r}", hint=f"Expected some of {', '.join(SCOPES)}")
    return given  # type: ignore[return-value]  # checked above


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Frozen):
    """Bounds of requests; what is beyond them is refused before anything is computed.

    Attributes:
        body: Largest body, in bytes.
        body_seconds: Longest time that a body may take to arrive.
        seconds: Longest time that an answer may take.
        pixels: Largest width × height of a picture that is searched with, indexed or shown.
        batch: Most points of one request.
        hits: Most hits of one request.
        threads: Requests that are computed at once.
        waiting: Requests that wait for a thread; further ones are answered with 429.
        rate: Requests of one caller in a second, on average; 0 for any number.
        burst: Requests that a caller may send at once before that counts.
    """

    body: int = Field(16 << 20, ge=1024)
    body_seconds: float = Field(20.0, gt=0)
    seconds: float = Field(30.0, gt=0)
    pixels: int = Field(50_000_000, ge=1)
    batch: int = Field(64, ge=1)
    hits: int = Field(1000, ge=1, le=10_000)
    threads: int = Field(4, ge=1, le=256)
    waiting: int = Field(256, ge=0)
    rate: float = Field(50.0, ge=0)
    burst: int = Field(200, ge=1)


class Proxy(_Frozen):
    """A reverse proxy that has identified its users, such as oauth2-proxy; nobody else is believed these headers.

    Attributes:
        address: Address that its connections come from.
        user: Header with the name of the user.
        groups: Header with the user's groups, between commas; one named ``hysac:review`` gives the scope ``review``.
        scopes: Scopes of every user.
    """

    address: str
    user: str = "x-forwarded-user"
    groups: str = "x-forwarded-groups"
    scopes: Annotated[frozenset[Scope], BeforeValidator(checked_scopes)] = frozenset({"search"})


class ServiceSettings(_Frozen):
    """Settings of a service.

    Attributes:
        keys: File of keys, as `hysac keys` writes it; None for no keys.
        proxy: Proxy whose word on users is taken.
        anonymous: Whether who has no key may search, safely; None: only where there are neither keys nor a proxy.
        audit: File of the audit log. Without one, nothing unsafe is answered and no review taken.
        roots: Folders that pictures are shown from, by the name of their source (a namespace, or the folder that was
            indexed); nothing else is read.
        hosts: Names that the service may be asked for by; empty for any.
        limits: Bounds of requests.
        two_people: Whether a decision that a point is safe needs a second person.
        secure_cookies: Whether cookies are only sent over https; False for loopback.
    """

    keys: Path | None = None
    proxy: Proxy | None = None
    anonymous: bool | None = None
    audit: Path | None = None
    roots: Mapping[str, Path] = {}
    hosts: tuple[str, ...] = LOOPBACK
    limits: Limits = Limits()
    two_people: bool = False
    secure_cookies: bool = False

    @property
    def open_to_all(self) -> bool:
        """Whether who has no key may search."""
        return self.anonymous if self.anonymous is not None else self.keys is None and self.proxy is None


def read_settings(text: str) -> ServiceSettings:
    """Return settings from their JSON form.

    Raises:
        SettingsError: They are not valid.
    """
    try:
        return ServiceSettings.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SettingsError(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
