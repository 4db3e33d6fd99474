"""What a guarded client hands on is held to its payload, and shows what the caller asked for and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from httpx import Headers
from pydantic_core import to_jsonable_python
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from support.awaited import KINDS, guards
from support.qdrant_server import QDRANT
from support.spaces import CURVATURE, DIM, index_on, profile, random_points

from hysac_retrieval import Guard
from hysac_retrieval.collection.index import Index
from hysac_retrieval.errors import NotACollectionError, PointNotFoundError
from hysac_retrieval.safety.policy import LabelRule, SafetyPolicy

SAFE, UNSAFE = [1, 2, 3, 4, 5, 6], [11, 12, 13]
ODD = [21, 22, 23, 24]


@pytest.fixture(params=["memory", "rest", "grpc", *QDRANT])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
    """Safe points, unsafe ones, and ones that the condition lets pass: their score, model or verdict is a list."""
    with index_on(request.param, tmp_path, index_fields={"hysac.radius": "float"}) as made:
        rows = [{"k": id % 2, "title": f"t{id}", "meta": {"label": "a", "n": id}} for id in SAFE]
        made.upsert(SAFE, random_points(len(SAFE), low=1.5, high=1.6), modality="text", payloads=rows)
        made.upsert(UNSAFE, random_points(len(UNSAFE), seed=3, low=3.4), modality="text", payloads=rows[:3])
        own = made.metadata.fingerprint
        good: dict[str, Any] = {"unsafe": 0.0, "model": own, "safe": {own: True}, "modality": "text", "radius": 1.0}
        odd = [good | {"unsafe": [0.0]}, good | {"model": [own]}, good | {"safe": {own: [True]}}, good | {"unsafe": []}]
        payloads = [{"k": 1, "title": "odd", "meta": {"label": "a"}, "hysac": one} for one in odd]
        vectors = made.collection.lift.lift(random_points(len(ODD), seed=4, low=1.5, high=1.6))
        made.store.upsert(made.name, ODD, vectors, payloads)
        yield made


Made = tuple[Any, Callable[..., Any]]


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, index: Index) -> Iterator[Made]:
    """The client that guards ask, a blocking one or an asynchronous one, and what makes guards of it."""
    with guards(request.param, index.store.client) as made:  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def safe(both: Made) -> Any:
    return both[1]()


def vector(index: Index) -> list[float]:
    found: list[float] = index.collection.lift.lift_query(random_points(1, seed=9))[0].tolist()
    return found


def test_a_list_in_place_of_a_value_is_not_handed_on(safe: Any, index: Index) -> None:
    point = vector(index)
    assert [p.id for p in safe.scroll("points", limit=99)[0]] == SAFE
    assert [p.id for p in safe.retrieve("points", [*ODD, 1])] == [1]
    assert {p.id for p in safe.query_points("points", point, using="hysac", limit=99).points} == {*SAFE}
    (answer,) = safe.query_batch_points("points", [models.QueryRequest(query=point, using="hysac", limit=99)])
    assert {p.id for p in answer.points} == {*SAFE}
    groups = safe.query_points_groups("points", "title", point, using="hysac", limit=99).groups
    assert {hit.id for group in groups for hit in group.hits} == {*SAFE}
    assert {*safe.search_matrix_offsets("points", using="hysac", sample=99).ids} == {*SAFE}
    pairs = safe.search_matrix_pairs("points", using="hysac", sample=99, limit=99).pairs
    assert {p.a for p in pairs} | {p.b for p in pairs} == {*SAFE}
    for identity in ODD:
        with pytest.raises(PointNotFoundError):
            safe.query_points("points", identity, using="hysac")


def test_what_falls_away_leaves_no_gap(safe: Any, index: Index) -> None:
    point = vector(index)
    everything = safe.query_points("points", point, using="hysac", limit=99).points
    for limit in range(1, 7):
        found = safe.query_points("points", point, using="hysac", limit=limit).points
        assert [p.id for p in found] == [p.id for p in everything][:limit]
    assert len(safe.query_points_groups("points", "k", point, using="hysac", limit=2, group_size=3).groups[0].hits) == 3
    assert len(safe.scroll("points", order_by="hysac.radius", limit=6)[0]) in (0, 6)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 9])
def test_pages_go_on_to_the_end_and_begin_with_a_safe_point(safe: Any, index: Index, limit: int) -> None:
    lifted = index.collection.lift.lift(random_points(3, seed=8, low=1.5, high=1.6))
    odd = index.store.retrieve("points", [21])[0].payload
    index.store.upsert("points", [0, 7, 8], lifted, [odd] * 3)
    index.upsert([30], random_points(1, low=1.5, high=1.6), modality="text")
    seen: list[Any] = []
    offset = None
    while True:
        page, offset = safe.scroll("points", limit=limit, offset=offset)
        assert len(page) == limit or offset is None
        seen += [record.id for record in page]
        if offset is None:
            break
        assert offset in SAFE or offset == 30
    assert seen == [*SAFE, 30]


class _Refusal(grpc.RpcError):  # type: ignore[misc]
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("over", ["REST", "gRPC"])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 9])
def test_strict_mode_that_allows_what_is_asked_for_is_enough(
    both: Made, safe: Any, limit: int, over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = both[0].scroll

    def strict(*args: Any, **kwargs: Any) -> Any:
        if kwargs["limit"] > limit:
            content = b'{"status": {"error": "Bad request: Limit exceeded"}}'
            raise _Refusal if over == "gRPC" else UnexpectedResponse(400, "Bad Request", content, Headers())
        return plain(*args, **kwargs)

    monkeypatch.setattr(both[0], "scroll", strict)
    seen: list[Any] = []
    offset = None
    while True:
        page, offset = safe.scroll("points", limit=limit, offset=offset)
        assert len(page) == min(limit, len(SAFE) - len(seen))
        seen += [record.id for record in page]
        if offset is None:
            break
        assert offset in SAFE
    assert seen == SAFE
    assert [p.id for p in safe.retrieve("points", [*ODD, 6, 1, 5, 1])] == [6, 1, 5, 1]
    with pytest.raises((UnexpectedResponse, grpc.RpcError)):
        safe.scroll("points", limit=limit + 1)


SELECTIONS: list[Any] = [
    True,
    False,
    [],
    ["title"],
    ["title", "meta.n"],
    ["hysac.unsafe"],
    ["hysac"],
    ["meta", "hysac.model", "nothing"],
    models.PayloadSelectorInclude(include=["k", "hysac.safe"]),
    models.PayloadSelectorExclude(exclude=["title"]),
    models.PayloadSelectorExclude(exclude=["hysac"]),
    models.PayloadSelectorExclude(exclude=["hysac.unsafe", "meta.n"]),
    models.PayloadSelectorExclude(exclude=[]),
]


def bare(reply: Any) -> Any:
    """A reply as plain values; over gRPC keys come in any order, and ``{}`` for a payload that was not asked for."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        if isinstance(value, dict):
            return {key: None if (key, one) == ("payload", {}) else plain(one) for key, one in value.items()}
        return value

    return plain(to_jsonable_python(reply))


@pytest.mark.parametrize("shown", SELECTIONS, ids=str)
@pytest.mark.parametrize("key", ["meta.label", "k", "title"])
def test_a_caller_sees_of_a_payload_what_it_asked_for(index: Index, both: Made, shown: Any, key: str) -> None:
    client: QdrantClient = index.store.client  # type: ignore[attr-defined]
    rule = LabelRule(key, deny=("weapon",) if key != "k" else (9,))
    safe, point = both[1](SafetyPolicy(rules=(rule,))), vector(index)
    only = models.Filter(must=[models.HasIdCondition(has_id=[*SAFE])])
    wanted = client.scroll("points", only, with_payload=shown)[0]
    assert bare(safe.scroll("points", with_payload=shown)[0]) == bare(wanted)
    assert bare(safe.retrieve("points", SAFE, with_payload=shown)) == bare(wanted)
    plain = client.query_points("points", point, using="hysac", query_filter=only, with_payload=shown)
    assert bare(safe.query_points("points", point, using="hysac", with_payload=shown)) == bare(plain)
    request = models.QueryRequest(query=point, using="hysac", filter=only, with_payload=shown)
    batch = client.query_batch_points("points", [request])
    assert bare(safe.query_batch_points("points", [request])) == bare(batch)
    groups = {"group_by": "k", "query": point, "using": "hysac", "query_filter": only, "with_payload": shown}
    assert bare(safe.query_points_groups("points", **groups)) == bare(client.query_points_groups("points", **groups))


def test_a_rule_is_held_to_the_payload_too(index: Index, both: Made) -> None:
    """An index holds labels of one type, so that an engine may not see the others of a list."""
    client: QdrantClient = index.store.client  # type: ignore[attr-defined]
    rule = LabelRule("meta.label", allow=("a",))
    safe = both[1](SafetyPolicy(rules=(rule,)))
    client.set_payload("points", {"label": ["a", 1.5]}, [1], key="meta")
    client.set_payload("points", {"label": "b"}, [2], key="meta")
    assert [record.id for record in safe.scroll("points")[0]] == SAFE[2:]
    assert Guard.of(index.metadata, SafetyPolicy(rules=(rule,))).admits(client.retrieve("points", [3])[0].payload or {})


@pytest.fixture
def two(index: Index) -> Iterator[Index]:
    """A second guarded collection with the same ids, in which point 2 is unsafe; a third that is not guarded."""
    client: QdrantClient = index.store.client  # type: ignore[attr-defined]
    with Index.create("other", dim=DIM, curvature=CURVATURE, safety=profile(), client=client) as other:
        other.upsert([1], random_points(1, low=1.5, high=1.6), modality="text", payloads=[{"name": "one"}])
        other.upsert([2], random_points(1, low=3.4, high=3.5), modality="text", payloads=[{"name": "two"}])
        client.create_collection("bare", {"hysac": client.get_collection("other").config.params.vectors["hysac"]})  # type: ignore[index]
        client.upsert("bare", [models.PointStruct(id=1, vector={"hysac": vector(index)}, payload={"name": "bare"})])
        client.update_collection_aliases(
            [
                models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))
                for name, alias in (("points", "same"), ("other", "else"))
            ]
        )
        yield other


@pytest.mark.parametrize("place", ["points", "same", "other", "else"])
def test_examples_may_be_looked_up_in_any_guarded_collection(safe: Any, two: Index, place: str) -> None:
    client: QdrantClient = two.store.client  # type: ignore[attr-defined]
    only = models.Filter(must=[models.HasIdCondition(has_id=[*SAFE])])
    for there in (models.LookupLocation(collection=place), {"collection": place, "vector": "hysac"}):
        found = safe.query_points("points", 1, using="hysac", lookup_from=there).points
        where = models.LookupLocation(collection=place)
        plain = client.query_points("points", 1, using="hysac", query_filter=only, lookup_from=where).points
        assert [p.id for p in found] == [p.id for p in plain]
        with pytest.raises(PointNotFoundError):
            safe.query_points("points", 11 if place in ("points", "same") else 2, using="hysac", lookup_from=there)
    inner = models.Prefetch(query=2, using="hysac", lookup_from=models.LookupLocation(collection="else"))
    with pytest.raises(PointNotFoundError):
        safe.query_points("points", vector(two), using="hysac", prefetch=inner)


def test_examples_of_a_collection_without_scores_are_refused(safe: Any, two: Index) -> None:
    with pytest.raises(NotACollectionError):
        safe.query_points("points", 1, using="hysac", lookup_from=models.LookupLocation(collection="bare"))
    with pytest.raises(NotACollectionError):
        safe.query_points_groups("points", "meta.n", vector(two), using="hysac", with_lookup="bare")


@pytest.mark.parametrize("place", ["other", "else"])
def test_groups_show_what_is_safe_in_the_collection_looked_up(safe: Any, two: Index, place: str) -> None:
    for lookup in (place, models.WithLookup(collection=place, with_payload=["name"]), {"collection": place}):
        groups = safe.query_points_groups("points", "meta.n", vector(two), using="hysac", with_lookup=lookup).groups
        found = {group.id: group.lookup for group in groups}
        assert {*found} == {*SAFE}
        assert getattr(found[1], "id", None) == 1
        assert all(found[other] is None for other in SAFE[1:])  # 2 is unsafe, the others are not there
