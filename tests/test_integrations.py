"""What every framework plugin stands on: a search with fixed terms, documents, and which points are permitted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from qdrant_client import models
from support.hostile import ODD_RECORDS, ODD_SCORES, ODD_VERDICTS, allowed, fill
from support.spaces import index_on, random_points

from hysac_retrieval import SafetyPolicy, aconnect, connect
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import InputError, SettingsError, UnsafeNotAllowedError
from hysac_retrieval.integrations import Fields, FixedSearch, closeness, farthest, joined_filter
from hysac_retrieval.results import Hit
from hysac_retrieval.safety.policy import LabelRule
from hysac_retrieval.search.blocking import SafeSearch
from hysac_retrieval.search.points import kind_of

TEXTS = ["a man in the park", "a man with a gun", "a dog", "a cat with a knife", "the red house", "blood in the house"]
SAFE = {0, 2, 4}


@pytest.fixture(scope="module")
def encoder(toy_bundle: Path) -> Encoder:
    return Encoder.load(toy_bundle, threads=1)


@pytest.fixture
def engine(encoder: Encoder) -> Iterator[SafeSearch]:
    with connect("toy", location=":memory:", model=encoder, create=True) as made:
        payloads = [{"text": text, "k": row} for row, text in enumerate(TEXTS)]
        made.index.upsert(range(6), encoder.encode_text(TEXTS), modality="text", payloads=payloads)
        yield made


def has_k(*values: int) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="k", match=models.MatchAny(any=list(values)))])


def test_the_filter_of_a_call_narrows_that_of_construction(engine: SafeSearch) -> None:
    fixed = FixedSearch(engine, filter=has_k(0, 1, 2))
    assert {hit.id for hit in fixed.search("a dog")} == {0, 2}
    assert {hit.id for hit in fixed.search("a dog", filter=has_k(2, 4))} == {2}
    json_form = {"must": [{"key": "k", "match": {"any": [0, 4]}}]}
    assert {hit.id for hit in fixed.search("a dog", filter=json_form)} == {0}


def test_both_ways_of_calling_find_the_same(engine: SafeSearch) -> None:
    fixed = FixedSearch(engine, limit=2)
    assert asyncio.run(fixed.asearch("a man with a gun")) == fixed.search("a man with a gun")
    assert len(fixed.search("a dog")) == 2
    assert len(fixed.search("a dog", limit=1)) == 1


def test_an_asynchronous_engine_is_used_where_there_is_one(engine: SafeSearch) -> None:
    other = aconnect("toy", store=engine.index.store, model=engine.encoder, policy=SafetyPolicy(threshold=0.0))
    both = FixedSearch(engine, other)
    assert {hit.id for hit in both.search("a dog")} == SAFE
    assert not asyncio.run(both.asearch("a dog")).hits  # nothing has a score of 0
    with pytest.raises(SettingsError, match="only an asynchronous engine"):
        FixedSearch(async_engine=other).search("a dog")


def test_unsafe_results_are_for_construction_and_for_the_policy(encoder: Encoder, engine: SafeSearch) -> None:
    assert {hit.id for hit in FixedSearch(engine, safe=False).search("a dog")} == set(range(6))
    store, policy = engine.index.store, SafetyPolicy(allow_unsafe=False)
    with pytest.raises(UnsafeNotAllowedError):
        FixedSearch(connect("toy", store=store, model=encoder, policy=policy), safe=False)
    strict = FixedSearch(async_engine=aconnect("toy", store=store, model=encoder, policy=policy), safe=False)
    with pytest.raises(UnsafeNotAllowedError):
        asyncio.run(strict.asearch("a dog"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there is no engine"),
        ({"engine": "photos"}, "engine is str"),
        ({"safe": 0}, "safe is 0"),
        ({"limit": 0}, "limit is 0"),
        ({"filter": "k = 1"}, "filter is str"),
    ],
)
def test_settings_that_cannot_be_are_errors_at_construction(
    engine: SafeSearch, settings: dict[str, Any], message: str
) -> None:
    given = settings if not settings or "engine" in settings else {"engine": engine, **settings}
    with pytest.raises(SettingsError, match=message):
        FixedSearch(**given)


def test_a_text_that_names_a_file_is_still_a_text(engine: SafeSearch, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    assert kind_of(str(picture)) == "text"
    assert kind_of(picture) == "image"
    assert FixedSearch(engine).search(str(picture)).query.modality == "text"
    assert FixedSearch(engine).search(picture).query.modality == "image"


def hit(**payload: Any) -> Hit:
    return Hit(id=7, distance=1.0, unsafe=0.25, radius=1.5, modality="text", payload=payload)


def test_documents_are_made_of_the_fields_that_are_named() -> None:
    said = {"id": 7, "distance": 1.0, "unsafe": 0.25, "radius": 1.5, "modality": "text", "views": 1, "worst": None}
    said["reviewed"] = False
    usual = Fields()
    assert usual.text(hit(text="a dog", k=1)) == "a dog"
    assert usual.described(hit(text="a dog", k=1)) == {"k": 1, "hysac": said}
    assert usual.text(hit(caption=["a dog", "a pet"])) == "a dog\na pet"
    assert usual.text(hit(text=3, caption=[])) is None
    nested = Fields.of("page_content", "metadata")
    assert nested.text(hit(page_content="x", text="y")) == "x"
    assert nested.described(hit(page_content="x", metadata={"k": 1}, other=2)) == {"k": 1, "hysac": said}
    assert nested.described(hit(metadata="none", other=2)) == {"hysac": said}
    assert closeness(hit()) == 0.5
    inside = Fields.of("_node_content|text", None)
    assert inside.text(hit(_node_content='{"text": "a dog"}')) == "a dog"
    assert [inside.text(hit(_node_content=odd)) for odd in ("{", 3, "[]", None)] == [None] * 4


def test_hits_without_a_text_have_names_of_their_own() -> None:
    hits = [
        replace(hit(**payload), id=row)
        for row, payload in enumerate(
            [{"file": "a.png"}, {"file": "b.png"}, {"file": "b.png"}, {"file": ""}, {"caption": ""}, {"text": "a dog"}]
        )
    ]
    assert Fields().named(hits) == ["a.png", "1", "2", "3", "4", "a dog"]
    assert Fields().named([]) == []


@pytest.mark.parametrize("distance", [0.0, 1e-9, 0.37, 1.0, 2.960843, 41.5])
def test_a_score_that_is_taken_for_a_threshold_keeps_its_hit(distance: float) -> None:
    score = closeness(replace(hit(), distance=distance))
    bound = farthest(score)
    assert bound is not None
    assert distance <= bound <= distance * (1 + 1e-9) + 1e-9


def test_a_score_threshold_is_a_number_from_0_to_1() -> None:
    assert farthest(None) is None
    assert farthest(np.float32(0.5)) == pytest.approx(1.0)
    assert farthest(0) > 1e100  # type: ignore[operator]
    for wrong in (-1e-9, 1.01, math.nan, math.inf, True, "0.5", [0.5]):
        with pytest.raises(SettingsError, match="score_threshold"):
            farthest(wrong)  # type: ignore[arg-type]


def test_joined_filters_must_all_hold() -> None:
    assert joined_filter(None, None) is None
    assert joined_filter(None, has_k(1)) == has_k(1)
    assert joined_filter(has_k(1), has_k(2)) == models.Filter(must=[has_k(1), has_k(2)])


@pytest.mark.parametrize("lift", ["padded", "poincare"])
@pytest.mark.parametrize("store", ["edge", "memory"])
def test_permitted_are_the_points_whose_own_record_says_so(store: str, lift: str, tmp_path: Path) -> None:
    safe = {"model": "own", "safe": {"own": True}}
    own: list[Any] = [{"unsafe": 0.1, **safe}, {"unsafe": 0.5, **safe}]
    scores = [score for score in ODD_SCORES if store == "edge" or not isinstance(score, list)]  # see test_safety_matrix
    odd: list[Any] = [{"unsafe": score, **safe} for score in scores] + ODD_RECORDS
    odd += [{"unsafe": 0.1, "model": "own", "safe": verdict} for verdict in ODD_VERDICTS]
    with index_on(store, tmp_path, lift=lift) as index:
        there = fill(index, [{"hysac": record} for record in [*own, *odd]], seed=3)
        engine = SafeSearch(index, None)
        found = engine.permitted([*there, 999, *there])
        assert found == {i for i, (_, row) in there.items() if allowed(row, 0.5, index.metadata.fingerprint)}
        assert {0, 1} <= found
        assert engine.permitted([]) == frozenset()


def test_permitted_asks_in_batches_and_of_rules(tmp_path: Path) -> None:
    rules = (LabelRule("kind", deny=("weapons",)),)
    with index_on("memory", tmp_path) as index:
        points = random_points(1200, low=0.5, high=1.5)
        kinds = [{"kind": "weapons" if row % 3 == 0 else "animals"} for row in range(1200)]
        index.upsert(range(1200), points, modality="text", payloads=kinds)
        engine = SafeSearch(index, None, policy=SafetyPolicy(rules=rules))
        assert engine.permitted(range(1200)) == {row for row in range(1200) if row % 3}
        asynchronous = aconnect(index.name, store=index.store, model=None, policy=engine.policy)
        assert asyncio.run(asynchronous.permitted(range(9))) == {1, 2, 4, 5, 7, 8}


def test_ids_that_are_none_are_an_error(tmp_path: Path) -> None:
    with index_on("memory", tmp_path) as index, pytest.raises(InputError):
        SafeSearch(index, None).permitted(["a dog"])


@pytest.mark.parametrize("traversal", ["geodesic", "adaptive", "none"])
def test_permitted_does_not_depend_on_the_traversal(traversal: Any, tmp_path: Path) -> None:
    with index_on("memory", tmp_path) as index:
        index.upsert([1], np.zeros((1, 6)), modality="image")
        index.upsert([2], random_points(1, low=4.0, high=5.0), modality="image")
        assert SafeSearch(index, None, policy=SafetyPolicy(traversal=traversal)).permitted([1, 2]) == {1}
