"""The OpenAPI document is kept to: whatever is sent, no answer is a fault, and every answer has the form it says.

`HYSAC_CASES` is the number of requests for each route, of each of two callers.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance
from support.service import World

from hysac_retrieval.service import Limits

CASES = int(os.environ.get("HYSAC_CASES", "15"))
CHECKS: list[Any] = [not_a_server_error, content_type_conformance, response_schema_conformance]


@pytest.mark.slow
def test_no_request_makes_a_fault_and_answers_are_as_the_document_says(world_of_module: World) -> None:
    # The client that sends them has a name of its own for the host.
    client = world_of_module.client("admin", limits=Limits(rate=0, threads=2, body=1 << 20), hosts=())
    document = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    operations = [found.ok() for found in document.get_all_operations()]
    asked = {operation.label: _ask(operation, world_of_module) for operation in operations}
    assert len(asked) >= 18
    assert min(asked.values()) >= 2


def _ask(operation: Any, world: World) -> int:
    """Send requests of one route as two callers; returns how many."""
    asked = 0

    @settings(max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        nonlocal asked
        for scope in ("admin", None):
            case.validate_response(case.call(headers=dict(world.shown(scope))), checks=CHECKS)
            asked += 1

    ask()
    return asked
