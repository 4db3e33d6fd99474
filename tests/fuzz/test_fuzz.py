"""Every fuzz target for a moment; `make fuzz` runs them for longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fuzz_targets import TARGETS, Case

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Pillow, on damaged pictures

COUNTS = {
    "tables": 60,
    "shards": 60,
    "images": 120,
    "bundles": 40,
    "filters": 150,
    "queries": 150,
    "service": 3,
    "answers": 6,
}
UNCHECKED = [HealthCheck.too_slow, HealthCheck.nested_given]  # the requests of a seed are Hypothesis's too


@pytest.fixture(params=TARGETS, scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Case]]:
    with TARGETS[request.param](tmp_path_factory.mktemp(request.param)) as case:
        yield request.param, case


def test_nothing_but_errors_in_words_comes_of_it(target: tuple[str, Case]) -> None:
    name, case = target

    @settings(max_examples=COUNTS[name], deadline=None, suppress_health_check=UNCHECKED, database=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def run(seed: int) -> None:
        assert case(seed) >= 0

    run()
