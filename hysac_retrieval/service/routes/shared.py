"""Share between the routes: the service of a request, its caller, and how a result becomes an answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import Depends, Path, Request, Response
from PIL import Image

from hysac_retrieval.encoder.formats import open_image
from hysac_retrieval.errors import ImageError, PointNotFoundError, SettingsError
from hysac_retrieval.payload import stored_id
from hysac_retrieval.search.queries import PointRef, Query
from hysac_retrieval.search.remote import ONLY_SAFE
from hysac_retrieval.service.access import Caller, NoKeyError
from hysac_retrieval.service.core import Service
from hysac_retrieval.service.models import UUID, Asked
from hysac_retrieval.service.problems import BusyError, TooLargeError


def service_of(request: Request) -> Service:
    """Return the service that a request is for."""
    service: Service = request.scope["hysac.service"]
    return service


async def caller_of(request: Request) -> Caller:
    """Return who asks, and count the request.

    Raises:
        NoKeyError: A key is shown that does not count, or there is none and nobody may ask.
        BusyError: The caller asks too often.
    """
    service = service_of(request)
    address = request.client.host if request.client else ""
    try:
        caller = service.door.caller(request.method, request.headers, request.cookies, address)
    except NoKeyError:
        _count(service, f"refused:{address}")
        raise
    _count(service, address if caller.id == "anonymous" else caller.id)
    if ONLY_SAFE in request.headers:
        return replace(caller, scopes=caller.scopes - {"search:unsafe"})
    return caller


def _count(service: Service, who: str) -> None:
    if seconds := service.rate.wait(who):
        raise BusyError("too many requests", seconds=seconds)


AService = Annotated[Service, Depends(service_of)]
ACaller = Annotated[Caller, Depends(caller_of)]
AnId = Annotated[str, Path(max_length=64, examples=[UUID])]


def query_of(service: Service, body: Asked) -> Query:
    """Return the query of a body.

    Raises:
        PointNotFoundError: No point can have the id.
        InputError: The picture cannot be read, or is too large.
    """
    if body.text is not None:
        return body.text
    if body.image is not None:
        return checked_picture(body.image, service.settings.limits.pixels)
    if body.vector is not None:
        return np.asarray(body.vector, dtype=np.float64)
    if (identity := stored_id(body.id)) is None:
        raise PointNotFoundError(f"there is no point {str(body.id)[:64]!r}", hint="Give the id of one that is stored")
    return PointRef(identity)


def checked_picture(data: bytes, pixels: int) -> bytes:
    """Return the contents of a picture's file, none of it decoded yet.

    Raises:
        ImageError: It is none.
        TooLargeError: It has more pixels than the service takes.
    """
    try:
        width, height = open_image(data).size
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError("the picture has too many pixels") from error
    except Exception as error:  # Pillow's parsers let out whatever they trip over
        raise ImageError("the picture cannot be read", hint="Send the contents of an image file") from error
    if width * height > pixels:
        raise TooLargeError(f"the picture has {width}×{height} pixels; this service takes {pixels}")
    return data


def options_of(service: Service, body: Asked, caller: Caller) -> dict[str, Any]:
    """Return the options of a search that the caller may ask for.

    Raises:
        ScopeError: It may not.
        TooLargeError: More hits are asked for than the service gives at once.
    """
    caller.expect("search")
    if not body.safe:
        caller.expect("search:unsafe")
    options = body.options()
    most, wanted = service.settings.limits.hits, options.get("limit", 0)
    if options.get("groups", 0) * options.get("size", 0) > most or wanted > most:
        raise TooLargeError(f"this service gives {most} hits at once", hint="Ask for further ones with offset")
    if wanted + options.get("offset", 0) > 10_000:
        raise SettingsError("limit and offset add up to more than the 10,000 hits that a search reaches")
    return options


def answer(result: Any) -> Response:
    """Return a result, a dataclass, as JSON; numbers that are none become null."""
    return Response(orjson.dumps(result, default=_plain), media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset | set):
        return sorted(value, key=str)
    return dict(value)
