"""The OpenAPI document is kept to: whatever is sent, no answer is a fault, and every answer has the form it says.

`HYSAC_CASES` is the number of requests for each route.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from support.service import World

from hysac_retrieval.service import Limits

CASES = int(os.environ.get("HYSAC_CASES", "15"))


@pytest.fixture(scope="module")
def document(world_of_module: World) -> Any:
    limits = Limits(rate=0, threads=2, body=1 << 20)
    client = world_of_module.client("admin", limits=limits, hosts=())
    return schemathesis.openapi.from_asgi("/openapi.json", client.app)


schema = schemathesis.pytest.from_fixture("document")


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_makes_a_fault(case: Any, world_of_module: World) -> None:
    checks: list[Callable[..., Any]] = [not_a_server_error, response_schema_conformance, content_type_conformance]
    for scope in ("admin", None):
        answer = case.call(headers=dict(world_of_module.shown(scope)))
        case.validate_response(answer, checks=checks)
