"""Strict mode of a server: requests keep its limits, or are refused in words before they are sent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import models
from support.applications import NAME, TEXTS, UNSAFE, application
from support.rest_server import RestServer
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval import aconnect, connect
from hysac_retrieval.collection.collection import rule_indexes
from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.errors import SettingsError, StoreError
from hysac_retrieval.guard import Guard, SafeQdrantClient
from hysac_retrieval.ingest import Content, attached_collection_for, fill
from hysac_retrieval.safety.policy import LabelRule, SafetyPolicy
from hysac_retrieval.stores.base import pages
from hysac_retrieval.stores.qdrant.store import QdrantStore
from hysac_retrieval.types import Thresholds

POINTS = random_points(40)


@pytest.fixture
def server(either: RestServer) -> RestServer:
    return either


def make(server: RestServer, **options: object) -> Index:
    return Index.create("c", dim=DIM, curvature=CURVATURE, safety=profile(), **server.place, **options)  # type: ignore[arg-type]


def limits(**others: object) -> models.StrictModeConfig:
    unindexed: Any = {"unindexed_filtering_retrieve": False, "unindexed_filtering_update": False}
    return models.StrictModeConfig(enabled=True, **unindexed, **others)  # type: ignore[arg-type]


def test_everything_works_where_only_indexed_fields_may_be_named(server: RestServer) -> None:
    server.strict = limits()
    with make(server) as index:
        index.upsert(range(40), POINTS, modality="image", payloads=[{"k": i} for i in range(40)])
        assert index.info().points == 40
        assert len(index.query(POINTS[0], limit=5)) == 5
        assert len(index.query(POINTS[0], limit=5, threshold=0.3, modality="image", rerank="exact")) == 5
        assert index.query_groups(POINTS[0], "hysac.modality", groups=1, size=3).groups
        report = rescore(index, profile(threshold=0.2))
        assert (report.rescored, report.left, index.info().outdated) == (40, 0, 0)
        assert not {"hysac.radius", "hysac.worst.radius"} & server.indexed["c"]


@pytest.mark.parametrize("where", ["filter", "group"])
def test_a_field_without_an_index_is_named_with_the_option_that_indexes_it(server: RestServer, where: str) -> None:
    server.strict = limits()
    with make(server) as index:
        index.upsert(range(40), POINTS, modality="image", payloads=[{"album": f"a{i % 3}"} for i in range(40)])
        red = {"must": [{"key": "album", "match": {"value": "a1"}}]}

        def ask() -> list[object]:
            if where == "filter":
                return list(index.query(POINTS[0], filter=red))
            return list(index.query_groups(POINTS[0], "album").groups)

        with pytest.raises(StoreError, match=r'not found for "album".*--index-field album'):
            ask()
        with make(server, exist_ok=True, index_fields={"album": "keyword"}):
            assert len(ask()) > 0


def test_pages_counts_and_candidates_keep_the_limits(server: RestServer) -> None:
    server.strict = limits(
        max_query_limit=7, search_allow_exact=False, search_max_hnsw_ef=32, upsert_max_batchsize=5,
        search_max_batchsize=2,
    )  # fmt: skip
    with make(server, quantization="int8") as index:
        index.upsert(range(40), POINTS, modality="image")
        assert [point.id for page in pages(index.store, "c", limit=1000) for point in page] == list(range(40))
        assert (index.info().points, index.info().estimated) == (40, True)
        assert [len(hits) for hits in index.query_batch(POINTS[:9], limit=7, safe=False, rerank="exact")] == [7] * 9
        index.delete(list(range(20)))
        assert rescore(index, profile(threshold=0.2)).rescored == 20
        assert index.count() == 20
        sent = len(server.requests)
        with pytest.raises(SettingsError, match=r"allows 7 points.*not 8.*max_query_limit"):
            index.query(POINTS[0], limit=8)
        assert len(server.requests) == sent


def test_without_strict_mode_nothing_is_cut(server: RestServer) -> None:
    server.strict = models.StrictModeConfig(enabled=False, max_query_limit=1)
    server.strict = None
    with make(server) as index:
        index.upsert(range(40), POINTS, modality="image")
        assert not index.info().estimated
        assert len(index.query(np.asarray(POINTS[0]), limit=30, safe=False)) == 30


@pytest.mark.parametrize("kind", ["string", "", "Keyword"])
def test_an_unknown_kind_of_index_is_refused_before_the_collection_is_made(server: RestServer, kind: str) -> None:
    with pytest.raises(SettingsError, match=r"index of field 'album'.*keyword, integer"):
        make(server, index_fields={"album": kind})
    assert not server.backend.collection_exists("c")


SAFE = [row for row, text in enumerate(TEXTS) if not any(word in text for word in UNSAFE)]
TAGGED = [{"title": text, "tag": "even" if row % 2 == 0 else "odd", "n": row} for row, text in enumerate(TEXTS)]
EVEN = SafetyPolicy(rules=(LabelRule("tag", allow=("even",)),))


@pytest.mark.parametrize("over", ["rest", "grpc"])
@pytest.mark.parametrize("vectors", ["in-place", "companion", "none"])
def test_a_collection_of_an_application_is_attached_kept_in_step_and_detached(
    vectors: Any, over: str, encoder: Encoder, tmp_path: Path
) -> None:
    with application(f"server-{over}", tmp_path, TAGGED) as app:
        server = app.server
        assert server is not None
        server.strict, before = limits(max_query_limit=3), app.look()
        content = Content(text="title")
        with attached_collection_for(encoder, NAME, content, vectors=vectors, **app.place) as index:
            assert fill(index, encoder, content).indexed["text"] == len(TEXTS)
            assert fill(index, encoder).skipped == len(TEXTS)
            guard = SafeQdrantClient(server.client())
            assert [record.id for record in guard.scroll(NAME, limit=2)[0]] == SAFE[:2]
            stricter = encoder.safety.model_copy(update={"threshold": Thresholds.both(0.4)})
            rescored = rescore(index, stricter, fingerprint=encoder.fingerprint[:16] + "0" * 16)
            assert (rescored.rescored, rescored.left) == (len(TEXTS), 0)
            assert index.detach() == len(TEXTS)
        assert app.look() == before
        assert server.indexed[NAME] == set()
        guard.close()


@pytest.mark.parametrize("over", ["rest", "grpc"])
def test_indexes_on_fields_of_an_application_are_made_when_asked_for_and_taken_away_with_the_rest(
    over: str, encoder: Encoder, tmp_path: Path
) -> None:
    with application(f"server-{over}", tmp_path, TAGGED) as app:
        server = app.server
        assert server is not None
        server.strict = limits()
        server.indexed[NAME] = {"n"}  # the application's own
        fields: dict[str, Any] = {"tag": "keyword", "n": "integer"}
        for _ in range(2):
            content = Content(text="title")
            with attached_collection_for(encoder, NAME, content, index_fields=fields, **app.place) as index:
                fill(index, encoder)
        with connect(NAME, model=encoder, **app.place) as engine:
            tagged = models.Filter(must=[models.FieldCondition(key="tag", match=models.MatchValue(value="even"))])
            assert {hit.id for hit in engine.search("a dog", filter=tagged)} == {row for row in SAFE if row % 2 == 0}
            engine.index.detach()
        assert server.indexed[NAME] == {"n"}


@pytest.mark.parametrize("over", ["rest", "grpc"])
def test_labels_of_rules_are_indexed_where_the_key_may(over: str, encoder: Encoder, tmp_path: Path) -> None:
    with application(f"server-{over}", tmp_path, TAGGED) as app:
        server = app.server
        assert server is not None
        with attached_collection_for(encoder, NAME, Content(text="title"), **app.place) as index:
            fill(index, encoder)
        server.strict, server.read_only = limits(), True
        opened = [
            lambda: connect(NAME, model=encoder, policy=EVEN, **app.place),
            lambda: Guard.open(NAME, policy=EVEN, **app.place),
            lambda: asyncio.run(_asked(app.place, encoder)),
            lambda: SafeQdrantClient(server.client(), policy=EVEN).scroll(NAME),
        ]
        for ask in opened:
            with pytest.raises(StoreError, match=r"'tag'.*index.*hysac attach --index-field tag"):
                ask()
        server.read_only = False
        wanted = {row for row in SAFE if row % 2 == 0}
        with connect(NAME, model=encoder, policy=EVEN, **app.place) as engine:
            assert {hit.id for hit in engine.search("a dog", limit=5)} == wanted
        assert {record.id for record in SafeQdrantClient(server.client(), policy=EVEN).scroll(NAME)[0]} == wanted


async def _asked(place: dict[str, Any], encoder: Encoder) -> None:
    async with aconnect(NAME, model=encoder, policy=EVEN, **place) as engine:
        await engine.search("a dog")


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (LabelRule("k", deny=("a",)), "keyword"),
        (LabelRule("k", allow=("a", "b")), "keyword"),
        (LabelRule("k", deny=(3,)), "integer"),
        (LabelRule("k", allow=(True,)), "bool"),
    ],
)
def test_the_index_of_a_rule_is_that_of_its_labels(rule: LabelRule, kind: str) -> None:
    assert rule_indexes(SafetyPolicy(rules=(rule,))) == {"k": kind}
    assert rule_indexes(None) == {}


def test_groups_whose_members_are_more_than_one_request_may_return_are_refused_in_words(server: RestServer) -> None:
    server.strict = limits(max_query_limit=10)
    with make(server, index_fields={"album": "keyword"}) as index:
        index.upsert(range(40), POINTS, modality="image", payloads=[{"album": f"a{i % 3}"} for i in range(40)])
        assert len(index.query_groups(POINTS[0], "album", groups=2, size=5).groups) == 2
        with pytest.raises(SettingsError, match=r"allows 10 points.*not 12"):
            index.query_groups(POINTS[0], "album", groups=3, size=4)


CONDITIONS: list[dict[str, Any]] = [
    {"must": [{"key": "a", "match": {"value": 1}}, {"key": "free", "match": {"value": 1}}]},
    {"must": [{"has_id": [1, 2]}], "must_not": [{"is_empty": {"key": "free"}}]},
    {"should": [{"key": "free", "match": {"value": 1}}, {"is_null": {"key": "free"}}]},
    {"must": [{"should": [{"key": "a", "match": {"value": 0}}, {"key": "free", "match": {"value": 1}}]}]},
    {"must": [{"nested": {"key": "deep", "filter": {"must": [{"key": "free", "match": {"value": 1}}]}}}]},
    {"must_not": [{"key": "a", "match": {"value": 1}}]},
    {"min_should": {"conditions": [{"key": "free", "match": {"value": 1}}, {"has_id": [3]}], "min_count": 1}},
]


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("page", [1, 3, 100])
def test_what_may_not_be_a_condition_is_paged_through(server: RestServer, condition: Any, page: int) -> None:
    payloads = [{"a": i % 2, "deep": [{"free": i % 3}], **({"free": i % 3} if i % 4 else {})} for i in range(12)]
    with make(server, index_fields={"a": "integer"}) as index:
        index.upsert(range(12), POINTS[:12], modality="image", payloads=payloads)
        asked = models.Filter.model_validate(condition)
        expected = [record.id for record in server.backend.scroll("c", scroll_filter=asked, limit=99)[0]]
        server.strict = limits(max_query_limit=5)
        store = QdrantStore.connect(**server.place)
        assert [point.id for found in pages(store, "c", filter=asked, limit=page) for point in found] == expected
        assert store.count("c", asked) == len(expected)
        store.close()
