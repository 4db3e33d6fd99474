"""What goes wrong between a client and Qdrant, as errors of ours; and which of it may pass by itself."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NoReturn

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from hysac_retrieval.errors import CollectionNotFoundError, StoreError, StoreUnavailableError

_ACCESS = "Give an api_key= that this server accepts and that may do this; a read-only key cannot write"
_SLOW = "Raise timeout=, or see what keeps the server busy"
_AWAY = "Is it running at the url you gave?"
_CERTIFICATE = (
    "Use the name that the certificate is for in url=; if an authority of your own signed it, name a file with that "
    "authority's certificate in the environment, as {variable}"
)
_LATER = "It may pass: retries= sets how often it is tried again"
_TROUBLE = f"Its log says why. {_LATER}"
_NO_TLS = "What answers there does not speak TLS; use http:// in url="
_PASSING_STATUS = {408, 425, 429}
_PASSING_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
}


@contextmanager
def translated(name: str | None = None) -> Iterator[None]:
    """Turn what a client raises into `StoreError`, with the name of the collection if there is one.

    What may pass by itself (a server that is away, slow, overloaded or in trouble) becomes `StoreUnavailableError`.
    """
    where = f"collection {name!r}: " if name else ""
    try:
        yield
    except UnexpectedResponse as error:
        _answered(where, error)
    except ResponseHandlingException as error:
        _unanswered(where, error)
    except ResourceExhaustedResponse as error:
        raise StoreUnavailableError(
            f"{where}Qdrant is overloaded and asks to wait {error.retry_after_s} seconds: {error}. {_LATER}",
            retry_after=float(error.retry_after_s),
        ) from error
    except QdrantException as error:  # told to wait, in a form that the client cannot read
        raise StoreUnavailableError(f"{where}Qdrant is overloaded: {error}. {_LATER}") from error
    except grpc.RpcError as error:
        _called(where, error)
    except ApiException as error:
        raise StoreError(f"{where}Qdrant cannot be reached: {error}. {_AWAY}") from error
    except json.JSONDecodeError as error:
        raise StoreError(f"{where}what answered is not a Qdrant server: {error}. Check the url you gave") from error
    except (ValueError, RuntimeError, KeyError) as error:  # what the client's local mode raises
        raise StoreError(f"{where}{error}") from error


def _answered(where: str, error: UnexpectedResponse) -> NoReturn:
    status = error.status_code or 0
    detail = error.content.decode(errors="replace") if error.content else error.reason_phrase
    message = f"{where}Qdrant answered {status}: {detail}"
    if status in (401, 403):
        raise StoreError(f"{message}. {_ACCESS}") from error
    if status == 404:
        raise CollectionNotFoundError(message) from error
    if status in _PASSING_STATUS or status >= 500:
        mend = _TROUBLE if status >= 500 else _LATER
        raise StoreUnavailableError(f"{message}. {mend}", retry_after=_retry_after(error.headers)) from error
    raise StoreError(message) from error


def _unanswered(where: str, error: ResponseHandlingException) -> NoReturn:
    source = error.source
    if isinstance(source, httpx.TimeoutException):
        raise StoreUnavailableError(f"{where}Qdrant did not answer in time. {_SLOW}") from error
    if isinstance(source, httpx.ConnectError):
        if (refused := _tls(where, _handshake(source), "SSL_CERT_FILE")) is not None:
            raise refused from error
        raise StoreUnavailableError(f"{where}Qdrant cannot be reached: {source}. {_AWAY}") from error
    if isinstance(source, httpx.TransportError):
        raise StoreUnavailableError(f"{where}the connection to Qdrant broke: {source}. {_LATER}") from error
    raise StoreError(f"{where}what answered is not a Qdrant server of a version known here: {source}") from error


def _called(where: str, error: grpc.RpcError) -> NoReturn:
    code = error.code() if callable(getattr(error, "code", None)) else None
    detail = error.details() if callable(getattr(error, "details", None)) else str(error)
    message = f"{where}Qdrant answered over gRPC: {code.name if code else 'error'}: {detail}"
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        raise StoreError(f"{message}. {_ACCESS}") from error
    if code is grpc.StatusCode.NOT_FOUND:
        raise CollectionNotFoundError(message) from error
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        raise StoreUnavailableError(f"{where}Qdrant did not answer over gRPC in time. {_SLOW}") from error
    if code is grpc.StatusCode.UNAVAILABLE:
        if (refused := _tls(where, detail or "", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")) is not None:
            raise refused from error
        raise StoreUnavailableError(f"{where}Qdrant cannot be reached over gRPC: {detail}. {_AWAY}") from error
    if code in _PASSING_CODES:
        raise StoreUnavailableError(f"{message}. {_TROUBLE}") from error
    raise StoreError(message) from error


def _handshake(error: BaseException | None) -> str:
    """What a TLS handshake failed with, if that is what an error comes from; else nothing."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return str(error) if error is not None else ""


def _tls(where: str, detail: str, variable: str) -> StoreError | None:
    """The error for a TLS handshake that fails in the same way however often it is tried; None for anything else."""
    if "CERTIFICATE_VERIFY_FAILED" in detail or "Hostname Verification" in detail:
        mend = _CERTIFICATE.format(variable=variable)
        return StoreError(f"{where}the certificate of the Qdrant server is not accepted: {detail}. {mend}")
    if "WRONG_VERSION_NUMBER" in detail:
        return StoreError(f"{where}no TLS connection to Qdrant: {detail}. {_NO_TLS}")
    return None


def _retry_after(headers: httpx.Headers | None) -> float | None:
    """Seconds that a server asks to wait: a number, or the time until a date."""
    asked = headers.get("retry-after") if headers else None
    if not asked:
        return None
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
