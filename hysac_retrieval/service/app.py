"""The application, and the router for one that exists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from hysac_retrieval import __version__
from hysac_retrieval.errors import HysacError
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.service.core import Service
from hysac_retrieval.service.frame import BoundedBody, Frame
from hysac_retrieval.service.problems import Problem, of_error, of_http, of_validation
from hysac_retrieval.service.routes import explorer, health, images, points, reviews, search
from hysac_retrieval.service.settings import ServiceSettings

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_BEARER = HTTPBearer(auto_error=False, description="A key of `hysac keys make`")


def create_app(engine: SafeSearch, settings: ServiceSettings | None = None, *, close: bool = False) -> FastAPI:
    """Return an application that serves an engine.

    Args:
        engine: A search, as `connect` returns it; its policy holds for every caller.
        settings: Who may ask, and how much; None: whoever reaches it may search safely.
        close: Whether the engine is closed when the application ends.

    Raises:
        SettingsError: A file or folder of the settings cannot be used.
    """
    service = Service(engine, settings or ServiceSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()
        if close:
            engine.close()

    # Their pages load scripts from elsewhere.
    app = FastAPI(title="hysac", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    router = _router(service)
    explorer.add_page_to(router)
    app.include_router(router)
    app.add_exception_handler(HTTPException, of_http)  # type: ignore[arg-type]  # of the kind that it is added for
    app.add_middleware(Frame, service=service)
    app.state.hysac = service
    _describe(app)
    return app


def create_router(engine: SafeSearch, settings: ServiceSettings | None = None) -> APIRouter:
    """Return the routes for an application that exists: ``app.include_router(create_router(engine))``.

    Keys, scopes, limits and errors are those of `create_app`. Names of hosts, headers against framing and foreign
    scripts, and request ids are the application's own.

    Args:
        engine: See `create_app`.
        settings: See there.
    """
    return _router(Service(engine, settings or ServiceSettings()))


def _router(service: Service) -> APIRouter:
    router = APIRouter(route_class=_route_class(service), dependencies=[Security(_BEARER)])
    for part in (search, images, points, reviews, explorer, health):
        part.add_to(router)
    return router


def _route_class(service: Service) -> type[APIRoute]:
    """Return a kind of route that brings its service along, bounds bodies, and turns errors into problems."""

    class Route(APIRoute):
        def get_route_handler(self) -> Handler:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                request.scope["hysac.service"] = service
                body = BoundedBody(request, service.settings.limits)
                try:
                    body.expect_small()
                    return await handler(Request(request.scope, body))
                except RequestValidationError as error:
                    return of_validation(request, error)
                except HTTPException as error:  # FastAPI makes one of whatever reading a body raises
                    return of_error(request, body.error) if body.error else of_http(request, error)
                except HysacError as error:
                    response = of_error(request, error)
                    if response.status_code in (401, 403):
                        service.metrics.refused.labels(response.status_code).inc()
                    return response
                except Exception as error:
                    return of_error(request, body.error or error)

            return handle

    return Route


def _describe(app: FastAPI) -> None:
    """Add the form of errors to the OpenAPI document."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("Problem", Problem.model_json_schema())
        return document

    app.openapi = openapi  # type: ignore[method-assign]
