"""The OpenAPI document is kept to: whatever is sent, no answer is a fault, and every answer has the form it says.

`python tests/fuzz/run.py --target service --cases 10000` sends more.
"""

from __future__ import annotations

import pytest
from schemathesis import GenerationMode
from support.fuzz_service import Document
from support.service import World


@pytest.mark.slow
def test_no_request_makes_a_fault_and_answers_are_as_the_document_says(world_of_module: World) -> None:
    document = Document(world_of_module)
    assert len(document.routes) >= 18
    for mode, count in ((GenerationMode.POSITIVE, 10), (GenerationMode.NEGATIVE, 5)):
        assert min(document.ask(route, mode, count, seed=0) for route in document.routes) >= 2
