"""Errors as `application/problem+json` (RFC 9457): what was found, and what mends it; never a trace or a path."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from hysac_retrieval import errors
from hysac_retrieval.service.access import NoKeyError, ScopeError
from hysac_retrieval.service.log import AuditError

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)

RETRY_SECONDS = 2
"""After how long a caller may try again where nobody has said so."""


class BusyError(errors.HysacError):
    """More is asked than is answered; the same request may be sent later."""

    def __init__(self, message: str, *, seconds: float = 1.0) -> None:
        super().__init__(message, hint="Send it again after the seconds in Retry-After")
        self.seconds = seconds


class TooLargeError(errors.InputError):
    """A body, or what is in it, is beyond a limit of the service."""


class TooSlowError(errors.HysacError):
    """A body, or an answer, took too long."""


class Problem(BaseModel):
    """An error.

    Attributes:
        type: Always ``about:blank``; `error` tells the kinds apart.
        title: Name of the status.
        status: HTTP status.
        detail: What was found and expected.
        hint: What to do about it; empty if `detail` says it all.
        error: Kind of the error.
        request_id: Names the request in the service's log.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Unprocessable Content",
                "status": 422,
                "detail": "limit is 0; it must be from 1 to 10,000",
                "hint": "",
                "error": "SettingsError",
                "request_id": "5f0c2a9be4d14c6f",
            }
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    hint: str = ""
    error: str
    request_id: str = ""


_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (NoKeyError, 401, "Unauthorized"),
    (ScopeError, 403, "Forbidden"),
    (errors.UnsafeNotAllowedError, 403, "Forbidden"),
    (errors.PointNotFoundError, 404, "Not Found"),
    (BusyError, 429, "Too Many Requests"),
    (TooLargeError, 413, "Content Too Large"),
    (errors.RequestTooLargeError, 413, "Content Too Large"),
    (errors.InputError, 422, "Unprocessable Content"),
    (errors.SettingsError, 422, "Unprocessable Content"),
    (AuditError, 503, "Service Unavailable"),
    (errors.StoreUnavailableError, 503, "Service Unavailable"),
    (errors.CopiesAwayError, 503, "Service Unavailable"),
    (errors.CollectionNotFoundError, 503, "Service Unavailable"),
    (errors.ModelMismatchError, 503, "Service Unavailable"),
    (errors.StorageFullError, 507, "Insufficient Storage"),
    (TooSlowError, 504, "Gateway Timeout"),
)
_SPOKEN = (401, 403, 404, 413, 422, 429)
"""Statuses whose message is the caller's business; those of others may name hosts and folders, and go to the log."""

_INSTEAD = {
    503: ("the collection cannot be searched now", "Send the request again after the seconds in Retry-After"),
    504: ("the answer took too long", "Ask for less, or later"),
    507: ("there is no room left to write", "Tell whoever runs the service"),
    500: ("the service failed", "Tell whoever runs the service the request_id"),
}
_TITLES = {status: title for _, status, title in _STATUS} | {
    400: "Bad Request",
    405: "Method Not Allowed",
    408: "Request Timeout",
    421: "Misdirected Request",
    500: "Internal Server Error",
}


def request_id(request: Request) -> str:
    """Return the id of a request; empty where nobody gave it one."""
    return str(request.scope.get("hysac.request_id", ""))


def problem(
    status: int,
    detail: str,
    *,
    error: str,
    hint: str = "",
    request_id: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error as a response."""
    title = _TITLES.get(status, "Error")
    found = Problem(title=title, status=status, detail=detail, hint=hint, error=error, request_id=request_id)
    return Response(found.model_dump_json(), status, headers, MEDIA_TYPE)


def of_error(request: Request, error: Exception) -> Response:
    """Return what a caller is told of an error; what it is not told goes to the log."""
    status = next((status for kind, status, _ in _STATUS if isinstance(error, kind)), 500)
    identity, kind = request_id(request), type(error).__name__
    if status in _SPOKEN and isinstance(error, errors.HysacError):
        detail, hint = error.message, error.hint
    else:
        _log.log(logging.ERROR if status == 500 else logging.WARNING, "request %s: %s", identity, kind, exc_info=error)
        detail, hint = _INSTEAD.get(status, _INSTEAD[500])
        if isinstance(error, AuditError):
            detail, hint = error.message, "Tell whoever runs the service"
    headers = {}
    if status in (429, 503):
        after = error.seconds if isinstance(error, BusyError) else getattr(error, "retry_after", None) or RETRY_SECONDS
        headers["Retry-After"] = str(max(1, math.ceil(after)))
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="hysac"'
    return problem(status, detail, error=kind, hint=hint, request_id=identity, headers=headers)


def of_validation(request: Request, error: RequestValidationError) -> Response:
    """Return what is wrong with a request that does not have the form of the document; never what it holds."""
    first, *rest = error.errors()
    where = ".".join(str(part) for part in first["loc"])
    detail = errors.printable(f"{where}: {first['msg']}" + (f" (and {len(rest)} more)" if rest else ""))[:500]
    hint = "See /openapi.json"
    return problem(422, detail, error="RequestValidationError", hint=hint, request_id=request_id(request))


def of_http(request: Request, error: HTTPException) -> Response:
    """Return an error of the framework, such as a path that is not there."""
    named = dict(error.headers or {})
    return problem(
        error.status_code, str(error.detail), error="HTTPException", request_id=request_id(request), headers=named
    )


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route for the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _TITLES[status], "content": content} for status in statuses}


def as_json(value: Any) -> bytes:
    """Return a value as JSON; of what JSON does not have, such as NaN, null."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
