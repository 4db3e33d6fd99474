"""The explorer: its page, and what the page draws besides results of searches."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from hysac_retrieval.errors import PointNotFoundError, SettingsError
from hysac_retrieval.payload import PAYLOAD_KEY, finite_number, own_payload, stored_modality
from hysac_retrieval.search.figures import FILES, read_file
from hysac_retrieval.search.overview import MOST_POINTS, Narrowed, direction, drawn, facets, levels, overview
from hysac_retrieval.search.permitted import permitted
from hysac_retrieval.service import models
from hysac_retrieval.service.access import Caller
from hysac_retrieval.service.problems import answers
from hysac_retrieval.service.routes.shared import ACaller, AnId, AService, answer, options_of, query_of
from hysac_retrieval.types import Modality

ERRORS = answers(401, 403, 404, 413, 422, 429, 503, 504)
_Safe = Annotated[bool, Query(description="Whether only safe points are looked at")]


async def page(request: Request) -> Response:
    """Show the explorer."""
    return _file(request, "index.html")


async def file(name: Annotated[str, Path(max_length=64)], request: Request) -> Response:
    """Give a file of the explorer's page; there are those and no others."""
    if name not in FILES:
        raise PointNotFoundError("there is no such file")
    return _file(request, name)


async def fields(service: AService, caller: ACaller, safe: _Safe = True) -> object:
    """Tell by which payload fields one may filter, and how the model is calibrated."""
    _expect(caller, safe)
    found = await service.pool.run(lambda: service.answer(lambda engine: facets(engine, safe=safe), caller))
    return answer({"facets": found, "levels": levels(service.index.metadata.safety)})


async def points(
    service: AService,
    caller: ACaller,
    safe: _Safe = True,
    limit: Annotated[int, Query(ge=1, le=MOST_POINTS)] = 20_000,
    modality: Modality | None = None,
    filter: Annotated[str | None, Query(max_length=20_000, description="A Qdrant filter, as JSON")] = None,
) -> Response:
    """Place points of the collection on the Poincaré disk; without the scope, safe ones only."""
    _expect(caller, safe)
    narrowed: Narrowed = {"modality": modality, "filter": None if filter is None else _read(filter)}
    found = await service.pool.run(
        lambda: service.answer(lambda engine: overview(engine, safe=safe, limit=limit, **narrowed), caller)
    )
    if not safe:
        count = int((~found.safe).sum())
        await service.pool.run(lambda: service.write_down("map", caller, {"points": len(found.ids), "unsafe": count}))
    return Response(
        orjson.dumps(drawn(found, service.index.metadata), option=orjson.OPT_SERIALIZE_NUMPY),
        media_type="application/json",
    )


async def placed(body: models.SearchBody, service: AService, caller: ACaller) -> object:
    """Give the direction of a query, by which the page places it on the disk."""
    options, query = options_of(service, body, caller), query_of(service, body)

    def compute() -> Any:
        if body.id is not None:
            service.find(body.id, caller)
        return service.answer(lambda engine: direction(engine, query, options), caller)

    return answer({"direction": (await service.pool.run(compute)).tolist()})


async def point(id: AnId, service: AService, caller: ACaller) -> object:
    """Show a point; one that is not safe to who may see it, which goes to the audit log."""
    caller.expect("search")

    def read() -> dict[str, Any]:
        found = service.find(id, caller)
        own = own_payload(found.payload)
        return {
            "id": found.id,
            "safe": found.id in service.answer(lambda engine: permitted(engine, [found.id]), caller),
            "unsafe": finite_number(own.get("unsafe")),
            "radius": finite_number(own.get("radius")),
            "modality": stored_modality(own),
            "payload": {key: value for key, value in found.payload.items() if key != PAYLOAD_KEY},
        }

    return answer(await service.pool.run(read))


def _read(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"the filter is no JSON: {error}") from None


def _expect(caller: Caller, safe: bool) -> None:
    caller.expect("search")
    if not safe:
        caller.expect("search:unsafe")


@cache
def _packed(name: str) -> tuple[bytes, str]:
    """Return a file, compressed, and its tag."""
    data = gzip.compress(read_file(name), mtime=0)
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _file(request: Request, name: str) -> Response:
    data, tag = _packed(name)
    headers = {"Cache-Control": "no-cache", "ETag": tag, "Vary": "Accept-Encoding"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
    else:
        data = gzip.decompress(data)
    return Response(data, media_type=FILES[name], headers=headers)


def add_to(router: APIRouter) -> None:
    """Add what the page draws."""
    tags = ["explorer"]
    router.get("/v1/fields", response_model=None, responses=ERRORS, tags=[*tags])(fields)
    router.get("/v1/map", response_model=None, responses=ERRORS, tags=[*tags])(points)
    router.post("/v1/map/query", response_model=None, responses=ERRORS, tags=[*tags])(placed)
    router.get("/v1/points/{id}", response_model=None, responses=ERRORS, tags=["points"])(point)


def add_page_to(router: APIRouter) -> None:
    """Add the page itself: for an application of its own, where nothing else is at /."""
    router.get("/", include_in_schema=False)(page)
    router.get("/explorer/{name}", include_in_schema=False)(file)
