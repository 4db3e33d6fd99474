"""Requests made of the OpenAPI document of a service: no answer is a fault, and each has the form that it promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from hysac_retrieval import Encoder
from hysac_retrieval.service import Limits
from support.fuzz_answers import Case
from support.service import World, new_world
from support.toy_bundle import write_toy_bundle

CHECKS: list[Any] = [not_a_server_error, content_type_conformance, response_schema_conformance]
_SECONDS = 600.0  # as long as a busy machine may need; the client that sends them would give up after ten
_LIMITS = Limits(rate=0, threads=2, body=1 << 20, seconds=_SECONDS, body_seconds=_SECONDS)
_AT_ONCE = 10  # requests of a seed, by each of two callers


class Document:
    """The OpenAPI document of a service, and requests of its routes, those that fit it and those that do not."""

    def __init__(self, world: World) -> None:
        self._world = world
        # The client that sends them has a name of its own for the host.
        app = world.client("admin", limits=_LIMITS, hosts=()).app
        document = schemathesis.openapi.from_asgi("/openapi.json", app)
        self.routes = [found.ok() for found in document.get_all_operations()]

    def ask(self, route: Any, mode: GenerationMode, count: int, seed: int) -> int:
        """Send requests of a route as a caller that may do everything and as one without a key; returns how many."""
        asked = 0

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],
        )
        @hypothesis.given(case=route.as_strategy(mode))
        def ask(case: Any) -> None:
            nonlocal asked
            for scope in ("admin", None):
                answer = case.call(headers=dict(self._world.shown(scope)), timeout=_SECONDS)
                case.validate_response(answer, checks=CHECKS)
                asked += 1

        ask()
        return asked


@contextmanager
def service(folder: Path) -> Iterator[Case]:
    """Requests to every route of the service in turns."""
    world = new_world(folder / "world", Encoder(write_toy_bundle(folder / "toy"), threads=1))
    try:
        document = Document(world)
        turns = list(product(GenerationMode, document.routes))

        def case(seed: int) -> int:
            mode, route = turns[seed % len(turns)]
            return document.ask(route, mode, _AT_ONCE, seed)

        yield case
    finally:
        world.close()
