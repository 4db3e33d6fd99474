"""Thumbnails."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from hysac_retrieval.search.figures.pictures import MEDIA_TYPE
from hysac_retrieval.service.problems import answers
from hysac_retrieval.service.routes.shared import ACaller, AnId, AService


async def thumbnail(
    id: AnId,
    service: AService,
    caller: ACaller,
    size: Annotated[int, Query(ge=16, le=1024)] = 256,
) -> Response:
    """Show the picture of a point, no side longer than `size`; of an unsafe one to who may see it."""
    caller.expect("search")
    data = await service.pool.run(lambda: service.pictures.thumbnail(service.find(id, caller).payload, size))
    # What is safe may be found unsafe later, and what one key may see another may not.
    return Response(data, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})


def add_to(router: APIRouter) -> None:
    """Add these routes."""
    responses = answers(401, 403, 404, 422, 429, 503, 504)
    content = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
    responses[200] = {"description": "The picture", "content": content}
    router.get("/v1/images/{id}", response_class=Response, responses=responses, tags=["images"])(thumbnail)
