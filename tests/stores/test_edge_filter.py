"""The embedded engine's filters against those of qdrant-client's local mode: one filter, equal answers."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from qdrant_client.models import FieldCondition, Filter

from hysac_retrieval.errors import SettingsError
from hysac_retrieval.stores import CollectionSpec, Store
from hysac_retrieval.stores.edge.filter import edge_filter
from hysac_retrieval.stores.edge.store import EdgeStore
from hysac_retrieval.stores.qdrant.store import QdrantStore

BERLIN, PARIS, TOKYO = ({"lat": 52.5, "lon": 13.4}, {"lat": 48.9, "lon": 2.35}, {"lat": 35.7, "lon": 139.7})
UUID = str(uuid.UUID(int=5))
PAYLOADS: dict[Any, dict[str, Any]] = {
    0: {"colour": "red", "n": 1, "flag": True, "at": "2024-01-01T00:00:00Z", "where": BERLIN},
    1: {"colour": "green", "n": 2, "flag": False, "at": "2024-06-01T12:00:00+02:00", "where": PARIS},
    2: {"colour": ["red", "blue"], "n": 3.5, "flag": 1, "at": "2025-01-01T00:00:00Z", "where": TOKYO},
    3: {"colour": None, "n": [1, 7], "tags": []},
    4: {"text": "the quick brown fox", "parts": [{"kind": "a", "n": 1}, {"kind": "b", "n": 2}]},
    UUID: {"text": "a quick fox, brown", "parts": [{"kind": "a", "n": 2}], "flag": 0},
}


def on(key: str, **what: Any) -> FieldCondition:
    return FieldCondition(key=key, **what)


def value(v: Any) -> models.MatchValue:
    return models.MatchValue(value=v)


def point(place: dict[str, float]) -> models.GeoPoint:
    return models.GeoPoint(lat=place["lat"], lon=place["lon"])


def ring(*corners: tuple[float, float]) -> models.GeoLineString:
    return models.GeoLineString(points=[models.GeoPoint(lat=lat, lon=lon) for lat, lon in corners])


EUROPE = ring((40, -10), (60, -10), (60, 20), (40, 20), (40, -10))
HOLE = ring((47, 0), (50, 0), (50, 5), (47, 5), (47, 0))
UTC = dt.UTC
NESTED = Filter(must=[on("kind", match=value("a")), on("n", match=value(2))])

CASES: dict[str, tuple[Any, set[Any]]] = {
    "keyword": (on("colour", match=value("red")), {0, 2}),
    "integer": (on("n", match=value(1)), {0, 3}),
    "true": (on("flag", match=value(True)), {0}),
    "false": (on("flag", match=value(False)), {1}),
    "one": (on("flag", match=value(1)), {2}),
    "zero": (on("flag", match=value(0)), {UUID}),
    "any of words": (on("colour", match=models.MatchAny(any=["green", "blue"])), {1, 2}),
    "any of numbers": (on("n", match=models.MatchAny(any=[2, 7])), {1, 3}),
    "except": (on("colour", match=models.MatchExcept(**{"except": ["red"]})), {1, 2}),
    "text": (on("text", match=models.MatchText(text="brown quick")), {4, UUID}),
    "any word of a text": (on("text", match=models.MatchTextAny(text_any="the cat")), {4}),
    "phrase": (on("text", match=models.MatchPhrase(phrase="quick brown")), {4}),
    "prefix": (on("colour", match=models.MatchPrefix(prefix="gre")), {1}),
    "substring": (on("colour", match=models.MatchSubstring(substring="ree")), {1}),
    "range": (on("n", range=models.Range(gt=1, lte=3.5)), {1, 2}),
    "range from below": (on("n", range=models.Range(gte=1, lt=2)), {0, 3}),
    "instant": (on("at", range=models.DatetimeRange(gt=dt.datetime(2024, 6, 1, 9, 59, tzinfo=UTC))), {1, 2}),
    "instant without zone": (on("at", range=models.DatetimeRange(lt=dt.datetime(2024, 6, 1, 10))), {0}),
    "day": (on("at", range=models.DatetimeRange(gte=dt.date(2025, 1, 1))), {2}),
    "box": (
        on(
            "where",
            geo_bounding_box=models.GeoBoundingBox(
                top_left=models.GeoPoint(lat=60, lon=5), bottom_right=models.GeoPoint(lat=50, lon=20)
            ),
        ),
        {0},
    ),
    "circle": (on("where", geo_radius=models.GeoRadius(center=point(PARIS), radius=900_000)), {0, 1}),
    "polygon": (on("where", geo_polygon=models.GeoPolygon(exterior=EUROPE)), {0, 1}),
    "polygon with a hole": (on("where", geo_polygon=models.GeoPolygon(exterior=EUROPE, interiors=[HOLE])), {0}),
    "number of values": (on("colour", values_count=models.ValuesCount(gte=2)), {2}),
    "field is empty": (on("tags", is_empty=False), set()),
    "field is null": (on("colour", is_null=True), {3}),
    "is empty": (models.IsEmptyCondition(is_empty=models.PayloadField(key="n")), {4, UUID}),
    "is null": (models.IsNullCondition(is_null=models.PayloadField(key="colour")), {3}),
    "has id": (models.HasIdCondition(has_id=[1, UUID, 99]), {1, UUID}),
    "has vector": (models.HasVectorCondition(has_vector="hysac"), set(PAYLOADS)),
    "has another vector": (models.HasVectorCondition(has_vector="hysac2"), set()),
    "nested": (models.NestedCondition(nested=models.Nested(key="parts", filter=NESTED)), {UUID}),
    "filter": (Filter(must_not=on("colour", match=value("red"))), {1, 3, 4, UUID}),
    "should": (Filter(should=[on("n", match=value(2)), on("flag", match=value(True))]), {0, 1}),
    "least of several": (
        Filter(
            min_should=models.MinShould(
                conditions=[on("n", match=value(1)), on("flag", match=value(True)), on("colour", match=value("red"))],
                min_count=2,
            )
        ),
        {0},
    ),
    "nothing": (Filter(), set(PAYLOADS)),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    both: dict[str, Store] = {"edge": EdgeStore(tmp_path_factory.mktemp("filters")), "memory": QdrantStore.connect()}
    for store in both.values():
        store.create("c", CollectionSpec(size=2, metadata={"a": 1}))
        store.upsert("c", list(PAYLOADS), np.ones((len(PAYLOADS), 2), dtype=np.float32), list(PAYLOADS.values()))
    yield both
    for store in both.values():
        store.close()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("store", ["edge", "memory"])
def test_a_condition_selects_the_same_points_on_every_store(stores: dict[str, Store], store: str, case: str) -> None:
    condition, expected = CASES[case]
    chosen = Filter(must=[condition])
    everything = Filter(must_not=[condition])
    found = {p for p in PAYLOADS if stores[store].count("c", _with_id(chosen, p))}
    assert found == expected
    assert stores[store].count("c", everything) == len(PAYLOADS) - len(expected)


def _with_id(filter: Filter, identity: Any) -> Filter:
    return Filter(must=[filter, models.HasIdCondition(has_id=[identity])])


def test_every_kind_of_condition_and_match_is_covered() -> None:
    from typing import get_args

    def kinds(value: Any) -> Iterator[type]:
        yield type(value)
        if hasattr(value, "model_fields_set"):
            for name in value.model_fields_set:
                inner = getattr(value, name)
                for item in inner if isinstance(inner, list) else [inner]:
                    yield from kinds(item)

    seen = {kind for condition, _ in CASES.values() for kind in kinds(condition)}
    wanted = {*get_args(models.Condition), *get_args(models.Match), *get_args(models.RangeInterface)}
    # A slice of the id space is tested below: which points fall into it is up to a hash.
    assert wanted - seen == {models.SliceCondition}


def test_slices_divide_the_points(stores: dict[str, Store]) -> None:
    def part(store: str, index: int) -> set[Any]:
        condition = models.SliceCondition(slice=models.Slice(total=3, index=index))
        return {p for p in PAYLOADS if stores[store].count("c", _with_id(Filter(must=[condition]), p))}

    parts = [part("edge", index) for index in range(3)]
    assert set.union(*parts) == set(PAYLOADS)
    assert sum(map(len, parts)) == len(PAYLOADS)
    assert parts == [part("memory", index) for index in range(3)]


class Unheard:
    """A condition that no engine knows."""


@pytest.mark.parametrize(
    "filter",
    [
        Filter.model_construct(must=[Unheard()]),
        Filter(must=[Filter.model_construct(must_not=Unheard())]),
        Filter.model_construct(must=[FieldCondition.model_construct(key="a", match=Unheard())]),
        Filter.model_construct(must=[FieldCondition.model_construct(key="a", range=Unheard())]),
        Filter(must=[models.HasIdCondition(has_id=["not a uuid"])]),
        Filter(min_should=models.MinShould(conditions=[], min_count=0)),
        type("Wider", (Filter,), {})(),
        {"must": []},
    ],
)
def test_what_cannot_be_translated_is_refused(filter: Any) -> None:
    with pytest.raises(SettingsError):
        edge_filter(filter)
