"""Beside qdrant-client's local client, on a collection in which all is safe: the same answers for every method."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from support.spaces import index_on, match, random_points

from hysac_retrieval import AsyncSafeQdrantClient, SafeQdrantClient
from hysac_retrieval.collection.index import Index
from hysac_retrieval.guard.methods import METHODS

N = 12


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    # A server answers the same question twice in another order, where points score alike or are asked for by id.
    fields = {"n": "integer", "k": "integer"}  # a server orders and counts by what is indexed
    with index_on("memory", tmp_path_factory.mktemp("congruence"), index_fields=fields) as made:
        rows = [{"k": row % 3, "n": row, "title": f"t{row}", "meta": {"tags": ["x", str(row)]}} for row in range(N)]
        made.upsert(range(N), random_points(N, low=1.5, high=1.9), modality="text", payloads=rows)
        yield made


def forms(index: Index) -> dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls of every method, in every form of an argument."""
    point = index.collection.lift.lift_query(random_points(1, seed=9))[0]
    vector, k1 = point.tolist(), models.Filter(must=[match("k", 1)])
    params = models.SearchParams(exact=False)
    stage = models.Prefetch(query=vector, using="hysac", limit=9)
    nested = models.Prefetch(prefetch=[stage, models.Prefetch(filter=k1)], query=vector, using="hysac", filter=k1)
    pair = models.ContextPair(positive=1, negative=2)
    queries: dict[str, Any] = {
        "list": vector,
        "array": np.asarray(vector),
        "float32": np.asarray(vector, dtype=np.float32),
        "id": 3,
        "nearest": models.NearestQuery(nearest=vector),
        "nearest id": models.NearestQuery(nearest=4),
        "diverse": models.NearestQuery(nearest=vector, mmr=models.Mmr(diversity=0.5, candidates_limit=9)),
        "recommend": models.RecommendQuery(
            recommend=models.RecommendInput(
                positive=[1, vector], negative=[2], strategy=models.RecommendStrategy.BEST_SCORE
            )
        ),
        "discover": models.DiscoverQuery(discover=models.DiscoverInput(target=vector, context=[pair])),
        "context": models.ContextQuery(context=pair),
        "order": models.OrderByQuery(order_by=models.OrderBy(key="n", direction=models.Direction.DESC)),
        "none": None,
    }
    found: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {}
    for label, query in queries.items():
        found[f"query {label}"] = (
            "query_points",
            ("points", query),
            {"using": "hysac", "limit": N if label == "context" else 5},
        )
    more: dict[str, dict[str, Any]] = {
        "filter": {"query_filter": k1},
        "offset": {"offset": 2, "limit": 3},
        "threshold": {"score_threshold": -12.0},
        "params": {"search_params": params},
        "prefetch": {"prefetch": stage},
        "prefetches": {"prefetch": [stage, nested]},
        "lookup": {"lookup_from": models.LookupLocation(collection="points", vector="hysac")},
        "vectors": {"with_vectors": True},
        "named vectors": {"with_vectors": ["hysac"]},
        "no payload": {"with_payload": False},
        "fields": {"with_payload": ["title", "meta.tags"]},
        "but fields": {"with_payload": models.PayloadSelectorExclude(exclude=["meta"])},
        "server's": {"consistency": "majority", "timeout": 3, "shard_key_selector": "a"},
    }
    for label, options in more.items():
        found[f"query with {label}"] = ("query_points", ("points", 5), {"using": "hysac", "limit": 5} | options)
    fusion = models.FusionQuery(fusion=models.Fusion.RRF)
    found["fusion"] = ("query_points", ("points",), {"query": fusion, "prefetch": [stage, nested], "limit": 5})
    formula = models.FormulaQuery(formula=models.SumExpression(sum=["$score", "n"]))
    found["formula"] = ("query_points", ("points",), {"query": formula, "prefetch": stage, "limit": 5})
    request = models.QueryRequest(query=vector, using="hysac", limit=4, with_payload=True)
    lean = models.QueryRequest(query=7, using="hysac", filter=k1, with_vector=True)
    found["batch"] = ("query_batch_points", ("points", [request, lean]), {})
    found["batch by name"] = ("query_batch_points", (), {"collection_name": "points", "requests": (request,)})
    groups = {"using": "hysac", "limit": 3, "group_size": 2}
    found["groups"] = ("query_points_groups", ("points", "k", vector), groups)
    found["groups of a list"] = ("query_points_groups", ("points", "meta.tags[]", 3), groups | {"query_filter": k1})
    found["groups and lookup"] = ("query_points_groups", ("points", "n", vector), groups | {"with_lookup": "points"})
    lookup = models.WithLookup(collection="points", with_payload=["title"], with_vectors=False)
    found["groups and fields"] = ("query_points_groups", ("points", "n", vector), groups | {"with_lookup": lookup})
    pages: list[dict[str, Any]] = [
        {},
        {"limit": 5},
        {"limit": 5, "offset": 5},
        {"limit": N},
        {"scroll_filter": k1, "limit": 2},
        {"order_by": models.OrderBy(key="n", start_from=4), "limit": 3},
        {"order_by": "n"},
        {"with_payload": ["n"], "with_vectors": True},
        {"with_payload": False},
    ]
    for row, options in enumerate(pages):
        found[f"scroll {row}"] = ("scroll", ("points",), options)
    found["retrieve"] = ("retrieve", ("points", [3, 1, 3, 99, 2]), {})
    found["retrieve nothing"] = ("retrieve", ("points", []), {})
    found["retrieve parts"] = ("retrieve", ("points", (1, 2)), {"with_payload": ["title"], "with_vectors": ["hysac"]})
    found["count"] = ("count", ("points",), {})
    found["count some"] = ("count", ("points", k1), {"exact": True})
    found["facet"] = ("facet", ("points", "k"), {"limit": 2})
    found["facet of some"] = ("facet", ("points", "title", k1), {"exact": True})
    sample = {"limit": 3, "sample": N, "using": "hysac"}
    found["pairs"] = ("search_matrix_pairs", ("points",), sample)
    found["offsets"] = ("search_matrix_offsets", ("points", k1), sample)
    return found


def unordered(answer: Any) -> Any:
    """An answer as values; a matrix is made of points in any order."""
    if isinstance(answer, models.SearchMatrixPairsResponse):
        return sorted((pair.a, pair.b, pair.score) for pair in answer.pairs)
    if isinstance(answer, models.SearchMatrixOffsetsResponse):
        rows, columns, ids = answer.offsets_row, answer.offsets_col, answer.ids
        return sorted((ids[a], ids[b], s) for a, b, s in zip(rows, columns, answer.scores, strict=True))
    return answer


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
def test_every_method_and_form_answers_as_the_client_does(index: Index) -> None:
    client: QdrantClient = index.store.client  # type: ignore[attr-defined]
    safe, tried = SafeQdrantClient(client), set[str]()
    for label, (method, args, options) in forms(index).items():
        tried.add(method)
        plain = getattr(client, method)(*args, **options)
        guarded = getattr(safe, method)(*args, **options)
        assert type(guarded) is type(plain), label
        if label == "query context":  # many score alike, and come in any order
            guarded, plain = (sorted((one.score, one.id) for one in found.points) for found in (guarded, plain))
        assert unordered(guarded) == unordered(plain), label
    assert tried == {*METHODS}


DICTIONARIES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any]]] = {
    "filter": (
        "scroll",
        ("points",),
        {"scroll_filter": {"must": [{"key": "k", "match": {"value": 1}}]}},
        {"scroll_filter": models.Filter(must=[match("k", 1)])},
    ),
    "params": (
        "query_points",
        ("points", 3),
        {"using": "hysac", "search_params": {"exact": True, "hnsw_ef": 9}},
        {"using": "hysac"},
    ),
    "prefetch": (
        "query_points",
        ("points", 3),
        {"using": "hysac", "prefetch": {"query": 4, "using": "hysac", "limit": 3}},
        {"using": "hysac", "prefetch": models.Prefetch(query=4, using="hysac", limit=3)},
    ),
    "lookup": (
        "query_points",
        ("points", 3),
        {"using": "hysac", "lookup_from": {"collection": "points"}},
        {"using": "hysac"},
    ),
    "order": ("scroll", ("points",), {"order_by": {"key": "n"}}, {"order_by": "n"}),
    "payload": (
        "scroll",
        ("points",),
        {"with_payload": {"exclude": ["n"]}},
        {"with_payload": models.PayloadSelectorExclude(exclude=["n"])},
    ),
}


@pytest.mark.filterwarnings("ignore:Local mode performs exact")
@pytest.mark.parametrize("case", DICTIONARIES)
def test_a_model_may_be_given_as_a_dictionary(index: Index, case: str) -> None:
    method, args, given, same = DICTIONARIES[case]
    client: QdrantClient = index.store.client  # type: ignore[attr-defined]
    assert getattr(SafeQdrantClient(client), method)(*args, **given) == getattr(client, method)(*args, **same)


def test_clients_are_context_managers_that_close_what_they_guard(tmp_path: Path) -> None:
    client = QdrantClient(":memory:")
    with SafeQdrantClient(client) as safe:
        assert safe.get_collections().collections == []
    with pytest.raises(RuntimeError, match="closed"):
        client.get_collections()

    async def check() -> None:
        other = AsyncQdrantClient(":memory:")
        async with AsyncSafeQdrantClient(other) as safe:
            assert (await safe.get_collections()).collections == []
        with pytest.raises(RuntimeError, match="closed"):
            await other.get_collections()

    asyncio.run(check())


class LyingRequest(models.QueryRequest):
    def model_copy(self, **_: Any) -> Any:
        return self

    def __deepcopy__(self, memo: Any = None) -> Any:
        return self


class LyingPrefetch(models.Prefetch):
    def model_copy(self, **_: Any) -> Any:
        return self


class LyingFilter(models.Filter):
    def model_copy(self, **_: Any) -> Any:
        return models.Filter()

    def __deepcopy__(self, memo: Any = None) -> Any:
        for known in list((memo or {}).values()):
            if isinstance(known, list):
                known.clear()
        return models.Filter()


class LyingName(str):
    """The name of a collection that is equal to any other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("points")


class Changing(dict[str, Any]):
    """A mapping that is another one at every second look."""

    looks = 0

    def __getitem__(self, key: str) -> Any:
        self.looks += 1
        return super().__getitem__(key) if self.looks % 2 else []

    def items(self) -> Any:
        return {}.items()


def lies(vector: list[float]) -> dict[str, Callable[[Any], Any]]:
    widest: dict[str, Any] = {"should": [{}]}
    return {
        "request": lambda c: c.query_batch_points("points", [LyingRequest(query=vector, using="hysac", limit=99)]),
        "prefetch": lambda c: [
            c.query_points(
                "points",
                models.FusionQuery(fusion=models.Fusion.RRF),
                prefetch=LyingPrefetch(query=vector, using="hysac", limit=99),
                limit=99,
            )
        ],
        "filter": lambda c: [c.query_points("points", query_filter=LyingFilter(should=[models.Filter()]), limit=99)],
        "inner filter": lambda c: [
            c.query_points("points", query_filter=models.Filter(must=[LyingFilter()]), limit=99)
        ],
        "name": lambda c: [c.query_points(LyingName("points"), limit=99)],
        "mapping": lambda c: [c.query_points("points", query_filter=Changing(widest), limit=99)],
    }


@pytest.mark.parametrize("case", lies([]))
def test_objects_that_lie_are_taken_as_the_values_that_they_hold(case: str, tmp_path: Path) -> None:
    with index_on("memory", tmp_path) as mixed:
        mixed.upsert(range(5), random_points(5, low=1.5, high=1.6), modality="text")
        mixed.upsert(range(5, 9), random_points(4, low=3.4), modality="text")
        vector = mixed.collection.lift.lift_query(random_points(1, seed=9))[0].tolist()
        client: QdrantClient = mixed.store.client  # type: ignore[attr-defined]
        safe = SafeQdrantClient(client)
        for _ in range(2):  # whatever the first call may have left behind
            found = lies(vector)[case](safe)
            assert {point.id for answer in found for point in answer.points} == set(range(5))
            assert [record.id for record in safe.scroll("points")[0]] == list(range(5))
