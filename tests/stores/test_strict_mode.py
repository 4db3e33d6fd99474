"""Strict mode of a server: requests keep its limits, or are refused in words before they are sent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from qdrant_client import models
from support.rest_server import RestServer, rest_server
from support.spaces import CURVATURE, DIM, profile, random_points

from hysac_retrieval.collection.index import Index
from hysac_retrieval.collection.rescore import rescore
from hysac_retrieval.errors import SettingsError, StoreError
from hysac_retrieval.stores.base import pages

POINTS = random_points(40)


@pytest.fixture
def server() -> Iterator[RestServer]:
    with rest_server() as running:
        yield running


def make(server: RestServer, **options: object) -> Index:
    return Index.create("c", dim=DIM, curvature=CURVATURE, safety=profile(), url=server.url, **options)  # type: ignore[arg-type]


def limits(**others: object) -> models.StrictModeConfig:
    return models.StrictModeConfig(enabled=True, unindexed_filtering_retrieve=False, **others)  # type: ignore[arg-type]


def test_everything_works_where_only_indexed_fields_may_be_named(server: RestServer) -> None:
    server.strict = limits()
    with make(server) as index:
        index.upsert(range(40), POINTS, modality="image", payloads=[{"k": i} for i in range(40)])
        assert index.info().points == 40
        assert len(index.query(POINTS[0], limit=5)) == 5
        assert len(index.query(POINTS[0], limit=5, threshold=0.3, modality="image", rerank="exact")) == 5
        assert index.query_groups(POINTS[0], "hysac.modality", groups=1, size=3).groups
        rescore(index, profile().model_copy(update={"source": "anew"}))
        assert index.info().outdated == 0


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
        rescore(index, profile().model_copy(update={"source": "anew"}))
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
