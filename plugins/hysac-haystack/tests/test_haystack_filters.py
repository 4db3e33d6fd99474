from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document
from haystack.errors import FilterError
from haystack.utils.filters import document_matches_filter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.spaces import index_on

from haystack_integrations.components.retrievers.hysac import UntranslatableFilterError, qdrant_filter
from hysac_retrieval import Index
from hysac_retrieval.errors import SettingsError

DATES = ["2024-01-01", "2024-01-01T12:00:00", "2023-12-31T23:59:59", "2024-06-30T00:00:00"]
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "n": st.one_of(st.none(), st.integers(-2, 2), st.sampled_from([0.5, 1.0])),
    "s": st.one_of(st.none(), st.sampled_from(["a", "b", "", "A"])),
    "flag": st.one_of(st.none(), st.booleans()),
    "day": st.one_of(st.none(), st.sampled_from(DATES)),
    "deep.n": st.integers(0, 2),
}
ORDERED = {"n": st.sampled_from([-1, 0, 0.5, 1]), "day": st.sampled_from(DATES), "deep.n": st.integers(0, 2)}


@st.composite
def metas(draw: st.DrawFn) -> dict[str, Any]:
    present = draw(st.sets(st.sampled_from(sorted(FIELDS))))
    meta: dict[str, Any] = {name: draw(FIELDS[name]) for name in present if "." not in name}
    return meta | ({"deep": {"n": draw(FIELDS["deep.n"])}} if "deep.n" in present else {})


@st.composite
def comparisons(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(["==", "!=", ">", ">=", "<", "<=", "in", "not in"]))
    if operator in (">", ">=", "<", "<="):
        name = draw(st.sampled_from(sorted(ORDERED)))
        return {"field": f"meta.{name}", "operator": operator, "value": draw(ORDERED[name])}
    name = draw(st.sampled_from([*sorted(FIELDS), "id"]))
    one = FIELDS.get(name, st.sampled_from(["0", "3", "x"]))
    if name == "day":
        # Two texts that are the same instant are equal to Haystack; a field that is a text is compared as one here.
        one = st.sampled_from(["2023-12-31T23:59:59", "2024-06-30T00:00:00", "nothing"])
    if name != "id" and ("." in name or draw(st.booleans())):
        name = f"meta.{name}"
    value = draw(st.lists(one, max_size=3) if "in" in operator else one)
    return {"field": name, "operator": operator, "value": value}


def filters() -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        comparisons(),
        lambda inner: st.fixed_dictionaries(
            {"operator": st.sampled_from(["AND", "OR", "NOT"]), "conditions": st.lists(inner, max_size=3)}
        ),
        max_leaves=6,
    )


@pytest.fixture(scope="module", params=["edge", "memory"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with index_on(request.param, tmp_path_factory.mktemp("filters")) as made:
        yield made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(metas(), min_size=1, max_size=8), asked=filters(), nested=st.booleans())
def test_a_translated_filter_finds_what_haystack_s_own_finds(
    index: Index, rows: list[dict[str, Any]], asked: dict[str, Any], nested: bool
) -> None:
    index.delete(range(10))
    payloads = [{"meta": row} if nested else row for row in rows]
    index.upsert(range(len(rows)), np.zeros((len(rows), 6)), modality="text", payloads=payloads)
    translated = qdrant_filter(asked, meta_key="meta" if nested else None)
    found = {int(hit.id) for hit in index.query(np.zeros(6), filter=translated, limit=20)}
    documents = [Document(id=str(row), meta=meta) for row, meta in enumerate(rows)]
    assert found == {row for row, document in enumerate(documents) if document_matches_filter(asked, document)}


BASES = [1000, 2**53 - 3, 2**53, 1234567890123456780, -(2**53) - 4, 2**63 - 8]


@pytest.mark.parametrize("base", BASES)
def test_large_integers_are_told_apart(index: Index, base: int) -> None:
    index.delete(range(10))
    payloads = [{"tenant": base + row} for row in range(5)]
    index.upsert(range(5), np.zeros((5, 6)), modality="text", payloads=payloads)

    def found(operator: str, value: Any) -> set[int]:
        translated = qdrant_filter({"field": "meta.tenant", "operator": operator, "value": value})
        return {int(hit.id) for hit in index.query(np.zeros(6), filter=translated, limit=20)}

    for row in range(5):
        assert found("==", base + row) == {row}
        assert found("in", [base + row, base + 7, "x"]) == {row}
        assert found("!=", base + row) == {*range(5)} - {row}
        assert found("not in", [base + row, base + 1]) == {*range(5)} - {row, 1}


@pytest.mark.parametrize("value", [2**53, 2**53 + 1, -(2**60), 1e19, 10**400, float("inf"), float("nan")])
@pytest.mark.parametrize("operator", [">", ">=", "<", "<="])
def test_an_order_that_would_be_rounded_is_an_error(operator: str, value: Any) -> None:
    with pytest.raises(UntranslatableFilterError, match="cannot order by"):
        qdrant_filter(condition(operator=operator, value=value))


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400, 1e300, float("inf"), float("nan")])
@pytest.mark.parametrize("operator", ["==", "!=", "in", "not in"])
def test_a_number_that_qdrant_cannot_hold_exactly_is_an_error(operator: str, value: Any) -> None:
    with pytest.raises(UntranslatableFilterError, match="cannot compare"):
        qdrant_filter(condition(operator=operator, value=[value] if "in" in operator else value))


@pytest.mark.parametrize(
    ("value", "rows"), [("1", {1}), ("01", set()), ("0", {0}), ("²", set()), (2, {2}), (True, set())]
)
def test_an_id_is_that_of_one_point(index: Index, value: Any, rows: set[int]) -> None:
    index.delete(range(10))
    index.upsert(range(3), np.zeros((3, 6)), modality="text")
    hits = index.query(np.zeros(6), filter=qdrant_filter(condition("id", "==", value)), limit=20)
    assert {int(hit.id) for hit in hits} == rows


def condition(field: Any = "meta.x", operator: Any = "==", value: Any = 1) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (condition(operator="contains"), "unknown comparison 'contains'"),
        (condition(operator="like"), "unknown comparison"),
        ({"operator": "XOR", "conditions": []}, "unknown logic 'XOR'"),
        ({"operator": "AND"}, "lacks conditions"),
        ({"conditions": []}, "lacks operator"),
        ({"field": "meta.x", "operator": "=="}, "lacks value"),
        ({"operator": "AND", "conditions": {}}, "conditions is dict"),
        ({"operator": "AND", "conditions": ["x"]}, "condition is str"),
        ({}, "lacks operator, conditions"),
        (condition(operator="in", value="abc"), "expected a list"),
        (condition(operator="in", value=[[1]]), "cannot compare"),
        (condition(value={"a": 1}), "cannot compare 'meta.x' with dict"),
        (condition(operator=">", value="abc"), "only ISO dates"),
        (condition(operator=">", value=None), "cannot order by NoneType"),
        (condition(operator=">", value=True), "cannot order by bool"),
        (condition(operator=">", value=[1]), "cannot order by list"),
        (condition(field="id", operator=">", value="1"), "ids have no order"),
        (condition(field="embedding"), "cannot filter by 'embedding'"),
        (condition(field="score", operator=">"), "cannot filter by 'score'"),
        (condition(field="meta."), "field of a comparison"),
        (condition(field=3), "field of a comparison is 3"),
    ],
)
def test_what_cannot_be_said_is_an_error_and_never_left_out(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UntranslatableFilterError, match=message) as caught:
        qdrant_filter(asked)
    assert isinstance(caught.value, FilterError)
    assert isinstance(caught.value, SettingsError)


def test_a_filter_may_not_be_nested_without_end() -> None:
    asked: dict[str, Any] = condition()
    for _ in range(5000):
        asked = {"operator": "NOT", "conditions": [asked]}
    with pytest.raises(UntranslatableFilterError, match="levels deep"):
        qdrant_filter(asked)


def test_instants_are_compared_as_instants(tmp_path: Path) -> None:
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    with index_on("edge", tmp_path) as index:
        rows = [{"day": "2024-01-01T12:00:00Z"}, {"day": "2024-01-01T14:00:00+02:00"}, {"day": "2024-01-02"}]
        index.upsert(range(3), np.zeros((3, 6)), modality="text", payloads=rows)

        def found(operator: str, value: Any) -> set[int]:
            asked = qdrant_filter(condition("meta.day", operator, value))
            return {int(hit.id) for hit in index.query(np.zeros(6), filter=asked)}

        assert found("==", noon) == {0, 1}
        assert found(">", noon) == {2}
        assert found("<=", "2024-01-01T13:00:00+01:00") == {0, 1}


def test_content_is_the_field_that_is_named(tmp_path: Path) -> None:
    asked = qdrant_filter(condition("content", "==", "a dog"), content_key="caption")
    with index_on("edge", tmp_path) as index:
        rows = [{"caption": "a dog"}, {"caption": ["a cat", "a dog"]}, {"text": "a dog"}]
        index.upsert(range(3), np.zeros((3, 6)), modality="text", payloads=rows)
        assert {int(hit.id) for hit in index.query(np.zeros(6), filter=asked)} == {0, 1}
