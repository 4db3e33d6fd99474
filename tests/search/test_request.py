"""What a search may ask for: checked once, frozen, and prepared once for the same options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from qdrant_client import models
from support.spaces import CURVATURE, STORES, index_on, match, nearest, random_points

from hysac_retrieval import lorentz
from hysac_retrieval.collection.request import PageRequest
from hysac_retrieval.errors import SettingsError, UnsafeNotAllowedError
from hysac_retrieval.safety.policy import LabelRule, SafetyPolicy
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.request import ExplainRequest, GroupSearchRequest, SearchRequest

POINTS = random_points(60, seed=2, low=1.5, high=2.2)


@pytest.fixture(params=STORES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SafeSearch]:
    with index_on(request.param, tmp_path) as index:
        index.upsert(range(60), POINTS, modality="text", payloads=[{"k": row % 3} for row in range(60)])
        yield SafeSearch(index, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is 0; it must be from 1 to 10,000"),
        ({"limit": True}, "limit is True"),
        ({"limit": 9_999, "offset": 2}, "add up to 10001"),
        ({"offset": -1}, "offset is -1"),
        ({"safe": 1}, "safe is 1; it must be True or False"),
        ({"modality": "sound"}, "unknown modality 'sound'"),
        ({"query_modality": "sound"}, "unknown query_modality 'sound'"),
        ({"rerank": "formula"}, "unknown rerank 'formula'"),
        ({"penalty": float("inf")}, "penalty is inf"),
        ({"max_distance": -0.1}, "max_distance is -0.1"),
        ({"max_distance": float("nan")}, "max_distance is nan"),
        ({"ef": 0}, "ef is 0"),
        ({"filter": "k = 1"}, "filter is str"),
        ({"context": "ada"}, "context is str"),
        ({"limits": 3}, "unknown option limits. Expected some of safe, threshold"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SearchRequest.of(options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (GroupSearchRequest, {"by": ""}, "the field to group by is ''"),
        (GroupSearchRequest, {"by": "k", "groups": 0}, "groups is 0"),
        (GroupSearchRequest, {"by": "k", "limit": 3}, "unknown option limit"),
        (ExplainRequest, {"steps": 1}, "steps is 1; it must be from 2 to 64"),
        (ExplainRequest, {"near": 21}, "near is 21"),
    ],
)
def test_each_kind_of_request_has_options_of_its_own(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kind.of(options)


def test_a_request_is_frozen_and_varied_by_copies() -> None:
    request = SearchRequest.of({"limit": 5})
    with pytest.raises(ValidationError):
        request.limit = 6  # type: ignore[misc]
    assert request.model_copy(update={"offset": 3}).wanted == 8
    assert request.wanted == 5


def test_the_same_options_are_prepared_once_and_equal_values_of_other_types_are_not_the_same(
    engine: SafeSearch,
) -> None:
    core = engine.core
    first = core.prepare(SearchRequest, {"limit": 1, "safe": True})
    assert core.prepare(SearchRequest, {"limit": 1, "safe": True}) is first
    for other in ({"limit": True, "safe": True}, {"limit": 1, "safe": 1}):
        with pytest.raises(SettingsError):
            core.prepare(SearchRequest, other)
    user = {"filter": match("k", 1)}
    with pytest.raises(SettingsError):
        core.prepare(SearchRequest, user)  # a condition is no filter, prepared or not
    for limit in range(1, 200):
        core.prepare(SearchRequest, {"limit": limit})
    assert core.prepare(SearchRequest, {"limit": 1, "safe": True}) == first


def emptied(condition: models.Filter) -> None:
    condition.must.clear()  # type: ignore[union-attr]
    if condition.must_not:
        condition.must_not.clear()  # type: ignore[union-attr]


def turned(condition: models.Filter) -> None:
    for one in condition.must:  # type: ignore[union-attr]
        if isinstance(one, models.FieldCondition):
            one.key, one.match, one.range = "k", None, models.Range(gte=-1)


def replaced(condition: models.Filter) -> None:
    condition.must, condition.must_not = None, None


@pytest.mark.parametrize("spoil", [emptied, turned, replaced])
@pytest.mark.parametrize("options", [{}, {"threshold": 0.2}, {"modality": "text"}, {"penalty": 0.5}])
def test_changing_the_filter_of_a_prepared_search_changes_no_other(
    options: dict[str, Any], spoil: Callable[[models.Filter], None], tmp_path: Path
) -> None:
    with index_on("edge", tmp_path) as index:
        for first, low in ((0, 1.5), (20, 3.4)):
            points = random_points(20, seed=first, low=low, high=low + 0.1)
            rows = [{"k": row % 3} for row in range(20)]
            index.upsert(range(first, first + 20), points, modality="text", payloads=rows)
        engine = SafeSearch(index, None, policy=SafetyPolicy(rules=(LabelRule("k", deny=(1,)),)))
        given: dict[str, Any] = {"limit": 40, **options}
        expected = {row for row in range(20) if row % 3 != 1}

        def found() -> set[Any]:
            return {hit.id for hit in engine.search(POINTS[0], **given)}

        assert found() == expected
        plan = engine.core.prepare(SearchRequest, given).plan
        before = plan.filter
        for handed_out in (plan.filter, plan.query(POINTS[:1]).filter):
            assert handed_out is not None
            spoil(handed_out)
            assert handed_out != before
        assert engine.core.prepare(SearchRequest, given).plan.filter == before
        assert found() == expected


def test_what_a_policy_forbids_is_never_prepared(engine: SafeSearch) -> None:
    strict = SafeSearch(engine.index, None, policy=SafetyPolicy(allow_unsafe=False))
    for _ in range(2):
        with pytest.raises(UnsafeNotAllowedError):
            strict.search(POINTS[0], safe=False)


def test_hits_are_cut_by_their_geodesic_distance(engine: SafeSearch) -> None:
    query = random_points(1, seed=9, low=1.5, high=1.6)[0]
    order = nearest(query, POINTS)
    distances = lorentz.dist(POINTS[order], query[None], CURVATURE)
    for count in (0, 1, 7, 60):
        bound = float(distances[count - 1] + 1e-4) if count else float(distances[0] - 1e-3)
        found = engine.search(query, limit=60, max_distance=bound)
        assert [hit.id for hit in found] == order[:count].tolist()
        assert all(hit.distance <= bound for hit in found)
        raw = engine.index.query(query, **PageRequest(limit=60, max_distance=bound).model_dump(exclude_unset=True))
        assert [hit.id for hit in raw] == order[:count].tolist()
        groups = engine.search_groups(query, "k", groups=3, size=60, max_distance=bound)
        assert {hit.id for group in groups for hit in group} == set(order[:count].tolist())


def test_an_unknown_point_is_held_to_both_boundaries(engine: SafeSearch) -> None:
    far = random_points(1, seed=3, low=3.4, high=3.45)[0]
    kinds = [engine.search(far, query_modality=kind).query.radius_searched for kind in ("text", "image")]
    assert engine.search(far).query.radius_searched == min(kinds)
    assert np.isclose(min(kinds), engine.index.metadata.safety.text.boundary)
