"""Errors of a client of Qdrant as errors of this package, and which of them may pass by themselves."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from hysac_retrieval.errors import (
    CollectionNotFoundError,
    CopiesAwayError,
    RequestTooLargeError,
    StorageFullError,
    StoreError,
    StoreUnavailableError,
)

_ACCESS = (
    "Give an api_key= that this server accepts and that may do this; a read-only key cannot write, and a token expires "
    "(with a new one a run goes on where this one ended)"
)
_LOCKED = "Somebody has locked writing on this server; reading goes on. Unlock it, and run again"
_NOT_QDRANT = "Check the url you gave, with its path and port; Qdrant 1.16 or newer is needed"
_SLOW = "Raise timeout=, or see what keeps the server busy"
_AWAY = "Is it running at the url you gave?"
_CERTIFICATE = (
    "Use the name that the certificate is for in url=; if an authority of your own signed it, name a file with that "
    "authority's certificate in ca_file="
)
_LATER = "It may pass: retries= sets how often it is tried again"
_TROUBLE = f"Its log says why. {_LATER}"
_GONE = "If it was there before, somebody has removed, renamed or recreated it since"
_OLDER = "Perhaps the server is older than what was asked of it; `hysac doctor --url URL` prints what it can do"
_SMALLER = (
    "Make the payload of this point smaller, or raise what the server and the proxy before it take: "
    "service.max_request_size_mb, or the rate limits of strict mode"
)
_TOO_LARGE = (
    *("larger than allowed", "split your request", "message length too large", "message larger than max"),
    *('"upsert limit"', '"update limit"', '"search batch size"'),  # of strict mode
)
"""Words with which servers and clients refuse a request for its size, over REST with 400 or 429."""
_FULL = ("no space left", "disk usage is at")
"""Words with which servers refuse to write for want of room: of the system, and of strict mode."""
_ROOM = "Free some space on the server's disk, or give it a larger one; what was written before stays"
_UNINDEXED = re.compile(r'Index required but not found for "(.+?)"')
INDEX_HINT = (
    "Strict mode takes no condition on a field without an index. Make one with `hysac index --index-field {0}`, `hysac "
    "attach --index-field {0}`, or create_payload_index"
)
"""What mends a condition on a field, which is to be put in."""
_COPIES_AWAY = "not have enough active replicas"
_FEWER = "Bring the node back, or ask fewer copies: consistency= (--consistency) takes a number, 1 by default"
_UNKNOWN = ("untagged enum", "Expected some form of condition")
"""Words with which a server refuses what it cannot read, such as a condition that came with a later one."""
_PASSING_STATUS = {408, 425, 429}
_PASSING_CODES = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL}
# ValueError, RuntimeError and KeyError are what the client's local mode raises; AssertionError, for an answer in JSON
# that holds nothing it knows.
_RAISED = (ApiException, QdrantException, grpc.RpcError, ValueError, RuntimeError, KeyError, AssertionError)


@contextmanager
def translated(name: str | None = None) -> Iterator[None]:
    """Turn what a client raises into `StoreError`, with the name of the collection if there is one.

    What may pass by itself (a server that is away, slow, overloaded or in trouble) becomes `StoreUnavailableError`.
    """
    try:
        yield
    except _RAISED as error:
        fault = _fault(error)
        if name:
            fault.message = f"collection {name!r}: {fault.message}"
        raise fault from error


def _fault(error: Exception) -> StoreError:
    match error:
        case UnexpectedResponse():
            return _answered(error)
        case ResponseHandlingException():
            return _unanswered(error.source)
        case ResourceExhaustedResponse(retry_after_s=seconds):
            message = f"Qdrant is overloaded and asks to wait {seconds} seconds: {error}"
            return StoreUnavailableError(message, hint=_LATER, retry_after=float(seconds))
        case QdrantException():  # told to wait, in a form that the client cannot read
            return StoreUnavailableError(f"Qdrant is overloaded: {error}", hint=_LATER)
        case grpc.RpcError():
            return _called(error)
        case ApiException():
            return StoreError(f"Qdrant cannot be reached: {error}", hint=_AWAY)
        case json.JSONDecodeError() | AssertionError():
            return StoreError(f"what answered is not a Qdrant server: {error}", hint=_NOT_QDRANT)
    return StoreError(str(error))


def _answered(error: UnexpectedResponse) -> StoreError:
    """A refusal over REST."""
    status = error.status_code or 0
    content = error.content.decode(errors="replace") if error.content else ""
    words = _words(content)
    detail = words or content or error.reason_phrase
    message = f"Qdrant answered {status}: {detail}"
    if status == 507 or _full(detail):
        return StorageFullError(message, hint=_ROOM)
    if status == 413 or _too_large(detail):
        return RequestTooLargeError(message, hint=_SMALLER)
    if _COPIES_AWAY in detail:
        return CopiesAwayError(message, hint=_FEWER)
    if status in (401, 403):
        return StoreError(message, hint=_LOCKED if detail.startswith("Storage locked") else _ACCESS)
    if status == 404:
        if not words:
            what = f"what answered is not a Qdrant server, or a very old one: it knows no such address (404: {detail})"
            return StoreError(what, hint=_NOT_QDRANT)
        return CollectionNotFoundError(message, hint=_GONE)
    if status in _PASSING_STATUS or status >= 500:
        hint = _TROUBLE if status >= 500 else _LATER
        return StoreUnavailableError(message, hint=hint, retry_after=_retry_after(error.headers))
    return _refused(message, detail)


def _words(content: str) -> str:
    """The words of an answer of Qdrant; none where it is something else's."""
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(content)["status"]["error"])
    return ""


def _unanswered(source: Exception) -> StoreError:
    """No answer over REST, or none that can be read."""
    if isinstance(source, httpx.TimeoutException):
        return StoreUnavailableError("Qdrant did not answer in time", hint=_SLOW)
    if isinstance(source, httpx.ConnectError):
        away = StoreUnavailableError(f"Qdrant cannot be reached: {source}", hint=_AWAY)
        return _tls(_handshake(source)) or away
    if "illegal" in str(source):  # an alert of TLS, read as HTTP
        return StoreError(f"what answered does not speak HTTP: {source}", hint="Is it https? Use https:// in url=")
    if isinstance(source, httpx.TransportError):
        return StoreUnavailableError(f"the connection to Qdrant broke: {source}", hint=_LATER)
    what = f"what answered is not a Qdrant server of a version known here: {source}"
    return StoreError(what, hint=_NOT_QDRANT)


def _called(error: grpc.RpcError) -> StoreError:
    """A failure over gRPC."""
    code = error.code() if callable(getattr(error, "code", None)) else None
    detail = error.details() if callable(getattr(error, "details", None)) else str(error)
    message = f"Qdrant answered over gRPC: {code.name if code else 'error'}: {detail}"
    if _too_large(detail or ""):
        return RequestTooLargeError(message, hint=_SMALLER)
    if _full(detail or ""):
        return StorageFullError(message, hint=_ROOM)
    if _COPIES_AWAY in (detail or ""):
        return CopiesAwayError(message, hint=_FEWER)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return StoreError(message, hint=_ACCESS)
    if code is grpc.StatusCode.NOT_FOUND:
        return CollectionNotFoundError(message, hint=_GONE)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return StoreUnavailableError("Qdrant did not answer over gRPC in time", hint=_SLOW)
    if code is grpc.StatusCode.UNAVAILABLE:
        away = StoreUnavailableError(f"Qdrant cannot be reached over gRPC: {detail}", hint=_AWAY)
        return _tls(detail or "") or away
    if code is grpc.StatusCode.UNIMPLEMENTED:  # an old server, or none at all behind this port
        return StoreError(message, hint=_NOT_QDRANT)
    if code is grpc.StatusCode.FAILED_PRECONDITION and "Storage locked" in (detail or ""):
        return StoreError(message, hint=_LOCKED)
    if code in _PASSING_CODES:
        return StoreUnavailableError(message, hint=_TROUBLE)
    return _refused(message, detail or "")


def _refused(message: str, detail: str) -> StoreError:
    """The error for a request that will be refused again, with what mends it where that is known."""
    if unindexed := _UNINDEXED.search(detail):
        return StoreError(message, hint=INDEX_HINT.format(unindexed[1]))
    return StoreError(message, hint=_OLDER if any(words in detail for words in _UNKNOWN) else "")


def unfinished(name: str, reason: str) -> StoreError:
    """The error for a collection whose optimizer has failed, by the reason that the server gives in its status."""
    message = f"collection {name!r}: the server cannot finish its graph: {reason}"
    if _full(reason):
        return StorageFullError(message, hint=_ROOM)
    return StoreError(
        message, hint="Its log says more. The points are stored and found; restart it to have it try again"
    )


def _full(detail: str) -> bool:
    return any(words in detail.lower() for words in _FULL)


def _too_large(detail: str) -> bool:
    return any(words in detail for words in _TOO_LARGE)


def _handshake(error: BaseException | None) -> str:
    """Text of the failed TLS handshake that an error comes from; empty if it comes from something else."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return str(error) if error is not None else ""


def _tls(detail: str) -> StoreError | None:
    """The error for a TLS handshake that fails in the same way however often it is tried; None for anything else."""
    if "CERTIFICATE_VERIFY_FAILED" in detail or "Hostname Verification" in detail:
        message = f"the certificate of the Qdrant server is not accepted: {detail}"
        return StoreError(message, hint=_CERTIFICATE)
    if "WRONG_VERSION_NUMBER" in detail:
        return StoreError(f"no TLS connection to Qdrant: {detail}", hint="It does not speak TLS; use http:// in url=")
    return None


def _retry_after(headers: httpx.Headers | None) -> float | None:
    """Seconds that a server asks to wait: a number, or the time until a date."""
    header = headers.get("retry-after") if headers else None
    if not header:
        return None
    with suppress(ValueError):
        return max(0.0, float(header))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    return None
