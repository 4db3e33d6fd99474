"""Searches: by text, picture, stored point and vector."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Form, Query, UploadFile

from hysac_retrieval.payload import stored_id
from hysac_retrieval.search.explain import explain
from hysac_retrieval.search.permitted import permitted as permitted_of
from hysac_retrieval.service import models
from hysac_retrieval.service.core import query_hash
from hysac_retrieval.service.problems import TooLargeError, answers
from hysac_retrieval.service.routes.shared import ACaller, AnId, AService, answer, options_of, query_of
from hysac_retrieval.types import Modality

ERRORS = answers(401, 403, 404, 413, 422, 429, 503, 504)


async def search(body: models.SearchBody, service: AService, caller: ACaller) -> object:
    """Find what is nearest to a text, a picture, a stored point or a vector."""
    options = options_of(service, body, caller)
    return answer(await service.search(query_of(service, body), options, caller))


async def upload(
    service: AService,
    caller: ACaller,
    image: Annotated[UploadFile, File(description="The contents of a picture's file")],
    limit: Annotated[int, Form(ge=1, le=10_000)] = 10,
    offset: Annotated[int, Form(ge=0, le=10_000)] = 0,
    safe: Annotated[bool, Form()] = True,
    modality: Annotated[Modality | None, Form()] = None,
) -> object:
    """Find what is nearest to a picture that is uploaded as a form, as `curl -F image=@cat.jpg` does."""
    caller.expect("search")
    body = models.SearchBody.model_construct(
        image=await image.read(), limit=limit, offset=offset, safe=safe, modality=modality
    )
    return answer(await service.search(query_of(service, body), options_of(service, body, caller), caller))


async def similar(
    id: AnId,
    service: AService,
    caller: ACaller,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10,
    offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
    safe: Annotated[bool, Query()] = True,
    modality: Annotated[Modality | None, Query()] = None,
) -> object:
    """Find what is nearest to a stored point."""
    identity = stored_id(id)
    body = models.SearchBody.model_construct(
        id=id if identity is None else identity, limit=limit, offset=offset, safe=safe, modality=modality
    )
    options = options_of(service, body, caller)
    return answer(await service.search(query_of(service, body), options, caller))


async def groups(body: models.GroupsBody, service: AService, caller: ACaller) -> object:
    """Find what is nearest, grouped by a payload field."""
    options, query = options_of(service, body, caller), query_of(service, body)
    asked = {**options, "context": {"key": caller.id, "query": query_hash(query)}}
    result = await service.pool.run(lambda: service.answer(lambda engine: engine.groups(query, asked), caller))
    service.metrics.query(result.query)
    return answer(result)


async def explained(body: models.ExplainBody, service: AService, caller: ACaller) -> object:
    """Show the way of a query to the origin, what is near it there, and which stored texts entail it."""
    options, query = options_of(service, body, caller), query_of(service, body)
    asked = {**options, "context": {"key": caller.id, "query": query_hash(query)}}
    result = await service.pool.run(lambda: service.answer(lambda engine: explain(engine, query, asked), caller))
    service.metrics.query(result.query)
    return answer(result)


async def permitted(body: models.Ids, service: AService, caller: ACaller) -> object:
    """Tell which of some points a safe search may return, for results that were ranked elsewhere."""
    caller.expect("search")
    if len(body.ids) > service.settings.limits.hits:
        raise TooLargeError(f"this service looks at {service.settings.limits.hits} points at once")
    ids = [identity for given in body.ids if (identity := stored_id(given)) is not None]
    found = await service.pool.run(lambda: service.answer(lambda engine: permitted_of(engine, ids), caller))
    return answer({"ids": sorted(found, key=str)})


async def collection(service: AService, caller: ACaller) -> object:
    """Describe the collection and its calibration."""
    caller.expect("search")
    metadata, sees = service.index.metadata, caller.sees_unsafe
    info = await service.pool.run(service.index.info) if sees else None
    points = await service.pool.run(service.index.count) if info is None else info.points
    bounds = metadata.safety.threshold
    return models.Collection(
        name=service.index.name,
        points=points,
        safe=None if info is None else info.safe,
        dim=metadata.dim,
        curvature=metadata.curvature,
        thresholds=models.Bounds(text=bounds.text, image=bounds.image),
        boundaries=models.Bounds(text=metadata.safety.of("text").boundary, image=metadata.safety.of("image").boundary),
        model=metadata.fingerprint,
    )


def add_to(router: APIRouter) -> None:
    """Add these routes."""
    tags = ["search"]
    for path, function, model in (
        ("/v1/search", search, models.Hits),
        ("/v1/search/upload", upload, models.Hits),
        ("/v1/groups", groups, models.Groups),
        ("/v1/explain", explained, models.Explanation),
        ("/v1/permitted", permitted, models.Permitted),
    ):
        router.post(path, response_model=model, responses=ERRORS, tags=[*tags])(function)
    router.get("/v1/similar/{id}", response_model=models.Hits, responses=ERRORS, tags=[*tags])(similar)
    router.get("/v1/collection", response_model=models.Collection, responses=ERRORS, tags=[*tags])(collection)
