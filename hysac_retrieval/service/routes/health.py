"""Is it up, can it answer, what has it done, and who asks."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hysac_retrieval.errors import HysacError, StoreUnavailableError
from hysac_retrieval.service import models
from hysac_retrieval.service.access import SESSION_COOKIE, SESSION_SECONDS, Caller
from hysac_retrieval.service.problems import answers
from hysac_retrieval.service.routes.shared import ACaller, AService


async def healthz() -> models.State:
    """Tell that the process is up."""
    return models.State(status="ok")


async def readyz(service: AService) -> models.State:
    """Tell whether the collection can be searched now; 503 where it is away, replaced by another model's or gone."""
    try:
        await service.pool.run(service.index.refresh)
    except HysacError as error:
        raise StoreUnavailableError(error.message, retry_after=getattr(error, "retry_after", None)) from error
    return models.State(status="ok")


async def metrics(service: AService, caller: ACaller) -> Response:
    """Figures for Prometheus; for any caller that may ask for something."""
    service.metrics.waiting.set(service.pool.load)
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def who(caller: ACaller) -> models.Session:
    """Tell who asks, and what that caller may do."""
    return _session(caller)


async def begin(body: models.KeyBody, service: AService, response: Response) -> models.Session:
    """Begin a session of a key, for a page: a cookie that scripts cannot read and other sites cannot send."""
    session, caller = service.door.begin(body.key)
    response.set_cookie(
        SESSION_COOKIE,
        session,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=service.settings.secure_cookies,
    )
    return _session(caller)


async def end(response: Response) -> None:
    """End the session."""
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")


def _session(caller: Caller) -> models.Session:
    return models.Session(id=caller.id, scopes=sorted(caller.scopes), csrf=caller.csrf)


def add_to(router: APIRouter) -> None:
    """Add these routes."""
    router.get("/healthz", response_model=models.State, tags=["health"])(healthz)
    router.get("/readyz", response_model=models.State, responses=answers(503, 504, 429), tags=["health"])(readyz)
    figures = answers(401, 429)
    figures[200] = {"description": "Figures", "content": {"text/plain": {"schema": {"type": "string"}}}}
    router.get("/metrics", response_class=Response, responses=figures, tags=["health"])(metrics)
    router.get("/v1/session", response_model=models.Session, responses=answers(401, 429), tags=["session"])(who)
    router.post("/v1/session", response_model=models.Session, responses=answers(401, 413, 422, 429), tags=["session"])(
        begin
    )
    router.delete("/v1/session", status_code=204, tags=["session"])(end)
